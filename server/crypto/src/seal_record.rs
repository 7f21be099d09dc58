//! The seal record: a public, signed header that says which shares open the vault and which ways lead to its keys, and
//! the boxes that shares and a way open together.
//!
//! Invariants: the header is signed by an audit key that it names; shares name the first of them, and the others are
//! vouched for by one before them, so a forged header is found by the first true share. Digests tell wrong shares apart
//! without telling anything of right ones. Absent: who may start an unsealing, and its progress (domain).

mod header;
mod way;

use crate::codec::{CodecError, Reader, Writer};
use crate::envelope::{read_sealed, write_sealed};
use crate::error::CryptoError;
use crate::ports::{HsmSealed, Signer};
use crate::unseal_key::PIN_BOX_BYTES;

pub use self::header::{EndorsedKey, SealHeader, endorse};
pub use self::way::{MAX_WAYS, RecoveryWay, TokenWay, Way};

const RECORD_MAGIC: [u8; 4] = *b"KSSR";
const FORMAT: u8 = 1;
const SIGN_LABEL: &str = "keystead/v1/seal-header";
const HEADER: &str = "seal header";
const RECORD: &str = "seal record";
/// PIN boxes of a token: two while its PIN is being changed.
const MAX_PIN_BOXES: usize = 2;
/// Boxes of Q on one way: two while it is being replaced.
const MAX_Q_BOXES: usize = 2;
/// Well above 255 digests, 16 audit keys and 8 ways.
const MAX_HEADER_BYTES: usize = 16 * 1024;

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
        header.check_endorsements()?;
        header.known_key(header.signer)?.verify(HEADER, &signed_bytes(&self.bytes), &self.signature)?;
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

impl SealHeader {
    /// Has its signer sign it. The module's answer is verified before it is believed.
    pub async fn sign(&self, signer: &dyn Signer) -> Result<SignedSealHeader, CryptoError> {
        let bytes = self.encode();
        Self::decode(&bytes)?;
        let signature = signer.sign(&signed_bytes(&bytes)).await?;
        let signed = SignedSealHeader { bytes, signature };
        signed.verify()?;
        Ok(signed)
    }
}

/// What is signed: the label keeps a header from passing as a checkpoint.
fn signed_bytes(header: &[u8]) -> Vec<u8> {
    Writer::new().text(SIGN_LABEL).bytes(header).finish()
}

/// Q for one way: under U, and that sealed by the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QBox {
    /// The version of Q inside.
    pub version: u32,
    /// What the way made.
    pub sealed: HsmSealed,
}

impl QBox {
    pub(crate) fn write_all(boxes: &[Self], out: &mut Writer) {
        out.u8(u8::try_from(boxes.len()).unwrap_or(0));
        for q in boxes {
            out.u32(q.version);
            write_sealed(out, &q.sealed);
        }
    }

    pub(crate) fn read_all(reader: &mut Reader<'_>) -> Result<Vec<Self>, CodecError> {
        let count = reader.count("boxes of Q", 1, MAX_Q_BOXES)?;
        (0..count)
            .map(|_| Ok(Self { version: reader.u32("version of Q")?, sealed: read_sealed(reader)? }))
            .collect()
    }
}

/// What shares and one way open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WayBoxes {
    /// A token's PIN under U: one, or the one it is being changed to and the one before. None for a recovery key.
    pub pins: Vec<Vec<u8>>,
    /// Q, the newest version first.
    pub q: Vec<QBox>,
}

impl WayBoxes {
    /// The box of one version of Q.
    pub fn q_box(&self, version: u32) -> Option<&HsmSealed> {
        self.q.iter().find(|q| q.version == version).map(|q| &q.sealed)
    }
}

/// The whole seal record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealRecord {
    /// The public part.
    pub header: SignedSealHeader,
    /// Of each way, in the header's order.
    pub boxes: Vec<WayBoxes>,
}

impl SealRecord {
    /// The header, if it is signed and the boxes are those of its ways.
    pub fn verify(&self) -> Result<SealHeader, CryptoError> {
        let header = self.header.verify()?;
        let fits = self.boxes.len() == header.ways.len()
            && header.ways.iter().zip(&self.boxes).all(|(way, boxes)| header.boxes_fit(way, boxes));
        if fits {
            Ok(header)
        } else {
            Err(CryptoError::malformed(RECORD)(CodecError::Invalid { field: "boxes" }))
        }
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&RECORD_MAGIC).u8(FORMAT);
        out.bytes(&self.header.bytes).bytes(&self.header.signature);
        out.u8(u8::try_from(self.boxes.len()).unwrap_or(0));
        for way in &self.boxes {
            out.u8(u8::try_from(way.pins.len()).unwrap_or(0));
            for pin in &way.pins {
                out.bytes(pin);
            }
            QBox::write_all(&way.q, &mut out);
        }
        out.finish()
    }

    /// Reads it back, strictly. Nothing is verified yet.
    pub fn decode(bytes: &[u8]) -> Result<Self, CryptoError> {
        Self::read(bytes).map_err(CryptoError::malformed(RECORD))
    }

    fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(RECORD, bytes);
        reader.magic(RECORD_MAGIC, FORMAT)?;
        let header = SignedSealHeader::read(&mut reader)?;
        let ways = reader.count("ways", 1, MAX_WAYS)?;
        let boxes = (0..ways).map(|_| read_boxes(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { header, boxes })
    }
}

fn read_boxes(reader: &mut Reader<'_>) -> Result<WayBoxes, CodecError> {
    let pins = reader.count("PIN boxes", 0, MAX_PIN_BOXES)?;
    let pins = (0..pins)
        .map(|_| reader.bytes("PIN box", PIN_BOX_BYTES, PIN_BOX_BYTES).map(<[u8]>::to_vec))
        .collect::<Result<_, _>>()?;
    Ok(WayBoxes { pins, q: QBox::read_all(reader)? })
}

#[cfg(test)]
mod tests;
