//! Entries that share a sync: they wait for each other where many come, and only there.

use super::*;
use std::sync::mpsc;

/// A log whose entries, once they wait for others, wait until it closes.
fn patient() -> OpenOptions {
    let hour = Duration::from_secs(3600);
    OpenOptions { gather: hour, sync_interval: hour, probe_interval: hour, ..options() }
}

fn start(log: &AuditLog, count: usize) -> Vec<Recorded> {
    let one = |_| {
        let slot = log.reserve().unwrap();
        slot.record_clear(EntryKind::Intent, UnixMillis(1), body("x"), Durability::Fsync)
    };
    (0..count).map(one).collect()
}

/// Has so many entries be made durable by one sync.
fn together(log: &AuditLog, faults: &Mutex<Faults>, count: usize) {
    let (entered, syncing) = mpsc::channel();
    let (go_on, held) = mpsc::channel();
    faults.lock().unwrap().held_sync = Some((entered, held));
    let first = start(log, 1);
    syncing.recv().unwrap();
    let others = start(log, count);
    go_on.send(()).unwrap();
    for recorded in first.into_iter().chain(others) {
        recorded.wait().unwrap();
    }
}

#[test]
fn after_a_crowd_entries_wait_for_more_and_share_a_sync() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), patient());
    record(&log, "first", Durability::Fsync).unwrap();
    together(&log, &faults, 6);
    let (size, syncs) = (log.head().size, faults.lock().unwrap().syncs);
    let mut entries = start(&log, 1);
    // Time enough for a thread that does not wait.
    std::thread::sleep(Duration::from_millis(30));
    entries.extend(start(&log, 3));
    assert_eq!((log.head().size, faults.lock().unwrap().syncs), (size, syncs));
    log.close();
    let seqs: Vec<u64> = entries.into_iter().map(|entry| entry.wait().unwrap()).collect();
    assert_eq!(seqs, (size..size + 4).collect::<Vec<_>>());
    assert_eq!(faults.lock().unwrap().syncs, syncs + 1);
}

#[test]
fn a_few_that_happen_to_come_together_make_nobody_wait() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), patient());
    record(&log, "first", Durability::Fsync).unwrap();
    for count in 1..6 {
        together(&log, &faults, count);
        record(&log, "alone", Durability::Fsync).unwrap();
    }
}

#[test]
fn nobody_waits_for_others_when_every_place_is_taken() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), OpenOptions { max_queue: 7, ..patient() });
    record(&log, "first", Durability::Fsync).unwrap();
    together(&log, &faults, 6);
    let size = log.head().size;
    let slots: Vec<Slot> = (0..7).map(|_| log.reserve().unwrap()).collect();
    let record =
        |slot: Slot| slot.record_clear(EntryKind::Intent, UnixMillis(1), body("x"), Durability::Fsync);
    let entries: Vec<Recorded> = slots.into_iter().map(record).collect();
    eventually("they are recorded", || log.head().size == size + 7);
    assert!(entries.into_iter().all(|entry| entry.wait().is_ok()));
}
