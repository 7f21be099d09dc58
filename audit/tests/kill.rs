//! A process that records and is killed: what it acknowledged is in the log when the next one opens it.
//!
//! The test runs itself as the child, which prints each number that was acknowledged; the printed lines are the
//! ledger outside the process. Absent: power failures, which a test cannot make (`segment` and `log` test their traces).

use keystead_audit::{AuditLog, Body, BodyInput, Durability, EntryKind, OpenOptions, UnixMillis, verify};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const CHILD: &str = "KEYSTEAD_AUDIT_KILL_TEST_DIR";

#[expect(clippy::unwrap_used, reason = "the name is a node's")]
fn options() -> OpenOptions {
    OpenOptions { reserve_bytes: 0, segment_bytes: 16 << 10, ..OpenOptions::new("node-1").unwrap() }
}

/// Not a test of its own: what the killed process does. Returns at once where it was not asked to be one.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let log = AuditLog::open(Path::new(&dir), options()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let log = &log;
            scope.spawn(move || {
                loop {
                    let body = Body { principal: format!("service/s{thread}"), ..Body::default() };
                    let durability = if thread == 0 { Durability::Fsync } else { Durability::Os };
                    let slot = log.reserve().unwrap();
                    let seq = slot.record(EntryKind::Read, UnixMillis(0), BodyInput::Clear(body), durability);
                    let seq = seq.wait().unwrap();
                    // One write a line, past the capture of output by the test runner.
                    let line = format!("ack {seq} s{thread}\n");
                    std::io::stderr().lock().write_all(line.as_bytes()).unwrap();
                }
            });
        }
    });
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::TempDir::new().unwrap();
    let mut ledger: Vec<(usize, String)> = Vec::new();
    for round in 1..=12_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let enough = ledger.len() + round * 37;
        let note = |line: String, ledger: &mut Vec<(usize, String)>| {
            if let Some((seq, who)) = line.strip_prefix("ack ").and_then(|rest| rest.split_once(' ')) {
                ledger.push((seq.parse().unwrap(), who.to_owned()));
            }
        };
        while ledger.len() < enough {
            note(lines.next().expect("the child goes on").unwrap(), &mut ledger);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            note(line.unwrap(), &mut ledger);
        }
        let log = AuditLog::open(dir.path(), options()).unwrap();
        let entries: Vec<String> =
            log.reader(0).unwrap().map(|entry| entry.unwrap().open(None).unwrap().principal).collect();
        for (seq, who) in &ledger {
            assert_eq!(entries.get(*seq), Some(&format!("service/{who}")), "round {round}, entry {seq}");
        }
        drop(log);
        assert_eq!(verify(dir.path()).unwrap().torn, None);
    }
}
