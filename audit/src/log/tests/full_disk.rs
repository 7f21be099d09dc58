//! Full and failing disks: nothing acknowledged is lost, nothing unwritten is acknowledged, and service comes back.

use super::*;

fn privileged(log: &AuditLog, text: &str) -> Result<u64, AuditError> {
    let slot = log.reserve_privileged().unwrap();
    slot.record_clear(EntryKind::System, UnixMillis(1), body(text), Durability::Fsync).wait()
}

/// Records until the log refuses; how many were acknowledged.
fn fill(log: &AuditLog) -> u64 {
    for n in 0..100_000 {
        let Ok(slot) = log.reserve() else { return n };
        let recorded = slot.record_clear(EntryKind::Read, UnixMillis(1), body("filler"), Durability::Fsync);
        match recorded.wait() {
            Ok(seq) => assert_eq!(seq, n),
            Err(_) => return n,
        }
    }
    panic!("the disk never got full");
}

#[test]
fn a_full_disk_refuses_and_recovers_without_losing_or_inventing_entries() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), options());
    faults.lock().unwrap().room = Some(1000);
    let acknowledged = fill(&log);
    assert!(acknowledged > 5);
    eventually("it refuses", || matches!(log.reserve(), Err(Refused::NoSpace)));
    assert!(matches!(log.reserve_privileged(), Err(Refused::NoSpace)), "nothing was reserved");
    assert_eq!(log.head().size, acknowledged);
    faults.lock().unwrap().room = None;
    eventually("it recovers", || log.status().state == State::Ready);
    assert_eq!(record(&log, "after", Durability::Fsync).unwrap(), acknowledged);
    drop(log);
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.size, report.torn), (acknowledged + 1, None));
}

#[test]
fn the_reserve_lets_operators_act_when_all_else_is_full() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), OpenOptions { reserve_bytes: 1 << 20, ..options() });
    record(&log, "first", Durability::Fsync).unwrap();
    eventually("the reserve is kept", || {
        std::fs::metadata(dir.path().join("ballast")).is_ok_and(|ballast| ballast.len() == 1 << 20)
    });
    faults.lock().unwrap().room = Some(0);
    assert!(matches!(record(&log, "ordinary", Durability::Fsync), Err(AuditError::Write(_))));
    assert!(matches!(log.reserve(), Err(Refused::NoSpace)));
    for n in 1..50 {
        assert_eq!(privileged(&log, "seal").unwrap(), n);
    }
    assert!(matches!(log.reserve(), Err(Refused::NoSpace)), "the reserve is not for ordinary records");
    assert!(std::fs::metadata(dir.path().join("ballast")).unwrap().len() < 1 << 20);
    faults.lock().unwrap().room = Some(10 << 20);
    eventually("it recovers", || log.status().state == State::Ready);
    assert_eq!(std::fs::metadata(dir.path().join("ballast")).unwrap().len(), 1 << 20);
    assert_eq!(record(&log, "after", Durability::Fsync).unwrap(), 50);
    drop(log);
    assert_eq!(verify(dir.path()).unwrap().size, 51);
}

#[test]
fn a_batch_that_meets_a_full_disk_keeps_its_privileged_records() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), OpenOptions { reserve_bytes: 1 << 20, ..options() });
    record(&log, "first", Durability::Fsync).unwrap();
    let slots: Vec<Slot> =
        (0..20).map(|n| if n % 4 == 0 { log.reserve_privileged() } else { log.reserve() }.unwrap()).collect();
    faults.lock().unwrap().room = Some(0);
    let records: Vec<Recorded> = slots
        .into_iter()
        .map(|slot| slot.record_clear(EntryKind::System, UnixMillis(1), body("x"), Durability::Fsync))
        .collect();
    let results: Vec<_> = records.into_iter().map(Recorded::wait).collect();
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result.is_ok(), n % 4 == 0, "{n}: {result:?}");
    }
    assert_eq!(log.head().size, 6);
    drop(log);
    assert_eq!(verify(dir.path()).unwrap().size, 6);
}

#[test]
fn a_failing_device_refuses_everybody_until_it_works() {
    let dir = TempDir::new().unwrap();
    let slow =
        OpenOptions { probe_interval: Duration::from_millis(300), reserve_bytes: 1 << 20, ..options() };
    let (log, faults) = faulty(dir.path(), slow);
    record(&log, "first", Durability::Fsync).unwrap();
    faults.lock().unwrap().failing_writes = 1;
    assert!(matches!(record(&log, "lost", Durability::Fsync), Err(AuditError::Write(_))));
    assert!(matches!(log.reserve(), Err(Refused::WriteFailed)));
    assert!(matches!(log.reserve_privileged(), Err(Refused::WriteFailed)));
    eventually("it recovers", || log.status().state == State::Ready);
    assert_eq!(record(&log, "second", Durability::Fsync).unwrap(), 1);
    assert_eq!(resources(log.reader(0).unwrap()), ["first", "second"]);
}

#[test]
fn a_failed_sync_fails_its_callers_and_writes_again_what_it_may_have_lost() {
    let dir = TempDir::new().unwrap();
    let slow = OpenOptions { sync_interval: Duration::from_secs(60), ..options() };
    let (log, faults) = faulty(dir.path(), slow);
    record(&log, "durable", Durability::Fsync).unwrap();
    record(&log, "written", Durability::Os).unwrap();
    let head = log.head();
    faults.lock().unwrap().failing_syncs = 3;
    assert!(matches!(record(&log, "lost", Durability::Fsync), Err(AuditError::Sync(_))));
    assert_eq!(log.head(), head);
    eventually("it recovers", || log.status().state == State::Ready);
    assert_eq!(record(&log, "after", Durability::Fsync).unwrap(), 2);
    assert_eq!(resources(log.reader(0).unwrap()), ["durable", "written", "after"]);
    drop(log);
    assert_eq!(verify(dir.path()).unwrap().size, 3);
}

#[test]
fn a_full_disk_between_two_files_keeps_them_in_order() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), OpenOptions { segment_bytes: 4096, ..options() });
    faults.lock().unwrap().room = Some(4100);
    let acknowledged = fill(&log);
    faults.lock().unwrap().room = None;
    eventually("it recovers", || log.status().state == State::Ready);
    assert_eq!(record(&log, "after", Durability::Fsync).unwrap(), acknowledged);
    drop(log);
    let report = verify(dir.path()).unwrap();
    assert_eq!((report.size, report.files), (acknowledged + 1, 2));
}

#[test]
fn unsynced_entries_become_durable_after_the_interval() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), options());
    record(&log, "first", Durability::Fsync).unwrap();
    let before = faults.lock().unwrap().syncs;
    record(&log, "later", Durability::Os).unwrap();
    eventually("it is synced", || faults.lock().unwrap().syncs > before);
}

#[test]
fn a_sealer_that_panics_closes_the_log_and_answers_everybody() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), options()).unwrap();
    let input = BodyInput::Sealed(body("x"), Arc::new(Broken));
    let recorded = log.reserve().unwrap().record(EntryKind::Read, UnixMillis(0), input, Durability::Os);
    assert!(matches!(recorded.wait(), Err(AuditError::Closed)));
    eventually("it is closed", || matches!(log.reserve(), Err(Refused::Closed)));
}
