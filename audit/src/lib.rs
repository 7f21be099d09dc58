//! Keystead's audit log: entries, the files that hold them, the Merkle tree over them, and offline verification.
//!
//! Callers reserve a slot before they act, record an entry, and wait for a future that completes when the entry is as
//! durable as they asked. One thread syncs; what needs no sync is written by its caller where nobody else is writing.
//! Invariant: what was acknowledged is in the log, in order, without gaps, and what cannot be written is refused. The
//! format is docs/audit-format.md.
//! Absent: keys (bodies are sealed and opened through ports), the network, an async runtime, and time (callers pass it).

mod body;
mod checkpoint;
mod entry;
mod error;
mod failure;
#[cfg(test)]
mod fault;
mod files;
mod follow;
mod history;
mod json;
mod log;
mod merkle;
mod queue;
mod reader;
mod recover;
mod seal;
mod segment;
mod sink;
mod turns;
mod verify;
mod wire;
mod writer;

pub use body::{Body, BodyError, BodyTooLarge, MAX_BODY_BYTES};
pub use checkpoint::Checkpoint;
pub use entry::{
    Entry, EntryError, EntryKind, InvalidNode, MAX_ENTRY_BYTES, Node, OpenBodyError, StoredBody, UnixMillis,
};
pub use error::{AuditError, FrameFault, HeaderFault, OpenError, ReadError, Refused};
pub use follow::{Follower, Growth};
pub use json::{entry_json, rfc3339};
pub use log::{AuditLog, Durability, OpenOptions, Recorded, ReserveWait, Slot, Status};
pub use merkle::{Hash, TreeEdge, leaf_hash};
pub use queue::{Head, State};
pub use reader::Reader;
pub use recover::TornTail;
pub use seal::{BodyInput, BodyOpener, BodySealer, OpenFailed, SealFailed};
pub use sink::{JsonSink, JsonSinkOptions, SinkError, SinkStatus, WhileUnavailable};
pub use verify::{Report, verify};
