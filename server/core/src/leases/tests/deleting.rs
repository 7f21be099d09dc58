//! Deleting roles and targets, cut off at each write.

use super::*;

const FAULTS: [CommitFault; 3] =
    [CommitFault::Unavailable, CommitFault::UnknownAndLost, CommitFault::UnknownAndApplied];

async fn delete_role(bench: &Bench) -> Result<(), VaultError> {
    operation::run(&bench.opened(), bench.context(), DeleteRole { name: name(ROLE) }).await
}

async fn delete_target(bench: &Bench) -> Result<(), VaultError> {
    operation::run(&bench.opened(), bench.context(), DeleteTarget { name: name(DB) }).await
}

/// Whatever came of the first try, a second one ends in its being gone.
fn is_gone(deleted: Result<(), VaultError>) {
    assert!(deleted.as_ref().map_or_else(|error| error.reason() == "NOT_FOUND", |()| true), "{deleted:?}");
}

async fn data_keys(bench: &Bench) -> usize {
    let snapshot = bench.store.snapshot().await.unwrap();
    snapshot.range(Keyspace::DataKeys, Range::all(None), 1024).await.unwrap().len()
}

/// Deletes with the nth write failing in a way; then the process ends, or lives on; then it is deleted again. Says whether
/// there was such a write.
async fn role_cut_off(nth: u64, fault: CommitFault, dies: bool) -> bool {
    let mut bench = ready().await;
    let commits = bench.faults.commits();
    bench.faults.on_commit(nth, fault);
    let first = delete_role(&bench).await;
    let reached = bench.faults.commits() >= commits + nth;
    assert_eq!(first.is_err(), reached, "{nth} {fault:?}");
    if !reached {
        // The fault is still to come.
        return false;
    }
    if dies {
        bench.restart().await;
    }
    look_after(&bench).await;
    is_gone(delete_role(&bench).await);
    let left = bench.targets.inside(DB, |inside| inside.roles.clone());
    assert_eq!(left, [], "the target has a role that the vault does not know: {nth} {fault:?} {dies}");
    put_role(&bench, ROLE, DB, 50).await.unwrap();
    issue(&bench).await;
    true
}

#[tokio::test]
async fn the_deletion_of_a_role_cut_off_at_any_write_is_done_by_the_next() {
    for (fault, dies) in FAULTS.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        let mut nth = 1;
        while role_cut_off(nth, fault, dies).await {
            nth += 1;
        }
        assert!(nth > 2, "its writes were cut off: {nth}");
    }
}

async fn target_cut_off(nth: u64, fault: CommitFault, dies: bool) -> bool {
    let mut bench = Bench::open(&["one"], RotationOptions::default()).await;
    let keys = data_keys(&bench).await;
    put_target(&bench, DB, &[]).await.unwrap();
    // With a rotation that was cut off, so that it has two passwords.
    bench.targets.inside(DB, |inside| inside.away = true);
    let rotate = RotateTargetLogin { name: name(DB) };
    operation::run(&bench.opened(), bench.context(), rotate).await.unwrap_err();
    bench.targets.inside(DB, |inside| inside.away = false);
    assert_eq!(data_keys(&bench).await, keys + 2);
    let commits = bench.faults.commits();
    bench.faults.on_commit(nth, fault);
    let first = delete_target(&bench).await;
    let reached = bench.faults.commits() >= commits + nth;
    assert_eq!(first.is_err(), reached, "{nth} {fault:?}");
    if !reached {
        // The fault is still to come.
        return false;
    }
    if dies {
        bench.restart().await;
    }
    // All of it is there, or nothing.
    let left = data_keys(&bench).await - keys;
    let is_there = fault != CommitFault::UnknownAndApplied;
    assert_eq!(left, if is_there { 2 } else { 0 }, "{nth} {fault:?} {dies}");
    is_gone(delete_target(&bench).await);
    assert_eq!(data_keys(&bench).await, keys);
    bench.targets.inside(DB, |inside| inside.admin = None);
    put_target(&bench, DB, &[]).await.unwrap();
    put_role(&bench, ROLE, DB, 50).await.unwrap();
    issue(&bench).await;
    true
}

#[tokio::test]
async fn the_deletion_of_a_target_cut_off_at_any_write_is_done_whole_or_not_at_all() {
    for (fault, dies) in FAULTS.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        let mut nth = 1;
        while target_cut_off(nth, fault, dies).await {
            nth += 1;
        }
        assert!(nth > 1, "its write was cut off");
    }
}
