//! The time that leases go by: the wall clock when the vault opened, and the monotonic one since. It never goes back, and
//! a step of the wall clock does not move it.
//!
//! Invariant: what is stored is never ahead of what was told. After a restart time goes on from the later of the wall clock
//! and the stored mark. A wall clock far ahead of the mark is a long outage or a wrong clock: leases stand still until a
//! target's own clock, or an operator, says which.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keystead_domain::time::UnixMillis;

use crate::clock::Clock;

/// The vault may have been down for so long without a doubt, in milliseconds.
pub(crate) const GAP: u64 = 60 * 60 * 1000;
/// Clocks that differ by no more agree, in milliseconds.
pub(crate) const SKEW: u64 = 5 * 60 * 1000;

/// The time of leases.
pub(crate) struct LeaseClock {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

struct State {
    /// The time of leases at `at` on the monotonic clock.
    base: UnixMillis,
    at: Duration,
    /// The wall clock is not believed yet.
    doubted: bool,
}

/// What the wall clock says against the time of leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockState {
    /// They agree.
    Agreed,
    /// The wall clock was far ahead when the vault opened: nothing expires until somebody confirms it.
    Doubted {
        /// By how many milliseconds.
        ahead: u64,
    },
    /// The wall clock was stepped while the vault was open, or is behind what was stored; leases go by their own time.
    Stepped {
        /// By how many milliseconds, to either side.
        by: u64,
    },
}

impl LeaseClock {
    /// Goes on from `mark`, the time that was stored last.
    pub(crate) fn new(clock: Arc<dyn Clock>, mark: Option<UnixMillis>) -> Self {
        let (wall, at) = (clock.now(), clock.monotonic());
        let mark = mark.unwrap_or(wall);
        let doubted = wall.millis_since(mark) > GAP;
        let base = if doubted { mark } else { wall.max(mark) };
        Self { clock, state: Mutex::new(State { base, at, doubted }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Now, by the time of leases.
    pub(crate) fn now(&self) -> UnixMillis {
        let monotonic = self.clock.monotonic();
        let state = self.state();
        let passed = u64::try_from(monotonic.saturating_sub(state.at).as_millis()).unwrap_or(u64::MAX);
        UnixMillis(state.base.0.saturating_add(passed))
    }

    /// What the wall clock says.
    pub(crate) fn look(&self) -> ClockState {
        let (wall, now) = (self.clock.now(), self.now());
        if self.state().doubted {
            return ClockState::Doubted { ahead: wall.millis_since(now) };
        }
        match wall.0.abs_diff(now.0) {
            by if by > SKEW => ClockState::Stepped { by },
            _ => ClockState::Agreed,
        }
    }

    /// Another clock says what time it is. If the wall clock agrees with it and is ahead of the time of leases, that is
    /// the time from now on. Says whether they agree.
    pub(crate) fn hear(&self, other: UnixMillis) -> bool {
        let (wall, at) = (self.clock.now(), self.clock.monotonic());
        if wall.0.abs_diff(other.0) > SKEW {
            return false;
        }
        let now = self.now();
        let mut state = self.state();
        if wall > now {
            (state.base, state.at) = (wall, at);
        }
        state.doubted = false;
        true
    }

    /// An operator says that the wall clock is right.
    pub(crate) fn believe(&self) -> bool {
        self.hear(self.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const DAY: u64 = 24 * 60 * 60 * 1000;
    const START: u64 = 1_800_000_000_000;

    fn at(wall: u64, mark: Option<u64>) -> (Arc<ManualClock>, LeaseClock) {
        let clock = Arc::new(ManualClock::new(UnixMillis(wall)));
        let leases = LeaseClock::new(Arc::<ManualClock>::clone(&clock), mark.map(UnixMillis));
        (clock, leases)
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_no_lease() {
        for to in [START + DAY, START - DAY] {
            let (clock, leases) = at(START, Some(START));
            clock.step_wall(UnixMillis(to));
            assert_eq!(leases.now(), UnixMillis(START));
            assert_eq!(leases.look(), ClockState::Stepped { by: DAY });
            clock.advance(Duration::from_secs(60));
            assert_eq!(leases.now(), UnixMillis(START + 60_000));
        }
    }

    #[test]
    fn a_clock_set_back_while_the_vault_was_down_lengthens_nothing() {
        let (_, leases) = at(START - DAY, Some(START));
        assert_eq!(leases.now(), UnixMillis(START));
        assert_eq!(leases.look(), ClockState::Stepped { by: DAY });
    }

    #[test]
    fn a_short_outage_counts_and_a_long_one_is_doubted_until_a_second_clock_agrees() {
        let (_, leases) = at(START + GAP, Some(START));
        assert_eq!((leases.now(), leases.look()), (UnixMillis(START + GAP), ClockState::Agreed));

        let (clock, leases) = at(START + DAY, Some(START));
        assert_eq!((leases.now(), leases.look()), (UnixMillis(START), ClockState::Doubted { ahead: DAY }));
        assert!(!leases.hear(UnixMillis(START + 30_000)), "the wall clock is wrong");
        assert_eq!(leases.look(), ClockState::Doubted { ahead: DAY });
        clock.advance(Duration::from_secs(1));
        assert!(leases.hear(UnixMillis(START + DAY + 2_000)));
        assert_eq!((leases.now(), leases.look()), (UnixMillis(START + DAY + 1_000), ClockState::Agreed));
    }

    #[test]
    fn time_never_goes_back_whatever_the_clocks_say() {
        let (clock, leases) = at(START, Some(START));
        clock.step_wall(UnixMillis(START - 60_000));
        assert!(leases.hear(UnixMillis(START - 60_000)));
        assert_eq!(leases.now(), UnixMillis(START));
        let (_, leases) = at(START + DAY, Some(START));
        assert!(leases.believe());
        assert_eq!(leases.now(), UnixMillis(START + DAY));
    }
}
