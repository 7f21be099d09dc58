//! The head in each of several tokens.

use keystead_audit::{Checkpoint, verify};

use super::*;
use crate::quorum::ways;

#[tokio::test]
async fn every_token_keeps_the_head_and_one_that_comes_back_with_a_newer_one_seals_the_vault() {
    let dir = tempfile::tempdir().unwrap();
    let (mut vault, second) = ways::with_second_token(dir.path()).await;
    put(&vault.operator(), "a", "x").await;
    vault.stop().await;
    let report = verify(&vault.data_dir().join("audit")).unwrap();
    for token in [vault.token(), &second] {
        let (_, value) = token::kept_in(&vault, token).await.unwrap();
        let head = Head { size: report.size, root: report.root };
        assert_eq!(Checkpoint::decode(&value).unwrap().head, head);
    }

    // The first goes on without the second.
    let older = vault.dir().join("older");
    copy(&vault.data_dir(), &older);
    let away = dir.path().join("away");
    std::fs::rename(&second.tokens, &away).unwrap();
    vault.start_again().await.unwrap();
    vault.unseal().await;
    put(&vault.operator(), "a", "y").await;
    vault.stop().await;
    std::fs::rename(&away, &second.tokens).unwrap();

    // With both of them, an older copy is refused, though the second knows of nothing newer.
    copy(&older, &vault.data_dir());
    vault.start_again().await.unwrap();
    anchored(&try_unseal(&vault).await.unwrap_err());
    vault.stop().await;

    // Who keeps the first away gets the vault open, until that is back.
    copy(&older, &vault.data_dir());
    std::fs::rename(&vault.token().tokens, &away).unwrap();
    vault.start_again().await.unwrap();
    vault.unseal().await;
    assert_eq!(get(&vault.operator(), "a").await, "x");
    std::fs::rename(&away, &vault.token().tokens).unwrap();
    until("the vault seals itself", || async { (!vault.vault().is_unsealed()).then_some(()) }).await;
    assert_eq!(reason(try_unseal(&vault).await), "AUDIT_ROLLED_BACK");
}
