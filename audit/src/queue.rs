//! What callers, followers and the writer share: slots, the queue, and how far the log has got.
//!
//! Invariant: at most `slots` records (and a few privileged ones more) are reserved or queued at any time, and the
//! queue never holds a record without its slot. Absent: files, and taking turns at writing them (`turns`).

use crate::entry::{EntryKind, UnixMillis};
use crate::error::{AuditError, Refused};
use crate::log::Durability;
use crate::merkle::{Hash, TreeEdge};
use crate::seal::BodyInput;
use crate::turns::Seat;
use futures::channel::oneshot;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// How many privileged records may be under way beyond the limit for ordinary ones.
pub(crate) const PRIVILEGED_SLOTS: usize = 64;

/// Whether the log takes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does.
    Ready,
    /// The disk is full: privileged records only, in the room kept for them.
    NoSpace,
    /// The last write failed, and none has worked since.
    WriteFailed,
    /// It was closed.
    Closed,
}

/// How far the log has got: its size and the root of its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How many entries it has.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

/// What readers may read.
pub(crate) struct Published {
    pub(crate) edge: TreeEdge,
    /// The tree of what will survive a power failure.
    pub(crate) durable: TreeEdge,
    /// The first sequence numbers of the files, in order; the last file is being written.
    pub(crate) segments: Arc<Vec<u64>>,
    /// How many bytes of the last file will not change any more.
    pub(crate) readable: u64,
}

/// A record on its way to the writer.
pub(crate) struct Pending {
    pub(crate) slot: HeldSlot,
    pub(crate) kind: EntryKind,
    pub(crate) time: UnixMillis,
    pub(crate) body: BodyInput,
    pub(crate) durability: Durability,
    pub(crate) done: oneshot::Sender<Result<u64, AuditError>>,
}

impl Pending {
    /// Tells the caller, and gives the slot back.
    pub(crate) fn finish(self, result: Result<u64, AuditError>) {
        drop(self.slot);
        // A caller that went away does not want to know; the entry stays.
        let _ = self.done.send(result);
    }
}

#[derive(Default)]
struct Queue {
    pending: Vec<Pending>,
    /// One of them has to be synced, which only the thread does.
    needs_thread: bool,
    thread_waits: bool,
    /// The thread shall look at the writer again.
    nudged: bool,
    /// No more reservations; what is queued is still written.
    closing: bool,
    /// The writer is gone.
    closed: bool,
}

impl Queue {
    /// Whether a caller may write what is queued.
    fn is_quick(&self) -> bool {
        !self.pending.is_empty() && !self.needs_thread && !self.closing
    }
}

#[derive(Default)]
struct Waiters {
    list: VecDeque<(u64, Waker)>,
    next: u64,
}

pub(crate) struct Shared {
    queue: Mutex<Queue>,
    queued: Condvar,
    used: AtomicUsize,
    slots: usize,
    keeps_reserve: bool,
    state: AtomicU8,
    waiting: AtomicUsize,
    waiters: Mutex<Waiters>,
    published: Mutex<Published>,
    advanced: Condvar,
    /// How many threads wait for `advanced`.
    watchers: AtomicUsize,
    followers: Mutex<Vec<Waker>>,
    pub(crate) seat: Seat,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(slots: usize, keeps_reserve: bool, published: Published) -> Self {
        Self {
            queue: Mutex::default(),
            queued: Condvar::new(),
            used: AtomicUsize::new(0),
            slots,
            keeps_reserve,
            state: AtomicU8::new(0),
            waiting: AtomicUsize::new(0),
            waiters: Mutex::default(),
            published: Mutex::new(published),
            advanced: Condvar::new(),
            watchers: AtomicUsize::new(0),
            followers: Mutex::default(),
            seat: Seat::default(),
        }
    }

    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            0 => State::Ready,
            1 => State::NoSpace,
            2 => State::WriteFailed,
            _ => State::Closed,
        }
    }

    /// Changes the state; closed stays closed.
    pub(crate) fn set_state(&self, state: State) {
        let code = match state {
            State::Ready => 0,
            State::NoSpace => 1,
            State::WriteFailed => 2,
            State::Closed => 3,
        };
        let _ =
            self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| (old != 3).then_some(code));
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn try_reserve(self: &Arc<Self>, privileged: bool) -> Result<HeldSlot, Refused> {
        match self.state() {
            State::Ready => {}
            State::NoSpace if privileged && self.keeps_reserve => {}
            State::NoSpace => return Err(Refused::NoSpace),
            State::WriteFailed => return Err(Refused::WriteFailed),
            State::Closed => return Err(Refused::Closed),
        }
        let extra = if privileged { PRIVILEGED_SLOTS } else { 0 };
        let limit = self.slots.saturating_add(extra);
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                (used < limit).then(|| used.saturating_add(1))
            })
            .map(|_| HeldSlot { shared: Arc::clone(self), privileged })
            .map_err(|_| Refused::QueueFull { limit })
    }

    /// Registers a waker for the next free slot, under `id` where one was given out before.
    pub(crate) fn await_slot(&self, id: Option<u64>, waker: &Waker) -> u64 {
        let mut waiters = lock(&self.waiters);
        if let Some(id) = id
            && let Some((_, known)) = waiters.list.iter_mut().find(|(known, _)| *known == id)
        {
            known.clone_from(waker);
            return id;
        }
        let id = waiters.next;
        waiters.next = id.wrapping_add(1);
        waiters.list.push_back((id, waker.clone()));
        self.waiting.store(waiters.list.len(), Ordering::SeqCst);
        id
    }

    /// Forgets a waiter; false where it had been woken already.
    pub(crate) fn forget_waiter(&self, id: u64) -> bool {
        let mut waiters = lock(&self.waiters);
        let before = waiters.list.len();
        waiters.list.retain(|(known, _)| *known != id);
        self.waiting.store(waiters.list.len(), Ordering::SeqCst);
        waiters.list.len() < before
    }

    pub(crate) fn wake_waiter(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let woken = {
            let mut waiters = lock(&self.waiters);
            let woken = waiters.list.pop_front();
            self.waiting.store(waiters.list.len(), Ordering::SeqCst);
            woken
        };
        if let Some((_, waker)) = woken {
            waker.wake();
        }
    }

    #[cfg(test)]
    pub(crate) fn thread_waits(&self) -> bool {
        lock(&self.queue).thread_waits
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn wake_all_waiters(&self) {
        while self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake_waiter();
        }
    }

    /// Queues a record; a closed log drops it, which its caller sees. True where the caller may write it.
    pub(crate) fn push(&self, pending: Pending) -> bool {
        let mut queue = lock(&self.queue);
        if queue.closed {
            drop(queue);
            pending.finish(Err(AuditError::Closed));
            return false;
        }
        queue.needs_thread |= pending.durability == Durability::Fsync;
        queue.pending.push(pending);
        let quick = queue.is_quick();
        if !quick {
            self.wake_thread(queue);
        }
        quick
    }

    /// Has the thread look at the writer, for whatever only it may do.
    pub(crate) fn nudge(&self) {
        let mut queue = lock(&self.queue);
        queue.nudged = true;
        self.wake_thread(queue);
    }

    fn wake_thread(&self, mut queue: MutexGuard<'_, Queue>) {
        let wake = std::mem::take(&mut queue.thread_waits);
        drop(queue);
        if wake {
            self.queued.notify_one();
        }
    }

    /// Blocks the thread until it has something to do, up to `patience`; false where there will be nothing any more.
    pub(crate) fn wait(&self, patience: Option<Duration>) -> bool {
        let queue = lock(&self.queue);
        let idle = |queue: &mut Queue| {
            queue.thread_waits = queue.pending.is_empty() && !queue.nudged && !queue.closing;
            queue.thread_waits
        };
        let patience = patience.unwrap_or(Duration::MAX);
        let waited = self.queued.wait_timeout_while(queue, patience, idle);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        queue.thread_waits = false;
        let nudged = std::mem::take(&mut queue.nudged);
        nudged || !queue.pending.is_empty() || !queue.closing
    }

    /// Lets more records come that the next sync can make durable, where one waits for it already.
    pub(crate) fn gather(&self, patience: Duration) {
        let queue = lock(&self.queue);
        if queue.needs_thread && self.used() < self.slots {
            // Nobody who queues wakes the thread from this; closing does.
            drop(self.queued.wait_timeout_while(queue, patience, |queue| !queue.closing));
        }
    }

    /// Moves everything queued to the end of `batch`. Only for who has the writer, so that the order stays.
    pub(crate) fn take(&self, batch: &mut Vec<Pending>) {
        let mut queue = lock(&self.queue);
        queue.needs_thread = false;
        batch.append(&mut queue.pending);
    }

    /// The same, where something is queued and nothing of it is for the thread.
    pub(crate) fn take_quick(&self, batch: &mut Vec<Pending>) -> bool {
        let mut queue = lock(&self.queue);
        let quick = queue.is_quick();
        if quick {
            batch.append(&mut queue.pending);
        }
        quick
    }

    /// Whether something is queued, and nothing of it is for the thread.
    pub(crate) fn has_quick(&self) -> bool {
        lock(&self.queue).is_quick()
    }

    /// Takes no more reservations; the writer ends when the queue is empty.
    pub(crate) fn close(&self) {
        self.set_state(State::Closed);
        lock(&self.queue).closing = true;
        self.queued.notify_one();
        self.wake_all_waiters();
    }

    /// The writer is gone: nothing queued will be written, nobody needs to wait.
    pub(crate) fn writer_ended(&self) {
        self.close();
        let left = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            std::mem::take(&mut queue.pending)
        };
        for pending in left {
            pending.finish(Err(AuditError::Closed));
        }
        self.wake_followers();
    }

    pub(crate) fn published<T>(&self, look: impl FnOnce(&Published) -> T) -> T {
        look(&lock(&self.published))
    }

    pub(crate) fn size(&self) -> u64 {
        self.published(|published| published.edge.size())
    }

    /// Hashes up the tree's edge, which nobody who records has to do.
    pub(crate) fn head(&self) -> Head {
        let edge = self.published(|published| published.edge.clone());
        Head { size: edge.size(), root: edge.root() }
    }

    /// The same of what will survive a power failure.
    pub(crate) fn durable_head(&self) -> Head {
        let edge = self.published(|published| published.durable.clone());
        Head { size: edge.size(), root: edge.root() }
    }

    /// What was published up to here will survive a power failure.
    pub(crate) fn mark_durable(&self, edge: &TreeEdge) {
        lock(&self.published).durable.clone_from(edge);
    }

    pub(crate) fn publish(&self, change: impl FnOnce(&mut Published)) {
        change(&mut lock(&self.published));
        self.wake_followers();
    }

    fn wake_followers(&self) {
        if self.watchers.load(Ordering::SeqCst) > 0 {
            self.advanced.notify_all();
        }
        for waker in std::mem::take(&mut *lock(&self.followers)) {
            waker.wake();
        }
    }

    /// Has `waker` woken when the log next grows or closes.
    pub(crate) fn await_growth(&self, waker: &Waker) {
        let mut followers = lock(&self.followers);
        if !followers.iter().any(|known| known.will_wake(waker)) {
            followers.push(waker.clone());
        }
    }

    /// Blocks until the log has more than `seq` entries, is closed, or `patience` is over.
    pub(crate) fn wait_growth(&self, seq: u64, patience: Duration) {
        let published = lock(&self.published);
        self.watchers.fetch_add(1, Ordering::SeqCst);
        let _ = self.advanced.wait_timeout_while(published, patience, |published| {
            published.edge.size() <= seq && self.state() != State::Closed
        });
        self.watchers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A slot that is given back when dropped.
pub(crate) struct HeldSlot {
    shared: Arc<Shared>,
    privileged: bool,
}

impl HeldSlot {
    pub(crate) fn privileged(&self) -> bool {
        self.privileged
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        self.shared.used.fetch_sub(1, Ordering::SeqCst);
        self.shared.wake_waiter();
    }
}
