//! The ports through which bodies are sealed and opened; the keys live elsewhere.
//!
//! Invariant: a body is sealed when it is written, with its final header as associated data, so that no entry can
//! pass for another. Absent: keys and ciphers.

use crate::body::Body;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Seals bodies under one key.
///
/// A number may be offered again with another body after a write failed. An implementation whose nonce followed from
/// `seq` alone would then repeat it under the same key: count nonces apart from `seq`, and put the nonce in the output.
pub trait BodySealer: Send + Sync {
    /// Which key this is; stored in the entry's header.
    fn key_id(&self) -> [u8; 16];

    /// Seals an encoded body; `header` is the associated data, `seq` the number that it contains.
    fn seal(&self, header: &[u8], seq: u64, body: &[u8]) -> Result<Vec<u8>, SealFailed>;
}

/// Opens sealed bodies.
pub trait BodyOpener: Send + Sync {
    /// Opens what a [`BodySealer`] with this key made from the same header.
    fn open(&self, key_id: [u8; 16], header: &[u8], seq: u64, sealed: &[u8]) -> Result<Vec<u8>, OpenFailed>;
}

/// A body could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the entry's body could not be sealed")]
pub struct SealFailed;

/// Why a sealed body could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenFailed {
    /// The key is not at hand now, and may be later: the vault is sealed.
    #[error("the key is not available now")]
    NotNow,
    /// The key is gone for good, or was never of this vault.
    #[error("the key does not exist")]
    NoSuchKey,
    /// The bytes are not what was sealed under this header.
    #[error("the body is not authentic")]
    NotAuthentic,
}

/// A body to record, and how it shall be stored.
#[derive(Clone)]
pub enum BodyInput {
    /// In the clear: while the vault is sealed, and without anybody's data.
    Clear(Body),
    /// Sealed.
    Sealed(Body, Arc<dyn BodySealer>),
}

impl fmt::Debug for BodyInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear(body) => f.debug_tuple("Clear").field(body).finish(),
            Self::Sealed(body, _) => f.debug_tuple("Sealed").field(body).finish_non_exhaustive(),
        }
    }
}
