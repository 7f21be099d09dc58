//! A share of the unseal key as its holder has it: one line of text that says which vault, epoch and number it is.
//!
//! Invariants: a share has one text, and only that text is read: `ks1-share-` and 14 groups of 8 characters. A typing
//! error never passes the checksum; a share that is well-formed but wrong is found by its digest in the seal header
//! (`seal_record`). Every reason has its own variant, because a holder at a prompt must know what to do next.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::base32::{self, Base32Error};
use crate::codec::Writer;
use crate::secret::{SecretBytes, SecretKey};
use crate::stack::swept_deep;

/// Scheme 1: Shamir over GF(256) with the polynomial 0x11b, byte by byte.
pub const SCHEME_GF256: u8 = 1;

const PREFIX: &[u8] = b"ks1-share-";
const GROUP: usize = 8;
const GROUPS: usize = 14;
const TEXT_BYTES: usize = PREFIX.len() + GROUPS * (GROUP + 1) - 1;
const BODY_BYTES: usize = 63;
const CHECKSUM_BYTES: usize = 7;
const CHECKSUM_LABEL: &[u8] = b"keystead/share-text/v1";
const DIGEST_LABEL: &[u8] = b"keystead/share-digest/v1";

/// Why a share is refused. No variant holds a byte of the share's secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Not one of ours at all.
    #[error("this is not a Keystead share: a share starts with ks1-share-")]
    NotAShare,
    /// The text ends early.
    #[error("this share is cut off: {found} characters of {expected}")]
    Truncated {
        /// How many characters there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// Something follows the share.
    #[error("something follows the share: {found} characters instead of {expected}")]
    TooLong {
        /// How many characters there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A character that shares do not contain, or a dash in the wrong place.
    #[error(
        "typing error: the character at position {position} cannot be there; a share is in lower case, and has no blanks"
    )]
    BadCharacter {
        /// Which one, counted from 1.
        position: usize,
    },
    /// The checksum does not fit: a typing error.
    #[error("typing error: the share's checksum does not fit")]
    Typo,
    /// A scheme of which this program knows nothing.
    #[error("the share's scheme {scheme} is not known to this program")]
    UnknownScheme {
        /// The scheme.
        scheme: u8,
    },
    /// Number 0, which would be the secret itself.
    #[error("a share cannot have the number 0")]
    ZeroNumber,
    /// A threshold below two.
    #[error("a share cannot have the threshold {threshold}")]
    BadThreshold {
        /// The threshold.
        threshold: u8,
    },
    /// Of another vault.
    #[error("this share belongs to another vault")]
    OtherVault {
        /// The vault that the share names.
        share: [u8; 16],
        /// The vault that asks.
        expected: [u8; 16],
    },
    /// Of an older (or newer) epoch: the shares were renewed.
    #[error("this share is of epoch {share}; the vault's shares are of epoch {expected}")]
    OtherEpoch {
        /// The epoch that the share names.
        share: u32,
        /// The vault's.
        expected: u32,
    },
    /// Of another threshold.
    #[error("this share says that {share} shares are needed; the vault needs {expected}")]
    OtherThreshold {
        /// The threshold that the share names.
        share: u8,
        /// The vault's.
        expected: u8,
    },
    /// It names another audit key than the one that signed the header.
    #[error("this share was made beside another audit key: the share or the vault is not what it seems")]
    OtherAuditKey {
        /// The fingerprint that the share names.
        share: [u8; 8],
        /// The header's.
        expected: [u8; 8],
    },
    /// A number that the vault has no share for.
    #[error("this is share number {number}; the vault has {shares} shares")]
    NumberTooHigh {
        /// The share's number.
        number: u8,
        /// How many shares there are.
        shares: u8,
    },
    /// Well-formed, right names, wrong secret.
    #[error("share {number} is not the one that was handed out")]
    WrongShare {
        /// The share's number.
        number: u8,
    },
    /// The same number twice.
    #[error("share {number} was entered already")]
    Duplicate {
        /// The number.
        number: u8,
    },
    /// Too few to combine.
    #[error("{found} shares of the {needed} needed")]
    TooFew {
        /// How many there are.
        found: usize,
        /// How many are needed.
        needed: u8,
    },
}

impl ShareError {
    /// The machine-readable reason, stable across versions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAShare => "SHARE_NOT_A_SHARE",
            Self::Truncated { .. } => "SHARE_TRUNCATED",
            Self::TooLong { .. } => "SHARE_TOO_LONG",
            Self::BadCharacter { .. } => "SHARE_BAD_CHARACTER",
            Self::Typo => "SHARE_TYPO",
            Self::UnknownScheme { .. } => "SHARE_UNKNOWN_SCHEME",
            Self::ZeroNumber => "SHARE_ZERO_NUMBER",
            Self::BadThreshold { .. } => "SHARE_BAD_THRESHOLD",
            Self::OtherVault { .. } => "SHARE_OTHER_VAULT",
            Self::OtherEpoch { .. } => "SHARE_OTHER_EPOCH",
            Self::OtherThreshold { .. } => "SHARE_OTHER_THRESHOLD",
            Self::OtherAuditKey { .. } => "SHARE_OTHER_AUDIT_KEY",
            Self::NumberTooHigh { .. } => "SHARE_NUMBER_TOO_HIGH",
            Self::WrongShare { .. } => "SHARE_WRONG",
            Self::Duplicate { .. } => "SHARE_DUPLICATE",
            Self::TooFew { .. } => "SHARE_TOO_FEW",
        }
    }
}

/// One share of an unseal key.
pub struct Share {
    /// The vault it opens.
    pub(crate) vault: [u8; 16],
    /// Its epoch.
    pub(crate) epoch: u32,
    /// Its number: the x of its point, never 0.
    pub(crate) number: u8,
    /// How many shares are needed.
    pub(crate) threshold: u8,
    /// The audit key beside which it was made.
    pub(crate) audit_fingerprint: [u8; 8],
    /// The y of its point for each byte of the key.
    pub(crate) y: SecretKey,
}

impl Share {
    /// The scheme: always [`SCHEME_GF256`] so far.
    pub fn scheme(&self) -> u8 {
        SCHEME_GF256
    }

    /// The vault it opens.
    pub fn vault(&self) -> [u8; 16] {
        self.vault
    }

    /// Its epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Its number, from 1.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// How many shares are needed.
    pub fn threshold(&self) -> u8 {
        self.threshold
    }

    /// The fingerprint of the audit key beside which it was made.
    pub fn audit_fingerprint(&self) -> [u8; 8] {
        self.audit_fingerprint
    }

    /// What the seal header keeps of it. Of 32 random bytes a digest tells nothing.
    pub fn digest(&self) -> [u8; 32] {
        swept_deep(|| {
            Sha256::new()
                .chain_update(DIGEST_LABEL)
                .chain_update(self.vault)
                .chain_update(self.epoch.to_be_bytes())
                .chain_update([self.number])
                .chain_update(self.y.expose())
                .finalize()
                .into()
        })
    }

    /// The text that its holder keeps: 135 characters, without a newline.
    pub fn to_text(&self) -> SecretBytes {
        swept_deep(|| self.write())
    }

    fn write(&self) -> SecretBytes {
        let mut body = Writer::with_capacity(BODY_BYTES + CHECKSUM_BYTES);
        body.u8(SCHEME_GF256).raw(&self.vault).u32(self.epoch).u8(self.number).u8(self.threshold);
        body.raw(&self.audit_fingerprint).raw(self.y.expose());
        let mut body = Zeroizing::new(body.finish());
        let check = checksum(&body);
        body.extend_from_slice(&check);
        let mut characters = Zeroizing::new(Vec::with_capacity(GROUPS * GROUP));
        base32::encode(&body, &mut characters);
        let mut text = Vec::with_capacity(TEXT_BYTES + 1);
        text.extend_from_slice(PREFIX);
        for group in characters.chunks(GROUP) {
            text.extend_from_slice(group);
            text.push(b'-');
        }
        text.pop();
        SecretBytes::new(text)
    }

    /// Reads a share's text: exactly what `to_text` writes. A newline at its end is the caller's to take off.
    pub fn parse(text: &[u8]) -> Result<Self, ShareError> {
        swept_deep(|| Self::read(text))
    }

    fn read(text: &[u8]) -> Result<Self, ShareError> {
        let characters = text.strip_prefix(PREFIX).ok_or_else(|| not_a_share(text))?;
        let (found, expected) = (text.len(), TEXT_BYTES);
        if found < expected {
            return Err(ShareError::Truncated { found, expected });
        }
        if found > expected {
            return Err(ShareError::TooLong { found, expected });
        }
        let decoded = decode(characters)?;
        let (Some(body), Some(check)) =
            (decoded.first_chunk::<BODY_BYTES>(), decoded.last_chunk::<CHECKSUM_BYTES>())
        else {
            return Err(ShareError::Typo);
        };
        if !bool::from(checksum(body).ct_eq(check)) {
            return Err(ShareError::Typo);
        }
        Self::from_body(body)
    }

    fn from_body(body: &[u8; BODY_BYTES]) -> Result<Self, ShareError> {
        let (scheme, rest) = take::<1>(body);
        let (vault, rest) = take::<16>(rest);
        let (epoch, rest) = take::<4>(rest);
        let (numbers, rest) = take::<2>(rest);
        let (audit_fingerprint, y) = take::<8>(rest);
        let ([scheme], [number, threshold]) = (scheme, numbers);
        if scheme != SCHEME_GF256 {
            return Err(ShareError::UnknownScheme { scheme });
        }
        if number == 0 {
            return Err(ShareError::ZeroNumber);
        }
        if threshold < 2 {
            return Err(ShareError::BadThreshold { threshold });
        }
        let y = SecretKey::from_slice(y).ok_or(ShareError::Typo)?;
        Ok(Self { vault, epoch: u32::from_be_bytes(epoch), number, threshold, audit_fingerprint, y })
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share")
            .field("epoch", &self.epoch)
            .field("number", &self.number)
            .field("threshold", &self.threshold)
            .finish_non_exhaustive()
    }
}

/// The first `N` bytes and the rest; zeros where there are fewer, which the fixed length of a body rules out.
fn take<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    bytes.split_first_chunk::<N>().map_or(([0; N], &[]), |(first, rest)| (*first, rest))
}

/// Takes the dashes out and reads the characters.
fn decode(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, ShareError> {
    let mut characters = Zeroizing::new(Vec::with_capacity(GROUPS * GROUP));
    for (index, character) in text.iter().enumerate() {
        let dash_belongs_here = index % (GROUP + 1) == GROUP;
        if dash_belongs_here && *character != b'-' {
            return Err(ShareError::BadCharacter { position: PREFIX.len() + index + 1 });
        }
        if !dash_belongs_here {
            characters.push(*character);
        }
    }
    base32::decode(&characters).map_err(|error| match error {
        Base32Error::Character(index) => {
            ShareError::BadCharacter { position: PREFIX.len() + index + index / GROUP + 1 }
        }
        Base32Error::Length => ShareError::Typo,
    })
}

/// One that was typed in capitals is a share to whoever typed it.
fn not_a_share(text: &[u8]) -> ShareError {
    let begins = text.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
    match text.iter().position(u8::is_ascii_uppercase).filter(|_| begins) {
        Some(index) => ShareError::BadCharacter { position: index + 1 },
        None => ShareError::NotAShare,
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash: [u8; 32] = Sha256::new().chain_update(CHECKSUM_LABEL).chain_update(body).finalize().into();
    let (check, _) = take(&hash);
    hash.zeroize();
    check
}

#[cfg(test)]
mod tests;
