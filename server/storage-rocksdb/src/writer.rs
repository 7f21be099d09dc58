//! The one writer: a thread that takes every batch that waits, checks requirements in order and writes what passed as one
//! synced log record. Invariant: no answer, a refusal for a conflict included, leaves before the write it depends on is
//! durable; after a failed sync nothing more is written until the store is opened again.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use keystead_storage::{Batch, ChangeHub, Keyspace, Revision, StorageError};
use rocksdb::WriteBatch;
use tokio::sync::{mpsc, oneshot};

use crate::engine::{self, Engine};
use crate::failure;

/// Batches that may wait; further writers wait for room.
const QUEUE: usize = 256;

/// What one log record may carry, so that the first writer of a group does not wait for ever more bytes.
const GROUP_BYTES: usize = 4 << 20;

/// A batch and where its answer goes.
pub(crate) struct Order {
    pub(crate) batch: Batch,
    pub(crate) answer: oneshot::Sender<Result<Revision, StorageError>>,
}

/// Counts of the writer's work.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) pending: AtomicUsize,
}

/// Starts the writer. It ends when every sender is gone and what was sent is answered.
pub(crate) fn start(
    engine: Arc<Engine>,
    hub: Arc<ChangeHub>,
    counters: Arc<Counters>,
) -> Result<(mpsc::Sender<Order>, JoinHandle<()>), StorageError> {
    let newest = engine.newest()?;
    let (sender, orders) = mpsc::channel(QUEUE);
    let path = engine.path().to_owned();
    let writer = Writer { engine, hub, counters, newest: newest.engine_number(), failed: None };
    let thread = thread::Builder::new().name("storage-writer".to_owned()).spawn(move || writer.run(orders));
    let thread = thread.map_err(|source: io::Error| StorageError::Directory { path, source })?;
    Ok((sender, thread))
}

struct Writer {
    engine: Arc<Engine>,
    hub: Arc<ChangeHub>,
    counters: Arc<Counters>,
    newest: u64,
    failed: Option<rocksdb::Error>,
}

/// Batches of one group that passed, and what they leave behind.
struct Group {
    record: WriteBatch,
    written: HashMap<(Keyspace, Bytes), Option<Revision>>,
    newest: u64,
}

impl Writer {
    fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(first) = orders.blocking_recv() {
            let mut bytes = first.batch.bytes();
            let mut group = vec![first];
            while bytes < GROUP_BYTES
                && group.len() < QUEUE
                && let Ok(order) = orders.try_recv()
            {
                bytes = bytes.saturating_add(order.batch.bytes());
                group.push(order);
            }
            self.commit(group);
        }
    }

    fn commit(&mut self, orders: Vec<Order>) {
        let mut group = Group { record: WriteBatch::default(), written: HashMap::new(), newest: self.newest };
        let results: Vec<_> = orders.iter().map(|order| self.add(&mut group, &order.batch)).collect();
        let wrote = group.newest != self.newest;
        let failed = if wrote { self.write(group) } else { None };
        for (order, result) in orders.into_iter().zip(results) {
            let result = match &failed {
                Some(error) => {
                    result.and_then(|_| Err(write_error(error, order.batch.operations().is_empty()))).map_err(
                        // Whoever wrote first in this group did not, after all.
                        |refused| {
                            if matches!(refused, StorageError::Conflict { .. }) {
                                not_applied(error)
                            } else {
                                refused
                            }
                        },
                    )
                }
                None => result,
            };
            if let Ok(revision) = result
                && !order.batch.operations().is_empty()
            {
                self.hub.publish(revision, &order.batch);
                self.counters.commits.fetch_add(1, Ordering::Relaxed);
            }
            self.counters.pending.fetch_sub(1, Ordering::Relaxed);
            // The caller may have gone away; the commit stands.
            _ = order.answer.send(result);
        }
    }

    /// Adds a batch to the group if its requirements hold, as if the batches before it were written already.
    fn add(&self, group: &mut Group, batch: &Batch) -> Result<Revision, StorageError> {
        if let Some(error) = &self.failed {
            return Err(not_applied(error));
        }
        batch.check_requirements(|keyspace, key| {
            // The map's key is owned; a group has few entries, and an empty one needs no look.
            if group.written.is_empty() {
                return self.engine.revision_of(keyspace, key, self.newest);
            }
            match group.written.get(&(keyspace, Bytes::copy_from_slice(key))) {
                Some(written) => Ok(*written),
                None => self.engine.revision_of(keyspace, key, self.newest),
            }
        })?;
        if batch.operations().is_empty() {
            return Ok(Revision::from_engine(group.newest));
        }
        let number = group.newest.saturating_add(1);
        let revision = Revision::from_engine(number);
        let families = batch.operations().iter().map(|operation| self.engine.family(operation.keyspace));
        for (operation, family) in batch.operations().iter().zip(families.collect::<Result<Vec<_>, _>>()?) {
            match &operation.value {
                Some(value) => group.record.put_cf(family, &operation.key, engine::encode(revision, value)),
                None => group.record.delete_cf(family, &operation.key),
            }
            let left = operation.value.is_some().then_some(revision);
            group.written.insert((operation.keyspace, operation.key.clone()), left);
        }
        group.newest = number;
        Ok(revision)
    }

    /// Writes the group; what went wrong, if something did.
    fn write(&mut self, mut group: Group) -> Option<rocksdb::Error> {
        for (keyspace, key) in group.written.keys() {
            self.engine.rows().begin(*keyspace, key, group.newest);
        }
        group.record.put(engine::REVISION_KEY, group.newest.to_be_bytes());
        match self.engine.write(group.record) {
            Ok(()) => {
                self.newest = group.newest;
                self.engine.show(group.newest);
                self.counters.groups.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(error) => {
                tracing::error!(%error, "a group of commits could not be written");
                if !failure::left_nothing(&error) {
                    self.failed = Some(error.clone());
                }
                Some(error)
            }
        }
    }
}

fn write_error(error: &rocksdb::Error, writes_nothing: bool) -> StorageError {
    if writes_nothing {
        not_applied(error)
    } else if failure::left_nothing(error) {
        StorageError::Full { source: Some(Box::new(error.clone())) }
    } else {
        StorageError::UnknownOutcome { source: Some(Box::new(error.clone())) }
    }
}

fn not_applied(error: &rocksdb::Error) -> StorageError {
    failure::unavailable("writing", error.clone())
}
