//! The plaintext of system records: a format byte, then postcard. Decoding is strict: stored bytes are hostile input.

use serde::Serialize;
use serde::de::DeserializeOwned;

const FORMAT: u8 = 1;

/// Encodes a record that holds no secret.
pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, NotEncodable> {
    postcard::to_extend(record, vec![FORMAT]).map_err(|_| NotEncodable)
}

/// Decodes a record; another format, a bad field or a byte too many is `None`.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (format, rest) = bytes.split_first()?;
    if *format != FORMAT {
        return None;
    }
    match postcard::take_from_bytes(rest).ok()? {
        (record, []) => Some(record),
        _ => None,
    }
}

/// A record that postcard cannot hold: none of ours.
#[derive(Debug)]
pub(crate) struct NotEncodable;

#[cfg(test)]
pub(crate) mod vectors;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_encoded_decodes_and_a_byte_more_does_not(a: u64, b: String, c: Vec<u8>) {
            let mut bytes = encode(&(a, &b, &c)).unwrap();
            prop_assert_eq!(decode::<(u64, String, Vec<u8>)>(&bytes), Some((a, b, c)));
            bytes.push(0);
            prop_assert_eq!(decode::<(u64, String, Vec<u8>)>(&bytes), None);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Vec<(u64, String)>>(&bytes);
        }
    }

    #[test]
    fn another_format_is_refused() {
        assert_eq!(decode::<u8>(&[2, 7]), None);
        assert_eq!(decode::<u8>(&[]), None);
    }
}
