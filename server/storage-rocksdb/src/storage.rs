//! The port over the engine: hands batches to the writer, snapshots to readers, slow work to blocking threads. Invariant: after
//! `close` nothing is accepted, and the directory is free once the last snapshot is gone.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use async_trait::async_trait;
use keystead_storage::{
    Batch, ChangeFeed, ChangeHub, Keyspace, Revision, Snapshot, Stats, Storage, StorageError,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use crate::engine::Engine;
use crate::purge;
use crate::snapshot::RocksSnapshot;
use crate::writer::{self, Counters, Order};

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { sync: true }
    }
}

impl Options {
    /// A store that acknowledges what a crash loses, so that a test of durability can be seen to fail.
    #[must_use]
    pub const fn unsynced_for_tests() -> Self {
        Self { sync: false }
    }

    pub(crate) const fn sync(self) -> bool {
        self.sync
    }
}

/// A store in a directory of its own.
pub struct RocksStorage {
    open: RwLock<Option<Open>>,
    hub: Arc<ChangeHub>,
    counters: Arc<Counters>,
}

struct Open {
    engine: Arc<Engine>,
    orders: mpsc::Sender<Order>,
    writer: JoinHandle<()>,
}

impl RocksStorage {
    /// Opens the store at `path`, or makes one there if the directory is missing or empty. Blocks, and sets the process's
    /// umask to 0077, since RocksDB makes files with it at any time.
    pub fn open(path: &Path, options: Options) -> Result<Self, StorageError> {
        let engine = Arc::new(Engine::open(path, options)?);
        let hub = ChangeHub::new(engine.newest()?);
        let counters = Arc::new(Counters::default());
        let (orders, writer) = writer::start(Arc::clone(&engine), Arc::clone(&hub), Arc::clone(&counters))?;
        Ok(Self { open: RwLock::new(Some(Open { engine, orders, writer })), hub, counters })
    }

    fn opened<T>(&self, take: impl FnOnce(&Open) -> T) -> Result<T, StorageError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(take).ok_or(StorageError::Closed)
    }

    fn engine(&self) -> Result<Arc<Engine>, StorageError> {
        self.opened(|open| Arc::clone(&open.engine))
    }

    fn take(&self) -> Option<Open> {
        self.open.write().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Open {
    /// Lets the writer finish what it has, then lets go of the database. Blocks.
    fn finish(self) {
        let Self { engine, orders, writer } = self;
        drop(orders);
        if writer.join().is_err() {
            tracing::error!("the storage writer had panicked");
        }
        drop(engine);
    }
}

impl Drop for RocksStorage {
    fn drop(&mut self) {
        if let Some(open) = self.take() {
            open.finish();
        }
    }
}

#[async_trait]
impl Storage for RocksStorage {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StorageError> {
        Ok(Box::new(RocksSnapshot::new(self.engine()?)))
    }

    async fn commit(&self, batch: Batch) -> Result<Revision, StorageError> {
        batch.check()?;
        let orders = self.opened(|open| open.orders.clone())?;
        let room = orders.reserve().await.map_err(|_| StorageError::Closed)?;
        let (answer, answered) = oneshot::channel();
        self.counters.pending.fetch_add(1, Ordering::Relaxed);
        room.send(Order { batch, answer });
        drop(orders);
        // A writer that went away with an order in hand may have written it.
        answered.await.map_err(|_| StorageError::UnknownOutcome { source: None })?
    }

    fn changes(&self, after: Option<Revision>) -> ChangeFeed {
        self.hub.feed(after)
    }

    async fn purge(&self, keyspace: Keyspace, key: &[u8]) -> Result<(), StorageError> {
        let (engine, key) = (self.engine()?, key.to_vec());
        in_background("purging", move || purge::purge(&engine, keyspace, &key)).await
    }

    async fn flush(&self) -> Result<(), StorageError> {
        let engine = self.engine()?;
        in_background("flushing", move || purge::flush(&engine)).await
    }

    async fn close(&self) -> Result<(), StorageError> {
        let open = self.take().ok_or(StorageError::Closed)?;
        in_background("closing", move || {
            open.finish();
            Ok(())
        })
        .await?;
        self.hub.close();
        Ok(())
    }

    fn stats(&self) -> Stats {
        let disk_bytes = self.engine().ok().map(|engine| {
            let sizes = engine.families().into_iter().filter_map(|family| {
                engine
                    .db()
                    .property_int_value_cf(family, rocksdb::properties::LIVE_SST_FILES_SIZE)
                    .ok()
                    .flatten()
            });
            sizes.fold(0, u64::saturating_add)
        });
        Stats {
            engine: "rocksdb",
            commits: self.counters.commits.load(Ordering::Relaxed),
            groups: self.counters.groups.load(Ordering::Relaxed),
            pending: self.counters.pending.load(Ordering::Relaxed),
            disk_bytes,
        }
    }
}

async fn in_background(
    while_doing: &'static str,
    work: impl FnOnce() -> Result<(), StorageError> + Send + 'static,
) -> Result<(), StorageError> {
    spawn_blocking(work).await.map_err(|_| StorageError::Unavailable { while_doing, source: None })?
}
