//! The change feed: which keys were written, in the order of their commits. Invariant: a feed never skips a commit silently;
//! one that falls behind what is kept gets `Lagged` and starts over from a snapshot. Absent: values, which the reader fetches
//! under its own authorization.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::{Batch, Keyspace, Revision};

/// Commits that a [`ChangeHub`] keeps for feeds that are behind.
const KEPT: usize = 1024;

/// One written key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedKey {
    /// Where the key lives.
    pub keyspace: Keyspace,
    /// The key.
    pub key: Bytes,
    /// Whether the commit deleted it.
    pub deleted: bool,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The commit.
    pub revision: Revision,
    /// What it wrote.
    pub keys: Arc<[ChangedKey]>,
}

/// Why a feed ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeFeedError {
    /// Commits were missed: take a snapshot, and a new feed after its revision.
    #[error("the change feed fell behind; read anew from a snapshot")]
    Lagged,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// For engines: where a feed gets its commits.
#[async_trait]
pub trait ChangeSource: Send {
    /// The next commit; an error is final. Must lose nothing when the future is dropped.
    async fn next(&mut self) -> Result<Change, ChangeFeedError>;
}

/// A subscription to commits.
pub struct ChangeFeed(Box<dyn ChangeSource>);

impl ChangeFeed {
    /// For engines: a feed over their source.
    #[must_use]
    pub fn new(source: impl ChangeSource + 'static) -> Self {
        Self(Box::new(source))
    }

    /// Waits for the next commit. Dropping the future loses nothing; an error is final.
    pub async fn next(&mut self) -> Result<Change, ChangeFeedError> {
        self.0.next().await
    }
}

/// For engines of one process whose revisions count up by one: keeps the last commits and wakes the feeds.
#[derive(Debug)]
pub struct ChangeHub {
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Kept {
    /// The commit before the oldest kept one.
    floor: u64,
    changes: VecDeque<Change>,
    closed: bool,
}

impl ChangeHub {
    /// A hub for a store whose newest commit is `revision`; feeds after an older one have lagged.
    #[must_use]
    pub fn new(revision: Revision) -> Arc<Self> {
        let floor = revision.engine_number();
        Arc::new(Self {
            kept: Mutex::new(Kept { floor, changes: VecDeque::new(), closed: false }),
            newest: watch::Sender::new(floor),
        })
    }

    /// Adds a commit that is durable. To be called in the order of the commits.
    pub fn publish(&self, revision: Revision, batch: &Batch) {
        let keys = batch.operations().iter().map(|operation| ChangedKey {
            keyspace: operation.keyspace,
            key: operation.key.clone(),
            deleted: operation.value.is_none(),
        });
        let change = Change { revision, keys: keys.collect() };
        {
            let mut kept = self.kept();
            kept.changes.push_back(change);
            if kept.changes.len() > KEPT
                && let Some(dropped) = kept.changes.pop_front()
            {
                kept.floor = dropped.revision.engine_number();
            }
        }
        self.newest.send_replace(revision.engine_number());
    }

    /// Ends every feed, once it has seen what is kept.
    pub fn close(&self) {
        self.kept().closed = true;
        self.newest.send_modify(|_| ());
    }

    /// A feed of what comes after `after`, or after the newest commit.
    #[must_use]
    pub fn feed(self: &Arc<Self>, after: Option<Revision>) -> ChangeFeed {
        let newest = self.newest.subscribe();
        let seen = after.map_or_else(|| *newest.borrow(), Revision::engine_number);
        ChangeFeed::new(HubFeed { hub: Arc::clone(self), seen, newest })
    }

    fn next_after(&self, seen: u64) -> Option<Result<Change, ChangeFeedError>> {
        let kept = self.kept();
        if seen < kept.floor {
            return Some(Err(ChangeFeedError::Lagged));
        }
        let first_unseen = kept.changes.partition_point(|change| change.revision.engine_number() <= seen);
        match kept.changes.get(first_unseen) {
            Some(change) => Some(Ok(change.clone())),
            None => kept.closed.then_some(Err(ChangeFeedError::Closed)),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing under this lock can panic half-way, so a poisoned one is whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct HubFeed {
    hub: Arc<ChangeHub>,
    seen: u64,
    newest: watch::Receiver<u64>,
}

#[async_trait]
impl ChangeSource for HubFeed {
    async fn next(&mut self) -> Result<Change, ChangeFeedError> {
        loop {
            // Marked as seen before looking, so that a commit in between wakes the wait below.
            self.newest.borrow_and_update();
            if let Some(next) = self.hub.next_after(self.seen) {
                if let Ok(change) = &next {
                    self.seen = change.revision.engine_number();
                }
                return next;
            }
            self.newest.changed().await.map_err(|_| ChangeFeedError::Closed)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(hub: &ChangeHub, number: u64) {
        let mut batch = Batch::new();
        batch.put(Keyspace::Policies, number.to_be_bytes().to_vec(), vec![1]);
        hub.publish(Revision::from_engine(number), &batch);
    }

    #[tokio::test]
    async fn a_feed_that_falls_behind_what_is_kept_has_lagged() {
        let hub = ChangeHub::new(Revision::from_engine(7));
        let mut behind = hub.feed(None);
        let mut older_than_the_hub = hub.feed(Some(Revision::from_engine(6)));
        assert_eq!(older_than_the_hub.next().await, Err(ChangeFeedError::Lagged));
        for number in 8..8 + u64::try_from(KEPT).unwrap() {
            publish(&hub, number);
        }
        assert_eq!(behind.next().await.unwrap().revision, Revision::from_engine(8));
        publish(&hub, 9000);
        publish(&hub, 9001);
        assert_eq!(behind.next().await, Err(ChangeFeedError::Lagged));
    }

    #[tokio::test]
    async fn a_waiting_feed_wakes_for_a_commit_and_for_the_end() {
        let hub = ChangeHub::new(Revision::from_engine(0));
        let mut feed = hub.feed(None);
        let waiting = tokio::spawn(async move { (feed.next().await, feed.next().await) });
        tokio::task::yield_now().await;
        publish(&hub, 1);
        hub.close();
        let (change, end) = waiting.await.unwrap();
        assert_eq!(change.unwrap().keys[0].keyspace, Keyspace::Policies);
        assert_eq!(end, Err(ChangeFeedError::Closed));
    }
}
