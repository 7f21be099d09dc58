//! The head of a log as text: the body of a checkpoint of C2SP tlog-checkpoint, unsigned.
//!
//! Invariant: one checkpoint has one encoding, of at most 1 KiB, so that it fits where little room is. Absent:
//! signatures, and lines of extensions, which are refused.

use crate::merkle::Hash;
use crate::queue::Head;
use crate::recover::is_origin;
use data_encoding::{BASE64, HEXLOWER};
use std::fmt;

/// How far a named log has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// `<vault>/<node>`.
    pub origin: String,
    /// Its head.
    pub head: Head,
}

impl Checkpoint {
    /// Origin, size in decimal and root in base64, each on a line.
    pub fn encode(&self) -> Vec<u8> {
        format!("{}\n{}\n{}\n", self.origin, self.head.size, BASE64.encode(&self.head.root)).into_bytes()
    }

    /// Reads what [`encode`](Self::encode) makes, and nothing else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let head = Head { size: number(size)?, root: hash(&BASE64.decode(root.as_bytes()).ok()?)? };
        (lines.next().is_none() && is_origin(origin)).then(|| Self { origin: origin.to_owned(), head })
    }
}

impl Head {
    /// Reads `<size>:<root in hex>`, as it is displayed.
    pub fn parse(text: &str) -> Option<Self> {
        let (size, root) = text.split_once(':')?;
        Some(Self { size: number(size)?, root: hash(&HEXLOWER.decode(root.as_bytes()).ok()?)? })
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.size, HEXLOWER.encode(&self.root))
    }
}

/// Decimal digits without sign or leading zero.
fn number(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn hash(bytes: &[u8]) -> Option<Hash> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_one_encoding_is_read() {
        let origin = "000102030405060708090a0b0c0d0e0f/node-1".to_owned();
        let checkpoint = Checkpoint { origin, head: Head { size: 7, root: [7; 32] } };
        let text = String::from_utf8(checkpoint.encode()).unwrap();
        assert_eq!(Checkpoint::decode(text.as_bytes()), Some(checkpoint));
        let root = BASE64.encode(&[7; 32]);
        for bad in [
            String::new(),
            text.trim_end().to_owned(),
            format!("{text}\n"),
            format!("{text}extension\n"),
            text.replace("\n7\n", "\n07\n"),
            text.replace("\n7\n", "\n+7\n"),
            text.replace("\n7\n", "\n18446744073709551616\n"),
            text.replace("node-1", "node 1"),
            text.replace('\n', "\r\n"),
            format!("\n7\n{root}\n"),
            text.replace(&root, &root[..40]),
            text.replace(&root, root.trim_end_matches('=')),
        ] {
            assert_eq!(Checkpoint::decode(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn a_head_is_read_as_it_is_shown() {
        let head = Head { size: 1204, root: [0xab; 32] };
        let text = head.to_string();
        assert_eq!(Head::parse(&text), Some(head));
        for bad in ["", "1204", "1204:", ":00", &text.to_uppercase(), &text[1..66], &format!("0{text}")] {
            assert_eq!(Head::parse(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_checkpoint_fits_and_comes_back(
            origin in "[!-*,-~]{1,200}", size: u64, root: [u8; 32],
        ) {
            let checkpoint = Checkpoint { origin, head: Head { size, root } };
            let encoded = checkpoint.encode();
            prop_assert!(encoded.len() <= 1024);
            prop_assert_eq!(Checkpoint::decode(&encoded), Some(checkpoint));
        }

        #[test]
        fn whatever_is_read_encodes_to_the_same_bytes(bytes in "[ -~\n]{0,120}") {
            if let Some(checkpoint) = Checkpoint::decode(bytes.as_bytes()) {
                prop_assert_eq!(checkpoint.encode(), bytes.as_bytes());
            }
        }
    }
}
