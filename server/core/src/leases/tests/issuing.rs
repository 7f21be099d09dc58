//! Issuing and renewing: what a caller gets, and what is left when something is cut off.

use super::*;

#[tokio::test]
async fn a_login_lives_as_long_as_its_lease_and_no_longer() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    assert_eq!((lease.state, lease.period.as_secs()), (LeaseState::Active, 180));
    let lasts = || bench.targets.inside(DB, |inside| inside.logins[&lease.handle.name].lasts.as_secs());
    assert!((181..780).contains(&lasts()), "the target ends it a little later");
    advance(&bench, 179);
    assert_eq!(look_after(&bench).await, Round::default());
    assert_eq!(bench.targets.logins(DB), 1);
    advance(&bench, 1);
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
    let over = read(&bench, lease.id).await.unwrap();
    assert_eq!((over.state, over.ending.unwrap().why), (LeaseState::Revoked, Why::Expired));
    assert_eq!(list(&bench, Selector::Mine).await, []);
    // A day later nothing of it is left.
    advance(&bench, 24 * 3600);
    assert!(bench.opened().leases.clock.believe());
    look_after(&bench).await;
    assert_eq!(
        read(&bench, lease.id).await.unwrap_err().reason(),
        "UNAUTHENTICATED",
        "the session is over too"
    );
    assert_eq!(index(&bench).await, 0);
}

#[tokio::test]
async fn renewing_keeps_it_up_to_its_longest_and_never_beyond() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    for _ in 0..23 {
        advance(&bench, 150);
        let renew = RenewLease { id: lease.id, ttl: None };
        let renewed = operation::run(&bench.opened(), bench.context(), renew).await.unwrap().lease;
        assert!(renewed.expires <= lease.max_expires);
        // A span, so that neither the vault's clock nor how old the lease is matters to the target.
        let lasts = bench.targets.inside(DB, |inside| inside.logins[&lease.handle.name].lasts);
        assert!((120..=300).contains(&lasts.as_secs()), "{lasts:?}");
        look_after(&bench).await;
    }
    assert_eq!(read(&bench, lease.id).await.unwrap().expires, lease.max_expires);
    advance(&bench, 10);
    let renew = RenewLease { id: lease.id, ttl: Some(secs(7_200)) };
    let refused = operation::run(&bench.opened(), bench.context(), renew).await.err().unwrap();
    assert_eq!(refused.reason(), "LEASE_AT_ITS_LONGEST");
    advance(&bench, 140);
    let renew = RenewLease { id: lease.id, ttl: None };
    let refused = operation::run(&bench.opened(), bench.context(), renew).await.err().unwrap();
    assert_eq!(refused.reason(), "LEASE_ENDED");
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn renewing_keeps_to_what_the_role_allows_by_then() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let put = PutRole {
        name: name(ROLE),
        target: name(DB),
        declaration: Declaration::Postgres(PostgresRole::default()),
        default_ttl: secs(60),
        max_ttl: secs(60),
        max_live: 50,
        on_excess: OnExcess::Refuse,
        etag: None,
    };
    operation::run(&bench.opened(), bench.context(), put).await.unwrap();
    advance(&bench, 30);
    let renew = || RenewLease { id: lease.id, ttl: None };
    let renewed = operation::run(&bench.opened(), bench.context(), renew()).await.unwrap().lease;
    assert_eq!(renewed.expires, UnixMillis(lease.issued.0 + 60_000));
    advance(&bench, 10);
    let refused = operation::run(&bench.opened(), bench.context(), renew()).await.err().unwrap();
    assert_eq!(refused.reason(), "LEASE_AT_ITS_LONGEST");
    advance(&bench, 20);
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn a_repeated_request_has_the_same_lease_and_another_password() {
    let bench = ready().await;
    let first = try_issue(&bench, ROLE, Some("deploy-1")).await.unwrap();
    let again = try_issue(&bench, ROLE, Some("deploy-1")).await.unwrap();
    assert_eq!((again.lease.id, again.lease.reissues), (first.lease.id, 1));
    assert_ne!(password(&first), password(&again));
    let taken = bench.targets.inside(DB, |inside| inside.logins[&first.lease.handle.name].secret.clone());
    assert_eq!(taken, password(&again));
    assert_eq!(bench.targets.logins(DB), 1);
    put_role(&bench, "other", DB, 50).await.unwrap();
    let reused = try_issue(&bench, "other", Some("deploy-1")).await.err().unwrap();
    assert_eq!(reused.reason(), "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_request_repeated_when_its_lease_is_over_gets_no_password_for_it() {
    let bench = ready().await;
    let first = try_issue(&bench, ROLE, Some("deploy-1")).await.unwrap();
    // Nobody has looked at it yet.
    advance(&bench, 180);
    let over = try_issue(&bench, ROLE, Some("deploy-1")).await.err().unwrap();
    assert_eq!(over.reason(), "LEASE_ENDED");
    let taken = bench.targets.inside(DB, |inside| inside.logins[&first.lease.handle.name].secret.clone());
    assert_eq!(taken, password(&first), "it was not set anew");
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
    assert_eq!(try_issue(&bench, ROLE, Some("deploy-1")).await.err().unwrap().reason(), "LEASE_ENDED");
}

#[tokio::test]
async fn of_two_repeats_at_once_one_is_refused_and_the_other_has_a_password_that_is_taken() {
    let bench = ready().await;
    let first = try_issue(&bench, ROLE, Some("deploy-1")).await.unwrap().lease;
    bench.targets.inside(DB, |inside| inside.takes = Duration::from_millis(100));
    let repeat = || try_issue(&bench, ROLE, Some("deploy-1"));
    let (one, other) = tokio::join!(repeat(), repeat());
    let (answered, refused) = if one.is_ok() { (one, other) } else { (other, one) };
    assert_eq!(refused.err().unwrap().reason(), "LEASE_BEING_ISSUED");
    let taken = bench.targets.inside(DB, |inside| inside.logins[&first.handle.name].secret.clone());
    assert_eq!(taken, password(&answered.unwrap()));
    repeat().await.unwrap();
    // Nor between the password and its way out.
    let request_id = Some(RequestId::parse("deploy-1").unwrap());
    let issue = IssueCredential { role: name(ROLE), ttl: None, request_id };
    let undelivered = operation::run(&bench.opened(), bench.context(), issue).await.unwrap();
    assert_eq!(repeat().await.err().unwrap().reason(), "LEASE_BEING_ISSUED");
    undelivered.deliver().unwrap();
    repeat().await.unwrap();
}

#[tokio::test]
async fn a_caller_that_hangs_up_leaves_no_login() {
    let bench = ready().await;
    let issue = IssueCredential { role: name(ROLE), ttl: None, request_id: None };
    let undelivered = operation::run(&bench.opened(), bench.context(), issue).await.unwrap();
    assert_eq!(bench.targets.logins(DB), 1);
    drop(undelivered);
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn whoever_repeats_a_request_after_hanging_up_keeps_the_login() {
    let bench = ready().await;
    let request_id = Some(RequestId::parse("deploy-1").unwrap());
    let issue = IssueCredential { role: name(ROLE), ttl: None, request_id };
    drop(operation::run(&bench.opened(), bench.context(), issue).await.unwrap());
    let again = try_issue(&bench, ROLE, Some("deploy-1")).await.unwrap();
    look_after(&bench).await;
    assert_eq!(read(&bench, again.lease.id).await.unwrap().state, LeaseState::Active);
    assert_eq!(bench.targets.logins(DB), 1);
}

#[tokio::test]
async fn a_request_that_nobody_got_a_login_for_may_be_repeated() {
    let bench = ready().await;
    bench.targets.inside(DB, |inside| inside.away = true);
    let refused = try_issue(&bench, ROLE, Some("deploy-1")).await.err().unwrap();
    assert_eq!(refused.reason(), "TARGET_UNAVAILABLE");
    bench.targets.inside(DB, |inside| inside.away = false);
    let first = try_issue(&bench, ROLE, Some("deploy-1")).await.unwrap().lease;
    assert_eq!(try_issue(&bench, ROLE, Some("deploy-1")).await.unwrap().lease.id, first.id);
    // One that somebody had is not given again.
    operation::run(&bench.opened(), bench.context(), RevokeLease { id: first.id, force: false })
        .await
        .unwrap();
    assert_eq!(try_issue(&bench, ROLE, Some("deploy-1")).await.err().unwrap().reason(), "LEASE_ENDED");
}

#[tokio::test]
async fn a_lease_that_ends_while_its_password_is_set_anew_leaves_no_login() {
    let bench = ready().await;
    let first = try_issue(&bench, ROLE, Some("deploy-1")).await.unwrap().lease;
    bench.targets.inside(DB, |inside| inside.takes = Duration::from_millis(600));
    let revoked = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.targets.inside(DB, |inside| inside.takes = Duration::ZERO);
        let revoke = RevokeLease { id: first.id, force: false };
        operation::run(&bench.opened(), bench.context(), revoke).await.unwrap();
        look_after(&bench).await;
        assert_eq!(bench.targets.logins(DB), 0);
    };
    let (again, ()) = tokio::join!(try_issue(&bench, ROLE, Some("deploy-1")), revoked);
    assert_eq!(again.err().unwrap().reason(), "LEASE_ENDED");
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn no_lease_is_begun_for_a_session_that_ended_meanwhile() {
    let mut bench = ready().await;
    bench.opened().keep_lease_state().await.unwrap();
    bench.kill();
    advance(&bench, 7_200);
    bench.unseal().await.unwrap();
    // Asking the target what time it is takes a while.
    let now = bench.vault.clock().now();
    bench.targets.inside(DB, |inside| {
        inside.clock = Some(now);
        inside.takes = Duration::from_millis(500);
    });
    let ended = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.targets.inside(DB, |inside| inside.takes = Duration::ZERO);
        operation::run(&bench.opened(), bench.context(), RevokeSelf).await.unwrap();
    };
    let (issued, ()) = tokio::join!(try_issue(&bench, ROLE, None), ended);
    assert_eq!(issued.err().unwrap().reason(), "UNAUTHENTICATED");
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn a_login_that_was_made_without_an_answer_is_removed_once_nothing_can_come_any_more() {
    let bench = ready().await;
    bench.targets.inside(DB, |inside| inside.silent = true);
    let refused = try_issue(&bench, ROLE, Some("deploy-1")).await.err().unwrap();
    assert_eq!(refused.reason(), "TARGET_UNAVAILABLE");
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 1, "the statement may still be under way");
    bench.targets.inside(DB, |inside| inside.silent = false);
    let again = try_issue(&bench, ROLE, Some("deploy-1")).await.unwrap();
    operation::run(&bench.opened(), bench.context(), RevokeLease { id: again.lease.id, force: false })
        .await
        .unwrap();
    advance(&bench, 20);
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn a_lease_that_is_revoked_while_its_login_is_made_is_not_closed_before_that() {
    for forget in [false, true] {
        let bench = ready().await;
        bench.targets.inside(DB, |inside| inside.takes = Duration::from_millis(600));
        let revoked = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            bench.targets.inside(DB, |inside| inside.takes = Duration::ZERO);
            let revoke = || RevokeLeases { of: Selector::Role(name(ROLE)) };
            operation::run(&bench.opened(), bench.context(), revoke()).await.unwrap();
            look_after(&bench).await;
            operation::run(&bench.opened(), bench.context(), revoke()).await.unwrap();
            look_after(&bench).await;
            list(&bench, Selector::Mine).await.remove(0)
        };
        let (issued, revoking) = tokio::join!(try_issue(&bench, ROLE, None), revoked);
        assert_eq!((revoking.state, bench.targets.logins(DB)), (LeaseState::Revoking, 1));
        issued.err().unwrap();
        if forget {
            // Nobody is left to tell that the login was made.
            bench.opened().leases.abandoned.take();
            advance(&bench, 60);
        }
        look_after(&bench).await;
        assert_eq!(bench.targets.logins(DB), 0);
        assert_eq!(read(&bench, revoking.id).await.unwrap().state, LeaseState::Revoked);
    }
}

#[tokio::test]
async fn a_target_that_is_too_slow_is_told_of_with_what_becomes_of_what_was_asked_for() {
    let call = std::future::pending::<Result<(), crate::engine::EngineError>>();
    let slow = in_time(&name(DB), Duration::from_millis(1), call).await.unwrap_err();
    assert_eq!(slow.to_string(), "target shop-db did not answer within 0 s; ask again later");
    let slow = slow.then("the target is not stored");
    assert_eq!(slow.to_string(), "target shop-db did not answer within 0 s; the target is not stored");
    assert!(slow.is_of_target());
    let other = CredentialError::StillIssuing.then("nothing").to_string();
    assert_eq!(other, CredentialError::StillIssuing.to_string());
}

#[tokio::test]
async fn rights_in_excess_refuse_the_login_and_remove_it() {
    let bench = ready().await;
    let excess = Right { object: "table t".to_owned(), privilege: "DELETE".to_owned(), through: None };
    bench.targets.inside(DB, |inside| inside.excess.push(excess));
    let refused = try_issue(&bench, ROLE, None).await.err().unwrap();
    assert_eq!(refused.reason(), "RIGHTS_IN_EXCESS");
    let said = refused.to_string();
    assert!(
        said.contains("DELETE on table t; ") && said.contains("`keystead target check shop-db`"),
        "{said}"
    );
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn limits_refuse_early_and_name_themselves() {
    let bench = ready().await;
    put_role(&bench, "few", DB, 2).await.unwrap();
    let one = try_issue(&bench, "few", None).await.unwrap().lease;
    try_issue(&bench, "few", None).await.unwrap();
    let full = try_issue(&bench, "few", None).await.err().unwrap();
    assert_eq!(full.reason(), "LEASE_LIMIT");
    assert!(full.to_string().contains("role few has 2 live leases"), "{full}");
    assert_eq!(bench.targets.logins(DB), 2, "nothing was made");
    operation::run(&bench.opened(), bench.context(), RevokeLease { id: one.id, force: false }).await.unwrap();
    look_after(&bench).await;
    try_issue(&bench, "few", None).await.unwrap();
    // Counted anew after a restart.
    let mut bench = bench;
    bench.restart().await;
    let full = try_issue(&bench, "few", None).await.err().unwrap();
    assert_eq!(full.reason(), "LEASE_LIMIT");
}

#[tokio::test]
async fn a_write_that_failed_or_ended_unknown_takes_no_place_for_ever() {
    for (nth, fault) in [(1, CommitFault::Unavailable), (1, CommitFault::UnknownAndLost)] {
        let bench = ready().await;
        put_role(&bench, "few", DB, 1).await.unwrap();
        bench.faults.on_commit(nth, fault);
        try_issue(&bench, "few", None).await.err().unwrap();
        if fault != CommitFault::Unavailable {
            advance(&bench, 11);
        }
        try_issue(&bench, "few", None).await.unwrap();
        assert_eq!(try_issue(&bench, "few", None).await.err().unwrap().reason(), "LEASE_LIMIT");
    }
}

/// Issues with the nth write failing in a way; then the process ends, or lives on; then time passes.
async fn cut_off(nth: u64, fault: CommitFault, dies: bool) -> bool {
    let mut bench = ready().await;
    let commits = bench.faults.commits();
    bench.faults.on_commit(nth, fault);
    let issued = try_issue(&bench, ROLE, None).await;
    let reached = bench.faults.commits() >= commits + nth;
    if dies {
        bench.restart().await;
    }
    look_after(&bench).await;
    let live = list(&bench, Selector::Mine).await;
    // No login without a lease, at any time.
    let logins: Vec<String> = bench.targets.inside(DB, |inside| inside.logins.keys().cloned().collect());
    assert!(
        logins.iter().all(|login| live.iter().any(|lease| lease.handle.name == *login)),
        "{nth} {fault:?}"
    );
    if issued.is_ok() {
        assert!(live.iter().any(|lease| lease.state == LeaseState::Active), "{nth} {fault:?} {dies}");
    }
    advance(&bench, 240);
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0, "{nth} {fault:?} {dies}");
    assert_eq!(list(&bench, Selector::Mine).await, []);
    reached
}

#[tokio::test]
async fn issuing_cut_off_at_any_write_leaves_neither_a_login_without_a_lease_nor_one_for_ever() {
    let faults = [CommitFault::Unavailable, CommitFault::UnknownAndLost, CommitFault::UnknownAndApplied];
    for (fault, dies) in faults.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        let mut nth = 1;
        while cut_off(nth, fault, dies).await {
            nth += 1;
        }
        assert!(nth > 2, "the writes of an issue were cut off: {nth}");
    }
}

#[tokio::test]
async fn a_target_that_is_away_or_turns_the_vault_away_takes_no_place_among_its_callers_leases() {
    let bench = ready().await;
    put_role(&bench, "few", DB, 2).await.unwrap();
    for (away, admin, reason) in
        [(true, None, "TARGET_UNAVAILABLE"), (false, Some(b"other".to_vec()), "TARGET_ADMIN_LOGIN")]
    {
        bench.targets.inside(DB, |inside| (inside.away, inside.admin) = (away, admin));
        for _ in 0..5 {
            let refused = try_issue(&bench, "few", None).await.err().unwrap();
            assert_eq!(refused.reason(), reason);
        }
        assert_eq!(list(&bench, Selector::Mine).await, []);
    }
    bench.targets.inside(DB, |inside| inside.admin = None);
    try_issue(&bench, "few", None).await.unwrap();
    try_issue(&bench, "few", None).await.unwrap();
}
