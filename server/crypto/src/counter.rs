//! Audit bodies: a subkey for each process start, under it a counter for a nonce.
//!
//! Invariants: the subkey is derived with a salt that is drawn when it is made, so no two processes count under the same
//! key; the counter is never set from outside. Format: counter u64 ‖ ciphertext ‖ tag, nonce = 0⁴ ‖ counter.
//! Absent: a commitment; whoever holds a day's key may write that day's bodies anyway.

use std::sync::atomic::{AtomicU64, Ordering};

use rand_core::CryptoRng;

use crate::aead::{self, TAG_BYTES};
use crate::arena::{LockedKey, arena};
use crate::error::CryptoError;
use crate::kdf;
use crate::stack::swept;

const LABEL: &str = "keystead/v1/audit-body";
const WHAT: &str = "audit body";

/// Length of the salt of a process start.
pub const SALT_BYTES: usize = 12;

/// Seals bodies of one day, for one process start.
#[derive(Debug)]
pub struct BodyKey {
    salt: [u8; SALT_BYTES],
    key: LockedKey,
    next: AtomicU64,
}

impl BodyKey {
    /// A subkey of a day's key under a fresh salt.
    pub fn start(day_key: &LockedKey, rng: &mut impl CryptoRng) -> Self {
        let mut salt = [0; SALT_BYTES];
        rng.fill_bytes(&mut salt);
        Self { salt, key: subkey(day_key, &salt), next: AtomicU64::new(0) }
    }

    /// The salt that `open_body` needs.
    pub fn salt(&self) -> [u8; SALT_BYTES] {
        self.salt
    }

    /// Seals a body, bound to its entry's header.
    pub fn seal(&self, header: &[u8], body: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let counter = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut sealed =
            Vec::with_capacity(counter.len().saturating_add(body.len()).saturating_add(TAG_BYTES));
        sealed.extend_from_slice(&counter);
        swept(|| aead::seal(WHAT, self.key.expose(), nonce(counter), header, &mut sealed, body))?;
        Ok(sealed)
    }
}

/// Opens what [`BodyKey::seal`] made.
pub fn open_body(
    day_key: &LockedKey,
    salt: &[u8; SALT_BYTES],
    header: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let Some((counter, message)) = sealed.split_first_chunk::<8>() else {
        return Err(CryptoError::NotAuthentic { what: WHAT });
    };
    let key = subkey(day_key, salt);
    swept(|| aead::open(WHAT, key.expose(), nonce(*counter), header, message))
}

fn subkey(day_key: &LockedKey, salt: &[u8; SALT_BYTES]) -> LockedKey {
    swept(|| {
        let derived = kdf::derive::<32>(day_key.expose(), salt, LABEL, &[]);
        arena().key(|key| key.copy_from_slice(derived.as_slice()))
    })
}

/// Four zero bytes and the counter.
fn nonce(counter: [u8; 8]) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h] = counter;
    [0, 0, 0, 0, a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestRng;

    #[test]
    fn a_body_opens_under_its_header_and_day_only_and_never_repeats() {
        let day = LockedKey::from_slice(&[7; 32]).unwrap();
        let key = BodyKey::start(&day, &mut TestRng::counting(0));
        let (a, b) = (key.seal(b"header", b"body").unwrap(), key.seal(b"header", b"body").unwrap());
        assert_ne!(a, b);
        assert_eq!(open_body(&day, &key.salt(), b"header", &a).unwrap(), b"body");
        assert!(open_body(&day, &key.salt(), b"other", &a).is_err());
        assert!(open_body(&LockedKey::from_slice(&[8; 32]).unwrap(), &key.salt(), b"header", &a).is_err());
        for position in 0..a.len() {
            let mut changed = a.clone();
            changed[position] ^= 1;
            assert!(open_body(&day, &key.salt(), b"header", &changed).is_err());
        }
    }

    #[test]
    fn the_fixed_vector_holds() {
        let day = LockedKey::from_slice(&[7; 32]).unwrap();
        let key = BodyKey::start(&day, &mut TestRng::counting(0));
        let sealed = key.seal(b"header", b"body").unwrap();
        crate::vectors::check("audit-body", &crate::testing::hex(&sealed));
    }
}
