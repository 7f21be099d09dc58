//! The storage port: ordered keyspaces, snapshots, and one atomic batch with preconditions.
//!
//! Invariant: nothing here, and nothing above it, assumes one process or one engine; revisions are opaque, a commit may end in
//! an unknown outcome, and work larger than a batch is a job that resumes. Values are ciphertext made elsewhere: this crate
//! reads none of them. Absent: encryption, retries, any knowledge of paths and names.

mod batch;
mod changes;
pub mod conformance;
mod error;
pub mod fault;
pub mod format;
pub mod keyspace;
pub mod memory;
mod port;
mod range;

pub use batch::{
    Batch, MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_OPERATIONS, Operation, Precondition, Requirement,
};
pub use changes::{Change, ChangeFeed, ChangeFeedError, ChangeHub, ChangeSource, ChangedKey};
pub use error::{EngineError, StorageError};
pub use keyspace::Keyspace;
pub use memory::MemoryStorage;
pub use port::{MAX_PAGE, Revision, Snapshot, Stats, Storage, Versioned, check_page};
pub use range::Range;
