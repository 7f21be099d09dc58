//! Checks of change feeds and of a store's end and return.

use std::sync::Arc;

use super::{Engine, Failure, delete, ensure, now, put, revision};
use crate::{Batch, Change, ChangeFeed, ChangeFeedError, Keyspace, Precondition, Range, StorageError};

const SPACE: Keyspace = Keyspace::Policies;

async fn next(feed: &mut ChangeFeed) -> Result<Change, Failure> {
    feed.next().await.map_err(|_| Failure::Broken { promise: "a feed that keeps up shows the next commit" })
}

pub(super) async fn feeds_show_every_commit_in_order(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    store.commit(put(SPACE, b"before", b"")).await?;
    let mut feed = store.changes(None);
    let mut batch = put(SPACE, b"a", b"1");
    batch.delete(Keyspace::Sessions, b"b".to_vec());
    let first = store.commit(batch).await?;
    let mut refused = put(SPACE, b"refused", b"");
    refused.require(SPACE, b"a".to_vec(), Precondition::Absent);
    ensure(store.commit(refused).await.is_err(), "a requirement that does not hold stops the batch")?;
    store.commit(Batch::new()).await?;
    let second = store.commit(delete(SPACE, b"a")).await?;
    let change = next(&mut feed).await?;
    let keys: Vec<_> =
        change.keys.iter().map(|changed| (changed.keyspace, changed.key.as_ref(), changed.deleted)).collect();
    ensure(change.revision == first, "a feed starts with the first commit after it was made")?;
    ensure(
        keys == [(SPACE, &b"a"[..], false), (Keyspace::Sessions, b"b", true)],
        "a change names the written keys",
    )?;
    ensure(next(&mut feed).await?.revision == second, "a feed shows what was committed, and nothing else")?;
    let mut resumed = store.changes(Some(first));
    ensure(next(&mut resumed).await?.revision == second, "a feed resumes after a revision")?;
    store.close().await?;
    ensure(resumed.next().await == Err(ChangeFeedError::Closed), "a feed ends with the store")
}

pub(super) async fn a_feed_after_a_snapshot_misses_nothing(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let writers: Vec<_> = (0..8_u8)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..10_u8 {
                    store.commit(put(SPACE, &[writer, n], b"")).await?;
                }
                Ok::<_, StorageError>(())
            })
        })
        .collect();
    tokio::task::yield_now().await;
    let snapshot = store.snapshot().await?;
    let mut feed = store.changes(Some(snapshot.revision()));
    let seen = snapshot.range(SPACE, Range::all(None), 100).await?.len();
    for writer in writers {
        writer.await??;
    }
    for _ in seen..80 {
        let change = next(&mut feed).await?;
        for changed in change.keys.iter() {
            let earlier = snapshot.get(changed.keyspace, &changed.key).await?;
            ensure(earlier.is_none(), "a feed after a snapshot repeats nothing that the snapshot shows")?;
        }
    }
    let last = store.commit(delete(SPACE, &[0, 0])).await?;
    ensure(next(&mut feed).await?.revision == last, "snapshot and feed together show every commit once")
}

pub(super) async fn closed_stores_refuse_everything(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    store.close().await?;
    let answers = [
        store.snapshot().await.err(),
        store.commit(put(SPACE, b"k", b"")).await.err(),
        store.purge(SPACE, b"k").await.err(),
        store.flush().await.err(),
        store.close().await.err(),
    ];
    let closed = answers.iter().all(|answer| matches!(answer, Some(StorageError::Closed)));
    ensure(closed, "a closed store refuses every call as closed")
}

pub(super) async fn what_was_committed_is_there_after_reopening(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let old = store.commit(put(SPACE, b"kept", b"1")).await?;
    let kept = store.commit(put(SPACE, b"kept", b"2")).await?;
    store.commit(put(SPACE, b"gone", b"1")).await?;
    let newest = store.commit(delete(SPACE, b"gone")).await?;
    store.close().await?;
    drop(store);

    let store = engine.reopened().await?;
    ensure(
        now(store.as_ref(), SPACE, b"kept").await?.as_deref() == Some(b"2"),
        "a value survives reopening",
    )?;
    ensure(now(store.as_ref(), SPACE, b"gone").await?.is_none(), "a deletion survives reopening")?;
    ensure(revision(store.as_ref(), SPACE, b"kept").await? == Some(kept), "a revision survives reopening")?;
    ensure(store.snapshot().await?.revision() == newest, "the newest revision survives reopening")?;
    let mut lagged = store.changes(Some(old));
    ensure(lagged.next().await == Err(ChangeFeedError::Lagged), "a feed over forgotten commits has lagged")?;
    let mut feed = store.changes(Some(newest));
    let mut stale = put(SPACE, b"kept", b"3");
    stale.require(SPACE, b"kept".to_vec(), Precondition::Revision(old));
    ensure(store.commit(stale).await.is_err(), "an old revision stays old after reopening")?;
    let mut batch = put(SPACE, b"kept", b"3");
    batch.require(SPACE, b"kept".to_vec(), Precondition::Revision(kept));
    let next_revision = store.commit(batch).await?;
    ensure(![old, kept, newest].contains(&next_revision), "revisions are never used again")?;
    ensure(
        next(&mut feed).await?.revision == next_revision,
        "a feed resumes over a restart that nothing was missed in",
    )
}
