//! Ends the process that writes, and fills its disk. The test binary runs itself again as that process.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use keystead_storage::{Batch, Keyspace, Storage, StorageError};
use keystead_storage_rocksdb::{Options, RocksStorage};

const STORE: &str = "KEYSTEAD_TEST_STORE";
const UNSYNCED: &str = "KEYSTEAD_TEST_UNSYNCED";

fn put(number: u64, size: usize) -> Batch {
    let mut batch = Batch::new();
    batch.put(Keyspace::Secrets, number.to_be_bytes().to_vec(), vec![7; size]);
    batch.put(Keyspace::DataKeys, number.to_be_bytes().to_vec(), number.to_be_bytes().to_vec());
    batch
}

/// This test binary, running one ignored test.
fn again(test: &str, store: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(STORE, store);
    command
}

fn store_path() -> PathBuf {
    PathBuf::from(std::env::var_os(STORE).expect("run by the other tests"))
}

#[tokio::test]
#[ignore = "run by the tests that end it"]
async fn writer() {
    let unsynced = std::env::var_os(UNSYNCED).is_some();
    let options = if unsynced { Options::unsynced_for_tests() } else { Options::default() };
    let store = RocksStorage::open(&store_path(), options).unwrap();
    for number in 0_u64.. {
        store.commit(put(number, 300)).await.unwrap();
        writeln!(std::io::stdout(), "\nacknowledged {number}").unwrap();
    }
}

/// How many of the acknowledged writes a killed writer left, of how many.
async fn kill_after(acknowledged: u64, unsynced: bool) -> (u64, u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let mut command = again("writer", &path);
    if unsynced {
        command.env(UNSYNCED, "1");
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = 0;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut count = |seen: &mut u64, until: u64| {
        while *seen < until
            && let Some(Ok(line)) = lines.next()
        {
            *seen += u64::from(line.starts_with("acknowledged "));
        }
    };
    count(&mut seen, acknowledged);
    child.kill().unwrap();
    child.wait().unwrap();
    count(&mut seen, u64::MAX);
    assert!(seen >= acknowledged, "the writer ended by itself");
    let store = RocksStorage::open(&path, Options::default()).unwrap();
    let snapshot = store.snapshot().await.unwrap();
    let mut left = 0;
    for number in 0..seen {
        let secret = snapshot.get(Keyspace::Secrets, &number.to_be_bytes()).await.unwrap();
        let key = snapshot.get(Keyspace::DataKeys, &number.to_be_bytes()).await.unwrap();
        assert_eq!(secret.is_some(), key.is_some(), "a batch is whole");
        left += u64::from(secret.is_some());
    }
    (left, seen)
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_kill() {
    for acknowledged in [1, 7, 40, 90, 150] {
        let (left, seen) = kill_after(acknowledged, false).await;
        assert_eq!(left, seen);
    }
}

#[tokio::test]
async fn without_syncing_the_same_test_finds_losses() {
    let (left, seen) = kill_after(40, true).await;
    assert!(left < seen, "all of {seen} writes were there");
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let inner = again("on_a_small_disk", directory.path());
    let mount = "mount -t tmpfs -o size=64m,mode=0700 tmpfs \"$0\" && exec \"$@\"";
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount])
        .arg(directory.path())
        .arg(inner.get_program())
        .args(inner.get_args())
        .env(STORE, directory.path())
        .status()
        .expect("unshare (util-linux) runs");
    assert!(status.success());
}

#[tokio::test]
#[ignore = "run in a mount namespace of its own"]
async fn on_a_small_disk() {
    // RocksDB reserves its log's space where it can: with the disk filled before, the log meets the end of it, with the disk
    // filled after, a table does.
    for filled_before in [true, false] {
        let disk = store_path().join(format!("filled-before-{filled_before}"));
        std::fs::create_dir(&disk).unwrap();
        fill_and_free(&disk, filled_before).await;
        std::fs::remove_dir_all(&disk).unwrap();
    }
}

async fn fill_and_free(disk: &Path, filled_before: bool) {
    let (path, ballast) = (disk.join("store"), disk.join("ballast"));
    let fill = |mebibytes: usize| std::fs::write(&ballast, vec![0; mebibytes << 20]).unwrap();
    if filled_before {
        fill(60);
    }
    let store = RocksStorage::open(&path, Options::default()).unwrap();
    if !filled_before {
        fill(40);
    }
    let mut written = 0;
    let refused = loop {
        match store.commit(put(written, 100_000)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(
        written > 5 && matches!(refused, StorageError::Full { .. }),
        "{written} writes, then {refused:?}"
    );
    for number in 0..written {
        let stored =
            store.snapshot().await.unwrap().get(Keyspace::Secrets, &number.to_be_bytes()).await.unwrap();
        assert_eq!(stored.unwrap().value.len(), 100_000, "reads go on");
    }
    assert!(store.commit(put(written, 100_000)).await.unwrap_err().nothing_was_applied());
    let snapshot = store.snapshot().await.unwrap();
    assert!(
        snapshot.get(Keyspace::Secrets, &written.to_be_bytes()).await.unwrap().is_none(),
        "refused is not applied"
    );
    drop(snapshot);

    std::fs::remove_file(&ballast).unwrap();
    let mut tries = 0;
    while let Err(error) = store.commit(put(written, 100)).await {
        assert!(error.nothing_was_applied(), "{error:?}");
        tries += 1;
        assert!(tries < 300, "still refused long after there was space: {error:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(store);
    let store = RocksStorage::open(&path, Options::default()).unwrap();
    let snapshot = store.snapshot().await.unwrap();
    for number in 0..=written {
        assert!(
            snapshot.get(Keyspace::Secrets, &number.to_be_bytes()).await.unwrap().is_some(),
            "write {number}"
        );
    }
}

#[tokio::test]
async fn a_store_whose_end_left_two_logs_opens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    drop(RocksStorage::open(&path, Options::default()).unwrap());
    let mut settings = rocksdb::Options::default();
    settings.set_track_and_verify_wals_in_manifest(true);
    let families = rocksdb::DB::list_cf(&settings, &path).unwrap();
    let db = rocksdb::DB::open_cf(&settings, &path, families).unwrap();
    // A flush of one family begins a log; the one before is closed, and needed for the other family.
    db.put_cf(db.cf_handle(Keyspace::Secrets.name()).unwrap(), b"in the first log", 7_u64.to_be_bytes())
        .unwrap();
    let flushed = db.cf_handle(Keyspace::Meta.name()).unwrap();
    db.put_cf(flushed, b"in a table", 8_u64.to_be_bytes()).unwrap();
    db.flush_cf(flushed).unwrap();
    db.put_cf(flushed, b"in the second log", 9_u64.to_be_bytes()).unwrap();
    db.flush_wal(true).unwrap();
    let copy = directory.path().join("copy");
    assert!(Command::new("cp").arg("-a").arg(&path).arg(&copy).status().unwrap().success());

    let store = RocksStorage::open(&copy, Options::default()).unwrap();
    let snapshot = store.snapshot().await.unwrap();
    for (keyspace, key) in
        [(Keyspace::Secrets, b"in the first log".as_slice()), (Keyspace::Meta, b"in the second log")]
    {
        assert!(snapshot.get(keyspace, key).await.unwrap().is_some(), "{keyspace:?}");
    }
}
