//! Checks of snapshots and ranges: what is seen is whole, ordered and still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Engine, Failure, delete, ensure, now, put, value};
use crate::{Batch, Keyspace, MAX_PAGE, Range, StorageError};

const SPACE: Keyspace = Keyspace::Directory;

pub(super) async fn snapshots_never_change(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    store.commit(put(SPACE, b"kept", b"1")).await?;
    store.commit(put(SPACE, b"gone", b"1")).await?;
    let before = store.snapshot().await?;
    let newest = store.commit(put(SPACE, b"kept", b"2")).await?;
    store.commit(delete(SPACE, b"gone")).await?;
    store.commit(put(SPACE, b"new", b"1")).await?;
    store.flush().await?;
    let kept = now(store.as_ref(), SPACE, b"kept").await?;
    ensure(kept.as_deref() == Some(b"2"), "a new snapshot shows every commit")?;
    let view = before.as_ref();
    ensure(value(view, SPACE, b"kept").await?.as_deref() == Some(b"1"), "a snapshot keeps replaced values")?;
    ensure(value(view, SPACE, b"gone").await?.as_deref() == Some(b"1"), "a snapshot keeps deleted values")?;
    ensure(value(view, SPACE, b"new").await?.is_none(), "a snapshot shows nothing newer")?;
    let keys = keys(before.range(SPACE, Range::all(None), 10).await?);
    ensure(keys == [&b"gone"[..], b"kept"], "a range of a snapshot is as old as the snapshot")?;
    ensure(before.revision() != newest, "a snapshot's revision is that of its newest commit")
}

pub(super) async fn snapshots_show_whole_batches(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let (writing, stopped) = (Arc::clone(&store), Arc::clone(&stop));
    let writer = tokio::spawn(async move {
        let mut round = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            round = round.saturating_add(1);
            let mut batch = put(SPACE, b"a", &round.to_be_bytes());
            batch.put(Keyspace::Secrets, b"b".to_vec(), round.to_be_bytes().to_vec());
            writing.commit(batch).await?;
        }
        Ok::<_, StorageError>(())
    });
    let mut looked = Ok(());
    for _ in 0..200 {
        let snapshot = store.snapshot().await?;
        let left = value(snapshot.as_ref(), SPACE, b"a").await?;
        tokio::task::yield_now().await;
        let right = value(snapshot.as_ref(), Keyspace::Secrets, b"b").await?;
        looked = ensure(left == right, "a snapshot shows a batch whole or not at all");
        if looked.is_err() {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.await??;
    looked
}

pub(super) async fn what_was_acknowledged_shows_while_others_read(
    engine: &dyn Engine,
) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    value(store.snapshot().await?.as_ref(), SPACE, b"key").await?;
                    tokio::task::yield_now().await;
                }
                Ok::<_, Failure>(())
            })
        })
        .collect();
    let mut looked = Ok(());
    for round in 0..200_u64 {
        store.commit(put(SPACE, b"key", &round.to_be_bytes())).await?;
        let shown = now(store.as_ref(), SPACE, b"key").await?;
        looked = ensure(shown.as_deref() == Some(&round.to_be_bytes()), "a new snapshot shows every commit");
        if looked.is_err() {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await??;
    }
    looked
}

pub(super) async fn ranges_are_ordered_and_bounded(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let all: [&[u8]; 9] = [
        &[0],
        &[0, 0],
        &[1, 0xff],
        &[1, 0xff, 0],
        &[1, 0xff, 0xff],
        &[2],
        &[0xff],
        &[0xff, 0],
        &[0xff, 0xff],
    ];
    let mut batch = Batch::new();
    all.iter().rev().for_each(|key| _ = batch.put(SPACE, key.to_vec(), b"v".to_vec()));
    store.commit(batch).await?;
    // One is replaced and stays one entry; one more is deleted and leaves.
    store.commit(put(SPACE, &[2], b"w")).await?;
    store.commit(put(SPACE, &[1], b"v")).await?;
    store.commit(delete(SPACE, &[1])).await?;
    let snapshot = store.snapshot().await?;
    let ranges = [
        Range::all(None),
        Range::all(Some(&[1, 0xff])),
        Range::prefix([1, 0xff], None),
        Range::prefix([1, 0xff], Some(&[1, 0xff, 0])),
        Range::prefix([0xff], None),
        Range::prefix([0xff, 0xff], Some(&[0xff, 0xff])),
        Range::prefix([1], Some(&[0])),
        Range::between(vec![0, 0], vec![2]),
        Range::between(vec![2], vec![2]),
        Range::between(vec![2], vec![0]),
    ];
    for range in ranges {
        let expected: Vec<_> = all.into_iter().filter(|key| range.contains(key)).collect();
        for limit in [MAX_PAGE, 2, 1, 0] {
            let found = keys(snapshot.range(SPACE, range.clone(), limit).await?);
            let expected: Vec<_> = expected.iter().take(limit).collect();
            ensure(found.iter().eq(expected), "a range gives its keys in order, up to the limit")?;
        }
    }
    let refused = snapshot.range(SPACE, Range::all(None), MAX_PAGE + 1).await;
    ensure(matches!(refused, Err(StorageError::PageTooLarge { .. })), "a page has at most 1,024 entries")
}

pub(super) async fn pages_cover_a_range_once(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let mut expected = Vec::new();
    for hundred in 0..5_u8 {
        let mut batch = Batch::new();
        for n in 0..60_u8 {
            batch.put(SPACE, vec![9, n, hundred], vec![n]);
            expected.push(vec![9, n, hundred]);
        }
        store.commit(batch).await?;
    }
    expected.sort();
    store.commit(put(SPACE, &[8, 0xff], b"before")).await?;
    store.commit(put(SPACE, &[10], b"behind")).await?;
    let mut found: Vec<Vec<u8>> = Vec::new();
    loop {
        // Each page from a snapshot of its own, with writes between: those are elsewhere, so the pages still fit.
        let page = store
            .snapshot()
            .await?
            .range(SPACE, Range::prefix([9], found.last().map(Vec::as_slice)), 7)
            .await?;
        let last = page.len() < 7;
        found.extend(keys(page));
        store.commit(put(SPACE, &[8, u8::try_from(found.len() % 256).unwrap_or(0)], b"")).await?;
        if last {
            break;
        }
    }
    ensure(found == expected, "pages cover a range once, without a gap")
}

pub(super) async fn keyspaces_are_apart(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    let mut batch = Batch::new();
    Keyspace::ALL.iter().for_each(|space| _ = batch.put(*space, b"same".to_vec(), space.name()));
    store.commit(batch).await?;
    store.commit(delete(Keyspace::Sessions, b"same")).await?;
    for space in Keyspace::ALL {
        let expected = (space != Keyspace::Sessions).then(|| space.name().as_bytes().to_vec());
        ensure(
            now(store.as_ref(), space, b"same").await? == expected,
            "a key of one keyspace is not one of another",
        )?;
    }
    Ok(())
}

pub(super) async fn purging_keeps_what_is_current(engine: &dyn Engine) -> Result<(), Failure> {
    let store = engine.fresh().await?;
    store.commit(put(SPACE, b"kept", b"1")).await?;
    let revision = store.commit(put(SPACE, b"kept", b"2")).await?;
    store.commit(put(SPACE, b"gone", b"1")).await?;
    store.commit(delete(SPACE, b"gone")).await?;
    for key in [&b"kept"[..], b"gone", b"never there"] {
        store.purge(SPACE, key).await?;
    }
    let stored = store.snapshot().await?.get(SPACE, b"kept").await?;
    let kept = stored.is_some_and(|stored| &*stored.value == b"2" && stored.revision == revision);
    ensure(kept, "purging leaves a current value and its revision alone")?;
    ensure(now(store.as_ref(), SPACE, b"gone").await?.is_none(), "a purged key stays deleted")
}

fn keys(entries: Vec<(bytes::Bytes, crate::Versioned)>) -> Vec<Vec<u8>> {
    entries.into_iter().map(|(key, _)| key.to_vec()).collect()
}
