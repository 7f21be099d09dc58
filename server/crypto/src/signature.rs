//! Verifying what the audit key signed: seal headers and audit checkpoints.
//!
//! Invariant: one encoding of keys and signatures each. Ed25519 is checked strictly (no malleable or small-order forms);
//! of ECDSA both s and its negative are taken, since tokens give either. Absent: signing, which happens in the module.

use p256::ecdsa::signature::Verifier;
use sha2::{Digest, Sha256};

use crate::codec::{CodecError, Reader, Writer};
use crate::error::CryptoError;
use crate::ports::{SignatureAlgorithm, VerifyingKey};

const ED25519: u8 = 1;
const ECDSA_P256: u8 = 2;
/// The first byte of an uncompressed point (SEC 1, 2.3.3).
const SEC1_UNCOMPRESSED: u8 = 4;
const FINGERPRINT_LABEL: &[u8] = b"keystead/audit-key/v1";

impl VerifyingKey {
    /// The first 8 bytes of SHA-256("keystead/audit-key/v1" ‖ algorithm ‖ key): shares name the audit key by it.
    pub fn fingerprint(&self) -> [u8; 8] {
        let hash = Sha256::new()
            .chain_update(FINGERPRINT_LABEL)
            .chain_update([self.algorithm.number()])
            .chain_update(&self.bytes)
            .finalize();
        let mut fingerprint = [0; 8];
        for (to, from) in fingerprint.iter_mut().zip(hash) {
            *to = from;
        }
        fingerprint
    }

    /// Verifies a signature over `message`; `what` names it in the error.
    pub fn verify(&self, what: &'static str, message: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if !self.well_formed() {
            // The shorter forms of a point would be read too.
            return Err(CryptoError::SignatureInvalid { what });
        }
        let good = match self.algorithm {
            SignatureAlgorithm::Ed25519 => ed25519_verifies(&self.bytes, message, signature),
            SignatureAlgorithm::EcdsaP256 => p256_verifies(&self.bytes, message, signature),
        };
        good.ok_or(CryptoError::SignatureInvalid { what })
    }

    /// Whether the bytes have the form that the algorithm says.
    pub fn well_formed(&self) -> bool {
        match self.algorithm {
            SignatureAlgorithm::Ed25519 => self.bytes.len() == 32,
            SignatureAlgorithm::EcdsaP256 => {
                self.bytes.len() == 65 && self.bytes.first() == Some(&SEC1_UNCOMPRESSED)
            }
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u8(self.algorithm.number()).bytes(&self.bytes);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (algorithm, length) = match reader.known("signature algorithm", &[ED25519, ECDSA_P256])? {
            ED25519 => (SignatureAlgorithm::Ed25519, 32),
            _ => (SignatureAlgorithm::EcdsaP256, 65),
        };
        let key = Self { algorithm, bytes: reader.bytes("verifying key", length, length)?.to_vec() };
        if key.well_formed() { Ok(key) } else { Err(CodecError::Invalid { field: "verifying key" }) }
    }
}

fn ed25519_verifies(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let key = ed25519_dalek::VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
    let signature = ed25519_dalek::Signature::from_bytes(signature.try_into().ok()?);
    key.verify_strict(message, &signature).ok()
}

fn p256_verifies(key: &[u8], message: &[u8], signature: &[u8]) -> Option<()> {
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).ok()?;
    let signature = p256::ecdsa::Signature::from_slice(signature).ok()?;
    key.verify(message, &signature).ok()
}

impl SignatureAlgorithm {
    /// The number of the algorithm in formats.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Ed25519 => ED25519,
            Self::EcdsaP256 => ECDSA_P256,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::unhex;

    fn rfc_8032_test_2() -> (VerifyingKey, Vec<u8>) {
        let key = unhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let signature = unhex(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        );
        (VerifyingKey { algorithm: SignatureAlgorithm::Ed25519, bytes: key }, signature)
    }

    #[test]
    fn verifies_a_published_vector_and_no_change_of_it() {
        let (key, signature) = rfc_8032_test_2();
        assert_eq!(key.verify("test", &[0x72], &signature), Ok(()));
        let invalid = Err(CryptoError::SignatureInvalid { what: "test" });
        assert_eq!(key.verify("test", &[0x73], &signature), invalid);
        for position in 0..signature.len() {
            let mut changed = signature.clone();
            changed[position] ^= 1;
            assert_eq!(key.verify("test", &[0x72], &changed), invalid);
        }
        assert_eq!(key.verify("test", &[0x72], &signature[..63]), invalid);
    }

    #[test]
    fn a_key_of_small_order_verifies_nothing() {
        // The identity point as key and R, with s = 0, passes the equation that is not strict for every message.
        let mut identity = [0; 32];
        identity[0] = 1;
        let key = VerifyingKey { algorithm: SignatureAlgorithm::Ed25519, bytes: identity.to_vec() };
        let signature = [identity, [0; 32]].concat();
        assert!(key.verify("test", b"anything", &signature).is_err());
    }

    /// RFC 6979, A.2.5: P-256 with SHA-256, the messages "sample" and "test".
    const RFC_6979: [(&[u8], &str); 2] = [
        (
            b"sample",
            "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716\
             f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
        ),
        (
            b"test",
            "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367\
             019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083",
        ),
    ];
    /// The order of P-256's group.
    const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";

    fn rfc_6979_key() -> VerifyingKey {
        let point = "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6\
                     7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299";
        VerifyingKey { algorithm: SignatureAlgorithm::EcdsaP256, bytes: unhex(point) }
    }

    #[test]
    fn p256_verifies_published_vectors_and_no_change_of_them() {
        let key = rfc_6979_key();
        let invalid = Err(CryptoError::SignatureInvalid { what: "test" });
        for (message, signature) in RFC_6979 {
            // The first has a high s, the second a low one.
            let signature = unhex(signature);
            assert_eq!(key.verify("test", message, &signature), Ok(()));
            assert_eq!(key.verify("test", b"other", &signature), invalid);
            for position in 0..signature.len() {
                let mut changed = signature.clone();
                changed[position] ^= 1;
                assert_eq!(key.verify("test", message, &changed), invalid, "byte {position}");
            }
            for length in [0, 63, 65] {
                let mut other = signature.clone();
                other.resize(length, 0);
                assert_eq!(key.verify("test", message, &other), invalid, "{length} bytes");
            }
        }
    }

    #[test]
    fn p256_takes_no_r_or_s_out_of_range() {
        let key = rfc_6979_key();
        let (message, signature) = RFC_6979[1];
        let signature = unhex(signature);
        let (r, s) = signature.split_at(32);
        for bad in [vec![0; 32], unhex(ORDER), vec![0xff; 32]] {
            assert!(key.verify("test", message, &[&bad, s].concat()).is_err());
            assert!(key.verify("test", message, &[r, &bad].concat()).is_err());
        }
    }

    #[test]
    fn p256_keys_have_one_form() {
        let key = rfc_6979_key();
        let (message, signature) = RFC_6979[0];
        let point = key.bytes.clone();
        let compressed = [&[3], &point[1..33]].concat();
        let hybrid = [&[7], &point[1..]].concat();
        let mut off_the_curve = point.clone();
        off_the_curve[64] ^= 1;
        let padded = [&compressed[..], &[0; 32]].concat();
        for bytes in [compressed, hybrid, off_the_curve, padded, vec![0], Vec::new()] {
            let other = VerifyingKey { bytes, ..key.clone() };
            assert!(other.verify("test", message, &unhex(signature)).is_err(), "{:?}", other.bytes);
        }
        let written = |key: &VerifyingKey| {
            let mut out = Writer::new();
            key.write(&mut out);
            out.finish()
        };
        let read = |bytes: &[u8]| VerifyingKey::read(&mut Reader::new("key", bytes));
        assert_eq!(read(&written(&key)), Ok(key.clone()));
        let shifted = VerifyingKey { bytes: [&[2], &point[1..]].concat(), ..key };
        assert_eq!(read(&written(&shifted)), Err(CodecError::Invalid { field: "verifying key" }));
    }
}
