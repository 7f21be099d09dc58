//! Names that cannot be read at rest: a directory entry's key is a keyed hash, its value is sealed.
//!
//! Invariants: the hash is bound to the parent, so equal names in two folders look different; the sealed name is
//! padded, so its length shows only to within 32 bytes. What shows is the shape of the tree.

use rand_core::CryptoRng;

use crate::arena::LockedKey;
use crate::codec::{CodecError, Reader, Writer};
use crate::mac::LookupKey;
use crate::secret::SecretBytes;

/// The longest name that an entry holds.
pub const MAX_NAME_BYTES: usize = 255;
const FORMAT: u8 = 1;
const PADDING: usize = 32;
const LABEL: &str = "keystead/v1/directory-entry";

/// The key that hides names.
#[derive(Debug)]
pub struct NameKey(LookupKey);

impl NameKey {
    /// A name key with its id.
    pub fn new(id: u8, key: LockedKey) -> Self {
        Self(LookupKey::new(id, key))
    }

    /// A fresh one.
    pub fn generate(id: u8, rng: &mut impl CryptoRng) -> Self {
        Self(LookupKey::generate(id, rng))
    }

    /// Its id.
    pub fn id(&self) -> u8 {
        self.0.id()
    }

    /// The key, for sealing it into its own record.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The storage key of the entry `segment` in the folder `parent`: `parent ‖ key id ‖ HMAC`, 49 bytes.
    pub fn entry_key(&self, parent: [u8; 16], segment: &str) -> Vec<u8> {
        let tag = self.0.tag(LABEL, &[&parent, segment.as_bytes()]);
        [parent.as_slice(), tag.as_slice()].concat()
    }
}

/// What a directory entry seals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The segment's name.
    pub name: String,
    /// The random id under which the child's records are stored.
    pub child: [u8; 16],
}

impl DirectoryEntry {
    /// The padded plaintext: `1 ‖ length ‖ name ‖ zeros` to a multiple of 32 bytes, then the child's id.
    pub fn encode(&self) -> Result<SecretBytes, CodecError> {
        let length = u8::try_from(self.name.len()).unwrap_or(0);
        if length == 0 {
            return Err(name_length(self.name.len()));
        }
        let padded = padded_length(length);
        let mut out = Writer::with_capacity(padded.saturating_add(16));
        out.u8(FORMAT).u8(length).raw(self.name.as_bytes());
        for _ in usize::from(length).saturating_add(2)..padded {
            out.u8(0);
        }
        Ok(SecretBytes::new(out.raw(&self.child).finish()))
    }

    /// Reads it back, strictly.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new("directory entry", bytes);
        reader.known("format", &[FORMAT])?;
        let length = reader.u8("name length")?;
        if length == 0 {
            return Err(name_length(0));
        }
        let name = std::str::from_utf8(reader.raw("name", usize::from(length))?)
            .map_err(|_| CodecError::Invalid { field: "name" })?
            .to_owned();
        let padding = padded_length(length).saturating_sub(usize::from(length).saturating_add(2));
        if reader.raw("padding", padding)?.iter().any(|byte| *byte != 0) {
            return Err(CodecError::Invalid { field: "padding" });
        }
        let child = reader.array("child id")?;
        reader.finish()?;
        Ok(Self { name, child })
    }
}

fn padded_length(name: u8) -> usize {
    usize::from(name).saturating_add(2).next_multiple_of(PADDING)
}

fn name_length(found: usize) -> CodecError {
    CodecError::Length { field: "name", found, min: 1, max: MAX_NAME_BYTES }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(fill: u8) -> NameKey {
        NameKey::new(1, LockedKey::from_slice(&[fill; 32]).unwrap())
    }

    #[test]
    fn an_entry_key_starts_with_its_parent_and_depends_on_it() {
        let in_a = key(1).entry_key([0xaa; 16], "db");
        let in_b = key(1).entry_key([0xbb; 16], "db");
        assert_eq!(in_a.len(), 49);
        assert!(in_a.starts_with(&[0xaa; 16]));
        assert_ne!(in_a[16..], in_b[16..]);
        assert_ne!(in_a, key(1).entry_key([0xaa; 16], "dc"));
        assert_ne!(in_a, key(2).entry_key([0xaa; 16], "db"));
    }

    #[test]
    fn the_length_of_a_name_shows_only_in_steps_of_32() {
        let length =
            |name: usize| DirectoryEntry { name: "x".repeat(name), child: [0; 16] }.encode().unwrap().len();
        assert_eq!((length(1), length(30), length(31), length(255)), (48, 48, 80, 304));
    }

    #[test]
    fn empty_and_overlong_names_are_refused() {
        for name in ["".to_owned(), "x".repeat(256), "x".repeat(512)] {
            let found = name.len();
            let error = DirectoryEntry { name, child: [0; 16] }.encode().unwrap_err();
            assert_eq!(error, CodecError::Length { field: "name", found, min: 1, max: 255 });
        }
    }

    proptest! {
        #[test]
        fn parse_after_print_is_the_entry(name in "[a-zA-Z0-9é._-]{1,100}", child: [u8; 16]) {
            let entry = DirectoryEntry { name, child };
            prop_assert_eq!(DirectoryEntry::decode(entry.encode().unwrap().expose()), Ok(entry));
        }

        #[test]
        fn what_parses_is_what_would_be_printed(bytes in prop::collection::vec(0u8..4, 48..=48)) {
            if let Ok(entry) = DirectoryEntry::decode(&bytes) {
                let again = entry.encode().unwrap();
                prop_assert_eq!(again.expose(), bytes);
            }
        }
    }
}
