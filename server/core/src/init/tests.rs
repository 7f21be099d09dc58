//! An init that something goes wrong with leaves nothing behind, and hands nothing out that is not on record.

use std::time::Duration;

use keystead_storage::fault::CommitFault;
use keystead_storage::{Range, Storage};

use super::*;
use crate::testing::Blank;

/// Nothing of a vault is in store and token, and one can be made there.
async fn assert_unmade(blank: &Blank, what: &str) {
    assert!(blank.token.keys.lock().unwrap().is_empty(), "{what}");
    let snapshot = blank.store.snapshot().await.unwrap();
    for space in Keyspace::ALL.into_iter().filter(|space| *space != Keyspace::Meta) {
        assert!(snapshot.range(space, Range::all(None), 1).await.unwrap().is_empty(), "{what}: {space}");
    }
    drop(snapshot);
    blank.again().init(TokenLoss::Accepted).await.unwrap();
}

#[tokio::test]
async fn a_log_that_takes_nothing_keeps_the_first_key_from_being_made() {
    let blank = Blank::new();
    blank.vault.audit().close();
    let refused = blank.init(TokenLoss::Accepted).await.err().unwrap();
    assert_eq!(refused.reason(), "AUDIT_UNAVAILABLE");
    assert_eq!(blank.token.logins.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_unmade(&blank, "before").await;
}

/// Inits while the log is closed as soon as the one commit is under way.
#[tokio::test]
async fn a_vault_whose_making_is_not_on_record_is_unmade_and_its_shares_stay_inside() {
    let blank = Blank::new();
    blank.faults.delay_commits(Duration::from_millis(200));
    let closing = async {
        while blank.faults.commits() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        blank.vault.audit().close();
    };
    let (made, ()) = tokio::join!(blank.init(TokenLoss::Accepted), closing);
    assert_eq!(made.err().unwrap().reason(), "AUDIT_UNAVAILABLE");
    assert!(blank.faults.commits() > 1, "it was made, and taken back");
    assert_unmade(&blank, "between").await;
}

#[tokio::test]
async fn a_vault_that_the_store_does_not_take_leaves_nothing_behind() {
    for fault in [
        CommitFault::Full,
        CommitFault::Unavailable,
        CommitFault::UnknownAndLost,
        CommitFault::UnknownAndApplied,
    ] {
        let blank = Blank::new();
        blank.faults.on_commit(1, fault);
        blank.init(TokenLoss::Accepted).await.err().unwrap();
        assert!(blank.logged().contains("system:init"), "{fault:?}");
        assert_unmade(&blank, &format!("{fault:?}")).await;
    }
}

#[tokio::test]
async fn after_the_power_went_at_its_one_write_there_is_no_vault_or_one_that_is_said_to_be_there() {
    for (fault, there) in [(CommitFault::StuckAndLost, false), (CommitFault::StuckAndApplied, true)] {
        let blank = Blank::new();
        blank.faults.on_commit(1, fault);
        let power_goes = async {
            while !blank.faults.is_stuck() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = blank.init(TokenLoss::Accepted) => panic!("it was stuck"),
            () = power_goes => {}
        }
        // A real token keeps them under the tag of a vault that nobody has.
        blank.token.keys.lock().unwrap().clear();
        let again = blank.again().init(TokenLoss::Accepted).await.map(|made| made.shares.len());
        // Its shares went with the power: the store is to be emptied, which is for a person to say.
        let reason = again.as_ref().err().map(VaultError::reason);
        assert_eq!((again.is_ok(), reason), (!there, there.then_some("ALREADY_INITIALIZED")));
    }
}

#[tokio::test]
async fn a_vault_whose_operator_hung_up_is_unmade_and_that_is_on_record() {
    let blank = Blank::new();
    blank.faults.delay_commits(Duration::from_millis(100));
    let under_way = async {
        while blank.faults.commits() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        made = blank.init(TokenLoss::Accepted) => panic!("too quick: {:?}", made.err()),
        () = under_way => {}
    }
    for _ in 0..200 {
        if blank.logged().contains("system:unmake") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(blank.logged().contains("system:unmake"));
    assert_unmade(&blank, "hung up").await;
}

#[tokio::test]
async fn a_statement_that_the_vendor_backs_the_token_up_is_enough_and_on_record() {
    let blank = Blank::new();
    let made = blank.init(TokenLoss::BackedUp("two cards in the safe".to_owned())).await.unwrap();
    assert_eq!(made.shares.len(), 3);
    assert!(blank.logged().contains("backed up: two cards in the safe"));
}
