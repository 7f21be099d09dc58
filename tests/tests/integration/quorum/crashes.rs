//! The power goes at each write of each ceremony: afterwards the old quorum opens the vault or the new one, never neither.

use std::path::Path;

use keystead_client::v1;
use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_server::config::AutoPin;
use keystead_storage::fault::{CommitFault, Faults};
use keystead_tests::{TestVault, until};

use super::auto_unseal::write_pin;
use super::{approve, share, start, unseal_with};
use crate::{get, put};

/// How a ceremony ended.
enum End {
    /// With this answer of the last share.
    Answered,
    /// With a write that never came back.
    Stuck,
}

/// Enters the last share of a ceremony on a store that gets stuck at the `nth` write from then on.
async fn last_share(
    vault: &TestVault,
    faults: &Faults,
    nth: u64,
    fault: CommitFault,
    text: &str,
    id: &str,
) -> End {
    faults.on_commit(nth, fault);
    let (system, text, id) = (vault.local().system(), share(text), id.to_owned());
    let sent = tokio::spawn(async move { system.submit_share(&text, &id).await });
    until("the share is answered, or a write is stuck", || async {
        (sent.is_finished() || faults.is_stuck()).then_some(())
    })
    .await;
    if faults.is_stuck() {
        sent.abort();
        return End::Stuck;
    }
    sent.await.unwrap().unwrap();
    End::Answered
}

const FAULTS: [CommitFault; 2] = [CommitFault::StuckAndLost, CommitFault::StuckAndApplied];

/// A vault in which nothing but the ceremony writes.
async fn vault(faults: &Faults, pin: &Path) -> TestVault {
    let file = pin.to_owned();
    let vault = TestVault::builder()
        .faults(faults)
        .config(move |config| config.seal.auto_pin = Some(AutoPin::File(file.clone())))
        .start()
        .await;
    write_pin(pin, &vault.token().pin);
    put(&vault.operator(), "a", "kept").await;
    vault
}

/// Tries one ceremony with the power going at each of its writes, until it has no more of them; `opened` opens the vault
/// again and says whether it found the ceremony done.
async fn at_each_write<P>(
    prepare: impl AsyncFn(&TestVault) -> (String, Vec<String>, P),
    opened: impl AsyncFn(&TestVault, P) -> bool,
) {
    for fault in FAULTS {
        for nth in 1.. {
            assert!(nth < 8, "a ceremony has a handful of writes");
            let dir = tempfile::tempdir().unwrap();
            let faults = Faults::default();
            let mut vault = vault(&faults, &dir.path().join("pin")).await;
            let (id, shares, prepared) = prepare(&vault).await;
            let (last, first) = shares.split_last().unwrap();
            for text in first {
                vault.local().system().submit_share(&share(text), &id).await.unwrap();
            }
            let end = last_share(&vault, &faults, nth, fault, last, &id).await;
            vault.crash().await;
            let done = opened(&vault, prepared).await;
            assert_eq!(get(&vault.operator(), "a").await, "kept");
            if matches!(end, End::Answered) {
                assert!(nth > 1, "it writes nothing");
                assert!(done, "{fault:?}: what was answered was done");
                break;
            }
        }
    }
}

/// Opens a vault as it opens now, and says how many powers that took.
async fn open_by_powers(vault: &TestVault) -> u32 {
    let powers = vault.local().system().status().await.unwrap().powers;
    if powers == 2 {
        unseal_with(vault, &vault.shares()[1..]).await;
    } else {
        until("it opens by itself", || async { vault.vault().is_unsealed().then_some(()) }).await;
    }
    powers
}

#[tokio::test]
async fn confirming_a_rekey() {
    rekeying(false).await;
}

#[tokio::test]
async fn confirming_a_rekey_with_a_new_q() {
    rekeying(true).await;
}

async fn rekeying(new_q: bool) {
    at_each_write(
        async |vault| {
            let rekey = v1::Rekey { shares: 3, threshold: 2, new_q, ..Default::default() };
            let begun = start(vault, Purpose::Rekey(rekey)).await;
            let old = vault.shares();
            let handed = approve(&vault.local(), &begun.ceremony_id, &old[..2]).await;
            let text = |share: &keystead_client::InitialShare| share.text.expose_str().unwrap().to_owned();
            let new: Vec<String> = handed.shares.iter().map(text).collect();
            (handed.ceremony.unwrap().ceremony_id, new[..2].to_vec(), (old, new))
        },
        async |vault, (old, new)| {
            let epoch = vault.local().system().status().await.unwrap().epoch;
            unseal_with(vault, if epoch == 1 { &old[..2] } else { &new[1..] }).await;
            epoch == 2
        },
    )
    .await;
}

#[tokio::test]
async fn changing_the_pin() {
    at_each_write(
        async |vault| {
            let change = v1::ChangePin { new_pin: b"a new pin, 5831".to_vec(), ..Default::default() };
            let begun = start(vault, Purpose::ChangePin(change)).await;
            (begun.ceremony_id, vault.shares()[..2].to_vec(), ())
        },
        async |vault, ()| {
            unseal_with(vault, &vault.shares()[1..]).await;
            true
        },
    )
    .await;
}

#[tokio::test]
async fn opening_by_itself_turned_on() {
    at_each_write(
        async |vault| {
            let begun = start(vault, Purpose::EnableAutoUnseal(v1::EnableAutoUnseal {})).await;
            (begun.ceremony_id, vault.shares()[..2].to_vec(), ())
        },
        async |vault, ()| open_by_powers(vault).await == 1,
    )
    .await;
}

#[tokio::test]
async fn opening_by_itself_turned_off() {
    at_each_write(
        async |vault| {
            let begun = start(vault, Purpose::EnableAutoUnseal(v1::EnableAutoUnseal {})).await;
            approve(&vault.local(), &begun.ceremony_id, &vault.shares()[..2]).await;
            let begun = start(vault, Purpose::DisableAutoUnseal(v1::DisableAutoUnseal {})).await;
            (begun.ceremony_id, vault.shares()[..2].to_vec(), ())
        },
        async |vault, ()| open_by_powers(vault).await == 2,
    )
    .await;
}

#[tokio::test]
async fn recovering_an_administrator() {
    at_each_write(
        async |vault| {
            let recover = Purpose::RecoverRoot(v1::RecoverRoot {});
            let begun = vault.local().system().start_ceremony(recover).await.unwrap();
            (begun.ceremony_id, vault.shares()[..2].to_vec(), ())
        },
        async |vault, ()| {
            unseal_with(vault, &vault.shares()[1..]).await;
            true
        },
    )
    .await;
}
