//! Ed25519 by the audit key. Invariant: only pure EdDSA, whose parameters are none. Absent: verification, which is the
//! caller's, since a module that signs wrongly would verify wrongly too.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType};
use cryptoki::session::Session;
use keystead_crypto::ports::{HsmError, SignatureAlgorithm, VerifyingKey};
use keystead_crypto::secret::SecretBytes;

use super::fault::Fault;
use super::token::BoundKey;

/// Bytes of an Ed25519 public key.
const POINT: usize = 32;
/// Bytes of an Ed25519 signature.
const SIGNATURE: usize = 64;

/// The public half.
pub(super) fn verifying_key(session: &Session, key: &BoundKey) -> Result<VerifyingKey, Fault> {
    let BoundKey::Pair { public, .. } = key else { return Err(no_pair()) };
    let found = session.get_attributes(*public, &[AttributeType::EcPoint])?;
    let point = found.iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(point) => bare_point(point),
        _ => None,
    });
    let Some(point) = point else {
        return Err(HsmError::Lied { what: "the form of a public key".to_owned() }.into());
    };
    Ok(VerifyingKey { algorithm: SignatureAlgorithm::Ed25519, bytes: point.to_vec() })
}

/// Signs a message.
pub(super) fn sign(session: &Session, key: &BoundKey, message: &[u8]) -> Result<SecretBytes, Fault> {
    let BoundKey::Pair { private, .. } = key else { return Err(no_pair()) };
    let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
    let signature = session.sign(&mechanism, *private, message)?;
    if signature.len() != SIGNATURE {
        return Err(HsmError::Lied { what: "the length of a signature".to_owned() }.into());
    }
    Ok(SecretBytes::new(signature))
}

/// Tokens give the point bare, or as a DER octet string, as PKCS#11 2.40 and 3.0 disagree.
fn bare_point(point: &[u8]) -> Option<&[u8; POINT]> {
    match point {
        [0x04, 0x20, rest @ ..] if rest.len() == POINT => rest.try_into().ok(),
        bare => bare.try_into().ok(),
    }
}

fn no_pair() -> Fault {
    HsmError::Unsupported { what: "signing with a key that wraps".to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_point_are_read() {
        let der = [&[0x04, 0x20][..], &[7; 32]].concat();
        assert_eq!(bare_point(&der), Some(&[7; 32]));
        assert_eq!(bare_point(&[7; 32]), Some(&[7; 32]));
        assert_eq!(bare_point(&[7; 33]), None);
        assert_eq!(bare_point(&[4, 0x20]), None);
    }
}
