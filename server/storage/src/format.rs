//! The format number and feature bits of a store. Invariant: an engine reads them before it writes anything, and leaves a
//! store alone that a newer program wrote. Layout: magic `KSST` ‖ format u32 ‖ features u64, big-endian, 16 bytes.

use crate::{Keyspace, StorageError};

/// The newest format that this program reads, and the one it writes.
pub const FORMAT_VERSION: u32 = 1;

/// The feature bits that this program understands.
pub const KNOWN_FEATURES: u64 = 0;

const MAGIC: [u8; 4] = *b"KSST";

/// The format record of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreFormat {
    /// The number of the format.
    pub version: u32,
    /// A bit for each feature that a reader must understand.
    pub features: u64,
}

impl StoreFormat {
    /// What this program writes into a new store.
    pub const CURRENT: Self = Self { version: FORMAT_VERSION, features: KNOWN_FEATURES };

    /// The stored bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        [MAGIC.as_slice(), &self.version.to_be_bytes(), &self.features.to_be_bytes()].concat()
    }

    /// Reads stored bytes; whether this program may use the store is [`StoreFormat::check`]'s question.
    pub fn decode(stored: &[u8]) -> Result<Self, StorageError> {
        let corrupt = || StorageError::Corrupt {
            what: "the format record is not one",
            keyspace: Some(Keyspace::Meta),
            source: None,
        };
        let (magic, rest) = stored.split_first_chunk::<4>().ok_or_else(corrupt)?;
        let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(corrupt)?;
        let features: &[u8; 8] = rest.try_into().map_err(|_| corrupt())?;
        let format = Self { version: u32::from_be_bytes(*version), features: u64::from_be_bytes(*features) };
        if *magic == MAGIC && format.version != 0 { Ok(format) } else { Err(corrupt()) }
    }

    /// Whether this program may open the store.
    pub const fn check(self) -> Result<(), StorageError> {
        let unknown_features = self.features & !KNOWN_FEATURES;
        if self.version > FORMAT_VERSION || unknown_features != 0 {
            return Err(StorageError::NewerFormat {
                found: self.version,
                supported: FORMAT_VERSION,
                unknown_features,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(version in 1_u32.., features: u64) {
            let format = StoreFormat { version, features };
            prop_assert_eq!(StoreFormat::decode(&format.encode()).unwrap(), format);
        }

        #[test]
        fn other_bytes_are_corrupt_and_never_panic(bytes: Vec<u8>) {
            if let Ok(format) = StoreFormat::decode(&bytes) {
                prop_assert_eq!(format.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_stored_bytes_are_fixed() {
        assert_eq!(StoreFormat::CURRENT.encode(), b"KSST\0\0\0\x01\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn a_newer_format_and_an_unknown_feature_are_named() {
        let newer = StoreFormat { version: 2, features: 0 }.check();
        assert!(matches!(
            newer,
            Err(StorageError::NewerFormat { found: 2, supported: 1, unknown_features: 0 })
        ));
        let feature = StoreFormat { version: 1, features: 4 }.check();
        assert!(matches!(feature, Err(StorageError::NewerFormat { unknown_features: 4, .. })));
        assert!(StoreFormat::CURRENT.check().is_ok());
    }
}
