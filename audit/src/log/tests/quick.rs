//! Entries that need no sync: written by who records them, in order with all others, and never held up by a sync.

use super::*;
use futures::future::FutureExt;
use std::sync::mpsc;

/// A log that syncs only when it has to.
fn unhurried() -> OpenOptions {
    OpenOptions { sync_interval: Duration::from_secs(3600), ..options() }
}

fn start(log: &AuditLog, text: &str, durability: Durability) -> Recorded {
    log.reserve().unwrap().record_clear(EntryKind::Read, UnixMillis(1), body(text), durability)
}

/// Waits until the writer thread has begun and found nothing to do.
fn settled(log: &AuditLog) {
    record(log, "first", Durability::Fsync).unwrap();
    eventually("the thread sleeps", || log.shared.thread_waits());
}

#[test]
fn an_entry_is_recorded_at_the_first_poll_when_nobody_else_writes() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), unhurried());
    settled(&log);
    let syncs = faults.lock().unwrap().syncs;
    for n in 1..1000 {
        let seq = start(&log, "x", Durability::Os).now_or_never();
        assert_eq!(seq.expect("it is ready").unwrap(), n);
        if n == 1 {
            // The first tells the thread that there is something to sync in an hour; let it go back to sleep.
            eventually("the thread sleeps", || log.shared.thread_waits());
        }
        assert_eq!((log.head().size, log.status().in_flight), (n + 1, 0));
    }
    assert_eq!(faults.lock().unwrap().syncs, syncs);
    drop(log);
    assert_eq!(verify(dir.path()).unwrap().size, 1000);
}

#[test]
fn what_was_not_synced_is_bounded() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), unhurried());
    settled(&log);
    let large = "x".repeat(30_000);
    for n in 1..=200 {
        assert_eq!(record(&log, &large, Durability::Os).unwrap(), n);
    }
    assert!(faults.lock().unwrap().syncs >= 2 + 5, "six megabytes are synced at least once a mebibyte");
}

#[test]
fn many_threads_lose_nothing_and_each_keeps_its_order() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), OpenOptions { segment_bytes: 64 << 10, ..options() }).unwrap();
    let mut ledger: Vec<(u64, String)> = std::thread::scope(|scope| {
        let log = &log;
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    let mut ledger = Vec::new();
                    for round in 0..100 {
                        // Several under way at once, at times with one among them that wants a sync.
                        let texts: Vec<String> = (0..5).map(|n| format!("{thread} {round} {n}")).collect();
                        let started: Vec<Recorded> = texts
                            .iter()
                            .enumerate()
                            .map(|(n, text)| {
                                let synced = round % 20 == 0 && n == thread % 5;
                                start(log, text, if synced { Durability::Fsync } else { Durability::Os })
                            })
                            .collect();
                        ledger.extend(started.into_iter().map(|one| one.wait().unwrap()).zip(texts));
                    }
                    assert!(ledger.is_sorted(), "a thread's entries are in the order of its calls");
                    ledger
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    ledger.sort_unstable();
    let (seqs, texts): (Vec<u64>, Vec<String>) = ledger.into_iter().unzip();
    assert_eq!(seqs, (0..4000).collect::<Vec<_>>());
    assert_eq!(resources(log.reader(0).unwrap()), texts);
    let head = log.head();
    drop(log);
    assert_eq!(verify(dir.path()).unwrap().root, head.root);
}

#[test]
fn a_sync_that_takes_its_time_holds_up_nobody() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), unhurried());
    settled(&log);
    let (entered, syncing) = mpsc::channel();
    let (go_on, held) = mpsc::channel();
    faults.lock().unwrap().held_sync = Some((entered, held));
    let synced = start(&log, "synced", Durability::Fsync);
    syncing.recv().unwrap();
    // All of this happens while the sync is under way, on the thread that will end it.
    let mut others: Vec<Recorded> = (0..10).map(|n| start(&log, &format!("{n}"), Durability::Os)).collect();
    assert!(others.iter_mut().all(|other| other.now_or_never().is_none()));
    assert_eq!(log.head().size, 1);
    go_on.send(()).unwrap();
    assert_eq!(synced.wait().unwrap(), 1);
    let seqs: Vec<u64> = others.into_iter().map(|other| other.wait().unwrap()).collect();
    assert_eq!(seqs, (2..12).collect::<Vec<_>>());
}

#[test]
fn a_write_that_fails_halfway_is_cut_off_and_tried_again_by_the_thread() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), unhurried());
    settled(&log);
    faults.lock().unwrap().failing_writes = 1;
    assert_eq!(record(&log, "second", Durability::Os).unwrap(), 1);
    faults.lock().unwrap().room = Some(10);
    assert!(matches!(record(&log, "lost", Durability::Os), Err(AuditError::Write(_))));
    assert!(matches!(log.reserve(), Err(Refused::NoSpace)));
    faults.lock().unwrap().room = None;
    eventually("it recovers", || log.status().state == State::Ready);
    assert_eq!(record(&log, "third", Durability::Os).unwrap(), 2);
    assert_eq!(resources(log.reader(0).unwrap()), ["first", "second", "third"]);
    drop(log);
    assert_eq!(verify(dir.path()).unwrap().torn, None);
}

#[test]
fn a_sealer_that_panics_on_its_callers_thread_closes_the_log_and_lets_go_of_its_files() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), unhurried()).unwrap();
    settled(&log);
    let slot = log.reserve().unwrap();
    let input = BodyInput::Sealed(body("x"), Arc::new(Broken));
    let recorded = slot.record(EntryKind::Read, UnixMillis(0), input, Durability::Os);
    assert!(matches!(recorded.now_or_never(), Some(Err(AuditError::Closed))));
    assert!(matches!(log.reserve(), Err(Refused::Closed)));
    let next = AuditLog::open(dir.path(), options()).unwrap();
    assert_eq!(record(&next, "second", Durability::Os).unwrap(), 1);
}
