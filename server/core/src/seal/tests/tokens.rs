//! Several tokens: one opens the vault by itself, one joins without an answer, one has two PINs, one is a clone.

use super::*;

#[tokio::test]
async fn the_vault_opens_by_itself_through_any_token_and_a_refused_pin_is_sent_once() {
    let mut b = Bench::open(&["one", "two"], quick()).await;
    b.put("a").await.unwrap();
    join(&b, 1).await;
    look_after(&b).await;
    let shares = old(&b);
    quorum(&b, Wish::EnableAutoUnseal, &shares).await.unwrap();
    b.kill();
    b.tokens[0].away.store(true, Ordering::SeqCst);
    assert!(b.vault.unseal_by_itself().await.unwrap());
    assert!(b.reads("a").await.unwrap());

    b.kill();
    b.tokens[0].away.store(false, Ordering::SeqCst);
    *b.tokens[0].pin.lock().unwrap() = b"another".to_vec();
    let sent = b.tokens[0].logins.load(Ordering::SeqCst);
    assert!(b.vault.unseal_by_itself().await.unwrap());
    b.vault.upkeep().await.unwrap();
    assert!(b.reads("a").await.unwrap());
    assert_eq!(b.tokens[0].logins.load(Ordering::SeqCst), sent + 1);

    // While one is away, another's refusal is not the last word.
    b.kill();
    b.tokens[1].away.store(true, Ordering::SeqCst);
    let waits = b.vault.unseal_by_itself().await.unwrap_err();
    assert!(waits.may_pass(), "{waits:?}");
    b.tokens[1].away.store(false, Ordering::SeqCst);
    *b.tokens[1].pin.lock().unwrap() = b"another".to_vec();
    assert!(!b.vault.unseal_by_itself().await.unwrap_err().may_pass());
}

/// Whether a data key is wrapped by the second token.
async fn second_wraps(b: &Bench, path: &str) -> bool {
    let before = b.tokens[1].wraps.load(Ordering::SeqCst);
    b.put(path).await.unwrap();
    b.tokens[1].wraps.load(Ordering::SeqCst) > before
}

#[tokio::test]
async fn a_token_whose_joining_gave_no_answer_is_used_at_once_if_it_joined() {
    for (fault, taken) in [(CommitFault::UnknownAndApplied, true), (CommitFault::UnknownAndLost, false)] {
        let b = Bench::open(&["one", "two"], quick()).await;
        b.opened().upkeep().await.unwrap();
        b.faults.on_commit(1, fault);
        let joined = try_join(&b, 1).await;
        assert_eq!(joined.is_ok(), taken, "{joined:?}");
        assert_eq!(second_wraps(&b, "a").await, taken);
        if !taken {
            join(&b, 1).await;
            assert!(second_wraps(&b, "b").await);
        }
    }
}

#[tokio::test]
async fn a_token_that_joined_without_anybody_knowing_is_used_once_that_is_seen() {
    let b = Bench::open(&["one", "two"], quick()).await;
    b.opened().upkeep().await.unwrap();
    b.faults.on_commit(1, CommitFault::UnknownAndApplied);
    b.faults.on_reads_after_commits(1);
    try_join(&b, 1).await.unwrap_err();
    b.faults.on_reads(false);
    b.opened().upkeep().await.unwrap();
    assert!(second_wraps(&b, "a").await);
}

/// How many PIN boxes the seal record has for each way.
async fn pin_boxes(b: &Bench) -> Vec<usize> {
    let seal = TrustedSeal::load(b.store.as_ref()).await.unwrap();
    seal.record.boxes.iter().map(|boxes| boxes.pins.len()).collect()
}

#[tokio::test]
async fn two_pins_of_a_token_that_did_not_open_the_vault_are_settled_when_it_answers() {
    for away in [false, true] {
        let mut b = Bench::open(&["one", "two"], quick()).await;
        join(&b, 1).await;
        look_after(&b).await;
        b.opened().upkeep().await.unwrap();
        let shares = old(&b);
        // The token takes the new PIN, and the record that says so is not written.
        b.faults.on_commit(2, CommitFault::Unavailable);
        let wish = Wish::ChangePin { serial: Some("two".to_owned()), new: SecretBytes::copy_from(b"9999") };
        let changed = quorum(&b, wish, &shares).await.unwrap_err();
        assert_eq!(changed.reason(), "HSM_PIN_UNCERTAIN");
        assert_eq!(pin_boxes(&b).await, [1, 2]);
        b.kill();
        b.tokens[1].away.store(away, Ordering::SeqCst);
        b.unseal().await.unwrap();
        if away {
            assert_eq!(pin_boxes(&b).await, [1, 2], "nobody knows yet");
            b.tokens[1].away.store(false, Ordering::SeqCst);
            b.opened().upkeep().await.unwrap();
        }
        assert_eq!(pin_boxes(&b).await, [1, 1]);
        // The one that was kept is the good one.
        b.kill();
        let sent = b.tokens[1].logins.load(Ordering::SeqCst);
        b.unseal().await.unwrap();
        assert_eq!(b.tokens[1].logins.load(Ordering::SeqCst), sent + 1);
        assert!(second_wraps(&b, "a").await);
    }
}

/// A vault whose second token is a clone of the first.
async fn with_a_clone() -> Bench {
    let mut b = Bench::open(&["one", "copy"], quick()).await;
    b.put("a").await.unwrap();
    let keys = b.tokens[0].keys.lock().unwrap().clone();
    *b.tokens[1].keys.lock().unwrap() = keys;
    *b.tokens[1].clone_of.lock().unwrap() = Some("one".to_owned());
    b.restart().await;
    b.opened().upkeep().await.unwrap();
    b
}

#[tokio::test]
async fn a_clone_opens_what_its_original_wrapped_and_the_other_way_round() {
    let mut b = with_a_clone().await;
    b.tokens[0].away.store(true, Ordering::SeqCst);
    b.restart().await;
    b.tokens[0].away.store(true, Ordering::SeqCst);
    assert!(b.reads("a").await.unwrap());
    b.put("b").await.unwrap();
    assert!(b.wraps().await.iter().flatten().all(|(way, ..)| way == "one"));
    b.tokens[0].away.store(false, Ordering::SeqCst);
    b.tokens[1].away.store(true, Ordering::SeqCst);
    b.restart().await;
    assert!(b.reads("b").await.unwrap());
}

#[tokio::test]
async fn a_clone_loses_the_keys_that_its_original_loses() {
    for away in [false, true] {
        let b = with_a_clone().await;
        b.tokens[1].away.store(away, Ordering::SeqCst);
        if away {
            // Noticed by whoever would have used it.
            b.opened().keys.ways().links[1].failed(&keystead_crypto::ports::HsmError::NotLoggedIn);
        }
        let shares = old(&b);
        let (new, id) = prepared(&b, false, &shares).await;
        for share in &new[..2] {
            submit(&b, share, id).await.unwrap();
        }
        operation::run(&b.opened(), b.context(), RotateMasterKey).await.unwrap();
        look_after(&b).await;
        b.tokens[1].away.store(false, Ordering::SeqCst);
        b.opened().upkeep().await.unwrap();
        for purpose in [HsmKeyPurpose::Epoch, HsmKeyPurpose::Master] {
            assert_eq!(versions(&b, 0, purpose), [2]);
            assert!(versions(&b, 1, purpose).is_empty(), "{purpose:?}, away: {away}");
        }
    }
}

#[tokio::test]
async fn a_clone_stands_in_for_nothing_that_makes_or_destroys_keys_or_changes_the_pin() {
    let mut b = with_a_clone().await;
    b.tokens[0].away.store(true, Ordering::SeqCst);
    b.restart().await;
    b.put("b").await.unwrap();
    let shares = old(&b);
    let only_its_clone = |error: VaultError| {
        assert!(matches!(error, VaultError::OnlyItsClone { .. }), "{error:?}");
        assert!(error.may_pass());
    };
    only_its_clone(operation::run(&b.opened(), b.context(), RotateMasterKey).await.unwrap_err());
    only_its_clone(renew_q(&b).await.unwrap_err());
    for wish in [rekey(false), Wish::EnableAutoUnseal] {
        let begun = b.vault.start_ceremony(b.context(), wish).await.unwrap();
        submit(&b, &shares[0], begun.id).await.unwrap();
        only_its_clone(submit(&b, &shares[1], begun.id).await.unwrap_err());
        b.vault.cancel_ceremony(b.context(), begun.id).await.unwrap();
    }
    let clone = b.tokens[1].keys.lock().unwrap().clone();
    let original = b.tokens[0].keys.lock().unwrap().clone();
    assert_eq!(clone, original, "nothing was made or destroyed");

    // With the original there, too, the clone would be shut out by a new PIN.
    b.tokens[0].away.store(false, Ordering::SeqCst);
    b.restart().await;
    let wish = Wish::ChangePin { serial: Some("one".to_owned()), new: SecretBytes::copy_from(b"9999") };
    let refused = b.vault.start_ceremony(b.context(), wish).await.unwrap_err();
    assert!(refused.to_string().contains("clone of token one"), "{refused}");
    b.restart().await;
}

#[tokio::test]
async fn no_clone_becomes_a_way_of_its_own() {
    let b = with_a_clone().await;
    let wish = Wish::AddToken("copy".to_owned(), SecretBytes::copy_from(b"1234"));
    assert_eq!(b.vault.start_ceremony(b.context(), wish).await.unwrap_err().reason(), "NOT_FOUND");
}

#[tokio::test]
async fn an_original_keeps_its_keys_while_those_that_took_their_place_are_elsewhere() {
    let b = with_a_clone().await;
    let shares = old(&b);
    let (new, id) = prepared(&b, false, &shares).await;
    for share in &new[..2] {
        submit(&b, share, id).await.unwrap();
    }
    // As if the new epoch key had been made on the clone alone.
    let epoch = |version| keystead_crypto::ports::HsmKey { purpose: HsmKeyPurpose::Epoch, version };
    let made = b.tokens[0].keys.lock().unwrap().remove(&epoch(2)).unwrap();
    b.tokens[0].keys.lock().unwrap().insert(epoch(1), made);
    b.tokens[1].keys.lock().unwrap().insert(epoch(2), made);
    b.opened().tidy_tokens().await.unwrap();
    assert_eq!(epochs(&b), [1]);
}

#[tokio::test]
async fn a_token_that_heard_its_pin_and_did_not_answer_hears_it_no_second_time_in_the_same_unsealing() {
    let mut b = Bench::open(&["one", "two"], quick()).await;
    join(&b, 1).await;
    look_after(&b).await;
    b.kill();
    b.tokens[0].mute.store(true, Ordering::SeqCst);
    *b.tokens[0].pin.lock().unwrap() = b"another".to_vec();
    let sent = b.tokens[0].logins.load(Ordering::SeqCst);
    b.unseal().await.unwrap();
    assert_eq!(b.tokens[0].logins.load(Ordering::SeqCst), sent + 1);
    // It counted; nobody acts, so that it hears nothing more.
    b.tokens[0].mute.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        b.opened().upkeep().await.unwrap();
    }
    assert_eq!(b.tokens[0].logins.load(Ordering::SeqCst), sent + 1);
    // Somebody logs in with the right one, which is the vault's again.
    *b.tokens[0].pin.lock().unwrap() = b"1234".to_vec();
    b.tokens[0].wrong_pins.store(0, Ordering::SeqCst);
    b.opened().upkeep().await.unwrap();
    assert!(b.opened().keys.token("one").is_ok());
}

#[tokio::test]
async fn a_stale_pin_of_a_vault_that_opens_by_itself_is_sent_once_however_the_token_answers() {
    // A token that shows no count and never answers says nothing by which one could go.
    for (shows_count, mute) in [(true, false), (true, true), (false, false)] {
        let mut b = Bench::open(&["one"], quick()).await;
        b.tokens[0].shows_count.store(shows_count, Ordering::SeqCst);
        let shares = old(&b);
        quorum(&b, Wish::EnableAutoUnseal, &shares).await.unwrap();
        assert_eq!(b.vault.status().await.unwrap().warnings, [""; 0]);
        let wish = Wish::ChangePin { serial: None, new: SecretBytes::copy_from(b"9999") };
        quorum(&b, wish, &shares).await.unwrap();
        let warnings = b.vault.status().await.unwrap().warnings;
        assert!(matches!(warnings.as_slice(), [one] if one.contains("does not read the token's PIN")));
        let sent = b.tokens[0].logins.load(Ordering::SeqCst);
        b.tokens[0].mute.store(mute, Ordering::SeqCst);
        for _ in 0..4 {
            b.kill();
            for _ in 0..3 {
                b.vault.unseal_by_itself().await.unwrap_err();
            }
        }
        assert_eq!(b.tokens[0].logins.load(Ordering::SeqCst), sent + 1, "{shows_count} {mute}");
        b.tokens[0].mute.store(false, Ordering::SeqCst);

        // A person brings the right one, and what the server reads is still not it.
        b.unseal().await.unwrap();
        b.vault.upkeep().await.unwrap();
        assert_eq!(b.vault.status().await.unwrap().warnings.len(), 1);
        let sent = b.tokens[0].logins.load(Ordering::SeqCst);
        if !mute {
            b.kill();
            b.vault.unseal_by_itself().await.unwrap_err();
            assert_eq!(b.tokens[0].logins.load(Ordering::SeqCst), sent);
            b.unseal().await.unwrap();
        }
        // It is put right, while the vault is open: from then on it opens by itself again.
        let wish = Wish::ChangePin { serial: None, new: SecretBytes::copy_from(b"1234") };
        quorum(&b, wish, &shares).await.unwrap();
        b.vault.upkeep().await.unwrap();
        assert_eq!(b.vault.status().await.unwrap().warnings, [""; 0]);
        b.kill();
        assert!(b.vault.unseal_by_itself().await.unwrap());
    }
}

#[tokio::test]
async fn a_further_token_that_refused_the_pin_of_an_unattended_start_hears_it_no_more_at_the_next() {
    let mut b = Bench::open(&["one", "two"], quick()).await;
    join(&b, 1).await;
    look_after(&b).await;
    let shares = old(&b);
    quorum(&b, Wish::EnableAutoUnseal, &shares).await.unwrap();
    b.tokens[1].shows_count.store(false, Ordering::SeqCst);
    *b.tokens[1].pin.lock().unwrap() = b"another".to_vec();
    let sent = b.tokens[1].logins.load(Ordering::SeqCst);
    // Away at first, so that upkeep is who finds out.
    b.tokens[1].away.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        b.kill();
        assert!(b.vault.unseal_by_itself().await.unwrap());
        b.tokens[1].away.store(false, Ordering::SeqCst);
        for _ in 0..2 {
            b.vault.upkeep().await.unwrap();
        }
    }
    assert_eq!(b.tokens[1].logins.load(Ordering::SeqCst), sent + 1);
}

#[tokio::test]
async fn a_clone_that_refused_the_pin_of_an_unattended_start_is_not_taken_for_its_original() {
    let mut b = with_a_clone().await;
    let shares = old(&b);
    quorum(&b, Wish::EnableAutoUnseal, &shares).await.unwrap();
    *b.tokens[1].keys.lock().unwrap() = b.tokens[0].keys.lock().unwrap().clone();
    b.tokens[1].shows_count.store(false, Ordering::SeqCst);
    *b.tokens[1].pin.lock().unwrap() = b"another".to_vec();
    let sent = |b: &Bench| b.tokens[1].logins.load(Ordering::SeqCst);
    let before = sent(&b);
    // Found out by whoever opens, and by upkeep.
    for original_away in [true, false, false] {
        b.kill();
        b.tokens[0].away.store(original_away, Ordering::SeqCst);
        assert_eq!(b.vault.unseal_by_itself().await.is_ok(), !original_away);
        b.tokens[0].away.store(false, Ordering::SeqCst);
        for _ in 0..2 {
            b.vault.upkeep().await.unwrap();
        }
    }
    assert_eq!(sent(&b), before + 1);

    // Put right, it is heard again once a quorum opened the vault, and opens it alone.
    *b.tokens[1].pin.lock().unwrap() = b"1234".to_vec();
    b.kill();
    b.unseal().await.unwrap();
    b.vault.upkeep().await.unwrap();
    b.kill();
    b.tokens[0].away.store(true, Ordering::SeqCst);
    assert!(b.vault.unseal_by_itself().await.unwrap());
}

#[tokio::test]
async fn a_clone_that_refused_the_pin_behind_its_original_hears_it_no_more() {
    let mut b = with_a_clone().await;
    let shares = old(&b);
    quorum(&b, Wish::EnableAutoUnseal, &shares).await.unwrap();
    b.tokens[1].shows_count.store(false, Ordering::SeqCst);
    *b.tokens[1].pin.lock().unwrap() = b"another".to_vec();
    let before = b.tokens[1].logins.load(Ordering::SeqCst);
    for _ in 0..3 {
        b.kill();
        assert!(b.vault.unseal_by_itself().await.unwrap());
        for _ in 0..2 {
            b.vault.upkeep().await.unwrap();
        }
    }
    assert_eq!(b.tokens[1].logins.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn a_master_key_is_not_said_to_be_destroyed_while_a_clone_that_is_away_has_it() {
    let b = with_a_clone().await;
    b.tokens[1].away.store(true, Ordering::SeqCst);
    b.opened().keys.ways().links[1].failed(&keystead_crypto::ports::HsmError::NotLoggedIn);
    operation::run(&b.opened(), b.context(), RotateMasterKey).await.unwrap();
    look_after(&b).await;
    let destroyed = async || b.opened().key_report().await.unwrap().masters[0].destroyed.is_some();
    assert_eq!(versions(&b, 0, HsmKeyPurpose::Master), [2]);
    assert!(!destroyed().await, "the clone has it");
    let entries = b.vault.audit().size();
    look_after(&b).await;
    assert_eq!(b.vault.audit().size(), entries, "nothing more can be done now");
    b.tokens[1].away.store(false, Ordering::SeqCst);
    b.opened().upkeep().await.unwrap();
    look_after(&b).await;
    assert!(versions(&b, 1, HsmKeyPurpose::Master).is_empty() && destroyed().await);
}

#[tokio::test]
async fn a_further_token_whose_self_test_failed_once_is_used_when_it_passes() {
    let mut b = Bench::open(&["one", "two"], quick()).await;
    join(&b, 1).await;
    look_after(&b).await;
    b.tokens[1].lies.store(true, Ordering::SeqCst);
    b.restart().await;
    b.opened().upkeep().await.unwrap();
    assert!(!second_wraps(&b, "a").await);
    b.tokens[1].lies.store(false, Ordering::SeqCst);
    b.opened().upkeep().await.unwrap();
    assert!(second_wraps(&b, "b").await);
}
