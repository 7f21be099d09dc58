//! Reading entries in order, from a directory or from a log that is being written.
//!
//! Invariant: entries come without gaps or not at all; a live reader sees only bytes that will not change any more.
//! Absent: checking hashes (`verify`) and waiting (`follow`).

use crate::entry::Entry;
use crate::error::{FrameFault, ReadError};
use crate::files::{list_segments, open_read, segment_name};
use crate::queue::Shared;
use crate::segment::SegmentReader;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is there to be read.
struct Extent {
    segments: Arc<Vec<u64>>,
    /// How many entries there are, where that is known.
    size: u64,
    /// How much of the last file may be read.
    readable: u64,
}

/// Reads entries in order.
pub struct Reader {
    dir: PathBuf,
    live: Option<Arc<Shared>>,
    extent: Extent,
    current: Option<(u64, SegmentReader)>,
    next: u64,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("dir", &self.dir).field("next", &self.next).finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads a log's directory from its first entry on, without keys and without its writer. An entry that is cut
    /// short at the very end counts as not there yet.
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        let segments = list_segments(dir).map_err(|source| ReadError::Io {
            operation: "list",
            path: dir.to_owned(),
            source,
        })?;
        let Some(next) = segments.first().copied() else {
            return Err(ReadError::NoLog { path: dir.to_owned() });
        };
        let extent = Extent { segments: Arc::new(segments), size: u64::MAX, readable: u64::MAX };
        Ok(Self { dir: dir.to_owned(), live: None, extent, current: None, next })
    }

    pub(crate) fn live(dir: &Path, shared: Arc<Shared>, seq: u64) -> Result<Self, ReadError> {
        let extent = Extent { segments: Arc::default(), size: 0, readable: 0 };
        let mut reader = Self { dir: dir.to_owned(), live: Some(shared), extent, current: None, next: 0 };
        reader.refresh();
        reader.seek(seq)?;
        Ok(reader)
    }

    /// The number of the entry that comes next.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Goes on at entry `seq`, which may be the one after the last.
    pub fn seek(&mut self, seq: u64) -> Result<(), ReadError> {
        self.refresh();
        let first = self.extent.segments.first().copied().unwrap_or_default();
        let Some(begin) = self.extent.segments.iter().rev().find(|begin| **begin <= seq).copied() else {
            return Err(ReadError::NoSuchEntry { seq, first });
        };
        if self.live.is_some() && seq > self.extent.size {
            return Err(ReadError::NoSuchEntry { seq, first });
        }
        self.current = None;
        self.next = begin;
        while self.next < seq {
            if self.step(|_| ())?.is_none() {
                return Err(ReadError::NoSuchEntry { seq, first });
            }
        }
        Ok(())
    }

    /// The next entry, or nothing where the log ends for now.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        let Some((decoded, offset)) = self.step(Entry::decode)? else { return Ok(None) };
        let seq = self.next.saturating_sub(1);
        let fault = match decoded {
            Ok(entry) if entry.seq == seq => return Ok(Some(entry)),
            Ok(entry) => FrameFault::WrongSequence { found: entry.seq },
            Err(error) => FrameFault::BadEntry(error),
        };
        Err(self.corrupt(offset, seq, fault))
    }

    fn refresh(&mut self) {
        if let Some(shared) = &self.live {
            self.extent = shared.published(|published| Extent {
                segments: Arc::clone(&published.segments),
                size: published.edge.size(),
                readable: published.readable,
            });
        }
    }

    fn corrupt(&self, offset: u64, seq: u64, fault: FrameFault) -> ReadError {
        let path =
            self.current.as_ref().map_or_else(|| self.dir.clone(), |(_, reader)| reader.path().to_owned());
        ReadError::Corrupt { path, offset, seq, fault }
    }

    /// Takes the next frame, whatever it holds; gives what `read` makes of it, and where it began.
    fn step<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Result<Option<(T, u64)>, ReadError> {
        if self.next >= self.extent.size {
            self.refresh();
            if self.next >= self.extent.size {
                return Ok(None);
            }
        }
        loop {
            if self.current.is_none() && !self.open_segment()? {
                return Ok(None);
            }
            let Some((begin, reader)) = &mut self.current else { return Ok(None) };
            let is_last = self.extent.segments.last() == Some(begin);
            let limit = if is_last { self.extent.readable } else { u64::MAX };
            let offset = reader.offset();
            let path = reader.path().to_owned();
            let frame = reader.next_frame(limit).map_err(|source| ReadError::Io {
                operation: "read",
                path: path.clone(),
                source,
            })?;
            match frame {
                Some(Ok(bytes)) => {
                    let made = read(bytes);
                    self.next = self.next.saturating_add(1);
                    return Ok(Some((made, offset)));
                }
                Some(Err(FrameFault::Truncated)) if is_last && self.live.is_none() => return Ok(None),
                Some(Err(fault)) => {
                    return Err(ReadError::Corrupt { path, offset, seq: self.next, fault });
                }
                None if is_last => return Ok(None),
                None => self.current = None,
            }
        }
    }

    /// Opens the file that holds the next entry; false where there is none.
    fn open_segment(&mut self) -> Result<bool, ReadError> {
        let Some(begin) = self.extent.segments.iter().find(|begin| **begin >= self.next).copied() else {
            return Ok(false);
        };
        let path = self.dir.join(segment_name(begin));
        if begin != self.next {
            return Err(ReadError::Gap { path, expected: self.next, found: begin });
        }
        let file = open_read(&path).map_err(|source| ReadError::Io {
            operation: "open",
            path: path.clone(),
            source,
        })?;
        self.current = Some((begin, SegmentReader::open(file, &path, begin)?));
        Ok(true)
    }
}

impl Iterator for Reader {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().transpose()
    }
}
