//! RocksDB against the conformance suite, and what only an engine on disk can be asked. Each test has its own directory.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use keystead_storage::conformance::{self, Engine};
use keystead_storage::format::StoreFormat;
use keystead_storage::{Batch, Keyspace, Range, Storage, StorageError, keyspace};
use keystead_storage_rocksdb::{Options, RocksStorage};

#[derive(Default)]
struct Rocks(Mutex<Option<tempfile::TempDir>>);

#[async_trait]
impl Engine for Rocks {
    async fn fresh(&self) -> Result<Arc<dyn Storage>, StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let store = open(&directory.path().join("store"))?;
        *self.0.lock().unwrap() = Some(directory);
        Ok(Arc::new(store))
    }

    async fn reopened(&self) -> Result<Arc<dyn Storage>, StorageError> {
        let path = self.0.lock().unwrap().as_ref().unwrap().path().join("store");
        Ok(Arc::new(open(&path)?))
    }
}

fn open(path: &Path) -> Result<RocksStorage, StorageError> {
    RocksStorage::open(path, Options::default())
}

fn put(keyspace: Keyspace, key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(keyspace, key.to_vec(), value.to_vec());
    batch
}

fn files(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn files_with(path: &Path, marker: &[u8]) -> Vec<String> {
    let found = files(path)
        .into_iter()
        .filter(|(_, bytes)| bytes.windows(marker.len()).any(|window| window == marker));
    found.map(|(path, _)| path.extension().unwrap().to_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_conforms() {
    conformance::run(&Rocks::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_a_sync() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&directory.path().join("store")).unwrap());
    let writers: Vec<_> = (0..64_u8)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..10_u8 {
                    store.commit(put(Keyspace::Secrets, &[writer, n], &[7; 1024])).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.commits, stats.pending), (640, 0));
    assert!(stats.groups <= 320, "{} syncs for 640 commits", stats.groups);
}

#[tokio::test]
async fn a_purged_value_is_in_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path).unwrap();
    let (logged, tabled) = (b"marker-in-the-log-5e1f", b"marker-in-a-table-77aa");
    store.commit(put(Keyspace::DataKeys, b"tabled", tabled)).await.unwrap();
    store.flush().await.unwrap();
    store.commit(put(Keyspace::DataKeys, b"logged", logged)).await.unwrap();
    store.commit(put(Keyspace::Policies, b"other", b"stays")).await.unwrap();
    // The same search must find them first.
    assert_eq!(files_with(&path, tabled), ["sst"]);
    assert_eq!(files_with(&path, logged), ["log"]);

    let mut batch = put(Keyspace::DataKeys, b"logged", b"replaced");
    batch.delete(Keyspace::DataKeys, &b"tabled"[..]);
    store.commit(batch).await.unwrap();
    store.purge(Keyspace::DataKeys, b"tabled").await.unwrap();
    assert_eq!(files_with(&path, tabled), [""; 0]);
    store.purge(Keyspace::DataKeys, b"logged").await.unwrap();
    assert_eq!(files_with(&path, logged), [""; 0]);
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.get(Keyspace::DataKeys, b"logged").await.unwrap().unwrap().value, "replaced");
    assert_eq!(snapshot.get(Keyspace::Policies, b"other").await.unwrap().unwrap().value, "stays");
}

#[tokio::test]
async fn a_key_that_a_table_covers_and_does_not_hold_is_purged() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory.path().join("store")).unwrap();
    for key in [b"a", b"c"] {
        store.commit(put(Keyspace::DataKeys, key, b"stays")).await.unwrap();
    }
    store.flush().await.unwrap();
    store.purge(Keyspace::DataKeys, b"b").await.unwrap();
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.get(Keyspace::DataKeys, b"c").await.unwrap().unwrap().value, "stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_again_and_again_under_load_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = Arc::new(open(&path).unwrap());
    let writing = Arc::clone(&store);
    let load = tokio::spawn(async move {
        for n in 0..400_u16 {
            let key = [n.to_be_bytes(), *b"on"].concat();
            writing.commit(put(Keyspace::Secrets, &key, &[1; 2000])).await.unwrap();
            writing.snapshot().await.unwrap().get(Keyspace::Secrets, &key).await.unwrap().unwrap();
        }
    });
    for n in 0..8_u16 {
        let marker = format!("purge-marker-{n}-of-eight");
        store.commit(put(Keyspace::Secrets, &(n * 50).to_be_bytes(), marker.as_bytes())).await.unwrap();
        let mut batch = Batch::new();
        batch.delete(Keyspace::Secrets, (n * 50).to_be_bytes().to_vec());
        store.commit(batch).await.unwrap();
        store.purge(Keyspace::Secrets, &(n * 50).to_be_bytes()).await.unwrap();
    }
    load.await.unwrap();
    store.close().await.unwrap();
    assert_eq!(files_with(&path, b"purge-marker-"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_does_not_wait_for_families_that_others_begin_to_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&directory.path().join("store")).unwrap());
    // Now and then, so that these families are mostly empty when a purge flushes.
    let others = [Keyspace::Meta, Keyspace::Intents, Keyspace::Policies, Keyspace::Sessions].map(|space| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0..300_u16 {
                store.commit(put(space, &n.to_be_bytes(), b"x")).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
    });
    for n in 0..60_u16 {
        store.commit(put(Keyspace::DataKeys, &n.to_be_bytes(), b"gone")).await.unwrap();
        store.purge(Keyspace::DataKeys, &n.to_be_bytes()).await.unwrap();
    }
    for other in others {
        other.await.unwrap();
    }
}

#[tokio::test]
async fn a_store_of_a_newer_format_is_refused_and_left_alone() {
    let newer = [StoreFormat { version: 2, features: 0 }, StoreFormat { version: 1, features: 1 << 63 }];
    for format in newer {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let store = open(&path).unwrap();
        store.commit(put(Keyspace::Policies, b"key", b"value")).await.unwrap();
        store.commit(put(Keyspace::Meta, &keyspace::meta_format(), &format.encode())).await.unwrap();
        drop(store);
        let before = files(&path);
        assert!(matches!(open(&path), Err(StorageError::NewerFormat { .. })));
        assert!(before == files(&path), "a refused store must be left as it was");
    }
}

#[tokio::test]
async fn a_damaged_format_record_is_corrupt() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path).unwrap();
    store.commit(put(Keyspace::Meta, &keyspace::meta_format(), b"KSST")).await.unwrap();
    drop(store);
    assert!(matches!(open(&path), Err(StorageError::Corrupt { .. })));
}

#[tokio::test]
async fn a_second_open_is_refused_until_the_first_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path).unwrap();
    assert!(matches!(open(&path), Err(StorageError::InUse { path: named }) if named == path));
    let held = store.snapshot().await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(open(&path), Err(StorageError::InUse { .. })), "a held snapshot keeps the store open");
    assert!(held.get(Keyspace::Meta, &keyspace::meta_format()).await.unwrap().is_some());
    drop(held);
    open(&path).unwrap();
}

#[tokio::test]
async fn files_are_private_whatever_the_umask_and_loose_directories_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    rustix::process::umask(rustix::fs::Mode::empty());
    let store = open(&path).unwrap();
    store.commit(put(Keyspace::Secrets, b"k", b"v")).await.unwrap();
    store.flush().await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for file in files(&path).keys() {
        assert_eq!(mode(file) & 0o077, 0, "{}", file.display());
    }
    drop(store);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(open(&path), Err(StorageError::LooseDirectory { mode: 0o750, .. })));
}

#[test]
fn other_directories_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(path.join("thesis.txt"), "years of work").unwrap();
    assert!(matches!(open(&path), Err(StorageError::NotAStore { .. })));
    assert_eq!(files(&path).len(), 1);
    assert!(matches!(open(&directory.path().join("no/such/parent")), Err(StorageError::Directory { .. })));
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(open(&link), Err(StorageError::Directory { .. })));
    assert!(matches!(open(&path.join("thesis.txt")), Err(StorageError::Directory { .. })));
}

#[tokio::test]
async fn an_interrupted_making_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    // A crash after RocksDB made its database, with some families, and before the format record.
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, &path, [Keyspace::Meta.name(), Keyspace::Seal.name()]).unwrap());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let store = open(&path).unwrap();
    let stored =
        store.snapshot().await.unwrap().get(Keyspace::Meta, &keyspace::meta_format()).await.unwrap().unwrap();
    assert_eq!(StoreFormat::decode(&stored.value).unwrap(), StoreFormat::CURRENT);
}

#[tokio::test]
async fn a_torn_last_record_loses_only_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path).unwrap();
    store.commit(put(Keyspace::Secrets, b"first", b"1")).await.unwrap();
    store.commit(put(Keyspace::Secrets, b"second", &[2; 500])).await.unwrap();
    drop(store);
    let log = files(&path).into_keys().find(|path| path.extension().is_some_and(|end| end == "log")).unwrap();
    let length = fs::metadata(&log).unwrap().len();
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(length - 100).unwrap();
    let store = open(&path).unwrap();
    let found = store.snapshot().await.unwrap().range(Keyspace::Secrets, Range::all(None), 10).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "first");
    store.commit(put(Keyspace::Secrets, b"second", b"2")).await.unwrap();
}

#[tokio::test]
async fn a_flipped_bit_in_a_table_is_corruption_and_never_a_value() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = open(&path).unwrap();
    store.commit(put(Keyspace::Secrets, b"key", b"a value to be damaged")).await.unwrap();
    store.flush().await.unwrap();
    drop(store);
    let (table, mut bytes) = files(&path)
        .into_iter()
        .find(|(_, bytes)| bytes.windows(10).any(|window| window == b"be damaged"))
        .unwrap();
    let at = bytes.windows(10).position(|window| window == b"be damaged").unwrap();
    bytes[at] ^= 1;
    fs::write(&table, bytes).unwrap();
    let store = open(&path).unwrap();
    let snapshot = store.snapshot().await.unwrap();
    assert!(matches!(snapshot.get(Keyspace::Secrets, b"key").await, Err(StorageError::Corrupt { .. })));
    let scanned = snapshot.range(Keyspace::Secrets, Range::all(None), 10).await;
    assert!(matches!(scanned, Err(StorageError::Corrupt { .. })));
}
