//! The ports that a hardware security module fills. Invariant: what crosses them is public, or sealed under Q already,
//! except the PIN at login and random bytes. Answers are checked by the caller: a module may lie.

use async_trait::async_trait;
use sha2::{Digest, Sha256};

use crate::secret::SecretBytes;

/// Why a module did not do what was asked. No variant holds key material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HsmError {
    /// The module, its process or its token is not there now; asking again later may help.
    #[error("the HSM is unavailable: {reason}")]
    Unavailable {
        /// What is missing, in words.
        reason: String,
    },
    /// No answer within the deadline; the module's process was ended and starts anew.
    #[error("the HSM did not answer within {millis} ms; its process is restarted")]
    DeadlineExceeded {
        /// The deadline in milliseconds.
        millis: u64,
    },
    /// The child or the token was lost while the PIN was changed, and neither PIN could be shown to be the token's.
    #[error("the token's PIN may be the old one or the new one; log in again with one of them by hand")]
    PinUncertain,
    /// The token refused the PIN. A program never tries it again.
    #[error("the token refused the PIN; it is not tried again by program, since tokens lock")]
    PinRefused,
    /// The token's PIN is locked.
    #[error("the token's PIN is locked; unlock it with the vendor's tool")]
    PinLocked,
    /// Nobody is logged in.
    #[error("not logged in to the token")]
    NotLoggedIn,
    /// A key or token by this name is not there, or not just once.
    #[error("expected exactly one {what}, found {found}; {}", advice(*found))]
    NotUnique {
        /// What was looked for.
        what: String,
        /// How many there are.
        found: usize,
    },
    /// The module says that the ciphertext is not authentic.
    #[error("the HSM refused a ciphertext as not authentic")]
    NotAuthentic,
    /// The module answered something that cannot be right.
    #[error("the HSM answered wrongly: {what}")]
    Lied {
        /// Which check failed.
        what: String,
    },
    /// The module cannot do this.
    #[error("the HSM cannot do this: {what}")]
    Unsupported {
        /// What was asked.
        what: String,
    },
    /// A configuration that does not fit the module: path, pin of its hash, token label, flags of a key.
    #[error("the HSM configuration does not fit: {what}")]
    Misconfigured {
        /// What does not fit.
        what: String,
    },
}

fn advice(found: usize) -> &'static str {
    if found == 0 {
        "check that this is the right token, and that nothing on it was destroyed"
    } else {
        "with the vendor's tool, remove or rename what is not the vault's, or name the token by its serial"
    }
}

/// A key inside the module, by purpose and version. Label and id on the token are derived from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HsmKey {
    /// What it is for.
    pub purpose: HsmKeyPurpose,
    /// Counts from 1: the version of M, or the epoch of E.
    pub version: u32,
}

impl HsmKey {
    /// The key's label on the token: `keystead/<vault tag in hex>/<purpose>/<version>`.
    pub fn label(&self, vault_tag: [u8; 8]) -> String {
        let purpose = self.purpose.word();
        format!("keystead/{:016x}/{purpose}/{}", u64::from_be_bytes(vault_tag), self.version)
    }

    /// The key whose label this is, if it is one of this vault. A label has one spelling.
    pub fn from_label(vault_tag: [u8; 8], label: &str) -> Option<Self> {
        let (rest, version) = label.rsplit_once('/')?;
        let (_, word) = rest.rsplit_once('/')?;
        let purpose = HsmKeyPurpose::ALL.into_iter().find(|purpose| purpose.word() == word)?;
        let key = Self { purpose, version: version.parse().ok().filter(|version| *version > 0)? };
        (key.label(vault_tag) == label).then_some(key)
    }

    /// The key's id on the token: the first 16 bytes of the SHA-256 of its label.
    pub fn id(&self, vault_tag: [u8; 8]) -> [u8; 16] {
        id_of(&self.label(vault_tag))
    }

    /// The label of the MAC key that goes with this one where a module seals by CBC and HMAC.
    pub fn mac_label(&self, vault_tag: [u8; 8]) -> String {
        format!("{}-mac", self.label(vault_tag))
    }

    /// The id of that MAC key, made from its label in the same way.
    pub fn mac_id(&self, vault_tag: [u8; 8]) -> [u8; 16] {
        id_of(&self.mac_label(vault_tag))
    }
}

fn id_of(label: &str) -> [u8; 16] {
    let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = <[u8; 32]>::from(Sha256::digest(label));
    id
}

/// What a key inside the module is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HsmKeyPurpose {
    /// M: wraps data keys.
    Master,
    /// E: boxes Q, one a share epoch.
    Epoch,
    /// Signs seal headers and audit checkpoints.
    Audit,
    /// Boxes Q for a vault that opens without shares.
    Auto,
}

impl HsmKeyPurpose {
    /// Every purpose.
    pub const ALL: [Self; 4] = [Self::Master, Self::Epoch, Self::Audit, Self::Auto];

    /// Its word in labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Epoch => "epoch",
            Self::Audit => "audit",
            Self::Auto => "auto",
        }
    }
}

/// What the module wrapped, with all that is needed to open it again on the same token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HsmSealed {
    /// The number of the mechanism used ([`Mechanism`](crate::mechanism::Mechanism), docs/storage-format.md).
    pub mechanism: u8,
    /// The IV, whoever chose it: 12 or 16 bytes.
    pub iv: Vec<u8>,
    /// Ciphertext followed by the tag (16 bytes) or the MAC (32 bytes).
    pub ciphertext: Vec<u8>,
}

/// The signature algorithms of a [`Signer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// Ed25519 (RFC 8032), 32-byte public key, 64-byte signature.
    Ed25519,
    /// ECDSA P-256 with SHA-256, SEC1 uncompressed public key (65 bytes), raw r‖s signature (64 bytes).
    EcdsaP256,
}

/// A public key with its algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    /// The algorithm.
    pub algorithm: SignatureAlgorithm,
    /// The key's bytes, as the algorithm says.
    pub bytes: Vec<u8>,
}

/// Logging in, and making the keys of a new vault.
#[async_trait]
pub trait HsmLogin: Send + Sync {
    /// Which token there is, without logging in.
    async fn probe(&self) -> Result<TokenInfo, HsmError>;
    /// Logs in with the PIN and runs the live self-test, for a person who acts: a quorum that entered its shares, or whoever
    /// typed the PIN. Once refused, the same PIN is not sent again.
    async fn login(&self, pin: SecretBytes) -> Result<TokenInfo, HsmError>;
    /// The same where no person acts. Nothing is sent while the token's flags say that it counts wrong PINs
    /// ([`HsmError::Misconfigured`]): an earlier try, even one that ended without an answer, may have been wrong.
    async fn login_unattended(&self, pin: SecretBytes) -> Result<TokenInfo, HsmError>;
    /// Logs out, forgets the PIN and ends the module's process.
    async fn logout(&self);
    /// Makes a key, non-extractable, and reads its flags back. Refused if one by this name exists.
    async fn create_key(&self, vault_tag: [u8; 8], key: HsmKey) -> Result<(), HsmError>;
    /// Destroys a key; absent is success. One that is bound is bound no more from here on, even if this fails: a process
    /// that starts anew binds what was bound, and would not come back if a key of that were gone.
    async fn destroy_key(&self, vault_tag: [u8; 8], key: HsmKey) -> Result<(), HsmError>;
    /// The keys of one vault that the token holds, by their labels: sorted, each once, however many objects bear a label.
    /// Labels of the vault that name no such key are left out. Flags are not looked at; `bind` does that.
    async fn list_keys(&self, vault_tag: [u8; 8]) -> Result<Vec<HsmKey>, HsmError>;
    /// Changes the PIN of the token's user; somebody must be logged in.
    ///
    /// * Success: the token takes `new` only, and `new` is used when the module's process has to log in again.
    /// * [`HsmError::PinRefused`]: the token refused `current`, and no program sends it again. Nothing changed.
    /// * [`HsmError::PinUncertain`]: the module's process was lost in the middle. Either PIN may be right; what needs
    ///   the PIN later must keep both until a login shows which. To find out, each is sent at most once without being
    ///   asked for, `new` first; if neither is taken, a person must log in.
    /// * Any other error: nothing changed, and `current` is still the PIN. A length that the token does not take is
    ///   [`HsmError::Misconfigured`], found before anything is sent.
    async fn change_pin(&self, current: SecretBytes, new: SecretBytes) -> Result<(), HsmError>;
    /// Binds this connection to the keys of one vault (its id's first 8 bytes), after checking their flags.
    async fn bind(&self, vault_tag: [u8; 8], keys: &[HsmKey]) -> Result<(), HsmError>;
}

/// Which token answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// The token's serial, trimmed.
    pub serial: String,
    /// The token's label, trimmed.
    pub label: String,
    /// Its maker and model.
    pub model: String,
}

/// Encrypts and decrypts small blobs under M or E. At most 4 KiB.
#[async_trait]
pub trait KeyWrapper: Send + Sync {
    /// Seals `plaintext` under `key`, bound to `aad`. The IV is the adapter's or the module's, never a caller's.
    async fn wrap(&self, key: HsmKey, aad: &[u8], plaintext: &[u8]) -> Result<HsmSealed, HsmError>;
    /// Opens what `wrap` made, by the mechanism that it names.
    async fn unwrap(&self, key: HsmKey, aad: &[u8], sealed: &HsmSealed) -> Result<Vec<u8>, HsmError>;
    /// Both, one after the other: what was sealed, and what the module opened it to, for the caller to compare. An adapter
    /// whose module is far away makes it one journey.
    async fn wrap_and_unwrap(
        &self,
        key: HsmKey,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<(HsmSealed, Vec<u8>), HsmError> {
        let sealed = self.wrap(key, aad, plaintext).await?;
        // Before it is given back: whether it opens says nothing of one that has not even the right form.
        if !sealed.may_hold(plaintext.len()) {
            return Err(HsmError::Lied { what: "the form of a wrap".to_owned() });
        }
        let opened = self.unwrap(key, aad, &sealed).await?;
        Ok((sealed, opened))
    }
}

/// Signs with the audit key.
#[async_trait]
pub trait Signer: Send + Sync {
    /// The public half.
    async fn verifying_key(&self) -> Result<VerifyingKey, HsmError>;
    /// Signs a message. The caller verifies the answer.
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, HsmError>;
}

/// Keeps one small value in the token: at most 1 KiB.
#[async_trait]
pub trait Anchor: Send + Sync {
    /// Stores the value under the next counter: create new, then destroy old.
    async fn store(&self, counter: u64, value: &[u8]) -> Result<(), HsmError>;
    /// The value with the highest counter.
    async fn load(&self) -> Result<Option<(u64, Vec<u8>)>, HsmError>;
}

/// Random bytes from the module: at most 1 KiB a call, checked for constant output.
#[async_trait]
pub trait Entropy: Send + Sync {
    /// Draws bytes.
    async fn random(&self, bytes: usize) -> Result<SecretBytes, HsmError>;
}

/// A whole module: every port and the login.
pub trait Hsm: HsmLogin + KeyWrapper + Signer + Anchor + Entropy {}

impl<T: HsmLogin + KeyWrapper + Signer + Anchor + Entropy> Hsm for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_names_its_key_and_nothing_else_does() {
        let tag = *b"vault--1";
        for purpose in HsmKeyPurpose::ALL {
            let key = HsmKey { purpose, version: 7 };
            assert_eq!(HsmKey::from_label(tag, &key.label(tag)), Some(key));
            assert_eq!(HsmKey::from_label(*b"vault--2", &key.label(tag)), None);
        }
        for label in ["", "master/1", "keystead/7661756c742d2d31/anchor"] {
            assert_eq!(HsmKey::from_label(tag, label), None, "{label}");
        }
        for end in
            ["other/1", "master/0", "master/01", "master/+1", "master/1-mac", "master/4294967296", "master/"]
        {
            let label = format!("keystead/7661756c742d2d31/{end}");
            assert_eq!(HsmKey::from_label(tag, &label), None, "{label}");
        }
    }
}
