//! Verifying what the audit key signed: seal headers and audit checkpoints.
//!
//! Invariant: signatures are checked strictly (no malleable or small-order forms), so a signature fits one message.
//! Absent: signing, which happens in the module, and ECDSA P-256, which is named in formats but not yet verified.

use sha2::{Digest, Sha256};

use crate::codec::{CodecError, Reader, Writer};
use crate::error::CryptoError;
use crate::ports::{SignatureAlgorithm, VerifyingKey};

const ED25519: u8 = 1;
const ECDSA_P256: u8 = 2;
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
        let invalid = CryptoError::SignatureInvalid { what };
        if self.algorithm != SignatureAlgorithm::Ed25519 {
            return Err(CryptoError::SignatureUnsupported { algorithm: self.algorithm });
        }
        let (Ok(key), Ok(signature)) =
            (<&[u8; 32]>::try_from(self.bytes.as_slice()), <&[u8; 64]>::try_from(signature))
        else {
            return Err(invalid);
        };
        ed25519_dalek::VerifyingKey::from_bytes(key)
            .and_then(|key| key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)))
            .map_err(|_| invalid)
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u8(self.algorithm.number()).bytes(&self.bytes);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let (algorithm, length) = match reader.known("signature algorithm", &[ED25519, ECDSA_P256])? {
            ED25519 => (SignatureAlgorithm::Ed25519, 32),
            _ => (SignatureAlgorithm::EcdsaP256, 65),
        };
        Ok(Self { algorithm, bytes: reader.bytes("verifying key", length, length)?.to_vec() })
    }
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

    #[test]
    fn p256_is_named_as_unsupported() {
        let key = VerifyingKey { algorithm: SignatureAlgorithm::EcdsaP256, bytes: vec![4; 65] };
        let error = CryptoError::SignatureUnsupported { algorithm: SignatureAlgorithm::EcdsaP256 };
        assert_eq!(key.verify("test", b"", &[0; 64]), Err(error));
    }
}
