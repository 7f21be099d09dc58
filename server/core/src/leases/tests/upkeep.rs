//! What the vault does by itself: time, comparing with targets, comparing with the index.

use super::*;

#[tokio::test]
async fn a_clock_that_is_stepped_ends_no_lease_and_lengthens_none() {
    const DAY: u64 = 24 * 3600 * 1000;
    for back in [false, true] {
        let mut bench = ready().await;
        let lease = issue(&bench).await;
        let to = if back { lease.issued.0 - DAY } else { lease.issued.0 + DAY };
        bench.clock.step_wall(UnixMillis(to));
        look_after(&bench).await;
        assert_eq!(bench.targets.logins(DB), 1, "stepped while open");
        bench.restart().await;
        look_after(&bench).await;
        assert_eq!(bench.targets.logins(DB), 1, "and after a restart");
        if !back {
            assert_eq!(bench.opened().lease_clock(), ClockState::Doubted { ahead: DAY });
        }
        advance(&bench, 181);
        look_after(&bench).await;
        assert_eq!(bench.targets.logins(DB), 0, "it lived as long as it was to");
        if back {
            // The session's end is behind the time of leases by now, and a day away by the clock that it goes by.
            advance(&bench, DAY / 1000);
            issue(&bench).await;
        }
    }
}

#[tokio::test]
async fn after_a_long_outage_a_targets_clock_says_that_time_has_passed() {
    let mut bench = ready().await;
    issue(&bench).await;
    bench.opened().keep_lease_state().await.unwrap();
    bench.kill();
    advance(&bench, 7_200);
    bench.unseal().await.unwrap();
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 1, "nobody confirmed it");
    let refused = try_issue(&bench, ROLE, None).await.err().unwrap();
    assert_eq!(refused.reason(), "CLOCK_IN_DOUBT");
    let now = bench.vault.clock().now();
    bench.targets.inside(DB, |inside| inside.clock = Some(UnixMillis(now.0 + 1_000)));
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
    try_issue(&bench, ROLE, None).await.unwrap();
}

#[tokio::test]
async fn a_login_without_a_lease_is_removed_and_a_lease_without_a_login_is_ended() {
    let bench = ready().await;
    let (kept, lost) = (issue(&bench).await, issue(&bench).await);
    advance(&bench, 60);
    let orphan = bench.targets.inside(DB, |inside| inside.logins[&kept.handle.name].clone());
    let orphan_name = format!("{ROLE}_{}", RecordId([9; 16]));
    bench.targets.inside(DB, |inside| {
        inside.logins.insert(orphan_name, orphan);
        inside.logins.remove(&lost.handle.name);
    });
    assert_eq!(reconcile(&bench).await, Reconciled { targets: 1, away: 0, orphans: 1, vanished: 1 });
    look_after(&bench).await;
    assert_eq!(read(&bench, lost.id).await.unwrap().ending.unwrap().why, Why::LoginGone);
    let left: Vec<String> = bench.targets.inside(DB, |inside| inside.logins.keys().cloned().collect());
    assert_eq!(left, [kept.handle.name]);
    assert_eq!(reconcile(&bench).await, Reconciled { targets: 1, ..Reconciled::default() });
    bench.targets.inside(DB, |inside| inside.away = true);
    assert_eq!(reconcile(&bench).await, Reconciled { away: 1, ..Reconciled::default() });
}

#[tokio::test]
async fn a_login_that_cannot_be_removed_keeps_no_lease_from_being_compared() {
    let bench = ready().await;
    let lost = issue(&bench).await;
    advance(&bench, 60);
    bench.targets.inside(DB, |inside| {
        let login = inside.logins.remove(&lost.handle.name).unwrap();
        inside.logins.insert(format!("{ROLE}_{}", RecordId([9; 16])), login);
        inside.keeps = true;
    });
    assert_eq!(reconcile(&bench).await, Reconciled { targets: 1, vanished: 1, ..Reconciled::default() });
}

/// Steps of the comparison, until everything was compared once.
async fn scrub(bench: &Bench) -> usize {
    let mut mended = 0;
    loop {
        let done = bench.opened().scrub_leases().await.unwrap();
        mended += done.mended;
        if done.whole {
            return mended;
        }
    }
}

#[tokio::test]
async fn an_entry_that_is_lost_comes_back_and_one_that_leads_nowhere_goes() {
    let bench = ready().await;
    let (lost, kept) = (issue(&bench).await, issue(&bench).await);
    for _ in 0..40 {
        issue(&bench).await;
    }
    assert_eq!(scrub(&bench).await, 0);
    let stray = RecordId([9; 16]);
    let mut batch = Batch::new();
    batch.delete(Keyspace::LeaseIndex, keyspace::lease_due(store::minute(lost.due()), lost.id.as_bytes()));
    batch.delete(
        Keyspace::LeaseIndex,
        keyspace::lease_under(&keyspace::leases_of_role(lost.role_id.as_bytes()), lost.id.as_bytes()),
    );
    batch.put(Keyspace::LeaseIndex, keyspace::lease_due(7, stray.as_bytes()), Vec::new());
    batch.put(Keyspace::LeaseIndex, keyspace::lease_due(7, kept.id.as_bytes()), Vec::new());
    bench.store.commit(batch).await.unwrap();
    advance(&bench, 240);
    look_after(&bench).await;
    assert!(
        bench.targets.inside(DB, |inside| inside.logins.contains_key(&lost.handle.name)),
        "it is not found"
    );
    assert_eq!(scrub(&bench).await, 4);
    assert_eq!(scrub(&bench).await, 0);
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn a_list_goes_on_behind_leases_that_do_not_open() {
    let bench = ready().await;
    for _ in 0..12 {
        issue(&bench).await;
    }
    let all: Vec<RecordId> = list(&bench, Selector::Mine).await.iter().map(|lease| lease.id).collect();
    let mut batch = Batch::new();
    for bad in &all[3..6] {
        batch.put(Keyspace::Leases, keyspace::lease(bad.as_bytes()), vec![7; 90]);
    }
    bench.store.commit(batch).await.unwrap();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = ListLeases { of: Selector::Mine, limit: 4, after };
        let page = operation::run(&bench.opened(), bench.context(), page).await.unwrap();
        assert!(page.leases.len() == 4 || page.next.is_none());
        found.extend(page.leases.iter().map(|lease| lease.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, [&all[..3], &all[6..]].concat());
}
