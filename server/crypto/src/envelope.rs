//! The envelope of a data key: sealed under Q by this process, and that sealed under M by each token, or for somebody
//! who recovers offline (`wraps`).
//!
//! Invariants: a data key seals one plaintext (sealing uses it up; an opened one only opens); the module sees only the
//! inner blob; a fresh wrap is opened once before anybody hears of it. Absent: caching, choosing master versions.

mod wraps;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;

use crate::aad::Aad;
use crate::aead::{MessageKey, TAG_BYTES};
use crate::arena::LockedKey;
use crate::codec::{CodecError, Reader, Writer};
use crate::error::CryptoError;
use crate::kdf;
use crate::ports::HsmSealed;
use crate::recovery::MECHANISM_AGE;
use crate::secret::SecretKey;
use crate::stack::swept;

#[cfg(test)]
pub(crate) use self::wraps::wrap_aad;
pub use self::wraps::{
    Created, Gap, MAX_TOKEN_BYTES, MAX_WRAPS, Opened, TokenWay, Way, Wrap, WrappedDataKey, vault_tag,
};

const INNER_LABEL: &str = "keystead/v1/inner";
const INNER_BYTES: usize = 32 + TAG_BYTES;

/// A fresh 256-bit key for one plaintext: `record::seal_single` uses it up.
#[derive(Debug)]
pub struct DataKey(SecretKey);

impl DataKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(SecretKey::generate(rng))
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    #[cfg(test)]
    pub(crate) fn fixed(bytes: [u8; 32]) -> Self {
        Self(SecretKey::build(|key| *key = bytes))
    }
}

/// A data key that came out of its envelope. It opens, and cannot seal.
#[derive(Debug)]
pub struct OpeningKey(SecretKey);

impl OpeningKey {
    pub(crate) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

/// The vault's own half of every envelope, by version. Known only while unsealed.
#[derive(Debug)]
pub struct Q {
    version: u32,
    key: LockedKey,
}

impl Q {
    /// A fresh one.
    pub fn generate(version: u32, rng: &mut impl CryptoRng) -> Self {
        Self::new(version, LockedKey::generate(rng))
    }

    /// From its bytes.
    pub fn new(version: u32, key: LockedKey) -> Self {
        Self { version, key }
    }

    /// Its version; counts from 1.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        self.key.expose()
    }

    fn inner_key(&self, salt: &[u8; 32], aad: &Aad<'_>) -> MessageKey {
        let context = Writer::new().u32(self.version).raw(&aad.canonical()).finish();
        MessageKey::new(kdf::derive(self.expose(), salt, INNER_LABEL, &context))
    }
}

/// A data key sealed under Q. Useless without Q, so it may be cached and may pass through the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InnerBlob {
    salt: [u8; 32],
    q_version: u32,
    bytes: [u8; INNER_BYTES],
}

impl InnerBlob {
    /// Seals a data key for its place, under a fresh salt.
    pub fn seal(
        q: &Q,
        aad: &Aad<'_>,
        data_key: &DataKey,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, CryptoError> {
        let mut salt = [0; 32];
        rng.fill_bytes(&mut salt);
        let sealed = swept(|| q.inner_key(&salt, aad).seal("inner blob", Vec::new(), data_key.expose()))?;
        let bytes = sealed.try_into().map_err(|_| CryptoError::NotAuthentic { what: "inner blob" })?;
        Ok(Self { salt, q_version: q.version, bytes })
    }

    /// Opens it.
    pub fn open(&self, q: &Q, aad: &Aad<'_>) -> Result<OpeningKey, CryptoError> {
        let what = "inner blob";
        if self.q_version != q.version {
            return Err(CryptoError::OtherQ { what, needed: self.q_version, given: q.version });
        }
        let opened = swept(|| q.inner_key(&self.salt, aad).open(what, &self.bytes))?;
        SecretKey::from_slice(opened.expose()).map(OpeningKey).ok_or(CryptoError::NotAuthentic { what })
    }

    /// The same data key under another Q, with the same salt: all wraps of a record share it. The key of the new blob
    /// is derived from the other Q, so it seals this one message, as often as it is made again.
    pub fn reseal(&self, from: &Q, to: &Q, aad: &Aad<'_>) -> Result<Self, CryptoError> {
        let what = "inner blob";
        let opened = self.open(from, aad)?;
        let sealed = swept(|| to.inner_key(&self.salt, aad).seal(what, Vec::new(), opened.expose()))?;
        let bytes = sealed.try_into().map_err(|_| CryptoError::NotAuthentic { what })?;
        let resealed = Self { salt: self.salt, q_version: to.version, bytes };
        let again = resealed.open(to, aad)?;
        let same = bool::from(again.0.ct_eq(&opened.0));
        same.then_some(resealed).ok_or(CryptoError::NotAuthentic { what })
    }

    /// The version of Q that it is sealed under.
    pub fn q_version(&self) -> u32 {
        self.q_version
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

const MAX_IV_BYTES: usize = 16;
const MAX_SEALED_BYTES: usize = 4096;

/// Writes what a module sealed: mechanism, IV, ciphertext.
pub(crate) fn write_sealed(out: &mut Writer, sealed: &HsmSealed) {
    out.u8(sealed.mechanism).bytes(&sealed.iv).bytes(&sealed.ciphertext);
}

/// Reads it back. Lengths are those of its mechanism.
pub(crate) fn read_sealed(reader: &mut Reader<'_>) -> Result<HsmSealed, CodecError> {
    let sealed = HsmSealed {
        mechanism: reader.u8("mechanism")?,
        iv: reader.bytes("IV", 0, MAX_IV_BYTES)?.to_vec(),
        ciphertext: reader.bytes("HSM ciphertext", 1, MAX_SEALED_BYTES)?.to_vec(),
    };
    let known = match sealed.mechanism {
        MECHANISM_AGE => sealed.iv.is_empty(),
        _ => sealed.well_formed().is_some(),
    };
    if known {
        Ok(sealed)
    } else {
        Err(CodecError::Invalid { field: "mechanism, or lengths of IV and ciphertext" })
    }
}

/// Checks the form of what a module just sealed.
pub(crate) fn check_sealed(sealed: &HsmSealed, plaintext: usize) -> Result<(), CryptoError> {
    if sealed.may_hold(plaintext) && sealed.ciphertext.len() <= MAX_SEALED_BYTES {
        return Ok(());
    }
    Err(CryptoError::lied("a fresh ciphertext or its IV has the wrong length"))
}

#[cfg(test)]
mod tests;
