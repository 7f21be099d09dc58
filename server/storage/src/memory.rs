//! An engine in memory, for tests and for trying things. Invariant: it passes the same conformance suite as the durable ones;
//! a snapshot shares the maps and a commit copies what a snapshot still holds. Absent: durability.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::format::StoreFormat;
use crate::keyspace::{self, Keyspace};
use crate::{
    Batch, ChangeFeed, ChangeHub, Range, Revision, Snapshot, Stats, Storage, StorageError, Versioned,
    check_page,
};

type Entries = BTreeMap<Bytes, Versioned>;
type Keyspaces = BTreeMap<Keyspace, Arc<Entries>>;

/// A store that lives as long as its value.
#[derive(Debug)]
pub struct MemoryStorage {
    state: Mutex<State>,
    hub: Arc<ChangeHub>,
    commits: AtomicU64,
}

#[derive(Debug)]
struct State {
    keyspaces: Keyspaces,
    revision: u64,
    closed: bool,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStorage {
    /// A new store that holds only its format record.
    #[must_use]
    pub fn new() -> Self {
        let format =
            Versioned { value: StoreFormat::CURRENT.encode().into(), revision: Revision::from_engine(1) };
        let meta = Entries::from([(Bytes::from(keyspace::meta_format()), format)]);
        Self::with(Keyspaces::from([(Keyspace::Meta, Arc::new(meta))]), 1)
    }

    /// A new engine over everything that this one holds now, as a restart would find it.
    pub fn reopened(&self) -> Result<Self, StorageError> {
        let state = self.state();
        let format = state
            .keyspaces
            .get(&Keyspace::Meta)
            .and_then(|meta| meta.get(keyspace::meta_format().as_slice()));
        let stored = format.ok_or(StorageError::Corrupt {
            what: "the format record is missing",
            keyspace: Some(Keyspace::Meta),
            source: None,
        })?;
        StoreFormat::decode(&stored.value)?.check()?;
        Ok(Self::with(state.keyspaces.clone(), state.revision))
    }

    fn with(keyspaces: Keyspaces, revision: u64) -> Self {
        Self {
            state: Mutex::new(State { keyspaces, revision, closed: false }),
            hub: ChangeHub::new(Revision::from_engine(revision)),
            commits: AtomicU64::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A commit checks everything that can fail before it changes anything, so a poisoned state is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>, StorageError> {
        let state = self.state();
        if state.closed { Err(StorageError::Closed) } else { Ok(state) }
    }
}

impl State {
    fn current(&self, keyspace: Keyspace, key: &[u8]) -> Option<Revision> {
        self.keyspaces.get(&keyspace)?.get(key).map(|stored| stored.revision)
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StorageError> {
        let state = self.open_state()?;
        Ok(Box::new(MemorySnapshot {
            keyspaces: state.keyspaces.clone(),
            revision: Revision::from_engine(state.revision),
        }))
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        batch.check()?;
        let mut state = self.open_state()?;
        batch.check_requirements(|keyspace, key| Ok(state.current(keyspace, key)))?;
        if batch.operations().is_empty() {
            return Ok(Revision::from_engine(state.revision));
        }
        state.revision = state.revision.saturating_add(1);
        let revision = Revision::from_engine(state.revision);
        for operation in batch.operations() {
            let entries = Arc::make_mut(state.keyspaces.entry(operation.keyspace).or_default());
            match &operation.value {
                Some(value) => {
                    entries.insert(operation.key.clone(), Versioned { value: value.clone(), revision });
                }
                None => {
                    entries.remove(&operation.key);
                }
            }
        }
        self.hub.publish(revision, &batch);
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(revision)
    }

    fn changes(&self, after: Option<Revision>) -> ChangeFeed {
        self.hub.feed(after)
    }

    async fn purge(&self, _keyspace: Keyspace, _key: &[u8]) -> Result<(), StorageError> {
        self.open_state().map(drop)
    }

    async fn flush(&self) -> Result<(), StorageError> {
        self.open_state().map(drop)
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.open_state()?.closed = true;
        self.hub.close();
        Ok(())
    }

    fn stats(&self) -> Stats {
        let commits = self.commits.load(Ordering::Relaxed);
        Stats { engine: "memory", commits, groups: commits, pending: 0, disk_bytes: None }
    }
}

struct MemorySnapshot {
    keyspaces: Keyspaces,
    revision: Revision,
}

#[async_trait]
impl Snapshot for MemorySnapshot {
    async fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Versioned>, StorageError> {
        Ok(self.keyspaces.get(&keyspace).and_then(|entries| entries.get(key)).cloned())
    }

    async fn range(
        &self,
        keyspace: Keyspace,
        range: Range,
        limit: usize,
    ) -> Result<Vec<(Bytes, Versioned)>, StorageError> {
        check_page(limit)?;
        let Some(entries) = self.keyspaces.get(&keyspace).filter(|_| !range.is_empty()) else {
            return Ok(Vec::new());
        };
        let end = range.end().map_or(Bound::Unbounded, Bound::Excluded);
        let found = entries.range::<[u8], _>((Bound::Included(range.start()), end));
        Ok(found.take(limit).map(|(key, stored)| (key.clone(), stored.clone())).collect())
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Precondition;
    use crate::conformance::{self, Engine};

    #[derive(Default)]
    struct Memory(Mutex<Option<Arc<MemoryStorage>>>);

    #[async_trait]
    impl Engine for Memory {
        async fn fresh(&self) -> Result<Arc<dyn Storage>, StorageError> {
            let store = Arc::new(MemoryStorage::new());
            *self.0.lock().unwrap() = Some(Arc::clone(&store));
            Ok(store)
        }

        async fn reopened(&self) -> Result<Arc<dyn Storage>, StorageError> {
            let store = Arc::new(self.0.lock().unwrap().as_ref().unwrap().reopened()?);
            *self.0.lock().unwrap() = Some(Arc::clone(&store));
            Ok(store)
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_memory_engine_conforms() {
        conformance::run(&Memory::default()).await.unwrap();
    }

    #[tokio::test]
    async fn a_store_of_a_newer_format_is_refused() {
        let store = MemoryStorage::new();
        let mut batch = Batch::new();
        let newer = StoreFormat { version: 2, features: 0 };
        batch.put(Keyspace::Meta, keyspace::meta_format(), newer.encode());
        batch.require(Keyspace::Meta, keyspace::meta_format(), Precondition::Exists);
        store.commit(batch).await.unwrap();
        assert!(matches!(store.reopened(), Err(StorageError::NewerFormat { found: 2, .. })));
    }
}
