//! Every ceremony and every job that destroys keys after a commit, cut off at each of its writes, given up and started
//! again: some quorum opens the vault, and all that was in it.

use super::*;
use crate::operation;
use crate::rotation::RetireWay;

const RECIPIENT: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

/// What is cut off.
#[derive(Debug, Clone, Copy)]
enum Work {
    Rekey,
    RekeyWithNewQ,
    Rotation,
    Retirement,
    NewPin,
    EnableAuto,
    DisableAuto,
    NewToken,
    NewRecoveryKey,
}

const ALL: [Work; 9] = [
    Work::Rekey,
    Work::RekeyWithNewQ,
    Work::Rotation,
    Work::Retirement,
    Work::NewPin,
    Work::EnableAuto,
    Work::DisableAuto,
    Work::NewToken,
    Work::NewRecoveryKey,
];

async fn pass(b: &Bench) -> Result<(), VaultError> {
    let open = b.opened();
    while open.rewrap(&open).await? == Stretch::More {}
    open.end_rotation().await?;
    open.upkeep().await
}

async fn rekeyed(b: &Bench, new_q: bool, new: &mut Vec<SecretBytes>) -> Result<(), VaultError> {
    let shares = old(b);
    let made = quorum(b, rekey(new_q), &shares).await?;
    let Submitted::Done(Outcome::Shares { shares, confirm }) = made else { panic!("{made:?}") };
    *new = shares.into_iter().map(|share| share.text).collect();
    let id = confirm.unwrap().id;
    submit(b, &new[0], id).await?;
    submit(b, &new[1], id).await?;
    pass(b).await
}

/// Does it. New shares are there as soon as their holders have them.
async fn try_it(b: &Bench, work: Work, new: &mut Vec<SecretBytes>) -> Result<(), VaultError> {
    let shares = old(b);
    match work {
        Work::Rekey => rekeyed(b, false, new).await?,
        Work::RekeyWithNewQ => rekeyed(b, true, new).await?,
        Work::Rotation => drop(operation::run(&b.opened(), b.context(), RotateMasterKey).await?),
        Work::Retirement => {
            operation::run(&b.opened(), b.context(), RetireWay { way: "two".to_owned() }).await?;
        }
        Work::NewPin => {
            let wish =
                Wish::ChangePin { serial: Some("two".to_owned()), new: SecretBytes::copy_from(b"9999") };
            quorum(b, wish, &shares).await?;
        }
        Work::EnableAuto => drop(quorum(b, Wish::EnableAutoUnseal, &shares).await?),
        Work::DisableAuto => drop(quorum(b, Wish::DisableAutoUnseal, &shares).await?),
        Work::NewToken => {
            quorum(b, Wish::AddToken("three".to_owned(), SecretBytes::copy_from(b"1234")), &shares).await?;
        }
        Work::NewRecoveryKey => {
            drop(quorum(b, Wish::AddRecovery(RecoveryRecipient::parse(RECIPIENT).unwrap()), &shares).await?);
        }
    }
    pass(b).await
}

/// Says whether that commit was reached.
async fn cut_off_at(work: Work, nth: u64, fault: CommitFault) -> bool {
    let what = format!("{work:?}, {fault:?} at commit {nth}");
    let mut b = Bench::open(&["one", "two", "three"], quick()).await;
    b.put("a").await.unwrap();
    join(&b, 1).await;
    pass(&b).await.unwrap();
    let shares = old(&b);
    if matches!(work, Work::DisableAuto) {
        quorum(&b, Wish::EnableAutoUnseal, &shares).await.unwrap();
        pass(&b).await.unwrap();
    }
    let commits = b.faults.commits();
    b.faults.on_commit(nth, fault);
    let mut new = Vec::new();
    let power_goes = async {
        while !b.faults.is_stuck() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        // What comes of it is not the question.
        _ = try_it(&b, work, &mut new) => {
            // Operators give up what did not work, and the server goes on with what it does by itself.
            let under_way = b.vault.status().await.unwrap().ceremony;
            if let Some(ceremony) = under_way {
                b.vault.cancel_ceremony(b.context(), ceremony.id).await.unwrap();
            }
            drop(pass(&b).await);
        }
        () = power_goes => {}
    }
    let reached = b.faults.commits() >= commits + nth;
    b.kill();
    let opened = if new.is_empty() { Err(VaultError::NotInitialized) } else { unseal_with(&b, &new).await };
    if opened.is_err() {
        unseal_with(&b, &shares)
            .await
            .unwrap_or_else(|error| panic!("neither quorum opens, {what}: {error}"));
    }
    assert!(b.reads("a").await.unwrap(), "{what}");
    pass(&b).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    b.put("b").await.unwrap();
    assert!(b.tokens[0].could_come_back(), "{what}");
    if !matches!(work, Work::Retirement) {
        assert!(b.opened().keys.token("two").is_ok(), "its PIN is known, {what}");
    }
    reached
}

async fn at_every_commit(fault: CommitFault) {
    for work in ALL {
        let mut nth = 1;
        while cut_off_at(work, nth, fault).await {
            nth += 1;
        }
        assert!(nth > 1, "{work:?} has a write that was cut off");
    }
}

#[tokio::test]
async fn what_comes_to_light_at_the_next_start_never_leaves_a_vault_without_a_quorum() {
    at_every_commit(CommitFault::UnknownAndLater).await;
}

#[tokio::test]
async fn what_was_lost_without_a_word_never_leaves_a_vault_without_a_quorum() {
    at_every_commit(CommitFault::UnknownAndLost).await;
}

#[tokio::test]
async fn what_was_applied_without_a_word_never_leaves_a_vault_without_a_quorum() {
    at_every_commit(CommitFault::UnknownAndApplied).await;
}

#[tokio::test]
async fn what_the_store_refused_never_leaves_a_vault_without_a_quorum() {
    at_every_commit(CommitFault::Unavailable).await;
}

#[tokio::test]
async fn power_that_goes_at_a_write_never_leaves_a_vault_without_a_quorum() {
    at_every_commit(CommitFault::StuckAndLost).await;
    at_every_commit(CommitFault::StuckAndApplied).await;
}
