//! The open database: its options, its column families and its format. Invariant: the format is read through a read-only open,
//! which writes nothing, before the store is opened for writing.
//!
//! A value is stored as revision u64 ‖ bytes. The newest revision lies in the default column family, in the same write as the
//! batches it counts.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use keystead_storage::format::StoreFormat;
use keystead_storage::{Keyspace, Revision, StorageError, Versioned, keyspace};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, DB, DBCompressionType, DBRecoveryMode, LogLevel, WriteBatch,
    WriteOptions,
};

use crate::directory::{self, Content};
use crate::failure;
use crate::rows::Rows;
use crate::storage::Options;

const MIB: usize = 1 << 20;

/// Where the newest revision is kept, in the default column family.
pub(crate) const REVISION_KEY: &[u8] = b"revision";

/// An open database, and the lock on its directory.
pub(crate) struct Engine {
    // Fields are dropped in this order: the lock goes when the database is closed.
    db: DB,
    path: PathBuf,
    options: Options,
    /// At most as new as what a view that is taken afterwards shows.
    shown: AtomicU64,
    rows: Rows,
    _lock: OwnedFd,
}

impl Engine {
    /// Opens or makes the store at `path`.
    pub(crate) fn open(path: &Path, options: Options) -> Result<Self, StorageError> {
        let lock = directory::lock(path)?;
        let made = match directory::content(path)? {
            Content::New => false,
            Content::Store => check_format(path)?,
        };
        let names = Keyspace::ALL.iter().map(|keyspace| keyspace.name());
        let settings = settings(options);
        let families =
            names.chain([rocksdb::DEFAULT_COLUMN_FAMILY_NAME]).map(|name| (name, settings.clone()));
        let db = DB::open_cf_with_opts(&settings, path, families).map_err(failure::opening)?;
        let (shown, rows) = (AtomicU64::new(0), Rows::new());
        let engine = Self { db, path: path.to_owned(), options, shown, rows, _lock: lock };
        if !made {
            engine.make()?;
        }
        engine.show(engine.newest()?.engine_number());
        Ok(engine)
    }

    /// Writes what a new store holds, in one batch: a store without it is not made yet.
    fn make(&self) -> Result<(), StorageError> {
        let first = Revision::from_engine(1);
        let mut batch = WriteBatch::default();
        let format = encode(first, &StoreFormat::CURRENT.encode());
        batch.put_cf(self.family(Keyspace::Meta)?, keyspace::meta_format(), format);
        batch.put(REVISION_KEY, first.engine_number().to_be_bytes());
        self.write(batch).map_err(failure::opening)
    }

    pub(crate) fn db(&self) -> &DB {
        &self.db
    }

    /// What was read and has not been written since.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn family(&self, keyspace: Keyspace) -> Result<&ColumnFamily, StorageError> {
        self.db.cf_handle(keyspace.name()).ok_or(StorageError::Corrupt {
            what: "a column family is missing",
            keyspace: Some(keyspace),
            source: None,
        })
    }

    /// The families of all keyspaces and the default one.
    pub(crate) fn families(&self) -> Vec<&ColumnFamily> {
        let names = Keyspace::ALL.iter().map(|keyspace| keyspace.name());
        names
            .chain([rocksdb::DEFAULT_COLUMN_FAMILY_NAME])
            .filter_map(|name| self.db.cf_handle(name))
            .collect()
    }

    /// Writes and syncs.
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), rocksdb::Error> {
        let mut how = WriteOptions::default();
        how.set_sync(self.options.sync());
        self.db.write_opt(batch, &how)
    }

    /// The newest commit, as every view that is taken from now on shows it.
    pub(crate) fn shown(&self) -> Revision {
        Revision::from_engine(self.shown.load(Ordering::Acquire))
    }

    /// A commit was written.
    pub(crate) fn show(&self, newest: u64) {
        self.shown.store(newest, Ordering::Release);
    }

    /// The commit that put a key's current value, for the writer, whose newest commit is named.
    pub(crate) fn revision_of(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        newest: u64,
    ) -> Result<Option<Revision>, StorageError> {
        if let Some(row) = self.rows.get(keyspace, key, Revision::from_engine(newest)) {
            return Ok(Some(row.revision));
        }
        let stored = self.db.get_pinned_cf(self.family(keyspace)?, key).map_err(failure::reading)?;
        stored.map(|stored| split(keyspace, &stored).map(|(revision, _)| revision)).transpose()
    }

    /// The newest commit.
    pub(crate) fn newest(&self) -> Result<Revision, StorageError> {
        decode_newest(self.db.get_pinned(REVISION_KEY).map_err(failure::reading)?.as_deref())
    }
}

/// Whether the store was made to the end; an error if this program must not open it.
fn check_format(path: &Path) -> Result<bool, StorageError> {
    let mut settings = rocksdb::Options::default();
    // As the store is written: without it, a read-only open of a store with two live logs, which a crash may leave, is a null
    // pointer in RocksDB (facebook/rocksdb 13235).
    settings.set_track_and_verify_wals_in_manifest(true);
    let families = DB::list_cf(&settings, path).map_err(failure::opening)?;
    if !families.iter().any(|name| name == Keyspace::Meta.name()) {
        return Ok(false);
    }
    let read = [rocksdb::DEFAULT_COLUMN_FAMILY_NAME, Keyspace::Meta.name()];
    let db = DB::open_cf_for_read_only(&settings, path, read, false).map_err(failure::opening)?;
    let corrupt = |what| StorageError::Corrupt { what, keyspace: Some(Keyspace::Meta), source: None };
    let meta = db.cf_handle(Keyspace::Meta.name()).ok_or_else(|| corrupt("a column family is missing"))?;
    let format = db.get_cf(meta, keyspace::meta_format()).map_err(failure::opening)?;
    let revision = db.get(REVISION_KEY).map_err(failure::opening)?;
    match (format, revision) {
        (Some(stored), _) => {
            let (_, format) = split(Keyspace::Meta, &stored)?;
            StoreFormat::decode(format)?.check()?;
        }
        (None, Some(_)) => return Err(corrupt("the format record is missing")),
        (None, None) => return Ok(false),
    }
    let known = |name: &str| {
        name == rocksdb::DEFAULT_COLUMN_FAMILY_NAME
            || Keyspace::ALL.iter().any(|keyspace| keyspace.name() == name)
    };
    if families.iter().all(|name| known(name)) {
        Ok(true)
    } else {
        Err(corrupt("it has a column family of no keyspace"))
    }
}

/// What a value is stored as.
pub(crate) fn encode(revision: Revision, value: &[u8]) -> Vec<u8> {
    [revision.engine_number().to_be_bytes().as_slice(), value].concat()
}

/// Reads a stored value.
pub(crate) fn decode(keyspace: Keyspace, stored: &[u8]) -> Result<Versioned, StorageError> {
    split(keyspace, stored)
        .map(|(revision, value)| Versioned { value: Bytes::copy_from_slice(value), revision })
}

/// Reads the newest revision as it is stored.
pub(crate) fn decode_newest(stored: Option<&[u8]>) -> Result<Revision, StorageError> {
    let number = stored.and_then(|stored| stored.try_into().ok()).map(u64::from_be_bytes);
    number.map(Revision::from_engine).ok_or(StorageError::Corrupt {
        what: "the newest revision is missing",
        keyspace: None,
        source: None,
    })
}

fn split(keyspace: Keyspace, stored: &[u8]) -> Result<(Revision, &[u8]), StorageError> {
    let short = || StorageError::Corrupt {
        what: "a stored value is shorter than its revision",
        keyspace: Some(keyspace),
        source: None,
    };
    let (revision, value) = stored.split_first_chunk::<8>().ok_or_else(short)?;
    Ok((Revision::from_engine(u64::from_be_bytes(*revision)), value))
}

fn settings(options: Options) -> rocksdb::Options {
    let mut settings = rocksdb::Options::default();
    settings.create_if_missing(true);
    settings.create_missing_column_families(true);
    settings.set_paranoid_checks(true);
    // A record cut off by a crash was never acknowledged and is dropped; absolute consistency would refuse to start after
    // every power cut in the middle of a write. A log that is missing, or shorter than it was when synced, is an error.
    settings.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    settings.set_track_and_verify_wals_in_manifest(true);
    if !options.sync() {
        settings.set_manual_wal_flush(true);
    }
    // Ciphertext does not compress, and a search of the files for a planted marker must be able to find it.
    settings.set_compression_type(DBCompressionType::None);
    settings.set_bottommost_compression_type(DBCompressionType::None);
    settings.set_wal_compression_type(DBCompressionType::None);
    // These bound what a start has to replay and open, however much the store holds.
    settings.set_max_total_wal_size(64 << 20);
    settings.set_db_write_buffer_size(64 * MIB);
    settings.set_write_buffer_size(16 * MIB);
    // Most keys that a change looks for and does not find are fresh ids: a filter says so without a search.
    settings.set_memtable_prefix_bloom_ratio(0.005);
    settings.set_memtable_whole_key_filtering(true);
    settings.set_max_open_files(512);
    settings.set_skip_stats_update_on_db_open(true);
    settings.set_log_level(LogLevel::Warn);
    settings.set_max_log_file_size(MIB);
    settings.set_keep_log_file_num(3);
    settings.set_stats_dump_period_sec(0);
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(10.0, false);
    table.set_block_cache(&Cache::new_lru_cache(64 * MIB));
    settings.set_block_based_table_factory(&table);
    settings
}
