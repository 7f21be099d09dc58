//! Taking logins away, one or many, from targets that answer and from those that do not.

use super::*;

#[tokio::test]
async fn a_target_that_is_away_keeps_its_leases_and_holds_up_no_other() {
    let bench = ready().await;
    put_target(&bench, "other-db", &[]).await.unwrap();
    put_role(&bench, "other", "other-db", 50).await.unwrap();
    for _ in 0..20 {
        issue(&bench).await;
        try_issue(&bench, "other", None).await.unwrap();
    }
    bench.targets.inside(DB, |inside| inside.away = true);
    advance(&bench, 180);
    for _ in 0..40 {
        look_after(&bench).await;
        // Longer than any number of tries elsewhere.
        advance(&bench, 30);
    }
    assert_eq!((bench.targets.logins(DB), bench.targets.logins("other-db")), (20, 0));
    let waiting = list(&bench, Selector::Target(name(DB))).await;
    assert_eq!(waiting.len(), 20);
    let said = waiting.iter().find_map(|lease| lease.ending.as_ref()?.last_error.clone()).unwrap();
    assert!(said.contains("does not answer"), "{said}");
    bench.targets.inside(DB, |inside| inside.away = false);
    for _ in 0..3 {
        advance(&bench, 61);
        look_after(&bench).await;
    }
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn a_target_that_takes_the_vaults_password_no_more_is_asked_with_one_lease_at_a_time() {
    let bench = ready().await;
    for _ in 0..40 {
        issue(&bench).await;
    }
    bench.targets.inside(DB, |inside| (inside.admin, inside.asked) = (Some(b"other".to_vec()), 0));
    advance(&bench, 180);
    for _ in 0..10 {
        look_after(&bench).await;
        advance(&bench, 1);
    }
    // At first the four that may be under way at once, which did not know of each other, and one after the pause for these.
    let asked = bench.targets.inside(DB, |inside| inside.asked);
    assert!(asked <= 6, "{asked}");
    bench.targets.inside(DB, |inside| inside.admin = None);
    for _ in 0..3 {
        advance(&bench, 61);
        look_after(&bench).await;
    }
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn however_much_waits_for_a_target_that_is_away_others_are_got_to() {
    let bench = ready().await;
    put_target(&bench, "other-db", &[]).await.unwrap();
    put_role(&bench, "other", "other-db", 50).await.unwrap();
    let away = issue(&bench).await;
    bench.targets.inside(DB, |inside| inside.away = true);
    advance(&bench, 180);
    look_after(&bench).await;
    // More than one round looks at, in every shard.
    let due = u32::try_from(away.expires.0 / 60_000).unwrap();
    let ids: Vec<[u8; 16]> = (0..25_600_u32)
        .map(|n| u128::from(n.rotate_right(8)).to_le_bytes())
        .map(|mut id| {
            id.rotate_left(3);
            id
        })
        .collect();
    for some in ids.chunks(60) {
        let mut batch = Batch::new();
        for id in some {
            batch.put(Keyspace::LeaseIndex, keyspace::lease_due(due, id), away.target_id.as_bytes().to_vec());
        }
        bench.store.commit(batch).await.unwrap();
    }
    for _ in 0..40 {
        let revoke =
            RevokeLease { id: try_issue(&bench, "other", None).await.unwrap().lease.id, force: false };
        operation::run(&bench.opened(), bench.context(), revoke).await.unwrap();
    }
    for _ in 0..4 {
        look_after(&bench).await;
    }
    assert_eq!((bench.targets.logins(DB), bench.targets.logins("other-db")), (1, 0));
}

#[tokio::test]
async fn a_target_whose_admin_login_does_not_open_holds_up_no_other() {
    async fn data_keys(bench: &Bench) -> Vec<Vec<u8>> {
        let snapshot = bench.store.snapshot().await.unwrap();
        let found = snapshot.range(Keyspace::DataKeys, Range::all(None), 1024).await.unwrap();
        found.into_iter().map(|(key, _)| key.to_vec()).collect()
    }
    let mut bench = ready().await;
    let before = data_keys(&bench).await;
    put_target(&bench, "broken-db", &[]).await.unwrap();
    bench.targets.inside("broken-db", |inside| inside.away = true);
    let rotate = RotateTargetLogin { name: name("broken-db") };
    operation::run(&bench.opened(), bench.context(), rotate).await.unwrap_err();
    issue(&bench).await;
    for key in data_keys(&bench).await.into_iter().filter(|key| !before.contains(key)) {
        let mut batch = Batch::new();
        batch.put(Keyspace::DataKeys, key, vec![7; 90]);
        bench.store.commit(batch).await.unwrap();
    }
    bench.restart().await;
    assert_eq!(reconcile(&bench).await.targets, 1);
    advance(&bench, 180);
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn only_the_targets_word_closes_a_lease_or_an_operators_force_which_is_kept() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    bench.targets.inside(DB, |inside| inside.keeps = true);
    let revoke = RevokeLease { id: lease.id, force: false };
    let revoking = operation::run(&bench.opened(), bench.context(), revoke).await.unwrap().unwrap();
    assert_eq!(revoking.state, LeaseState::Revoking);
    for _ in 0..5 {
        advance(&bench, 61);
        look_after(&bench).await;
    }
    let ending = read(&bench, lease.id).await.unwrap().ending.unwrap();
    assert!(ending.failures >= 5 && ending.last_error.unwrap().contains("owns a table"));
    let force = RevokeLease { id: lease.id, force: true };
    operation::run(&bench.opened(), bench.context(), force).await.unwrap();
    let closed = read(&bench, lease.id).await.unwrap();
    let by = closed.ending.unwrap().closed.unwrap();
    assert!(matches!(by, keystead_domain::lease::Closed::Forced { .. }), "{by:?}");
    assert!(bench.opened().comparison_wanted() && !bench.opened().comparison_wanted());
    let tries = bench.targets.inside(DB, |inside| inside.revocations);
    advance(&bench, 600);
    look_after(&bench).await;
    assert_eq!(bench.targets.inside(DB, |inside| inside.revocations), tries, "it is left alone");
}

#[tokio::test]
async fn many_are_revoked_at_once_and_a_crash_in_the_midst_leaves_none_out() {
    let mut bench = ready().await;
    put_role(&bench, "orders-ro", DB, 50).await.unwrap();
    put_role(&bench, "billing", DB, 50).await.unwrap();
    for _ in 0..30 {
        issue(&bench).await;
        try_issue(&bench, "orders-ro", None).await.unwrap();
    }
    try_issue(&bench, "billing", None).await.unwrap();
    // The third page is not committed.
    bench.faults.on_commit(4, CommitFault::Unavailable);
    let revoke = RevokeLeases { of: Selector::RolePrefix("orders-".to_owned()) };
    operation::run(&bench.opened(), bench.context(), revoke).await.unwrap_err();
    bench.restart().await;
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 1);
    let left = list(&bench, Selector::Mine).await;
    assert!(left.len() == 1 && left[0].role == name("billing"), "{left:?}");
}

#[tokio::test]
async fn a_revocation_of_many_that_does_not_open_keeps_nobody_busy_and_fills_no_log() {
    let bench = ready().await;
    issue(&bench).await;
    let mut batch = Batch::new();
    batch.put(Keyspace::LeaseIndex, keyspace::lease_job(&[9; 16]), vec![7; 90]);
    bench.store.commit(batch).await.unwrap();
    look_after(&bench).await;
    let open = bench.opened();
    let woken = || tokio::time::timeout(Duration::from_millis(20), open.leases.wake.notified());
    woken().await.ok();
    let recorded = bench.vault.audit().status().head.size;
    for _ in 0..5 {
        assert_eq!(open.look_after_leases().await.unwrap().broken, 1);
    }
    assert_eq!(bench.vault.audit().status().head.size, recorded);
    assert!(woken().await.is_err(), "the next round comes by the clock");
    // Others are worked off beside it.
    operation::run(&open, bench.context(), RevokeLeases { of: Selector::Mine }).await.unwrap();
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn leases_end_with_the_session_that_asked_for_them() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    assert!(lease.session.is_some());
    operation::run(&bench.opened(), bench.context(), RevokeSelf).await.unwrap();
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn a_lease_that_does_not_open_holds_up_no_other() {
    let bench = ready().await;
    let (bad, good) = (issue(&bench).await, issue(&bench).await);
    let mut batch = Batch::new();
    batch.put(Keyspace::Leases, keyspace::lease(bad.id.as_bytes()), vec![7; 90]);
    bench.store.commit(batch).await.unwrap();
    advance(&bench, 180);
    for _ in 0..3 {
        assert_eq!(look_after(&bench).await.broken, 1);
    }
    assert!(!bench.opened().leases.broken.first(bad.id.as_bytes()), "it was told of");
    let left: Vec<String> = bench.targets.inside(DB, |inside| inside.logins.keys().cloned().collect());
    assert_eq!(left, [bad.handle.name]);
    assert_eq!(read(&bench, good.id).await.unwrap().state, LeaseState::Revoked);
}

#[tokio::test]
async fn a_lease_that_does_not_open_is_removed_by_force_and_keeps_nothing_any_more() {
    let bench = ready().await;
    put_role(&bench, "few", DB, 1).await.unwrap();
    let (bad, good) = (try_issue(&bench, "few", None).await.unwrap().lease, issue(&bench).await);
    let run =
        async |id, force| operation::run(&bench.opened(), bench.context(), RevokeLease { id, force }).await;
    let mut batch = Batch::new();
    batch.put(Keyspace::Leases, keyspace::lease(bad.id.as_bytes()), vec![7; 90]);
    bench.store.commit(batch).await.unwrap();
    assert_eq!(run(bad.id, false).await.unwrap_err().reason(), "RECORD_CORRUPT");
    assert_eq!(try_issue(&bench, "few", None).await.err().unwrap().reason(), "LEASE_LIMIT");
    assert_eq!(run(bad.id, true).await.unwrap(), None);
    assert_eq!(run(bad.id, true).await.unwrap_err().reason(), "NOT_FOUND");
    // Nothing leads to it, and the others are as they were.
    assert_eq!(
        list(&bench, Selector::Mine).await.iter().map(|lease| lease.id).collect::<Vec<_>>(),
        [good.id]
    );
    assert_eq!(index(&bench).await, store::entries(&bench.opened().keys, &good).len());
    // Its login is nobody's, which is looked for at once.
    assert!(bench.opened().comparison_wanted());
    assert_eq!(reconcile(&bench).await.orphans, 1);
    assert_eq!(bench.targets.logins(DB), 1);
    try_issue(&bench, "few", None).await.unwrap();
    operation::run(&bench.opened(), bench.context(), RevokeLeases { of: Selector::Mine }).await.unwrap();
    look_after(&bench).await;
    operation::run(&bench.opened(), bench.context(), DeleteRole { name: name("few") }).await.unwrap();
}

#[tokio::test]
async fn revocations_do_not_wait_for_a_rotation_on_a_slow_target() {
    let bench = ready().await;
    put_target(&bench, "slow-db", &[]).await.unwrap();
    bench.targets.inside("slow-db", |inside| inside.away = true);
    let rotate = RotateTargetLogin { name: name("slow-db") };
    operation::run(&bench.opened(), bench.context(), rotate).await.unwrap_err();
    bench.targets.inside("slow-db", |inside| inside.takes = Duration::from_secs(10));
    issue(&bench).await;
    advance(&bench, 180);
    let open = bench.opened();
    let round = tokio::time::timeout(Duration::from_secs(5), open.look_after_leases()).await;
    assert_eq!(round.unwrap().unwrap().begun, 1);
}

#[tokio::test]
async fn a_target_that_answers_again_is_not_left_alone_any_longer() {
    let bench = ready().await;
    let old = issue(&bench).await;
    bench.targets.inside(DB, |inside| inside.away = true);
    let revoke = |id| RevokeLease { id, force: false };
    operation::run(&bench.opened(), bench.context(), revoke(old.id)).await.unwrap();
    look_after(&bench).await;
    bench.targets.inside(DB, |inside| inside.away = false);
    // It makes a login, so it is there: that login's end does not wait for the pause of the other.
    let new = issue(&bench).await;
    operation::run(&bench.opened(), bench.context(), revoke(new.id)).await.unwrap();
    look_after(&bench).await;
    assert_eq!(read(&bench, new.id).await.unwrap().state, LeaseState::Revoked);
}
