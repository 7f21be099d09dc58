//! A snapshot that keeps its database alive. Invariant: nothing borrowed from the database leaves this module; what is read is
//! copied out. The one unsafe line of the crate is here.

#![expect(
    unsafe_code,
    reason = "RocksDB's snapshot borrows the database; a view handed to a request must own it"
)]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use keystead_storage::{Keyspace, Range, Revision, Snapshot, StorageError, Versioned, check_page};
use rocksdb::ReadOptions;

use crate::engine::{self, Engine};
use crate::failure;

struct View {
    // Fields are dropped in order: what points to the snapshot before it, and that before the engine.
    reads: ReadOptions,
    snapshot: rocksdb::Snapshot<'static>,
    engine: Arc<Engine>,
}

impl View {
    fn new(engine: Arc<Engine>) -> Self {
        let snapshot = engine.db().snapshot();
        // SAFETY: the snapshot borrows the database inside the `Arc`'s allocation, which neither moves nor goes while `engine`
        // is held beside it; `snapshot` is private, is dropped first, and nothing with its lifetime is given out.
        let snapshot =
            unsafe { std::mem::transmute::<rocksdb::Snapshot<'_>, rocksdb::Snapshot<'static>>(snapshot) };
        // Once for all point reads of a request: making them costs as much as a read from memory.
        let mut reads = ReadOptions::default();
        reads.set_snapshot(&snapshot);
        Self { reads, snapshot, engine }
    }

    fn get(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        revision: Revision,
    ) -> Result<Option<Versioned>, StorageError> {
        if let Some(row) = self.engine.rows().get(keyspace, key, revision) {
            return Ok(Some(row));
        }
        let family = self.engine.family(keyspace)?;
        let stored =
            self.engine.db().get_pinned_cf_opt(family, key, &self.reads).map_err(failure::reading)?;
        let found = stored.map(|stored| engine::decode(keyspace, &stored)).transpose()?;
        if let Some(found) = &found {
            self.engine.rows().keep(keyspace, key, found, revision);
        }
        Ok(found)
    }

    fn range(
        &self,
        keyspace: Keyspace,
        range: &Range,
        limit: usize,
    ) -> Result<Vec<(Bytes, Versioned)>, StorageError> {
        let mut options = ReadOptions::default();
        if let Some(end) = range.end() {
            options.set_iterate_upper_bound(end);
        }
        let mut entries = Vec::new();
        let mut cursor = self.snapshot.raw_iterator_cf_opt(self.engine.family(keyspace)?, options);
        cursor.seek(range.start());
        while entries.len() < limit
            && let Some((key, stored)) = cursor.item()
        {
            entries.push((Bytes::copy_from_slice(key), engine::decode(keyspace, stored)?));
            cursor.next();
        }
        // An iterator that met an error looks like one at its end.
        cursor.status().map_err(failure::reading)?;
        Ok(entries)
    }
}

/// A view of the store.
pub(crate) struct RocksSnapshot {
    view: Arc<View>,
    revision: Revision,
}

impl RocksSnapshot {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        // First: the view may show a commit that came between the two, but never lacks the one that is named.
        let revision = engine.shown();
        Self { revision, view: Arc::new(View::new(engine)) }
    }
}

#[async_trait]
impl Snapshot for RocksSnapshot {
    async fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Versioned>, StorageError> {
        // In place: a point read mostly finds its row or its block in memory, in less time than a thread switch takes.
        self.view.get(keyspace, key, self.revision)
    }

    async fn range(
        &self,
        keyspace: Keyspace,
        range: Range,
        limit: usize,
    ) -> Result<Vec<(Bytes, Versioned)>, StorageError> {
        check_page(limit)?;
        if range.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let view = Arc::clone(&self.view);
        let scan = tokio::task::spawn_blocking(move || view.range(keyspace, &range, limit));
        scan.await.map_err(|_| StorageError::Unavailable { while_doing: "scanning", source: None })?
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}
