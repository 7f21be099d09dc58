//! The ways that lead to a vault's keys: its tokens, and keys kept offline for when every token is lost.

use sha2::{Digest, Sha256};

use crate::codec::{CodecError, Reader, Writer};
use crate::envelope::MAX_TOKEN_BYTES;

/// The most ways of a vault.
pub const MAX_WAYS: usize = 8;
const TOKEN: u8 = 1;
const RECOVERY: u8 = 2;
const MAX_RECIPIENT_BYTES: usize = 128;

/// One way to the inner blobs, and with the shares to Q.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// A token.
    Token(TokenWay),
    /// A key kept offline.
    Recovery(RecoveryWay),
}

/// A token with keys of this vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWay {
    /// Its serial, by which its wraps name it.
    pub serial: String,
    /// The oldest version of M that may still be needed.
    pub oldest_master: u32,
    /// The version of M that wraps now.
    pub master: u32,
    /// The place of its audit key in the header.
    pub audit_key: u8,
}

/// A public key whose private half is kept offline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryWay {
    /// The age recipient, `age1…` (<https://age-encryption.org/v1>).
    pub recipient: String,
}

impl RecoveryWay {
    /// `recovery:` and the first 8 bytes of the recipient's SHA-256 in hex.
    pub fn name(&self) -> String {
        let hash = <[u8; 32]>::from(Sha256::digest(&self.recipient));
        let [first @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = hash;
        format!("recovery:{:016x}", u64::from_be_bytes(first))
    }
}

impl Way {
    /// The name by which wraps and boxes are bound to it.
    pub fn name(&self) -> String {
        match self {
            Self::Token(token) => token.serial.clone(),
            Self::Recovery(recovery) => recovery.name(),
        }
    }

    /// It, if it is a token.
    pub fn token(&self) -> Option<&TokenWay> {
        match self {
            Self::Token(token) => Some(token),
            Self::Recovery(_) => None,
        }
    }

    pub(super) fn write(&self, out: &mut Writer) {
        match self {
            Self::Token(token) => out
                .u8(TOKEN)
                .text(&token.serial)
                .u32(token.oldest_master)
                .u32(token.master)
                .u8(token.audit_key),
            Self::Recovery(recovery) => out.u8(RECOVERY).text(&recovery.recipient),
        };
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        if reader.known("way", &[TOKEN, RECOVERY])? == RECOVERY {
            let recipient = reader.text("recipient", 1, MAX_RECIPIENT_BYTES)?.to_owned();
            return Ok(Self::Recovery(RecoveryWay { recipient }));
        }
        let token = TokenWay {
            serial: reader.text("token serial", 1, MAX_TOKEN_BYTES)?.to_owned(),
            oldest_master: reader.u32("oldest master version")?,
            master: reader.u32("master version")?,
            audit_key: reader.u8("audit key")?,
        };
        if token.oldest_master == 0 || token.oldest_master > token.master {
            return Err(CodecError::Invalid { field: "master versions" });
        }
        Ok(Self::Token(token))
    }
}
