//! Making sure that a deleted or replaced value is in no file. Invariant: success is looked for on disk, not assumed: no table
//! that could hold an older value of the key, and no log from before, is there any more when it returns.

use std::collections::HashSet;
use std::thread;
use std::time::Duration;

use keystead_storage::{Keyspace, StorageError};
use rocksdb::{BottommostLevelCompaction, CompactOptions, FlushOptions, LiveFile, WriteBatch};

use crate::directory;
use crate::engine::Engine;
use crate::failure;

const LOOK_AGAIN: Duration = Duration::from_millis(5);
const LOOKS: u32 = 2_000;
const FLUSH_AGAIN_AFTER: u32 = 40;
/// In the default family: written so that there is something to flush, and never read.
const PURGE_KEY: &[u8] = b"purge";

/// Removes every earlier value of the key from tables and logs. Blocks.
pub(crate) fn purge(engine: &Engine, keyspace: Keyspace, key: &[u8]) -> Result<(), StorageError> {
    let db = engine.db();
    let now = db.latest_sequence_number();
    // Compaction keeps what a snapshot can still see.
    wait("purging: a snapshot from before is still held", || {
        let oldest = db.property_int_value("rocksdb.oldest-snapshot-sequence").map_err(failure::reading)?;
        Ok(oldest.is_none_or(|oldest| oldest == 0 || oldest >= now))
    })?;
    let logs = directory::logs(engine.path()).map_err(|source| unreadable(engine, source))?;
    flush(engine)?;
    let over = tables_over(engine, keyspace, key)?;
    let tables: HashSet<String> = over.iter().map(|table| table.name.clone()).collect();
    if !tables.is_empty() {
        write_anew(engine, keyspace, key, key)?;
    }
    // The engine leaves a table alone in which it finds no entry of the key. Nobody has to believe that: it goes by its own range.
    for table in tables_over(engine, keyspace, key)?.iter().filter(|table| tables.contains(&table.name)) {
        let (start, end) = (table.start_key.as_deref(), table.end_key.as_deref());
        write_anew(engine, keyspace, start.unwrap_or(key), end.unwrap_or(key))?;
    }
    let mut looks = 0_u32;
    wait("purging: an old file is still there", || {
        let logs_left = directory::logs(engine.path()).map_err(|source| unreadable(engine, source))?;
        looks = looks.saturating_add(1);
        if looks.is_multiple_of(FLUSH_AGAIN_AFTER) {
            // The engine removes files when a flush or compaction ends, and none that was made while another one ran; and a
            // write into a family that was empty keeps the log from before. So there is one more flush, of something.
            let mut something = WriteBatch::default();
            something.put(PURGE_KEY, []);
            engine.write(something).map_err(failure::maintaining)?;
            flush(engine)?;
        }
        let tables_left = tables.iter().any(|name| engine.path().join(name.trim_start_matches('/')).exists());
        Ok(!tables_left && !logs_left.iter().any(|number| logs.contains(number)))
    })
}

/// Moves what is only in the log into tables. Blocks.
pub(crate) fn flush(engine: &Engine) -> Result<(), StorageError> {
    engine.db().flush_cfs_opt(&engine.families(), &FlushOptions::default()).map_err(failure::maintaining)
}

/// Compacts the tables with keys in a range. Blocks.
fn write_anew(engine: &Engine, keyspace: Keyspace, start: &[u8], end: &[u8]) -> Result<(), StorageError> {
    let mut options = CompactOptions::default();
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    engine.db().compact_range_cf_opt(engine.family(keyspace)?, Some(start), Some(end), &options);
    Ok(())
}

/// The tables whose range of keys includes the key.
fn tables_over(engine: &Engine, keyspace: Keyspace, key: &[u8]) -> Result<Vec<LiveFile>, StorageError> {
    let live = engine.db().live_files().map_err(failure::reading)?;
    let over = live.into_iter().filter(|file| {
        file.column_family_name == keyspace.name()
            && file.start_key.as_deref().is_none_or(|start| start <= key)
            && file.end_key.as_deref().is_none_or(|end| key <= end)
    });
    Ok(over.collect())
}

fn wait(
    while_doing: &'static str,
    mut done: impl FnMut() -> Result<bool, StorageError>,
) -> Result<(), StorageError> {
    for _ in 0..LOOKS {
        if done()? {
            return Ok(());
        }
        thread::sleep(LOOK_AGAIN);
    }
    Err(StorageError::Unavailable { while_doing, source: None })
}

fn unreadable(engine: &Engine, source: std::io::Error) -> StorageError {
    StorageError::Directory { path: engine.path().to_owned(), source }
}
