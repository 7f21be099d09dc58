//! The seal record: a public, signed header that says which shares open the vault, and the two boxes that they open.
//!
//! Invariants: the header is signed by the audit key and names it; a share names it too, so a forged header with a key
//! of its own is found by the first true share. Digests tell wrong shares apart without telling anything of right ones.
//! Absent: who may start an unsealing, and its progress (domain).

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::codec::{CodecError, Reader, Writer};
use crate::envelope::{MAX_TOKEN_BYTES, read_sealed, write_sealed};
use crate::error::CryptoError;
use crate::ports::{HsmSealed, Signer, VerifyingKey};
use crate::share::{SCHEME_GF256, Share, ShareError};
use crate::unseal_key::PIN_BOX_BYTES;

const HEADER_MAGIC: [u8; 4] = *b"KSSH";
const RECORD_MAGIC: [u8; 4] = *b"KSSR";
const FORMAT: u8 = 1;
const SIGN_LABEL: &str = "keystead/v1/seal-header";
const HEADER: &str = "seal header";
const RECORD: &str = "seal record";
/// Fixed fields, the longest serial and key, and 255 digests.
const MAX_HEADER_BYTES: usize = 64 + MAX_TOKEN_BYTES + 128 + 255 * 32;

/// What everybody may know about the seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealHeader {
    /// The vault.
    pub vault: [u8; 16],
    /// The epoch of shares and epoch key; counts from 1.
    pub epoch: u32,
    /// How many shares are needed.
    pub threshold: u8,
    /// How many there are.
    pub shares: u8,
    /// How the key was split: [`SCHEME_GF256`].
    pub scheme: u8,
    /// The token that holds M and the epoch key.
    pub token_serial: String,
    /// The version of M that wraps now.
    pub master_version: u32,
    /// The version of Q in the box.
    pub q_version: u32,
    /// The audit key that signed this.
    pub audit_key: VerifyingKey,
    /// Of each share, in the order of their numbers.
    pub share_digests: Vec<[u8; 32]>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

impl SealHeader {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&HEADER_MAGIC).u8(FORMAT).raw(&self.vault).u32(self.epoch);
        out.u8(self.scheme).u8(self.threshold).u8(self.shares);
        out.text(&self.token_serial).u32(self.master_version).u32(self.q_version);
        self.audit_key.write(&mut out);
        out.u64(self.created_ms);
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
        reader.magic(HEADER_MAGIC, FORMAT)?;
        let vault = reader.array("vault id")?;
        let epoch = reader.u32("epoch")?;
        let scheme = reader.known("scheme", &[SCHEME_GF256])?;
        let threshold = reader.u8("threshold")?;
        let shares = reader.u8("number of shares")?;
        if threshold < 2 || threshold > shares {
            return Err(CodecError::Invalid { field: "threshold" });
        }
        let token_serial = reader.text("token serial", 1, MAX_TOKEN_BYTES)?.to_owned();
        let master_version = reader.u32("master version")?;
        let q_version = reader.u32("version of Q")?;
        if epoch == 0 || master_version == 0 || q_version == 0 {
            return Err(CodecError::Invalid { field: "epoch and versions" });
        }
        let audit_key = VerifyingKey::read(&mut reader)?;
        let created_ms = reader.u64("time of making")?;
        let share_digests =
            (0..shares).map(|_| reader.array("share digest")).collect::<Result<Vec<_>, _>>()?;
        reader.finish()?;
        Ok(Self {
            vault,
            epoch,
            threshold,
            shares,
            scheme,
            token_serial,
            master_version,
            q_version,
            audit_key,
            share_digests,
            created_ms,
        })
    }

    /// Has the audit key sign it. The module's answer is verified before it is believed.
    pub async fn sign(&self, signer: &dyn Signer) -> Result<SignedSealHeader, CryptoError> {
        let bytes = self.encode();
        Self::decode(&bytes)?;
        let signature = signer.sign(&signed_bytes(&bytes)).await?;
        let signed = SignedSealHeader { bytes, signature };
        signed.verify()?;
        Ok(signed)
    }

    /// The id of a ceremony on this header: the first 16 bytes of SHA-256(label ‖ what ‖ nonce ‖ header), so that another
    /// header, purpose or beginning is another ceremony.
    pub fn ceremony_id(&self, what: &str, nonce: [u8; 16]) -> [u8; 16] {
        let bound =
            Writer::new().text("keystead/v1/ceremony").text(what).raw(&nonce).bytes(&self.encode()).finish();
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

/// A seal header with the signature of the audit key that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedSealHeader {
    /// The header, encoded.
    pub bytes: Vec<u8>,
    /// The signature over label and header.
    pub signature: Vec<u8>,
}

impl SignedSealHeader {
    /// The header, if its own audit key signed it. Whether that is the vault's key, a share or the module must say.
    pub fn verify(&self) -> Result<SealHeader, CryptoError> {
        let header = SealHeader::decode(&self.bytes)?;
        header.audit_key.verify(HEADER, &signed_bytes(&self.bytes), &self.signature)?;
        Ok(header)
    }

    /// Both parts as one value, for sending to holders and keeping beside backups.
    pub fn encode(&self) -> Vec<u8> {
        Writer::new().bytes(&self.bytes).bytes(&self.signature).finish()
    }

    /// Reads it back, strictly. The signature is not verified yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, CryptoError> {
        let mut reader = Reader::new(HEADER, bytes);
        Self::read(&mut reader)
            .and_then(|signed| reader.finish().map(|()| signed))
            .map_err(CryptoError::malformed(HEADER))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            bytes: reader.bytes("seal header", 1, MAX_HEADER_BYTES)?.to_vec(),
            signature: reader.bytes("signature", 64, 64)?.to_vec(),
        })
    }
}

/// What is signed: the label keeps a header from passing as a checkpoint.
fn signed_bytes(header: &[u8]) -> Vec<u8> {
    Writer::new().text(SIGN_LABEL).bytes(header).finish()
}

/// The whole seal record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealRecord {
    /// The public part.
    pub header: SignedSealHeader,
    /// The PIN under U.
    pub pin_box: Vec<u8>,
    /// Q under U under the epoch key.
    pub q_box: HsmSealed,
}

impl SealRecord {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&RECORD_MAGIC).u8(FORMAT);
        out.bytes(&self.header.bytes).bytes(&self.header.signature).bytes(&self.pin_box);
        write_sealed(&mut out, &self.q_box);
        out.finish()
    }

    /// Reads it back, strictly. The signature is not verified yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, CryptoError> {
        Self::read(bytes).map_err(CryptoError::malformed(RECORD))
    }

    fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(RECORD, bytes);
        reader.magic(RECORD_MAGIC, FORMAT)?;
        let record = Self {
            header: SignedSealHeader::read(&mut reader)?,
            pin_box: reader.bytes("PIN box", PIN_BOX_BYTES, PIN_BOX_BYTES)?.to_vec(),
            q_box: read_sealed(&mut reader)?,
        };
        reader.finish()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests;
