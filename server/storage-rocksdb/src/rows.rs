//! Values at hand: what was read by key and has not been written since.
//!
//! Invariant: a row is what its key holds now, and no view is shown one that is newer than itself. Before a group of commits is
//! written, the rows of its keys go, and views from before put none back. Absent: ranges, and keys that hold nothing.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystead_storage::{Keyspace, Revision, Versioned};
use quick_cache::unsync::Cache;
use quick_cache::{Equivalent, Weighter};

/// As many as make it rare that two threads want the same one.
const SHARDS: u64 = 64;
const BYTES: u64 = 32 << 20;
/// What a row costs beside its bytes, roughly.
const ROW_BYTES: usize = 96;
/// Larger values are read in little more time than it takes to copy them.
const LARGEST: usize = 16 << 10;

/// The rows of a store.
pub(crate) struct Rows {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

struct Shard {
    /// The newest commit whose writing began and that has a key here.
    begun: u64,
    rows: Cache<RowKey, Versioned, Weight>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct RowKey(Keyspace, Box<[u8]>);

/// A key that is looked up.
#[derive(Hash)]
struct Sought<'a>(Keyspace, &'a [u8]);

impl Equivalent<RowKey> for Sought<'_> {
    fn equivalent(&self, key: &RowKey) -> bool {
        self.0 == key.0 && *self.1 == *key.1
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<RowKey, Versioned> for Weight {
    fn weight(&self, key: &RowKey, row: &Versioned) -> u64 {
        let bytes = row.value.len().saturating_add(key.1.len()).saturating_add(ROW_BYTES);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

impl Rows {
    pub(crate) fn new() -> Self {
        let rows = || Cache::with_weighter(256, BYTES / SHARDS, Weight);
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard { begun: 0, rows: rows() })).collect();
        Self { hasher: RandomState::new(), shards }
    }

    /// What a key holds, as a view of this revision shows it, if it is at hand.
    pub(crate) fn get(&self, keyspace: Keyspace, key: &[u8], view: Revision) -> Option<Versioned> {
        let shard = self.shard(keyspace, key)?;
        let row = shard.rows.get(&Sought(keyspace, key))?;
        (row.revision.engine_number() <= view.engine_number()).then(|| row.clone())
    }

    /// Keeps what a view of this revision showed, unless it may be no longer so.
    pub(crate) fn keep(&self, keyspace: Keyspace, key: &[u8], row: &Versioned, view: Revision) {
        if row.value.len() > LARGEST {
            return;
        }
        let Some(mut shard) = self.shard(keyspace, key) else { return };
        if shard.begun <= view.engine_number() {
            shard.rows.insert(RowKey(keyspace, key.into()), row.clone());
        }
    }

    /// To be called before a key is written by this commit.
    pub(crate) fn begin(&self, keyspace: Keyspace, key: &[u8], commit: u64) {
        let Some(mut shard) = self.shard(keyspace, key) else { return };
        shard.begun = shard.begun.max(commit);
        shard.rows.remove(&Sought(keyspace, key));
    }

    fn shard(&self, keyspace: Keyspace, key: &[u8]) -> Option<MutexGuard<'_, Shard>> {
        let at = self.hasher.hash_one(Sought(keyspace, key)) % SHARDS;
        let shard = self.shards.get(usize::try_from(at).ok()?);
        shard.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const SPACE: Keyspace = Keyspace::Secrets;

    fn revision(number: u64) -> Revision {
        Revision::from_engine(number)
    }

    fn row(number: u64) -> Versioned {
        Versioned { value: Bytes::from_static(b"value"), revision: revision(number) }
    }

    #[test]
    fn a_row_is_for_views_that_are_as_new() {
        let rows = Rows::new();
        rows.keep(SPACE, b"key", &row(5), revision(7));
        assert_eq!(rows.get(SPACE, b"key", revision(7)), Some(row(5)));
        assert_eq!(rows.get(SPACE, b"key", revision(5)), Some(row(5)));
        assert_eq!(rows.get(SPACE, b"key", revision(4)), None, "a view from before it was written");
        assert_eq!(rows.get(Keyspace::SecretMeta, b"key", revision(7)), None, "another keyspace");
    }

    #[test]
    fn what_is_being_written_is_gone_and_comes_back_with_views_that_show_it() {
        let rows = Rows::new();
        rows.keep(SPACE, b"key", &row(5), revision(7));
        rows.begin(SPACE, b"key", 8);
        assert_eq!(rows.get(SPACE, b"key", revision(7)), None);
        rows.keep(SPACE, b"key", &row(5), revision(7));
        assert_eq!(rows.get(SPACE, b"key", revision(8)), None, "an older view put it back");
        rows.keep(SPACE, b"key", &row(8), revision(7));
        assert_eq!(rows.get(SPACE, b"key", revision(8)), None, "a view that may lack the rest of the commit");
        rows.keep(SPACE, b"key", &row(8), revision(8));
        assert_eq!(rows.get(SPACE, b"key", revision(8)), Some(row(8)));
        rows.begin(SPACE, b"key", 3);
        rows.keep(SPACE, b"key", &row(5), revision(7));
        assert_eq!(rows.get(SPACE, b"key", revision(9)), None, "what began does not go back");
    }

    #[test]
    fn memory_is_bounded() {
        let rows = Rows::new();
        let large = Versioned { value: vec![0; LARGEST + 1].into(), revision: revision(1) };
        rows.keep(SPACE, b"large", &large, revision(1));
        assert_eq!(rows.get(SPACE, b"large", revision(1)), None);
        let full = Versioned { value: vec![0; LARGEST].into(), revision: revision(1) };
        for number in 0..10_000_u64 {
            rows.keep(SPACE, &number.to_be_bytes(), &full, revision(1));
        }
        let weight: u64 = rows.shards.iter().map(|shard| shard.lock().unwrap().rows.weight()).sum();
        assert!((BYTES / 2..=BYTES).contains(&weight), "{weight} bytes");
    }
}
