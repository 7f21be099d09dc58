//! Pauses between tries of a revocation. They have no end: a login that was not removed is tried for ever.

/// The pause after the first failure, in milliseconds.
pub const FIRST_PAUSE: u64 = 1_000;
/// The longest pause, in milliseconds: a target that comes back is asked within this time.
pub const LONGEST_PAUSE: u64 = 60_000;

/// How long to wait after a number of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Failures so far, at least 1.
    pub failures: u32,
}

impl Backoff {
    /// Milliseconds: twice as long after each failure up to [`LONGEST_PAUSE`], of which `jitter` (0 to 255, random) takes
    /// away up to a half, so that those who failed together do not come back together.
    pub fn pause(self, jitter: u8) -> u64 {
        let doublings = self.failures.saturating_sub(1).min(16);
        let full = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        let half = full / 2;
        full.saturating_sub(half.saturating_mul(u64::from(jitter)) / 255)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pauses: Vec<u64> = (1..=9).map(|failures| Backoff { failures }.pause(0)).collect();
        assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!(Backoff { failures: 1 }.pause(255), 500);
        assert_eq!(Backoff { failures: u32::MAX }.pause(0), LONGEST_PAUSE);
    }

    proptest! {
        #[test]
        fn a_pause_is_never_none_and_never_longer_than_the_longest(failures: u32, jitter: u8) {
            let pause = Backoff { failures }.pause(jitter);
            prop_assert!((FIRST_PAUSE / 2..=LONGEST_PAUSE).contains(&pause));
        }
    }
}
