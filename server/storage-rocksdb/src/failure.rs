//! RocksDB's errors in the port's terms. Invariant: only an error that proves that a write did not reach the log says that
//! nothing was applied.

use keystead_storage::StorageError;
use rocksdb::{Error, ErrorKind};

/// An error of a read.
pub(crate) fn reading(error: Error) -> StorageError {
    if error.kind() == ErrorKind::Corruption {
        corrupt("the engine refused what it read", error)
    } else {
        unavailable("reading", error)
    }
}

/// An error of opening.
pub(crate) fn opening(error: Error) -> StorageError {
    match error.kind() {
        ErrorKind::Corruption | ErrorKind::NotSupported | ErrorKind::InvalidArgument => {
            corrupt("the engine cannot open it", error)
        }
        _ if no_space(&error) => StorageError::Full { source: Some(Box::new(error)) },
        _ => unavailable("opening", error),
    }
}

/// An error of flushing or purging.
pub(crate) fn maintaining(error: Error) -> StorageError {
    match error.kind() {
        ErrorKind::Corruption => corrupt("the engine refused what it read", error),
        _ if no_space(&error) => StorageError::Full { source: Some(Box::new(error)) },
        _ => unavailable("flushing", error),
    }
}

/// Whether a failed write left nothing in the log: there was no space to append its record, which RocksDB then never
/// applies. After a failed sync nobody knows what the disk holds.
pub(crate) fn left_nothing(error: &Error) -> bool {
    let words = error.as_ref();
    no_space(error)
        && !["fsync", "fdatasync", "sync_file_range"]
            .iter()
            .any(|call| words.contains(&format!("While {call}")))
}

pub(crate) fn unavailable(while_doing: &'static str, error: Error) -> StorageError {
    StorageError::Unavailable { while_doing, source: Some(Box::new(error)) }
}

fn corrupt(what: &'static str, error: Error) -> StorageError {
    StorageError::Corrupt { what, keyspace: None, source: Some(Box::new(error)) }
}

fn no_space(error: &Error) -> bool {
    error.kind() == ErrorKind::IOError && error.as_ref().contains("No space left on device")
}
