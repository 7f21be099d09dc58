//! Making a vault: who may, what is checked first, and that a refusal leaves nothing behind.

use keystead_client::{InitRequest, v1};
use keystead_tests::{TestVault, spiffe_matcher};

use crate::{fields, reason};

#[tokio::test]
async fn an_empty_store_says_so_and_is_initialized_once() {
    let mut vault = TestVault::builder().uninitialized().start().await;
    let status = vault.anonymous().system().status().await.unwrap();
    assert_eq!(
        (status.state(), status.vault_id.as_str(), status.epoch),
        (v1::SealState::Uninitialized, "", 0)
    );
    assert_eq!(
        reason(vault.local().system().submit_share(&"ks1-share-".into(), "").await),
        "NOT_INITIALIZED"
    );
    let stranger = vault.client(&vault.pki().client("spiffe://test/operator/other"));
    for caller in [vault.anonymous(), stranger] {
        assert_eq!(reason(caller.system().initialize(vault.init_request()).await), "OPERATOR_ONLY");
    }
    let made = vault.operator().system().initialize(vault.init_request()).await.unwrap();
    vault.keep_shares(&made);
    assert_eq!(made.shares.iter().map(|share| share.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(made.bootstrap_token.is_none());
    let again = vault.local().system().initialize(vault.init_request()).await;
    assert_eq!(reason(again), "ALREADY_INITIALIZED");
    vault.restart().await;
    let status = vault.anonymous().system().status().await.unwrap();
    assert_eq!((status.state(), status.vault_id.as_str()), (v1::SealState::Sealed, made.vault_id.as_str()));
    vault.unseal().await;
    vault.stop().await;
}

#[tokio::test]
async fn what_init_asks_for_is_checked_first() {
    let vault = TestVault::builder().uninitialized().start().await;
    let system = vault.local().system();
    let request = || vault.init_request();
    let two = |name: &str, other: &str, spiffe: &str| {
        let operator = |name: &str, spiffe: &str| v1::InitialOperator {
            principal: name.to_owned(),
            matcher: Some(spiffe_matcher(spiffe)),
        };
        vec![operator(name, "spiffe://test/a"), operator(other, spiffe)]
    };
    let bad = [
        (InitRequest { threshold: 1, ..request() }, "threshold"),
        (InitRequest { threshold: 4, ..request() }, "threshold"),
        (InitRequest { shares: 256, ..request() }, "shares"),
        (InitRequest { hsm_pin: "".into(), ..request() }, "hsm_pin"),
        (InitRequest { accept_total_loss: false, ..request() }, "token_backup_statement"),
        (InitRequest { token_backup_statement: "safe".to_owned(), ..request() }, "token_backup_statement"),
        (
            InitRequest { operators: two("operator/a", "operator/a", "spiffe://test/b"), ..request() },
            "operators",
        ),
        (
            InitRequest { operators: two("operator/a", "operator/b", "spiffe://test/a"), ..request() },
            "operators",
        ),
    ];
    for (request, field) in bad {
        let found = fields(system.initialize(request).await);
        assert!(found[0].starts_with(field), "{found:?} is not {field}");
    }
    let status = system.status().await.unwrap();
    assert_eq!(status.state(), v1::SealState::Uninitialized);
    vault.init().await;
    vault.unseal().await;
}
