//! Session and bootstrap tokens: 256 random bits with a recognisable prefix and a checksum.
//!
//! Invariants: one token, one text; what is stored is a keyed tag, never the token. The checksum lets a scanner of
//! leaked text be sure, and turns typing errors away before any look-up; it protects nothing. Absent: what a token may do.

use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::base32;
use crate::mac::{LOOKUP_TAG_BYTES, LookupKey};
use crate::secret::{SecretBytes, SecretKey};

/// How every token starts.
pub const TOKEN_PREFIX: &str = "kst_";
/// Length of every token's text.
pub const TOKEN_TEXT_BYTES: usize = 4 + 56;

const CHECKSUM_LABEL: &[u8] = b"keystead/token/v1";
const LOOKUP_LABEL: &str = "keystead/v1/token";

/// A text that is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a Keystead token: a token is kst_ and 56 characters, all as they were handed out")]
pub struct TokenError;

/// A token. Wiped when dropped, never printed.
#[derive(Debug)]
pub struct Token(SecretKey);

impl Token {
    /// A fresh one.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(SecretKey::generate(rng))
    }

    /// Reads a token's text: exactly what `to_text` writes.
    pub fn parse(text: &[u8]) -> Result<Self, TokenError> {
        let characters = text.strip_prefix(TOKEN_PREFIX.as_bytes()).ok_or(TokenError)?;
        if text.len() != TOKEN_TEXT_BYTES {
            return Err(TokenError);
        }
        let bytes = base32::decode(characters).map_err(|_| TokenError)?;
        let (body, check) = bytes.split_first_chunk::<32>().ok_or(TokenError)?;
        if !bool::from(checksum(body).as_slice().ct_eq(check)) {
            return Err(TokenError);
        }
        SecretKey::from_slice(body).map(Self).ok_or(TokenError)
    }

    /// The text that is handed out once.
    pub fn to_text(&self) -> SecretBytes {
        let mut bytes = Zeroizing::new(Vec::with_capacity(35));
        bytes.extend_from_slice(self.0.expose());
        bytes.extend_from_slice(&checksum(self.0.expose()));
        let mut text = Vec::with_capacity(TOKEN_TEXT_BYTES);
        text.extend_from_slice(TOKEN_PREFIX.as_bytes());
        base32::encode(&bytes, &mut text);
        SecretBytes::new(text)
    }

    /// What is stored of it, and by which it is found.
    pub fn tag(&self, key: &LookupKey) -> [u8; LOOKUP_TAG_BYTES] {
        key.tag(LOOKUP_LABEL, &[self.0.expose()])
    }
}

fn checksum(body: &[u8; 32]) -> [u8; 3] {
    let [a, b, c, ..] =
        <[u8; 32]>::from(Sha256::new().chain_update(CHECKSUM_LABEL).chain_update(body).finalize());
    [a, b, c]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::arena::LockedKey;
    use crate::testing::{TestRng, system_rng};

    #[test]
    fn what_is_stored_of_a_token_depends_on_key_and_token() {
        let key = |fill| LookupKey::new(1, LockedKey::from_slice(&[fill; 32]).unwrap());
        let (a, b) = (Token::generate(&mut system_rng()), Token::generate(&mut system_rng()));
        assert_eq!(a.tag(&key(1)), Token::parse(a.to_text().expose()).unwrap().tag(&key(1)));
        assert_ne!(a.tag(&key(1)), a.tag(&key(2)));
        assert_ne!(a.tag(&key(1)), b.tag(&key(1)));
    }

    #[test]
    fn other_spellings_are_refused() {
        let text = Token::generate(&mut TestRng::counting(0)).to_text();
        let text = std::str::from_utf8(text.expose()).unwrap();
        for other in [
            format!(" {text}"),
            format!("{text}\n"),
            format!("{text} "),
            text.to_uppercase(),
            text.replace("kst_", "KST_"),
            text.replace("kst_", ""),
            text.replace('0', "o"),
            text[..59].to_owned(),
            String::new(),
        ] {
            assert_eq!(Token::parse(other.as_bytes()).unwrap_err(), TokenError, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn parse_after_print_is_the_token(seed: u64) {
            let token = Token::generate(&mut TestRng::seeded(seed));
            let text = token.to_text();
            let again = Token::parse(text.expose()).unwrap();
            prop_assert!(bool::from(again.0.ct_eq(&token.0)));
            let printed = again.to_text();
            prop_assert_eq!(printed.expose(), text.expose());
        }

        #[test]
        fn changing_any_character_is_refused(seed: u64, position in 0usize..60, bit in 0u32..8) {
            let text = Token::generate(&mut TestRng::seeded(seed)).to_text();
            let mut changed = text.expose().to_vec();
            changed[position] ^= 1 << bit;
            prop_assert!(Token::parse(&changed).is_err());
        }
    }
}
