//! The tree as it was when the log had fewer entries.
//!
//! Invariant: a root is computed from the file in which that size was reached, and the log as it stands goes on from it:
//! each later file begins with the tree that the entries before it give. So only files from there on are read, and what
//! the files before them held is fixed by the root. Absent: reading those (`verify`).

use crate::error::{FrameFault, HeaderFault, ReadError};
use crate::files::{open_read, segment_name};
use crate::merkle::{Hash, TreeEdge, leaf_hash};
use crate::queue::Shared;
use crate::segment::SegmentReader;
use std::path::Path;
use std::sync::Arc;

/// The root of the first `size` entries of a log.
pub(crate) fn root_at(dir: &Path, shared: &Shared, size: u64) -> Result<Hash, ReadError> {
    let (segments, end) =
        shared.published(|published| (Arc::clone(&published.segments), published.edge.size()));
    let first = segments.first().copied().unwrap_or_default();
    let no_such = || ReadError::NoSuchEntry { seq: size, first };
    let at = segments.iter().rposition(|begin| *begin <= size).ok_or_else(no_such)?;
    if size > end {
        return Err(no_such());
    }
    let mut root = None;
    let mut before: Option<TreeEdge> = None;
    for (index, begin) in segments.iter().enumerate().skip(at) {
        let path = dir.join(segment_name(*begin));
        let mut reader = open(&path, *begin)?;
        let mut edge = reader.edge().clone();
        if before.is_some_and(|before| before != edge) {
            return Err(ReadError::BadHeader { path, fault: HeaderFault::OtherTree });
        }
        // Of the last file only what the root needs: its end is still being written.
        let until = segments.get(index.saturating_add(1)).copied().unwrap_or(size);
        while edge.size() < until {
            if edge.size() == size {
                root = Some(edge.root());
            }
            push_next(&mut reader, &mut edge)?;
        }
        if edge.size() == size {
            root = Some(edge.root());
        }
        before = Some(edge);
    }
    root.ok_or_else(no_such)
}

fn open(path: &Path, begin: u64) -> Result<SegmentReader, ReadError> {
    let file = open_read(path).map_err(|source| unreadable("open", path, source))?;
    SegmentReader::open(file, path, begin)
}

fn unreadable(operation: &'static str, path: &Path, source: std::io::Error) -> ReadError {
    ReadError::Io { operation, path: path.to_owned(), source }
}

/// Adds the file's next entry to the tree.
fn push_next(reader: &mut SegmentReader, edge: &mut TreeEdge) -> Result<(), ReadError> {
    let (offset, path) = (reader.offset(), reader.path().to_owned());
    let frame = reader.next_frame(u64::MAX).map_err(|source| unreadable("read", &path, source))?;
    match frame.unwrap_or(Err(FrameFault::Truncated)) {
        Ok(entry) => {
            edge.push(leaf_hash(entry));
            Ok(())
        }
        Err(fault) => Err(ReadError::Corrupt { path, offset, seq: edge.size(), fault }),
    }
}
