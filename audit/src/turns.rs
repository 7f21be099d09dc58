//! Whose turn it is to write: the writer thread's, or that of a caller whose entry needs no sync.
//!
//! Invariant: who takes from the queue has the writer, so that entries keep their order; and who leaves something in
//! the queue knows of somebody who will look at it. A caller never waits for the writer: it leaves its entry to whoever
//! has it. Syncs, new files, repairs and probes are the thread's. Absent: the writing itself (`writer`).

use crate::queue::{Pending, Shared};
use crate::writer::Writer;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// How often in a row a caller writes what others have queued meanwhile.
const QUICK_TURNS: usize = 4;

/// Where the writer is, for whoever writes; nothing before it is ready and after it has ended.
#[derive(Default)]
pub(crate) struct Seat(Mutex<Option<Writer>>);

impl Seat {
    /// The writer, once whoever has it is done; never for an async thread.
    fn wait(&self) -> MutexGuard<'_, Option<Writer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer, unless somebody has it.
    fn try_now(&self) -> Option<MutexGuard<'_, Option<Writer>>> {
        match self.0.try_lock() {
            Ok(writer) => Some(writer),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Closes the log when the thread ends, also by a panic in a sealer.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        end(&self.0);
    }
}

/// Ends the writer, which lets go of the files, and answers everybody who waits.
fn end(shared: &Shared) {
    let writer = shared.seat.wait().take();
    drop(writer);
    shared.writer_ended();
}

/// What the writer thread does.
pub(crate) fn run(mut writer: Writer) {
    let ended = Ended(Arc::clone(writer.shared()));
    let shared = &ended.0;
    let mut rest = writer.begin();
    *shared.seat.wait() = Some(writer);
    loop {
        let goes_on = shared.wait(rest.patience);
        if !rest.gather.is_zero() {
            shared.gather(rest.gather);
        }
        let mut writer = shared.seat.wait();
        // It is gone where a sealer panicked on a caller's thread.
        let Some(writer) = writer.as_mut() else { break };
        rest = writer.turn();
        if !goes_on {
            writer.end();
            break;
        }
    }
}

/// Queues a record, and writes it where nobody else does and it needs no sync.
pub(crate) fn record(shared: &Shared, pending: Pending) {
    if !shared.push(pending) {
        return;
    }
    for _ in 0..QUICK_TURNS {
        // Whoever has the writer looks at the queue again when done.
        let Some(mut writer) = shared.seat.try_now() else { return };
        // The thread looks at the queue when it has made the writer ready, and when it has ended it.
        let Some(present) = writer.as_mut() else { return };
        let goes_on = catch_unwind(AssertUnwindSafe(|| present.quick_turn()));
        drop(writer);
        match goes_on {
            Ok(true) if shared.has_quick() => {}
            Ok(_) => return,
            Err(_) => return end(shared),
        }
    }
    shared.nudge();
}
