//! AES-256-GCM (NIST SP 800-38D), done by AWS-LC, which wipes the key schedules that it makes.
//!
//! Invariant: no nonce is chosen by a caller's caller. That of a [`MessageKey`] is zero, and the key is used up by sealing,
//! since every one was derived for one message (from a fresh salt or a fresh data key); the other user counts (`counter`).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::{Zeroize, Zeroizing};

use crate::error::CryptoError;
use crate::secret::SecretBytes;

/// Length of the tag behind a ciphertext.
pub(crate) const TAG_BYTES: usize = 16;

/// GCM's own bound: 2^39 - 256 bits.
const MAX_MESSAGE: usize = (1 << 36) - 32;

/// Puts `ciphertext ‖ tag` behind what is in `out`. No nonce may come twice under a key.
pub(crate) fn seal(
    what: &'static str,
    key: &[u8; 32],
    nonce: [u8; NONCE_LEN],
    bound: &[u8],
    out: &mut Vec<u8>,
    plaintext: &[u8],
) -> Result<(), CryptoError> {
    if plaintext.len() > MAX_MESSAGE {
        return Err(CryptoError::TooLong { what, found: plaintext.len(), max: MAX_MESSAGE });
    }
    let key = cipher(what, key)?;
    let start = out.len();
    out.reserve_exact(plaintext.len().saturating_add(TAG_BYTES));
    out.extend_from_slice(plaintext);
    let message = out.get_mut(start..).unwrap_or_default();
    match key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), message) {
        Ok(tag) => {
            out.extend_from_slice(tag.as_ref());
            Ok(())
        }
        Err(_) => {
            message.zeroize();
            Err(CryptoError::Cipher { what })
        }
    }
}

/// Opens `ciphertext ‖ tag`.
pub(crate) fn open(
    what: &'static str,
    key: &[u8; 32],
    nonce: [u8; NONCE_LEN],
    bound: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let not_authentic = CryptoError::NotAuthentic { what };
    let Some((ciphertext, tag)) = sealed.split_last_chunk::<TAG_BYTES>() else {
        return Err(not_authentic);
    };
    let mut message = Zeroizing::new(vec![0; ciphertext.len()]);
    cipher(what, key)?
        .open_separate_gather(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(bound),
            ciphertext,
            tag,
            &mut message,
        )
        .map_err(|_| not_authentic)?;
    Ok(std::mem::take(&mut *message))
}

/// The key as the library wants it: on its own heap, which it wipes when it gives it back.
fn cipher(what: &'static str, key: &[u8; 32]) -> Result<LessSafeKey, CryptoError> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|_| CryptoError::Cipher { what })
}

/// A key for one message.
pub(crate) struct MessageKey(Zeroizing<[u8; 32]>);

impl MessageKey {
    /// The one nonce of a key that seals one message.
    const NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

    /// Takes over a derived key.
    pub(crate) fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self(key)
    }

    /// Seals the one message behind `head`, using the key up: `head ‖ ciphertext ‖ tag`.
    pub(crate) fn seal(
        self,
        what: &'static str,
        head: Vec<u8>,
        plaintext: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let mut out = head;
        seal(what, &self.0, Self::NONCE, &[], &mut out, plaintext)?;
        Ok(out)
    }

    /// Opens the message.
    pub(crate) fn open(&self, what: &'static str, sealed: &[u8]) -> Result<SecretBytes, CryptoError> {
        open(what, &self.0, Self::NONCE, &[], sealed).map(SecretBytes::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{hex, unhex};

    #[test]
    fn matches_a_published_vector_of_gcm() {
        // McGrew and Viega, "The Galois/Counter Mode of Operation", test case 14: zero key, zero IV, one zero block.
        let key = || MessageKey::new(Zeroizing::new([0; 32]));
        let sealed = key().seal("test", Vec::new(), &[0; 16]).unwrap();
        assert_eq!(hex(&sealed), "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
        let opened = key().open("test", &sealed).unwrap();
        assert_eq!(opened.expose(), [0; 16]);
        // Test case 13: no plaintext at all.
        let sealed = key().seal("test", Vec::new(), &[]).unwrap();
        assert_eq!(sealed, unhex("530f8afbc74536b9a963b4f1c4cb738b"));
    }

    #[test]
    fn a_message_shorter_than_a_tag_is_not_authentic() {
        let key = MessageKey::new(Zeroizing::new([0; 32]));
        for length in 0..TAG_BYTES {
            assert!(key.open("test", &vec![0; length]).is_err());
        }
    }
}
