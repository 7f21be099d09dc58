//! The writer: takes what is queued, numbers it, seals it, writes it, syncs it, tells the callers.
//!
//! Invariant: an entry is published and acknowledged only after its bytes are in the file, and after a sync where
//! any caller of its batch asked for one. After a failure the file is brought back to the last published entry before
//! anything else is written. Absent: whose turn it is (`turns`), who may record (`queue`), and file names (`files`).

use crate::entry::{MAX_ENTRY_BYTES, Node, encode_header};
use crate::error::AuditError;
use crate::failure::{Failure, sync_failed, write_failed};
use crate::files::Disk;
use crate::log::Durability;
use crate::merkle::{TreeEdge, leaf_hash};
use crate::queue::{Pending, Shared, State};
use crate::seal::BodyInput;
use crate::segment::{append_frame, encode_file_header};
use crate::wire::len64;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much is written at a time; a file exceeds its size by no more than this and one entry.
const ROUND_BYTES: usize = 4 << 20;

/// How much may be written and not synced; it is kept in memory in case the sync fails.
const UNSYNCED_BYTES: usize = 1 << 20;

/// How much a caller writes at a time; it exceeds this by no more than one entry.
const QUICK_ROUND_BYTES: usize = 32 << 10;

/// More than a caller can write at a time.
const QUICK_ROOM_BYTES: usize = QUICK_ROUND_BYTES + (66 << 10);

/// How much room must be free before a full disk counts as usable again, where no reserve is kept.
const PROBE_BYTES: u64 = 1 << 20;

/// As many records behind one sync show that more are on their way.
const CROWD: usize = 6;

/// How much of the reserve is given up at a time.
const RELEASE_BYTES: u64 = 256 << 10;

/// What the writer was told at opening.
pub(crate) struct Settings {
    pub(crate) node: Node,
    pub(crate) segment_bytes: u64,
    pub(crate) reserve_bytes: u64,
    pub(crate) sync_interval: Duration,
    pub(crate) gather: Duration,
    pub(crate) probe_interval: Duration,
}

/// What the thread does until its next turn.
pub(crate) struct Rest {
    /// How long it may sleep where nothing comes; for good where that is nothing.
    pub(crate) patience: Option<Duration>,
    /// How long it lets records come once the first is there.
    pub(crate) gather: Duration,
}

/// What must be done to the file before it is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    Nothing,
    /// A write failed halfway: cut off what it left.
    Cut,
    /// A sync failed: what was written since the last good one may be lost from the file, and is written again.
    Rewrite,
}

/// The encoded form of the first records of a batch, and the tree with them.
struct Round {
    results: Vec<Result<u64, AuditError>>,
    edge: TreeEdge,
    sync: bool,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    disk: Box<dyn Disk>,
    settings: Settings,
    edge: TreeEdge,
    /// The file's length up to the last published entry.
    good: u64,
    /// The file's length up to the last entry known to be durable.
    durable: u64,
    /// The bytes between the two.
    unsynced: Vec<u8>,
    unsynced_since: Instant,
    repair: Repair,
    last_probe: Instant,
    /// What was taken from the queue and is not written yet.
    batch: Vec<Pending>,
    frames: Vec<u8>,
    header: Vec<u8>,
    body: Vec<u8>,
}

#[expect(clippy::disallowed_methods, reason = "paces syncs and probes on a plain thread; is never recorded")]
fn monotonic_now() -> Instant {
    Instant::now()
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        disk: Box<dyn Disk>,
        settings: Settings,
        edge: TreeEdge,
        length: u64,
    ) -> Self {
        Self {
            shared,
            disk,
            settings,
            edge,
            good: length,
            durable: length,
            unsynced: Vec::new(),
            unsynced_since: monotonic_now(),
            repair: Repair::Nothing,
            last_probe: monotonic_now(),
            batch: Vec::new(),
            frames: Vec::new(),
            header: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Makes the log ready; the thread does this before anybody writes.
    pub(crate) fn begin(&mut self) -> Rest {
        // What the previous process wrote without syncing becomes durable before anything builds on it.
        if let Err(failure) = self.sync() {
            self.note(&failure);
        } else if let Err(error) = self.disk.set_ballast(self.settings.reserve_bytes) {
            self.note(&write_failed(error));
        }
        Rest { patience: self.patience(), gather: Duration::ZERO }
    }

    /// Writes whatever is queued, and does what is due.
    pub(crate) fn turn(&mut self) -> Rest {
        self.shared.take(&mut self.batch);
        let synced = self.batch.iter().filter(|pending| pending.durability == Durability::Fsync).count();
        if self.shared.state() != State::Ready {
            self.probe_when_due();
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.write(&mut batch);
        self.batch = batch;
        let interval = if self.has_room() { self.settings.sync_interval } else { Duration::ZERO };
        self.sync_when_due(interval);
        let gather = if synced < CROWD { Duration::ZERO } else { self.settings.gather };
        Rest { patience: self.patience(), gather }
    }

    /// Makes durable what was written, at the end.
    pub(crate) fn end(&mut self) {
        if self.prepare().is_ok() {
            self.sync_when_due(Duration::ZERO);
        }
    }

    /// Writes what is queued as far as that takes no sync and no repair; false where the thread was told to go on.
    pub(crate) fn quick_turn(&mut self) -> bool {
        if !self.batch.is_empty() || self.is_broken() || self.is_file_full() || !self.has_room() {
            self.shared.nudge();
            return false;
        }
        if !self.shared.take_quick(&mut self.batch) {
            return true;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let was_synced = self.unsynced.is_empty();
        let round = self.encode(&batch, QUICK_ROUND_BYTES);
        // A failure is kept in `repair`; the thread tries again and tells whom it must.
        if self.persist(&round).is_ok() {
            let taken = round.results.len();
            for (pending, result) in batch.drain(..taken).zip(round.results) {
                pending.finish(result);
            }
        }
        self.batch = batch;
        let goes_on = self.batch.is_empty() && self.has_room();
        // The thread may be asleep for good, and has to sync what was written.
        if !goes_on || was_synced {
            self.shared.nudge();
        }
        goes_on
    }

    fn patience(&self) -> Option<Duration> {
        if self.is_broken() {
            return Some(self.settings.probe_interval);
        }
        (!self.unsynced.is_empty())
            .then(|| self.settings.sync_interval.saturating_sub(self.unsynced_since.elapsed()))
    }

    /// Whether a caller's round can be kept unsynced.
    fn has_room(&self) -> bool {
        self.unsynced.len() <= UNSYNCED_BYTES - QUICK_ROOM_BYTES
    }

    fn is_file_full(&self) -> bool {
        self.good >= self.settings.segment_bytes
    }

    fn is_broken(&self) -> bool {
        self.repair != Repair::Nothing || !matches!(self.shared.state(), State::Ready | State::Closed)
    }

    fn write(&mut self, batch: &mut Vec<Pending>) {
        while !batch.is_empty() {
            if self.shared.state() == State::NoSpace {
                refuse_ordinary(batch, &AuditError::NoSpace);
            }
            let round = self.prepare().map(|()| self.encode(batch, ROUND_BYTES));
            let taken = round.as_ref().map_or(batch.len(), |round| round.results.len());
            let written = round.and_then(|round| self.persist(&round).map(|()| round));
            match written {
                Ok(round) => {
                    for (pending, result) in batch.drain(..taken).zip(round.results) {
                        pending.finish(result);
                    }
                }
                Err(failure) => {
                    self.note(&failure);
                    let mut failed: Vec<Pending> = batch.drain(..taken).collect();
                    if failure.is_no_space() {
                        refuse_ordinary(&mut failed, &failure.to_error());
                        if !failed.is_empty() && self.release_reserve() {
                            failed.append(batch);
                            *batch = failed;
                            continue;
                        }
                    }
                    for pending in failed {
                        pending.finish(Err(failure.to_error()));
                    }
                }
            }
        }
    }

    /// Brings the file into the state that the next write expects.
    fn prepare(&mut self) -> Result<(), Failure> {
        match self.repair {
            Repair::Nothing => {}
            Repair::Cut => self.disk.truncate(self.good).map_err(write_failed)?,
            Repair::Rewrite => {
                self.disk.truncate(self.durable).map_err(write_failed)?;
                self.disk.append(&self.unsynced).map_err(write_failed)?;
                self.sync()?;
            }
        }
        self.repair = Repair::Nothing;
        if self.is_file_full() {
            self.sync()?;
            let header = encode_file_header(&self.edge);
            let first_seq = self.edge.size();
            self.disk.rotate(first_seq, &header).map_err(write_failed)?;
            self.good = len64(header.len());
            self.durable = self.good;
            let readable = self.good;
            self.shared.publish(|published| {
                Arc::make_mut(&mut published.segments).push(first_seq);
                published.readable = readable;
            });
        }
        Ok(())
    }

    /// Numbers, seals and frames as many records as one round takes.
    fn encode(&mut self, batch: &[Pending], round_bytes: usize) -> Round {
        self.frames.clear();
        let mut round =
            Round { results: Vec::with_capacity(batch.len()), edge: self.edge.clone(), sync: false };
        for pending in batch {
            if self.frames.len() >= round_bytes {
                break;
            }
            let seq = round.edge.size();
            let result = self.encode_one(pending, seq).map(|begin| {
                round.edge.push(leaf_hash(self.frames.get(begin..).unwrap_or_default()));
                round.sync |= pending.durability == Durability::Fsync;
                seq
            });
            round.results.push(result);
        }
        round
    }

    /// Appends one frame and says where in `frames` its entry begins; on failure nothing is appended.
    fn encode_one(&mut self, pending: &Pending, seq: u64) -> Result<usize, AuditError> {
        let (body, sealer) = match &pending.body {
            BodyInput::Clear(body) => (body, None),
            BodyInput::Sealed(body, sealer) => (body, Some(sealer)),
        };
        body.encode_into(&mut self.body).map_err(AuditError::Body)?;
        let key_id = sealer.map(|sealer| sealer.key_id());
        let clear = (seq, pending.time, pending.kind);
        encode_header(&mut self.header, clear, &self.settings.node, key_id.as_ref());
        let sealed = sealer.map(|sealer| sealer.seal(&self.header, seq, &self.body)).transpose();
        let sealed = sealed.map_err(AuditError::Seal)?;
        let stored = sealed.as_deref().unwrap_or(&self.body);
        let size = self.header.len().saturating_add(4).saturating_add(stored.len());
        if size > MAX_ENTRY_BYTES {
            return Err(AuditError::EntryTooLarge { size, limit: MAX_ENTRY_BYTES });
        }
        let length = u32::try_from(stored.len()).unwrap_or(u32::MAX).to_be_bytes();
        Ok(append_frame(&mut self.frames, self.durable, &[&self.header, &length, stored]))
    }

    /// Writes the frames of a round, syncs if need be, and publishes.
    fn persist(&mut self, round: &Round) -> Result<(), Failure> {
        if self.frames.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.disk.append(&self.frames) {
            self.repair = Repair::Cut;
            return Err(write_failed(error));
        }
        let good = self.good.saturating_add(len64(self.frames.len()));
        if round.sync || self.unsynced.len().saturating_add(self.frames.len()) > UNSYNCED_BYTES {
            self.sync()?;
            self.durable = good;
        } else {
            if self.unsynced.is_empty() {
                self.unsynced_since = monotonic_now();
            }
            self.unsynced.extend_from_slice(&self.frames);
        }
        self.good = good;
        self.edge.clone_from(&round.edge);
        let (edge, synced) = (&self.edge, self.unsynced.is_empty());
        self.shared.publish(|published| {
            published.edge.clone_from(edge);
            if synced {
                published.durable.clone_from(edge);
            }
            published.readable = good;
        });
        if self.shared.state() == State::WriteFailed {
            self.shared.set_state(State::Ready);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failure> {
        if let Err(error) = self.disk.sync() {
            self.repair = Repair::Rewrite;
            return Err(sync_failed(error));
        }
        self.durable = self.good;
        self.unsynced.clear();
        self.shared.mark_durable(&self.edge);
        Ok(())
    }

    fn sync_when_due(&mut self, interval: Duration) {
        if self.unsynced.is_empty() || self.repair != Repair::Nothing {
            return;
        }
        if self.unsynced_since.elapsed() >= interval
            && let Err(failure) = self.sync()
        {
            self.note(&failure);
        }
    }

    fn note(&mut self, failure: &Failure) {
        let state = if failure.is_no_space() { State::NoSpace } else { State::WriteFailed };
        self.shared.set_state(state);
        self.last_probe = monotonic_now();
    }

    /// Gives up part of the reserve; false where none is left.
    fn release_reserve(&mut self) -> bool {
        let have = self.disk.ballast();
        have > 0 && self.disk.set_ballast(have.saturating_sub(RELEASE_BYTES)).is_ok()
    }

    /// Finds out whether a log that could not be written can be written again.
    fn probe_when_due(&mut self) {
        if self.last_probe.elapsed() < self.settings.probe_interval {
            return;
        }
        self.last_probe = monotonic_now();
        let reserve = self.settings.reserve_bytes;
        let usable = self.prepare().is_ok()
            && self.sync().is_ok()
            && self.disk.set_ballast(reserve.max(PROBE_BYTES)).is_ok()
            && self.disk.set_ballast(reserve).is_ok();
        if usable {
            self.shared.set_state(State::Ready);
        }
    }
}

/// Fails the records that may not use the room kept for privileged ones.
fn refuse_ordinary(batch: &mut Vec<Pending>, error: &AuditError) {
    let (privileged, ordinary): (Vec<_>, Vec<_>) =
        batch.drain(..).partition(|pending| pending.slot.privileged());
    batch.extend(privileged);
    for pending in ordinary {
        pending.finish(Err(error.clone()));
    }
}
