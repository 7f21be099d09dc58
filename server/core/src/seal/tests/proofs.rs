//! What leaves a ceremony is on record, its id is that of its parameters, and no nonce is used twice.

use std::collections::HashSet;

use keystead_crypto::envelope::WrappedDataKey;
use keystead_storage::{Range, Storage};

use super::super::task::{Task, canonical};
use super::*;

/// Closes the log once a commit, or a new epoch key, is on its way: the intent is recorded, and the outcome cannot be.
async fn with_a_log_that_fails<T>(b: &Bench, work: impl Future<Output = T>) -> T {
    let delay = Duration::from_millis(200);
    b.faults.delay_commits(delay);
    *b.tokens[0].dawdle.lock().unwrap() = delay;
    let (commits, made) = (b.faults.commits(), epochs(b).len());
    let closing = async {
        while b.faults.commits() == commits && epochs(b).len() == made {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        b.vault.audit().close();
    };
    let (done, ()) = tokio::join!(work, closing);
    b.faults.delay_commits(Duration::ZERO);
    *b.tokens[0].dawdle.lock().unwrap() = Duration::ZERO;
    done
}

#[tokio::test]
async fn what_a_quorum_had_done_is_withheld_when_its_outcome_cannot_be_recorded() {
    let wishes = [
        ("new shares", rekey(false)),
        ("an administrator's token", Wish::RecoverRoot),
        ("a new PIN", Wish::ChangePin { serial: None, new: SecretBytes::copy_from(b"9999") }),
    ];
    for (what, wish) in wishes {
        let mut b = Bench::open(&["one"], quick()).await;
        b.put("a").await.unwrap();
        b.opened().upkeep().await.unwrap();
        let shares = old(&b);
        let begun = b.vault.start_ceremony(b.context(), wish).await.unwrap();
        submit(&b, &shares[0], begun.id).await.unwrap();
        let done = with_a_log_that_fails(&b, submit(&b, &shares[1], begun.id)).await;
        assert_eq!(done.unwrap_err().reason(), "OUTCOME_UNRECORDED", "{what}");
        assert!(b.vault.status().await.unwrap().ceremony.is_none(), "nobody can confirm {what}");
        b.kill();
        b.unseal().await.unwrap();
        assert!(b.reads("a").await.unwrap(), "{what}");
    }
}

#[tokio::test]
async fn a_rekey_whose_outcome_is_not_on_record_has_taken_effect_all_the_same() {
    let mut b = Bench::open(&["one"], quick()).await;
    b.opened().upkeep().await.unwrap();
    let shares = old(&b);
    let (new, id) = prepared(&b, false, &shares).await;
    submit(&b, &new[0], id).await.unwrap();
    let done = with_a_log_that_fails(&b, submit(&b, &new[1], id)).await;
    assert_eq!(done.unwrap_err().reason(), "OUTCOME_UNRECORDED");
    assert!(epochs(&b).contains(&2));
    b.kill();
    unseal_with(&b, &new).await.unwrap();
}

#[tokio::test]
async fn the_id_of_a_ceremony_is_that_of_its_purpose_and_its_parameters() {
    let b = Bench::open(&["one"], quick()).await;
    let header = b.vault.status().await.unwrap().header.unwrap().0;
    let one = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
    let two = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";
    let recipient = |name: &str| RecoveryRecipient::parse(name).unwrap();
    let rekey = |threshold, shares, names: &[&str], new_q| {
        let recipients = names.iter().map(|name| recipient(name)).collect();
        Task::Rekey(Rekey { quorum: Quorum::new(threshold, shares).unwrap(), recipients, new_q })
    };
    let pin = || SecretBytes::copy_from(b"9999");
    let token = |serial: &str| serial.to_owned();
    let tasks = [
        Task::Unseal,
        Task::EnableAutoUnseal,
        Task::DisableAutoUnseal,
        Task::RecoverRoot,
        rekey(2, 3, &[], false),
        rekey(3, 3, &[], false),
        rekey(2, 2, &[], false),
        rekey(2, 3, &[], true),
        rekey(2, 2, &[one, two], false),
        rekey(2, 2, &[two, one], false),
        Task::ChangePin { token: token("one"), new: pin() },
        Task::ChangePin { token: token("two"), new: pin() },
        Task::AddToken { serial: token("one"), pin: pin() },
        Task::AddToken { serial: token("two"), pin: pin() },
        Task::AddRecovery(recipient(one)),
        Task::AddRecovery(recipient(two)),
    ];
    let id = |task: &Task, nonce| {
        header.ceremony_id(task.purpose().action(), &canonical(&task.parameters()), nonce)
    };
    let ids: HashSet<_> = tasks.iter().map(|task| id(task, [7; 16])).collect();
    assert_eq!(ids.len(), tasks.len(), "one nonce, and an id for each");
    for task in &tasks {
        assert_eq!(id(task, [7; 16]), id(task, [7; 16]));
        assert_ne!(id(task, [7; 16]), id(task, [8; 16]), "another ceremony of the same kind");
    }
}

/// Notes what must never come a second time: the IV of each wrap under its key, the salt of each record under its key.
async fn note_nonces(b: &Bench, seen: &mut HashSet<Vec<u8>>, stored: &mut HashSet<Vec<u8>>) {
    let snapshot = b.store.snapshot().await.unwrap();
    let mut once = |what: Vec<u8>| assert!(seen.insert(what), "a nonce was used twice under its key");
    for space in Keyspace::ALL {
        for (key, value) in snapshot.range(space, Range::all(None), 1000).await.unwrap() {
            // The same bytes at the same place are one record, seen again.
            if !stored.insert([space.name().as_bytes(), &key, &value.value].concat()) {
                continue;
            }
            if space == Keyspace::DataKeys {
                let record = WrappedDataKey::decode(&value.value).unwrap();
                for wrap in record.wraps() {
                    let iv =
                        [wrap.token.as_bytes(), &wrap.master_version.to_be_bytes(), &wrap.sealed.iv].concat();
                    // A record that another wrap is added to keeps those that it has.
                    if stored.insert([b"wrap", key.as_ref(), &iv, &wrap.sealed.ciphertext].concat()) {
                        once(iv);
                    }
                }
            } else if let Ok(id) = keystead_crypto::record::peek_key_id(&value.value) {
                // Magic, format, suite and key id; a record of many has its salt behind them, and one of its own key none.
                let salt = if value.value[5] == 2 { &value.value[22..54] } else { &[][..] };
                once([&id[..], salt].concat());
            }
        }
    }
}

#[tokio::test]
async fn no_nonce_comes_twice_under_its_key_whatever_the_vault_did() {
    let mut b = Bench::open(&["one", "two"], quick()).await;
    let (mut seen, mut stored) = (HashSet::new(), HashSet::new());
    for round in 0..3 {
        for path in ["a", "b/c", "d"] {
            b.put(path).await.unwrap();
            note_nonces(&b, &mut seen, &mut stored).await;
        }
        if round == 0 {
            join(&b, 1).await;
        }
        operation::run(&b.opened(), b.context(), RotateMasterKey).await.unwrap();
        look_after(&b).await;
        renew_q(&b).await.unwrap();
        look_after(&b).await;
        note_nonces(&b, &mut seen, &mut stored).await;
        b.clock.advance(quick().system_key_age);
        while b.opened().look_after_system_keys().await.unwrap() {}
        note_nonces(&b, &mut seen, &mut stored).await;
        b.kill();
        b.unseal().await.unwrap();
        note_nonces(&b, &mut seen, &mut stored).await;
    }
    assert!(seen.len() > 100, "{}", seen.len());
}

#[tokio::test]
async fn checking_a_share_changes_nothing() {
    let mut b = Bench::open(&["one"], quick()).await;
    b.put("a").await.unwrap();
    b.kill();
    let all = async || {
        let snapshot = b.store.snapshot().await.unwrap();
        let mut all = Vec::new();
        for space in Keyspace::ALL {
            all.extend(snapshot.range(space, Range::all(None), 1000).await.unwrap());
        }
        (snapshot.revision(), all)
    };
    let status = async || {
        let status = b.vault.status().await.unwrap();
        (status.unsealed, status.powers, status.ceremony, status.warnings, b.vault.audit().size())
    };
    let (before, status_before) = (all().await, status().await);
    let (logins, commits) = (b.tokens[0].logins.load(Ordering::SeqCst), b.faults.commits());
    for share in old(&b) {
        b.vault.check_share(&share).await.unwrap();
        b.vault.check_share(&share).await.unwrap();
    }
    b.vault.check_share(&SecretBytes::copy_from(b"no share")).await.unwrap_err();
    assert!(all().await == before && status().await == status_before);
    assert_eq!((b.tokens[0].logins.load(Ordering::SeqCst), b.faults.commits()), (logins, commits));
    // The first share of a quorum would still be the first.
    b.unseal().await.unwrap();
}
