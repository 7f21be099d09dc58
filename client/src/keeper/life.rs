//! How long a credential lives, and what is due when. Pure.
//!
//! The vault's clock and this machine's are never compared: only spans between the vault's own times count, from the moment
//! before the request was sent. So a life ends here no later than in the vault.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::error::Error;
use crate::leases::Lease;

/// Steps are no closer than this, however short the lives are.
const CLOSEST: Duration = Duration::from_millis(100);
/// No life is reckoned to be longer, whatever the vault says: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// What is to be done about a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Renew,
    Replace,
}

/// A step and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) at: Instant,
    pub(super) step: Step,
}

/// One period of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// When the lease began.
    origin: Instant,
    /// When this period began.
    from: Instant,
    /// When it ends.
    pub(super) end: Instant,
    /// When the lease ends however often it is renewed.
    longest: Instant,
}

impl Life {
    /// The first period of a lease that was asked for at `sent`.
    pub(super) fn issued(sent: Instant, lease: &Lease) -> Result<Self, Error> {
        let end = after(sent, lease, lease.expires)?;
        let longest = if lease.max_expires.is_some() { after(sent, lease, lease.max_expires)? } else { end };
        Ok(Self { origin: sent, from: sent, end, longest: longest.max(end) })
    }

    /// The period after this one, which was asked for at `sent`; nothing if the lease ends no later than before.
    pub(super) fn renewed(&self, sent: Instant, lease: &Lease) -> Result<Option<Self>, Error> {
        let end = after(self.origin, lease, lease.expires)?.min(sent + lease.period.min(LONGEST));
        Ok((end > self.end).then(|| Self { from: sent, end, longest: self.longest.max(end), ..*self }))
    }

    /// What is due next: a renewal at two thirds, give or take a tenth of that, as `jitter` says, from 0 to 1. If the lease
    /// cannot have another whole period then, the next credential, early enough that this one outlives it by `grace`,
    /// but not in the first third of its own life.
    pub(super) fn plan(&self, now: Instant, grace: Duration, jitter: f64) -> Plan {
        let life = self.end - self.from;
        let jitter = if (0.0..=1.0).contains(&jitter) { jitter } else { 0.5 };
        let due = (life * 2 / 3).mul_f64(0.9 + 0.2 * jitter);
        let (offset, step) = if self.from + due + life <= self.longest {
            (due, Step::Renew)
        } else {
            (due.min(life.saturating_sub(grace)).max(life / 3), Step::Replace)
        };
        Plan { at: (self.from + offset).max(now + CLOSEST), step }
    }
}

/// A time of the lease, where `origin` is when it was begun.
fn after(origin: Instant, lease: &Lease, time: Option<SystemTime>) -> Result<Instant, Error> {
    let span = lease.issued.zip(time).and_then(|(issued, time)| time.duration_since(issued).ok());
    match span {
        Some(span) if !span.is_zero() => Ok(origin + span.min(LONGEST)),
        _ => Err(Error::MalformedAnswer { what: "a lease ends before it begins" }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use keystead_proto::v1;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn lease(period: u64, expires: u64, longest: u64) -> Lease {
        let begun = UNIX_EPOCH + seconds(1_000_000);
        Lease {
            issued: Some(begun),
            period: seconds(period),
            expires: Some(begun + seconds(expires)),
            max_expires: Some(begun + seconds(longest)),
            ..Lease::from(v1::Lease::default())
        }
    }

    #[test]
    fn a_renewal_is_due_at_two_thirds_give_or_take_a_tenth() {
        let start = Instant::now();
        let life = Life::issued(start, &lease(300, 300, 3_000)).unwrap();
        for (jitter, due) in [(0.0, 180), (0.5, 200), (1.0, 220), (f64::NAN, 200), (7.0, 200)] {
            let plan = life.plan(start, GRACE, jitter);
            assert_eq!(plan.step, Step::Renew);
            let off = (plan.at - start).abs_diff(seconds(due));
            assert!(off < Duration::from_millis(1), "{jitter}: {plan:?}");
        }
    }

    #[test]
    fn a_period_that_would_be_cut_short_is_not_begun() {
        let start = Instant::now();
        let whole = Life::issued(start, &lease(300, 300, 500)).unwrap();
        assert_eq!(whole.plan(start, GRACE, 0.5).step, Step::Renew);
        let cut = Life::issued(start, &lease(300, 300, 499)).unwrap();
        assert_eq!(cut.plan(start, GRACE, 0.5).step, Step::Replace);
    }

    #[test]
    fn a_replacement_leaves_room_for_the_grace_but_not_in_the_first_third() {
        let start = Instant::now();
        let life = Life::issued(start, &lease(300, 300, 300)).unwrap();
        for (grace, due) in [(10, 200), (150, 150), (250, 100), (900, 100)] {
            let plan = life.plan(start, seconds(grace), 0.5);
            assert_eq!(plan, Plan { at: start + seconds(due), step: Step::Replace }, "{grace}");
        }
    }

    #[test]
    fn a_renewed_life_counts_from_when_it_was_asked_for_and_ends_at_the_longest() {
        let start = Instant::now();
        let life = Life::issued(start, &lease(300, 300, 700)).unwrap();
        let life = life.renewed(start + seconds(200), &lease(300, 505, 700)).unwrap().unwrap();
        assert_eq!(life.end, start + seconds(500), "the vault's clock is ahead by five seconds");
        let life = life.renewed(start + seconds(400), &lease(300, 650, 700)).unwrap().unwrap();
        assert_eq!(life.end, start + seconds(650), "the vault gave less than a period");
        assert_eq!(life.renewed(start + seconds(600), &lease(300, 650, 700)).unwrap(), None);
    }

    #[test]
    fn a_life_without_time_is_an_error_and_one_without_end_is_bounded() {
        let start = Instant::now();
        for bad in [lease(300, 0, 300), Lease { issued: None, ..lease(1, 1, 1) }] {
            assert!(matches!(Life::issued(start, &bad), Err(Error::MalformedAnswer { .. })), "{bad:?}");
        }
        let far = Life::issued(start, &lease(1, 1 << 36, 1 << 36)).unwrap();
        assert_eq!(far.end, start + LONGEST);
        let short = Life::issued(start, &lease(1, 1, 1)).unwrap().plan(start + seconds(5), GRACE, 0.5);
        assert_eq!(short.at, start + seconds(5) + CLOSEST);
    }

    #[test]
    fn whatever_the_times_a_step_is_due_within_the_life_and_a_renewal_gives_a_whole_period() {
        let start = Instant::now();
        for period in [1, 2, 7, 180, 5_400, 86_400] {
            for longest in [period, period + 1, period * 5 / 3, period * 2, period * 100] {
                for grace in [0, 1, 60, 100_000] {
                    for jitter in [0.0, 0.3, 1.0] {
                        let life = Life::issued(start, &lease(period, period, longest)).unwrap();
                        let plan = life.plan(start, seconds(grace), jitter);
                        let offset = plan.at - start;
                        assert!(
                            offset >= seconds(period) / 3 && offset < seconds(period) * 3 / 4,
                            "{plan:?}"
                        );
                        match plan.step {
                            Step::Renew => assert!(offset + seconds(period) <= seconds(longest), "{plan:?}"),
                            Step::Replace => {
                                let overlap = seconds(period) - offset;
                                let least = seconds(grace).min(seconds(period) / 4);
                                assert!(overlap >= least, "{plan:?}: {overlap:?}");
                            }
                        }
                    }
                }
            }
        }
    }
}
