//! Following leases: every change is seen, the latest at least, and nobody follows for longer than they may.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::{Stream, StreamExt as _};
use keystead_audit::EntryKind;
use keystead_domain::principal::PrincipalName;
use tokio::sync::Notify;

use super::*;
use crate::credentials::CredentialError;
use crate::leases::watchers::Bounds;

/// Far longer than anything here takes, and shorter than a watcher waits until it looks again by itself.
const SOON: Duration = Duration::from_secs(10);

type Seen = Pin<Box<dyn Stream<Item = Result<LeaseRecord, VaultError>> + Send>>;

async fn open(bench: &Bench, watch: WatchLease) -> Result<Seen, VaultError> {
    let vault = Arc::clone(&bench.vault);
    Ok(Box::pin(operation::run_stream(vault, bench.context(), || true, watch).await?))
}

async fn watch(bench: &Bench, id: RecordId) -> Seen {
    open(bench, WatchLease::new(id)).await.unwrap()
}

async fn end(seen: &mut Seen) -> Option<Result<LeaseRecord, VaultError>> {
    tokio::time::timeout(SOON, seen.next()).await.expect("nothing comes")
}

async fn next(seen: &mut Seen) -> LeaseRecord {
    end(seen).await.expect("it ended").unwrap()
}

/// Nothing comes for a while.
async fn is_quiet(seen: &mut Seen) -> bool {
    tokio::time::timeout(Duration::from_millis(50), seen.next()).await.is_err()
}

/// What it ends with, after whatever else comes.
async fn refusal(seen: &mut Seen) -> &'static str {
    loop {
        match end(seen).await.expect("it ended in peace") {
            Ok(_) => {}
            Err(error) => return error.reason(),
        }
    }
}

async fn renew(bench: &Bench, id: RecordId) {
    operation::run(&bench.opened(), bench.context(), RenewLease { id, ttl: None }).await.unwrap();
}

async fn revoke(bench: &Bench, id: RecordId) {
    operation::run(&bench.opened(), bench.context(), RevokeLease { id, force: false }).await.unwrap();
}

#[tokio::test]
async fn a_watcher_sees_the_whole_life_of_a_lease() {
    let bench = ready().await;
    let go_on = Arc::new(Notify::new());
    bench.targets.inside(DB, |inside| inside.waits_for = Some(Arc::clone(&go_on)));
    let request = Some(RequestId::parse("deploy-1").unwrap());
    let op = IssueCredential { role: name(ROLE), ttl: None, request_id: request };
    let (open, context) = (bench.opened(), bench.context());
    let issuing = tokio::spawn(async move {
        operation::run(&open, context, op).await.map(|made| made.deliver().unwrap().lease)
    });
    let begun = loop {
        if let Some(lease) = list(&bench, Selector::Mine).await.pop() {
            break lease;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut seen = watch(&bench, begun.id).await;
    assert_eq!(next(&mut seen).await.state, LeaseState::Issuing);
    bench.targets.inside(DB, |inside| inside.waits_for = None);
    go_on.notify_one();
    assert_eq!(next(&mut seen).await.state, LeaseState::Active);
    let lease = issuing.await.unwrap().unwrap();

    advance(&bench, 10);
    renew(&bench, lease.id).await;
    let renewed = next(&mut seen).await;
    assert!(renewed.renewals == 1 && renewed.expires > lease.expires, "{renewed:?}");
    try_issue(&bench, ROLE, Some("deploy-1")).await.unwrap();
    assert_eq!(next(&mut seen).await.reissues, 1);
    assert!(is_quiet(&mut seen).await, "nothing changed");

    bench.targets.inside(DB, |inside| inside.away = true);
    revoke(&bench, lease.id).await;
    assert_eq!(next(&mut seen).await.state, LeaseState::Revoking);
    look_after(&bench).await;
    let failed = next(&mut seen).await.ending.unwrap();
    assert!(failed.failures == 1 && failed.last_error.is_some(), "{failed:?}");
    bench.targets.inside(DB, |inside| inside.away = false);
    advance(&bench, 61);
    look_after(&bench).await;
    assert_eq!(next(&mut seen).await.state, LeaseState::Revoked);
    assert!(end(&mut seen).await.is_none(), "there is nothing more to come");

    // One that is over is shown once.
    let mut late = watch(&bench, lease.id).await;
    assert_eq!(next(&mut late).await.state, LeaseState::Revoked);
    assert!(end(&mut late).await.is_none());
    drop((seen, late));
    assert_eq!(bench.vault.lease_watchers.count(), (0, 0), "nothing of them is left");
}

#[tokio::test]
async fn however_a_lease_ends_its_watcher_sees_it() {
    type End = fn(&Bench, LeaseRecord) -> futures::future::BoxFuture<'_, ()>;
    let ends: [(&str, Why, End); 5] = [
        ("revoked among many", Why::Asked, |bench, _| {
            Box::pin(async {
                let all = RevokeLeases { of: Selector::Role(name(ROLE)) };
                operation::run(&bench.opened(), bench.context(), all).await.unwrap();
            })
        }),
        ("its time is over", Why::Expired, |bench, _| Box::pin(async { advance(bench, 180) })),
        ("closed by force", Why::Asked, |bench, lease| {
            Box::pin(async move {
                bench.targets.inside(DB, |inside| inside.away = true);
                let force = RevokeLease { id: lease.id, force: true };
                operation::run(&bench.opened(), bench.context(), force).await.unwrap();
            })
        }),
        ("its login vanished", Why::LoginGone, |bench, lease| {
            Box::pin(async move {
                bench.targets.inside(DB, |inside| inside.logins.remove(&lease.handle.name));
                advance(bench, 60);
                assert_eq!(reconcile(bench).await.vanished, 1);
            })
        }),
        ("nobody took it", Why::NotIssued, |bench, lease| {
            Box::pin(async move { bench.opened().leases.abandoned.add(lease.id, 0) })
        }),
    ];
    for (what, why, end_it) in ends {
        let bench = ready().await;
        let lease = issue(&bench).await;
        let mut seen = watch(&bench, lease.id).await;
        assert_eq!(next(&mut seen).await, lease);
        end_it(&bench, lease).await;
        look_after(&bench).await;
        let last = loop {
            let change = next(&mut seen).await;
            if change.state == LeaseState::Revoked {
                break change;
            }
        };
        assert_eq!(last.ending.unwrap().why, why, "{what}");
        assert!(end(&mut seen).await.is_none(), "{what}");
    }
}

#[tokio::test]
async fn what_comes_faster_than_it_is_read_is_one_change_and_the_latest() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let mut seen = watch(&bench, lease.id).await;
    next(&mut seen).await;
    for _ in 0..20 {
        advance(&bench, 1);
        renew(&bench, lease.id).await;
    }
    assert_eq!(next(&mut seen).await.renewals, 20);
    assert!(is_quiet(&mut seen).await, "one is enough");
    revoke(&bench, lease.id).await;
    look_after(&bench).await;
    assert_eq!(next(&mut seen).await.state, LeaseState::Revoked);
}

#[tokio::test]
async fn other_leases_wake_nobody() {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    let bench = ready().await;
    let (lease, other) = (issue(&bench).await, issue(&bench).await);
    let looked = || LOOKS.fetch_add(1, Ordering::SeqCst) < usize::MAX;
    let opened =
        operation::run_stream(Arc::clone(&bench.vault), bench.context(), looked, WatchLease::new(lease.id));
    let mut seen: Seen = Box::pin(opened.await.unwrap());
    next(&mut seen).await;
    renew(&bench, other.id).await;
    revoke(&bench, other.id).await;
    bench.put("a/secret").await.unwrap();
    assert!(is_quiet(&mut seen).await);
    assert_eq!(LOOKS.load(Ordering::SeqCst), 1);
    renew(&bench, lease.id).await;
    next(&mut seen).await;
    assert_eq!(LOOKS.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn watchers_are_bounded_and_the_refusal_names_the_limit() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(watch(&bench, lease.id).await);
    }
    let refused = open(&bench, WatchLease::new(lease.id)).await.err().unwrap();
    assert_eq!(refused.reason(), "LEASE_WATCH_LIMIT");
    assert!(refused.to_string().contains("follows 3 leases"), "{refused}");
    kept.pop();
    drop(watch(&bench, lease.id).await);

    let watchers = Arc::clone(&bench.vault.lease_watchers);
    let bounds = Bounds { a_principal: 3, all: 4 };
    let enter = |who: &str| {
        let records = vec![(Keyspace::Leases, lease.id.as_bytes().to_vec())];
        watchers.enter(&PrincipalName::service(who).unwrap(), records, bounds)
    };
    let places = [enter("a").unwrap(), enter("b").unwrap()];
    let Err(CredentialError::WatchLimit { setting, .. }) = enter("c") else { panic!("there are four") };
    assert!(setting.starts_with("leases.max_watches "), "{setting}");
    drop(places);
    enter("c").unwrap();
    drop(kept);
    assert_eq!(watchers.count(), (0, 0));
}

#[tokio::test]
async fn a_watch_ends_with_the_vault() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let mut seen = watch(&bench, lease.id).await;
    next(&mut seen).await;
    bench.vault.seal(bench.context()).await.unwrap();
    assert_eq!(refusal(&mut seen).await, "SEALED");
    bench.unseal().await.unwrap();

    let mut seen = watch(&bench, lease.id).await;
    next(&mut seen).await;
    bench.vault.end_streams();
    assert_eq!(refusal(&mut seen).await, "INTERRUPTED", "the server stops");
}

#[tokio::test]
async fn what_a_watcher_was_about_to_see_is_on_record_before_the_end() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let mut seen = watch(&bench, lease.id).await;
    next(&mut seen).await;
    advance(&bench, 10);
    renew(&bench, lease.id).await;
    let log = bench.vault.audit();
    let before = log.size();
    let full: Vec<_> = std::iter::from_fn(|| log.reserve().ok()).collect();
    assert!(is_quiet(&mut seen).await, "its event has no place in the log");
    drop(seen);
    drop(full);
    let recorded = async {
        while log.size() < before + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, recorded).await.expect("it is not recorded");
    let recorded = log.reader(before).unwrap().take(2);
    let kinds: Vec<_> = recorded.map(|entry| entry.unwrap().kind).collect();
    assert_eq!(kinds, [EntryKind::StreamItem, EntryKind::StreamEnd]);
}

#[tokio::test]
async fn whoever_hangs_up_while_the_log_is_full_leaves_the_end_of_a_watch_behind() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let mut seen = watch(&bench, lease.id).await;
    next(&mut seen).await;
    let log = bench.vault.audit();
    let full: Vec<_> = std::iter::from_fn(|| log.reserve().ok()).collect();
    let before = log.size();
    bench.vault.end_streams();
    assert!(is_quiet(&mut seen).await, "its end has no place in the log");
    drop(seen);
    drop(full);
    let recorded = async {
        while log.size() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, recorded).await.expect("it is not recorded");
    assert_eq!(log.size(), before + 1);
}

#[tokio::test]
async fn a_watch_goes_on_when_the_vault_was_sealed_and_opened_while_nobody_read() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let mut seen = watch(&bench, lease.id).await;
    next(&mut seen).await;
    bench.vault.seal(bench.context()).await.unwrap();
    bench.unseal().await.unwrap();
    assert!(is_quiet(&mut seen).await, "nothing changed");
    renew(&bench, lease.id).await;
    assert_eq!(next(&mut seen).await.renewals, 1);
}

#[tokio::test]
async fn a_watch_ends_with_what_its_caller_is_known_by() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let mut seen = watch(&bench, lease.id).await;
    next(&mut seen).await;
    operation::run(&bench.opened(), bench.context(), RevokeSelf).await.unwrap();
    assert_eq!(refusal(&mut seen).await, "UNAUTHENTICATED", "its session is over");

    let bench = ready().await;
    let lease = issue(&bench).await;
    static COUNTS: AtomicBool = AtomicBool::new(true);
    let watch = WatchLease::new(lease.id).look_again_after(Duration::from_millis(20));
    let counts = || COUNTS.load(Ordering::SeqCst);
    let opened = operation::run_stream(Arc::clone(&bench.vault), bench.context(), counts, watch);
    let mut seen: Seen = Box::pin(opened.await.unwrap());
    next(&mut seen).await;
    COUNTS.store(false, Ordering::SeqCst);
    assert_eq!(
        refusal(&mut seen).await,
        "UNAUTHENTICATED",
        "its certificate was revoked, and no lease changed"
    );
}

#[tokio::test]
async fn what_no_commit_of_this_process_tells_is_seen_a_little_later() {
    let bench = ready().await;
    let lease = issue(&bench).await;
    let at = keyspace::lease(lease.id.as_bytes());
    let watch = WatchLease::new(lease.id).look_again_after(Duration::from_millis(20));
    let mut seen = open(&bench, watch).await.unwrap();
    next(&mut seen).await;
    let mut batch = Batch::new();
    batch.delete(Keyspace::Leases, at);
    bench.store.commit(batch).await.unwrap();
    assert_eq!(refusal(&mut seen).await, "NOT_FOUND");
    assert_eq!(refusal(&mut self::watch(&bench, lease.id).await).await, "NOT_FOUND");
}
