//! Attacks on ceremonies: faults, races and misuse, after each of which a quorum must still open the vault.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keystead_crypto::ports::HsmKeyPurpose;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::policy::Resource;
use keystead_domain::seal::Quorum;
use keystead_storage::fault::CommitFault;

use super::*;
use crate::request::SystemPermit;
use crate::rotation::{RotateMasterKey, RotationOptions, Stretch};
use crate::testing::Bench;
use keystead_domain::id::CeremonyId;

enum Test {}

fn quick() -> RotationOptions {
    RotationOptions {
        max_rewraps_per_second: 1_000_000,
        system_key_age: Duration::from_secs(3600),
        ..RotationOptions::default()
    }
}

fn rekey(new_q: bool) -> Wish {
    Wish::Rekey(Rekey { quorum: Quorum::new(2, 3).unwrap(), recipients: Vec::new(), new_q })
}

fn copy(s: &SecretBytes) -> SecretBytes {
    SecretBytes::copy_from(s.expose())
}

async fn submit(b: &Bench, text: &SecretBytes, id: CeremonyId) -> Result<Submitted, VaultError> {
    b.vault.submit_share(&b.context(), copy(text), Some(id)).await
}

async fn quorum(b: &Bench, wish: Wish, shares: &[SecretBytes]) -> Result<Submitted, VaultError> {
    let begun = b.vault.start_ceremony(b.context(), wish).await?;
    submit(b, &shares[0], begun.id).await?;
    submit(b, &shares[1], begun.id).await
}

fn old(b: &Bench) -> Vec<SecretBytes> {
    b.shares.iter().map(|s| s.to_text()).collect()
}

async fn prepared(b: &Bench, new_q: bool, shares: &[SecretBytes]) -> (Vec<SecretBytes>, CeremonyId) {
    let Submitted::Done(Outcome::Shares { shares, confirm }) = quorum(b, rekey(new_q), shares).await.unwrap()
    else {
        panic!()
    };
    (shares.into_iter().map(|s| s.text).collect(), confirm.unwrap().id)
}

async fn unseal_with(b: &Bench, shares: &[SecretBytes]) -> Result<(), VaultError> {
    for s in &shares[..2] {
        b.vault.submit_share(&b.context(), copy(s), None).await?;
    }
    Ok(())
}

async fn look_after(b: &Bench) {
    let open = b.opened();
    while open.rewrap(&open).await.unwrap() == Stretch::More {}
    open.end_rotation().await.unwrap();
}

fn epochs(b: &Bench, token: usize) -> Vec<u32> {
    b.tokens[token]
        .keys
        .lock()
        .unwrap()
        .keys()
        .filter(|k| k.purpose == HsmKeyPurpose::Epoch)
        .map(|k| k.version)
        .collect()
}

async fn join(b: &Bench, place: usize) {
    let (open, key) = (b.opened(), b.unseal_key());
    let pin = SecretBytes::copy_from(b"1234");
    let job = |permit: SystemPermit<Test>| {
        let (open, key, pin) = (open.clone(), &key, &pin);
        let serial = *b.tokens[place].serial.lock().unwrap();
        async move { open.join_token(&permit, key, serial, pin).await }
    };
    operation::run_job(&open, "test", Resource::System, Vec::new(), job).await.unwrap();
}

#[tokio::test]
async fn whatever_fails_after_a_rekey_took_effect_is_a_remark_and_no_failure() {
    let mut b = Bench::open(&["one"], quick()).await;
    b.put("a").await.unwrap();
    b.opened().upkeep().await.unwrap();
    let old = old(&b);
    let (new, id) = prepared(&b, true, &old).await;
    submit(&b, &new[0], id).await.unwrap();
    b.faults.on_commit(2, CommitFault::Unavailable);
    let done = submit(&b, &new[1], id).await.unwrap();
    assert!(matches!(done, Submitted::Done(Outcome::Rekeyed { remark: Some(_), .. })), "{done:?}");
    assert_eq!(epochs(&b, 0), [2]);
    b.kill();
    unseal_with(&b, &new).await.unwrap();
    assert!(b.reads("a").await.unwrap());
}

#[tokio::test]
async fn a_rekey_whose_commit_gave_no_answer_is_looked_up() {
    for (fault, taken) in [(CommitFault::UnknownAndApplied, true), (CommitFault::UnknownAndLost, false)] {
        let mut b = Bench::open(&["one"], quick()).await;
        b.opened().upkeep().await.unwrap();
        let old = old(&b);
        let (new, id) = prepared(&b, false, &old).await;
        submit(&b, &new[0], id).await.unwrap();
        b.faults.on_commit(1, fault);
        assert_eq!(submit(&b, &new[1], id).await.is_ok(), taken);
        if !taken {
            b.vault.cancel_ceremony(b.context(), id).await.unwrap();
        }
        assert_eq!(epochs(&b, 0), [if taken { 2 } else { 1 }]);
        b.kill();
        unseal_with(&b, if taken { &new } else { &old }).await.unwrap();
    }
}

#[tokio::test]
async fn cancelling_a_rekey_that_took_effect_destroys_nothing() {
    let mut b = Bench::open(&["one"], quick()).await;
    b.opened().upkeep().await.unwrap();
    let old = old(&b);
    let (new, id) = prepared(&b, false, &old).await;
    submit(&b, &new[0], id).await.unwrap();
    // Neither the commit's answer nor what it did can be read: nobody knows.
    b.faults.on_commit(1, CommitFault::UnknownAndApplied);
    b.faults.on_reads_after_commit(true);
    submit(&b, &new[1], id).await.unwrap_err();
    b.faults.on_reads(false);
    b.vault.cancel_ceremony(b.context(), id).await.unwrap();
    assert!(epochs(&b, 0).contains(&2));
    b.kill();
    unseal_with(&b, &new).await.unwrap();
}

#[tokio::test]
async fn a_q_that_came_to_nothing_seals_nothing() {
    let mut b = Bench::open(&["one"], quick()).await;
    b.put("a").await.unwrap();
    let (open, key) = (b.opened(), b.unseal_key());
    let job = |permit: SystemPermit<Test>| {
        let (open, key) = (open.clone(), &key);
        async move { open.renew_q(&permit, key).await }
    };
    b.faults.on_commit(1, CommitFault::Unavailable);
    assert!(operation::run_job(&open, "test", Resource::System, Vec::new(), job).await.is_err());
    let job = |permit: SystemPermit<Test>| {
        let (open, key) = (open.clone(), &key);
        async move { open.renew_q(&permit, key).await }
    };
    assert_eq!(operation::run_job(&open, "test", Resource::System, Vec::new(), job).await.unwrap(), 2);
    drop(open);
    b.put("b").await.unwrap();
    look_after(&b).await;
    assert!(b.reads("a").await.unwrap());
    b.kill();
    let r = b.unseal().await;
    assert!(r.is_ok(), "ALL DATA LOST");
    assert!(b.reads("a").await.unwrap());
}

#[tokio::test]
async fn a_new_q_that_cannot_be_is_refused_before_anybody_has_new_shares() {
    let b = Bench::open(&["one"], quick()).await;
    let old = old(&b);
    quorum(&b, Wish::EnableAutoUnseal, &old).await.unwrap();
    let refused = b.vault.start_ceremony(b.context(), rekey(true)).await.unwrap_err();
    assert_eq!(refused.reason(), "INVALID_ARGUMENT");
    // Or when it came to be so afterwards.
    quorum(&b, Wish::DisableAutoUnseal, &old).await.unwrap();
    let (open, key) = (b.opened(), b.unseal_key());
    let begun = b.vault.start_ceremony(b.context(), rekey(true)).await.unwrap();
    submit(&b, &old[0], begun.id).await.unwrap();
    let job = |permit: SystemPermit<Test>| {
        let (open, key) = (open.clone(), &key);
        async move { open.renew_q(&permit, key).await }
    };
    operation::run_job(&open, "test", Resource::System, Vec::new(), job).await.unwrap();
    assert_eq!(submit(&b, &old[1], begun.id).await.unwrap_err().reason(), "ROTATION_UNDER_WAY");
    assert_eq!(epochs(&b, 0), [1]);
}

#[tokio::test]
async fn every_token_loses_its_auto_key() {
    let b = Bench::open(&["one", "two"], quick()).await;
    join(&b, 1).await;
    look_after(&b).await;
    let o = old(&b);
    quorum(&b, Wish::EnableAutoUnseal, &o).await.unwrap();
    quorum(&b, Wish::DisableAutoUnseal, &o).await.unwrap();
    b.opened().upkeep().await.unwrap();
    let left: Vec<_> = b
        .tokens
        .iter()
        .map(|t| t.keys.lock().unwrap().keys().filter(|k| k.purpose == HsmKeyPurpose::Auto).count())
        .collect();
    assert_eq!(left, [0, 0]);
}

#[tokio::test]
async fn a_pin_is_changed_on_the_token_that_was_named() {
    let mut b = Bench::open(&["one", "two"], quick()).await;
    join(&b, 1).await;
    look_after(&b).await;
    b.kill();
    b.tokens[0].away.store(true, Ordering::SeqCst);
    b.unseal().await.unwrap();
    b.tokens[0].away.store(false, Ordering::SeqCst);
    b.opened().upkeep().await.unwrap();
    let o = old(&b);
    let changed = quorum(
        &b,
        Wish::ChangePin { serial: Some("one".to_owned()), new: SecretBytes::copy_from(b"9999") },
        &o,
    )
    .await;
    assert!(matches!(changed, Ok(Submitted::Done(Outcome::PinChanged { .. }))), "{changed:?}");
    b.kill();
    let r = b.unseal().await;
    assert!(r.is_ok(), "VAULT LOST: no token takes the PIN of the record");
}

#[tokio::test]
async fn sealing_does_not_wait_for_who_waits_for_the_ceremony() {
    let b = Bench::open(&["one"], quick()).await;
    let guard = b.vault.ceremony.lock().await; // a step under way (slow HSM)
    let vault = std::sync::Arc::clone(&b.vault);
    let sealing = tokio::spawn(async move { vault.seal_by_itself("stop").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (vault, ctx) = (std::sync::Arc::clone(&b.vault), b.context());
    let _starting = tokio::spawn(async move { vault.start_ceremony(ctx, Wish::RecoverRoot).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(guard);
    assert!(tokio::time::timeout(Duration::from_secs(5), sealing).await.is_ok(), "DEADLOCK");
}

#[tokio::test]
async fn the_token_comes_back_after_a_rekey() {
    let b = Bench::open(&["one"], quick()).await;
    let o = old(&b);
    let (new, id) = prepared(&b, false, &o).await;
    submit(&b, &new[0], id).await.unwrap();
    submit(&b, &new[1], id).await.unwrap();
    assert!(b.tokens[0].could_come_back());
}

#[tokio::test]
async fn the_token_comes_back_after_a_cancelled_rekey() {
    let b = Bench::open(&["one"], quick()).await;
    let o = old(&b);
    let (_, id) = prepared(&b, false, &o).await;
    b.vault.cancel_ceremony(b.context(), id).await.unwrap();
    assert!(b.tokens[0].could_come_back());
}

#[tokio::test]
async fn the_token_comes_back_after_auto_unseal_ended() {
    let b = Bench::open(&["one"], quick()).await;
    let o = old(&b);
    quorum(&b, Wish::EnableAutoUnseal, &o).await.unwrap();
    quorum(&b, Wish::DisableAutoUnseal, &o).await.unwrap();
    assert!(b.tokens[0].could_come_back());
}

#[tokio::test]
async fn a_rekey_that_a_rotation_overtook_says_so_and_ends() {
    let mut b = Bench::open(&["one"], quick()).await;
    let old = old(&b);
    let (new, id) = prepared(&b, false, &old).await;
    operation::run(&b.opened(), b.context(), RotateMasterKey).await.unwrap();
    submit(&b, &new[0], id).await.unwrap();
    assert_eq!(submit(&b, &new[1], id).await.unwrap_err().reason(), "REKEY_OVERTAKEN");
    let (new, id) = prepared(&b, false, &old).await;
    for share in &new[..2] {
        submit(&b, share, id).await.unwrap();
    }
    b.kill();
    unseal_with(&b, &new).await.unwrap();
}

#[tokio::test]
async fn a_token_that_was_away_for_a_moment_does_not_void_new_shares() {
    let b = Bench::open(&["one"], quick()).await;
    let old = old(&b);
    let (new, id) = prepared(&b, false, &old).await;
    submit(&b, &new[0], id).await.unwrap();
    b.tokens[0].away.store(true, Ordering::SeqCst);
    b.put("x").await.unwrap_err();
    let away = submit(&b, &new[1], id).await.unwrap_err();
    assert!(away.may_pass(), "{away:?}");
    b.tokens[0].away.store(false, Ordering::SeqCst);
    submit(&b, &new[1], id).await.unwrap();
}

#[tokio::test]
async fn a_rekey_is_made_from_the_seal_record_in_force() {
    let mut b = Bench::open(&["one"], quick()).await;
    b.put("a").await.unwrap();
    let (open, key) = (b.opened(), b.unseal_key());
    let job = |permit: SystemPermit<Test>| {
        let (open, key) = (open.clone(), &key);
        async move { open.renew_q(&permit, key).await }
    };
    operation::run_job(&open, "test", Resource::System, Vec::new(), job).await.unwrap();
    while open.rewrap(&open).await.unwrap() == Stretch::More {}
    b.faults.on_commit(1, CommitFault::UnknownAndApplied);
    open.end_rotation().await.unwrap_err();
    let o = old(&b);
    let (new, id) = prepared(&b, false, &o).await;
    submit(&b, &new[0], id).await.unwrap();
    submit(&b, &new[1], id).await.unwrap();
    drop(open);
    b.kill();
    let n = unseal_with(&b, &new).await;
    let ol = unseal_with(&b, &o).await;
    assert!(n.is_ok() || ol.is_ok());
}

#[tokio::test]
async fn a_vault_that_opens_by_itself_takes_no_further_token() {
    let b = Bench::open(&["one", "two"], quick()).await;
    let old = old(&b);
    quorum(&b, Wish::EnableAutoUnseal, &old).await.unwrap();
    let wish = Wish::AddToken("two".to_owned(), SecretBytes::copy_from(b"5678"));
    let refused = b.vault.start_ceremony(b.context(), wish).await.unwrap_err();
    assert_eq!(refused.reason(), "INVALID_ARGUMENT");
}

#[tokio::test]
async fn no_other_token_joins_than_was_approved() {
    let b = Bench::open(&["one", "two"], quick()).await;
    let o = old(&b);
    let begun = b
        .vault
        .start_ceremony(b.context(), Wish::AddToken("two".to_owned(), SecretBytes::copy_from(b"1234")))
        .await
        .unwrap();
    submit(&b, &o[0], begun.id).await.unwrap();
    *b.tokens[1].serial.lock().unwrap() = "evil";
    assert!(submit(&b, &o[1], begun.id).await.is_err());
    let names: Vec<_> = b.opened().keys.ways().header.ways.iter().map(|w| w.name()).collect();
    assert!(!names.contains(&"evil".to_owned()));
}

#[tokio::test]
async fn unsealing_waits_for_a_sealing_that_waits_for_a_start() {
    let b = Bench::open(&["one"], quick()).await;
    let o = old(&b);
    let guard = b.vault.ceremony.lock().await;
    // One share of an unsealing comes first in the queue, with a ceremony's start behind it inside the vault.
    let (v, c, t) = (Arc::clone(&b.vault), b.context(), copy(&o[0]));
    let first = tokio::spawn(async move { v.submit_share(&c, t, None).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (v, c, t) = (Arc::clone(&b.vault), b.context(), copy(&o[1]));
    let second = tokio::spawn(async move { v.submit_share(&c, t, None).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let (v, c) = (Arc::clone(&b.vault), b.context());
    let _start = tokio::spawn(async move { v.start_ceremony(c, rekey(false)).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (v, c) = (Arc::clone(&b.vault), b.context());
    let sealing = tokio::spawn(async move { v.seal(c).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(guard);
    let _ = tokio::time::timeout(Duration::from_secs(3), first).await.expect("first");
    let s = tokio::time::timeout(Duration::from_secs(3), second).await;
    let z = tokio::time::timeout(Duration::from_secs(1), sealing).await;
    assert!(s.is_ok() && z.is_ok(), "DEADLOCK: unseal {} seal {}", s.is_ok(), z.is_ok());
}
