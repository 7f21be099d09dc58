//! The log as its callers see it: open, reserve, record, read, follow, close.
//!
//! Invariant: nothing is recorded without a slot that was reserved before, so that what needs a record can be refused
//! before it happens. Absent: writing (`writer`), and who does it when (`turns`).

use crate::body::Body;
use crate::entry::{EntryKind, InvalidNode, Node, UnixMillis};
use crate::error::{AuditError, OpenError, ReadError, Refused};
use crate::files::{Disk, LogFiles};
use crate::follow::Follower;
use crate::history;
use crate::merkle::{Hash, TreeEdge};
use crate::queue::{Head, HeldSlot, Pending, Published, Shared, State};
use crate::reader::Reader;
use crate::recover::{Recovered, TornTail, bind_origin, recover};
use crate::seal::BodyInput;
use crate::turns;
use crate::writer::{Settings, Writer};
use futures::channel::oneshot;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

/// When an entry counts as recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When it will survive a power failure.
    Fsync,
    /// When the operating system has it: it survives the process, and a power failure a moment later.
    Os,
}

/// How to open a log.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// `<vault>/<node>`, once the vault has been made; checked against what the log was bound to.
    pub origin: Option<String>,
    /// The node that writes.
    pub node: Node,
    /// How many records may be reserved or queued at a time (1 to 65,536).
    pub max_queue: usize,
    /// Disk space kept for privileged records, so that operators can act and the vault can be sealed when all else is full.
    pub reserve_bytes: u64,
    /// The size beyond which a new file is begun (4 KiB to 1 GiB).
    pub segment_bytes: u64,
    /// How long an entry that did not ask for it may stay unsynced.
    pub sync_interval: Duration,
    /// How long entries that want a sync let others come where many do, so that one sync is enough for all. About as long
    /// as a fast disk takes for one: a sync costs as much of a processor as several entries.
    pub gather: Duration,
    /// How often a log that cannot be written tries again.
    pub probe_interval: Duration,
}

impl OpenOptions {
    /// The defaults for a node: 4,096 records under way, 8 MiB kept, files of 64 MiB.
    pub fn new(node: &str) -> Result<Self, InvalidNode> {
        Ok(Self {
            origin: None,
            node: Node::new(node)?,
            max_queue: 4096,
            reserve_bytes: 8 << 20,
            segment_bytes: 64 << 20,
            sync_interval: Duration::from_secs(1),
            gather: Duration::from_micros(300),
            probe_interval: Duration::from_millis(250),
        })
    }
}

/// How the log is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Whether it takes records.
    pub state: State,
    /// How many records are reserved or queued.
    pub in_flight: usize,
    /// How far it has got.
    pub head: Head,
}

/// An open log.
pub struct AuditLog {
    shared: Arc<Shared>,
    dir: PathBuf,
    torn: Option<TornTail>,
    origin: Mutex<Option<String>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog")
            .field("dir", &self.dir)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl AuditLog {
    /// Opens the log in a directory, making it where there is none, and starts its writer.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<Self, OpenError> {
        Self::open_on(dir, options, |files| Box::new(files))
    }

    pub(crate) fn open_on(
        dir: &Path,
        options: OpenOptions,
        disk: impl FnOnce(LogFiles) -> Box<dyn Disk>,
    ) -> Result<Self, OpenError> {
        let queue_size = u64::try_from(options.max_queue).unwrap_or(u64::MAX);
        check_option("max_queue", queue_size, 1, 65_536)?;
        check_option("segment_bytes", options.segment_bytes, 4096, 1 << 30)?;
        let Recovered { files, origin, edge, length, segments, torn } =
            recover(dir, options.origin.as_deref())?;
        let published = Published {
            edge: edge.clone(),
            // The writer syncs what it finds before it writes.
            durable: TreeEdge::empty(),
            segments: Arc::new(segments),
            readable: length,
        };
        let shared = Arc::new(Shared::new(options.max_queue, options.reserve_bytes > 0, published));
        let settings = Settings {
            node: options.node,
            segment_bytes: options.segment_bytes,
            reserve_bytes: options.reserve_bytes,
            sync_interval: options.sync_interval,
            gather: options.gather,
            probe_interval: options.probe_interval,
        };
        let writer = Writer::new(Arc::clone(&shared), disk(files), settings, edge, length);
        let writer = std::thread::Builder::new()
            .name("audit-writer".to_owned())
            .spawn(move || turns::run(writer))
            .map_err(|source| OpenError::Io {
                operation: "start the writer of",
                path: dir.to_owned(),
                source,
            })?;
        Ok(Self {
            shared,
            dir: dir.to_owned(),
            torn,
            origin: Mutex::new(origin),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Binds a log that was begun before its vault had a name to `<vault>/<node>`, for good.
    pub fn bind_origin(&self, origin: &str) -> Result<(), OpenError> {
        let mut bound = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        *bound = bind_origin(&self.dir, Some(origin))?;
        Ok(())
    }

    /// Whose log this is, once that is known.
    pub fn origin(&self) -> Option<String> {
        self.origin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What opening found at the log's end and put aside: the trace of a crash.
    pub fn torn_tail(&self) -> Option<&TornTail> {
        self.torn.as_ref()
    }

    /// Reserves the right to record one entry, or says at once why there is none.
    pub fn reserve(&self) -> Result<Slot, Refused> {
        self.shared.try_reserve(false).map(Slot)
    }

    /// The same for operators and for sealing: has slots and disk space of its own.
    pub fn reserve_privileged(&self) -> Result<Slot, Refused> {
        self.shared.try_reserve(true).map(Slot)
    }

    /// Reserves as [`reserve`](Self::reserve) does, but waits for a slot where all are taken; the caller sets the deadline.
    pub fn reserve_wait(&self) -> ReserveWait {
        ReserveWait { shared: Arc::clone(&self.shared), waiter: None }
    }

    /// How many entries the log has; cheaper than `head`, which hashes.
    pub fn size(&self) -> u64 {
        self.shared.size()
    }

    /// How far the log has got.
    pub fn head(&self) -> Head {
        self.shared.head()
    }

    /// How far the log has got on the disk: what a power failure leaves.
    pub fn durable_head(&self) -> Head {
        self.shared.durable_head()
    }

    /// The root of the first `size` entries, and a check that the log as it stands goes on from them. Reads the file in
    /// which that size was reached and those after it: not for an async thread.
    ///
    /// # Errors
    /// `NoSuchEntry` if the log has fewer entries, or begins after them; those of files that cannot be read or are damaged.
    pub fn root_at(&self, size: u64) -> Result<Hash, ReadError> {
        history::root_at(&self.dir, &self.shared, size)
    }

    /// How the log is doing.
    pub fn status(&self) -> Status {
        Status { state: self.shared.state(), in_flight: self.shared.used(), head: self.head() }
    }

    /// Reads the entries recorded so far, from number `seq` on.
    pub fn reader(&self, seq: u64) -> Result<Reader, ReadError> {
        Reader::live(&self.dir, Arc::clone(&self.shared), seq)
    }

    /// Reads from number `seq` on, and waits for what is yet to come.
    pub fn follow(&self, seq: u64) -> Result<Follower, ReadError> {
        Ok(Follower::new(self.reader(seq)?, Arc::clone(&self.shared)))
    }

    /// Writes what is queued, makes everything durable and ends the writer.
    pub fn close(&self) {
        self.shared.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // A writer that panicked has closed the log already.
            let _ = writer.join();
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.close();
    }
}

fn check_option(option: &'static str, value: u64, least: u64, most: u64) -> Result<(), OpenError> {
    if (least..=most).contains(&value) { Ok(()) } else { Err(OpenError::BadOption { option, least, most }) }
}

/// The right to record one entry; given back when dropped.
pub struct Slot(HeldSlot);

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("privileged", &self.0.privileged()).finish_non_exhaustive()
    }
}

impl Slot {
    /// Queues an entry. It will be written even if the future is dropped.
    ///
    /// One that needs no sync is written on the caller's thread if nobody else is writing: the future is then ready.
    pub fn record(
        self,
        kind: EntryKind,
        time: UnixMillis,
        body: BodyInput,
        durability: Durability,
    ) -> Recorded {
        let (done, receiver) = oneshot::channel();
        let shared = Arc::clone(self.0.shared());
        turns::record(&shared, Pending { slot: self.0, kind, time, body, durability, done });
        Recorded(receiver)
    }

    /// Queues an entry with a clear body.
    pub fn record_clear(
        self,
        kind: EntryKind,
        time: UnixMillis,
        body: Body,
        durability: Durability,
    ) -> Recorded {
        self.record(kind, time, BodyInput::Clear(body), durability)
    }
}

/// Completes with the entry's number when it is recorded.
#[derive(Debug)]
#[must_use = "an entry counts as recorded only when this says so"]
pub struct Recorded(oneshot::Receiver<Result<u64, AuditError>>);

impl Recorded {
    /// Blocks the thread until the entry is recorded.
    pub fn wait(self) -> Result<u64, AuditError> {
        futures::executor::block_on(self)
    }
}

impl Future for Recorded {
    type Output = Result<u64, AuditError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(AuditError::Closed)))
    }
}

/// Completes with a slot when one is free, or with the reason why none will be.
#[must_use = "a slot is reserved only when this is awaited"]
pub struct ReserveWait {
    shared: Arc<Shared>,
    waiter: Option<u64>,
}

impl fmt::Debug for ReserveWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReserveWait").field("waiter", &self.waiter).finish_non_exhaustive()
    }
}

impl Future for ReserveWait {
    type Output = Result<Slot, Refused>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut result = self.shared.try_reserve(false);
        if matches!(result, Err(Refused::QueueFull { .. })) {
            self.waiter = Some(self.shared.await_slot(self.waiter, context.waker()));
            // A slot given back before the waker was known would wake nobody.
            result = self.shared.try_reserve(false);
        }
        if matches!(result, Err(Refused::QueueFull { .. })) {
            return Poll::Pending;
        }
        if let Some(waiter) = self.waiter.take() {
            self.shared.forget_waiter(waiter);
        }
        Poll::Ready(result.map(Slot))
    }
}

impl Drop for ReserveWait {
    fn drop(&mut self) {
        // One that was woken and leaves without its slot passes the news on.
        if let Some(waiter) = self.waiter
            && !self.shared.forget_waiter(waiter)
        {
            self.shared.wake_waiter();
        }
    }
}

#[cfg(test)]
mod tests;
