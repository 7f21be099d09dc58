//! Static roles: logins that somebody else made, for what cannot do with logins that come and go. The vault keeps their
//! passwords and changes them on schedule.
//!
//! Invariant: of every password that a login may have, one is kept as what it had and at most one as what it gets; the steps of
//! a rotation are taken in their order, and only a tested password becomes the one that is handed out to both old and new
//! holders. Absent: making or removing the login, and what it may do.

use serde::{Deserialize, Serialize};

use crate::id::RecordId;
use crate::lease::{Backoff, LONGEST_PAUSE};
use crate::name::Name;
use crate::rights::postgres::PgName;
use crate::role::OnExcess;
use crate::target::TargetKind;
use crate::time::{Ttl, UnixMillis};

/// Passwords are changed no more often than this, in seconds.
pub const MIN_PERIOD_SECS: u64 = 60;
/// And no less often, in seconds: 400 days.
pub const MAX_PERIOD_SECS: u64 = 400 * 86_400;

/// The logins of a static role, as its target names them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StaticLogins {
    /// In a PostgreSQL server.
    Postgres {
        /// The only one, or the one that is handed out first.
        first: PgName,
        /// The other one: the two take turns, so that what was handed out before a rotation works until the next.
        second: Option<PgName>,
    },
}

/// Which of a role's logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    /// The first.
    First,
    /// The second.
    Second,
}

impl Which {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

impl StaticLogins {
    /// For which kind of target.
    pub const fn kind(&self) -> TargetKind {
        match self {
            Self::Postgres { .. } => TargetKind::Postgres,
        }
    }

    /// The name of one of them, if there is that one.
    pub fn name(&self, which: Which) -> Option<&str> {
        let Self::Postgres { first, second } = self;
        match which {
            Which::First => Some(first.as_str()),
            Which::Second => second.as_ref().map(PgName::as_str),
        }
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [Which::First, Which::Second].into_iter().filter_map(|which| self.name(which))
    }

    /// Whether two take turns.
    pub const fn alternate(&self) -> bool {
        let Self::Postgres { second, .. } = self;
        second.is_some()
    }
}

/// How far a rotation is. Each step is in the store before the next is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// The new password is kept; the target may have heard of it.
    Created,
    /// The target has taken it.
    Set,
    /// The login was tried with it and got in.
    Tested,
}

/// A rotation that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// Of which login.
    pub which: Which,
    /// How far it is.
    pub step: Step,
    /// Since when.
    pub begun: UnixMillis,
    /// Tries that failed.
    pub failures: u32,
    /// Not tried again before, by the time of leases.
    pub next_try: UnixMillis,
}

/// Which password counts, and when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The login that is handed out.
    pub current: Which,
    /// Changes of the password that is handed out; 0 while it is the one that the vault was given first.
    pub version: u64,
    /// When the last one ended.
    pub rotated: Option<UnixMillis>,
    /// When the next one is due, by the time of leases; nothing if only when somebody asks.
    pub next: Option<UnixMillis>,
    /// One that is under way.
    pub under_way: Option<Rotation>,
    /// What the last try that failed said, until one gets on.
    pub last_error: Option<String>,
}

/// What a holder gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOut {
    /// The password that this login has had.
    Kept(Which),
    /// The password that it is getting: the target has taken it already.
    Pending(Which),
}

impl Schedule {
    /// Of a role that is defined at `now`.
    pub fn new(period: Option<Ttl>, now: UnixMillis) -> Self {
        let next = period.map(|period| now.plus(period));
        Self { current: Which::First, version: 0, rotated: None, next, under_way: None, last_error: None }
    }

    /// Another period counts from the last rotation, or from now if there was none.
    pub fn reschedule(&mut self, period: Option<Ttl>, now: UnixMillis) {
        let from = self.rotated.unwrap_or(now);
        self.next = period.map(|period| from.plus(period).max(now));
    }

    /// Begins a rotation of the login whose turn it is. One that is under way goes on instead.
    pub fn begin(&mut self, logins: &StaticLogins, now: UnixMillis) -> Which {
        if let Some(rotation) = &self.under_way {
            return rotation.which;
        }
        let which = if logins.alternate() { self.current.other() } else { self.current };
        self.under_way =
            Some(Rotation { which, step: Step::Created, begun: now, failures: 0, next_try: now });
        which
    }

    /// Takes the next step; says whether there was one to take. None is passed over, and none is taken back.
    pub fn advance(&mut self, to: Step) -> bool {
        let Some(rotation) = &mut self.under_way else { return false };
        let follows = matches!((rotation.step, to), (Step::Created, Step::Set) | (Step::Set, Step::Tested));
        if follows {
            rotation.step = to;
            rotation.failures = 0;
            self.last_error = None;
        }
        follows
    }

    /// A try failed. One that could not even begin is due again after the longest pause of those that pass by themselves, and
    /// one that only a person can mend after an hour, so that a target that counts refused passwords is not asked in vain.
    pub fn failed(&mut self, error: String, passing: bool, now: UnixMillis, jitter: u8) {
        const FOR_A_PERSON: u64 = 60 * 60 * 1000;
        self.last_error = Some(error);
        let Some(rotation) = &mut self.under_way else {
            if self.next.is_some_and(|next| next.has_come(now)) {
                self.next = Some(UnixMillis(now.0.saturating_add(LONGEST_PAUSE)));
            }
            return;
        };
        rotation.failures = rotation.failures.saturating_add(1);
        let pause =
            if passing { Backoff { failures: rotation.failures }.pause(jitter) } else { FOR_A_PERSON };
        rotation.next_try = UnixMillis(now.0.saturating_add(pause));
    }

    /// Gives up a rotation of this login: somebody else set its password. Says whether there was one.
    pub fn give_up(&mut self, which: Which) -> bool {
        self.under_way.take_if(|rotation| rotation.which == which).is_some()
    }

    /// Somebody gave the vault another password of this login.
    pub fn given(&mut self, which: Which) {
        self.last_error = None;
        if which == self.current {
            self.version = self.version.saturating_add(1);
        }
    }

    /// Ends a rotation that was tested; says whether there was one.
    pub fn finish(&mut self, period: Option<Ttl>, now: UnixMillis) -> bool {
        match self.under_way.take() {
            Some(rotation) if rotation.step == Step::Tested => {
                self.current = rotation.which;
                self.version = self.version.saturating_add(1);
                (self.rotated, self.last_error) = (Some(now), None);
                self.next = period.map(|period| now.plus(period));
                true
            }
            other => {
                self.under_way = other;
                false
            }
        }
    }

    /// What a holder gets now. Of two logins it is the one whose turn it is not, which works all the time; an only one has
    /// the new password from the moment that the target took it.
    pub fn handed_out(&self) -> HandOut {
        match &self.under_way {
            Some(rotation) if rotation.which == self.current && rotation.step >= Step::Set => {
                HandOut::Pending(rotation.which)
            }
            _ => HandOut::Kept(self.current),
        }
    }

    /// The number of the password that is handed out: another number, another password.
    pub fn handed_out_version(&self) -> u64 {
        match self.handed_out() {
            HandOut::Kept(_) => self.version,
            HandOut::Pending(_) => self.version.saturating_add(1),
        }
    }

    /// When there is something to do next; nothing if only when somebody asks.
    pub fn due(&self) -> Option<UnixMillis> {
        self.under_way.as_ref().map_or(self.next, |rotation| Some(rotation.next_try))
    }
}

/// A static role as stored, without passwords.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticRoleRecord {
    /// Its own id.
    pub id: RecordId,
    /// Its name.
    pub name: Name,
    /// The target, by name and id.
    pub target: Name,
    /// The target's id when the role was defined.
    pub target_id: RecordId,
    /// Its logins.
    pub logins: StaticLogins,
    /// How long a password stays, from [`MIN_PERIOD_SECS`] to [`MAX_PERIOD_SECS`]; nothing if until somebody asks.
    pub period: Option<Ttl>,
    /// What happens when a login is more than a login.
    pub on_excess: OnExcess,
    /// When it was first defined.
    pub created: UnixMillis,
    /// When this definition was written.
    pub changed: UnixMillis,
    /// Which password counts, and when it changes.
    pub schedule: Schedule,
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn logins(alternate: bool) -> StaticLogins {
        let second = alternate.then(|| PgName::parse("app_b").unwrap());
        StaticLogins::Postgres { first: PgName::parse("app_a").unwrap(), second }
    }

    fn day() -> Option<Ttl> {
        Some(Ttl::from_secs(86_400).unwrap())
    }

    fn at(seconds: u64) -> UnixMillis {
        UnixMillis(NOW.0 + seconds * 1000)
    }

    #[test]
    fn steps_are_taken_in_their_order_and_none_twice() {
        let mut schedule = Schedule::new(day(), NOW);
        assert!(!schedule.advance(Step::Set), "nothing is under way");
        schedule.begin(&logins(false), at(1));
        assert!(!schedule.advance(Step::Tested), "an untried password");
        assert!(!schedule.finish(day(), at(2)), "a password that the target has not taken");
        assert!(schedule.advance(Step::Set));
        assert!(!schedule.advance(Step::Set));
        assert!(!schedule.finish(day(), at(2)), "a password that was not tested");
        assert!(schedule.advance(Step::Tested));
        assert!(schedule.finish(day(), at(2)));
        assert_eq!((schedule.version, schedule.rotated, schedule.next), (1, Some(at(2)), Some(at(86_402))));
        assert!(!schedule.finish(day(), at(3)));
    }

    #[test]
    fn an_only_login_hands_out_the_new_password_from_when_the_target_took_it() {
        let mut schedule = Schedule::new(day(), NOW);
        schedule.begin(&logins(false), NOW);
        assert_eq!(schedule.handed_out(), HandOut::Kept(Which::First));
        schedule.advance(Step::Set);
        assert_eq!(schedule.handed_out(), HandOut::Pending(Which::First));
        assert_eq!(schedule.handed_out_version(), 1, "another password, another number");
        schedule.advance(Step::Tested);
        schedule.finish(day(), NOW);
        assert_eq!(schedule.handed_out(), HandOut::Kept(Which::First));
    }

    #[test]
    fn of_two_logins_the_one_that_is_handed_out_is_never_the_one_that_changes() {
        let mut schedule = Schedule::new(day(), NOW);
        for turn in 0..4_u64 {
            let before = schedule.current;
            let which = schedule.begin(&logins(true), NOW);
            assert_eq!(which, before.other());
            for step in [Step::Set, Step::Tested] {
                assert_eq!(schedule.handed_out(), HandOut::Kept(before));
                assert!(schedule.advance(step));
            }
            assert!(schedule.finish(day(), NOW));
            assert_eq!((schedule.handed_out(), schedule.version), (HandOut::Kept(which), turn + 1));
        }
    }

    #[test]
    fn a_rotation_that_fails_is_tried_less_and_less_often_and_never_given_up() {
        let mut schedule = Schedule::new(None, NOW);
        assert_eq!(schedule.due(), None);
        schedule.begin(&logins(false), NOW);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            schedule.failed("it is away".to_owned(), true, NOW, 0);
            pauses.push(schedule.due().unwrap().millis_since(NOW));
        }
        assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        schedule.failed("refused".to_owned(), false, NOW, 0);
        assert_eq!(schedule.due(), Some(at(3_600)), "a person has to look");
        schedule.advance(Step::Set);
        assert_eq!(
            (schedule.under_way.unwrap().failures, schedule.last_error),
            (0, None),
            "a step was taken"
        );
    }

    #[test]
    fn a_password_that_was_given_anew_has_another_number_if_it_is_handed_out() {
        let mut schedule = Schedule::new(day(), NOW);
        schedule.given(Which::Second);
        assert_eq!(schedule.handed_out_version(), 0);
        schedule.given(Which::First);
        assert_eq!(schedule.handed_out_version(), 1);
    }

    #[test]
    fn a_rotation_that_could_not_begin_is_not_due_at_once_again() {
        let mut schedule = Schedule::new(day(), NOW);
        schedule.failed("no HSM".to_owned(), true, at(1), 0);
        assert_eq!(schedule.due(), Some(at(86_400)), "asked for by hand");
        schedule.failed("no HSM".to_owned(), true, at(86_400), 0);
        assert_eq!(schedule.due(), Some(at(86_460)));
        let mut by_hand = Schedule::new(None, NOW);
        by_hand.failed("no HSM".to_owned(), true, at(1), 0);
        assert_eq!(by_hand.due(), None);
    }

    #[test]
    fn another_period_counts_from_the_last_rotation_and_is_never_in_the_past() {
        let mut schedule = Schedule::new(day(), NOW);
        schedule.reschedule(Some(Ttl::from_secs(60).unwrap()), at(600));
        assert_eq!(schedule.next, Some(at(660)));
        schedule.rotated = Some(NOW);
        schedule.reschedule(Some(Ttl::from_secs(60).unwrap()), at(600));
        assert_eq!(schedule.next, Some(at(600)));
        schedule.reschedule(None, at(600));
        assert_eq!(schedule.next, None);
    }
}
