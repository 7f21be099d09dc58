//! Whose leases they are: what their owner may do with them, what others may not, and what becomes of them when the owner
//! goes.

use std::sync::Arc;

use keystead_domain::CertificateMatcher;
use keystead_domain::PolicyName;
use keystead_domain::principal::{PrincipalName, PrincipalRecord};

use super::*;
use crate::auth::{DeletePrincipal, PutPrincipal};
use crate::policies::{DeletePolicy, PutPolicy};
use crate::request::{Peer, PresentedCertificate, RequestContext};

fn matcher(service: &str) -> CertificateMatcher {
    CertificateMatcher::spiffe(&format!("spiffe://test/{service}")).unwrap()
}

/// A request of a service, by its certificate.
fn by(service: &str) -> RequestContext {
    let certificate = PresentedCertificate {
        identities: vec![matcher(service)],
        fingerprint: [1; 32],
        ca_fingerprint: [2; 32],
        not_after: UnixMillis(u64::MAX),
    };
    RequestContext {
        request_id: RequestId::parse("test").unwrap(),
        trace_id: None,
        peer: Peer::Local { uid: 0 },
        certificate: Some(Arc::new(certificate)),
        token: None,
        refused: false,
        arrived: Duration::ZERO,
    }
}

fn service(name: &str) -> PrincipalName {
    PrincipalName::service(name).unwrap()
}

async fn register(bench: &Bench, name: &str, disabled: bool) {
    let record = PrincipalRecord {
        name: service(name),
        groups: Vec::new(),
        matchers: vec![matcher(name)],
        disabled,
        created: UnixMillis(0),
    };
    let put = PutPrincipal { record, etag: None };
    operation::run(&bench.opened(), bench.context(), put).await.unwrap();
}

fn policy(service: &str) -> PolicyName {
    PolicyName::parse(&format!("{service}-issues")).unwrap()
}

/// It may issue from the role, and nothing else.
async fn let_issue(bench: &Bench, service: &str) {
    let text = format!(
        "permit(principal == Keystead::Service::\"{service}\", action == Keystead::Action::\"roles:issue\", resource);"
    );
    let put = PutPolicy { name: policy(service), text, etag: None };
    operation::run(&bench.opened(), bench.context(), put).await.unwrap();
}

async fn with_services(services: &[&str]) -> Bench {
    let bench = ready().await;
    for service in services {
        register(&bench, service, false).await;
        let_issue(&bench, service).await;
    }
    bench
}

async fn issue_by(bench: &Bench, service: &str) -> LeaseRecord {
    let issue = IssueCredential { role: name(ROLE), ttl: None, request_id: None };
    let undelivered = operation::run(&bench.opened(), by(service), issue).await.unwrap();
    undelivered.deliver().unwrap().lease
}

#[tokio::test]
async fn leases_end_when_their_owner_is_disabled_or_deleted() {
    for delete in [false, true] {
        let bench = with_services(&["shop", "other"]).await;
        let (gone, stays) = (issue_by(&bench, "shop").await, issue_by(&bench, "other").await);
        if delete {
            let delete = DeletePrincipal { name: service("shop") };
            operation::run(&bench.opened(), bench.context(), delete).await.unwrap();
        } else {
            register(&bench, "shop", true).await;
        }
        look_after(&bench).await;
        let ended = read(&bench, gone.id).await.unwrap();
        assert_eq!((ended.state, ended.ending.unwrap().why), (LeaseState::Revoked, Why::OwnerGone));
        assert_eq!(read(&bench, stays.id).await.unwrap().state, LeaseState::Active);
        assert_eq!(bench.targets.logins(DB), 1);
    }
}

#[tokio::test]
async fn whoever_has_the_name_of_one_that_was_deleted_owns_none_of_its_leases() {
    let bench = with_services(&["shop"]).await;
    // Its target is away, so that its leases are there for long.
    let old = issue_by(&bench, "shop").await;
    bench.targets.inside(DB, |inside| inside.away = true);
    operation::run(&bench.opened(), bench.context(), DeletePrincipal { name: service("shop") })
        .await
        .unwrap();
    advance(&bench, 1);
    register(&bench, "shop", false).await;
    look_after(&bench).await;
    assert_eq!(read(&bench, old.id).await.unwrap().state, LeaseState::Revoking);
    nothing_is_done_to(&bench, "shop", &old).await;
}

/// A service that is not its owner, for all that matters here, gets nowhere with a lease.
async fn nothing_is_done_to(bench: &Bench, service: &str, lease: &LeaseRecord) {
    let before = read(bench, lease.id).await.unwrap();
    let id = lease.id;
    let open = bench.opened();
    let read_it = operation::run(&open, by(service), ReadLease { id }).await.map(drop);
    let renewed = operation::run(&open, by(service), RenewLease { id, ttl: None }).await.map(drop);
    let mut refusals = vec![read_it, renewed];
    for force in [false, true] {
        refusals.push(operation::run(&open, by(service), RevokeLease { id, force }).await.map(drop));
    }
    for refused in refusals {
        assert_eq!(refused.unwrap_err().reason(), "DENIED");
    }
    assert_eq!(read(bench, id).await.unwrap(), before);
}

#[tokio::test]
async fn nobody_does_anything_with_anothers_lease() {
    let bench = with_services(&["shop", "thief"]).await;
    let (lease, own) = (issue_by(&bench, "shop").await, issue_by(&bench, "thief").await);
    nothing_is_done_to(&bench, "thief", &lease).await;
    let open = bench.opened();
    let all = || {
        [
            Selector::Principal(service("shop")),
            Selector::Principal(service("thief")),
            Selector::Role(name(ROLE)),
            Selector::RolePrefix(String::new()),
            Selector::Target(name(DB)),
            Selector::Due,
        ]
    };
    for of in all() {
        let listed = ListLeases { of: of.clone(), limit: 100, after: None };
        let listed = operation::run(&open, by("thief"), listed).await.map(drop);
        assert_eq!(listed.unwrap_err().reason(), "DENIED", "{of:?}");
        let revoked = operation::run(&open, by("thief"), RevokeLeases { of: of.clone() }).await.map(drop);
        assert_eq!(revoked.unwrap_err().reason(), "DENIED", "{of:?}");
    }
    // Its own are its own.
    let mine = ListLeases { of: Selector::Mine, limit: 100, after: None };
    let mine = operation::run(&open, by("thief"), mine).await.unwrap().leases;
    assert_eq!(mine, [own]);
    operation::run(&open, by("thief"), RevokeLeases { of: Selector::Mine }).await.unwrap();
    drop(open);
    look_after(&bench).await;
    assert_eq!(read(&bench, lease.id).await.unwrap(), lease);
    assert_eq!(bench.targets.logins(DB), 1);
}

#[tokio::test]
async fn whoever_may_issue_no_more_may_renew_no_more() {
    let bench = with_services(&["shop"]).await;
    let lease = issue_by(&bench, "shop").await;
    let renew = || RenewLease { id: lease.id, ttl: None };
    advance(&bench, 10);
    operation::run(&bench.opened(), by("shop"), renew()).await.unwrap();
    operation::run(&bench.opened(), bench.context(), DeletePolicy { name: policy("shop") }).await.unwrap();
    advance(&bench, 10);
    let refused = operation::run(&bench.opened(), by("shop"), renew()).await.err().unwrap();
    assert_eq!(refused.reason(), "LEASE_NOT_RENEWED");
    // It has what it has until that ends.
    assert_eq!(read(&bench, lease.id).await.unwrap().state, LeaseState::Active);
    advance(&bench, 180);
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}

#[tokio::test]
async fn a_lease_never_outlives_the_session_that_asked_for_it() {
    let bench = ready().await;
    // The session lives a day from when the vault was made.
    let day = 24 * 3_600;
    advance(&bench, day - 100);
    assert!(bench.opened().leases.clock.believe());
    let lease = issue(&bench).await;
    let ends = bench.vault.clock().now().0 + 100_000;
    assert!(lease.expires.0 <= ends && lease.max_expires.0 <= ends, "{lease:?}");
    advance(&bench, 50);
    let renew = RenewLease { id: lease.id, ttl: Some(secs(3_600)) };
    let refused = operation::run(&bench.opened(), bench.context(), renew).await.err().unwrap();
    assert_eq!(refused.reason(), "LEASE_AT_ITS_LONGEST");
    advance(&bench, 50);
    look_after(&bench).await;
    assert_eq!(bench.targets.logins(DB), 0);
}
