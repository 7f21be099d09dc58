//! The envelope of a data key: sealed under Q by this process, and that sealed under M by the module.
//!
//! Invariants: a data key seals one plaintext (sealing uses it up; an opened one only opens); the module sees only the
//! inner blob; a fresh wrap is opened once before anybody hears of it. Absent: caching, choosing master versions.

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;

use crate::aad::Aad;
use crate::aead::{MessageKey, TAG_BYTES};
use crate::arena::LockedKey;
use crate::codec::{CodecError, Reader, Writer};
use crate::error::CryptoError;
use crate::kdf;
use crate::ports::{HsmError, HsmKey, HsmKeyPurpose, HsmSealed, KeyWrapper};
use crate::secret::SecretKey;
use crate::stack::swept;

const MAGIC: [u8; 4] = *b"KSDK";
const FORMAT: u8 = 1;
const SUITE: u8 = 1;
const INNER_LABEL: &str = "keystead/v1/inner";
const WRAP_LABEL: &str = "keystead/v1/wrap";
const INNER_BYTES: usize = 32 + TAG_BYTES;
const WHAT: &str = "wrapped data key";
/// The most wraps that a list holds: tokens times versions while a rotation runs.
pub const MAX_WRAPS: usize = 16;
/// The longest token serial; PKCS#11 has 16 bytes, other modules name themselves at more length.
pub const MAX_TOKEN_BYTES: usize = 64;

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

    /// The version of Q that it is sealed under.
    pub fn q_version(&self) -> u32 {
        self.q_version
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// One token's way to the inner blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrap {
    /// The serial of the token.
    pub token: String,
    /// The id of the key on the token.
    pub key_id: [u8; 16],
    /// The version of M.
    pub master_version: u32,
    /// The version of Q that the inner blob is sealed under.
    pub q_version: u32,
    /// What the module made.
    pub sealed: HsmSealed,
}

/// The record of a data key: a salt and the list of its wraps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedDataKey {
    salt: [u8; 32],
    wraps: Vec<Wrap>,
}

impl WrappedDataKey {
    /// Seals a data key under Q and wraps it by the module. The wrap was opened again when this returns. The inner
    /// blob comes along, for a cache.
    pub fn create<'a>(
        hsm: &'a dyn KeyWrapper,
        token: &'a str,
        master_version: u32,
        q: &Q,
        aad: &Aad<'_>,
        data_key: &DataKey,
        mut rng: &mut dyn CryptoRng,
    ) -> impl Future<Output = Result<(Self, InnerBlob), CryptoError>> + Send + use<'a> {
        let canonical = aad.canonical();
        let vault = aad.vault;
        let inner = InnerBlob::seal(q, aad, data_key, &mut rng).and_then(|inner| {
            let opened = inner.open(q, aad)?;
            let same = bool::from(opened.0.ct_eq(&data_key.0));
            same.then_some(inner).ok_or(CryptoError::NotAuthentic { what: "inner blob" })
        });
        async move {
            let inner = inner?;
            let wrap = wrap(hsm, token, vault, master_version, &canonical, &inner).await?;
            Ok((Self { salt: inner.salt, wraps: vec![wrap] }, inner))
        }
    }

    /// The inner blob, through the newest wrap for this token.
    pub async fn unwrap_inner(
        &self,
        hsm: &dyn KeyWrapper,
        token: &str,
        aad: &Aad<'_>,
    ) -> Result<InnerBlob, CryptoError> {
        let newest = self
            .wraps
            .iter()
            .filter(|wrap| wrap.token == token)
            .max_by_key(|wrap| (wrap.master_version, wrap.q_version))
            .ok_or_else(|| CryptoError::NoWrapForToken {
                token: token.to_owned(),
                wrapped_for: self.wraps.iter().map(|wrap| wrap.token.clone()).collect(),
            })?;
        let bytes = unwrap(hsm, newest, &self.salt, &aad.canonical()).await?;
        Ok(InnerBlob { salt: self.salt, q_version: newest.q_version, bytes })
    }

    /// The wraps, in the order of the record.
    pub fn wraps(&self) -> &[Wrap] {
        &self.wraps
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&MAGIC).u8(FORMAT).u8(SUITE).raw(&self.salt);
        out.u8(u8::try_from(self.wraps.len()).unwrap_or(0));
        for wrap in &self.wraps {
            out.text(&wrap.token).raw(&wrap.key_id).u32(wrap.master_version).u32(wrap.q_version);
            write_sealed(&mut out, &wrap.sealed);
        }
        out.finish()
    }

    /// Reads it back, strictly.
    pub fn decode(bytes: &[u8]) -> Result<Self, CryptoError> {
        Self::read(bytes).map_err(CryptoError::malformed(WHAT))
    }

    fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.magic(MAGIC, FORMAT)?;
        reader.known("suite", &[SUITE])?;
        let salt = reader.array("salt")?;
        let found = usize::from(reader.u8("number of wraps")?);
        if found == 0 || found > MAX_WRAPS {
            return Err(CodecError::Length { field: "wraps", found, min: 1, max: MAX_WRAPS });
        }
        let mut wraps: Vec<Wrap> = Vec::with_capacity(found);
        for _ in 0..found {
            let wrap = Wrap {
                token: reader.text("token", 1, MAX_TOKEN_BYTES)?.to_owned(),
                key_id: reader.array("key id")?,
                master_version: reader.u32("master version")?,
                q_version: reader.u32("version of Q")?,
                sealed: read_sealed(&mut reader)?,
            };
            if wrap.master_version == 0
                || wrap.q_version == 0
                || wraps.iter().any(|other| same_way(other, &wrap))
            {
                return Err(CodecError::Invalid { field: "wraps" });
            }
            wraps.push(wrap);
        }
        reader.finish()?;
        Ok(Self { salt, wraps })
    }
}

fn same_way(a: &Wrap, b: &Wrap) -> bool {
    (&a.token, a.master_version, a.q_version) == (&b.token, b.master_version, b.q_version)
}

/// Has the module wrap an inner blob, and open it again at once.
async fn wrap(
    hsm: &dyn KeyWrapper,
    token: &str,
    vault: [u8; 16],
    master_version: u32,
    aad: &[u8],
    inner: &InnerBlob,
) -> Result<Wrap, CryptoError> {
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
        return Err(CryptoError::TooLong { what: "token serial", found: token.len(), max: MAX_TOKEN_BYTES });
    }
    let key = HsmKey { purpose: HsmKeyPurpose::Master, version: master_version };
    let key_id = key.id(vault_tag(vault));
    let q_version = inner.q_version;
    let bound = wrap_aad(key_id, master_version, q_version, &inner.salt, aad);
    let sealed = hsm.wrap(key, &bound, &inner.bytes).await?;
    check_sealed(&sealed, INNER_BYTES)?;
    let wrap = Wrap { token: token.to_owned(), key_id, master_version, q_version, sealed };
    if unwrap(hsm, &wrap, &inner.salt, aad).await? != inner.bytes {
        return Err(CryptoError::lied("a fresh wrap opened to other bytes"));
    }
    Ok(wrap)
}

async fn unwrap(
    hsm: &dyn KeyWrapper,
    wrap: &Wrap,
    salt: &[u8; 32],
    aad: &[u8],
) -> Result<[u8; INNER_BYTES], CryptoError> {
    let key = HsmKey { purpose: HsmKeyPurpose::Master, version: wrap.master_version };
    let bound = wrap_aad(wrap.key_id, wrap.master_version, wrap.q_version, salt, aad);
    let inner = match hsm.unwrap(key, &bound, &wrap.sealed).await {
        Ok(inner) => inner,
        Err(HsmError::NotAuthentic) => return Err(CryptoError::NotAuthentic { what: WHAT }),
        Err(other) => return Err(other.into()),
    };
    inner.try_into().map_err(|_| CryptoError::lied("an unwrapped inner blob has another length"))
}

/// What the module binds a wrap to: key, versions, salt and place.
pub(crate) fn wrap_aad(
    key_id: [u8; 16],
    master_version: u32,
    q_version: u32,
    salt: &[u8; 32],
    aad: &[u8],
) -> Vec<u8> {
    Writer::new().text(WRAP_LABEL).raw(&key_id).u32(master_version).u32(q_version).raw(salt).raw(aad).finish()
}

/// The first 8 bytes of a vault's id, which name its keys on a token.
pub(crate) fn vault_tag(vault: [u8; 16]) -> [u8; 8] {
    let [tag @ .., _, _, _, _, _, _, _, _] = vault;
    tag
}

/// Mechanism 1 of docs/storage-format.md: AES-GCM with the host's IV.
const AES_GCM_HOST_IV: u8 = 1;
const MAX_IV_BYTES: usize = 64;
const MAX_SEALED_BYTES: usize = 4096;

/// Writes what a module sealed: mechanism, IV, ciphertext.
pub(crate) fn write_sealed(out: &mut Writer, sealed: &HsmSealed) {
    out.u8(sealed.mechanism).bytes(&sealed.iv).bytes(&sealed.ciphertext);
}

/// Reads it back. Lengths are exact where the mechanism is known here; the module refuses one that it does not know.
pub(crate) fn read_sealed(reader: &mut Reader<'_>) -> Result<HsmSealed, CodecError> {
    let sealed = HsmSealed {
        mechanism: reader.u8("mechanism")?,
        iv: reader.bytes("IV", 0, MAX_IV_BYTES)?.to_vec(),
        ciphertext: reader.bytes("HSM ciphertext", 1, MAX_SEALED_BYTES)?.to_vec(),
    };
    let iv_fits = sealed.mechanism != AES_GCM_HOST_IV || sealed.iv.len() == 12;
    if sealed.mechanism == 0 || !iv_fits {
        return Err(CodecError::Invalid { field: "mechanism and IV" });
    }
    Ok(sealed)
}

/// Checks the form of what a module just sealed.
pub(crate) fn check_sealed(sealed: &HsmSealed, plaintext: usize) -> Result<(), CryptoError> {
    let form = match sealed.mechanism {
        0 => false,
        AES_GCM_HOST_IV => {
            sealed.iv.len() == 12 && sealed.ciphertext.len() == plaintext.saturating_add(TAG_BYTES)
        }
        _ => sealed.iv.len() <= MAX_IV_BYTES && (1..=MAX_SEALED_BYTES).contains(&sealed.ciphertext.len()),
    };
    if form { Ok(()) } else { Err(CryptoError::lied("a fresh ciphertext or its IV has the wrong length")) }
}

#[cfg(test)]
mod tests;
