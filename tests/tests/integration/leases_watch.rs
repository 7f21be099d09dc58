//! Following leases of logins in a real PostgreSQL: what a watcher sees, who may be one, and what a keeper makes of it.

use std::time::Duration;

use keystead_client::{EndReason, Error, KeeperEvent, Lease, LeaseChanges, LeaseSelector, LeaseState};
use keystead_tests::{PATIENCE, TestVault, until};

use crate::leases::{ROLE, no_login_is_left, shop};
use crate::reason;

async fn next(changes: &mut LeaseChanges) -> Result<Option<Lease>, Error> {
    tokio::time::timeout(PATIENCE, changes.next()).await.expect("nothing comes")
}

async fn change(changes: &mut LeaseChanges) -> Lease {
    next(changes).await.unwrap().expect("it ended")
}

/// What it ends with, after whatever else comes.
async fn refusal(changes: &mut LeaseChanges) -> Error {
    loop {
        match next(changes).await {
            Ok(lease) => assert!(lease.is_some(), "it ended in peace"),
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn a_watcher_sees_an_operators_revocation_through_to_its_end() {
    let vault = TestVault::start().await;
    let shop = shop(&vault).await;
    let (orders, other) = (vault.service("orders").await, vault.service("other").await);
    vault.may_issue("orders", ROLE).await;
    let issued = orders.credentials().issue(ROLE).await.unwrap();
    let id = issued.lease.id.clone();

    // Its owner needs no right for it; another service has none, an operator has.
    assert_eq!(reason(other.leases().watch(&id).await), "DENIED");
    let mut own = orders.leases().watch(&id).await.unwrap();
    let mut operators = vault.operator().leases().watch(&id).await.unwrap();
    assert_eq!(change(&mut own).await, issued.lease);
    assert_eq!(change(&mut operators).await, issued.lease);
    orders.leases().renew(&id, Some(Duration::from_secs(1_000))).await.unwrap();
    assert_eq!(change(&mut own).await.renewals, 1);

    let session = shop.login(&issued).await.unwrap();
    vault.operator().leases().revoke(&id).await.unwrap();
    let last = loop {
        let lease = change(&mut own).await;
        if lease.state == LeaseState::Revoked {
            break lease;
        }
        assert_eq!(lease.state, LeaseState::Revoking);
    };
    let ending = last.ending.unwrap();
    assert!(ending.reason == EndReason::Asked && ending.closed.is_some() && ending.forced_by.is_none());
    assert!(shop.logins().await.is_empty(), "it is over when the login is gone");
    assert!(session.query("SELECT 1", &[]).await.is_err());
    assert_eq!(next(&mut own).await.unwrap(), None);
    // What is over is shown as it is.
    let mut late = orders.leases().watch(&id).await.unwrap();
    assert_eq!(change(&mut late).await.state, LeaseState::Revoked);
    assert_eq!(next(&mut late).await.unwrap(), None);
}

#[tokio::test]
async fn the_audit_log_says_who_followed_a_lease_and_what_they_saw() {
    let vault = TestVault::start().await;
    let shop = shop(&vault).await;
    let orders = vault.service("orders").await;
    vault.may_issue("orders", ROLE).await;
    let id = orders.credentials().issue(ROLE).await.unwrap().lease.id;
    let mut left = orders.leases().watch(&id).await.unwrap();
    change(&mut left).await;
    drop(left);
    let of_watcher = |kind: &'static str, outcome: &'static str| {
        let (vault, resource) = (&vault, format!("lease/{id}"));
        async move {
            let entries = vault.audit().await;
            let seen = entries.iter().filter(|entry| {
                (entry.action.as_str(), entry.resource.as_str()) == ("leases:read", resource.as_str())
                    && entry.principal == "service/orders"
                    && entry.decision == "allow"
                    && entry.policies == ["owner"]
                    && (entry.kind.as_str(), entry.outcome.as_str()) == (kind, outcome)
            });
            seen.count()
        }
    };
    until("the end is recorded", || async {
        // Who hangs up decides nothing.
        let entries = vault.audit().await;
        entries.iter().any(|entry| entry.kind == "stream-end" && entry.outcome == "CANCELLED").then_some(())
    })
    .await;
    assert_eq!((of_watcher("stream-open", "ok").await, of_watcher("stream-item", "").await), (1, 1));

    let mut followed = orders.leases().watch(&id).await.unwrap();
    change(&mut followed).await;
    let mut changes = 1;
    vault.operator().leases().revoke(&id).await.unwrap();
    while next(&mut followed).await.unwrap().is_some() {
        changes += 1;
    }
    assert_eq!(
        (of_watcher("stream-open", "ok").await, of_watcher("stream-item", "").await),
        (2, 1 + changes)
    );
    let entries = vault.audit().await;
    let ends =
        entries.iter().filter(|entry| entry.kind == "stream-end" && entry.resource == format!("lease/{id}"));
    let ends: Vec<_> = ends.map(|end| (end.principal.as_str(), end.outcome.as_str())).collect();
    assert_eq!(ends, [("service/orders", "CANCELLED"), ("service/orders", "ok")]);
    no_login_is_left(&shop).await;
}

#[tokio::test]
async fn a_watcher_is_cut_off_when_its_right_goes() {
    const READER: &str = "permit (principal == Keystead::Service::\"reader\", \
                          action == Keystead::Action::\"leases:read\", resource);";
    let vault = TestVault::start().await;
    let _shop = shop(&vault).await;
    let operator = vault.operator();
    let id = operator.credentials().issue(ROLE).await.unwrap().lease.id;
    let reader = vault.service("reader").await;
    type Undo = fn(keystead_client::Client) -> futures::future::BoxFuture<'static, ()>;
    let cases: [(&str, Undo, &str); 3] = [
        (
            "the policy goes",
            |operator| Box::pin(async move { operator.policies().delete("reader").await.unwrap() }),
            "DENIED",
        ),
        (
            "the principal goes",
            |operator| {
                Box::pin(async move { operator.auth().delete_principal("service/reader").await.unwrap() })
            },
            "UNAUTHENTICATED",
        ),
        (
            "the vault is sealed",
            |operator| Box::pin(async move { operator.system().seal().await.unwrap() }),
            "SEALED",
        ),
    ];
    for (what, undo, expected) in cases {
        vault.policy("reader", READER).await;
        vault.register_service("reader").await;
        let mut changes = reader.leases().watch(&id).await.unwrap();
        change(&mut changes).await;
        // Sooner than it would look by itself.
        let soon = Duration::from_secs(20);
        undo(operator.clone()).await;
        let error = tokio::time::timeout(soon, refusal(&mut changes)).await.expect(what);
        assert_eq!(error.reason(), expected, "{what}");
    }
    vault.unseal().await;
    let mut changes = operator.leases().watch(&id).await.unwrap();
    change(&mut changes).await;
    vault.vault().end_streams();
    let stopped = refusal(&mut changes).await;
    assert!(matches!(stopped, Error::Unavailable { .. }), "{stopped:?}");
}

#[tokio::test]
async fn more_watchers_than_allowed_are_refused_before_anything_is_sent() {
    let vault = TestVault::builder()
        .config(|config| {
            config.leases.max_watches_per_principal = 2;
            config.leases.max_watches = 3;
        })
        .start()
        .await;
    let _shop = shop(&vault).await;
    let orders = vault.service("orders").await;
    vault.may_issue("orders", ROLE).await;
    let id = orders.credentials().issue(ROLE).await.unwrap().lease.id;
    let kept = [orders.leases().watch(&id).await.unwrap(), orders.leases().watch(&id).await.unwrap()];
    let refused = orders.leases().watch(&id).await.unwrap_err();
    assert!(matches!(&refused, Error::LimitExceeded { .. }) && refused.reason() == "LEASE_WATCH_LIMIT");
    assert!(refused.to_string().contains("service/orders follows 2 leases"), "{refused}");
    let operators = vault.operator().leases().watch(&id).await.unwrap();
    let refused = vault.operator().leases().watch(&id).await.unwrap_err();
    assert!(refused.to_string().contains("leases.max_watches "), "{refused}");
    drop((kept, operators));
    until("their places are free", || async {
        // The server learns it a moment later.
        let first = orders.leases().watch(&id).await.ok()?;
        let second = orders.leases().watch(&id).await.ok()?;
        Some((first, second))
    })
    .await;
}

#[tokio::test]
async fn a_kept_login_that_an_operator_revoked_is_replaced_at_once() {
    let vault = TestVault::start().await;
    let shop = shop(&vault).await;
    let orders = vault.service("orders").await;
    vault.may_issue("orders", ROLE).await;
    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let mut kept = orders
        .credentials()
        .keep(ROLE)
        .on_event(move |event| told.send(event.clone()).unwrap())
        .await
        .unwrap();
    let first = orders.leases().list(&LeaseSelector::Own).next().await.unwrap().unwrap();
    // Nobody tries it, and it would be renewed in minutes.
    assert!(first.period > 4 * PATIENCE, "{first:?}");
    vault.operator().leases().revoke_all(&LeaseSelector::Role(ROLE.to_owned())).await.unwrap();
    tokio::time::timeout(PATIENCE, kept.changed()).await.expect("it waits").unwrap();
    let ended = events.recv().await.unwrap();
    assert!(matches!(&ended, KeeperEvent::Ended { lease } if lease.id == first.id), "{ended}");
    let keystead_client::Credential::Postgres(login) = &*kept.current().unwrap() else {
        panic!("another kind")
    };
    shop.server.login(&login.username, login.password.expose(), &login.database).await.unwrap();
    until("only the new login is left", || async {
        (shop.logins().await == [login.username.as_str()]).then_some(())
    })
    .await;

    drop(kept);
    assert_eq!(shop.logins().await, [login.username.as_str()], "dropping says nothing to the vault");
}
