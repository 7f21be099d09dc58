//! What can go wrong when something sealed is made or opened. Invariant: no variant holds key material or plaintext.
//!
//! Errors of things that people type have their own enums: `share::ShareError`, `token::TokenError`.

use crate::codec::CodecError;
use crate::ports::HsmError;

/// Why something could not be sealed, opened or verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// The stored bytes are no such record.
    #[error("malformed {what}")]
    Malformed {
        /// The record.
        what: &'static str,
        /// Where and why.
        #[source]
        source: CodecError,
    },
    /// The bytes were not sealed by this key for this place: changed, moved, or of another vault.
    #[error("{what} does not open: it was changed, moved, or sealed under another key")]
    NotAuthentic {
        /// The record.
        what: &'static str,
    },
    /// The record names another key than the one given.
    #[error("{what} is sealed under another key than the one given")]
    OtherKey {
        /// The record.
        what: &'static str,
    },
    /// The record needs another version of Q.
    #[error("{what} needs version {needed} of Q, and version {given} was given")]
    OtherQ {
        /// The record.
        what: &'static str,
        /// The version it is sealed under.
        needed: u32,
        /// The version at hand.
        given: u32,
    },
    /// No wrap in the list is for a way at hand, under a version of Q at hand.
    #[error("the data key has no wrap for {token:?} that opens here; it is wrapped for {wrapped_for:?}")]
    NoWrapForToken {
        /// The ways at hand.
        token: String,
        /// The ways that the list names.
        wrapped_for: Vec<String>,
    },
    /// More bytes than the format has room for.
    #[error("{what} has {found} bytes; at most {max} fit")]
    TooLong {
        /// The field.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// The most.
        max: usize,
    },
    /// A threshold and a number of shares that make no quorum.
    #[error("{threshold} of {shares} is no quorum: 2 <= threshold <= shares <= 255 must hold")]
    NoQuorum {
        /// The threshold.
        threshold: u8,
        /// The number of shares.
        shares: u8,
    },
    /// A signature that does not fit its message and key.
    #[error("the signature of {what} is not valid")]
    SignatureInvalid {
        /// What was signed.
        what: &'static str,
    },
    /// The cipher did not start, for want of memory.
    #[error("{what}: the cipher did not start")]
    Cipher {
        /// The record.
        what: &'static str,
    },
    /// It could not be sealed for offline recovery.
    #[error("{what} could not be sealed for its recovery recipient")]
    Recovery {
        /// What was to be sealed.
        what: &'static str,
    },
    /// The module did not do what was asked.
    #[error("the HSM did not do what was asked")]
    Hsm(#[from] HsmError),
}

impl CryptoError {
    /// For `map_err`: malformed bytes of a record by this name.
    pub(crate) fn malformed(what: &'static str) -> impl Fn(CodecError) -> Self {
        move |source| Self::Malformed { what, source }
    }

    /// A module's answer that cannot be right.
    pub(crate) fn lied(what: &str) -> Self {
        Self::Hsm(HsmError::Lied { what: what.to_owned() })
    }
}
