//! Points in time, spans, and how long something may live.
//!
//! Invariant: a [`Ttl`] is never zero and nothing means "for ever"; arithmetic saturates, so it can only end
//! a life too early, never make it endless. Reading the clock is absent: every caller passes `now`.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01 UTC.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnixMillis(pub u64);

/// Seconds that something may live: 1 to [`Ttl::MAX_SECS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Ttl(NonZeroU64);

/// Why a span or an expiry can't be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Zero seconds: neither "no time" nor "for ever" is a span.
    #[error("ttl: 0 seconds is not a span; say how long")]
    ZeroTtl,
    /// Longer than any span may be.
    #[error("ttl: {seconds} seconds is more than the longest span of {} seconds", Ttl::MAX_SECS)]
    TtlTooLong {
        /// What was asked for.
        seconds: u64,
    },
    /// The last moment allowed has come.
    #[error("the last moment allowed ({}) has passed", .not_after.0)]
    Over {
        /// That moment.
        not_after: UnixMillis,
    },
}

impl UnixMillis {
    /// This moment plus a span; the end of time if it would overflow.
    pub const fn plus(self, ttl: Ttl) -> Self {
        Self(self.0.saturating_add(ttl.as_millis()))
    }

    /// Milliseconds from `earlier` to this moment; 0 if the clock went backwards.
    pub const fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether this moment has come: an expiry counts from its very millisecond.
    pub const fn has_come(self, now: Self) -> bool {
        now.0 >= self.0
    }
}

impl Ttl {
    /// 100 years: longer spans are mistakes.
    pub const MAX_SECS: u64 = 3_153_600_000;

    /// A span of this many seconds.
    pub const fn from_secs(seconds: u64) -> Result<Self, TimeError> {
        match NonZeroU64::new(seconds) {
            None => Err(TimeError::ZeroTtl),
            Some(_) if seconds > Self::MAX_SECS => Err(TimeError::TtlTooLong { seconds }),
            Some(seconds) => Ok(Self(seconds)),
        }
    }

    /// The span in seconds.
    pub const fn as_secs(self) -> u64 {
        self.0.get()
    }

    /// The span in milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0.get().saturating_mul(1000)
    }

    /// When something made at `now` ends: after this span, but never past `not_after`.
    /// An error if `not_after` has come: a remaining life of zero is an end, not a span.
    pub fn expiry(self, now: UnixMillis, not_after: UnixMillis) -> Result<UnixMillis, TimeError> {
        if not_after.has_come(now) {
            return Err(TimeError::Over { not_after });
        }
        Ok(now.plus(self).min(not_after))
    }
}

impl TryFrom<u64> for Ttl {
    type Error = TimeError;

    fn try_from(seconds: u64) -> Result<Self, TimeError> {
        Self::from_secs(seconds)
    }
}

impl From<Ttl> for u64 {
    fn from(ttl: Ttl) -> Self {
        ttl.as_secs()
    }
}

/// The span that holds: what was asked for, or the default, cut to the smallest of all maxima.
pub fn effective_ttl(requested: Option<Ttl>, default: Ttl, maxima: &[Ttl]) -> Ttl {
    maxima.iter().copied().fold(requested.unwrap_or(default), Ttl::min)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(seconds: u64) -> Ttl {
        Ttl::from_secs(seconds).unwrap()
    }

    #[test]
    fn zero_and_endless_are_no_spans() {
        assert_eq!(Ttl::from_secs(0), Err(TimeError::ZeroTtl));
        assert_eq!(Ttl::from_secs(u64::MAX), Err(TimeError::TtlTooLong { seconds: u64::MAX }));
        assert!(postcard::from_bytes::<Ttl>(&[0]).is_err());
    }

    #[test]
    fn the_smallest_maximum_wins() {
        let (hour, day) = (secs(3600), secs(86_400));
        assert_eq!(effective_ttl(None, hour, &[day]), hour);
        assert_eq!(effective_ttl(Some(day), hour, &[]), day);
        assert_eq!(effective_ttl(Some(day), hour, &[day, secs(60), hour]), secs(60));
        assert_eq!(effective_ttl(None, day, &[hour]), hour);
    }

    #[test]
    fn the_last_two_seconds_of_a_life_stay_inside_it() {
        let end = UnixMillis(10_000);
        for now in 8_000..=10_002 {
            match secs(3600).expiry(UnixMillis(now), end) {
                Ok(expiry) => assert!(now < 10_000 && expiry == end),
                Err(error) => assert!(now >= 10_000 && error == TimeError::Over { not_after: end }),
            }
        }
    }

    proptest! {
        #[test]
        fn what_remains_is_within_the_maximum_or_over(
            ttl in 1..=Ttl::MAX_SECS, now: u64, not_after: u64,
        ) {
            let ttl = secs(ttl);
            match ttl.expiry(UnixMillis(now), UnixMillis(not_after)) {
                Ok(expiry) => {
                    prop_assert!(expiry.0 > now && expiry.0 <= not_after);
                    prop_assert!(expiry.millis_since(UnixMillis(now)) <= ttl.as_millis());
                    prop_assert!(!expiry.has_come(UnixMillis(now)));
                }
                Err(_) => prop_assert!(UnixMillis(not_after).has_come(UnixMillis(now))),
            }
        }
    }
}
