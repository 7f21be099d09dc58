//! What callers, followers and the writer thread share: slots, the queue, and how far the log has got.
//!
//! Invariant: at most `slots` records (and a few privileged ones more) are reserved or queued at any time, and the
//! queue never holds a record without its slot. Absent: files; only the writer touches them.

use crate::entry::{EntryKind, UnixMillis};
use crate::error::{AuditError, Refused};
use crate::log::Durability;
use crate::merkle::Hash;
use crate::seal::BodyInput;
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
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) head: Head,
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
    writer_waits: bool,
    /// No more reservations; what is queued is still written.
    closing: bool,
    /// The writer is gone.
    closed: bool,
}

#[derive(Default)]
struct Waiters {
    list: VecDeque<(u64, Waker)>,
    next: u64,
}

/// What the writer finds when it asks for work.
pub(crate) enum Next {
    /// Records.
    Work,
    /// None came in time.
    Idle,
    /// None will come any more.
    Closed,
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
    followers: Mutex<Vec<Waker>>,
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
            followers: Mutex::default(),
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
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    fn wake_all_waiters(&self) {
        while self.waiting.load(Ordering::SeqCst) > 0 {
            self.wake_waiter();
        }
    }

    /// Queues a record; a closed log drops it, which its caller sees.
    pub(crate) fn push(&self, pending: Pending) {
        let mut queue = lock(&self.queue);
        if queue.closed {
            drop(queue);
            return pending.finish(Err(AuditError::Closed));
        }
        queue.pending.push(pending);
        let wake = std::mem::take(&mut queue.writer_waits);
        drop(queue);
        if wake {
            self.queued.notify_one();
        }
    }

    /// Moves everything queued into `batch` (which is empty), waiting up to `patience`, or for as long as it takes.
    pub(crate) fn take(&self, batch: &mut Vec<Pending>, patience: Option<Duration>) -> Next {
        let mut queue = lock(&self.queue);
        let idle = |queue: &mut Queue| {
            queue.writer_waits = queue.pending.is_empty() && !queue.closing;
            queue.writer_waits
        };
        queue = match patience {
            None => self.queued.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                self.queued
                    .wait_timeout_while(queue, patience, idle)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        queue.writer_waits = false;
        if !queue.pending.is_empty() {
            std::mem::swap(&mut queue.pending, batch);
            return Next::Work;
        }
        if queue.closing { Next::Closed } else { Next::Idle }
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

    pub(crate) fn published(&self) -> Published {
        lock(&self.published).clone()
    }

    pub(crate) fn size(&self) -> u64 {
        lock(&self.published).head.size
    }

    pub(crate) fn publish(&self, change: impl FnOnce(&mut Published)) {
        change(&mut lock(&self.published));
        self.wake_followers();
    }

    fn wake_followers(&self) {
        self.advanced.notify_all();
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
        let _ = self.advanced.wait_timeout_while(published, patience, |published| {
            published.head.size <= seq && self.state() != State::Closed
        });
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
