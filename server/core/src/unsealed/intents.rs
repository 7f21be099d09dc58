//! Which intents are under way, and which markers in the store can go. The log below [`Intents::low_water`] needs no
//! second look after a crash.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Markers that leave with one batch.
const SETTLED_A_BATCH: usize = 8;

#[derive(Default)]
pub(super) struct Intents(Mutex<State>);

#[derive(Default)]
struct State {
    /// With whether its marker may lie in the store.
    under_way: BTreeMap<u64, bool>,
    settled: Vec<u64>,
    /// Where the log stood when intents not yet recorded set out, with how many did.
    floors: BTreeMap<u64, usize>,
}

/// Holds the low water down while an intent is being recorded and has no number yet.
pub(crate) struct Floor<'a> {
    intents: &'a Intents,
    head: u64,
}

impl Floor<'_> {
    /// The intent has its number.
    pub(crate) fn begun(self, intent: u64) {
        self.intents.state().under_way.insert(intent, false);
    }
}

impl Drop for Floor<'_> {
    fn drop(&mut self) {
        let floors = &mut self.intents.state().floors;
        if let Some(count) = floors.get_mut(&self.head) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                floors.remove(&self.head);
            }
        }
    }
}

impl Intents {
    /// An intent is about to be recorded, at `head` or later.
    pub(super) fn floor(&self, head: u64) -> Floor<'_> {
        let mut state = self.state();
        let count = state.floors.entry(head).or_default();
        *count = count.saturating_add(1);
        drop(state);
        Floor { intents: self, head }
    }

    /// Its marker is being put into the store.
    pub(super) fn marked(&self, intent: u64) {
        if let Some(marked) = self.state().under_way.get_mut(&intent) {
            *marked = true;
        }
    }

    /// Its outcome is durable, so that its marker can go.
    pub(super) fn settled(&self, intent: u64) {
        let mut state = self.state();
        if state.under_way.remove(&intent) == Some(true) {
            state.settled.push(intent);
        }
    }

    /// A marker of an earlier run, whose outcome is durable.
    pub(super) fn left_over(&self, intent: u64) {
        self.state().settled.push(intent);
    }

    pub(super) fn take_settled(&self, room: usize) -> Vec<u64> {
        let settled = &mut self.state().settled;
        let keep = settled.len().saturating_sub(SETTLED_A_BATCH.min(room));
        settled.split_off(keep)
    }

    pub(super) fn put_back(&self, settled: Vec<u64>) {
        self.state().settled.extend(settled);
    }

    /// The oldest intent under way, or `head`, which is to be read before this is called.
    pub(super) fn low_water(&self, head: u64) -> u64 {
        let state = self.state();
        let oldest = state.under_way.keys().next().copied().unwrap_or(head);
        let floor = state.floors.keys().next().copied().unwrap_or(head);
        oldest.min(floor).min(head)
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
        let floor = intents.floor(2);
        intents.floor(2).begun(3);
        assert_eq!(intents.low_water(9), 2);
        floor.begun(5);
        assert_eq!(intents.low_water(9), 3);
        intents.marked(3);
        intents.settled(3);
        assert_eq!(intents.low_water(9), 5);
        intents.settled(5);
        assert_eq!(intents.low_water(9), 9);
        assert_eq!(intents.take_settled(0), Vec::<u64>::new(), "no room");
        let taken = intents.take_settled(64);
        assert_eq!(taken, vec![3]);
        intents.put_back(taken);
        assert_eq!(intents.take_settled(64), vec![3]);
    }
}
