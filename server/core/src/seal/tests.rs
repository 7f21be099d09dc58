//! Attacks on ceremonies: faults, races and misuse, after each of which a quorum must still open the vault.

mod cut_off;
mod proofs;
mod tokens;

use std::sync::atomic::Ordering;
use std::time::Duration;

use keystead_crypto::ports::HsmKeyPurpose;
use keystead_crypto::recovery::RecoveryRecipient;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::CeremonyId;
use keystead_domain::policy::Resource;
use keystead_domain::seal::Quorum;
use keystead_storage::fault::CommitFault;

use super::*;
use crate::request::SystemPermit;
use crate::rotation::{RotateMasterKey, RotationOptions, Stretch};
use crate::testing::Bench;

enum Test {}

/// Whoever takes this long waits for ever.
const HANGS: Duration = Duration::from_secs(20);

pub(super) fn quick() -> RotationOptions {
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

pub(super) async fn submit(b: &Bench, text: &SecretBytes, id: CeremonyId) -> Result<Submitted, VaultError> {
    b.vault.submit_share(&b.context(), copy(text), Some(id)).await
}

pub(super) async fn quorum(b: &Bench, wish: Wish, shares: &[SecretBytes]) -> Result<Submitted, VaultError> {
    let begun = b.vault.start_ceremony(b.context(), wish).await?;
    submit(b, &shares[0], begun.id).await?;
    submit(b, &shares[1], begun.id).await
}

pub(super) fn old(b: &Bench) -> Vec<SecretBytes> {
    b.shares.iter().map(|s| s.to_text()).collect()
}

pub(super) async fn prepared(
    b: &Bench,
    new_q: bool,
    shares: &[SecretBytes],
) -> (Vec<SecretBytes>, CeremonyId) {
    let Submitted::Done(Outcome::Shares { shares, confirm }) = quorum(b, rekey(new_q), shares).await.unwrap()
    else {
        panic!()
    };
    (shares.into_iter().map(|s| s.text).collect(), confirm.unwrap().id)
}

pub(super) async fn unseal_with(b: &Bench, shares: &[SecretBytes]) -> Result<(), VaultError> {
    for s in &shares[..2] {
        b.vault.submit_share(&b.context(), copy(s), None).await?;
    }
    Ok(())
}

pub(super) async fn look_after(b: &Bench) {
    let open = b.opened();
    while open.rewrap(&open).await.unwrap() == Stretch::More {}
    open.end_rotation().await.unwrap();
}

/// The versions of a kind of key that a token holds.
fn versions(bench: &Bench, token: usize, purpose: HsmKeyPurpose) -> Vec<u32> {
    let keys = bench.tokens[token].keys.lock().unwrap();
    keys.keys().filter(|key| key.purpose == purpose).map(|key| key.version).collect()
}

fn epochs(bench: &Bench) -> Vec<u32> {
    versions(bench, 0, HsmKeyPurpose::Epoch)
}

pub(super) async fn renew_q(bench: &Bench) -> Result<u32, VaultError> {
    let (open, key) = (bench.opened(), bench.unseal_key());
    let job = |permit: SystemPermit<Test>| {
        let (open, key) = (open.clone(), &key);
        async move { open.renew_q(&permit, key).await }
    };
    operation::run_job(&open, "test", Resource::System, Vec::new(), job).await
}

async fn join(b: &Bench, place: usize) {
    try_join(b, place).await.unwrap();
}

async fn try_join(b: &Bench, place: usize) -> Result<(), VaultError> {
    let (open, key) = (b.opened(), b.unseal_key());
    let pin = SecretBytes::copy_from(b"1234");
    let job = |permit: SystemPermit<Test>| {
        let (open, key, pin) = (open.clone(), &key, &pin);
        let serial = *b.tokens[place].serial.lock().unwrap();
        async move { open.join_token(&permit, key, serial, pin).await }
    };
    operation::run_job(&open, "test", Resource::System, Vec::new(), job).await
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
    assert_eq!(epochs(&b), [2]);
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
        if taken {
            assert_eq!(epochs(&b), [2]);
        } else {
            b.vault.cancel_ceremony(b.context(), id).await.unwrap();
            assert_eq!(epochs(&b), [1, 2], "what the store does not show now its next start may find");
        }
        b.kill();
        unseal_with(&b, if taken { &new } else { &old }).await.unwrap();
        b.opened().upkeep().await.unwrap();
        if !taken {
            // The spare key goes with the next rekey.
            let (new, id) = prepared(&b, false, &old).await;
            for share in &new[..2] {
                submit(&b, share, id).await.unwrap();
            }
            assert_eq!(epochs(&b), [3]);
        }
    }
}

#[tokio::test]
async fn a_rekey_that_comes_to_light_after_it_was_cancelled_opens_with_its_shares() {
    let mut b = Bench::open(&["one"], quick()).await;
    b.put("a").await.unwrap();
    b.opened().upkeep().await.unwrap();
    let old = old(&b);
    let (new, id) = prepared(&b, false, &old).await;
    submit(&b, &new[0], id).await.unwrap();
    b.faults.on_commit(1, CommitFault::UnknownAndLater);
    submit(&b, &new[1], id).await.unwrap_err();
    b.vault.cancel_ceremony(b.context(), id).await.unwrap();
    b.kill();
    unseal_with(&b, &new).await.unwrap();
    assert!(b.reads("a").await.unwrap());
    b.opened().upkeep().await.unwrap();
    assert_eq!(epochs(&b), [2]);
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
    b.faults.on_reads_after_commits(1);
    submit(&b, &new[1], id).await.unwrap_err();
    b.faults.on_reads(false);
    b.vault.cancel_ceremony(b.context(), id).await.unwrap();
    assert!(epochs(&b).contains(&2));
    b.kill();
    unseal_with(&b, &new).await.unwrap();
}

#[tokio::test]
async fn a_q_that_came_to_nothing_seals_nothing() {
    let mut b = Bench::open(&["one"], quick()).await;
    b.put("a").await.unwrap();
    b.faults.on_commit(1, CommitFault::Unavailable);
    renew_q(&b).await.unwrap_err();
    assert_eq!(renew_q(&b).await.unwrap(), 2);
    b.put("b").await.unwrap();
    look_after(&b).await;
    assert!(b.reads("a").await.unwrap());
    b.kill();
    b.unseal().await.unwrap();
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
    let begun = b.vault.start_ceremony(b.context(), rekey(true)).await.unwrap();
    submit(&b, &old[0], begun.id).await.unwrap();
    renew_q(&b).await.unwrap();
    assert_eq!(submit(&b, &old[1], begun.id).await.unwrap_err().reason(), "ROTATION_UNDER_WAY");
    assert_eq!(epochs(&b), [1]);
}

#[tokio::test]
async fn every_token_loses_its_auto_key() {
    let b = Bench::open(&["one", "two"], quick()).await;
    join(&b, 1).await;
    look_after(&b).await;
    let shares = old(&b);
    quorum(&b, Wish::EnableAutoUnseal, &shares).await.unwrap();
    quorum(&b, Wish::DisableAutoUnseal, &shares).await.unwrap();
    b.opened().upkeep().await.unwrap();
    let left = [0, 1].map(|token| versions(&b, token, HsmKeyPurpose::Auto).len());
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
    let shares = old(&b);
    let changed = quorum(
        &b,
        Wish::ChangePin { serial: Some("one".to_owned()), new: SecretBytes::copy_from(b"9999") },
        &shares,
    )
    .await;
    assert!(matches!(changed, Ok(Submitted::Done(Outcome::PinChanged { .. }))), "{changed:?}");
    b.kill();
    b.unseal().await.unwrap();
}

#[tokio::test]
async fn sealing_does_not_wait_for_who_waits_for_the_ceremony() {
    for cancels in [false, true] {
        let b = Bench::open(&["one"], quick()).await;
        // A step under way, on a slow token.
        let step = b.vault.ceremony.lock().await;
        let vault = Arc::clone(&b.vault);
        let sealing = tokio::spawn(async move { vault.seal_by_itself("stop").await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (vault, ctx) = (Arc::clone(&b.vault), b.context());
        let other = tokio::spawn(async move {
            if cancels {
                vault.cancel_ceremony(ctx, CeremonyId([0; 16])).await
            } else {
                vault.start_ceremony(ctx, Wish::RecoverRoot).await.map(drop)
            }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(step);
        tokio::time::timeout(HANGS, sealing).await.unwrap().unwrap().unwrap();
        tokio::time::timeout(HANGS, other).await.unwrap().unwrap().unwrap_err();
    }
}

#[tokio::test]
async fn the_token_comes_back_after_a_rekey() {
    let b = Bench::open(&["one"], quick()).await;
    let shares = old(&b);
    let (new, id) = prepared(&b, false, &shares).await;
    submit(&b, &new[0], id).await.unwrap();
    submit(&b, &new[1], id).await.unwrap();
    assert!(b.tokens[0].could_come_back());
}

#[tokio::test]
async fn the_token_comes_back_after_a_cancelled_rekey() {
    let b = Bench::open(&["one"], quick()).await;
    let shares = old(&b);
    let (_, id) = prepared(&b, false, &shares).await;
    b.vault.cancel_ceremony(b.context(), id).await.unwrap();
    assert!(b.tokens[0].could_come_back());
}

#[tokio::test]
async fn the_token_comes_back_after_auto_unseal_ended() {
    let b = Bench::open(&["one"], quick()).await;
    let shares = old(&b);
    quorum(&b, Wish::EnableAutoUnseal, &shares).await.unwrap();
    quorum(&b, Wish::DisableAutoUnseal, &shares).await.unwrap();
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
    assert_eq!(epochs(&b), [1], "the key that came to nothing is gone");
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
    renew_q(&b).await.unwrap();
    let open = b.opened();
    while open.rewrap(&open).await.unwrap() == Stretch::More {}
    b.faults.on_commit(1, CommitFault::UnknownAndApplied);
    open.end_rotation().await.unwrap_err();
    let shares = old(&b);
    let (new, id) = prepared(&b, false, &shares).await;
    submit(&b, &new[0], id).await.unwrap();
    submit(&b, &new[1], id).await.unwrap();
    drop(open);
    b.kill();
    unseal_with(&b, &new).await.unwrap();
    assert!(b.reads("a").await.unwrap());
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
    let shares = old(&b);
    let begun = b
        .vault
        .start_ceremony(b.context(), Wish::AddToken("two".to_owned(), SecretBytes::copy_from(b"1234")))
        .await
        .unwrap();
    submit(&b, &shares[0], begun.id).await.unwrap();
    *b.tokens[1].serial.lock().unwrap() = "evil";
    assert!(submit(&b, &shares[1], begun.id).await.is_err());
    let names: Vec<_> =
        b.opened().keys.ways().header.ways.iter().map(keystead_crypto::seal_record::Way::name).collect();
    assert!(!names.contains(&"evil".to_owned()));
}

#[tokio::test]
async fn unsealing_waits_for_a_sealing_that_waits_for_a_start() {
    let b = Bench::open(&["one"], quick()).await;
    let shares = old(&b);
    let step = b.vault.ceremony.lock().await;
    // Two shares of an unsealing come first in the queue, with a ceremony's start behind them inside the vault.
    let mut entered = Vec::new();
    for share in &shares[..2] {
        let (vault, ctx, share) = (Arc::clone(&b.vault), b.context(), copy(share));
        entered.push(tokio::spawn(async move { vault.submit_share(&ctx, share, None).await.map(drop) }));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (vault, ctx) = (Arc::clone(&b.vault), b.context());
    let starting = tokio::spawn(async move { vault.start_ceremony(ctx, rekey(false)).await.map(drop) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (vault, ctx) = (Arc::clone(&b.vault), b.context());
    let sealing = tokio::spawn(async move { vault.seal(ctx).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    drop(step);
    for ended in entered.into_iter().chain([starting, sealing]) {
        // What comes of each is a matter of who was first; that all of them end is not.
        drop(tokio::time::timeout(HANGS, ended).await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn an_earlier_auto_key_goes_when_there_is_a_new_one() {
    let b = Bench::open(&["one"], quick()).await;
    let shares = old(&b);
    for _ in 0..2 {
        quorum(&b, Wish::EnableAutoUnseal, &shares).await.unwrap();
        b.opened().upkeep().await.unwrap();
    }
    assert_eq!(versions(&b, 0, HsmKeyPurpose::Auto), [2]);
    assert!(b.tokens[0].could_come_back());
}

#[tokio::test]
async fn nobody_gets_two_shares() {
    let b = Bench::open(&["one"], quick()).await;
    let one = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let two = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";
    let wish = |names: &[&str]| {
        let recipients = names.iter().map(|name| RecoveryRecipient::parse(name).unwrap()).collect();
        Wish::Rekey(Rekey { quorum: Quorum::new(2, 2).unwrap(), recipients, new_q: false })
    };
    let twice = b.vault.start_ceremony(b.context(), wish(&[one, one])).await.unwrap_err();
    assert_eq!(twice.reason(), "INVALID_ARGUMENT");
    assert!(twice.to_string().contains("share 1 and share 2"), "{twice}");
    b.vault.start_ceremony(b.context(), wish(&[one, two])).await.unwrap();
}

/// What a job of the vault recorded: kind, outcome, and what it says of keys.
async fn recorded(b: &Bench, job: &str) -> Vec<(EntryKind, String, String)> {
    let entries = crate::audit_tail::read_opened(&b.opened(), 0, 10_000).await.unwrap();
    let of_job = entries.into_iter().filter_map(|entry| Some((entry.kind, entry.body?)));
    let of_job = of_job.filter(|(_, body)| body.principal == format!("system/{job}"));
    let keys = |body: &keystead_audit::Body| {
        let found = body.detail.iter().find(|(name, _)| name == "keys");
        found.map(|(_, keys)| keys.clone()).unwrap_or_default()
    };
    of_job.map(|(kind, body)| (kind, body.outcome.to_string(), keys(&body))).collect()
}

#[tokio::test]
async fn keys_are_destroyed_on_record() {
    let b = Bench::open(&["one"], quick()).await;
    b.opened().upkeep().await.unwrap();
    assert!(recorded(&b, "tidy-tokens").await.is_empty(), "there is nothing to do");
    let shares = old(&b);
    let (_, id) = prepared(&b, false, &shares).await;
    b.vault.cancel_ceremony(b.context(), id).await.unwrap();
    let done = |keys: &str| {
        let entry = |kind, outcome: &str| (kind, outcome.to_owned(), keys.to_owned());
        [entry(EntryKind::Intent, ""), entry(EntryKind::Outcome, "ok")]
    };
    assert_eq!(recorded(&b, "forget-epoch").await, done("epoch key 2 of token one"));
    let (new, id) = prepared(&b, false, &shares).await;
    for share in &new[..2] {
        submit(&b, share, id).await.unwrap();
    }
    assert_eq!(recorded(&b, "tidy-tokens").await, done("epoch key 1 of token one"));
    assert_eq!(epochs(&b), [2]);
}
