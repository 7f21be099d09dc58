//! How many shares open a vault, and who has brought one so far.
//!
//! Invariant: progress counts distinct share numbers only, never more than once each, and is forgotten when
//! it takes too long. A wrong entry never undoes what others have entered. The shares themselves are absent:
//! they are secret and stay in `keystead-crypto`; whoever is told `Expired` wipes those collected.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU8;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Ttl;

/// A share's number: its x coordinate, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShareNumber(NonZeroU8);

impl ShareNumber {
    /// Checks a number; 0 would be the secret itself.
    pub const fn new(number: u8) -> Option<Self> {
        match NonZeroU8::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    pub const fn as_u8(self) -> u8 {
        self.0.get()
    }
}

impl fmt::Display for ShareNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Any `threshold` of `shares` shares open the vault: 2 ≤ threshold ≤ shares ≤ 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8)", into = "(u8, u8)")]
pub struct Quorum {
    threshold: u8,
    shares: u8,
}

/// Why two numbers are not a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuorumError {
    /// One share (or none) would be no quorum.
    #[error("threshold {threshold}: at least 2 share holders must be needed")]
    ThresholdTooSmall {
        /// What was asked for.
        threshold: u8,
    },
    /// More shares needed than there are.
    #[error("threshold {threshold} is more than the {shares} shares there are")]
    ThresholdAboveShares {
        /// The threshold asked for.
        threshold: u8,
        /// The number of shares asked for.
        shares: u8,
    },
}

impl Quorum {
    /// Checks the two numbers.
    pub const fn new(threshold: u8, shares: u8) -> Result<Self, QuorumError> {
        if threshold < 2 {
            return Err(QuorumError::ThresholdTooSmall { threshold });
        }
        if threshold > shares {
            return Err(QuorumError::ThresholdAboveShares { threshold, shares });
        }
        Ok(Self { threshold, shares })
    }

    /// How many shares are needed.
    pub const fn threshold(self) -> u8 {
        self.threshold
    }

    /// How many shares there are.
    pub const fn shares(self) -> u8 {
        self.shares
    }
}

impl TryFrom<(u8, u8)> for Quorum {
    type Error = QuorumError;

    fn try_from((threshold, shares): (u8, u8)) -> Result<Self, QuorumError> {
        Self::new(threshold, shares)
    }
}

impl From<Quorum> for (u8, u8) {
    fn from(quorum: Quorum) -> Self {
        (quorum.threshold, quorum.shares)
    }
}

/// What became of one share entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// It counts; this many are still missing.
    More {
        /// How many are missing.
        missing: u8,
    },
    /// It counts and was the last one needed.
    Complete,
    /// This number was entered before; nothing changed.
    Duplicate,
    /// The round began too long ago. It is over and this share was not counted: wipe all shares collected,
    /// begin again.
    Expired,
}

/// The state of one unsealing: which share numbers were entered, and since when. Times are those of a clock that never goes
/// back: a wall clock that is set back would let shares wait for longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsealProgress {
    threshold: u8,
    timeout: Ttl,
    round: Option<Round>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Round {
    started_at: Duration,
    numbers: BTreeSet<ShareNumber>,
}

impl UnsealProgress {
    /// Nothing entered yet.
    pub const fn new(quorum: Quorum, timeout: Ttl) -> Self {
        Self { threshold: quorum.threshold, timeout, round: None }
    }

    /// Counts a share that was found good. Call only after its digest was checked: a bad share has no number.
    pub fn enter(&mut self, number: ShareNumber, now: Duration) -> Entered {
        if self.expire(now) {
            return Entered::Expired;
        }
        let round = self.round.get_or_insert_with(|| Round { started_at: now, numbers: BTreeSet::new() });
        if !round.numbers.insert(number) {
            return Entered::Duplicate;
        }
        match self.missing() {
            0 => Entered::Complete,
            missing => Entered::More { missing },
        }
    }

    /// Ends a round that took too long. True if one was ended now: its shares must be wiped.
    pub fn expire(&mut self, now: Duration) -> bool {
        let late = self.expires_at().is_some_and(|end| end <= now);
        if late {
            self.round = None;
        }
        late
    }

    /// Forgets everything entered: cancelled, completed or sealed again.
    pub fn reset(&mut self) {
        self.round = None;
    }

    /// How many shares are needed.
    pub const fn threshold(&self) -> u8 {
        self.threshold
    }

    /// How many shares are still missing.
    pub fn missing(&self) -> u8 {
        let entered = u8::try_from(self.numbers().count()).unwrap_or(u8::MAX);
        self.threshold.saturating_sub(entered)
    }

    /// The numbers entered, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = ShareNumber> {
        self.round.iter().flat_map(|round| round.numbers.iter().copied())
    }

    /// When the first share of this round was entered.
    pub fn started_at(&self) -> Option<Duration> {
        self.round.as_ref().map(|round| round.started_at)
    }

    /// When this round ends unless it is completed.
    pub fn expires_at(&self) -> Option<Duration> {
        self.started_at().map(|start| start.saturating_add(Duration::from_millis(self.timeout.as_millis())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(number: u8) -> ShareNumber {
        ShareNumber::new(number).unwrap()
    }

    fn progress() -> UnsealProgress {
        UnsealProgress::new(Quorum::new(3, 5).unwrap(), Ttl::from_secs(60).unwrap())
    }

    #[test]
    fn a_quorum_is_two_at_least_and_no_more_than_all() {
        assert_eq!(Quorum::new(1, 5), Err(QuorumError::ThresholdTooSmall { threshold: 1 }));
        assert_eq!(Quorum::new(0, 0), Err(QuorumError::ThresholdTooSmall { threshold: 0 }));
        assert_eq!(Quorum::new(6, 5), Err(QuorumError::ThresholdAboveShares { threshold: 6, shares: 5 }));
        assert!(Quorum::new(255, 255).is_ok());
        assert!(postcard::from_bytes::<Quorum>(&[1, 5]).is_err());
        assert_eq!(postcard::from_bytes::<Quorum>(&[3, 5]).unwrap(), Quorum::new(3, 5).unwrap());
    }

    #[test]
    fn share_number_zero_does_not_exist() {
        assert_eq!(ShareNumber::new(0), None);
        assert!(postcard::from_bytes::<ShareNumber>(&[0]).is_err());
    }

    #[test]
    fn a_holder_counts_once() {
        let mut progress = progress();
        assert_eq!(progress.enter(share(4), Duration::ZERO), Entered::More { missing: 2 });
        assert_eq!(progress.enter(share(4), Duration::from_millis(1)), Entered::Duplicate);
        assert_eq!(progress.enter(share(1), Duration::from_millis(2)), Entered::More { missing: 1 });
        assert_eq!(progress.numbers().map(ShareNumber::as_u8).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(progress.enter(share(5), Duration::from_millis(3)), Entered::Complete);
        progress.reset();
        assert_eq!(progress.missing(), 3);
    }

    #[test]
    fn a_half_done_round_ends_and_the_next_begins_empty() {
        let mut progress = progress();
        progress.enter(share(1), Duration::from_millis(1_000));
        assert_eq!(progress.enter(share(2), Duration::from_millis(60_999)), Entered::More { missing: 1 });
        assert_eq!(progress.enter(share(3), Duration::from_millis(61_000)), Entered::Expired);
        assert_eq!(progress.started_at(), None);
        assert_eq!(progress.enter(share(3), Duration::from_millis(61_001)), Entered::More { missing: 2 });
    }

    proptest! {
        #[test]
        fn complete_means_that_many_distinct_numbers_in_time(
            entries in prop::collection::vec((1u8..8, 0u64..30_000), 0..40),
        ) {
            let mut progress = progress();
            let mut now = Duration::ZERO;
            for (number, step) in entries {
                now += Duration::from_millis(step);
                let before: Vec<_> = progress.numbers().collect();
                let started = progress.started_at();
                match progress.enter(share(number), now) {
                    Entered::Complete => {
                        prop_assert!(before.len() == 2 && !before.contains(&share(number)));
                        prop_assert!(now - started.unwrap() < Duration::from_secs(60));
                        progress.reset();
                    }
                    Entered::More { missing } => {
                        prop_assert_eq!(usize::from(missing) + before.len() + 1, 3);
                        prop_assert!(!before.contains(&share(number)));
                    }
                    Entered::Duplicate => prop_assert!(before.contains(&share(number))),
                    Entered::Expired => prop_assert!(now - started.unwrap() >= Duration::from_secs(60)),
                }
            }
        }
    }
}
