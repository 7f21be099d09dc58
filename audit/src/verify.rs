//! Checking a log offline, without keys: every frame, every number, and the tree that the files claim.
//!
//! Invariant: the root reported was computed from the entries, from the first file on. Absent: comparing that root
//! with a signed checkpoint; without one, entries cut off at the end cannot be missed.

use crate::error::{HeaderFault, ReadError};
use crate::files::{list_segments, segment_name};
use crate::merkle::{Hash, TreeEdge};
use crate::recover::{TornTail, read_origin, scan};
use std::path::Path;

/// What verification found in a sound log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// `<vault>/<node>`, where the log has been bound to it.
    pub origin: Option<String>,
    /// The first entry that is there. Where it is not 0, the tree before it is taken from the first file's word.
    pub first_seq: u64,
    /// The number of entries in the tree.
    pub size: u64,
    /// The root of the tree.
    pub root: Hash,
    /// How many files the log has.
    pub files: usize,
    /// An unfinished end: the trace of a crash, or an entry that is being written now.
    pub torn: Option<TornTail>,
}

/// Checks the log in a directory; an error names the first thing that is wrong.
pub fn verify(dir: &Path) -> Result<Report, ReadError> {
    let unreadable = |operation| move |source| ReadError::Io { operation, path: dir.to_owned(), source };
    let segments = list_segments(dir).map_err(unreadable("list"))?;
    let origin = read_origin(dir).map_err(unreadable("read the origin in"))?;
    let (Some(first_seq), Some(last)) = (segments.first().copied(), segments.last().copied()) else {
        return Err(ReadError::NoLog { path: dir.to_owned() });
    };
    let mut edge: Option<TreeEdge> = None;
    let mut torn = None;
    for begin in &segments {
        let path = dir.join(segment_name(*begin));
        if let Some(edge) = &edge
            && edge.size() != *begin
        {
            return Err(ReadError::Gap { path, expected: edge.size(), found: *begin });
        }
        let scanned = scan(dir, *begin, *begin == last)?;
        if edge.is_some_and(|edge| edge != scanned.start) {
            return Err(ReadError::BadHeader { path, fault: HeaderFault::OtherTree });
        }
        torn = scanned.torn;
        edge = Some(scanned.edge);
    }
    let edge = edge.unwrap_or_default();
    Ok(Report { origin, first_seq, size: edge.size(), root: edge.root(), files: segments.len(), torn })
}
