//! Recovery offline: what is sealed here opens with an age identity (X25519) whose private half no server ever has.
//!
//! Invariants: only bytes that are sealed under Q or U already are sealed for a recipient; the format is age's binary
//! one (age-encryption.org/v1), so that other tools open it. age draws its own randomness from the system.
//! Absent: passphrases, plugins, armor, and files, which the program that recovers reads.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::error::CryptoError;
use crate::ports::HsmSealed;
use crate::secret::SecretBytes;
use crate::stack::swept_deep;

/// Mechanism 32 of docs/storage-format.md: age, X25519, no IV of ours.
pub const MECHANISM_AGE: u8 = 32;
/// What the name of every recovery way begins with, and that of no token.
pub const NAME_PREFIX: &str = "recovery:";
/// age's header has some 200 bytes for one recipient, and up to 400 more that mean nothing.
const MAX_OVERHEAD: usize = 1024;

/// Why a text is no recipient or no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// Not a recipient.
    #[error(
        "not an age recipient: it begins with \"age1\" and is made by `age-keygen`; nothing else is taken"
    )]
    Recipient,
    /// Not an identity.
    #[error("not an age identity: it begins with \"AGE-SECRET-KEY-1\" and is made by `age-keygen`")]
    Identity,
}

/// The public half of a recovery key.
#[derive(Clone)]
pub struct RecoveryRecipient {
    text: String,
    name: String,
    digest: [u8; 32],
    key: age::x25519::Recipient,
}

impl RecoveryRecipient {
    /// From its text, `age1…`, in its one spelling.
    ///
    /// # Errors
    /// `Recipient`; so is a key that nothing can be sealed for.
    pub fn parse(text: &str) -> Result<Self, RecoveryError> {
        let key = age::x25519::Recipient::from_str(text).map_err(|_| RecoveryError::Recipient)?;
        if key.to_string() != text {
            return Err(RecoveryError::Recipient);
        }
        let recipient = Self::of(key);
        age::encrypt(&recipient.key, b"").map_err(|_| RecoveryError::Recipient)?;
        Ok(recipient)
    }

    fn of(key: age::x25519::Recipient) -> Self {
        let text = key.to_string();
        let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let name =
            digest.iter().take(8).fold(NAME_PREFIX.to_owned(), |name, byte| format!("{name}{byte:02x}"));
        Self { text, name, digest, key }
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of its way: `recovery:` and the first 16 hexadecimal digits of the SHA-256 of its text.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of its text.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.digest
    }

    pub(crate) fn key_id(&self) -> [u8; 16] {
        let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = self.digest;
        id
    }
}

impl PartialEq for RecoveryRecipient {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for RecoveryRecipient {}

impl fmt::Debug for RecoveryRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecoveryRecipient").field(&self.text).finish()
    }
}

/// The private half. A server never has one; the program that recovers offline does.
pub struct RecoveryIdentity(age::x25519::Identity);

impl RecoveryIdentity {
    /// From its text, `AGE-SECRET-KEY-1…`.
    ///
    /// # Errors
    /// `Identity`.
    pub fn parse(text: &SecretBytes) -> Result<Self, RecoveryError> {
        let text = std::str::from_utf8(text.expose()).map_err(|_| RecoveryError::Identity)?;
        swept_deep(|| age::x25519::Identity::from_str(text)).map(Self).map_err(|_| RecoveryError::Identity)
    }

    /// The public half.
    pub fn recipient(&self) -> RecoveryRecipient {
        RecoveryRecipient::of(self.0.to_public())
    }

    /// Opens what [`seal`] made of exactly `length` bytes. `what` names it in errors.
    ///
    /// # Errors
    /// `NotAuthentic`.
    pub fn open(
        &self,
        what: &'static str,
        sealed: &HsmSealed,
        length: usize,
    ) -> Result<Vec<u8>, CryptoError> {
        let not_authentic = CryptoError::NotAuthentic { what };
        if sealed.mechanism != MECHANISM_AGE || !sealed.iv.is_empty() {
            return Err(not_authentic);
        }
        let opened = swept_deep(|| age::decrypt(&self.0, &sealed.ciphertext));
        opened.ok().filter(|opened| opened.len() == length).ok_or(not_authentic)
    }
}

impl fmt::Debug for RecoveryIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryIdentity(..)")
    }
}

/// Seals bytes, which are sealed under a key of the vault already, for a recipient. `what` names them in errors.
///
/// # Errors
/// `Recovery` when age fails, which it does only without randomness.
pub fn seal(
    what: &'static str,
    recipient: &RecoveryRecipient,
    plaintext: &[u8],
) -> Result<HsmSealed, CryptoError> {
    let ciphertext = age::encrypt(&recipient.key, plaintext).map_err(|_| CryptoError::Recovery { what })?;
    let most = plaintext.len().saturating_add(MAX_OVERHEAD);
    if ciphertext.len() <= plaintext.len() || ciphertext.len() > most {
        return Err(CryptoError::Recovery { what });
    }
    Ok(HsmSealed { mechanism: MECHANISM_AGE, iv: Vec::new(), ciphertext })
}

/// Seals a text for a recipient, armored (the form of a file that `age -d` opens).
///
/// # Errors
/// As [`seal`].
pub fn seal_text(
    what: &'static str,
    recipient: &RecoveryRecipient,
    text: &SecretBytes,
) -> Result<String, CryptoError> {
    swept_deep(|| age::encrypt_and_armor(&recipient.key, text.expose()))
        .map_err(|_| CryptoError::Recovery { what })
}

#[cfg(test)]
pub(crate) mod tests;
