//! A vault without operators: the bootstrap admin's token, and its end.

use std::time::Duration;

use keystead_client::{InitRequest, v1};
use keystead_tests::{TestVault, TestVaultBuilder, spiffe_matcher};

use crate::requests::manual_clock;
use crate::{put, reason};

async fn bootstrapped(builder: TestVaultBuilder) -> (TestVault, String) {
    let vault = builder.uninitialized().start().await;
    let request = InitRequest { operators: Vec::new(), ..vault.init_request() };
    let made = vault.local().system().initialize(request).await.unwrap();
    vault.keep_shares(&made);
    vault.unseal().await;
    let token = made.bootstrap_token.as_ref().unwrap().expose_str().unwrap().to_owned();
    (vault, token)
}

#[tokio::test]
async fn the_bootstrap_admin_registers_operators_and_leaves() {
    let (vault, token) = bootstrapped(TestVault::builder()).await;
    let admin = vault.bearer(&token);
    let who = admin.auth().who_am_i().await.unwrap();
    assert_eq!((who.principal.as_str(), who.method.as_str()), ("operator/bootstrap", "token"));
    assert_eq!(reason(vault.operator().auth().who_am_i().await), "UNAUTHENTICATED");
    let principal = v1::Principal {
        name: "operator/ann".to_owned(),
        groups: vec!["admins".to_owned()],
        certificates: vec![spiffe_matcher("spiffe://test/operator/ann")],
        ..v1::Principal::default()
    };
    admin.auth().put_principal(principal).await.unwrap();
    let ann = vault.client(&vault.pki().client("spiffe://test/operator/ann"));
    put(&ann, "a", "x").await;
    assert_eq!(reason(ann.auth().revoke_self().await), "INVALID_ARGUMENT", "a certificate is no session");
    admin.auth().revoke_self().await.unwrap();
    assert_eq!(reason(admin.auth().who_am_i().await), "UNAUTHENTICATED");
    assert_eq!(reason(admin.auth().revoke_self().await), "UNAUTHENTICATED");
    let mut tail = ann.audit().tail(1000, false).await.unwrap();
    let mut refused = Vec::new();
    while let Some(entry) = tail.next().await.unwrap() {
        if entry.kind == "refused" {
            refused.push((entry.action, entry.outcome));
        }
    }
    let revoked = [("principals:read".to_owned(), "UNAUTHENTICATED".to_owned())];
    assert_eq!(refused, revoked, "the first use of a revoked token is recorded");
    assert_eq!(ann.auth().who_am_i().await.unwrap().principal, "operator/ann");
}

#[tokio::test]
async fn the_bootstrap_token_dies_after_a_day() {
    let clock = manual_clock();
    let (mut vault, token) = bootstrapped(TestVault::builder().clock(clock.clone())).await;
    let admin = vault.bearer(&token);
    clock.advance(Duration::from_secs(24 * 3600 - 1));
    admin.auth().who_am_i().await.unwrap();
    clock.advance(Duration::from_secs(1));
    assert_eq!(reason(admin.auth().who_am_i().await), "UNAUTHENTICATED");
    assert_eq!(reason(admin.secrets().get("a").await), "UNAUTHENTICATED");
    vault.restart().await;
    vault.unseal().await;
    assert_eq!(reason(vault.bearer(&token).auth().who_am_i().await), "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_token_that_is_none_is_refused_like_any_other() {
    let (vault, _) = bootstrapped(TestVault::builder()).await;
    for token in ["kst_", "kst_short", &format!("kst_{}", "a".repeat(60)), &"k".repeat(400), "root"] {
        let reason = reason(vault.bearer(token).auth().who_am_i().await);
        assert!(matches!(reason.as_str(), "UNAUTHENTICATED" | "CREDENTIAL_MALFORMED"), "{token}: {reason}");
    }
}

#[tokio::test]
async fn tokens_that_do_not_count_are_refused_and_recorded() {
    let clock = manual_clock();
    let (vault, token) = bootstrapped(TestVault::builder().clock(clock.clone())).await;
    let ann = v1::Principal {
        name: "operator/ann".to_owned(),
        groups: vec!["admins".to_owned()],
        certificates: vec![spiffe_matcher("spiffe://test/operator/ann")],
        ..v1::Principal::default()
    };
    vault.bearer(&token).auth().put_principal(ann).await.unwrap();
    let identity = vault.pki().client("spiffe://test/operator/ann");
    let garbage = format!("kst_{}", "a".repeat(60));
    // A good certificate beside it does not make up for it.
    let with = |token: &str| {
        vault.builder().identity_files(&identity.cert, &identity.key).token(token).build_lazy().unwrap()
    };
    let refused = async |what: &str, caller: keystead_client::Client| {
        // Of an address one a minute is recorded.
        clock.advance(Duration::from_secs(61));
        assert_eq!(reason(caller.secrets().get(what).await), "UNAUTHENTICATED", "{what}");
    };
    refused("garbage", with(&garbage)).await;
    refused("garbage-alone", vault.bearer(&garbage)).await;
    with(&token).auth().who_am_i().await.unwrap();
    clock.advance(Duration::from_secs(24 * 3600));
    refused("expired", with(&token)).await;
    refused("expired-alone", vault.bearer(&token)).await;

    let mut tail = vault.client(&identity).audit().tail(1000, false).await.unwrap();
    let mut recorded = Vec::new();
    while let Some(entry) = tail.next().await.unwrap() {
        if entry.kind == "refused" && entry.outcome == "UNAUTHENTICATED" {
            assert_eq!((entry.principal.as_str(), entry.peer.as_str()), ("", "127.0.0.1"), "{entry:?}");
            recorded.push(entry.resource);
        }
    }
    assert_eq!(
        recorded,
        ["garbage", "garbage-alone", "expired", "expired-alone"].map(|what| format!("secret/{what}"))
    );
}
