//! The bytes of a log file: a header with the tree's edge, then frames of one entry each.
//!
//! Invariant: every frame says how much of its file was durable when it was written. So damage that a crash can
//! explain (nothing after it claims to be durable) is told from damage that it cannot.
//! Absent: names, permissions and locks of files (`files`).

use crate::entry::MAX_ENTRY_BYTES;
use crate::error::{FrameFault, HeaderFault, ReadError};
use crate::merkle::TreeEdge;
use crate::wire::{Cursor, len64};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Begins every log file.
const FILE_MAGIC: [u8; 8] = *b"KSAUDIT\n";
const FILE_FORMAT: u8 = 1;

/// Begins every frame. No UTF-8 text contains it, so a clear body cannot imitate a frame.
const FRAME_MAGIC: [u8; 4] = [0xff, b'K', b'S', 0xfe];

/// A frame's bytes before its entry: magic, length, durable length, checksum.
pub(crate) const FRAME_HEADER: usize = 16;

const READ_CHUNK: usize = 64 * 1024;

/// Writes a file's header: what it begins with, and the tree up to there.
pub(crate) fn encode_file_header(edge: &TreeEdge) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&FILE_MAGIC);
    out.push(FILE_FORMAT);
    out.push(u8::try_from(edge.roots().len()).unwrap_or(u8::MAX));
    out.extend_from_slice(&edge.size().to_be_bytes());
    for root in edge.roots() {
        out.extend_from_slice(root);
    }
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out
}

/// Appends a frame to `out`: its entry is the concatenation of `parts`. Returns where in `out` the entry begins.
pub(crate) fn append_frame(out: &mut Vec<u8>, durable: u64, parts: &[&[u8]]) -> usize {
    let length = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    let durable = u32::try_from(durable).unwrap_or(u32::MAX).to_be_bytes();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(&durable);
    for part in parts {
        crc.update(part);
    }
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&length);
    out.extend_from_slice(&durable);
    out.extend_from_slice(&crc.finalize().to_be_bytes());
    let begin = out.len();
    for part in parts {
        out.extend_from_slice(part);
    }
    begin
}

/// A frame's header, checked as far as it can be without the entry.
struct FrameHeader {
    length: [u8; 4],
    entry_bytes: usize,
    durable: [u8; 4],
    crc: u32,
}

impl FrameHeader {
    fn parse(bytes: &[u8]) -> Result<Self, FrameFault> {
        let mut cursor = Cursor::new(bytes);
        if cursor.array::<4>().ok_or(FrameFault::Truncated)? != FRAME_MAGIC {
            return Err(FrameFault::BadMagic);
        }
        let length = cursor.array::<4>().ok_or(FrameFault::Truncated)?;
        let durable = cursor.array::<4>().ok_or(FrameFault::Truncated)?;
        let crc = cursor.u32().ok_or(FrameFault::Truncated)?;
        let claimed = u32::from_be_bytes(length);
        let entry_bytes = usize::try_from(claimed).unwrap_or(usize::MAX);
        if entry_bytes > MAX_ENTRY_BYTES {
            return Err(FrameFault::BadLength { length: claimed });
        }
        Ok(Self { length, entry_bytes, durable, crc })
    }

    fn check(&self, entry: &[u8]) -> Result<(), FrameFault> {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.length);
        crc.update(&self.durable);
        crc.update(entry);
        if crc.finalize() == self.crc { Ok(()) } else { Err(FrameFault::BadChecksum) }
    }

    fn durable(&self) -> u64 {
        u64::from(u32::from_be_bytes(self.durable))
    }
}

/// Whether anywhere in `rest` (what follows a damaged frame at byte `damaged`) a whole frame shows that the damaged
/// bytes had been durable, which rules out a crash as the cause.
pub(crate) fn shows_durable(rest: &[u8], damaged: u64) -> bool {
    let mut at = rest;
    while let Some((_, tail)) = at.split_first() {
        if let Ok(header) = FrameHeader::parse(at)
            && header.durable() > damaged
            && let Some(entry) = at.get(FRAME_HEADER..FRAME_HEADER.saturating_add(header.entry_bytes))
            && header.check(entry).is_ok()
        {
            return true;
        }
        at = tail;
    }
    false
}

/// Reads one file's frames in order, never past a limit.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    file: File,
    path: PathBuf,
    /// What was read and not yet taken, from `offset` on.
    buffer: Vec<u8>,
    taken: usize,
    offset: u64,
    edge: TreeEdge,
}

impl SegmentReader {
    /// Reads the file's header; `first_seq` is what the file's name says.
    pub(crate) fn open(file: File, path: &Path, first_seq: u64) -> Result<Self, ReadError> {
        let mut reader = Self {
            file,
            path: path.to_owned(),
            buffer: Vec::new(),
            taken: 0,
            offset: 0,
            edge: TreeEdge::empty(),
        };
        reader.edge = reader.read_header(first_seq)?;
        Ok(reader)
    }

    fn read_header(&mut self, first_seq: u64) -> Result<TreeEdge, ReadError> {
        let fixed = FILE_MAGIC.len().saturating_add(10);
        let roots = self.peek_header(fixed)?.get(FILE_MAGIC.len().saturating_add(1)).copied();
        let bad = |path: &Path, fault| ReadError::BadHeader { path: path.to_owned(), fault };
        let path = self.path.clone();
        let Some(roots) = roots.map(usize::from) else { return Err(bad(&path, HeaderFault::Truncated)) };
        let length = fixed.saturating_add(roots.saturating_mul(32)).saturating_add(4);
        let edge = parse_file_header(self.peek_header(length)?).map_err(|fault| bad(&path, fault))?;
        if edge.size() != first_seq {
            return Err(bad(&path, HeaderFault::WrongName { found: edge.size() }));
        }
        self.advance(length);
        Ok(edge)
    }

    /// The tree before this file's first entry.
    pub(crate) fn edge(&self) -> &TreeEdge {
        &self.edge
    }

    /// Where the next frame begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The file's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next frame's entry, not looking at or past byte `limit`; nothing at the end.
    pub(crate) fn next_frame(&mut self, limit: u64) -> io::Result<Option<Result<&[u8], FrameFault>>> {
        self.drop_taken();
        let head = self.peek_io(FRAME_HEADER, limit)?;
        if head.is_empty() {
            return Ok(None);
        }
        let header = match FrameHeader::parse(head) {
            Ok(header) => header,
            Err(fault) => return Ok(Some(Err(fault))),
        };
        let whole = FRAME_HEADER.saturating_add(header.entry_bytes);
        let frame = self.peek_io(whole, limit)?;
        let Some(entry) = frame.get(FRAME_HEADER..whole) else {
            return Ok(Some(Err(FrameFault::Truncated)));
        };
        if let Err(fault) = header.check(entry) {
            return Ok(Some(Err(fault)));
        }
        let begin = self.taken.saturating_add(FRAME_HEADER);
        self.advance(whole);
        Ok(Some(Ok(self.buffer.get(begin..self.taken).unwrap_or_default())))
    }

    /// Everything from the next frame on.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let length = self.file.metadata()?.len().saturating_sub(self.offset);
        let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.peek_io(length, u64::MAX).map(<[u8]>::to_vec)
    }

    fn advance(&mut self, count: usize) {
        self.taken = self.taken.saturating_add(count);
        self.offset = self.offset.saturating_add(len64(count));
    }

    fn drop_taken(&mut self) {
        if self.taken >= READ_CHUNK || self.taken == self.buffer.len() {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// Up to `count` bytes of the file's header, and none after it: those may still change.
    fn peek_header(&mut self, count: usize) -> Result<&[u8], ReadError> {
        let path = self.path.clone();
        self.peek_io(count, len64(count)).map_err(|source| ReadError::Io { operation: "read", path, source })
    }

    /// Up to `count` bytes from `offset` on: fewer at the limit or at the file's end.
    fn peek_io(&mut self, count: usize, limit: u64) -> io::Result<&[u8]> {
        loop {
            let have = self.buffer.len().saturating_sub(self.taken);
            let at = self.offset.saturating_add(len64(have));
            if have >= count || at >= limit {
                break;
            }
            let room = usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX);
            let wanted = count.saturating_sub(have).max(READ_CHUNK).min(room);
            let old = self.buffer.len();
            self.buffer.resize(old.saturating_add(wanted), 0);
            let read = self.file.read_at(self.buffer.get_mut(old..).unwrap_or_default(), at);
            self.buffer.truncate(old.saturating_add(*read.as_ref().unwrap_or(&0)));
            match read {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let available = self.buffer.get(self.taken..).unwrap_or_default();
        Ok(available.get(..count).unwrap_or(available))
    }
}

fn parse_file_header(bytes: &[u8]) -> Result<TreeEdge, HeaderFault> {
    let mut cursor = Cursor::new(bytes);
    if cursor.array::<8>().ok_or(HeaderFault::Truncated)? != FILE_MAGIC {
        return Err(HeaderFault::BadMagic);
    }
    let found = cursor.u8().ok_or(HeaderFault::Truncated)?;
    if found != FILE_FORMAT {
        return Err(HeaderFault::UnknownFormat { found });
    }
    let count = cursor.u8().ok_or(HeaderFault::Truncated)?;
    let size = cursor.u64().ok_or(HeaderFault::Truncated)?;
    let mut roots = Vec::new();
    for _ in 0..count {
        roots.push(cursor.array::<32>().ok_or(HeaderFault::Truncated)?);
    }
    let covered = bytes.len().saturating_sub(cursor.rest().len());
    let crc = cursor.u32().ok_or(HeaderFault::Truncated)?;
    if crc32fast::hash(bytes.get(..covered).unwrap_or_default()) != crc {
        return Err(HeaderFault::BadChecksum);
    }
    TreeEdge::from_parts(size, roots).ok_or(HeaderFault::BadEdge)
}

#[cfg(test)]
mod tests;
