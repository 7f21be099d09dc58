//! Slots: bounded, given back, waited for in turn.

use super::*;

#[test]
fn slots_are_bounded_and_given_back() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), OpenOptions { max_queue: 2, ..options() }).unwrap();
    let one = log.reserve().unwrap();
    let two = log.reserve().unwrap();
    assert!(matches!(log.reserve(), Err(Refused::QueueFull { limit: 2 })));
    let three = log.reserve_privileged().unwrap();
    drop(one);
    assert!(matches!(log.reserve(), Err(Refused::QueueFull { limit: 2 })));
    drop(three);
    let four = log.reserve().unwrap();
    drop((two, four));
    assert_eq!(log.status().in_flight, 0);
    record(&log, "x", Durability::Os).unwrap();
    assert_eq!(log.status().in_flight, 0);
}

#[test]
fn those_who_wait_for_a_slot_get_it_in_turn_also_past_one_who_left() {
    use futures::future::{FutureExt, poll_fn};
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), OpenOptions { max_queue: 1, ..options() }).unwrap();
    let held = log.reserve().unwrap();
    let mut first = log.reserve_wait();
    let second = log.reserve_wait();
    futures::executor::block_on(poll_fn(|context| {
        assert!(first.poll_unpin(context).is_pending());
        Poll::Ready(())
    }));
    let waiter = std::thread::spawn(move || futures::executor::block_on(second).is_ok());
    eventually("the second waits", || log.shared.waiting() == 2);
    drop(held);
    drop(first);
    assert!(waiter.join().unwrap());
}

#[test]
fn those_who_wait_for_a_slot_are_told_when_the_log_closes() {
    let dir = TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), OpenOptions { max_queue: 1, ..options() }).unwrap();
    let held = log.reserve().unwrap();
    let wait = log.reserve_wait();
    let waiter = std::thread::spawn(move || futures::executor::block_on(wait).map(|_| ()));
    eventually("it waits", || log.shared.waiting() == 1);
    log.close();
    assert_eq!(waiter.join().unwrap(), Err(Refused::Closed));
    let late = held.record_clear(EntryKind::Read, UnixMillis(0), body("late"), Durability::Os);
    assert!(matches!(late.wait(), Err(AuditError::Closed)));
    assert!(matches!(log.reserve(), Err(Refused::Closed)));
}
