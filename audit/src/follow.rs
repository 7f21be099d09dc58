//! A cursor on a log that is being written, which can wait for more.
//!
//! Invariant: a follower never holds up the writer; it reads files, and a slow one merely lags.
//! Absent: remembering the position over a restart, which the follower's owner does.

use crate::entry::Entry;
use crate::error::ReadError;
use crate::queue::{Shared, State};
use crate::reader::Reader;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Reads entries as they are recorded.
pub struct Follower {
    reader: Reader,
    shared: Arc<Shared>,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower")
            .field("reader", &self.reader)
            .field("lag", &self.lag())
            .finish_non_exhaustive()
    }
}

impl Follower {
    pub(crate) fn new(reader: Reader, shared: Arc<Shared>) -> Self {
        Self { reader, shared }
    }

    /// The next entry, or nothing where it has caught up. Reads a file: not for an async thread that must not block.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        self.reader.next_entry()
    }

    /// The number of the entry that comes next.
    pub fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Goes to another place in the log.
    pub fn seek(&mut self, seq: u64) -> Result<(), ReadError> {
        self.reader.seek(seq)
    }

    /// How many recorded entries it has not read.
    pub fn lag(&self) -> u64 {
        self.shared.size().saturating_sub(self.position())
    }

    /// Completes when there is an entry to read (true), or when the log is closed and there will be none (false).
    pub fn growth(&self) -> Growth {
        Growth { shared: Arc::clone(&self.shared), position: self.position() }
    }

    /// Blocks until there is an entry to read (true), or the log is closed or `patience` over (false).
    pub fn wait(&self, patience: Duration) -> bool {
        self.shared.wait_growth(self.position(), patience);
        self.shared.size() > self.position()
    }

    /// Whether the log is closed, so that nothing comes after what can be read now.
    pub fn is_closed(&self) -> bool {
        self.shared.state() == State::Closed
    }
}

/// Completes when a log grows beyond a position or is closed.
#[must_use = "waits only when awaited"]
pub struct Growth {
    shared: Arc<Shared>,
    position: u64,
}

impl fmt::Debug for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Growth").field("position", &self.position).finish_non_exhaustive()
    }
}

impl Growth {
    fn check(&self) -> Option<bool> {
        if self.shared.size() > self.position {
            return Some(true);
        }
        (self.shared.state() == State::Closed).then_some(false)
    }
}

impl Future for Growth {
    type Output = bool;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        if let Some(grown) = self.check() {
            return Poll::Ready(grown);
        }
        self.shared.await_growth(context.waker());
        // What happened before the waker was known would wake nobody.
        self.check().map_or(Poll::Pending, Poll::Ready)
    }
}
