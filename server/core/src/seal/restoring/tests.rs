//! Records that may go into a store, and those that may not.

use keystead_crypto::ports::{HsmKey, HsmKeyPurpose, HsmLogin, Signer};
use keystead_crypto::secret::SecretBytes;
use keystead_storage::Storage;
use keystead_storage::fault::CommitFault;

use super::super::tests::{look_after, old, prepared, quick, quorum, renew_q, submit, unseal_with};
use super::*;
use crate::operation;
use crate::rotation::RotateMasterKey;
use crate::seal::Wish;
use crate::testing::{Bench, MemoryToken};

async fn bench() -> Bench {
    let bench = Bench::open(&["one"], quick()).await;
    bench.put("a").await.unwrap();
    bench.opened().upkeep().await.unwrap();
    bench
}

async fn record(bench: &Bench) -> Vec<u8> {
    TrustedSeal::load(bench.store.as_ref()).await.unwrap().record.encode()
}

/// As in a store from before.
async fn put_back(bench: &mut Bench, record: Vec<u8>) {
    bench.kill();
    let mut batch = Batch::new();
    batch.put(Keyspace::Seal, keyspace::seal_record(), record);
    bench.store.commit(batch).await.unwrap();
}

async fn rekey(bench: &Bench) -> Vec<SecretBytes> {
    let shares = old(bench);
    let (new, id) = prepared(bench, false, &shares).await;
    for share in &new[..2] {
        submit(bench, share, id).await.unwrap();
    }
    new
}

async fn refused(bench: &Bench, record: &[u8]) -> &'static str {
    bench.vault.look_at_seal_record(record).await.err().map_or("(none)", |error| error.reason())
}

fn changes(restoring: &Restoring) -> Vec<(&str, &str, &str)> {
    let all = restoring.differences().iter();
    all.map(|one| (one.what.as_str(), one.store.as_str(), one.record.as_str())).collect()
}

#[tokio::test]
async fn a_store_from_before_a_rekey_opens_with_the_new_shares() {
    let mut b = bench().await;
    let before = record(&b).await;
    let new = rekey(&b).await;
    let after = record(&b).await;
    put_back(&mut b, before).await;
    let shares = old(&b);
    unseal_with(&b, &shares).await.unwrap_err();
    b.kill();
    let restoring = b.vault.look_at_seal_record(&after).await.unwrap();
    assert_eq!(changes(&restoring), [("share epoch", "1", "2")]);
    assert!(b.vault.restore_seal_record(&restoring).await.unwrap().is_none());
    assert!(b.vault.look_at_seal_record(&after).await.unwrap().differences().is_empty());
    unseal_with(&b, &new).await.unwrap();
    assert!(b.reads("a").await.unwrap());
    let open = b.vault.restore_seal_record(&restoring).await.unwrap_err();
    assert_eq!(open.reason(), "ALREADY_UNSEALED");
}

#[tokio::test]
async fn what_is_no_record_of_this_vault_is_refused() {
    let b = bench().await;
    let own = record(&b).await;
    assert_eq!(refused(&b, b"KSSR").await, "SEAL_RECORD_MALFORMED");
    let mut changed = own.clone();
    // The epoch, in the header.
    changed[30] ^= 1;
    assert_eq!(refused(&b, &changed).await, "SEAL_RECORD_MALFORMED");
    assert_eq!(refused(&b, &record(&bench().await).await).await, "SEAL_RECORD_OF_ANOTHER_VAULT");

    // All of it right, but signed by somebody else's key.
    let forger = MemoryToken::new("forger");
    forger.login(SecretBytes::copy_from(b"1234")).await.unwrap();
    forger.create_key([0; 8], HsmKey { purpose: HsmKeyPurpose::Audit, version: 1 }).await.unwrap();
    let seal = TrustedSeal::load(b.store.as_ref()).await.unwrap();
    let audit_key = forger.verifying_key().await.unwrap();
    let header = SealHeader { epoch: 9, audit_key, ..seal.header };
    let forged = SealRecord { header: header.sign(forger.as_ref()).await.unwrap(), ..seal.record };
    assert_eq!(refused(&b, &forged.encode()).await, "SEAL_RECORD_KEY_UNKNOWN");
    assert_eq!(refused(&b, &own).await, "(none)");
}

#[tokio::test]
async fn an_older_record_is_refused() {
    let b = bench().await;
    let first = record(&b).await;
    operation::run(&b.opened(), b.context(), RotateMasterKey).await.unwrap();
    let rotating = record(&b).await;
    assert_eq!(refused(&b, &first).await, "SEAL_RECORD_OLDER");
    look_after(&b).await;
    let rotated = record(&b).await;
    assert_eq!(refused(&b, &rotating).await, "SEAL_RECORD_OLDER");
    renew_q(&b).await.unwrap();
    let renewing = record(&b).await;
    assert_eq!(refused(&b, &rotated).await, "SEAL_RECORD_OLDER");
    look_after(&b).await;
    assert_eq!(refused(&b, &renewing).await, "SEAL_RECORD_OLDER");
    let renewed = record(&b).await;
    rekey(&b).await;
    assert_eq!(refused(&b, &renewed).await, "SEAL_RECORD_OLDER");
}

#[tokio::test]
async fn a_record_whose_keys_do_not_open_the_store_is_refused() {
    let mut b = bench().await;
    let first = record(&b).await;
    operation::run(&b.opened(), b.context(), RotateMasterKey).await.unwrap();
    let rotating = record(&b).await;
    look_after(&b).await;
    let rotated = record(&b).await;
    renew_q(&b).await.unwrap();
    look_after(&b).await;
    let renewed = record(&b).await;
    put_back(&mut b, first).await;
    assert_eq!(refused(&b, &rotated).await, "SEAL_RECORD_KEYS_GIVEN_UP");
    let both = b.vault.look_at_seal_record(&rotating).await.unwrap();
    assert_eq!(changes(&both), [("way one", "master key 1", "master keys 1 to 2")]);
    put_back(&mut b, rotating).await;
    let some = b.vault.look_at_seal_record(&rotated).await.unwrap();
    assert!(some.remarks()[0].contains("oldest master key"), "{:?}", some.remarks());
    put_back(&mut b, rotated).await;
    assert_eq!(refused(&b, &renewed).await, "SEAL_RECORD_KEYS_GIVEN_UP");
}

#[tokio::test]
async fn a_store_from_before_a_change_of_the_pin_opens_and_which_pin_is_newer_is_left_to_people() {
    let mut b = bench().await;
    let before = record(&b).await;
    let shares = old(&b);
    let wish = Wish::ChangePin { serial: None, new: SecretBytes::copy_from(b"9999") };
    quorum(&b, wish, &shares).await.unwrap();
    let after = record(&b).await;
    put_back(&mut b, before).await;
    assert_eq!(b.unseal().await.unwrap_err().reason(), "HSM_PIN_REFUSED");
    b.kill();
    let restoring = b.vault.look_at_seal_record(&after).await.unwrap();
    assert_eq!(changes(&restoring), [("PIN of token one", "its box", "another box")]);
    assert!(restoring.remarks()[0].contains("exported last"));
    b.vault.restore_seal_record(&restoring).await.unwrap();
    b.unseal().await.unwrap();
}

#[tokio::test]
async fn a_commit_that_gave_no_answer_is_told_as_such() {
    let mut b = bench().await;
    let before = record(&b).await;
    let new = rekey(&b).await;
    let after = record(&b).await;
    for (fault, taken) in [(CommitFault::UnknownAndLost, false), (CommitFault::UnknownAndApplied, true)] {
        put_back(&mut b, before.clone()).await;
        let restoring = b.vault.look_at_seal_record(&after).await.unwrap();
        b.faults.on_commit(1, fault);
        let told = b.vault.restore_seal_record(&restoring).await.unwrap_err();
        assert!(matches!(told, RestoreError::PerhapsDone(_)), "{told:?}");
        let now = b.vault.look_at_seal_record(&after).await.unwrap();
        assert_eq!(now.differences().is_empty(), taken);
    }
    unseal_with(&b, &new).await.unwrap();
}

#[tokio::test]
async fn a_store_that_changed_since_it_was_looked_at_is_left_alone() {
    let mut b = bench().await;
    let before = record(&b).await;
    rekey(&b).await;
    let after = record(&b).await;
    put_back(&mut b, before.clone()).await;
    let restoring = b.vault.look_at_seal_record(&after).await.unwrap();
    put_back(&mut b, before).await;
    assert_eq!(b.vault.restore_seal_record(&restoring).await.unwrap_err().reason(), "CONFLICT");
}

#[tokio::test]
async fn a_record_whose_restoring_was_cut_off_is_there_whole_or_not_at_all() {
    let faults = [
        CommitFault::UnknownAndLost,
        CommitFault::UnknownAndApplied,
        CommitFault::UnknownAndLater,
        CommitFault::Unavailable,
    ];
    for fault in faults {
        let mut b = bench().await;
        let before = record(&b).await;
        let new = rekey(&b).await;
        let after = record(&b).await;
        put_back(&mut b, before.clone()).await;
        let restoring = b.vault.look_at_seal_record(&after).await.unwrap();
        b.faults.on_commit(1, fault);
        b.vault.restore_seal_record(&restoring).await.map(drop).unwrap_err();
        b.kill();
        let applied = matches!(fault, CommitFault::UnknownAndApplied | CommitFault::UnknownAndLater);
        assert!(record(&b).await == if applied { after.clone() } else { before }, "{fault:?}");
        // Again, if need be; the token has the keys of the newer record only.
        if !applied {
            let restoring = b.vault.look_at_seal_record(&after).await.unwrap();
            b.vault.restore_seal_record(&restoring).await.unwrap();
        }
        unseal_with(&b, &new).await.unwrap();
        assert!(b.reads("a").await.unwrap());
    }
}
