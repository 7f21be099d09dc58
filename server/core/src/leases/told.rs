//! What was told of already: a record that does not open is met again in every round, and is worth one alarm.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// More is not kept in mind, and not told of: the metric counts them all.
const AT_MOST: usize = 4_096;

/// Keys of records that somebody was told of since the vault was opened.
#[derive(Default)]
pub(super) struct Told(Mutex<HashSet<Vec<u8>>>);

impl Told {
    /// Whether nobody was told of this one yet. From now on somebody was.
    pub(super) fn first(&self, key: &[u8]) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < AT_MOST && told.insert(key.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_of_once_and_the_memory_has_an_end() {
        let told = Told::default();
        assert!(told.first(b"a") && told.first(b"b") && !told.first(b"a"));
        let kept = (0..10_000_u32).filter(|n| told.first(&n.to_be_bytes())).count();
        assert_eq!(kept, AT_MOST - 2);
    }
}
