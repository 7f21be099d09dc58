//! The sink: every entry once in order, through restarts, rotation and a key that comes late.

use super::*;
use crate::body::Body;
use crate::entry::{EntryKind, UnixMillis};
use crate::log::{Durability, OpenOptions};
use crate::seal::{BodyInput, BodySealer, SealFailed};
use tempfile::TempDir;

/// Seals by turning bytes over, and has its key only at times.
#[derive(Default)]
struct Key {
    here: AtomicBool,
}

impl BodySealer for Key {
    fn key_id(&self) -> [u8; 16] {
        [1; 16]
    }

    fn seal(&self, _: &[u8], _: u64, body: &[u8]) -> Result<Vec<u8>, SealFailed> {
        Ok(body.iter().map(|byte| !byte).collect())
    }
}

impl BodyOpener for Key {
    fn open(&self, _: [u8; 16], _: &[u8], _: u64, sealed: &[u8]) -> Result<Vec<u8>, OpenFailed> {
        if self.here.load(Ordering::Relaxed) {
            Ok(sealed.iter().map(|byte| !byte).collect())
        } else {
            Err(OpenFailed::NotNow)
        }
    }
}

struct Bench {
    dir: TempDir,
    log: AuditLog,
    key: Arc<Key>,
}

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let options = OpenOptions { reserve_bytes: 0, ..OpenOptions::new("n").unwrap() };
        let log = AuditLog::open(&dir.path().join("log"), options).unwrap();
        Self { dir, log, key: Arc::default() }
    }

    fn options(&self, while_unavailable: WhileUnavailable) -> JsonSinkOptions {
        let opener: Arc<dyn BodyOpener> = self.key.clone();
        JsonSinkOptions {
            path: self.dir.path().join("audit.json"),
            cursor: self.dir.path().join("audit.cursor"),
            opener,
            while_unavailable,
        }
    }

    fn record(&self, sealed: bool, count: u64) {
        for _ in 0..count {
            let body = Body { principal: "service/a".into(), ..Body::default() };
            let sealer: Arc<dyn BodySealer> = self.key.clone();
            let input = if sealed { BodyInput::Sealed(body, sealer) } else { BodyInput::Clear(body) };
            let slot = self.log.reserve().unwrap();
            slot.record(EntryKind::Read, UnixMillis(0), input, Durability::Os).wait().unwrap();
        }
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join("audit.json")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn seqs(&self) -> Vec<u64> {
        self.lines().iter().map(|line| line["seq"].as_u64().unwrap()).collect()
    }
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
fn every_entry_becomes_one_line_also_over_restarts() {
    let bench = Bench::new();
    bench.key.here.store(true, Ordering::Relaxed);
    for round in 1..4 {
        bench.record(true, 10);
        let sink = JsonSink::start(&bench.log, bench.options(WhileUnavailable::Wait)).unwrap();
        eventually("it catches up", || sink.status().position == round * 10);
        assert_eq!(sink.status().lag, 0);
        sink.stop();
    }
    assert_eq!(bench.seqs(), (0..30).collect::<Vec<_>>());
    assert!(bench.lines().iter().all(|line| line["body"]["principal"] == "service/a"));
}

#[test]
fn a_missing_key_makes_it_wait_or_pass_as_it_was_told() {
    let bench = Bench::new();
    bench.record(false, 1);
    bench.record(true, 1);
    bench.record(false, 1);
    let sink = JsonSink::start(&bench.log, bench.options(WhileUnavailable::Wait)).unwrap();
    eventually("it waits", || {
        matches!(sink.status().failing.as_deref(), Some(SinkError::KeyNotAvailable { seq: 1 }))
    });
    assert_eq!(bench.seqs(), [0]);
    assert_eq!(sink.status().position, 1);
    bench.key.here.store(true, Ordering::Relaxed);
    eventually("it goes on", || sink.status().position == 3 && sink.status().failing.is_none());
    assert_eq!(bench.seqs(), [0, 1, 2]);
    sink.stop();

    bench.key.here.store(false, Ordering::Relaxed);
    bench.record(true, 1);
    let sink = JsonSink::start(&bench.log, bench.options(WhileUnavailable::Pass)).unwrap();
    eventually("it passes", || sink.status().position == 4);
    assert_eq!(bench.lines()[3]["unreadable"], "key-not-available");
}

#[test]
fn a_file_that_was_renamed_away_is_begun_anew() {
    let bench = Bench::new();
    let sink = JsonSink::start(&bench.log, bench.options(WhileUnavailable::Pass)).unwrap();
    bench.record(false, 2);
    eventually("it catches up", || sink.status().position == 2);
    std::fs::rename(bench.dir.path().join("audit.json"), bench.dir.path().join("audit.json.1")).unwrap();
    bench.record(false, 2);
    eventually("it catches up", || sink.status().position == 4);
    assert_eq!(bench.seqs(), [2, 3]);
}

#[test]
fn half_a_line_is_ended_and_its_entry_repeated() {
    let bench = Bench::new();
    bench.record(false, 1);
    std::fs::write(bench.dir.path().join("audit.json"), "{\"seq\":0,\"ti").unwrap();
    let sink = JsonSink::start(&bench.log, bench.options(WhileUnavailable::Pass)).unwrap();
    eventually("it catches up", || sink.status().position == 1);
    let text = std::fs::read_to_string(bench.dir.path().join("audit.json")).unwrap();
    assert!(text.starts_with("{\"seq\":0,\"ti\n{\"seq\":0,\"time\""), "{text}");
}

#[test]
fn a_file_that_cannot_be_written_makes_it_lag_and_nobody_wait() {
    let bench = Bench::new();
    let sink = JsonSink::start(&bench.log, bench.options(WhileUnavailable::Pass)).unwrap();
    std::fs::remove_file(bench.dir.path().join("audit.json")).unwrap();
    std::fs::create_dir(bench.dir.path().join("audit.json")).unwrap();
    bench.record(false, 5);
    eventually("it says so", || sink.status().failing.is_some());
    assert_eq!(sink.status().position, 0);
    std::fs::remove_dir(bench.dir.path().join("audit.json")).unwrap();
    eventually("it catches up", || sink.status().position == 5);
    assert_eq!(bench.seqs(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_position_that_is_none_or_ahead_of_the_log_is_refused() {
    let bench = Bench::new();
    let options = || bench.options(WhileUnavailable::Pass);
    std::fs::write(bench.dir.path().join("audit.cursor"), "x\n").unwrap();
    assert!(matches!(JsonSink::start(&bench.log, options()), Err(SinkError::BadCursor { .. })));
    std::fs::write(bench.dir.path().join("audit.cursor"), "7\n").unwrap();
    assert!(matches!(
        JsonSink::start(&bench.log, options()),
        Err(SinkError::Read(ReadError::NoSuchEntry { .. }))
    ));
}

#[test]
fn closing_the_log_lets_the_sink_finish() {
    let bench = Bench::new();
    let sink = JsonSink::start(&bench.log, bench.options(WhileUnavailable::Pass)).unwrap();
    bench.record(false, 50);
    bench.log.close();
    eventually("it catches up", || sink.status().position == 50);
    assert_eq!(bench.seqs().len(), 50);
}
