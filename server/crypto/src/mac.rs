//! Look-up keys: HMAC-SHA256 over length-prefixed parts, for finding records by what is not stored (a token, a name).
//!
//! Invariants: a tag starts with its key's id, so that keys can be replaced; the label keeps uses apart; the parts
//! cannot run into each other. Deterministic by design, hence never for values.

use hmac::{Hmac, KeyInit, Mac};
use rand_core::CryptoRng;
use sha2::Sha256;
use zeroize::Zeroize;

use crate::arena::LockedKey;
use crate::codec::Writer;
use crate::stack::swept;

/// Length of a tag: the key's id and the HMAC.
pub const LOOKUP_TAG_BYTES: usize = 33;

/// A key for look-ups, long-lived.
#[derive(Debug)]
pub struct LookupKey {
    id: u8,
    key: LockedKey,
}

impl LookupKey {
    /// A look-up key with its id.
    pub fn new(id: u8, key: LockedKey) -> Self {
        Self { id, key }
    }

    /// A fresh one.
    pub fn generate(id: u8, rng: &mut impl CryptoRng) -> Self {
        Self::new(id, LockedKey::generate(rng))
    }

    /// Its id.
    pub fn id(&self) -> u8 {
        self.id
    }

    /// The key, for sealing it into its own record.
    pub fn expose(&self) -> &[u8; 32] {
        self.key.expose()
    }

    /// The tag of `parts` for the use named by `label`.
    pub fn tag(&self, label: &str, parts: &[&[u8]]) -> [u8; LOOKUP_TAG_BYTES] {
        let mut message = Writer::with_capacity(256);
        message.text(label);
        for part in parts {
            message.bytes(part);
        }
        let mut message = message.finish();
        let mut tag = [self.id; LOOKUP_TAG_BYTES];
        if let Some(body) = tag.last_chunk_mut::<32>() {
            *body = swept(|| self.hmac(&message));
        }
        message.zeroize();
        tag
    }

    fn hmac(&self, message: &[u8]) -> [u8; 32] {
        // Padded to the block length, as RFC 2104 does with any shorter key: the fixed-length constructor cannot fail.
        let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
        for (to, from) in block.iter_mut().zip(self.key.expose()) {
            *to = *from;
        }
        let mut mac = Hmac::<Sha256>::new(&block);
        mac.update(message);
        block.as_mut_slice().zeroize();
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::hex;

    fn key(id: u8, fill: u8) -> LookupKey {
        LookupKey::new(id, LockedKey::from_slice(&[fill; 32]).unwrap())
    }

    #[test]
    fn equals_hmac_over_the_length_prefixed_parts() {
        let mut mac = Hmac::<Sha256>::new_from_slice(&[7; 32]).unwrap();
        mac.update(b"\0\0\0\x05label\0\0\0\x01a\0\0\0\x02bc");
        let expected = format!("03{}", hex(&mac.finalize().into_bytes()));
        assert_eq!(hex(&key(3, 7).tag("label", &[b"a", b"bc"])), expected);
    }

    #[test]
    fn the_key_its_id_and_the_label_matter() {
        let tag = key(1, 1).tag("label", &[b"x"]);
        assert_ne!(tag, key(1, 2).tag("label", &[b"x"]));
        assert_ne!(tag, key(2, 1).tag("label", &[b"x"]));
        assert_ne!(tag, key(1, 1).tag("other", &[b"x"]));
    }

    proptest! {
        #[test]
        fn different_parts_have_different_tags(
            a in prop::collection::vec("[ab]{0,2}", 0..4), b in prop::collection::vec("[ab]{0,2}", 0..4),
        ) {
            fn parts(list: &[String]) -> Vec<&[u8]> {
                list.iter().map(String::as_bytes).collect()
            }
            let key = key(1, 1);
            prop_assert_eq!(a == b, key.tag("l", &parts(&a)) == key.tag("l", &parts(&b)));
        }
    }
}
