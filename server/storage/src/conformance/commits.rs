//! Checks of batches: what is applied, what is refused, and that neither is ever done by halves.

use std::sync::Arc;

use super::{Engine, Failure, delete, ensure, now, put, revision};
use crate::format::StoreFormat;
use crate::{
    Batch, Keyspace, MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_OPERATIONS, Precondition, Range, Storage,
    StorageError, keyspace,
};

const SPACE: Keyspace = Keyspace::Policies;

pub(super) async fn a_fresh_store_holds_its_format_record_only(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let snapshot = store.snapshot().await?;
    for space in Keyspace::ALL {
        let found = snapshot.range(space, Range::all(None), 2).await?;
        ensure(
            found.len() == usize::from(space == Keyspace::Meta),
            "a fresh store holds the format record alone",
        )?;
    }
    let stored = snapshot.get(Keyspace::Meta, &keyspace::meta_format()).await?;
    let stored = stored.ok_or(Failure::Broken { promise: "a store has a format record" })?;
    ensure(
        StoreFormat::decode(&stored.value)? == StoreFormat::CURRENT,
        "a fresh store has the current format",
    )
}

pub(super) async fn values_are_put_replaced_and_deleted(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let store = store.as_ref();
    ensure(now(store, SPACE, b"a").await?.is_none(), "a key that was never put is absent")?;
    let first = store.commit(put(SPACE, b"a", b"1")).await?;
    let second = store.commit(put(SPACE, b"b", b"")).await?;
    ensure(first != second, "each commit has a revision of its own")?;
    ensure(now(store, SPACE, b"a").await?.as_deref() == Some(b"1"), "a value is read as it was put")?;
    ensure(now(store, SPACE, b"b").await?.as_deref() == Some(b""), "an empty value is a value")?;
    ensure(revision(store, SPACE, b"a").await? == Some(first), "a value has the revision of its commit")?;
    let third = store.commit(put(SPACE, b"a", b"2")).await?;
    ensure(now(store, SPACE, b"a").await?.as_deref() == Some(b"2"), "a put replaces")?;
    ensure(revision(store, SPACE, b"a").await? == Some(third), "a replaced value has the newer revision")?;
    ensure(
        revision(store, SPACE, b"b").await? == Some(second),
        "a commit leaves other keys' revisions alone",
    )?;
    store.commit(delete(SPACE, b"a")).await?;
    store.commit(delete(SPACE, b"never there")).await?;
    ensure(now(store, SPACE, b"a").await?.is_none(), "a deleted key is absent")?;
    let again = store.commit(put(SPACE, b"a", b"1")).await?;
    ensure(again != first && again != third, "a key put again has a new revision")
}

pub(super) async fn requirements_hold_or_nothing_is_applied(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let store = store.as_ref();
    let old = store.commit(put(SPACE, b"k", b"1")).await?;
    let current = store.commit(put(SPACE, b"k", b"2")).await?;
    let cases: [(&[u8], Precondition, bool); 8] = [
        (b"k", Precondition::Exists, true),
        (b"k", Precondition::Absent, false),
        (b"k", Precondition::Revision(current), true),
        (b"k", Precondition::Revision(old), false),
        (b"none", Precondition::Absent, true),
        (b"none", Precondition::Exists, false),
        (b"none", Precondition::Revision(current), false),
        (b"k", Precondition::Exists, true),
    ];
    for (key, precondition, holds) in cases {
        let before = now(store, SPACE, b"written").await?;
        let mut batch = Batch::new();
        batch.put(SPACE, b"written".to_vec(), vec![u8::from(before.is_none())]);
        batch.require(SPACE, b"k".to_vec(), Precondition::Exists).require(SPACE, key.to_vec(), precondition);
        match store.commit(batch).await {
            Ok(_) => ensure(holds, "a requirement that does not hold stops the batch")?,
            Err(StorageError::Conflict { keyspace: SPACE, requirement: 1 }) => {
                ensure(!holds, "a requirement that holds lets the batch pass")?;
                ensure(now(store, SPACE, b"written").await? == before, "a refused batch changes nothing")?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut check_only = Batch::new();
    check_only.require(SPACE, b"k".to_vec(), Precondition::Revision(current));
    store.commit(check_only.clone()).await?;
    store.commit(put(SPACE, b"k", b"3")).await?;
    let refused = store.commit(check_only).await;
    ensure(
        matches!(refused, Err(StorageError::Conflict { requirement: 0, .. })),
        "a batch may consist of requirements",
    )
}

pub(super) async fn requirements_see_the_store_before_the_batch(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let mut batch = put(SPACE, b"new", b"1");
    batch.require(SPACE, b"new".to_vec(), Precondition::Absent);
    store.commit(batch.clone()).await?;
    let refused = store.commit(batch).await;
    ensure(
        matches!(refused, Err(StorageError::Conflict { .. })),
        "a requirement looks at the store before the batch",
    )?;
    let mut batch = delete(SPACE, b"new");
    batch.require(SPACE, b"new".to_vec(), Precondition::Exists);
    store.commit(batch).await?;
    ensure(now(store.as_ref(), SPACE, b"new").await?.is_none(), "a delete may require what it deletes")
}

pub(super) async fn limits_are_kept_by_every_engine(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let numbered = |count: usize| {
        let mut batch = Batch::new();
        (0..count)
            .for_each(|n| _ = batch.put(SPACE, n.to_string(), vec![0; MAX_BATCH_BYTES / MAX_OPERATIONS - 8]));
        batch
    };
    store.commit(numbered(MAX_OPERATIONS)).await?;
    let many = store.commit(numbered(MAX_OPERATIONS + 1)).await;
    ensure(matches!(many, Err(StorageError::BatchTooLarge { .. })), "a batch has at most 64 operations")?;
    store.commit(put(SPACE, &[1; MAX_KEY_BYTES], &vec![7; MAX_BATCH_BYTES - MAX_KEY_BYTES])).await?;
    let stored = now(store.as_ref(), SPACE, &[1; MAX_KEY_BYTES]).await?;
    ensure(stored == Some(vec![7; MAX_BATCH_BYTES - MAX_KEY_BYTES]), "a batch of 1.25 MiB is kept as it is")?;
    let large = store.commit(put(SPACE, b"k", &vec![7; MAX_BATCH_BYTES])).await;
    ensure(matches!(large, Err(StorageError::BatchTooLarge { .. })), "a batch has at most 1.25 MiB")?;
    for key in [&[][..], &[1; MAX_KEY_BYTES + 1]] {
        let refused = store.commit(put(SPACE, key, b"")).await;
        ensure(matches!(refused, Err(StorageError::KeyLength { .. })), "a key has 1 to 512 bytes")?;
    }
    let mut twice = put(SPACE, b"k", b"1");
    twice.delete(SPACE, b"k".to_vec());
    let refused = store.commit(twice).await;
    ensure(
        matches!(refused, Err(StorageError::DuplicateKey { operation: 1, .. })),
        "a batch writes a key once",
    )?;
    ensure(now(store.as_ref(), SPACE, b"k").await?.is_none(), "a batch over a limit changes nothing")
}

pub(super) async fn racing_writers_lose_no_update(engine: &dyn Engine) -> Result<(), Failure> {
    const WRITERS: u64 = 16;
    const EACH: u64 = 8;
    let store = engine.fresh().await?;
    store.commit(put(SPACE, b"count", &0_u64.to_be_bytes())).await?;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..EACH {
                    while !add_one(store.as_ref()).await? {}
                }
                Ok::<_, StorageError>(())
            })
        })
        .collect();
    for writer in writers {
        writer.await??;
    }
    let count = now(store.as_ref(), SPACE, b"count").await?;
    ensure(count.as_deref() == Some(&(WRITERS * EACH).to_be_bytes()), "compare-and-set loses no update")
}

/// False if another writer was first.
async fn add_one(store: &dyn Storage) -> Result<bool, StorageError> {
    let Some(stored) = store.snapshot().await?.get(SPACE, b"count").await? else { return Ok(false) };
    let count = <[u8; 8]>::try_from(stored.value.as_ref()).map_or(0, u64::from_be_bytes);
    let mut batch = put(SPACE, b"count", &count.saturating_add(1).to_be_bytes());
    batch.require(SPACE, b"count".to_vec(), Precondition::Revision(stored.revision));
    match store.commit(batch).await {
        Ok(_) => Ok(true),
        Err(StorageError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn one_of_many_creators_wins(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let creators: Vec<_> = (0..32_u8)
        .map(|creator| {
            let store = Arc::clone(&store);
            let mut batch = put(SPACE, b"name", &[creator]);
            batch.require(SPACE, b"name".to_vec(), Precondition::Absent);
            tokio::spawn(async move { store.commit(batch).await })
        })
        .collect();
    let mut winners = Vec::new();
    for (creator, outcome) in (0..32_u8).zip(creators) {
        match outcome.await? {
            Ok(_) => winners.push(creator),
            Err(StorageError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure(winners.len() == 1, "of many creators of a key one succeeds")?;
    ensure(
        now(store.as_ref(), SPACE, b"name").await? == Some(winners),
        "the creator that succeeded wrote the value",
    )
}

pub(super) async fn a_dropped_commit_is_whole(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    for round in 0..20_u8 {
        let mut batch = put(SPACE, &[round, 0], b"left");
        batch.put(SPACE, vec![round, 1], b"right".to_vec());
        let writing = Arc::clone(&store);
        let task = tokio::spawn(async move { writing.commit(batch).await });
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        task.abort();
    }
    // A commit of one's own, so that those before it are through.
    store.commit(put(SPACE, b"last", b"")).await?;
    let snapshot = store.snapshot().await?;
    for round in 0..20_u8 {
        let left = snapshot.get(SPACE, &[round, 0]).await?.map(|stored| stored.revision);
        let right = snapshot.get(SPACE, &[round, 1]).await?.map(|stored| stored.revision);
        ensure(left == right, "a commit whose caller went away is applied whole or not at all")?;
    }
    Ok(())
}
