//! AES-CBC-PAD, then HMAC-SHA256 over lp(AAD) ‖ IV ‖ ciphertext under a second key. Invariant: what has a wrong MAC is
//! never decrypted, and every fault of a ciphertext is the same error, so that padding tells nothing. Absent: AEAD calls.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use keystead_crypto::ports::HsmError;
use keystead_crypto::secret::SecretBytes;
use subtle::ConstantTimeEq;

use super::host_random;
use crate::worker::fault::Fault;

const BLOCK: usize = 16;
/// Bytes of the MAC.
const MAC: usize = 32;

/// The three calls that this needs of a token.
pub(super) trait Primitives {
    fn encrypt(&self, iv: [u8; BLOCK], plaintext: &[u8]) -> Result<Vec<u8>, Fault>;
    fn decrypt(&self, iv: [u8; BLOCK], ciphertext: &[u8]) -> Result<SecretBytes, Fault>;
    fn mac(&self, message: &[u8]) -> Result<Vec<u8>, Fault>;
}

/// A session and the two keys.
pub(super) struct TokenKeys<'a> {
    pub(super) session: &'a Session,
    pub(super) aes: ObjectHandle,
    pub(super) mac: ObjectHandle,
}

impl Primitives for TokenKeys<'_> {
    fn encrypt(&self, iv: [u8; BLOCK], plaintext: &[u8]) -> Result<Vec<u8>, Fault> {
        Ok(self.session.encrypt(&Mechanism::AesCbcPad(iv), self.aes, plaintext)?)
    }

    fn decrypt(&self, iv: [u8; BLOCK], ciphertext: &[u8]) -> Result<SecretBytes, Fault> {
        Ok(SecretBytes::new(self.session.decrypt(&Mechanism::AesCbcPad(iv), self.aes, ciphertext)?))
    }

    fn mac(&self, message: &[u8]) -> Result<Vec<u8>, Fault> {
        let mac = self.session.sign(&Mechanism::Sha256Hmac, self.mac, message)?;
        if mac.len() == MAC {
            Ok(mac)
        } else {
            Err(HsmError::Lied { what: "the length of a MAC".to_owned() }.into())
        }
    }
}

/// IV, ciphertext with MAC.
pub(super) fn seal(
    token: &impl Primitives,
    aad: &[u8],
    plaintext: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Fault> {
    let iv = host_random()?;
    let mut ciphertext = token.encrypt(iv, plaintext)?;
    let mac = token.mac(&message(aad, &iv, &ciphertext)?)?;
    ciphertext.extend(mac);
    Ok((iv.to_vec(), ciphertext))
}

pub(super) fn open(
    token: &impl Primitives,
    aad: &[u8],
    iv: &[u8],
    sealed: &[u8],
) -> Result<SecretBytes, Fault> {
    let iv: [u8; BLOCK] = iv.try_into().map_err(|_| HsmError::NotAuthentic)?;
    let (ciphertext, found) = sealed.split_last_chunk::<MAC>().ok_or(HsmError::NotAuthentic)?;
    let mac = token.mac(&message(aad, &iv, ciphertext)?)?;
    if !bool::from(mac.as_slice().ct_eq(found)) {
        return Err(HsmError::NotAuthentic.into());
    }
    token.decrypt(iv, ciphertext)
}

fn message(aad: &[u8], iv: &[u8; BLOCK], ciphertext: &[u8]) -> Result<Vec<u8>, HsmError> {
    let length = u32::try_from(aad.len())
        .map_err(|_| HsmError::Unsupported { what: format!("an AAD of {} bytes", aad.len()) })?;
    Ok([&length.to_be_bytes(), aad, iv, ciphertext].concat())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use sha2::{Digest, Sha256};

    use super::*;

    /// No cipher and no MAC at all, but it pads and it counts.
    #[derive(Default)]
    struct Counting {
        decrypts: Cell<u32>,
    }

    impl Primitives for Counting {
        fn encrypt(&self, _: [u8; BLOCK], plaintext: &[u8]) -> Result<Vec<u8>, Fault> {
            let padding = BLOCK - plaintext.len() % BLOCK;
            Ok([plaintext, &vec![u8::try_from(padding).unwrap(); padding]].concat())
        }

        fn decrypt(&self, _: [u8; BLOCK], ciphertext: &[u8]) -> Result<SecretBytes, Fault> {
            self.decrypts.set(self.decrypts.get() + 1);
            let padding = usize::from(*ciphertext.last().unwrap());
            Ok(SecretBytes::copy_from(&ciphertext[..ciphertext.len() - padding]))
        }

        fn mac(&self, message: &[u8]) -> Result<Vec<u8>, Fault> {
            Ok(Sha256::digest(message).to_vec())
        }
    }

    fn refused(opened: Result<SecretBytes, Fault>) -> bool {
        matches!(opened, Err(Fault::Answer(HsmError::NotAuthentic)))
    }

    #[test]
    fn no_changed_byte_reaches_the_padding() {
        // CVE-2023-2197: a CBC fall-back that told padding errors apart.
        let token = Counting::default();
        let (iv, sealed) = seal(&token, b"aad", &[7; 48]).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(refused(open(&token, b"aad", &iv, &changed)), "byte {at}");
        }
        for at in 0..iv.len() {
            let mut changed = iv.clone();
            changed[at] ^= 1;
            assert!(refused(open(&token, b"aad", &changed, &sealed)), "byte {at} of the IV");
        }
        for cut in 0..sealed.len() {
            assert!(refused(open(&token, b"aad", &iv, &sealed[..cut])));
        }
        assert!(refused(open(&token, b"aae", &iv, &sealed)));
        assert!(refused(open(&token, b"aad", &iv[..12], &sealed)));
        assert_eq!(token.decrypts.get(), 0);
        assert_eq!(open(&token, b"aad", &iv, &sealed).unwrap().expose(), [7; 48]);
        assert_eq!(token.decrypts.get(), 1);
    }

    #[test]
    fn bytes_cannot_move_from_the_aad_into_the_iv() {
        let token = Counting::default();
        let (iv, sealed) = seal(&token, b"aad", b"").unwrap();
        let joined = [b"aad", iv.as_slice(), &sealed].concat();
        let (aad, rest) = joined.split_at(4);
        let (iv, sealed) = rest.split_at(BLOCK);
        assert!(refused(open(&token, aad, iv, sealed)));
    }

    #[test]
    fn the_mac_covers_length_aad_iv_and_ciphertext() {
        assert_eq!(
            message(b"ab", &[1; 16], &[2; 2]).unwrap(),
            [&[0, 0, 0, 2, b'a', b'b'][..], &[1; 16], &[2; 2]].concat()
        );
    }
}
