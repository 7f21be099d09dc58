//! An entry of the log: a clear header and a body, sealed or clear.
//!
//! Invariant: `encode` gives the very bytes that the leaf hash covers, and `decode` takes only what `encode` gives.
//! The header (all bytes before the body's length) is what a seal authenticates beside the body.
//! Absent: how entries are framed in files (`segment`) and what sealing is (`seal`).

use crate::body::{Body, BodyError};
use crate::merkle::{Hash, leaf_hash};
use crate::seal::{BodyOpener, OpenFailed};
use crate::wire::Cursor;
use std::fmt;
use thiserror::Error;

/// The most bytes an entry may have: the length prefix of a tlog-tiles entry bundle has 16 bits.
pub const MAX_ENTRY_BYTES: usize = 65_535;

const ENTRY_FORMAT: u8 = 1;
const CLEAR: u8 = 0;
const SEALED: u8 = 1;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// What sort of thing an entry records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A read, with its decision and outcome.
    Read,
    /// A change that is about to be made.
    Intent,
    /// How a change ended; its body names the intent.
    Outcome,
    /// A request that was refused.
    Refused,
    /// What the vault did by itself, or what happened to it: start, unseal, seal.
    System,
    /// A stream was opened.
    StreamOpen,
    /// A stream gave out a value.
    StreamItem,
    /// A stream ended.
    StreamEnd,
}

impl EntryKind {
    /// Every kind, in the order of the numbers they are stored as.
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Intent,
        Self::Outcome,
        Self::Refused,
        Self::System,
        Self::StreamOpen,
        Self::StreamItem,
        Self::StreamEnd,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Read => 1,
            Self::Intent => 2,
            Self::Outcome => 3,
            Self::Refused => 4,
            Self::System => 5,
            Self::StreamOpen => 6,
            Self::StreamItem => 7,
            Self::StreamEnd => 8,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The kind's name in text output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Intent => "intent",
            Self::Outcome => "outcome",
            Self::Refused => "refused",
            Self::System => "system",
            Self::StreamOpen => "stream-open",
            Self::StreamItem => "stream-item",
            Self::StreamEnd => "stream-end",
        }
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of the node that writes a log: 1 to 64 of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node(String);

/// A text that cannot name a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a node's name has 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
pub struct InvalidNode;

impl Node {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, InvalidNode> {
        let fits = (1..=64).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if fits { Ok(Self(name.to_owned())) } else { Err(InvalidNode) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A body as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredBody {
    /// The canonical encoding of a [`Body`].
    Clear(Vec<u8>),
    /// The canonical encoding of a [`Body`], sealed.
    Sealed {
        /// Which key opens it.
        key_id: [u8; 16],
        /// What the sealer made.
        bytes: Vec<u8>,
    },
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log, from 0.
    pub seq: u64,
    /// When it was recorded.
    pub time: UnixMillis,
    /// What sort of thing it records.
    pub kind: EntryKind,
    /// The node that wrote it.
    pub node: Node,
    /// What it says.
    pub body: StoredBody,
}

/// Why bytes are not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Another format than this program knows.
    #[error("entry format {found} is not known")]
    UnknownFormat {
        /// The format byte.
        found: u8,
    },
    /// A kind that this program does not know.
    #[error("entry kind {found} is not known")]
    UnknownKind {
        /// The kind's number.
        found: u8,
    },
    /// A body that is neither clear nor sealed.
    #[error("body form {found} is not known")]
    UnknownForm {
        /// The form's number.
        found: u8,
    },
    /// The node's name is not one.
    #[error("the node's name is malformed")]
    InvalidNode,
    /// The bytes end too early.
    #[error("the entry is cut short")]
    Truncated,
    /// Bytes are left over after the body.
    #[error("the entry has bytes after its body")]
    TrailingBytes,
}

/// Why a stored body cannot be read.
#[derive(Debug, Error)]
pub enum OpenBodyError {
    /// It is sealed, and there is nothing to open it with.
    #[error("the body is sealed and no key was given")]
    NoOpener,
    /// The opener could not open it.
    #[error("the body could not be opened")]
    Open(#[source] OpenFailed),
    /// What was stored is no body.
    #[error("the body is malformed")]
    Malformed(#[source] BodyError),
}

/// Writes a header over what `out` holds; `key_id` is given for a sealed body.
pub(crate) fn encode_header(
    out: &mut Vec<u8>,
    (seq, time, kind): (u64, UnixMillis, EntryKind),
    node: &Node,
    key_id: Option<&[u8; 16]>,
) {
    out.clear();
    out.extend_from_slice(&[ENTRY_FORMAT, kind.code(), if key_id.is_some() { SEALED } else { CLEAR }]);
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&time.0.to_be_bytes());
    out.push(u8::try_from(node.0.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(node.0.as_bytes());
    if let Some(key_id) = key_id {
        out.extend_from_slice(key_id);
    }
}

impl Entry {
    /// The header's bytes: what a seal authenticates.
    pub fn header(&self) -> Vec<u8> {
        let key_id = match &self.body {
            StoredBody::Clear(_) => None,
            StoredBody::Sealed { key_id, .. } => Some(key_id),
        };
        let mut out = Vec::new();
        encode_header(&mut out, (self.seq, self.time, self.kind), &self.node, key_id);
        out
    }

    /// The stored bytes: what the leaf hash covers.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.header();
        let (StoredBody::Clear(body) | StoredBody::Sealed { bytes: body, .. }) = &self.body;
        out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    /// Reads stored bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut cursor = Cursor::new(bytes);
        let found = cursor.u8().ok_or(EntryError::Truncated)?;
        if found != ENTRY_FORMAT {
            return Err(EntryError::UnknownFormat { found });
        }
        let found = cursor.u8().ok_or(EntryError::Truncated)?;
        let kind = EntryKind::from_code(found).ok_or(EntryError::UnknownKind { found })?;
        let form = cursor.u8().ok_or(EntryError::Truncated)?;
        let seq = cursor.u64().ok_or(EntryError::Truncated)?;
        let time = UnixMillis(cursor.u64().ok_or(EntryError::Truncated)?);
        let length = cursor.u8().ok_or(EntryError::Truncated)?;
        let name = cursor.take(usize::from(length)).ok_or(EntryError::Truncated)?;
        let name = std::str::from_utf8(name).map_err(|_| EntryError::InvalidNode)?;
        let node = Node::new(name).map_err(|InvalidNode| EntryError::InvalidNode)?;
        let key_id = match form {
            CLEAR => None,
            SEALED => Some(cursor.array::<16>().ok_or(EntryError::Truncated)?),
            found => return Err(EntryError::UnknownForm { found }),
        };
        let length = cursor.u32().ok_or(EntryError::Truncated)?;
        let length = usize::try_from(length).map_err(|_| EntryError::Truncated)?;
        let body = cursor.take(length).ok_or(EntryError::Truncated)?.to_vec();
        if !cursor.is_empty() {
            return Err(EntryError::TrailingBytes);
        }
        let body = match key_id {
            None => StoredBody::Clear(body),
            Some(key_id) => StoredBody::Sealed { key_id, bytes: body },
        };
        Ok(Self { seq, time, kind, node, body })
    }

    /// The hash of this entry as a leaf of the tree.
    pub fn leaf_hash(&self) -> Hash {
        leaf_hash(&self.encode())
    }

    /// Whether the body is sealed.
    pub fn is_sealed(&self) -> bool {
        matches!(self.body, StoredBody::Sealed { .. })
    }

    /// Reads the body, opening it where it is sealed.
    pub fn open(&self, opener: Option<&dyn BodyOpener>) -> Result<Body, OpenBodyError> {
        match &self.body {
            StoredBody::Clear(bytes) => Body::decode(bytes).map_err(OpenBodyError::Malformed),
            StoredBody::Sealed { key_id, bytes } => {
                let opener = opener.ok_or(OpenBodyError::NoOpener)?;
                let clear =
                    opener.open(*key_id, &self.header(), self.seq, bytes).map_err(OpenBodyError::Open)?;
                Body::decode(&clear).map_err(OpenBodyError::Malformed)
            }
        }
    }
}

#[cfg(test)]
mod tests;
