//! The log as a whole: what is acknowledged stays, what does not fit is refused, what failed is undone.

mod crowd;
mod full_disk;
mod history;
mod quick;
mod slots;

use super::*;
use crate::entry::{Entry, StoredBody};
use crate::error::FrameFault;
use crate::fault::{Faults, FaultyDisk};
use crate::files::segment_name;
use crate::merkle::{TreeEdge, leaf_hash};
use crate::seal::{BodySealer, SealFailed};
use crate::verify::verify;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

pub(crate) fn options() -> OpenOptions {
    OpenOptions {
        reserve_bytes: 0,
        probe_interval: Duration::from_millis(5),
        sync_interval: Duration::from_millis(20),
        ..OpenOptions::new("node-1").unwrap()
    }
}

pub(crate) fn body(text: &str) -> Body {
    Body { principal: "service/shop".into(), resource: text.into(), ..Body::default() }
}

/// A sealer that panics.
struct Broken;

impl BodySealer for Broken {
    fn key_id(&self) -> [u8; 16] {
        [0; 16]
    }

    fn seal(&self, _: &[u8], _: u64, _: &[u8]) -> Result<Vec<u8>, SealFailed> {
        panic!("a fault in the sealer")
    }
}

fn record(log: &AuditLog, text: &str, durability: Durability) -> Result<u64, AuditError> {
    log.reserve().unwrap().record_clear(EntryKind::Read, UnixMillis(1), body(text), durability).wait()
}

fn filled(dir: &Path, count: u64) -> Head {
    let log = AuditLog::open(dir, options()).unwrap();
    for n in 0..count {
        assert_eq!(record(&log, &format!("entry {n}"), Durability::Fsync).unwrap(), n);
    }
    log.head()
}

fn resources(entries: Reader) -> Vec<String> {
    entries.map(|entry| entry.unwrap().open(None).unwrap().resource).collect()
}

/// A log on a disk that fails on command.
fn faulty(dir: &Path, options: OpenOptions) -> (AuditLog, Arc<Mutex<Faults>>) {
    let faults = Arc::new(Mutex::new(Faults::default()));
    let shared = Arc::clone(&faults);
    let current = dir.join(segment_name(0));
    let log =
        AuditLog::open_on(dir, options, |files| Box::new(FaultyDisk::new(files, current, shared))).unwrap();
    (log, faults)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never: {what}");
}

#[test]
fn entries_are_read_back_and_survive_reopening_with_the_same_root() {
    let dir = TempDir::new().unwrap();
    let head = filled(dir.path(), 10);
    let log = AuditLog::open(dir.path(), options()).unwrap();
    assert_eq!(log.head(), head);
    assert_eq!(log.torn_tail(), None);
    let mut edge = TreeEdge::empty();
    for entry in log.reader(0).unwrap() {
        edge.push(leaf_hash(&entry.unwrap().encode()));
    }
    assert_eq!(edge.root(), head.root);
    assert_eq!(record(&log, "more", Durability::Os).unwrap(), 10);
    assert_eq!(resources(log.reader(8).unwrap()), ["entry 8", "entry 9", "more"]);
    log.close();
    assert_eq!(verify(dir.path()).unwrap().root, log.head().root);
    assert_eq!(Reader::open(dir.path()).unwrap().count(), 11);
}

#[test]
fn an_entry_that_is_not_there_is_named() {
    let dir = TempDir::new().unwrap();
    filled(dir.path(), 3);
    let log = AuditLog::open(dir.path(), options()).unwrap();
    assert_eq!(log.reader(3).unwrap().count(), 0);
    assert!(matches!(log.reader(4), Err(ReadError::NoSuchEntry { seq: 4, first: 0 })));
}

#[test]
fn a_second_writer_is_refused() {
    let dir = TempDir::new().unwrap();
    let _log = AuditLog::open(dir.path(), options()).unwrap();
    assert!(matches!(AuditLog::open(dir.path(), options()), Err(OpenError::InUse { .. })));
}

#[test]
fn an_origin_is_bound_once() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), options()).unwrap();
    assert_eq!(log.origin(), None);
    assert!(matches!(log.bind_origin("a b"), Err(OpenError::InvalidOrigin)));
    log.bind_origin("v1/node-1").unwrap();
    log.bind_origin("v1/node-1").unwrap();
    assert!(matches!(log.bind_origin("v2/node-1"), Err(OpenError::OriginMismatch { .. })));
    drop(log);
    let other = OpenOptions { origin: Some("v2/node-1".into()), ..options() };
    assert!(matches!(AuditLog::open(dir.path(), other), Err(OpenError::OriginMismatch { .. })));
    let log = AuditLog::open(dir.path(), options()).unwrap();
    assert_eq!(log.origin().as_deref(), Some("v1/node-1"));
}

#[test]
fn files_are_private_and_links_are_refused() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let dir = TempDir::new().unwrap();
    let logs = dir.path().join("logs");
    filled(&logs, 1);
    assert_eq!(std::fs::metadata(&logs).unwrap().mode() & 0o777, 0o700);
    let file = logs.join(segment_name(0));
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);

    std::fs::rename(&file, dir.path().join("elsewhere")).unwrap();
    symlink(dir.path().join("elsewhere"), &file).unwrap();
    assert!(matches!(AuditLog::open(&logs, options()), Err(OpenError::Insecure { expected: "file", .. })));
    symlink(&logs, dir.path().join("link")).unwrap();
    let link = dir.path().join("link");
    assert!(matches!(
        AuditLog::open(&link, options()),
        Err(OpenError::Insecure { expected: "directory", .. })
    ));
    std::fs::set_permissions(&logs, std::fs::Permissions::from_mode(0o770)).unwrap();
    assert!(matches!(AuditLog::open(&logs, options()), Err(OpenError::Insecure { .. })));
}

#[test]
fn a_log_cut_anywhere_in_its_last_frame_keeps_all_before_it() {
    let dir = TempDir::new().unwrap();
    filled(dir.path(), 3);
    let before = std::fs::metadata(dir.path().join(segment_name(0))).unwrap().len();
    filled_more(dir.path());
    let whole = std::fs::read(dir.path().join(segment_name(0))).unwrap();
    for length in usize::try_from(before).unwrap()..whole.len() {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join(segment_name(0)), &whole[..length]).unwrap();
        let log = AuditLog::open(dir.path(), options()).unwrap();
        assert_eq!(log.head().size, 3);
        let left = length - usize::try_from(before).unwrap();
        match log.torn_tail() {
            None => assert_eq!(left, 0),
            Some(torn) => {
                assert_eq!((torn.seq, torn.offset, torn.bytes), (3, before, left.try_into().unwrap()));
                assert_eq!(std::fs::read(torn.kept.as_ref().unwrap()).unwrap(), whole[length - left..length]);
            }
        }
        assert_eq!(record(&log, "after", Durability::Fsync).unwrap(), 3);
        drop(log);
        assert_eq!(verify(dir.path()).unwrap().torn, None);
    }
}

fn filled_more(dir: &Path) {
    let log = AuditLog::open(dir, options()).unwrap();
    record(&log, "the last", Durability::Fsync).unwrap();
}

#[test]
fn a_flipped_byte_before_the_last_batch_is_an_error_that_names_the_entry() {
    let dir = TempDir::new().unwrap();
    filled(dir.path(), 4);
    let path = dir.path().join(segment_name(0));
    let whole = std::fs::read(&path).unwrap();
    let frame = (whole.len() - 22) / 4;
    for at in 22..22 + 3 * frame {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        let expected = u64::try_from((at - 22) / frame).unwrap();
        match AuditLog::open(dir.path(), options()) {
            Err(OpenError::Damaged(ReadError::Corrupt { seq, .. })) => assert_eq!(seq, expected, "byte {at}"),
            other => panic!("byte {at}: {other:?}"),
        }
        assert!(matches!(verify(dir.path()), Err(ReadError::Corrupt { seq, .. }) if seq == expected));
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "a damaged log is left as it is");
    }
}

#[test]
fn a_crash_that_lost_a_page_between_unsynced_entries_is_a_torn_tail() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), OpenOptions { sync_interval: Duration::from_secs(60), ..options() })
        .unwrap();
    for n in 0..5 {
        record(&log, &format!("entry {n}"), Durability::Os).unwrap();
    }
    let path = dir.path().join(segment_name(0));
    let mut bytes = std::fs::read(&path).unwrap();
    drop(log);
    let frame = (bytes.len() - 22) / 5;
    bytes[22 + frame..22 + 2 * frame].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let log = AuditLog::open(dir.path(), options()).unwrap();
    assert_eq!(log.head().size, 1);
    assert_eq!(log.torn_tail().unwrap().fault, FrameFault::BadMagic);
}

#[test]
fn swapped_dropped_and_repeated_entries_are_named() {
    let dir = TempDir::new().unwrap();
    filled(dir.path(), 4);
    let path = dir.path().join(segment_name(0));
    let whole = std::fs::read(&path).unwrap();
    let (header, frames) = whole.split_at(22);
    let frames: Vec<&[u8]> = frames.chunks(frames.len() / 4).collect();
    for (order, seq, found) in [(&[0, 2, 1, 3][..], 1, 2), (&[0, 2, 3], 1, 2), (&[0, 1, 1, 2, 3], 2, 1)] {
        let edited: Vec<u8> =
            header.iter().copied().chain(order.iter().flat_map(|n| frames[*n].to_vec())).collect();
        std::fs::write(&path, edited).unwrap();
        match verify(dir.path()) {
            Err(ReadError::Corrupt {
                seq: at, fault: FrameFault::WrongSequence { found: other }, ..
            }) => {
                assert_eq!((at, other), (seq, found));
            }
            other => panic!("{order:?}: {other:?}"),
        }
    }
}

#[test]
fn a_new_file_is_begun_when_one_is_full_and_the_tree_goes_on() {
    let dir = TempDir::new().unwrap();
    let small = || OpenOptions { segment_bytes: 4096, ..options() };
    let log = AuditLog::open(dir.path(), small()).unwrap();
    let mut follower = log.follow(0).unwrap();
    for n in 0..300 {
        record(&log, &format!("entry {n}"), Durability::Os).unwrap();
        assert_eq!(follower.next_entry().unwrap().unwrap().seq, n);
    }
    let head = log.head();
    assert_eq!(resources(log.reader(295).unwrap()).len(), 5);
    drop(log);
    let report = verify(dir.path()).unwrap();
    assert!(report.files > 3);
    assert_eq!((report.size, report.root, report.first_seq), (300, head.root, 0));
    assert_eq!(AuditLog::open(dir.path(), small()).unwrap().head(), head);

    let segments = crate::files::list_segments(dir.path()).unwrap();
    std::fs::remove_file(dir.path().join(segment_name(segments[1]))).unwrap();
    assert!(matches!(verify(dir.path()), Err(ReadError::Gap { expected, .. }) if expected == segments[1]));
    std::fs::remove_file(dir.path().join(segment_name(0))).unwrap();
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.first_seq, report.root), (segments[2], head.root));
}

#[test]
fn concurrent_callers_get_every_number_once() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), options());
    let mut seqs: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    (0..50)
                        .map(|n| record(&log, &format!("{n}"), Durability::Fsync).unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    seqs.sort_unstable();
    assert_eq!(seqs, (0..400).collect::<Vec<_>>());
    assert!(faults.lock().unwrap().syncs <= 402, "a batch is synced once");
    drop(log);
    assert_eq!(verify(dir.path()).unwrap().size, 400);
}

#[test]
fn a_follower_is_woken_by_each_entry_and_by_the_end() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), options()).unwrap();
    let mut follower = log.follow(0).unwrap();
    let reading = std::thread::spawn(move || {
        let mut seqs = Vec::new();
        while futures::executor::block_on(follower.growth()) {
            while let Some(entry) = follower.next_entry().unwrap() {
                seqs.push(entry.seq);
            }
        }
        seqs
    });
    for _ in 0..50 {
        record(&log, "x", Durability::Os).unwrap();
    }
    log.close();
    assert_eq!(reading.join().unwrap(), (0..50).collect::<Vec<_>>());
}

struct Xor {
    fails: AtomicBool,
}

impl BodySealer for Xor {
    fn key_id(&self) -> [u8; 16] {
        [9; 16]
    }

    fn seal(&self, header: &[u8], seq: u64, body: &[u8]) -> Result<Vec<u8>, SealFailed> {
        assert_eq!(header[3..11], seq.to_be_bytes());
        if self.fails.load(Ordering::Relaxed) {
            return Err(SealFailed);
        }
        Ok(body.iter().map(|byte| byte ^ 0x5a).collect())
    }
}

#[test]
fn bodies_are_sealed_and_a_failing_seal_fails_only_its_entry() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), options()).unwrap();
    let sealer = Arc::new(Xor { fails: AtomicBool::new(true) });
    let seal = || {
        let sealer: Arc<dyn BodySealer> = sealer.clone();
        let input = BodyInput::Sealed(body("secret/canary"), sealer);
        log.reserve().unwrap().record(EntryKind::Read, UnixMillis(5), input, Durability::Fsync).wait()
    };
    assert!(matches!(seal(), Err(AuditError::Seal(SealFailed))));
    assert_eq!(log.status().state, State::Ready);
    sealer.fails.store(false, Ordering::Relaxed);
    assert_eq!(seal().unwrap(), 0);
    let entry: Entry = log.reader(0).unwrap().next_entry().unwrap().unwrap();
    assert!(matches!(&entry.body, StoredBody::Sealed { key_id, .. } if *key_id == [9; 16]));
    let stored = std::fs::read(dir.path().join(segment_name(0))).unwrap();
    assert!(!stored.windows(6).any(|window| window == b"canary"));
}

#[test]
fn a_body_that_is_too_large_fails_only_its_entry() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), options()).unwrap();
    assert!(matches!(record(&log, &"x".repeat(70_000), Durability::Os), Err(AuditError::Body(_))));
    assert_eq!(record(&log, "small", Durability::Os).unwrap(), 0);
}

#[test]
fn closing_writes_what_is_queued() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), options()).unwrap();
    let pending: Vec<Recorded> = (0..100)
        .map(|n| {
            let slot = log.reserve().unwrap();
            slot.record_clear(EntryKind::System, UnixMillis(n), body("x"), Durability::Os)
        })
        .collect();
    log.close();
    assert!(pending.into_iter().map(Recorded::wait).all(|result| result.is_ok()));
    assert_eq!(verify(dir.path()).unwrap().size, 100);
}
