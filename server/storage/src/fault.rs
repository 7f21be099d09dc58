//! A decorator that makes any engine fail on demand, for tests of what stands above storage. Invariant: a fault is one that a
//! real engine may show, with the same promise about what was applied.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    Batch, ChangeFeed, Keyspace, Range, Revision, Snapshot, Stats, Storage, StorageError, Versioned,
};

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFault {
    /// Refused before anything happened.
    Unavailable,
    /// Refused since the disk is full.
    Full,
    /// Applied, and the answer lost.
    UnknownAndApplied,
    /// Not applied, and the answer lost.
    UnknownAndLost,
    /// Not to be seen now, the answer lost, and there after the next start: the log took it, and could not say so. No
    /// commit succeeds after it.
    UnknownAndLater,
    /// Applied, and no answer ever.
    StuckAndApplied,
    /// Not applied, and no answer ever.
    StuckAndLost,
}

/// What is to go wrong. Clones steer the same store.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    commits: u64,
    by_number: BTreeMap<u64, CommitFault>,
    every_commit: Option<CommitFault>,
    reads_fail: bool,
    reads_fail_from: Option<u64>,
    purges_fail: bool,
    commit_delay: Duration,
    stuck: bool,
    later: Option<Batch>,
}

impl Faults {
    /// Lets the `nth` commit from now fail, 1 being the next one.
    pub fn on_commit(&self, nth: u64, fault: CommitFault) {
        let mut plan = self.plan();
        let number = plan.commits.saturating_add(nth);
        plan.by_number.insert(number, fault);
    }

    /// Lets every commit fail that has no fault of its own, until it is told `None`.
    pub fn on_every_commit(&self, fault: Option<CommitFault>) {
        self.plan().every_commit = fault;
    }

    /// Lets snapshots, and reads of snapshots held already, fail as unavailable, or work again.
    pub fn on_reads(&self, fail: bool) {
        self.plan().reads_fail = fail;
    }

    /// Lets reads fail from the `nth` commit from now on, 1 being the next one, as `on_reads` does.
    pub fn on_reads_after_commits(&self, nth: u64) {
        let mut plan = self.plan();
        plan.reads_fail_from = Some(plan.commits.saturating_add(nth));
    }

    /// Lets purges fail as unavailable, or work again.
    pub fn on_purges(&self, fail: bool) {
        self.plan().purges_fail = fail;
    }

    /// Holds every commit back for so long before it starts.
    pub fn delay_commits(&self, delay: Duration) {
        self.plan().commit_delay = delay;
    }

    /// Whether a commit is stuck.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.plan().stuck
    }

    fn stuck(&self) {
        self.plan().stuck = true;
    }

    /// Commits asked for so far.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.plan().commits
    }

    /// What a start finds in the log of the store that had these faults: to be committed before anything else.
    #[must_use]
    pub fn found_at_start(&self) -> Option<Batch> {
        self.plan().later.take()
    }

    fn keep_for_later(&self, batch: Batch) {
        self.plan().later = Some(batch);
    }

    fn has_failed(&self) -> bool {
        self.plan().later.is_some()
    }

    fn next_commit(&self) -> (Duration, Option<CommitFault>) {
        let mut plan = self.plan();
        plan.commits = plan.commits.saturating_add(1);
        let number = plan.commits;
        if plan.reads_fail_from == Some(number) {
            plan.reads_fail = true;
        }
        (plan.commit_delay, plan.by_number.remove(&number).or(plan.every_commit))
    }

    fn read(&self) -> Result<(), StorageError> {
        if self.plan().reads_fail { Err(unavailable("reading")) } else { Ok(()) }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn unavailable(while_doing: &'static str) -> StorageError {
    StorageError::Unavailable { while_doing, source: None }
}

/// A store with faults.
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    faults: Faults,
}

impl FaultyStorage {
    /// Wraps a store; without faults it behaves as the store does.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>, faults: Faults) -> Self {
        Self { inner, faults }
    }
}

#[async_trait]
impl Storage for FaultyStorage {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StorageError> {
        self.faults.read()?;
        Ok(Box::new(FaultySnapshot { inner: self.inner.snapshot().await?, faults: self.faults.clone() }))
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        let (delay, fault) = self.faults.next_commit();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if self.faults.has_failed() {
            return Err(unavailable("writing"));
        }
        match fault {
            None => self.inner.commit(batch).await,
            Some(CommitFault::UnknownAndLater) => {
                self.faults.keep_for_later(batch);
                Err(StorageError::UnknownOutcome { source: None })
            }
            Some(CommitFault::Unavailable) => Err(unavailable("writing")),
            Some(CommitFault::Full) => Err(StorageError::Full { source: None }),
            Some(CommitFault::UnknownAndLost) => Err(StorageError::UnknownOutcome { source: None }),
            Some(CommitFault::UnknownAndApplied) => {
                self.inner.commit(batch).await?;
                Err(StorageError::UnknownOutcome { source: None })
            }
            Some(CommitFault::StuckAndLost) => {
                self.faults.stuck();
                std::future::pending().await
            }
            Some(CommitFault::StuckAndApplied) => {
                self.inner.commit(batch).await?;
                self.faults.stuck();
                std::future::pending().await
            }
        }
    }

    fn changes(&self, after: Option<Revision>) -> ChangeFeed {
        self.inner.changes(after)
    }

    async fn purge(&self, keyspace: Keyspace, key: &[u8]) -> Result<(), StorageError> {
        if self.faults.plan().purges_fail {
            return Err(unavailable("purging"));
        }
        self.inner.purge(keyspace, key).await
    }

    async fn flush(&self) -> Result<(), StorageError> {
        self.inner.flush().await
    }

    async fn close(&self) -> Result<(), StorageError> {
        self.inner.close().await
    }

    fn stats(&self) -> Stats {
        self.inner.stats()
    }
}

struct FaultySnapshot {
    inner: Box<dyn Snapshot>,
    faults: Faults,
}

#[async_trait]
impl Snapshot for FaultySnapshot {
    async fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Versioned>, StorageError> {
        self.faults.read()?;
        self.inner.get(keyspace, key).await
    }

    async fn range(
        &self,
        keyspace: Keyspace,
        range: Range,
        limit: usize,
    ) -> Result<Vec<(Bytes, Versioned)>, StorageError> {
        self.faults.read()?;
        self.inner.range(keyspace, range, limit).await
    }

    fn revision(&self) -> Revision {
        self.inner.revision()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;
    use crate::conformance::{self, Engine};

    struct Faultless;

    #[async_trait]
    impl Engine for Faultless {
        async fn fresh(&self) -> Result<Arc<dyn Storage>, StorageError> {
            Ok(Arc::new(FaultyStorage::new(Arc::new(MemoryStorage::new()), Faults::default())))
        }

        fn persists(&self) -> bool {
            false
        }
    }

    fn store() -> (FaultyStorage, Faults) {
        let faults = Faults::default();
        (FaultyStorage::new(Arc::new(MemoryStorage::new()), faults.clone()), faults)
    }

    fn one(key: u8) -> Batch {
        let mut batch = Batch::new();
        batch.put(Keyspace::Policies, vec![key], vec![key]);
        batch
    }

    async fn has(store: &FaultyStorage, key: u8) -> bool {
        store.snapshot().await.unwrap().get(Keyspace::Policies, &[key]).await.unwrap().is_some()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_faults_it_conforms() {
        conformance::run(&Faultless).await.unwrap();
    }

    #[tokio::test]
    async fn the_chosen_commit_fails_and_keeps_its_promise() {
        let (store, faults) = store();
        faults.on_commit(2, CommitFault::UnknownAndApplied);
        faults.on_commit(3, CommitFault::UnknownAndLost);
        faults.on_commit(4, CommitFault::Full);
        store.commit(one(1)).await.unwrap();
        let lost = store.commit(one(2)).await.unwrap_err();
        assert!(!lost.nothing_was_applied() && has(&store, 2).await);
        let lost = store.commit(one(3)).await.unwrap_err();
        assert!(!lost.nothing_was_applied() && !has(&store, 3).await);
        assert!(matches!(store.commit(one(4)).await, Err(StorageError::Full { .. })));
        store.commit(one(4)).await.unwrap();
        assert_eq!(faults.commits(), 5);
    }

    #[tokio::test]
    async fn a_commit_that_comes_to_light_at_the_next_start_is_not_seen_before() {
        let (store, faults) = store();
        faults.on_commit(1, CommitFault::UnknownAndLater);
        let lost = store.commit(one(1)).await.unwrap_err();
        assert!(!lost.nothing_was_applied() && !has(&store, 1).await);
        assert!(matches!(store.commit(one(2)).await, Err(StorageError::Unavailable { .. })));
        store.commit(faults.found_at_start().unwrap()).await.unwrap();
        assert!(has(&store, 1).await && !has(&store, 2).await && faults.found_at_start().is_none());
    }

    #[tokio::test]
    async fn reads_and_commits_fail_until_told_otherwise() {
        let (store, faults) = store();
        let held = store.snapshot().await.unwrap();
        faults.on_reads(true);
        faults.on_every_commit(Some(CommitFault::Unavailable));
        assert!(held.get(Keyspace::Meta, b"format").await.is_err() && store.snapshot().await.is_err());
        for _ in 0..3 {
            assert!(matches!(store.commit(one(1)).await, Err(StorageError::Unavailable { .. })));
        }
        faults.on_reads(false);
        faults.on_every_commit(None);
        store.commit(one(1)).await.unwrap();
        assert!(has(&store, 1).await);
    }
}
