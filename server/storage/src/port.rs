//! The trait that an engine implements and the views it hands out. Invariant: `commit` answers `Ok` only when the batch would
//! survive a power cut; a snapshot shows whole batches only and never changes while it is held.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Batch, ChangeFeed, Keyspace, Range, StorageError};

/// The most entries that one call of [`Snapshot::range`] may ask for.
pub const MAX_PAGE: usize = 1024;

/// When a value was written, in the engine's own terms. Two are the same write or they are not; they are not to be ordered.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Revision(u64);

impl Revision {
    /// For engines: their number for a write.
    #[must_use]
    pub const fn from_engine(number: u64) -> Self {
        Self(number)
    }

    /// For engines: the number given before.
    #[must_use]
    pub const fn engine_number(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revision({})", self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stored value and the write that put it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes as they were put.
    pub value: Bytes,
    /// The commit that put them.
    pub revision: Revision,
}

/// What an engine says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// The engine's name: `memory`, `rocksdb`.
    pub engine: &'static str,
    /// Batches committed since it was opened.
    pub commits: u64,
    /// Durable writes that carried them; fewer than `commits` when writers share one.
    pub groups: u64,
    /// Commits accepted and not answered yet.
    pub pending: usize,
    /// Bytes on disk, where there is one and the engine knows.
    pub disk_bytes: Option<u64>,
}

/// A store of ordered keyspaces.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// A view of everything committed before the call. Held snapshots keep old values alive: let go of them soon.
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StorageError>;

    /// Applies the whole batch, durably, if every requirement holds; otherwise nothing of it.
    ///
    /// Dropping the future does not cancel the commit. [`StorageError::UnknownOutcome`] means it may have been applied or may
    /// still be: look before trying again. Every other error means that nothing was applied and nothing will be.
    /// A batch without operations changes nothing and answers with the revision it was checked at.
    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError>;

    /// What is committed from now on, or after a revision seen before.
    fn changes(&self, after: Option<Revision>) -> ChangeFeed;

    /// Returns when no earlier value of `key`, deleted or replaced, is left in any file of the engine, its log included.
    async fn purge(&self, keyspace: Keyspace, key: &[u8]) -> Result<(), StorageError>;

    /// Moves what only the log holds into the engine's tables, so that the next start is short.
    async fn flush(&self) -> Result<(), StorageError>;

    /// Finishes the commits already accepted and lets go of the store; every later call answers [`StorageError::Closed`].
    /// The store can be opened again once the snapshots are dropped too.
    async fn close(&self) -> Result<(), StorageError>;

    /// Counters for metrics and status.
    fn stats(&self) -> Stats;
}

/// An unchanging view of a store.
#[async_trait]
pub trait Snapshot: Send + Sync {
    /// The value of one key.
    async fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Versioned>, StorageError>;

    /// Up to `limit` entries in the order of their keys; fewer only where the range ends. At most [`MAX_PAGE`].
    async fn range(
        &self,
        keyspace: Keyspace,
        range: Range,
        limit: usize,
    ) -> Result<Vec<(Bytes, Versioned)>, StorageError>;

    /// The newest commit when this view was taken: a change feed after it misses nothing. One that was written at that very
    /// moment may show already, and comes in the feed too.
    fn revision(&self) -> Revision;
}

/// For engines: refuses a page that is too large, before any work.
pub fn check_page(limit: usize) -> Result<(), StorageError> {
    if limit > MAX_PAGE { Err(StorageError::PageTooLarge { limit }) } else { Ok(()) }
}
