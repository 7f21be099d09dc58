//! Rotation over tokens in memory: what it comes to, and that it comes to the same when it is cut off anywhere.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keystead_crypto::recovery::{RecoveryIdentity, RecoveryRecipient};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::policy::Resource;
use keystead_storage::fault::CommitFault;
use keystead_storage::{Batch, Keyspace, Precondition, Range, Storage, StorageError, keyspace};

use super::*;
use crate::error::VaultError;
use crate::keys::{MasterKey, NewRecord, fresh_id};
use crate::operation;
use crate::request::SystemPermit;
use crate::testing::Bench;
use crate::vault::OpenVault;

const PATHS: [&str; 5] = ["a", "b/c", "b/d", "e/f/g", "h"];
const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

fn quick() -> RotationOptions {
    // Shorter than the life of the token that the tests call with.
    let system_key_age = Duration::from_secs(3600);
    RotationOptions { max_rewraps_per_second: 1_000_000, system_key_age, ..RotationOptions::default() }
}

async fn filled(serials: &[&'static str]) -> Bench {
    let bench = Bench::open(serials, quick()).await;
    for path in PATHS {
        bench.put(path).await.unwrap();
    }
    bench
}

/// What the server's task does, once.
async fn look_after(bench: &Bench) -> Result<Stretch, VaultError> {
    let open = bench.opened();
    let stretch = loop {
        match open.rewrap(&open).await? {
            Stretch::More => {}
            stretch => break stretch,
        }
    };
    open.end_rotation().await?;
    while open.look_after_system_keys().await? {}
    Ok(stretch)
}

async fn rotate(bench: &Bench) -> Result<(), VaultError> {
    operation::run(&bench.opened(), bench.context(), RotateMasterKey).await.map(drop)
}

async fn all_read(bench: &Bench) {
    for path in PATHS {
        assert!(bench.reads(path).await.unwrap(), "{path}");
    }
}

enum Test {}

/// Has a quorum add what is configured.
async fn join_token(bench: &Bench, place: usize) -> Result<String, VaultError> {
    let (open, key) = (bench.opened(), bench.unseal_key());
    let pin = SecretBytes::copy_from(b"1234");
    let job = |permit: SystemPermit<Test>| {
        let (open, key, pin) = (open.clone(), &key, &pin);
        let serial = *bench.tokens[place].serial.lock().unwrap();
        async move { open.join_token(&permit, key, serial, pin).await.map(|()| serial.to_owned()) }
    };
    operation::run_job(&open, "test", Resource::System, Vec::new(), job).await
}

async fn join_recovery(bench: &Bench) -> Result<String, VaultError> {
    let (open, key) = (bench.opened(), bench.unseal_key());
    let recipient = RecoveryRecipient::parse(RECIPIENT).unwrap();
    let job = |permit: SystemPermit<Test>| {
        let (open, key, recipient) = (open.clone(), &key, &recipient);
        async move { open.join_recovery(&permit, key, recipient).await }
    };
    operation::run_job(&open, "test", Resource::System, Vec::new(), job).await
}

async fn masters(bench: &Bench) -> Vec<MasterKey> {
    bench.opened().key_report().await.unwrap().masters
}

#[tokio::test]
async fn a_rotation_wraps_every_data_key_anew_and_then_destroys_the_old_master_key() {
    let mut bench = filled(&["one"]).await;
    let before = bench.wraps().await.len();
    rotate(&bench).await.unwrap();
    assert_eq!(bench.tokens[0].masters(), [1, 2]);
    assert!(matches!(rotate(&bench).await, Err(VaultError::RotationUnderWay)), "one at a time");
    bench.opened().end_rotation().await.unwrap();
    assert_eq!(bench.tokens[0].masters(), [1, 2], "data keys still need the old one");
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean);
    assert_eq!(bench.tokens[0].masters(), [2]);
    assert!(bench.tokens[0].could_come_back());
    let wraps = bench.wraps().await;
    assert_eq!(wraps.len(), before);
    assert!(wraps.iter().all(|wraps| *wraps == [("one".to_owned(), 2, 1)]), "{wraps:?}");
    all_read(&bench).await;
    bench.restart().await;
    all_read(&bench).await;
    let masters = masters(&bench).await;
    assert!(masters[0].destroyed.is_some() && masters[1].superseded.is_none(), "{masters:?}");
    let progress = bench.opened().rotation_progress();
    assert!(!progress.running && progress.lacking == 0);
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Idle);
}

/// How a write may be cut off.
const CUTS: [CommitFault; 4] = [
    CommitFault::UnknownAndLost,
    CommitFault::UnknownAndApplied,
    CommitFault::UnknownAndLater,
    CommitFault::Unavailable,
];

/// Rotates, with one commit failing, and goes on as after a crash until it is done.
async fn rotation_with(nth: u64, fault: CommitFault) -> bool {
    let mut bench = filled(&["one", "two"]).await;
    join_token(&bench, 1).await.unwrap();
    look_after(&bench).await.unwrap();
    let commits = bench.faults.commits();
    bench.faults.on_commit(nth, fault);
    let begun = async {
        rotate(&bench).await?;
        look_after(&bench).await
    };
    let crashed = begun.await.is_err();
    assert!(bench.tokens.iter().all(|token| token.could_come_back()), "{fault:?} at commit {nth}");
    let reached = bench.faults.commits() >= commits + nth;
    bench.restart().await;
    // Whatever was cut off, whoever asked for a rotation asks again, unless one is under way or done.
    let rotated = |bench: &Bench| bench.opened().keys.ways().master_version() > 1;
    if !rotated(&bench) {
        rotate(&bench).await.unwrap();
    }
    look_after(&bench).await.unwrap();
    for token in &bench.tokens {
        let masters = token.masters();
        let newest = *masters.last().unwrap();
        // A key that was made and never named by the seal record stays until the next rotation passes it by.
        assert!(newest >= 2 && !masters.contains(&1), "{masters:?} after {fault:?} at commit {nth}");
    }
    let header = bench.opened().keys.ways().header.clone();
    assert!(
        header.ways.iter().filter_map(|way| way.token()).all(|token| token.oldest_master == token.master)
    );
    bench.restart().await;
    all_read(&bench).await;
    for wraps in bench.wraps().await {
        assert_eq!(wraps.len(), 2, "{wraps:?} after {fault:?} at commit {nth}");
    }
    assert!(crashed || !reached || fault == CommitFault::UnknownAndApplied, "a lost commit was noticed");
    reached
}

#[tokio::test]
async fn a_rotation_cut_off_at_any_write_goes_on_after_it() {
    for fault in CUTS {
        let mut nth = 1;
        while rotation_with(nth, fault).await {
            nth += 1;
        }
        assert!(nth > 5, "every write of a rotation was cut off, {nth} of them");
    }
}

#[tokio::test]
async fn a_data_key_made_under_the_old_seal_record_cannot_appear_behind_the_pass() {
    let bench = filled(&["one"]).await;
    let open = bench.opened();
    let (id, stale) = (fresh_id(), fresh_id());
    let made = open.create_data_key(stale).await.unwrap();
    rotate(&bench).await.unwrap();
    let mut batch = Batch::new();
    made.record.put(&mut batch);
    let refused = open.commit(None, batch).await;
    assert!(matches!(refused, Err(VaultError::Storage(StorageError::Conflict { .. }))), "{refused:?}");
    let mut batch = Batch::new();
    open.create_data_key(id).await.unwrap().record.put(&mut batch);
    open.commit(None, batch).await.unwrap();
    bench.put("later").await.unwrap();
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean);
    assert!(bench.reads("later").await.unwrap());
}

#[tokio::test]
async fn a_new_q_seals_every_data_key_anew_and_the_former_is_given_up() {
    let mut bench = filled(&["one"]).await;
    join_recovery(&bench).await.unwrap();
    let (open, key) = (bench.opened(), bench.unseal_key());
    let job = |permit: SystemPermit<Test>| {
        let (open, key) = (open.clone(), &key);
        async move { open.renew_q(&permit, key).await }
    };
    assert_eq!(operation::run_job(&open, "test", Resource::System, Vec::new(), job).await.unwrap(), 2);
    bench.put("between").await.unwrap();
    bench.restart().await;
    all_read(&bench).await;
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean);
    assert!(bench.wraps().await.iter().flatten().all(|(_, _, q)| *q == 2));
    assert_eq!(bench.opened().keys.ways().header.former_q_version, None);
    bench.restart().await;
    all_read(&bench).await;
    assert!(bench.reads("between").await.unwrap());
    assert_eq!(bench.opened().keys.ways().qs().len(), 1, "the former Q is nowhere any more");
}

#[tokio::test]
async fn a_second_token_and_a_recovery_recipient_get_every_data_key_and_open_it() {
    let mut bench = filled(&["one", "two"]).await;
    assert_eq!(join_token(&bench, 1).await.unwrap(), "two");
    let name = join_recovery(&bench).await.unwrap();
    assert!(join_token(&bench, 1).await.is_err() && join_recovery(&bench).await.is_err(), "once is enough");
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean);
    for wraps in bench.wraps().await {
        let names: Vec<_> = wraps.iter().map(|(way, ..)| way.as_str()).collect();
        assert_eq!(names, ["one", "two", name.as_str()]);
    }
    // The first token is lost: the second opens the vault and reads.
    bench.kill();
    bench.tokens[0].away.store(true, Ordering::SeqCst);
    bench.unseal().await.unwrap();
    all_read(&bench).await;
    let alarms = bench.opened().look_for_key_alarms().await.unwrap();
    assert!(matches!(alarms.as_slice(), [Alarm::TokenAway { .. }]), "{alarms:?}");
    // Every token is lost: identity and Q open what is stored.
    let identity = RecoveryIdentity::parse(&SecretBytes::copy_from(IDENTITY.as_bytes())).unwrap();
    let open = bench.opened();
    let snapshot = bench.store.snapshot().await.unwrap();
    for (key, stored) in snapshot.range(Keyspace::DataKeys, Range::all(None), 100).await.unwrap() {
        let record = keystead_crypto::envelope::WrappedDataKey::decode(&stored.value).unwrap();
        let aad = open.keys.aad(keystead_crypto::aad::label::DATA_KEY, Keyspace::DataKeys, &key, 0);
        record.open_recovery(&identity, &open.keys.ways().qs(), &aad).unwrap();
    }
}

#[tokio::test]
async fn a_vault_moves_to_another_token_while_it_is_open() {
    let mut bench = filled(&["one", "two"]).await;
    join_token(&bench, 1).await.unwrap();
    let retire = |way: &str| RetireWay { way: way.to_owned() };
    let early = operation::run(&bench.opened(), bench.context(), retire("one")).await;
    assert!(matches!(early, Err(VaultError::RotationUnderWay)), "data keys have no other way yet");
    look_after(&bench).await.unwrap();
    operation::run(&bench.opened(), bench.context(), retire("one")).await.unwrap();
    assert!(operation::run(&bench.opened(), bench.context(), retire("two")).await.is_err(), "the only one");
    bench.put("moved").await.unwrap();
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean);
    assert!(bench.wraps().await.iter().all(|wraps| *wraps == [("two".to_owned(), 1, 1)]));
    bench.tokens.remove(0);
    bench.restart().await;
    all_read(&bench).await;
    assert!(bench.reads("moved").await.unwrap());
}

#[tokio::test]
async fn what_a_token_missed_while_it_was_away_is_made_up_for() {
    let mut bench = filled(&["one", "two"]).await;
    join_token(&bench, 1).await.unwrap();
    look_after(&bench).await.unwrap();
    bench.tokens[1].away.store(true, Ordering::SeqCst);
    bench.put("missed").await.unwrap();
    assert!(bench.wraps().await.iter().any(|wraps| wraps.len() == 1));
    // The mark is in the store: a crash forgets nothing.
    bench.restart().await;
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Left);
    assert!(matches!(rotate(&bench).await, Err(VaultError::TokenAway { .. })), "each token needs a new key");
    bench.tokens[1].away.store(false, Ordering::SeqCst);
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Idle, "not over and over");
    bench.opened().upkeep().await.unwrap();
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean);
    assert!(bench.wraps().await.iter().all(|wraps| wraps.len() == 2));
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Idle);
}

/// A vault of two tokens with a data key that lacks the second, which is back, and another that is on its way.
async fn with_gaps() -> (Bench, NewRecord) {
    let bench = filled(&["one", "two"]).await;
    join_token(&bench, 1).await.unwrap();
    look_after(&bench).await.unwrap();
    bench.tokens[1].away.store(true, Ordering::SeqCst);
    bench.put("missed").await.unwrap();
    let late = bench.opened().create_data_key(fresh_id()).await.unwrap().record;
    bench.tokens[1].away.store(false, Ordering::SeqCst);
    bench.opened().upkeep().await.unwrap();
    (bench, late)
}

fn put(open: &OpenVault, late: NewRecord) {
    let mut batch = Batch::new();
    late.put(&mut batch);
    futures::executor::block_on(open.commit(None, batch)).unwrap();
}

#[tokio::test]
async fn a_data_key_that_lacks_a_way_and_comes_after_the_pass_is_made_up_for() {
    let (bench, late) = with_gaps().await;
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean);
    put(&bench.opened(), late);
    assert!(!bench.opened().pass_is_clean().await.unwrap(), "nothing may be given up");
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean);
    assert!(bench.wraps().await.iter().all(|wraps| wraps.len() == 2));
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Idle);
}

#[tokio::test]
async fn a_data_key_that_lacks_a_way_and_comes_behind_the_pass_is_made_up_for() {
    /// Commits while the pass has read its page.
    struct Behind(OpenVault, Mutex<Option<NewRecord>>);
    impl Beside for Behind {
        fn closing(&self) -> bool {
            false
        }
        fn inside(&self) -> usize {
            if let Some(late) = self.1.lock().unwrap().take() {
                put(&self.0, late);
            }
            0
        }
    }
    let (bench, late) = with_gaps().await;
    let behind = Behind(bench.opened(), Mutex::new(Some(late)));
    assert_eq!(behind.0.rewrap(&behind).await.unwrap(), Stretch::Left);
    assert!(!bench.opened().pass_is_clean().await.unwrap(), "nothing may be given up");
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean, "at once");
    assert!(bench.wraps().await.iter().all(|wraps| wraps.len() == 2));
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Idle);
}

#[tokio::test]
async fn a_pin_that_a_further_token_refused_is_not_sent_again() {
    let mut bench = filled(&["one", "two"]).await;
    join_token(&bench, 1).await.unwrap();
    look_after(&bench).await.unwrap();
    bench.tokens[1].refuse_pin.store(true, Ordering::SeqCst);
    let before = bench.tokens[1].logins.load(Ordering::SeqCst);
    bench.restart().await;
    for _ in 0..5 {
        bench.opened().upkeep().await.unwrap();
    }
    assert_eq!(bench.tokens[1].logins.load(Ordering::SeqCst), before + 1);
    all_read(&bench).await;
}

#[tokio::test]
async fn a_malformed_record_is_named_and_keeps_the_old_keys_until_it_is_mended() {
    for restored in [false, true] {
        let bench = filled(&["one"]).await;
        let snapshot = bench.store.snapshot().await.unwrap();
        let page = snapshot.range(Keyspace::DataKeys, Range::all(None), 1).await.unwrap();
        let (id, whole) = (page[0].0.to_vec(), page[0].1.value.to_vec());
        let put = async |value: Option<Vec<u8>>| {
            let mut batch = Batch::new();
            match value {
                Some(value) => _ = batch.put(Keyspace::DataKeys, id.clone(), value),
                None => _ = batch.delete(Keyspace::DataKeys, id.clone()),
            }
            bench.store.commit(batch).await.unwrap();
        };
        put(Some(b"KSDK rubbish".to_vec())).await;
        rotate(&bench).await.unwrap();
        assert_eq!(look_after(&bench).await.unwrap(), Stretch::Left);
        assert_eq!(bench.tokens[0].masters(), [1, 2], "its copy in a backup needs the old one");
        let open = bench.opened();
        assert_eq!(open.rotation_progress().malformed, [data_encoding::HEXLOWER.encode(&id)]);
        let alarms = open.look_for_key_alarms().await.unwrap();
        assert!(alarms.contains(&Alarm::Malformed { data_keys: 1 }), "{alarms:?}");
        put(restored.then_some(whole)).await;
        bench.clock.advance(Duration::from_secs(60));
        assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean);
        assert_eq!(bench.tokens[0].masters(), [2]);
        assert_eq!(open.look_for_key_alarms().await.unwrap(), [], "it was mended");
    }
}

#[tokio::test]
async fn a_data_key_whose_master_key_is_gone_is_named_and_keeps_no_other_from_going_on() {
    let bench = filled(&["one"]).await;
    let snapshot = bench.store.snapshot().await.unwrap();
    let all = snapshot.range(Keyspace::DataKeys, Range::all(None), 100).await.unwrap();
    let system = snapshot.range(Keyspace::SystemKeys, Range::all(None), 10).await.unwrap();
    let (id, old) = all.iter().find(|(id, _)| system.iter().all(|(of_system, _)| of_system != id)).unwrap();
    rotate(&bench).await.unwrap();
    look_after(&bench).await.unwrap();
    // A record from an old backup, under a master key that was destroyed since.
    let mut batch = Batch::new();
    batch.put(Keyspace::DataKeys, id.to_vec(), old.value.clone());
    bench.store.commit(batch).await.unwrap();
    rotate(&bench).await.unwrap();
    let system_key = system_keys(&bench);
    bench.clock.advance(quick().system_key_age);
    let open = bench.opened();
    open.look_after_keys(&open).await.unwrap();
    let stale: Vec<_> = bench.wraps().await.into_iter().filter(|wraps| wraps[0].1 != 3).collect();
    assert_eq!(stale, [[("one".to_owned(), 1, 1)]], "all others were wrapped anew");
    assert_eq!(bench.tokens[0].masters(), [2, 3], "nothing is given up before it is mended");
    assert_ne!(system_keys(&bench), system_key, "system keys do not wait for it");
    let alarms = open.look_for_key_alarms().await.unwrap();
    let [Alarm::Lacking { data_keys: 1, named }] = alarms.as_slice() else { panic!("{alarms:?}") };
    assert_eq!(named[0].0, data_encoding::HEXLOWER.encode(id));
    assert!(named[0].1.contains("found 0") && alarms[0].text().contains(&named[0].0), "{named:?}");
}

#[tokio::test]
async fn a_token_that_goes_away_during_the_pass_makes_no_data_key_lack_anything() {
    let bench = filled(&["one"]).await;
    rotate(&bench).await.unwrap();
    bench.tokens[0].away.store(true, Ordering::SeqCst);
    let open = bench.opened();
    open.rewrap(&open).await.unwrap_err();
    assert_eq!(open.rotation_progress().lacking, 0);
    bench.tokens[0].away.store(false, Ordering::SeqCst);
    open.upkeep().await.unwrap();
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Clean);
}

#[tokio::test]
async fn a_pass_that_cannot_go_on_keeps_no_system_key_from_being_replaced() {
    let bench = filled(&["one"]).await;
    rotate(&bench).await.unwrap();
    look_after(&bench).await.unwrap();
    let mut bench = bench;
    let mut batch = Batch::new();
    batch.put(Keyspace::Meta, keyspace::meta_rewrap(), b"rubbish".to_vec());
    bench.store.commit(batch).await.unwrap();
    bench.restart().await;
    let old = bench.opened().keys.systems().current;
    bench.clock.advance(quick().system_key_age);
    let open = bench.opened();
    open.look_after_keys(&open).await.unwrap_err();
    assert_ne!(open.keys.systems().current, old);
}

#[tokio::test]
async fn a_record_that_opens_through_no_way_keeps_the_old_master_key() {
    let bench = filled(&["one"]).await;
    let snapshot = bench.store.snapshot().await.unwrap();
    let page = snapshot.range(Keyspace::DataKeys, Range::all(None), 2).await.unwrap();
    let mut batch = Batch::new();
    // One record in the place of another: well-formed, and not authentic there.
    batch.put(Keyspace::DataKeys, page[0].0.clone(), page[1].1.value.clone());
    bench.store.commit(batch).await.unwrap();
    rotate(&bench).await.unwrap();
    assert_eq!(look_after(&bench).await.unwrap(), Stretch::Left);
    assert_eq!(bench.tokens[0].masters(), [1, 2]);
    let alarms = bench.opened().look_for_key_alarms().await.unwrap();
    assert!(
        matches!(alarms.as_slice(), [Alarm::Lacking { data_keys: 1, named }] if named.len() == 1),
        "{alarms:?}"
    );
}

#[tokio::test]
async fn wraps_are_counted_through_crashes_and_refused_at_the_bound() {
    let mut bench = filled(&["one"]).await;
    let made = bench.tokens[0].wraps.load(Ordering::SeqCst);
    let counted = masters(&bench).await[0].reserved;
    assert!(counted >= made - 1, "{counted} counted, {made} made, one of which is the box of Q");
    bench.restart().await;
    assert!(masters(&bench).await[0].reserved >= counted, "never lower than before");
    let open = bench.opened();
    let used_up = |ledger: &mut crate::keys::KeyLedger| {
        ledger.masters.0[0].reserved = MAX_WRAPS_A_VERSION;
        true
    };
    open.keys.update_ledger(open.storage.as_ref(), Batch::new(), used_up).await.unwrap();
    drop(open);
    bench.restart().await;
    let refused = bench.put("one-too-many").await;
    assert!(matches!(refused, Err(VaultError::MasterKeyUsedUp { version: 1, .. })), "{refused:?}");
    let alarms = bench.opened().look_for_key_alarms().await.unwrap();
    assert!(alarms.iter().any(|alarm| matches!(alarm, Alarm::ManyWraps { .. })), "{alarms:?}");
    all_read(&bench).await;
    rotate(&bench).await.unwrap();
    bench.put("one-too-many").await.unwrap();
}

#[tokio::test]
async fn a_ledger_of_which_nobody_could_see_whether_it_was_written_goes_on_when_somebody_can() {
    for fault in [CommitFault::UnknownAndLost, CommitFault::UnknownAndApplied] {
        let bench = filled(&["one"]).await;
        let open = bench.opened();
        let note = async |wraps: u64| {
            let change = |ledger: &mut crate::keys::KeyLedger| {
                ledger.masters.0[0].reserved += wraps;
                true
            };
            open.keys.update_ledger(open.storage.as_ref(), Batch::new(), change).await
        };
        let before = open.keys.ledger().await.masters.0[0].reserved;
        bench.faults.on_commit(1, fault);
        bench.faults.on_reads_after_commits(1);
        let unknown = note(1).await;
        assert!(
            matches!(unknown, Err(VaultError::Storage(StorageError::UnknownOutcome { .. }))),
            "{unknown:?}"
        );
        note(1).await.unwrap_err();
        bench.faults.on_reads(false);
        note(2).await.unwrap();
        let noted = if fault == CommitFault::UnknownAndApplied { 3 } else { 2 };
        assert_eq!(open.keys.ledger().await.masters.0[0].reserved, before + noted);
    }
}

#[tokio::test]
async fn an_old_master_key_raises_an_alarm_until_it_is_rotated() {
    let bench = filled(&["one"]).await;
    assert_eq!(bench.opened().look_for_key_alarms().await.unwrap(), []);
    bench.clock.advance(quick().max_age);
    let alarms = bench.opened().look_for_key_alarms().await.unwrap();
    assert_eq!(alarms, [Alarm::Overdue { way: "one".to_owned(), version: 1 }]);
    assert_eq!(bench.opened().key_alarms(), alarms);
}

fn system_keys(bench: &Bench) -> Vec<[u8; 16]> {
    bench.opened().keys.systems().keys.keys().copied().collect()
}

#[tokio::test]
async fn a_system_key_is_replaced_by_age_and_its_records_are_sealed_anew() {
    let mut bench = filled(&["one"]).await;
    let old = system_keys(&bench);
    assert!(!bench.opened().look_after_system_keys().await.unwrap(), "it is young");
    bench.clock.advance(quick().system_key_age);
    look_after(&bench).await.unwrap();
    let new = system_keys(&bench);
    assert!(new.len() == 1 && new != old);
    let snapshot = bench.store.snapshot().await.unwrap();
    for space in Keyspace::ALL {
        for (_, stored) in snapshot.range(space, Range::all(None), 1000).await.unwrap() {
            assert_ne!(keystead_crypto::record::peek_key_id(&stored.value).ok(), Some(old[0]), "in {space}");
        }
    }
    all_read(&bench).await;
    bench.put("after").await.unwrap();
    bench.restart().await;
    all_read(&bench).await;
    assert!(bench.reads("after").await.unwrap());
    assert_eq!(system_keys(&bench), new);
}

#[tokio::test]
async fn a_system_key_is_replaced_by_count() {
    let options = RotationOptions { system_key_records: 40, ..quick() };
    let bench = Bench::open(&["one"], options).await;
    let old = system_keys(&bench);
    for number in 0..20 {
        bench.put(&format!("secret-{number}")).await.unwrap();
    }
    look_after(&bench).await.unwrap();
    assert_ne!(system_keys(&bench), old);
    for number in 0..20 {
        assert!(bench.reads(&format!("secret-{number}")).await.unwrap());
    }
}

#[tokio::test]
async fn a_record_sealed_under_the_old_system_key_cannot_appear_behind_the_pass() {
    let bench = filled(&["one"]).await;
    let open = bench.opened();
    let at = vec![7; 33];
    let stale = open.keys.seal_record(Keyspace::Policies, &at, b"x").unwrap();
    let mut guarded = Batch::new();
    guarded.put(Keyspace::Policies, at.clone(), stale.clone());
    open.keys.guard(&mut guarded).unwrap();
    bench.clock.advance(quick().system_key_age);
    look_after(&bench).await.unwrap();
    let conflict = |result: Result<_, VaultError>| {
        matches!(result, Err(VaultError::Storage(StorageError::Conflict { .. })))
    };
    assert!(conflict(open.storage.commit(guarded).await.map_err(VaultError::from)), "it was on its way");
    let mut late = Batch::new();
    late.require(Keyspace::Policies, at.clone(), Precondition::Absent);
    late.put(Keyspace::Policies, at, stale);
    assert!(conflict(open.commit(None, late).await), "it comes too late");
}

#[tokio::test]
async fn a_record_that_no_key_opens_keeps_the_old_system_key_and_is_told_of_once() {
    let mut bench = filled(&["one"]).await;
    let old = system_keys(&bench);
    let snapshot = bench.store.snapshot().await.unwrap();
    let stored = snapshot.range(Keyspace::SecretMeta, Range::all(None), 1).await.unwrap().remove(0).1;
    let mut batch = Batch::new();
    // Well-formed, and not authentic where it lies.
    batch.put(Keyspace::Sessions, vec![1; 33], stored.value);
    bench.store.commit(batch).await.unwrap();
    bench.clock.advance(quick().system_key_age);
    look_after(&bench).await.unwrap();
    assert!(system_keys(&bench).contains(&old[0]));
    let alarms = bench.opened().look_for_key_alarms().await.unwrap();
    assert_eq!(alarms, [Alarm::Broken { records: 1 }]);
    let entries = bench.vault.audit().size();
    look_after(&bench).await.unwrap();
    assert_eq!(bench.vault.audit().size(), entries, "nothing more is tried, and nothing recorded");
    bench.restart().await;
    look_after(&bench).await.unwrap();
    assert!(system_keys(&bench).contains(&old[0]));
    all_read(&bench).await;
}

#[tokio::test]
async fn a_record_that_no_key_opens_keeps_no_system_key_in_use_beyond_its_time() {
    let mut bench = filled(&["one"]).await;
    let snapshot = bench.store.snapshot().await.unwrap();
    let stored = snapshot.range(Keyspace::SecretMeta, Range::all(None), 1).await.unwrap().remove(0).1;
    let mut batch = Batch::new();
    batch.put(Keyspace::Sessions, vec![1; 33], stored.value);
    bench.store.commit(batch).await.unwrap();
    for round in 0..3 {
        let before = bench.opened().keys.systems().current;
        bench.clock.advance(quick().system_key_age);
        // Once more for the pass that finds, after a start, that it cannot end.
        for _ in 0..2 {
            look_after(&bench).await.unwrap();
        }
        assert_ne!(bench.opened().keys.systems().current, before, "round {round}");
        // The caller's own token has ended by now.
        bench.restart().await;
    }
    assert_eq!(system_keys(&bench).len(), 4);
    // Once it is gone, all former keys are.
    let mut batch = Batch::new();
    batch.delete(Keyspace::Sessions, vec![1; 33]);
    bench.store.commit(batch).await.unwrap();
    bench.restart().await;
    look_after(&bench).await.unwrap();
    assert_eq!(system_keys(&bench).len(), 1);
}

#[tokio::test]
async fn a_system_key_seals_nothing_beyond_its_bound() {
    let options = RotationOptions { system_key_records: u64::MAX, ..quick() };
    let mut bench = Bench::open(&["one"], options).await;
    bench.put("a").await.unwrap();
    let open = bench.opened();
    let used_up = |ledger: &mut crate::keys::KeyLedger| {
        ledger.systems[0].reserved = (1 << 32) - 10;
        true
    };
    open.keys.update_ledger(open.storage.as_ref(), Batch::new(), used_up).await.unwrap();
    drop(open);
    bench.restart().await;
    let refused = loop {
        if let Err(refused) = bench.put("b").await {
            break refused;
        }
        assert!(bench.opened().keys.systems().used() <= 1 << 32);
    };
    assert!(matches!(refused, VaultError::Contention { .. }), "{refused:?}");
    bench.opened().keys.follow_ledger(bench.store.as_ref(), bench.opened().clock.now()).await.unwrap();
    bench.put("b").await.unwrap_err();
    assert!(bench.reads("a").await.is_ok_and(|same| same), "reading goes on");
    // Another key takes its place, whatever else cannot be written; and on another day, too.
    bench.clock.advance(Duration::from_secs(2 * 3600));
    bench.options = RotationOptions { system_key_records: 1 << 32, ..quick() };
    bench.restart().await;
    let open = bench.opened();
    drop(open.look_after_keys(&open).await);
    bench.put("b").await.unwrap();
}

async fn replacement_with(nth: u64, fault: CommitFault) -> bool {
    let mut bench = filled(&["one"]).await;
    let old = system_keys(&bench);
    bench.clock.advance(quick().system_key_age);
    let commits = bench.faults.commits();
    bench.faults.on_commit(nth, fault);
    drop(look_after(&bench).await);
    let reached = bench.faults.commits() >= commits + nth;
    bench.restart().await;
    look_after(&bench).await.unwrap();
    let new = system_keys(&bench);
    assert!(new.len() == 1 && new != old, "{fault:?} at commit {nth}");
    bench.restart().await;
    all_read(&bench).await;
    bench.put("after").await.unwrap();
    reached
}

#[tokio::test]
async fn a_replacement_of_a_system_key_cut_off_at_any_write_goes_on_after_it() {
    for fault in CUTS {
        let mut nth = 1;
        while replacement_with(nth, fault).await {
            nth += 1;
        }
        assert!(nth > 5, "every write was cut off, {nth} of them");
    }
}

/// A process that lives on after a write whose outcome nobody knows.
async fn lives_on_after(nth: u64, fault: CommitFault) -> bool {
    let bench = filled(&["one"]).await;
    let old = system_keys(&bench);
    rotate(&bench).await.unwrap();
    bench.clock.advance(quick().system_key_age);
    let commits = bench.faults.commits();
    bench.faults.on_commit(nth, fault);
    drop(look_after(&bench).await);
    if bench.faults.commits() < commits + nth {
        return false;
    }
    let entries = bench.vault.audit().size();
    tokio::time::timeout(Duration::from_secs(10), look_after(&bench))
        .await
        .unwrap_or_else(|_| panic!("it goes round in circles after {fault:?} at commit {nth}"))
        .unwrap();
    assert!(bench.vault.audit().size() < entries + 20, "{fault:?} at commit {nth}");
    let new = system_keys(&bench);
    assert!(new.len() == 1 && new != old, "{fault:?} at commit {nth}");
    assert_eq!(bench.tokens[0].masters(), [2], "{fault:?} at commit {nth}");
    bench.put("after").await.unwrap();
    all_read(&bench).await;
    // The cursor of the pass is still its own.
    rotate(&bench).await.unwrap();
    look_after(&bench).await.unwrap();
    assert_eq!(bench.tokens[0].masters(), [3], "{fault:?} at commit {nth}");
    true
}

#[tokio::test]
async fn a_write_whose_outcome_is_unknown_does_not_keep_a_process_that_lives_on_from_going_on() {
    for fault in [CommitFault::UnknownAndLost, CommitFault::UnknownAndApplied] {
        let mut nth = 1;
        while lives_on_after(nth, fault).await {
            nth += 1;
        }
        assert!(nth > 5, "every write was cut off, {nth} of them");
    }
}

#[tokio::test]
async fn how_far_the_pass_is_can_be_seen_while_it_works() {
    let bench = filled(&["one"]).await;
    rotate(&bench).await.unwrap();
    let open = bench.opened();
    open.rotation.progress().running = true;
    let _a_stretch = open.rotation.pass.lock().await;
    let seen = operation::run(&open, bench.context(), GetRotation);
    let seen = tokio::time::timeout(Duration::from_secs(5), seen).await.expect("it waits for the pass");
    let seen = seen.unwrap();
    assert!(seen.running && !seen.complete, "{seen:?}");
}

#[tokio::test]
async fn destroying_a_version_says_exactly_which_keys_open_it_in_backups() {
    use crate::secrets::{DestroyVersions, Destroyed};
    use keystead_domain::path::SecretPath;
    let bench = filled(&["one"]).await;
    let destroy = async |path: &str| -> Destroyed {
        let op = DestroyVersions { path: SecretPath::parse(path).unwrap(), versions: vec![1] };
        operation::run(&bench.opened(), bench.context(), op).await.unwrap()
    };
    let named = |destroyed: &Destroyed| -> Vec<(u32, bool)> {
        destroyed.backup_keys.iter().map(|key| (key.version, key.destroyed.is_some())).collect()
    };
    assert_eq!(named(&destroy("a").await), [(1, false)]);
    bench.clock.advance(Duration::from_secs(1));
    rotate(&bench).await.unwrap();
    assert_eq!(named(&destroy("b/c").await), [(1, false)], "the pass has not reached it");
    bench.clock.advance(Duration::from_secs(1));
    bench.put("new").await.unwrap();
    look_after(&bench).await.unwrap();
    assert_eq!(named(&destroy("b/d").await), [(1, true), (2, false)]);
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(named(&destroy("new").await), [(2, false)]);
    assert_eq!(named(&destroy("a").await), [(1, true)], "asked again: no copy opens any more");
}

#[tokio::test]
async fn the_pass_stops_for_a_vault_that_closes() {
    struct Closing;
    impl Beside for Closing {
        fn closing(&self) -> bool {
            true
        }
        fn inside(&self) -> usize {
            0
        }
    }
    let bench = filled(&["one"]).await;
    rotate(&bench).await.unwrap();
    assert_eq!(bench.opened().rewrap(&Closing).await.unwrap(), Stretch::More);
    assert!(bench.wraps().await.iter().flatten().all(|(_, version, _)| *version == 1), "nothing was begun");
}
