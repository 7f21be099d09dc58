//! The public header: what everybody may know about the seal.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::way::{MAX_WAYS, TokenWay, Way};
use super::{FORMAT, HEADER, WayBoxes};
use crate::codec::{CodecError, Reader, Writer};
use crate::error::CryptoError;
use crate::ports::{Signer, VerifyingKey};
use crate::share::{SCHEME_GF256, Share, ShareError};
use crate::unseal_key::BoxPlace;

const MAGIC: [u8; 4] = *b"KSSH";
const ENDORSE_LABEL: &str = "keystead/v1/audit-key";
const ENDORSEMENT: &str = "endorsement of an audit key";
/// Audit keys beside the first: of further tokens, and of retired ones that stand between the shares and them.
const MAX_ENDORSED: usize = 15;

/// What everybody may know about the seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealHeader {
    /// The vault.
    pub vault: [u8; 16],
    /// The epoch of shares and epoch keys; counts from 1.
    pub epoch: u32,
    /// How many shares are needed.
    pub threshold: u8,
    /// How many there are.
    pub shares: u8,
    /// How the key was split: [`SCHEME_GF256`].
    pub scheme: u8,
    /// The version of Q that seals now; counts from 1.
    pub q_version: u32,
    /// The version before, while data keys are still sealed under it.
    pub former_q_version: Option<u32>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The audit key that shares name: number 0.
    pub audit_key: VerifyingKey,
    /// Further audit keys: numbers 1 and up.
    pub endorsed_keys: Vec<EndorsedKey>,
    /// The number of the key that signed this.
    pub signer: u8,
    /// The ways to the keys, the preferred first.
    pub ways: Vec<Way>,
    /// Of each share, in the order of their numbers.
    pub share_digests: Vec<[u8; 32]>,
}

/// The audit key of a further token, vouched for by one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndorsedKey {
    /// The public half.
    pub key: VerifyingKey,
    /// The number of the key that vouches.
    pub by: u8,
    /// Its signature over label, vault and key.
    pub signature: Vec<u8>,
}

/// Has a module vouch for the audit key of another.
///
/// # Errors
/// Those of the module; `SignatureInvalid` when its answer does not fit its key.
pub async fn endorse(
    signer: &dyn Signer,
    by: &VerifyingKey,
    vault: [u8; 16],
    key: &VerifyingKey,
) -> Result<Vec<u8>, CryptoError> {
    let message = endorsed_bytes(vault, key);
    let signature = signer.sign(&message).await?;
    by.verify(ENDORSEMENT, &message, &signature)?;
    Ok(signature)
}

fn endorsed_bytes(vault: [u8; 16], key: &VerifyingKey) -> Vec<u8> {
    let mut out = Writer::new();
    out.text(ENDORSE_LABEL).raw(&vault);
    key.write(&mut out);
    out.finish()
}

impl SealHeader {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&MAGIC).u8(FORMAT).raw(&self.vault).u32(self.epoch);
        out.u8(self.scheme).u8(self.threshold).u8(self.shares);
        out.u32(self.q_version).u32(self.former_q_version.unwrap_or(0)).u64(self.created_ms);
        self.audit_key.write(&mut out);
        out.u8(u8::try_from(self.endorsed_keys.len()).unwrap_or(0));
        for endorsed in &self.endorsed_keys {
            endorsed.key.write(&mut out);
            out.u8(endorsed.by).bytes(&endorsed.signature);
        }
        out.u8(self.signer).u8(u8::try_from(self.ways.len()).unwrap_or(0));
        for way in &self.ways {
            way.write(&mut out);
        }
        for digest in &self.share_digests {
            out.raw(digest);
        }
        out.finish()
    }

    /// Reads it back, strictly.
    pub fn decode(bytes: &[u8]) -> Result<Self, CryptoError> {
        Self::read(bytes).map_err(CryptoError::malformed(HEADER))
    }

    fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(HEADER, bytes);
        reader.magic(MAGIC, FORMAT)?;
        let vault = reader.array("vault id")?;
        let epoch = reader.u32("epoch")?;
        let scheme = reader.known("scheme", &[SCHEME_GF256])?;
        let threshold = reader.u8("threshold")?;
        let shares = reader.u8("number of shares")?;
        if threshold < 2 || threshold > shares {
            return Err(CodecError::Invalid { field: "threshold" });
        }
        let q_version = reader.u32("version of Q")?;
        let former = reader.u32("former version of Q")?;
        if epoch == 0 || q_version == 0 || former >= q_version {
            return Err(CodecError::Invalid { field: "epoch and versions" });
        }
        let created_ms = reader.u64("time of making")?;
        let audit_key = VerifyingKey::read(&mut reader)?;
        let endorsed = reader.count("endorsed keys", 0, MAX_ENDORSED)?;
        let endorsed_keys =
            (0..endorsed).map(|before| read_endorsed(&mut reader, before)).collect::<Result<_, _>>()?;
        let header = Self {
            vault,
            epoch,
            threshold,
            shares,
            scheme,
            q_version,
            former_q_version: (former != 0).then_some(former),
            created_ms,
            audit_key,
            endorsed_keys,
            signer: reader.u8("signer")?,
            ways: read_ways(&mut reader, endorsed)?,
            share_digests: (0..shares).map(|_| reader.array("share digest")).collect::<Result<_, _>>()?,
        };
        if usize::from(header.signer) > endorsed {
            return Err(CodecError::Invalid { field: "signer" });
        }
        reader.finish()?;
        Ok(header)
    }

    /// The tokens among its ways.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenWay> {
        self.ways.iter().filter_map(Way::token)
    }

    /// The versions of Q that open data keys, the newest first.
    pub fn q_versions(&self) -> impl Iterator<Item = u32> + use<> {
        std::iter::once(self.q_version).chain(self.former_q_version)
    }

    /// An audit key by its number.
    pub fn audit_key_at(&self, number: u8) -> Option<&VerifyingKey> {
        match usize::from(number).checked_sub(1) {
            None => Some(&self.audit_key),
            Some(further) => self.endorsed_keys.get(further).map(|endorsed| &endorsed.key),
        }
    }

    /// Each further audit key is vouched for by one before it.
    pub(super) fn check_endorsements(&self) -> Result<(), CryptoError> {
        for endorsed in &self.endorsed_keys {
            let message = endorsed_bytes(self.vault, &endorsed.key);
            self.known_key(endorsed.by)?.verify(ENDORSEMENT, &message, &endorsed.signature)?;
        }
        Ok(())
    }

    /// The audit key of a number that this header names somewhere.
    pub(super) fn known_key(&self, number: u8) -> Result<&VerifyingKey, CryptoError> {
        let unknown = CryptoError::malformed(HEADER)(CodecError::Invalid { field: "number of an audit key" });
        self.audit_key_at(number).ok_or(unknown)
    }

    /// The place of the boxes of a way.
    pub fn box_place<'a>(&self, way: &'a str) -> BoxPlace<'a> {
        BoxPlace { vault: self.vault, epoch: self.epoch, way }
    }

    /// Whether boxes are what a way needs.
    pub(super) fn boxes_fit(&self, way: &Way, boxes: &WayBoxes) -> bool {
        let mut versions = vec![self.q_version];
        versions.extend(self.former_q_version);
        let pins_fit = match way {
            Way::Token(_) => !boxes.pins.is_empty(),
            Way::Recovery(_) => boxes.pins.is_empty(),
        };
        pins_fit && boxes.q.iter().map(|q| q.version).eq(versions)
    }

    /// The id of a ceremony on this header: the first 16 bytes of SHA-256(label ‖ what ‖ parameters ‖ nonce ‖ header), so
    /// that another header, purpose, parameter or beginning is another ceremony.
    pub fn ceremony_id(&self, what: &str, parameters: &[u8], nonce: [u8; 16]) -> [u8; 16] {
        let bound = Writer::new()
            .text("keystead/v1/ceremony")
            .text(what)
            .bytes(parameters)
            .raw(&nonce)
            .bytes(&self.encode())
            .finish();
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(Sha256::digest(&bound)) {
            *to = from;
        }
        id
    }

    /// Whether a share is one of those that open this vault now; if not, why.
    pub fn check_share(&self, share: &Share) -> Result<(), ShareError> {
        if share.scheme() != self.scheme {
            return Err(ShareError::UnknownScheme { scheme: share.scheme() });
        }
        if share.vault() != self.vault {
            return Err(ShareError::OtherVault { share: share.vault(), expected: self.vault });
        }
        if share.epoch() != self.epoch {
            return Err(ShareError::OtherEpoch { share: share.epoch(), expected: self.epoch });
        }
        let fingerprint = self.audit_key.fingerprint();
        if share.audit_fingerprint() != fingerprint {
            return Err(ShareError::OtherAuditKey {
                share: share.audit_fingerprint(),
                expected: fingerprint,
            });
        }
        if share.threshold() != self.threshold {
            return Err(ShareError::OtherThreshold { share: share.threshold(), expected: self.threshold });
        }
        let number = share.number();
        let index = usize::from(number).checked_sub(1).ok_or(ShareError::ZeroNumber)?;
        let digest =
            self.share_digests.get(index).ok_or(ShareError::NumberTooHigh { number, shares: self.shares })?;
        if bool::from(digest.ct_eq(&share.digest())) {
            Ok(())
        } else {
            Err(ShareError::WrongShare { number })
        }
    }
}

fn read_endorsed(reader: &mut Reader<'_>, before: usize) -> Result<EndorsedKey, CodecError> {
    let key = VerifyingKey::read(reader)?;
    let by = reader.u8("endorser")?;
    if usize::from(by) > before {
        return Err(CodecError::Invalid { field: "endorser" });
    }
    Ok(EndorsedKey { key, by, signature: reader.bytes("endorsement", 64, 64)?.to_vec() })
}

fn read_ways(reader: &mut Reader<'_>, endorsed: usize) -> Result<Vec<Way>, CodecError> {
    let count = reader.count("ways", 1, MAX_WAYS)?;
    let mut ways: Vec<Way> = Vec::with_capacity(count);
    for _ in 0..count {
        let way = Way::read(reader)?;
        let known_key = way.token().is_none_or(|token| usize::from(token.audit_key) <= endorsed);
        if !known_key || ways.iter().any(|other| other.name() == way.name()) {
            return Err(CodecError::Invalid { field: "ways" });
        }
        ways.push(way);
    }
    if ways.iter().all(|way| way.token().is_none()) {
        return Err(CodecError::Invalid { field: "ways" });
    }
    Ok(ways)
}
