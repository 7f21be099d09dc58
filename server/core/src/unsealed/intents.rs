//! Which intents are under way, and which markers in the store can go. The log below [`Intents::low_water`] needs no
//! second look after a crash.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Markers that leave with one batch.
const SETTLED_A_BATCH: usize = 8;

#[derive(Default)]
pub(super) struct Intents(Mutex<State>);

#[derive(Default)]
struct State {
    under_way: BTreeSet<u64>,
    settled: Vec<u64>,
}

impl Intents {
    pub(super) fn begun(&self, intent: u64) {
        self.state().under_way.insert(intent);
    }

    pub(super) fn settled(&self, intent: u64) {
        let mut state = self.state();
        state.under_way.remove(&intent);
        state.settled.push(intent);
    }

    pub(super) fn take_settled(&self) -> Vec<u64> {
        let settled = &mut self.state().settled;
        let keep = settled.len().saturating_sub(SETTLED_A_BATCH);
        settled.split_off(keep)
    }

    pub(super) fn put_back(&self, settled: Vec<u64>) {
        self.state().settled.extend(settled);
    }

    /// The oldest intent under way, or `head`.
    pub(super) fn low_water(&self, head: u64) -> u64 {
        self.state().under_way.first().copied().unwrap_or(head)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_water_is_the_oldest_under_way_and_settled_markers_are_kept_until_deleted() {
        let intents = Intents::default();
        assert_eq!(intents.low_water(9), 9);
        intents.begun(3);
        intents.begun(5);
        assert_eq!(intents.low_water(9), 3);
        intents.settled(3);
        assert_eq!(intents.low_water(9), 5);
        let taken = intents.take_settled();
        assert_eq!(taken, vec![3]);
        intents.put_back(taken);
        assert_eq!(intents.take_settled(), vec![3]);
    }
}
