//! Signing by the audit key: pure Ed25519, whose parameters are none, or ECDSA P-256 over a SHA-256 made here, since
//! tokens have bare ECDSA more often than hashed. Absent: verification, which is the caller's, since a module that signs
//! wrongly would verify wrongly too.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use keystead_crypto::ports::{HsmError, SignatureAlgorithm, VerifyingKey};
use keystead_crypto::secret::SecretBytes;
use sha2::{Digest, Sha256};

use super::fault::Fault;

/// Bytes of a signature, of either algorithm.
const SIGNATURE: usize = 64;

/// A key pair that signs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) private: ObjectHandle,
    pub(super) public: ObjectHandle,
    pub(super) algorithm: SignatureAlgorithm,
}

/// The public half.
pub(super) fn verifying_key(session: &Session, key: Pair) -> Result<VerifyingKey, Fault> {
    let found = session.get_attributes(key.public, &[AttributeType::EcPoint])?;
    let point = found.iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(point) => bare_point(key.algorithm, point),
        _ => None,
    });
    let Some(point) = point else {
        return Err(HsmError::Lied { what: "the form of a public key".to_owned() }.into());
    };
    Ok(VerifyingKey { algorithm: key.algorithm, bytes: point.to_vec() })
}

/// Signs a message.
pub(super) fn sign(session: &Session, key: Pair, message: &[u8]) -> Result<SecretBytes, Fault> {
    let signature = match key.algorithm {
        SignatureAlgorithm::Ed25519 => {
            let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            session.sign(&mechanism, key.private, message)?
        }
        SignatureAlgorithm::EcdsaP256 => {
            session.sign(&Mechanism::Ecdsa, key.private, &Sha256::digest(message))?
        }
    };
    if signature.len() != SIGNATURE {
        return Err(HsmError::Lied { what: "the length of a signature".to_owned() }.into());
    }
    Ok(SecretBytes::new(signature))
}

/// Tokens give the point bare, or as a DER octet string, as PKCS#11 2.40 and 3.0 disagree.
fn bare_point(algorithm: SignatureAlgorithm, point: &[u8]) -> Option<&[u8]> {
    match algorithm {
        SignatureAlgorithm::Ed25519 => match point {
            [0x04, 0x20, rest @ ..] if rest.len() == 32 => Some(rest),
            bare => Some(bare).filter(|bare| bare.len() == 32),
        },
        SignatureAlgorithm::EcdsaP256 => {
            let bare = match point {
                [0x04, 0x41, rest @ ..] if rest.len() == 65 => rest,
                bare => bare,
            };
            // The point's own first byte says that it is uncompressed.
            Some(bare).filter(|bare| bare.len() == 65 && bare.first() == Some(&0x04))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_ed25519_point_are_read() {
        let read = |point: &[u8]| bare_point(SignatureAlgorithm::Ed25519, point).map(<[u8]>::to_vec);
        let der = [&[0x04, 0x20][..], &[7; 32]].concat();
        assert_eq!(read(&der), Some(vec![7; 32]));
        assert_eq!(read(&[7; 32]), Some(vec![7; 32]));
        assert_eq!(read(&[7; 33]), None);
        assert_eq!(read(&[4, 0x20]), None);
    }

    #[test]
    fn both_forms_of_a_p256_point_are_read() {
        let read = |point: &[u8]| bare_point(SignatureAlgorithm::EcdsaP256, point).map(<[u8]>::to_vec);
        let bare = [&[0x04][..], &[7; 64]].concat();
        let der = [&[0x04, 0x41][..], &bare].concat();
        assert_eq!(read(&der), Some(bare.clone()));
        assert_eq!(read(&bare), Some(bare.clone()));
        // A bare point may begin like a DER string.
        let alike = [&[0x04, 0x41, 0x04][..], &[7; 62]].concat();
        assert_eq!(read(&alike), Some(alike.clone()));
        for other in
            [&bare[..64], &der[..66], &[&[0x02][..], &[7; 64]].concat(), &[&[0x03][..], &[7; 32]].concat()]
        {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}
