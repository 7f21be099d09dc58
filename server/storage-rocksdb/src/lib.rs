//! The embedded engine: RocksDB behind the storage port, and the only crate that links it.
//!
//! Invariant: a commit is answered after its log record was synced; one writer thread takes whatever batches wait, checks
//! their requirements in order and writes them as one. Nothing is compressed, so what is on disk can be searched for.
//! What was read by key stays at hand until it is written again (`rows`).
//! Absent: column-family tuning by configuration, replication, and any reading of values.

mod directory;
mod engine;
mod failure;
mod purge;
mod rows;
mod snapshot;
mod storage;
mod writer;

pub use storage::{Options, RocksStorage};
