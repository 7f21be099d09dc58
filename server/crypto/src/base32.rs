//! Base32 for texts that people copy: Crockford's alphabet in lower case, no padding. Invariant: only whole groups
//! (5 bytes = 8 characters), so there are no spare bits and one value has one text. No table is indexed by a secret:
//! shares and tokens pass through here.

use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Why characters are not base32 as written here.
pub(crate) enum Base32Error {
    /// The index of a character outside the alphabet.
    Character(usize),
    /// A number of characters that is no whole group.
    Length,
}

/// Writes whole groups of 5 bytes; what is left over at the end is not written, and callers have none.
pub(crate) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for group in bytes.as_chunks::<5>().0 {
        let bits = group.iter().fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
        for shift in [35u32, 30, 25, 20, 15, 10, 5, 0] {
            let [.., low] = (bits >> shift).to_be_bytes();
            out.push(character(low & 31));
        }
    }
}

/// Reads whole groups of 8 characters.
pub(crate) fn decode(text: &[u8]) -> Result<Zeroizing<Vec<u8>>, Base32Error> {
    let (groups, []) = text.as_chunks::<8>() else { return Err(Base32Error::Length) };
    let mut out = Zeroizing::new(Vec::with_capacity(groups.len().saturating_mul(5)));
    for (number, group) in groups.iter().enumerate() {
        let mut bits = 0u64;
        for (position, character) in group.iter().enumerate() {
            let value = value(*character).ok_or(Base32Error::Character(number * 8 + position))?;
            bits = (bits << 5) | u64::from(value);
        }
        let [_, _, _, bytes @ ..] = bits.to_be_bytes();
        out.extend_from_slice(&bytes);
    }
    Ok(out)
}

fn character(value: u8) -> u8 {
    let mut found = 0;
    for (index, character) in (0u8..).zip(ALPHABET) {
        found.conditional_assign(character, index.ct_eq(&value));
    }
    found
}

fn value(character: u8) -> Option<u8> {
    let mut found = u8::MAX;
    for (index, candidate) in (0u8..).zip(ALPHABET) {
        found.conditional_assign(&index, candidate.ct_eq(&character));
    }
    (found != u8::MAX).then_some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn matches_an_independent_encoder() {
        let mut spec = data_encoding::Specification::new();
        spec.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
        let other = spec.encoding().unwrap();
        let bytes: Vec<u8> = (0..=254).collect();
        let mut ours = Vec::new();
        encode(&bytes, &mut ours);
        assert_eq!(String::from_utf8(ours).unwrap(), other.encode(&bytes));
    }

    proptest! {
        #[test]
        fn parse_after_print_is_the_value(groups in prop::collection::vec(any::<[u8; 5]>(), 0..20)) {
            let bytes = groups.concat();
            let mut text = Vec::new();
            encode(&bytes, &mut text);
            prop_assert_eq!(decode(&text).ok().map(|out| out.to_vec()), Some(bytes));
        }

        #[test]
        fn what_parses_is_what_would_be_printed(text in "[0-9a-zA-Z]{8}") {
            if let Ok(bytes) = decode(text.as_bytes()) {
                let mut again = Vec::new();
                encode(&bytes, &mut again);
                prop_assert_eq!(again, text.into_bytes());
            } else {
                prop_assert!(text.bytes().any(|c| !ALPHABET.contains(&c)));
            }
        }
    }
}
