//! Further ways to the data: a second token, a move to another HSM, a key that is kept offline, and a new Q.

use std::path::Path;

use keystead_client::v1;
use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_crypto::ports::HsmLogin;
use keystead_crypto::seal_record::{SealRecord, Way};
use keystead_hsm::testing::SoftToken;
use keystead_storage::{Keyspace, Range, Storage};
use keystead_tests::{TestVault, until};

use super::{by_quorum, open_store, stored, unseal_with};
use crate::{get, put, reason};

/// A vault whose configuration names a second token, which is none of its ways yet.
async fn vault(dir: &Path) -> (TestVault, SoftToken, String) {
    let second = SoftToken::create(dir).unwrap();
    let (label, env) = (second.label.clone(), second.env());
    let vault = TestVault::builder()
        .config(move |config| {
            let mut further = config.hsm.clone();
            further.token_label.clone_from(&label);
            further.env.clone_from(&env);
            config.further = vec![further];
        })
        .start()
        .await;
    let hsm = vault.hsm_of(&second);
    let serial = hsm.probe().await.unwrap().serial;
    hsm.logout().await;
    (vault, second, serial)
}

/// A vault with two tokens, and the second of them.
pub(crate) async fn with_second_token(dir: &Path) -> (TestVault, SoftToken) {
    let (vault, second, serial) = vault(dir).await;
    by_quorum(&vault, add_token(&serial, &second.pin)).await;
    all_wrapped(&vault).await;
    (vault, second)
}

fn add_token(serial: &str, pin: &str) -> Purpose {
    Purpose::AddToken(v1::AddToken { serial: serial.to_owned(), pin: pin.as_bytes().to_vec() })
}

/// Waits for the passes.
async fn all_wrapped(vault: &TestVault) {
    let keys = vault.operator().keys();
    until("every data key has its wraps", || async {
        let seen = keys.rotation().await.unwrap();
        seen.complete.then_some(())
    })
    .await;
}

/// For which ways, and under which Q, the data keys of a stopped vault are wrapped: each list once.
async fn wrapped_for(vault: &TestVault) -> Vec<Vec<(String, u32)>> {
    use keystead_crypto::envelope::WrappedDataKey;
    let snapshot = open_store(vault).snapshot().await.unwrap();
    let records = snapshot.range(Keyspace::DataKeys, Range::all(None), 100).await.unwrap();
    let mut lists: Vec<Vec<(String, u32)>> = records
        .iter()
        .map(|(_, stored)| {
            let wrapped = WrappedDataKey::decode(&stored.value).unwrap();
            let mut ways: Vec<_> =
                wrapped.wraps().iter().map(|wrap| (wrap.token.clone(), wrap.q_version)).collect();
            ways.sort();
            ways
        })
        .collect();
    lists.sort();
    lists.dedup();
    lists
}

#[tokio::test]
async fn a_vault_opens_and_reads_through_its_second_token_when_the_first_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (mut vault, second, serial) = vault(dir.path()).await;
    put(&vault.operator(), "a", "before").await;
    let unknown = vault.operator().system().start_ceremony(add_token("0000", &second.pin)).await;
    assert_eq!(reason(unknown), "NOT_FOUND");
    let done = by_quorum(&vault, add_token(&serial, &second.pin)).await;
    let record = SealRecord::decode(&done.seal_record.unwrap()).unwrap().verify().unwrap();
    assert_eq!(record.ways.len(), 2);
    all_wrapped(&vault).await;
    put(&vault.operator(), "b", "after").await;
    let shares = vault.shares();

    vault.stop().await;
    std::fs::rename(&vault.token().tokens, vault.dir().join("lost")).unwrap();
    vault.start_again().await.unwrap();
    unseal_with(&vault, &shares[..2]).await;
    assert_eq!(get(&vault.operator(), "a").await, "before");
    assert_eq!(get(&vault.operator(), "b").await, "after");
    put(&vault.operator(), "c", "meanwhile").await;
    assert_eq!(get(&vault.operator(), "c").await, "meanwhile");

    // Found again: what was written meanwhile gets its wrap.
    vault.stop().await;
    std::fs::rename(vault.dir().join("lost"), &vault.token().tokens).unwrap();
    vault.start_again().await.unwrap();
    unseal_with(&vault, &shares[1..]).await;
    all_wrapped(&vault).await;
    vault.stop().await;
    assert_eq!(wrapped_for(&vault).await.len(), 1, "all alike");
}

#[tokio::test]
async fn a_vault_moves_to_another_hsm_while_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let (mut vault, second, serial) = vault(dir.path()).await;
    let old = vault.local().system().status().await.unwrap();
    put(&vault.operator(), "a", "moved").await;
    by_quorum(&vault, add_token(&serial, &second.pin)).await;
    all_wrapped(&vault).await;
    let first = header(&vault).await.ways[0].name();
    vault.operator().keys().retire(&first).await.unwrap();
    put(&vault.operator(), "b", "on the new one").await;
    let shares = vault.shares();
    all_wrapped(&vault).await;

    // The shares in people's drawers are as good as before, though the token that they name is gone.
    vault.stop().await;
    std::fs::remove_dir_all(&vault.token().tokens).unwrap();
    vault.start_again().await.unwrap();
    unseal_with(&vault, &shares[..2]).await;
    assert_eq!(get(&vault.operator(), "a").await, "moved");
    assert_eq!(get(&vault.operator(), "b").await, "on the new one");
    assert_eq!(vault.local().system().status().await.unwrap().epoch, old.epoch);

    // And a rekey on the new token alone.
    let rekey = v1::Rekey { shares: 3, threshold: 2, ..Default::default() };
    let handed = by_quorum(&vault, Purpose::Rekey(rekey)).await;
    let text = |share: &keystead_client::InitialShare| share.text.expose_str().unwrap().to_owned();
    let new: Vec<String> = handed.shares.iter().map(text).collect();
    super::approve(&vault.local(), &handed.ceremony.unwrap().ceremony_id, &new[..2]).await;
    assert_eq!(get(&vault.operator(), "a").await, "moved");
    vault.stop().await;
    assert_eq!(wrapped_for(&vault).await, [vec![(serial, 1)]]);
    vault.start_again().await.unwrap();
    unseal_with(&vault, &new[1..]).await;
    assert_eq!(get(&vault.operator(), "a").await, "moved");
}

async fn header(vault: &TestVault) -> keystead_crypto::seal_record::SealHeader {
    let exported = vault.operator().system().export_seal_record().await.unwrap();
    SealRecord::decode(&exported.seal_record).unwrap().verify().unwrap()
}

#[tokio::test]
async fn a_recovery_key_gets_a_wrap_of_every_data_key() {
    let mut vault = TestVault::start().await;
    put(&vault.operator(), "a", "x").await;
    let identity = age::x25519::Identity::generate();
    let recipient = identity.to_public().to_string();
    let add = Purpose::AddRecovery(v1::AddRecovery { recipient: recipient.clone() });
    by_quorum(&vault, add.clone()).await;
    let again = vault.operator().system().start_ceremony(add).await;
    assert_eq!(reason(again), "INVALID_ARGUMENT");
    let wrong = Purpose::AddRecovery(v1::AddRecovery { recipient: "age1no".into() });
    assert_eq!(reason(vault.operator().system().start_ceremony(wrong).await), "INVALID_ARGUMENT");
    all_wrapped(&vault).await;
    put(&vault.operator(), "b", "y").await;
    let ways: Vec<_> = header(&vault).await.ways.iter().map(Way::name).collect();
    vault.stop().await;
    let mut expected: Vec<_> = ways.into_iter().map(|name| (name, 1)).collect();
    expected.sort();
    assert_eq!(wrapped_for(&vault).await, [expected]);
}

#[tokio::test]
async fn init_with_a_recovery_key_needs_no_other_word_about_losing_the_token() {
    let vault = TestVault::builder().uninitialized().start().await;
    let recipient = age::x25519::Identity::generate().to_public().to_string();
    let request = keystead_client::InitRequest {
        accept_total_loss: false,
        recovery_recipients: vec![recipient.clone()],
        ..vault.init_request()
    };
    let twice = keystead_client::InitRequest {
        recovery_recipients: vec![recipient.clone(), recipient.clone()],
        ..request.clone()
    };
    assert_eq!(reason(vault.local().system().initialize(twice).await), "INVALID_ARGUMENT");
    let made = vault.local().system().initialize(request).await.unwrap();
    vault.keep_shares(&made);
    let record = SealRecord::decode(&made.seal_record).unwrap().verify().unwrap();
    assert!(record.ways.iter().any(|way| matches!(way, Way::Recovery(way) if way.recipient == recipient)));
    vault.unseal().await;
    put(&vault.operator(), "a", "x").await;
    assert_eq!(get(&vault.operator(), "a").await, "x");
}

#[tokio::test]
async fn a_rekey_with_a_new_q_seals_every_data_key_anew() {
    let mut vault = TestVault::start().await;
    for number in 0..5 {
        put(&vault.operator(), &format!("s/{number}"), "kept").await;
    }
    let rekey = v1::Rekey { shares: 3, threshold: 2, new_q: true, ..Default::default() };
    let handed = by_quorum(&vault, Purpose::Rekey(rekey)).await;
    let text = |share: &keystead_client::InitialShare| share.text.expose_str().unwrap().to_owned();
    let new: Vec<String> = handed.shares.iter().map(text).collect();
    let done = super::approve(&vault.local(), &handed.ceremony.unwrap().ceremony_id, &new[..2]).await;
    let record = SealRecord::decode(&done.seal_record.unwrap()).unwrap().verify().unwrap();
    assert_eq!((record.epoch, record.q_version), (2, 2));
    until("the former Q is given up", || async {
        header(&vault).await.former_q_version.is_none().then_some(())
    })
    .await;
    put(&vault.operator(), "s/5", "kept").await;
    vault.stop().await;
    let lists = wrapped_for(&vault).await;
    assert!(lists.iter().flatten().all(|(_, q)| *q == 2), "{lists:?}");
    assert!(stored(&vault, b"current").await.is_some());
    vault.start_again().await.unwrap();
    unseal_with(&vault, &new[1..]).await;
    for number in 0..6 {
        assert_eq!(get(&vault.operator(), &format!("s/{number}")).await, "kept");
    }
}
