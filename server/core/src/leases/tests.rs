//! Leases on a target in memory: what each ends in, wherever it is cut off.

use std::num::NonZeroU16;
use std::time::Duration;

use keystead_domain::id::{RecordId, RequestId};
use keystead_domain::lease::{LeaseRecord, LeaseState, Why};
use keystead_domain::name::Name;
use keystead_domain::rights::Right;
use keystead_domain::rights::postgres::{PgName, PostgresRole};
use keystead_domain::role::{Declaration, OnExcess};
use keystead_domain::target::{Host, PostgresSettings, TargetSettings};
use keystead_domain::time::{Ttl, UnixMillis};
use keystead_storage::fault::CommitFault;
use keystead_storage::{Batch, Keyspace, Range, Storage, keyspace};

use super::*;
use crate::auth::RevokeSelf;
use crate::credentials::admin::RotateTargetLogin;
use crate::credentials::issue::{Delivered, IssueCredential};
use crate::credentials::roles::{DeleteRole, PutRole};
use crate::credentials::targets::{DeleteTarget, PutTarget, Target};
use crate::engine::{AdminLogin, Field, Finding};
use crate::operation;
use crate::rotation::RotationOptions;
use crate::testing::Bench;
use keystead_crypto::secret::SecretBytes;

const DB: &str = "shop-db";
const ROLE: &str = "orders-rw";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn secs(seconds: u64) -> Ttl {
    Ttl::from_secs(seconds).unwrap()
}

fn settings() -> TargetSettings {
    TargetSettings::Postgres(PostgresSettings {
        host: Host::parse("localhost").unwrap(),
        port: NonZeroU16::new(5432).unwrap(),
        database: PgName::parse("shop").unwrap(),
        ca_pem: String::new(),
        server_name: None,
        admin: PgName::parse("ks_admin").unwrap(),
        connections: 4,
    })
}

async fn put_target(bench: &Bench, target: &str, accept: &[&str]) -> Result<Target, VaultError> {
    put_target_at(bench, target, "localhost", accept).await
}

async fn put_target_at(
    bench: &Bench,
    target: &str,
    host: &str,
    accept: &[&str],
) -> Result<Target, VaultError> {
    let TargetSettings::Postgres(settings) = settings();
    let put = PutTarget {
        name: name(target),
        settings: TargetSettings::Postgres(PostgresSettings { host: Host::parse(host).unwrap(), ..settings }),
        login: Some(AdminLogin { secret: SecretBytes::copy_from(b"admin") }),
        max_ttl: secs(7_200),
        accept: accept.iter().map(|digest| (*digest).to_owned()).collect(),
        etag: None,
    };
    operation::run(&bench.opened(), bench.context(), put).await
}

async fn put_role(bench: &Bench, role: &str, target: &str, max_live: u32) -> Result<(), VaultError> {
    let put = PutRole {
        name: name(role),
        target: name(target),
        declaration: Declaration::Postgres(PostgresRole::default()),
        default_ttl: secs(180),
        max_ttl: secs(3_600),
        max_live,
        on_excess: OnExcess::Refuse,
        etag: None,
    };
    operation::run(&bench.opened(), bench.context(), put).await.map(drop)
}

async fn ready() -> Bench {
    let bench = Bench::open(&["one"], RotationOptions::default()).await;
    put_target(&bench, DB, &[]).await.unwrap();
    put_role(&bench, ROLE, DB, 50).await.unwrap();
    bench
}

async fn try_issue(bench: &Bench, role: &str, id: Option<&str>) -> Result<Delivered, VaultError> {
    let request_id = id.map(|id| RequestId::parse(id).unwrap());
    let issue = IssueCredential { role: name(role), ttl: None, request_id };
    let undelivered = operation::run(&bench.opened(), bench.context(), issue).await?;
    Ok(undelivered.deliver().unwrap())
}

async fn issue(bench: &Bench) -> LeaseRecord {
    try_issue(bench, ROLE, None).await.unwrap().lease
}

fn password(delivered: &Delivered) -> Vec<u8> {
    let Some((_, Field::Secret(secret))) = delivered.credential.0.first() else { panic!("no password") };
    secret.expose().to_vec()
}

async fn read(bench: &Bench, id: RecordId) -> Result<LeaseRecord, VaultError> {
    operation::run(&bench.opened(), bench.context(), ReadLease { id }).await
}

async fn list(bench: &Bench, of: Selector) -> Vec<LeaseRecord> {
    let list = ListLeases { of, limit: 100, after: None };
    operation::run(&bench.opened(), bench.context(), list).await.unwrap().leases
}

/// Rounds of the server's tasks, until one begins nothing and nothing is under way.
async fn look_after(bench: &Bench) -> Round {
    match bench.opened().settle_target_logins().await {
        Ok(()) | Err(VaultError::Storage(_)) => {}
        Err(error) => panic!("{error}"),
    }
    for _ in 0..200 {
        let open = bench.opened();
        let idle = open.leases.under_way.is_idle();
        match open.look_after_leases().await {
            Ok(round) if round.begun == 0 && idle => return round,
            // A write that a test lets fail.
            Err(VaultError::Storage(_)) | Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
        // What was begun goes on beside it.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the rounds do not end");
}

fn advance(bench: &Bench, seconds: u64) {
    bench.clock.advance(Duration::from_secs(seconds));
}

/// Every key of the index, but for those of jobs.
async fn index(bench: &Bench) -> usize {
    let snapshot = bench.store.snapshot().await.unwrap();
    snapshot.range(Keyspace::LeaseIndex, Range::all(None), 1024).await.unwrap().len()
}

#[tokio::test]
async fn a_login_lives_as_long_as_its_lease_and_no_longer() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    assert_eq!((lease.state, lease.period.as_secs()), (LeaseState::Active, 180));
    let until = bench.targets.inside(DB, |inside| inside.logins[&lease.handle.name].not_after);
    assert!(
        until > lease.expires && until.0 < lease.expires.0 + 600_000,
        "the target ends it a little later"
    );
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
async fn rights_in_excess_refuse_the_login_and_remove_it() {
    let bench = ready().await;
    let excess = Right { object: "table t".to_owned(), privilege: "DELETE".to_owned(), through: None };
    bench.targets.inside(DB, |inside| inside.excess.push(excess));
    let refused = try_issue(&bench, ROLE, None).await.err().unwrap();
    assert_eq!(refused.reason(), "RIGHTS_IN_EXCESS");
    assert!(refused.to_string().contains("DELETE on table t"), "{refused}");
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

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
    let revoking = operation::run(&bench.opened(), bench.context(), revoke).await.unwrap();
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
    let tries = bench.targets.inside(DB, |inside| inside.revocations);
    advance(&bench, 600);
    look_after(&bench).await;
    assert_eq!(bench.targets.inside(DB, |inside| inside.revocations), tries, "it is left alone");
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
async fn leases_end_with_the_session_that_asked_for_them() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    assert!(lease.session.is_some());
    operation::run(&bench.opened(), bench.context(), RevokeSelf).await.unwrap();
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn what_leases_hang_on_is_not_deleted_under_them() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let open = bench.opened();
    let role = || DeleteRole { name: name(ROLE) };
    let target = || DeleteTarget { name: name(DB) };
    assert_eq!(operation::run(&open, bench.context(), role()).await.unwrap_err().reason(), "IN_USE");
    assert_eq!(operation::run(&open, bench.context(), target()).await.unwrap_err().reason(), "IN_USE");
    // It was left as it was.
    issue(&bench).await;
    operation::run(&open, bench.context(), RevokeLeases { of: Selector::Mine }).await.unwrap();
    drop(open);
    look_after(&bench).await;
    let open = bench.opened();
    operation::run(&open, bench.context(), role()).await.unwrap();
    assert_eq!(bench.targets.inside(DB, |inside| inside.roles.len()), 0);
    operation::run(&open, bench.context(), target()).await.unwrap();
    // Added anew under the name, it inherits nothing.
    put_target(&bench, DB, &[]).await.unwrap();
    put_role(&bench, ROLE, DB, 50).await.unwrap();
    let anew = issue(&bench).await;
    assert!(anew.target_id != lease.target_id && anew.role_id != lease.role_id);
}

#[tokio::test]
async fn a_target_moves_only_while_no_lease_is_on_it_however_often_that_is_asked() {
    let bench = ready().await;
    // Asked while there is none, and again once there is one.
    put_target_at(&bench, DB, "first.example", &[]).await.unwrap();
    let lease = issue(&bench).await;
    let refused = put_target_at(&bench, DB, "second.example", &[]).await.unwrap_err();
    assert_eq!(refused.reason(), "IN_USE");
    operation::run(&bench.opened(), bench.context(), RevokeLease { id: lease.id, force: false })
        .await
        .unwrap();
    look_after(&bench).await;
    put_target_at(&bench, DB, "second.example", &[]).await.unwrap();
}

#[tokio::test]
async fn a_target_whose_baseline_nobody_accepted_is_not_added() {
    let bench = Bench::open(&["one"], RotationOptions::default()).await;
    let finding = Finding {
        digest: "b1".to_owned(),
        right: Right {
            object: "schema public".to_owned(),
            privilege: "CREATE".to_owned(),
            through: Some("PUBLIC".to_owned()),
        },
        closed_by: "REVOKE CREATE ON SCHEMA public FROM PUBLIC;".to_owned(),
    };
    bench.targets.inside(DB, |inside| inside.baseline.push(finding));
    let refused = put_target(&bench, DB, &[]).await.unwrap_err();
    assert_eq!(refused.reason(), "BASELINE_NOT_ACCEPTED");
    let VaultError::Credential(CredentialError::Baseline { findings, .. }) = refused else {
        panic!("{refused}")
    };
    assert_eq!(findings[0].closed_by, "REVOKE CREATE ON SCHEMA public FROM PUBLIC;");
    assert_eq!(put_target(&bench, DB, &["b1"]).await.unwrap().record.accepted, ["b1"]);
}

#[tokio::test]
async fn a_lease_that_does_not_open_holds_up_no_other() {
    let bench = ready().await;
    let (bad, good) = (issue(&bench).await, issue(&bench).await);
    let mut batch = Batch::new();
    batch.put(Keyspace::Leases, keyspace::lease(bad.id.as_bytes()), vec![7; 90]);
    bench.store.commit(batch).await.unwrap();
    advance(&bench, 180);
    assert_eq!(look_after(&bench).await.broken, 1);
    let left: Vec<String> = bench.targets.inside(DB, |inside| inside.logins.keys().cloned().collect());
    assert_eq!(left, [bad.handle.name]);
    assert_eq!(read(&bench, good.id).await.unwrap().state, LeaseState::Revoked);
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

async fn reconcile(bench: &Bench) -> Reconciled {
    bench.opened().reconcile_leases().await.unwrap()
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

async fn rotate_login(bench: &Bench) -> Result<Target, VaultError> {
    let rotate = RotateTargetLogin { name: name(DB) };
    operation::run(&bench.opened(), bench.context(), rotate).await
}

#[tokio::test]
async fn the_admin_login_gets_a_password_that_only_the_vault_knows() {
    let mut bench = ready().await;
    assert!(rotate_login(&bench).await.unwrap().record.rotated.is_some());
    let first = bench.targets.inside(DB, |inside| inside.admin.clone().unwrap());
    issue(&bench).await;
    rotate_login(&bench).await.unwrap();
    assert_ne!(bench.targets.inside(DB, |inside| inside.admin.clone().unwrap()), first);
    bench.restart().await;
    issue(&bench).await;
}

/// Rotates with the nth write failing, or with the target's answer lost; the vault still gets in.
async fn rotation_cut_off(nth: Option<u64>, fault: CommitFault, dies: bool) -> bool {
    let mut bench = ready().await;
    let commits = bench.faults.commits();
    match nth {
        Some(nth) => bench.faults.on_commit(nth, fault),
        None => bench.targets.inside(DB, |inside| inside.silent = true),
    }
    drop(rotate_login(&bench).await);
    let reached = nth.is_none_or(|nth| bench.faults.commits() >= commits + nth);
    bench.targets.inside(DB, |inside| inside.silent = false);
    if dies {
        bench.restart().await;
    }
    look_after(&bench).await;
    issue(&bench).await;
    assert!(rotate_login(&bench).await.unwrap().record.rotated.is_some());
    issue(&bench).await;
    reached
}

#[tokio::test]
async fn a_rotation_of_the_admin_login_cut_off_anywhere_never_locks_the_vault_out() {
    let faults = [CommitFault::Unavailable, CommitFault::UnknownAndLost, CommitFault::UnknownAndApplied];
    for (fault, dies) in faults.into_iter().flat_map(|fault| [(fault, false), (fault, true)]) {
        let mut nth = 1;
        while rotation_cut_off(Some(nth), fault, dies).await {
            nth += 1;
        }
        assert!(nth > 2, "{nth}");
        rotation_cut_off(None, fault, dies).await;
    }
}

#[tokio::test]
async fn a_target_that_is_changed_while_its_admin_login_is_rotated_locks_nobody_out() {
    for given in [None, Some(b"admin")] {
        let mut bench = ready().await;
        bench.targets.inside(DB, |inside| inside.takes = Duration::from_millis(600));
        let changed = async {
            // The new password is on its way to the target.
            tokio::time::sleep(Duration::from_millis(700)).await;
            bench.targets.inside(DB, |inside| inside.takes = Duration::ZERO);
            let put = PutTarget {
                name: name(DB),
                settings: settings(),
                login: given.map(|secret| AdminLogin { secret: SecretBytes::copy_from(secret) }),
                max_ttl: secs(600),
                accept: Vec::new(),
                etag: None,
            };
            operation::run(&bench.opened(), bench.context(), put).await.unwrap();
        };
        let (rotated, ()) = tokio::join!(rotate_login(&bench), changed);
        assert!(rotated.unwrap().record.rotated.is_some());
        assert_ne!(bench.targets.inside(DB, |inside| inside.admin.clone()), None);
        bench.restart().await;
        look_after(&bench).await;
        issue(&bench).await;
    }
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
async fn a_target_that_cannot_be_rotated_yet_is_settled_although_another_one_was_meanwhile() {
    let bench = ready().await;
    put_target(&bench, "other-db", &[]).await.unwrap();
    bench.targets.inside(DB, |inside| inside.takes = Duration::from_millis(100));
    bench.targets.inside("other-db", |inside| inside.away = true);
    let settled = async {
        // The flag of the first rotation is being looked after, and what it stands for is read.
        tokio::time::sleep(Duration::from_millis(20)).await;
        bench.opened().settle_target_logins().await.unwrap();
    };
    let other = async {
        tokio::time::sleep(Duration::from_millis(60)).await;
        let rotate = RotateTargetLogin { name: name("other-db") };
        operation::run(&bench.opened(), bench.context(), rotate).await.unwrap_err();
    };
    let (rotated, (), ()) = tokio::join!(rotate_login(&bench), settled, other);
    rotated.unwrap();
    bench.targets.inside("other-db", |inside| inside.away = false);
    look_after(&bench).await;
    assert_ne!(bench.targets.inside("other-db", |inside| inside.admin.clone()), None);
}

#[test]
fn records_are_as_their_page_says() {
    use crate::records;
    use crate::records::vectors::check;
    use keystead_domain::lease::{Handle, NewLease};
    let made = UnixMillis(1_700_000_000_000);
    let mut lease = LeaseRecord::begin(NewLease {
        id: RecordId([0xc3; 16]),
        owner: keystead_domain::principal::PrincipalName::service("shop").unwrap(),
        owner_generation: made.0,
        session: None,
        role: name(ROLE),
        role_id: RecordId([0xc2; 16]),
        target: name(DB),
        target_id: RecordId([0xc1; 16]),
        handle: Handle { name: "ks_login".to_owned(), detail: vec![0xee; 2] },
        now: made,
        period: secs(900),
        max_expires: UnixMillis(made.0 + 3_600_000),
    })
    .unwrap();
    lease.activate().unwrap();
    check("record.lease", &records::encode(&lease).unwrap());
    lease.begin_revoking(Why::Asked, UnixMillis(made.0 + 1)).unwrap();
    lease.failed("away", 1_000, UnixMillis(made.0 + 2)).unwrap();
    let by = keystead_domain::principal::PrincipalName::operator("ann").unwrap();
    lease.close(keystead_domain::lease::Closed::Forced { at: UnixMillis(made.0 + 3), by }).unwrap();
    check("record.lease-closed", &records::encode(&lease).unwrap());
    let state = State { mark: made, low: vec![28_333_333; 16] };
    check("record.leases", &records::encode(&state).unwrap());
    check("record.lease-job", &many::vector());
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
async fn a_target_that_is_away_takes_no_place_among_its_callers_leases() {
    let bench = ready().await;
    put_role(&bench, "few", DB, 2).await.unwrap();
    bench.targets.inside(DB, |inside| inside.away = true);
    for _ in 0..5 {
        let refused = try_issue(&bench, "few", None).await.err().unwrap();
        assert_eq!(refused.reason(), "TARGET_UNAVAILABLE");
    }
    assert_eq!(list(&bench, Selector::Mine).await, []);
    bench.targets.inside(DB, |inside| inside.away = false);
    try_issue(&bench, "few", None).await.unwrap();
    try_issue(&bench, "few", None).await.unwrap();
}
