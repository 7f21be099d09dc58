//! What every engine must do, as checks to run against it. Invariant: a check uses the port alone, starts from a fresh store
//! and says in words which promise was broken. An engine's tests call [`run`].

mod commits;
mod feeds;
mod views;

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Batch, Keyspace, Revision, Snapshot, Storage, StorageError};

/// An engine under test.
#[async_trait]
pub trait Engine: Send + Sync {
    /// A new, empty store.
    async fn fresh(&self) -> Result<Arc<dyn Storage>, StorageError>;

    /// The store of the last [`Engine::fresh`], which was closed and dropped, opened again.
    async fn reopened(&self) -> Result<Arc<dyn Storage>, StorageError> {
        Err(StorageError::Closed)
    }

    /// Whether [`Engine::reopened`] works.
    fn persists(&self) -> bool {
        true
    }
}

/// How an engine broke the port's promises.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An operation failed that must work.
    #[error("the engine failed where it must work")]
    Storage(#[from] StorageError),
    /// A task of the check ended badly.
    #[error("a task of the check ended badly")]
    Task(#[from] tokio::task::JoinError),
    /// A promise was broken.
    #[error("broken promise: {promise}")]
    Broken {
        /// Which one.
        promise: &'static str,
    },
    /// One check failed.
    #[error("check {check}")]
    Check {
        /// Its name.
        check: &'static str,
        /// How.
        #[source]
        source: Box<Failure>,
    },
}

/// Runs every check, each on a fresh store.
pub async fn run(engine: &dyn Engine) -> Result<(), Failure> {
    macro_rules! check {
        ($($check:path),+ $(,)?) => {
            $($check(engine).await.map_err(|source| Failure::Check { check: stringify!($check), source: Box::new(source) })?;)+
        };
    }
    check!(
        commits::a_fresh_store_holds_its_format_record_only,
        commits::values_are_put_replaced_and_deleted,
        commits::requirements_hold_or_nothing_is_applied,
        commits::requirements_see_the_store_before_the_batch,
        commits::limits_are_kept_by_every_engine,
        commits::racing_writers_lose_no_update,
        commits::one_of_many_creators_wins,
        commits::a_dropped_commit_is_whole,
        views::snapshots_never_change,
        views::snapshots_show_whole_batches,
        views::what_was_acknowledged_shows_while_others_read,
        views::ranges_are_ordered_and_bounded,
        views::pages_cover_a_range_once,
        views::keyspaces_are_apart,
        views::purging_keeps_what_is_current,
        feeds::feeds_show_every_commit_in_order,
        feeds::a_feed_after_a_snapshot_misses_nothing,
        feeds::closed_stores_refuse_everything,
    );
    if engine.persists() {
        check!(feeds::what_was_committed_is_there_after_reopening);
    }
    Ok(())
}

fn ensure(held: bool, promise: &'static str) -> Result<(), Failure> {
    if held { Ok(()) } else { Err(Failure::Broken { promise }) }
}

fn put(keyspace: Keyspace, key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(keyspace, key.to_vec(), value.to_vec());
    batch
}

fn delete(keyspace: Keyspace, key: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.delete(keyspace, key.to_vec());
    batch
}

async fn value(
    snapshot: &dyn Snapshot,
    keyspace: Keyspace,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StorageError> {
    Ok(snapshot.get(keyspace, key).await?.map(|stored| stored.value.to_vec()))
}

async fn now(store: &dyn Storage, keyspace: Keyspace, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
    value(store.snapshot().await?.as_ref(), keyspace, key).await
}

async fn revision(
    store: &dyn Storage,
    keyspace: Keyspace,
    key: &[u8],
) -> Result<Option<Revision>, StorageError> {
    Ok(store.snapshot().await?.get(keyspace, key).await?.map(|stored| stored.revision))
}
