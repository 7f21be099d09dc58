//! Opening a log that exists: whose it is, where it ends, and what a crash left there.
//!
//! Invariant: only bytes that a crash can explain are cut off, and they are kept in a file of their own; any other
//! damage is an error that names it. The time this takes depends on the last file, not on the whole log.
//! Absent: checking the files before the last one (`verify` does that).

use crate::entry::Entry;
use crate::error::{FrameFault, OpenError, ReadError};
use crate::files::{
    Directory, LogFiles, check_owner_only, list_segments, open_append, open_read, publish, segment_name,
};
use crate::merkle::{TreeEdge, leaf_hash};
use crate::segment::{SegmentReader, encode_file_header, shows_durable};
use crate::wire::len64;
use std::io;
use std::path::{Path, PathBuf};

const ORIGIN_FILE: &str = "origin";

/// What a crash left at the end of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The log file.
    pub file: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// The number that the next entry gets.
    pub seq: u64,
    /// How many bytes were cut off.
    pub bytes: u64,
    /// What was wrong with the first of them.
    pub fault: FrameFault,
    /// Where they are kept; nothing where only verification looked.
    pub kept: Option<PathBuf>,
}

/// A log that can be written on.
pub(crate) struct Recovered {
    pub(crate) files: LogFiles,
    pub(crate) origin: Option<String>,
    pub(crate) edge: TreeEdge,
    pub(crate) length: u64,
    pub(crate) segments: Vec<u64>,
    pub(crate) torn: Option<TornTail>,
}

/// How one file ends.
pub(crate) struct Scanned {
    /// The tree before the file's first entry, as the file says.
    pub(crate) start: TreeEdge,
    /// The tree after its last.
    pub(crate) edge: TreeEdge,
    pub(crate) length: u64,
    pub(crate) torn: Option<TornTail>,
    pub(crate) torn_bytes: Vec<u8>,
}

pub(crate) fn recover(dir: &Path, origin: Option<&str>) -> Result<Recovered, OpenError> {
    let directory = Directory::lock(dir)?;
    let origin = bind_origin(dir, origin)?;
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { operation, path, source }
    };
    let mut segments = list_segments(dir).map_err(failed("list", dir))?;
    if segments.is_empty() {
        let name = segment_name(0);
        let header = encode_file_header(&TreeEdge::empty());
        publish(dir, &name, &header).map_err(failed("create", &dir.join(&name)))?;
        segments.push(0);
    }
    let last = segments.last().copied().unwrap_or_default();
    let path = dir.join(segment_name(last));
    check_owner_only(&path, "file")?;
    let mut scanned = scan(dir, last, true)?;
    if let Some(torn) = &mut scanned.torn {
        let kept = put_aside(dir, last, torn.offset, &scanned.torn_bytes)
            .map_err(failed("put aside the end of", &path))?;
        torn.kept = Some(kept);
        let file = open_append(&path).map_err(failed("open", &path))?;
        file.set_len(scanned.length).and_then(|()| file.sync_all()).map_err(failed("cut", &path))?;
    }
    let files = LogFiles::open(directory, last)?;
    let Scanned { edge, length, torn, .. } = scanned;
    Ok(Recovered { files, origin, edge, length, segments, torn })
}

/// Reads a whole file and hashes its entries. Only the last file of a log `may_be_torn`.
pub(crate) fn scan(dir: &Path, first_seq: u64, may_be_torn: bool) -> Result<Scanned, ReadError> {
    let path = dir.join(segment_name(first_seq));
    let unreadable = |source| ReadError::Io { operation: "read", path: path.clone(), source };
    let file = open_read(&path).map_err(unreadable)?;
    let mut reader = SegmentReader::open(file, &path, first_seq)?;
    let start = reader.edge().clone();
    let mut edge = start.clone();
    loop {
        let offset = reader.offset();
        let seq = edge.size();
        let corrupt = |fault| ReadError::Corrupt { path: path.clone(), offset, seq, fault };
        let fault = match reader.next_frame(u64::MAX).map_err(unreadable)? {
            None => return Ok(Scanned { start, edge, length: offset, torn: None, torn_bytes: Vec::new() }),
            Some(Ok(bytes)) => {
                check_entry(bytes, seq).map_err(corrupt)?;
                edge.push(leaf_hash(bytes));
                continue;
            }
            Some(Err(fault)) => fault,
        };
        let torn_bytes = reader.rest().map_err(unreadable)?;
        if !may_be_torn || shows_durable(&torn_bytes, offset) {
            return Err(corrupt(fault));
        }
        let bytes = len64(torn_bytes.len());
        let torn = TornTail { file: path, offset, seq, bytes, fault, kept: None };
        return Ok(Scanned { start, edge, length: offset, torn: Some(torn), torn_bytes });
    }
}

fn check_entry(bytes: &[u8], seq: u64) -> Result<(), FrameFault> {
    let entry = Entry::decode(bytes).map_err(FrameFault::BadEntry)?;
    if entry.seq == seq { Ok(()) } else { Err(FrameFault::WrongSequence { found: entry.seq }) }
}

fn put_aside(dir: &Path, first_seq: u64, offset: u64, bytes: &[u8]) -> io::Result<PathBuf> {
    // The checksum keeps what two crashes left at the same place apart.
    let name = format!("torn-{first_seq:020}-{offset}-{:08x}", crc32fast::hash(bytes));
    publish(dir, &name, bytes)?;
    Ok(dir.join(name))
}

/// Compares the log's origin with the one given, and stores it where the log has none yet.
pub(crate) fn bind_origin(dir: &Path, given: Option<&str>) -> Result<Option<String>, OpenError> {
    if given.is_some_and(|given| !is_origin(given)) {
        return Err(OpenError::InvalidOrigin);
    }
    let path = dir.join(ORIGIN_FILE);
    let failed = |operation| {
        let path = path.clone();
        move |source| OpenError::Io { operation, path, source }
    };
    let stored = read_origin(dir).map_err(failed("read"))?;
    match (stored, given) {
        (Some(stored), Some(given)) if stored != given => {
            Err(OpenError::OriginMismatch { stored, given: given.to_owned() })
        }
        (None, Some(given)) => {
            publish(dir, ORIGIN_FILE, format!("{given}\n").as_bytes()).map_err(failed("write"))?;
            Ok(Some(given.to_owned()))
        }
        (stored, _) => Ok(stored),
    }
}

/// Whether a text can stand on the first line of a checkpoint.
pub(crate) fn is_origin(text: &str) -> bool {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+');
    printable && (1..=200).contains(&text.len())
}

/// Whose log a directory holds, where that is known.
pub(crate) fn read_origin(dir: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(dir.join(ORIGIN_FILE)) {
        Ok(text) => Ok(Some(text.trim_end_matches('\n').to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
