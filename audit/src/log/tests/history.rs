//! The head of a log: what of it is durable, and what its root was before.

use super::*;
use crate::error::HeaderFault;
use crate::segment::encode_file_header;
use crate::wire::len64;

/// Some files of a few entries each; the root after each entry.
fn several_files(dir: &Path) -> (AuditLog, Vec<Hash>) {
    let log = AuditLog::open(dir, OpenOptions { segment_bytes: 4096, ..options() }).unwrap();
    let mut roots = vec![TreeEdge::empty().root()];
    while log.shared.published(|published| published.segments.len()) < 4 {
        let text = format!("{:500}", roots.len());
        record(&log, &text, Durability::Fsync).unwrap();
        roots.push(log.head().root);
    }
    (log, roots)
}

#[test]
fn a_log_knows_its_earlier_roots() {
    let dir = TempDir::new().unwrap();
    let (log, roots) = several_files(dir.path());
    assert!(roots.len() > 20, "{}", roots.len());
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(log.root_at(len64(size)).unwrap(), *root, "{size}");
    }
    let beyond = log.root_at(len64(roots.len()));
    assert!(matches!(beyond, Err(ReadError::NoSuchEntry { .. })), "{beyond:?}");
    drop(log);
    let log = AuditLog::open(dir.path(), options()).unwrap();
    assert_eq!(log.root_at(3).unwrap(), roots[3]);
}

#[test]
fn files_before_the_one_asked_for_are_not_read() {
    let dir = TempDir::new().unwrap();
    let (log, roots) = several_files(dir.path());
    std::fs::write(dir.path().join(segment_name(0)), b"gone").unwrap();
    let last = roots.len() - 1;
    assert_eq!(log.root_at(len64(last)).unwrap(), roots[last]);
    assert!(log.root_at(1).is_err());
}

#[test]
fn a_log_that_does_not_go_on_from_an_earlier_size_is_refused() {
    let dir = TempDir::new().unwrap();
    let (log, _) = several_files(dir.path());
    let last = log.shared.published(|published| *published.segments.last().unwrap());
    drop(log);
    // The last file begins with another tree of the same size.
    let other: Vec<Hash> = (0..last.count_ones()).map(|_| [7; 32]).collect();
    let edge = TreeEdge::from_parts(last, other).unwrap();
    std::fs::write(dir.path().join(segment_name(last)), encode_file_header(&edge)).unwrap();
    let log = AuditLog::open(dir.path(), options()).unwrap();
    let found = log.root_at(2);
    assert!(matches!(found, Err(ReadError::BadHeader { fault: HeaderFault::OtherTree, .. })), "{found:?}");
}

#[test]
fn only_what_was_synced_is_the_durable_head() {
    let dir = TempDir::new().unwrap();
    let slow = OpenOptions { sync_interval: Duration::from_secs(3600), ..options() };
    let log = AuditLog::open(dir.path(), slow).unwrap();
    record(&log, "synced", Durability::Fsync).unwrap();
    let first = log.head();
    assert_eq!(log.durable_head(), first);
    record(&log, "not synced", Durability::Os).unwrap();
    assert_eq!((log.head().size, log.durable_head()), (2, first));
    record(&log, "synced with what was before", Durability::Fsync).unwrap();
    assert_eq!(log.durable_head(), log.head());
}

#[test]
fn what_a_former_process_left_is_durable_once_it_was_synced() {
    let dir = TempDir::new().unwrap();
    let before = filled(dir.path(), 3);
    let log = AuditLog::open(dir.path(), options()).unwrap();
    eventually("the log is synced", || log.durable_head() == before);
}

#[test]
fn a_failed_sync_leaves_the_durable_head_where_it_was() {
    let dir = TempDir::new().unwrap();
    let (log, faults) = faulty(dir.path(), options());
    record(&log, "synced", Durability::Fsync).unwrap();
    let first = log.head();
    faults.lock().unwrap().failing_syncs = 1;
    record(&log, "lost", Durability::Fsync).unwrap_err();
    assert_eq!(log.durable_head(), first);
}
