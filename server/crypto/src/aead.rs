//! AES-256-GCM under keys that seal one message. Invariant: a nonce is never chosen. It is zero, and the key is used
//! up by sealing, since every key here was derived for one message (from a fresh salt or a fresh data key).

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use zeroize::{Zeroize, Zeroizing};

use crate::error::CryptoError;
use crate::secret::SecretBytes;

/// Length of the tag behind a ciphertext.
pub(crate) const TAG_BYTES: usize = 16;

/// A key for one message.
pub(crate) struct MessageKey(Zeroizing<[u8; 32]>);

impl MessageKey {
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
        let start = out.len();
        out.reserve_exact(plaintext.len().saturating_add(TAG_BYTES));
        out.extend_from_slice(plaintext);
        let too_long = CryptoError::TooLong { what, found: plaintext.len(), max: MAX_MESSAGE };
        let message = out.get_mut(start..).unwrap_or_default();
        match self.cipher().encrypt_inout_detached(&Nonce::default(), &[], message.into()) {
            Ok(tag) => {
                out.extend_from_slice(&tag);
                Ok(out)
            }
            Err(_) => {
                out.zeroize();
                Err(too_long)
            }
        }
    }

    /// Opens the message.
    pub(crate) fn open(&self, what: &'static str, sealed: &[u8]) -> Result<SecretBytes, CryptoError> {
        let not_authentic = CryptoError::NotAuthentic { what };
        let Some((ciphertext, tag)) = sealed.split_last_chunk::<TAG_BYTES>() else {
            return Err(not_authentic);
        };
        let mut message = Zeroizing::new(ciphertext.to_vec());
        self.cipher()
            .decrypt_inout_detached(&Nonce::default(), &[], message.as_mut_slice().into(), tag.into())
            .map_err(|_| not_authentic)?;
        Ok(SecretBytes::new(std::mem::take(&mut *message)))
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&*self.0))
    }
}

/// GCM's own bound: 2^39 - 256 bits.
const MAX_MESSAGE: usize = (1 << 36) - 32;

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
