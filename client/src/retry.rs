//! What is repeated, and how long to wait before. Pure but for the jitter.
//!
//! Only reads, and writes that carry a request id, are repeated: after a lost connection, `UNAVAILABLE`, or a limit that
//! names a time. "Sealed" is never repeated: people end it.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use crate::error::Error;

/// How often and how patiently safe calls are repeated; the deadline of the call bounds it all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all; 1 repeats nothing.
    pub attempts: u32,
    /// The longest wait before the second try; doubles for each further one.
    pub first_delay: Duration,
    /// Waits grow no longer than this, unless the server names a time.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 4, first_delay: Duration::from_millis(100), max_delay: Duration::from_secs(2) }
    }
}

/// Whether a call may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A read, or a write with a request id.
    Safe,
    /// Twice might be once too often.
    Never,
}

impl RetryPolicy {
    /// How long to wait after try number `tries` (from 1) ended in `error`, or `None` to give up.
    pub(crate) fn delay(&self, repeat: Repeat, tries: u32, error: &Error) -> Option<Duration> {
        if repeat == Repeat::Never || tries >= self.attempts {
            return None;
        }
        let asked = match error {
            Error::Connect { .. } => None,
            Error::Unavailable { retry_after, .. } => *retry_after,
            Error::LimitExceeded { retry_after: Some(after), .. } => Some(*after),
            _ => return None,
        };
        let longest = self
            .first_delay
            .saturating_mul(1_u32.checked_shl(tries - 1).unwrap_or(u32::MAX))
            .min(self.max_delay);
        let jitter = longest.mul_f64(fraction());
        Some(asked.map_or(jitter, |asked| asked.saturating_add(jitter)))
    }
}

/// From 0 to 1, different each time.
pub(crate) fn fraction() -> f64 {
    let random = RandomState::new().hash_one(0_u8);
    f64::from(u32::try_from(random >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal;

    fn refusal() -> Box<Refusal> {
        Box::new(Refusal {
            code: tonic::Code::Unavailable,
            reason: String::new(),
            message: String::new(),
            metadata: std::collections::BTreeMap::new(),
            fields: Vec::new(),
            preconditions: Vec::new(),
            retry_after: None,
        })
    }

    #[test]
    fn only_what_is_safe_and_passing_is_repeated() {
        let policy = RetryPolicy::default();
        let unavailable = Error::Unavailable { retry_after: None, refusal: refusal() };
        assert!(policy.delay(Repeat::Safe, 1, &unavailable).is_some());
        assert_eq!(policy.delay(Repeat::Never, 1, &unavailable), None);
        assert_eq!(policy.delay(Repeat::Safe, 4, &unavailable), None);
        for error in [
            Error::Sealed(refusal()),
            Error::NotFoundOrDenied(refusal()),
            Error::Conflict(refusal()),
            Error::Server(refusal()),
            Error::DeadlineExceeded { after: Duration::from_secs(1) },
            Error::LimitExceeded { retry_after: None, refusal: refusal() },
        ] {
            assert_eq!(policy.delay(Repeat::Safe, 1, &error), None, "{error:?}");
        }
    }

    #[test]
    fn waits_grow_with_jitter_and_stay_bounded() {
        let policy = RetryPolicy { attempts: 100, ..RetryPolicy::default() };
        let error = Error::Unavailable { retry_after: None, refusal: refusal() };
        for tries in 1..100 {
            let longest =
                Duration::from_millis(100).saturating_mul(1 << (tries - 1).min(5)).min(policy.max_delay);
            assert!(policy.delay(Repeat::Safe, tries, &error).unwrap() <= longest);
        }
        let first = policy.delay(Repeat::Safe, 9, &error);
        assert!((0..20).any(|_| policy.delay(Repeat::Safe, 9, &error) != first));
    }

    #[test]
    fn a_time_named_by_the_server_is_waited_for() {
        let policy = RetryPolicy::default();
        let after = Duration::from_secs(7);
        let error = Error::Unavailable { retry_after: Some(after), refusal: refusal() };
        assert!(policy.delay(Repeat::Safe, 1, &error).unwrap() >= after);
        let error = Error::LimitExceeded { retry_after: Some(after), refusal: refusal() };
        assert!(policy.delay(Repeat::Safe, 1, &error).unwrap() >= after);
    }
}
