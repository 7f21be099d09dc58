//! Why storage refused or failed. Invariant: only `UnknownOutcome` leaves it open whether a commit was applied; no variant
//! holds a value, and keys appear as keyspace and position only.

use std::error::Error;
use std::path::PathBuf;

use crate::Keyspace;
use crate::batch::{MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_OPERATIONS};
use crate::port::MAX_PAGE;

/// The engine's own error, kept for the log.
pub type EngineError = Box<dyn Error + Send + Sync>;

/// Why storage refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A requirement of the batch does not hold: somebody else wrote first.
    #[error("requirement {requirement} of the batch, on a key of {keyspace}, does not hold")]
    Conflict {
        /// Where the key lives.
        keyspace: Keyspace,
        /// The position of the requirement in the batch, from 0.
        requirement: usize,
    },
    /// The batch breaks a limit that every engine keeps.
    #[error(
        "a batch of {operations} operations and {bytes} bytes is over the limit of {MAX_OPERATIONS} and {MAX_BATCH_BYTES}"
    )]
    BatchTooLarge {
        /// Operations and requirements together.
        operations: usize,
        /// Keys and values together.
        bytes: usize,
    },
    /// A key that is empty or too long.
    #[error("a key of {length} bytes in {keyspace}: keys have 1 to {MAX_KEY_BYTES} bytes")]
    KeyLength {
        /// Where the key was to live.
        keyspace: Keyspace,
        /// Its length in bytes.
        length: usize,
    },
    /// One key is written twice in a batch.
    #[error("operation {operation} of the batch writes a key of {keyspace} that the batch writes already")]
    DuplicateKey {
        /// Where the key lives.
        keyspace: Keyspace,
        /// The position of the second write, from 0.
        operation: usize,
    },
    /// A page larger than any engine gives.
    #[error("a page of {limit} entries is over the limit of {MAX_PAGE}")]
    PageTooLarge {
        /// What was asked for.
        limit: usize,
    },
    /// The engine cannot answer now. Nothing was applied.
    #[error("the store is unavailable: {while_doing}")]
    Unavailable {
        /// What could not be done.
        while_doing: &'static str,
        /// The engine's own words.
        #[source]
        source: Option<EngineError>,
    },
    /// There is no space left. Nothing was applied; writes go on when there is space again.
    #[error("the store's disk is full; nothing was written")]
    Full {
        /// The engine's own words.
        #[source]
        source: Option<EngineError>,
    },
    /// The commit may have been applied, or not, or may still be.
    #[error("it is unknown whether the commit was applied: look before trying again")]
    UnknownOutcome {
        /// The engine's own words.
        #[source]
        source: Option<EngineError>,
    },
    /// What is stored cannot be right.
    #[error("the store is corrupt: {what}")]
    Corrupt {
        /// What does not fit.
        what: &'static str,
        /// Where, if it is one keyspace.
        keyspace: Option<Keyspace>,
        /// The engine's own words.
        #[source]
        source: Option<EngineError>,
    },
    /// A newer program wrote this store. It was not touched.
    #[error(
        "the store has format {found} with unknown features {unknown_features:#x}; this program knows format {supported}: use a newer one"
    )]
    NewerFormat {
        /// The format in the store.
        found: u32,
        /// The newest that this program knows.
        supported: u32,
        /// Feature bits that this program does not know.
        unknown_features: u64,
    },
    /// Another process, or another part of this one, has the store open.
    #[error("the store at {path} is in use by another process", path = path.display())]
    InUse {
        /// The store's directory.
        path: PathBuf,
    },
    /// The directory holds something that is not a store. It was not touched.
    #[error("{path} is neither empty nor a store", path = path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
    },
    /// Others may read or write the directory, or own it.
    #[error("{path} must belong to this process's user and be closed to all others (mode 0700): its mode is {mode:04o}", path = path.display())]
    LooseDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The directory cannot be made or opened.
    #[error("the store's directory {path} cannot be opened", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StorageError {
    /// False only where a commit may have taken effect all the same.
    #[must_use]
    pub const fn nothing_was_applied(&self) -> bool {
        !matches!(self, Self::UnknownOutcome { .. })
    }
}
