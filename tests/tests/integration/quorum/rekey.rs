//! New shares. Until they are confirmed the old ones are good, and from then on they open nothing, in no copy.

use keystead_client::v1;
use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_crypto::ports::{HsmKey, HsmKeyPurpose, HsmLogin};
use keystead_crypto::seal_record::SealRecord;
use keystead_crypto::secret::SecretBytes as CoreBytes;
use keystead_storage::keyspace;
use keystead_tests::{TestVault, until};

use super::{approve, by_quorum, put_back, share, start, stored, unseal_with};
use crate::{get, put, reason};

fn rekey(shares: u32, threshold: u32) -> Purpose {
    Purpose::Rekey(v1::Rekey { shares, threshold, ..Default::default() })
}

fn texts(submitted: &keystead_client::Submitted) -> Vec<String> {
    submitted.shares.iter().map(|share| share.text.expose_str().unwrap().to_owned()).collect()
}

/// The keys of the vault in its token.
async fn keys_in_token(vault: &TestVault) -> Vec<HsmKey> {
    let hsm = vault.hsm();
    hsm.login(CoreBytes::copy_from(vault.token().pin.as_bytes())).await.unwrap();
    let id = vault.local().system().status().await.unwrap().vault_id;
    let tag = u64::from_str_radix(&id[..16], 16).unwrap().to_be_bytes();
    let keys = hsm.list_keys(tag).await.unwrap();
    hsm.logout().await;
    keys
}

fn epochs(keys: &[HsmKey]) -> Vec<u32> {
    keys.iter().filter(|key| key.purpose == HsmKeyPurpose::Epoch).map(|key| key.version).collect()
}

#[tokio::test]
async fn new_shares_replace_the_old_ones_once_they_are_confirmed() {
    let mut vault = TestVault::start().await;
    put(&vault.operator(), "a", "kept").await;
    let old = vault.shares();

    let begun = start(&vault, rekey(5, 3)).await;
    assert_eq!(begun.purpose(), v1::CeremonyPurpose::Rekey);
    let said: Vec<_> = begun.parameters.iter().map(|one| (one.name.as_str(), one.value.as_str())).collect();
    assert_eq!(said, [("shares", "5"), ("threshold", "3"), ("new_q", "false")]);
    let seen = vault.anonymous().system().status().await.unwrap().ceremony.unwrap();
    assert_eq!(seen, begun, "every holder sees what it is about");

    let handed = approve(&vault.anonymous(), &begun.ceremony_id, &old[..2]).await;
    let new = texts(&handed);
    assert_eq!(handed.shares.iter().map(|share| share.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let confirm = handed.ceremony.unwrap();
    assert_eq!((confirm.purpose(), confirm.threshold), (v1::CeremonyPurpose::ConfirmRekey, 3));
    assert_eq!(vault.local().system().status().await.unwrap().epoch, 1, "nothing has changed yet");
    let early = vault.local().system().submit_share(&share(&old[2]), &confirm.ceremony_id).await;
    assert_eq!(reason(early), "SHARE_OTHER_EPOCH", "an old share confirms nothing");

    let done = approve(&vault.anonymous(), &confirm.ceremony_id, &new[1..4]).await;
    let status = vault.local().system().status().await.unwrap();
    assert_eq!((status.epoch, status.threshold, status.shares), (2, 3, 5));
    assert!(status.ceremony.is_none());
    let record = SealRecord::decode(&done.seal_record.unwrap()).unwrap();
    assert_eq!(record.verify().unwrap().epoch, 2);
    let exported = vault.operator().system().export_seal_record().await.unwrap();
    assert_eq!((exported.seal_record, exported.epoch), (record.encode(), 2));
    assert_eq!(get(&vault.operator(), "a").await, "kept");

    vault.restart().await;
    let refused = vault.local().system().submit_share(&share(&old[0]), "").await;
    assert_eq!(reason(refused), "SHARE_OTHER_EPOCH");
    unseal_with(&vault, &new[..3]).await;
    assert_eq!(get(&vault.operator(), "a").await, "kept");
    assert_eq!(epochs(&keys_in_token(&vault).await), [2]);
}

#[tokio::test]
async fn old_shares_with_an_old_copy_of_the_seal_record_open_nothing() {
    let mut vault = TestVault::start().await;
    let old = vault.shares();
    vault.stop().await;
    let copy = stored(&vault, &keyspace::seal_record()).await.unwrap();
    vault.start_again().await.unwrap();
    unseal_with(&vault, &old[..2]).await;
    let handed = by_quorum(&vault, rekey(3, 2)).await;
    let confirm = handed.ceremony.clone().unwrap().ceremony_id;
    approve(&vault.local(), &confirm, &texts(&handed)[..2]).await;

    vault.stop().await;
    let current = stored(&vault, &keyspace::seal_record()).await.unwrap();
    put_back(&vault, &keyspace::seal_record(), &copy.value).await;
    vault.start_again().await.unwrap();
    let system = vault.local().system();
    system.submit_share(&share(&old[0]), "").await.unwrap();
    assert_eq!(reason(system.submit_share(&share(&old[1]), "").await), "HSM_MISCONFIGURED");
    assert!(!vault.vault().is_unsealed());

    // Nothing is lost by that.
    vault.stop().await;
    put_back(&vault, &keyspace::seal_record(), &current.value).await;
    vault.start_again().await.unwrap();
    unseal_with(&vault, &texts(&handed)[1..]).await;
}

#[tokio::test]
async fn a_rekey_that_is_given_up_changes_nothing_and_leaves_nothing() {
    let vault = TestVault::start().await;
    let handed = by_quorum(&vault, rekey(3, 2)).await;
    assert_eq!(epochs(&keys_in_token(&vault).await), [1, 2]);
    let confirm = handed.ceremony.clone().unwrap().ceremony_id;
    vault.operator().system().cancel_ceremony(&confirm).await.unwrap();
    assert_eq!(epochs(&keys_in_token(&vault).await), [1]);
    let late = vault.local().system().submit_share(&share(&texts(&handed)[0]), &confirm).await;
    assert_eq!(reason(late), "OTHER_CEREMONY");

    // Sealing ends one too. Its key cannot be destroyed then, and the next rekey does not take it for its own.
    by_quorum(&vault, rekey(3, 2)).await;
    vault.operator().system().seal().await.unwrap();
    until("the vault is sealed", || async { (!vault.vault().is_unsealed()).then_some(()) }).await;
    vault.unseal().await;
    assert!(vault.local().system().status().await.unwrap().ceremony.is_none());
    let handed = by_quorum(&vault, rekey(3, 2)).await;
    let confirm = handed.ceremony.clone().unwrap().ceremony_id;
    approve(&vault.local(), &confirm, &texts(&handed)[..2]).await;
    assert_eq!(vault.local().system().status().await.unwrap().epoch, 3);
    assert_eq!(epochs(&keys_in_token(&vault).await), [3], "what was given up is gone with the epoch");
}

#[tokio::test]
async fn shares_are_sealed_for_their_holders() {
    let vault = TestVault::start().await;
    let holders: Vec<_> = (0..3).map(|_| age::x25519::Identity::generate()).collect();
    let recipients: Vec<_> = holders.iter().map(|holder| holder.to_public().to_string()).collect();
    let purpose = v1::Rekey { shares: 3, threshold: 2, recipients: recipients.clone(), new_q: false };
    let handed = by_quorum(&vault, Purpose::Rekey(purpose)).await;
    let opened: Vec<String> = handed
        .shares
        .iter()
        .zip(&holders)
        .map(|(share, holder)| {
            let text = age::decrypt(holder, share.text.expose()).unwrap();
            String::from_utf8(text).unwrap()
        })
        .collect();
    let named: Vec<_> = handed.shares.iter().map(|share| share.recipient.clone().unwrap()).collect();
    assert_eq!(named, recipients);
    assert!(age::decrypt(&holders[1], handed.shares[0].text.expose()).is_err(), "for nobody else");
    let confirm = handed.ceremony.unwrap().ceremony_id;
    approve(&vault.local(), &confirm, &opened[..2]).await;
    assert_eq!(vault.local().system().status().await.unwrap().epoch, 2);
}

#[tokio::test]
async fn what_cannot_be_is_said_at_the_start() {
    let vault = TestVault::start().await;
    let system = vault.operator().system();
    let recipient = age::x25519::Identity::generate().to_public().to_string();
    for wrong in [
        v1::Rekey { shares: 3, threshold: 1, ..Default::default() },
        v1::Rekey { shares: 2, threshold: 3, ..Default::default() },
        v1::Rekey { shares: 300, threshold: 3, ..Default::default() },
        v1::Rekey { shares: 3, threshold: 2, recipients: vec![recipient], new_q: false },
        v1::Rekey { shares: 2, threshold: 2, recipients: vec!["age1no".into(); 2], new_q: false },
    ] {
        assert_eq!(reason(system.start_ceremony(Purpose::Rekey(wrong)).await), "INVALID_ARGUMENT");
    }
    let begun = start(&vault, rekey(3, 2)).await;
    let second = system.start_ceremony(rekey(5, 2)).await;
    assert_eq!(reason(second), "CEREMONY_UNDER_WAY", "parameters are not changed under those who approve");
    let unnamed = vault.local().system().submit_share(&share(&vault.shares()[0]), "").await;
    assert_eq!(reason(unnamed), "OTHER_CEREMONY", "who approves says what");
    system.cancel_ceremony(&begun.ceremony_id).await.unwrap();
    let again = start(&vault, rekey(3, 2)).await;
    assert_ne!(again.ceremony_id, begun.ceremony_id);
}

#[tokio::test]
async fn nobody_begins_or_ends_a_rekey_without_the_right() {
    let vault = TestVault::start().await;
    let stranger = vault.client(&vault.pki().client("spiffe://test/service/shop"));
    let anonymous = vault.anonymous();
    for caller in [&anonymous, &stranger] {
        assert_eq!(reason(caller.system().start_ceremony(rekey(3, 2)).await), "UNAUTHENTICATED");
    }
    let begun = start(&vault, rekey(3, 2)).await;
    for caller in [&anonymous, &stranger] {
        let refused = caller.system().cancel_ceremony(&begun.ceremony_id).await;
        assert_eq!(reason(refused), "UNAUTHENTICATED");
        let garbage = caller.system().submit_share(&share("ks1-share-"), &begun.ceremony_id).await;
        assert_eq!(reason(garbage), "SHARE_TRUNCATED");
    }
    assert_eq!(
        vault.local().system().status().await.unwrap().ceremony.unwrap(),
        begun,
        "nobody's progress is lost"
    );
}

#[tokio::test]
async fn new_shares_are_withheld_when_their_making_cannot_be_recorded() {
    let mut vault = TestVault::start().await;
    let begun = start(&vault, rekey(3, 2)).await;
    let old = vault.shares();
    vault.local().system().submit_share(&share(&old[0]), &begun.ceremony_id).await.unwrap();
    vault.vault().audit().close();
    let refused = vault.local().system().submit_share(&share(&old[1]), &begun.ceremony_id).await;
    assert_eq!(reason(refused), "AUDIT_UNAVAILABLE");
    vault.restart().await;
    unseal_with(&vault, &old[..2]).await;
}
