//! Vaults whose tokens are lost, over tokens in memory: what a recovery comes to, and that it comes to the same when it is
//! cut off anywhere.

use std::sync::Mutex;
use std::time::Duration;

use keystead_crypto::envelope::WrappedDataKey;
use keystead_crypto::recovery::RecoveryRecipient;
use keystead_crypto::seal_record::QBox;
use keystead_crypto::share::ShareError;
use keystead_domain::policy::Resource;
use keystead_storage::Storage;
use keystead_storage::fault::CommitFault;

use super::*;
use crate::operation;
use crate::request::SystemPermit;
use crate::rotation::{RotationOptions, Stretch};
use crate::testing::Bench;

const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
const NAME: &str = "recovery:e669ae85e3185682";

enum Test {}

fn identity() -> RecoveryIdentity {
    RecoveryIdentity::parse(&SecretBytes::copy_from(IDENTITY.as_bytes())).unwrap()
}

fn asked(bench: &Bench) -> Recover {
    Recover {
        shares: bench.shares(2),
        identity: identity(),
        pin: SecretBytes::copy_from(b"1234"),
        quorum: None,
        leave_behind: false,
    }
}

/// Keeps what it is given, unless it shall not.
#[derive(Default)]
struct Keeper {
    refuses: bool,
    kept: Mutex<Vec<Share>>,
    left: Mutex<Vec<String>>,
    last: Mutex<Option<Moved>>,
}

impl Keeper {
    fn kept(&self) -> Vec<Share> {
        std::mem::take(&mut *self.kept.lock().unwrap())
    }
}

impl Witness for Keeper {
    fn moved(&self, progress: &Moved) {
        *self.last.lock().unwrap() = Some(*progress);
    }

    fn left_behind(&self, data_key: &str, why: &'static str) {
        self.left.lock().unwrap().push(format!("{data_key}: {why}"));
    }

    fn keep(&self, seal: NewSeal<'_>) -> Result<(), String> {
        if self.refuses {
            return Err("no room".to_owned());
        }
        let header = SealRecord::decode(seal.record).unwrap().verify().unwrap();
        for share in seal.shares {
            header.check_share(share).unwrap();
            self.kept.lock().unwrap().push(Share::parse(share.to_text().expose()).unwrap());
        }
        Ok(())
    }
}

fn paths(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("dir/{number}")).collect()
}

/// A vault with secrets, and a recovery key that opens all of them.
async fn with_recovery_key(secrets: usize) -> Bench {
    let system_key_age = Duration::from_secs(3600);
    let options =
        RotationOptions { max_rewraps_per_second: 1_000_000, system_key_age, ..RotationOptions::default() };
    let bench = Bench::open(&["one"], options).await;
    for path in paths(secrets) {
        bench.put(&path).await.unwrap();
    }
    let (open, key) = (bench.opened(), bench.unseal_key());
    let recipient = RecoveryRecipient::parse(RECIPIENT).unwrap();
    let job = |permit: SystemPermit<Test>| {
        let (open, key, recipient) = (open.clone(), &key, &recipient);
        async move { open.join_recovery(&permit, key, recipient).await }
    };
    operation::run_job(&open, "test", Resource::System, Vec::new(), job).await.unwrap();
    assert_eq!(look_after(&bench).await, Stretch::Clean);
    bench
}

/// What the server's tasks do.
async fn look_after(bench: &Bench) -> Stretch {
    let open = bench.opened();
    let stretch = loop {
        match open.rewrap(&open).await.unwrap() {
            Stretch::More => {}
            stretch => break stretch,
        }
    };
    open.end_rotation().await.unwrap();
    open.upkeep().await.unwrap();
    stretch
}

async fn all_read(bench: &Bench, secrets: usize) {
    for path in paths(secrets) {
        assert!(bench.reads(&path).await.unwrap(), "{path}");
    }
}

async fn seal_revision(bench: &Bench) -> keystead_storage::Revision {
    let snapshot = bench.store.snapshot().await.unwrap();
    snapshot.get(Keyspace::Seal, &keyspace::seal_record()).await.unwrap().unwrap().revision
}

#[tokio::test]
async fn a_vault_without_its_token_opens_with_new_shares_on_another_and_lost_wraps_go() {
    let mut bench = with_recovery_key(5).await;
    bench.lose_tokens("two");
    let keeper = Keeper::default();
    let asked = Recover { quorum: Some(Quorum::new(2, 4).unwrap()), ..asked(&bench) };
    let recovered = bench.vault.recover(&asked, &keeper).await.unwrap();
    assert_eq!((recovered.token.as_str(), recovered.master_version, recovered.epoch), ("two", 1, 2));
    assert_eq!((recovered.moved.left_behind, recovered.moved.wrapped), (0, recovered.moved.looked));
    assert!(recovered.unrecorded.is_none() && keeper.last.lock().unwrap().is_some());

    let new = keeper.kept();
    assert_eq!(new.len(), 4);
    let former = bench.hold(new);
    let refused = bench.enter(&former[0]).await;
    let epochs = ShareError::OtherEpoch { share: 1, expected: 2 };
    assert!(matches!(&refused, Err(VaultError::Share(error)) if *error == epochs), "{refused:?}");
    bench.unseal().await.unwrap();
    all_read(&bench, 5).await;
    bench.put("later").await.unwrap();
    assert_eq!(look_after(&bench).await, Stretch::Clean);
    let wanted = [("two".to_owned(), 1, 1), (NAME.to_owned(), 0, 1)];
    for mut wraps in bench.wraps().await {
        wraps.sort_by_key(|(way, ..)| way != "two");
        assert_eq!(wraps, wanted);
    }
    bench.restart().await;
    all_read(&bench, 5).await;
    assert!(bench.reads("later").await.unwrap());
    let masters = bench.opened().key_report().await.unwrap().masters;
    let lost = masters.iter().find(|key| key.way == "one").unwrap();
    assert!(lost.superseded.is_some(), "{masters:?}");

    // The recovery key recovers it once more.
    bench.lose_tokens("three");
    let again = Recover { shares: bench.shares(2), ..asked };
    assert_eq!(bench.vault.recover(&again, &keeper).await.unwrap().epoch, 3);
    bench.hold(keeper.kept());
    bench.unseal().await.unwrap();
    all_read(&bench, 5).await;
}

#[tokio::test]
async fn what_a_former_q_seals_still_is_recovered_with_it() {
    let mut bench = with_recovery_key(3).await;
    let (open, key) = (bench.opened(), bench.unseal_key());
    let job = |permit: SystemPermit<Test>| {
        let (open, key) = (open.clone(), &key);
        async move { open.renew_q(&permit, key).await }
    };
    operation::run_job(&open, "test", Resource::System, Vec::new(), job).await.unwrap();
    bench.put("under/new-q").await.unwrap();
    drop(open);
    bench.lose_tokens("two");
    let keeper = Keeper::default();
    bench.vault.recover(&asked(&bench), &keeper).await.unwrap();
    bench.hold(keeper.kept());
    bench.unseal().await.unwrap();
    all_read(&bench, 3).await;
    assert!(bench.reads("under/new-q").await.unwrap());
    assert_eq!(look_after(&bench).await, Stretch::Clean);
    assert!(bench.wraps().await.iter().flatten().all(|(way, _, q)| way != "one" && *q == 2));
    bench.restart().await;
    all_read(&bench, 3).await;
}

#[tokio::test]
async fn one_power_of_the_two_is_not_enough() {
    let mut bench = with_recovery_key(1).await;
    bench.lose_tokens("two");
    let before = seal_revision(&bench).await;
    let keeper = Keeper::default();
    let one = Recover { shares: bench.shares(1), ..asked(&bench) };
    let refused = bench.vault.recover(&one, &keeper).await.unwrap_err();
    assert_eq!(refused.reason(), "SHARE_TOO_FEW");
    let mut twice = asked(&bench);
    twice.shares = bench.shares(1);
    twice.shares.extend(bench.shares(1));
    assert_eq!(bench.vault.recover(&twice, &keeper).await.unwrap_err().reason(), "SHARE_DUPLICATE");

    // As `age-keygen` makes one; it is nobody's.
    let text = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    let stranger = RecoveryIdentity::parse(&SecretBytes::copy_from(text.as_bytes())).unwrap();
    let other = Recover { identity: stranger, ..asked(&bench) };
    let refused = bench.vault.recover(&other, &keeper).await.unwrap_err();
    let RecoverError::OtherIdentity { known, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!(known, &[NAME]);
    assert!(bench.tokens[0].masters().is_empty(), "no key was made");
    assert_eq!(seal_revision(&bench).await, before);
    assert_eq!(bench.vault.parts.audit.size(), 0, "nothing was begun");

    let pin = Recover { pin: SecretBytes::copy_from(b"4321"), ..asked(&bench) };
    assert_eq!(bench.vault.recover(&pin, &keeper).await.unwrap_err().reason(), "HSM_PIN_REFUSED");
    assert_eq!(bench.vault.parts.audit.size(), 2, "an intent and its outcome");
}

#[tokio::test]
async fn a_token_that_has_the_keys_is_not_lost() {
    let mut bench = with_recovery_key(1).await;
    bench.kill();
    let refused = bench.vault.recover(&asked(&bench), &Keeper::default()).await.unwrap_err();
    assert!(matches!(refused, RecoverError::TokenNotLost { .. }), "{refused:?}");
    bench.unseal().await.unwrap();
    all_read(&bench, 1).await;
}

#[tokio::test]
async fn a_token_made_anew_under_its_former_serial_is_another_one() {
    let mut bench = with_recovery_key(4).await;
    bench.lose_tokens("one");
    let keeper = Keeper::default();
    let recovered = bench.vault.recover(&asked(&bench), &keeper).await.unwrap();
    assert_eq!(recovered.master_version, 2, "no version has two keys");
    bench.hold(keeper.kept());
    bench.unseal().await.unwrap();
    all_read(&bench, 4).await;
    assert_eq!(look_after(&bench).await, Stretch::Clean);
}

/// Takes the recovery wrap off one secret's data key; answers its id.
async fn without_recovery_wrap(bench: &Bench) -> String {
    let snapshot = bench.store.snapshot().await.unwrap();
    let system = snapshot.range(Keyspace::SystemKeys, Range::all(None), 10).await.unwrap();
    let all = snapshot.range(Keyspace::DataKeys, Range::all(None), 100).await.unwrap();
    let of_secret = |key: &[u8]| system.iter().all(|(id, _)| id.as_ref() != key);
    let (key, stored) = all.iter().find(|(key, _)| of_secret(key.as_ref())).unwrap();
    let mut wrapped = WrappedDataKey::decode(&stored.value).unwrap();
    assert_eq!(wrapped.drop_wraps(|wrap| wrap.token == NAME), 1);
    let mut batch = Batch::new();
    batch.put(Keyspace::DataKeys, key.to_vec(), wrapped.encode());
    bench.store.commit(batch).await.unwrap();
    data_encoding::HEXLOWER.encode(key)
}

#[tokio::test]
async fn a_data_key_that_the_recovery_key_does_not_open_stops_it_unless_it_is_given_up() {
    let mut bench = with_recovery_key(4).await;
    let lost = without_recovery_wrap(&bench).await;
    bench.lose_tokens("two");
    let before = seal_revision(&bench).await;
    let keeper = Keeper::default();
    let refused = bench.vault.recover(&asked(&bench), &keeper).await.unwrap_err();
    assert!(matches!(refused, RecoverError::LeftBehind { count: 1 }), "{refused:?}");
    assert_eq!(*keeper.left.lock().unwrap(), [format!("{lost}: it has no recovery wrap")]);
    assert!(seal_revision(&bench).await == before && keeper.kept().is_empty());

    bench.kill();
    let given_up = Recover { leave_behind: true, ..asked(&bench) };
    let recovered = bench.vault.recover(&given_up, &keeper).await.unwrap();
    assert_eq!((recovered.moved.wrapped, recovered.moved.left_behind), (0, 1), "the others were moved");
    bench.hold(keeper.kept());
    bench.unseal().await.unwrap();
    let mut read = 0;
    for path in paths(4) {
        match bench.reads(&path).await {
            Ok(same) => read += usize::from(same),
            Err(error) => assert_eq!(error.reason(), "RECORD_CORRUPT"),
        }
    }
    assert_eq!(read, 3);
    assert_eq!(look_after(&bench).await, Stretch::Left);
}

#[tokio::test]
async fn shares_that_cannot_be_kept_never_count() {
    let mut bench = with_recovery_key(1).await;
    bench.lose_tokens("two");
    let before = seal_revision(&bench).await;
    let keeper = Keeper { refuses: true, ..Keeper::default() };
    let refused = bench.vault.recover(&asked(&bench), &keeper).await.unwrap_err();
    assert!(matches!(&refused, RecoverError::NotKept(why) if why == "no room"), "{refused:?}");
    assert_eq!(seal_revision(&bench).await, before);
    let epochs = bench.tokens[0].keys.lock().unwrap();
    assert!(epochs.keys().all(|key| key.purpose != HsmKeyPurpose::Epoch), "the epoch key went");
}

#[tokio::test]
async fn a_vault_that_opened_by_itself_does_so_no_more() {
    let mut bench = with_recovery_key(1).await;
    let sealed = keystead_crypto::ports::HsmSealed { mechanism: 1, iv: vec![0; 12], ciphertext: vec![0; 48] };
    let boxes = keystead_crypto::auto_seal::AutoBoxes {
        token: "one".to_owned(),
        q: vec![QBox { version: 1, sealed }],
    };
    let auto = AutoSeal { version: 1, boxes: vec![boxes] };
    let mut batch = Batch::new();
    batch.put(Keyspace::Seal, keyspace::seal_auto(), auto.encode());
    bench.store.commit(batch).await.unwrap();
    bench.lose_tokens("two");
    assert_eq!(bench.vault.status().await.unwrap().powers, 1);
    let keeper = Keeper::default();
    bench.vault.recover(&asked(&bench), &keeper).await.unwrap();
    assert_eq!(bench.vault.status().await.unwrap().powers, 2);
    bench.hold(keeper.kept());
    bench.unseal().await.unwrap();
    bench.opened().upkeep().await.unwrap();
    assert!(auto_unseal::load(bench.store.as_ref()).await.unwrap().is_none());
}

/// More than two batches of data keys.
const MANY: usize = 45;

/// How a write may be cut off.
const CUTS: [CommitFault; 4] = [
    CommitFault::UnknownAndLost,
    CommitFault::UnknownAndApplied,
    CommitFault::UnknownAndLater,
    CommitFault::Unavailable,
];

/// Recovers with one commit failing, and goes on as after a crash until it is done. Says whether that commit was reached.
/// With `blind`, nothing can be read from then on either.
async fn recovery_with(nth: u64, fault: CommitFault, blind: bool) -> bool {
    let mut bench = with_recovery_key(MANY).await;
    bench.lose_tokens("two");
    bench.faults.on_commit(nth, fault);
    if blind {
        bench.faults.on_reads_after_commits(nth);
    }
    let keeper = Keeper::default();
    let first = bench.vault.recover(&asked(&bench), &keeper).await;
    let reached = bench.faults.commits() >= nth;
    bench.kill();
    let epoch = bench.vault.status().await.unwrap().header.unwrap().0.epoch;
    let kept = keeper.kept();
    if epoch == 1 {
        assert!(first.is_err());
        let second = bench.vault.recover(&asked(&bench), &keeper).await.unwrap();
        assert!(second.moved.wrapped <= second.moved.looked);
        if nth > 4 {
            assert!(second.moved.wrapped < second.moved.looked, "it went on: {second:?}, {nth}, {fault:?}");
        }
        bench.hold(keeper.kept());
    } else {
        assert!(first.is_ok() || matches!(first, Err(RecoverError::PerhapsDone(_))), "{first:?}");
        bench.hold(kept);
    }
    bench.unseal().await.unwrap();
    all_read(&bench, MANY).await;
    assert_eq!(look_after(&bench).await, Stretch::Clean);
    for wraps in bench.wraps().await {
        assert_eq!(wraps.len(), 2, "{wraps:?}");
    }
    assert_eq!(bench.tokens[0].masters().len(), 1, "what a run that was cut off left is destroyed");
    bench.restart().await;
    all_read(&bench, 3).await;
    reached
}

#[tokio::test]
async fn a_recovery_cut_off_at_any_write_goes_on_after_it() {
    for fault in CUTS {
        let mut nth = 1;
        while recovery_with(nth, fault, false).await {
            nth += 1;
        }
        assert!(nth > 7, "every write of a recovery was cut off, {nth} of them");
    }
}

#[tokio::test]
async fn a_recovery_of_which_nobody_can_see_what_became_of_it_takes_nothing_back() {
    for fault in [CommitFault::UnknownAndApplied, CommitFault::UnknownAndLater] {
        let mut nth = 1;
        while recovery_with(nth, fault, true).await {
            nth += 1;
        }
        assert!(nth > 7, "every write of a recovery was cut off, {nth} of them");
    }
}
