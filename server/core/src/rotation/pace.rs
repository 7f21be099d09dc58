//! How fast the pass may go: as fast as configured while nobody is held up, and slower the more others wait.

use std::time::Duration;

/// The longest pause after one data key: a pass comes to its end under any load.
const LONGEST: Duration = Duration::from_millis(100);
/// Requests inside the vault from which the pass makes room: fewer do not wait for one another.
const BUSY: usize = 32;
/// So many times the least that a data key took mean that the tokens are held up.
const SLOW: u32 = 6;

/// The pause after each data key.
#[derive(Debug)]
pub(super) struct Pace {
    shortest: Duration,
    pause: Duration,
    /// The least that one data key took: what the tokens need when nobody else wants them.
    quiet: Option<Duration>,
}

impl Pace {
    pub(super) fn new(per_second: u32) -> Self {
        let shortest = Duration::from_secs(1) / per_second.max(1);
        Self { shortest, pause: shortest, quiet: None }
    }

    /// One data key took so long, while so many requests were inside. Returns the pause from here.
    pub(super) fn after(&mut self, took: Duration, inside: usize) -> Duration {
        let quiet = self.quiet.map_or(took, |quiet| quiet.min(took));
        self.quiet = Some(quiet);
        let crowded = inside >= BUSY || took > quiet.saturating_mul(SLOW);
        self.pause = if crowded { self.pause.saturating_mul(2) } else { self.pause / 2 };
        self.pause = self.pause.clamp(self.shortest, LONGEST);
        self.pause.saturating_sub(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(100);

    #[test]
    fn it_is_never_faster_than_configured() {
        let mut pace = Pace::new(100);
        for _ in 0..50 {
            assert!(pace.after(QUICK, 0) + QUICK >= Duration::from_millis(10));
        }
    }

    #[test]
    fn it_makes_room_while_requests_or_tokens_are_held_up_and_comes_back() {
        let mut pace = Pace::new(1000);
        for _ in 0..20 {
            pace.after(QUICK, BUSY);
        }
        assert!(pace.after(QUICK, BUSY) > Duration::from_millis(90), "many requests");
        for _ in 0..20 {
            pace.after(QUICK, 0);
        }
        assert!(pace.after(QUICK, 0) < Duration::from_millis(2));
        for _ in 0..20 {
            pace.after(QUICK * 10, 0);
        }
        assert!(pace.after(QUICK * 10, 0) > Duration::from_millis(90), "slow tokens");
    }
}
