//! What can go wrong with the log, by who is told: the opener, the one who reserves, the one who records, the reader.
//!
//! Invariant: a variant names the file, place or limit concerned; no variant holds what an entry says.
//! Absent: malformed entries and bodies, which `entry` and `body` describe themselves.

use crate::body::BodyTooLarge;
use crate::entry::EntryError;
use crate::seal::SealFailed;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// What is wrong with the bytes at a place of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameFault {
    /// The file ends before the frame does.
    #[error("the file ends inside the frame")]
    Truncated,
    /// No frame begins here.
    #[error("no frame begins here")]
    BadMagic,
    /// The frame claims a length that no entry has.
    #[error("the frame claims {length} bytes")]
    BadLength {
        /// The claimed length.
        length: u32,
    },
    /// The checksum does not fit the bytes.
    #[error("the checksum is wrong")]
    BadChecksum,
    /// The frame is whole, but what it holds is no entry.
    #[error("the frame holds no entry: {0}")]
    BadEntry(EntryError),
    /// The entry is not the one that belongs here.
    #[error("the entry is number {found}")]
    WrongSequence {
        /// The number it has.
        found: u64,
    },
}

/// What is wrong with the beginning of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderFault {
    /// The file ends inside its header.
    #[error("the file ends inside its header")]
    Truncated,
    /// It is not a log file.
    #[error("it is not an audit log file")]
    BadMagic,
    /// Another format than this program knows.
    #[error("log file format {found} is not known")]
    UnknownFormat {
        /// The format byte.
        found: u8,
    },
    /// The checksum does not fit the bytes.
    #[error("the checksum is wrong")]
    BadChecksum,
    /// The number of tree roots does not fit the first sequence number.
    #[error("the tree's edge does not fit its size")]
    BadEdge,
    /// The tree's edge is not the one that the entries of the files before it give.
    #[error("the tree's edge is not that of the entries before")]
    OtherTree,
    /// The file's name says another first sequence number.
    #[error("it begins with entry {found}, which is not what its name says")]
    WrongName {
        /// The first sequence number in the header.
        found: u64,
    },
}

/// Why the log cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory holds no log.
    #[error("{} holds no audit log", path.display())]
    NoLog {
        /// The directory.
        path: PathBuf,
    },
    /// A file's beginning is damaged.
    #[error("{}: {fault}", path.display())]
    BadHeader {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: HeaderFault,
    },
    /// A file is damaged at a place that had been stored durably.
    #[error("{}: entry {seq} at byte {offset}: {fault}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where the frame begins.
        offset: u64,
        /// The entry that belongs there.
        seq: u64,
        /// What is wrong.
        fault: FrameFault,
    },
    /// Entries are missing between two files.
    #[error("{} begins with entry {found}, but entry {expected} comes next", path.display())]
    Gap {
        /// The later file.
        path: PathBuf,
        /// The entry that should come.
        expected: u64,
        /// The entry the file begins with.
        found: u64,
    },
    /// An entry that is no longer, or not yet, in the log.
    #[error("the log has no entry {seq}; it begins with {first}")]
    NoSuchEntry {
        /// The entry asked for.
        seq: u64,
        /// The first one there is.
        first: u64,
    },
}

/// Why the log cannot be opened for writing.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process writes this log.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The log's directory.
        path: PathBuf,
    },
    /// Others than the owner could change the log, or it is not of the kind it should be.
    #[error("{} is not a {expected} that only its owner can change (mode {mode:o})", path.display())]
    Insecure {
        /// The path.
        path: PathBuf,
        /// `directory` or `file`.
        expected: &'static str,
        /// Its mode.
        mode: u32,
    },
    /// The log is another vault's or another node's.
    #[error("the log belongs to {stored}, not to {given}")]
    OriginMismatch {
        /// Whose it is.
        stored: String,
        /// Who opened it.
        given: String,
    },
    /// An origin that cannot be written on one line of a checkpoint.
    #[error("an origin has 1 to 200 printable ASCII characters without spaces or '+'")]
    InvalidOrigin,
    /// A size in the options is out of bounds.
    #[error("{option} must be between {least} and {most}")]
    BadOption {
        /// The option.
        option: &'static str,
        /// Its least value.
        least: u64,
        /// Its greatest value.
        most: u64,
    },
    /// The log is damaged.
    #[error("the log is damaged")]
    Damaged(#[from] ReadError),
}

/// Why no slot can be had: what needs a record must not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// As many records are under way as may be.
    #[error("{limit} audit records are under way already")]
    QueueFull {
        /// How many that is.
        limit: usize,
    },
    /// The disk is full; only privileged records are taken.
    #[error("the disk of the audit log is full")]
    NoSpace,
    /// The last write failed, and none has worked since.
    #[error("the audit log cannot be written")]
    WriteFailed,
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
}

/// Why an entry was not recorded.
#[derive(Debug, Clone, Error)]
pub enum AuditError {
    /// It could not be written.
    #[error("the audit log cannot be written")]
    Write(#[source] Arc<io::Error>),
    /// It could not be made durable.
    #[error("the audit log cannot be synced")]
    Sync(#[source] Arc<io::Error>),
    /// The disk is full, and what room is left is kept for privileged records.
    #[error("the disk of the audit log is full")]
    NoSpace,
    /// Its body could not be sealed.
    #[error("the entry was not recorded")]
    Seal(#[source] SealFailed),
    /// Its body is too large.
    #[error("the entry was not recorded")]
    Body(#[source] BodyTooLarge),
    /// The sealed body is too large.
    #[error("the entry is {size} bytes, more than the {limit} a log holds")]
    EntryTooLarge {
        /// How large it is.
        size: usize,
        /// The most it may be.
        limit: usize,
    },
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
}
