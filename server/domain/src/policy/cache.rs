//! A bounded map that many threads share: the answers of one compiled set of policies.
//!
//! Invariant: at most `2 * LIMIT` entries a shard; a hit is a full comparison of keys, never of hashes alone,
//! so no two requests can share an answer by collision. Each shard has a young and an old generation: when
//! the young one is full the old one is dropped, and what is used meanwhile moves back to the young. Expiry
//! is absent: the whole map dies with the set of policies it belongs to.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

const SHARDS: usize = 16;
const LIMIT: usize = 512;

pub(super) struct Cache<K, V> {
    shards: [Mutex<Generations<K, V>>; SHARDS],
}

struct Generations<K, V> {
    young: HashMap<u64, (K, V)>,
    old: HashMap<u64, (K, V)>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| {
                Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() })
            }),
        }
    }
}

impl<K, V: Clone> Cache<K, V> {
    /// The value whose key has this hash and is the one asked for.
    pub(super) fn find(&self, hash: u64, is_key: impl Fn(&K) -> bool) -> Option<V> {
        let mut shard = self.shard(hash)?.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, value)) = shard.young.get(&hash) {
            return is_key(key).then(|| value.clone());
        }
        let entry = shard.old.remove(&hash)?;
        let value = is_key(&entry.0).then(|| entry.1.clone());
        shard.admit(hash, entry);
        value
    }

    pub(super) fn insert(&self, hash: u64, key: K, value: V) {
        if let Some(shard) = self.shard(hash) {
            shard.lock().unwrap_or_else(PoisonError::into_inner).admit(hash, (key, value));
        }
    }

    fn shard(&self, hash: u64) -> Option<&Mutex<Generations<K, V>>> {
        // The map inside uses the low bits.
        let index = usize::try_from(hash >> 60).ok()?;
        self.shards.get(index)
    }
}

impl<K, V> Generations<K, V> {
    fn admit(&mut self, hash: u64, entry: (K, V)) {
        if self.young.len() >= LIMIT && !self.young.contains_key(&hash) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collision_of_hashes_is_a_miss() {
        let cache = Cache::default();
        cache.insert(7, "a/b,c", 1);
        assert_eq!(cache.find(7, |key| *key == "a/b,c"), Some(1));
        assert_eq!(cache.find(7, |key| *key == "a,b/c"), None);
        cache.insert(7, "a,b/c", 2);
        assert_eq!(cache.find(7, |key| *key == "a/b,c"), None);
        assert_eq!(cache.find(7, |key| *key == "a,b/c"), Some(2));
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_is_used() {
        let cache = Cache::default();
        for hash in 0..10_000_u64 {
            cache.insert(hash, hash, hash);
            assert_eq!(cache.find(3, |key| *key == 3), (hash >= 3).then_some(3));
        }
        let shard = cache.shards[0].lock().unwrap();
        assert!(shard.young.len() <= LIMIT && shard.old.len() <= LIMIT);
    }
}
