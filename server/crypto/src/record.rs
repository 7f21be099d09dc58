//! Sealed records: what stands in the store in place of a plaintext.
//!
//! Invariants: the key is derived for this one record and its place; a 32-byte commitment is compared in constant time
//! before anything is decrypted, so one ciphertext opens under one key only. Suite 1 uses a data key up; suite 2 is for
//! the many small records under a system key, each with a random salt. Absent: compression, which leaks lengths.

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::aad::Aad;
use crate::aead::{MessageKey, TAG_BYTES};
use crate::arena::LockedKey;
use crate::codec::{CodecError, Reader, Writer};
use crate::envelope::{DataKey, OpeningKey};
use crate::error::CryptoError;
use crate::kdf;
use crate::secret::SecretBytes;
use crate::stack::swept;

const MAGIC: [u8; 4] = *b"KSRC";
const FORMAT: u8 = 1;
const SINGLE: u8 = 1;
const MANY: u8 = 2;
const LABEL: &str = "keystead/v1/record";
const WHAT: &str = "sealed record";

/// A key that seals many small records. Long-lived, replaced by count and age.
#[derive(Debug)]
pub struct SystemKey(LockedKey);

impl SystemKey {
    /// A fresh one.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(LockedKey::generate(rng))
    }

    /// From its bytes.
    pub fn new(key: LockedKey) -> Self {
        Self(key)
    }

    /// The key, for sealing it into its own record.
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

/// Seals the one plaintext of a data key, using the key up.
pub fn seal_single(
    data_key: DataKey,
    key_id: [u8; 16],
    aad: &Aad<'_>,
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    swept(|| seal(data_key.expose(), SINGLE, &key_id, &[], aad, plaintext))
}

/// Opens a record of suite 1.
pub fn open_single(
    data_key: &OpeningKey,
    key_id: [u8; 16],
    aad: &Aad<'_>,
    record: &[u8],
) -> Result<SecretBytes, CryptoError> {
    swept(|| open(data_key.expose(), SINGLE, &key_id, aad, record))
}

/// Seals one of many records under a system key.
pub fn seal_many(
    key: &SystemKey,
    key_id: [u8; 16],
    aad: &Aad<'_>,
    plaintext: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, CryptoError> {
    let mut salt = [0; 32];
    rng.fill_bytes(&mut salt);
    swept(|| seal(key.expose(), MANY, &key_id, &salt, aad, plaintext))
}

/// Opens a record of suite 2.
pub fn open_many(
    key: &SystemKey,
    key_id: [u8; 16],
    aad: &Aad<'_>,
    record: &[u8],
) -> Result<SecretBytes, CryptoError> {
    swept(|| open(key.expose(), MANY, &key_id, aad, record))
}

/// Which key a record is sealed under.
pub fn peek_key_id(record: &[u8]) -> Result<[u8; 16], CryptoError> {
    Ok(Sealed::read(record).map_err(CryptoError::malformed(WHAT))?.key_id)
}

/// A record taken apart.
struct Sealed<'a> {
    suite: u8,
    key_id: [u8; 16],
    salt: &'a [u8],
    commitment: [u8; 32],
    message: &'a [u8],
}

impl<'a> Sealed<'a> {
    fn read(record: &'a [u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(WHAT, record);
        reader.magic(MAGIC, FORMAT)?;
        let suite = reader.known("suite", &[SINGLE, MANY])?;
        let key_id = reader.array("key id")?;
        let salt = reader.raw("salt", if suite == MANY { 32 } else { 0 })?;
        let commitment = reader.array("commitment")?;
        let message = reader.remaining();
        if message.len() < TAG_BYTES {
            return Err(CodecError::Truncated { field: "tag" });
        }
        Ok(Self { suite, key_id, salt, commitment, message })
    }
}

/// The message's key and the commitment to it, from one derivation.
fn derive(
    secret: &[u8; 32],
    suite: u8,
    key_id: &[u8; 16],
    salt: &[u8],
    aad: &Aad<'_>,
) -> (MessageKey, [u8; 32]) {
    let context = Writer::new().u8(suite).raw(key_id).raw(&aad.canonical()).finish();
    let derived = kdf::derive::<64>(secret, salt, LABEL, &context);
    let mut key = Zeroizing::new([0; 32]);
    let mut commitment = [0; 32];
    let (first, second) = derived.split_at(32);
    key.copy_from_slice(first);
    commitment.copy_from_slice(second);
    (MessageKey::new(key), commitment)
}

fn seal(
    secret: &[u8; 32],
    suite: u8,
    key_id: &[u8; 16],
    salt: &[u8],
    aad: &Aad<'_>,
    plaintext: &[u8],
) -> Result<Vec<u8>, CryptoError> {
    let (key, commitment) = derive(secret, suite, key_id, salt, aad);
    // Room for the whole record at once: growing later would leave the plaintext behind in freed memory.
    let room = plaintext.len().saturating_add(128);
    let mut head = Writer::with_capacity(room);
    head.raw(&MAGIC).u8(FORMAT).u8(suite).raw(key_id).raw(salt).raw(&commitment);
    key.seal(WHAT, head.finish(), plaintext)
}

fn open(
    secret: &[u8; 32],
    suite: u8,
    key_id: &[u8; 16],
    aad: &Aad<'_>,
    record: &[u8],
) -> Result<SecretBytes, CryptoError> {
    let sealed = Sealed::read(record).map_err(CryptoError::malformed(WHAT))?;
    if sealed.suite != suite || sealed.key_id != *key_id {
        return Err(CryptoError::OtherKey { what: WHAT });
    }
    let (key, mut commitment) = derive(secret, suite, key_id, sealed.salt, aad);
    let committed = bool::from(commitment.ct_eq(&sealed.commitment));
    commitment.zeroize();
    if !committed {
        return Err(CryptoError::NotAuthentic { what: WHAT });
    }
    key.open(WHAT, sealed.message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::aad::label;
    use crate::envelope::{InnerBlob, Q};
    use crate::testing::{TestRng, system_rng};

    const KEY_ID: [u8; 16] = [3; 16];

    fn place(record: &[u8]) -> Aad<'_> {
        Aad {
            label: label::SECRET_VERSION,
            vault: [7; 16],
            tenant: "default",
            keyspace: "secrets",
            record,
            version: 1,
        }
    }

    /// A data key and the same one as it comes out of its envelope.
    fn data_key(seed: u64) -> (DataKey, OpeningKey) {
        let key = DataKey::generate(&mut TestRng::seeded(seed));
        let q = Q::generate(1, &mut system_rng());
        let place = place(b"data key");
        let opened = InnerBlob::seal(&q, &place, &key, &mut system_rng()).unwrap().open(&q, &place).unwrap();
        (key, opened)
    }

    fn system_key(fill: u8) -> SystemKey {
        SystemKey::new(LockedKey::from_slice(&[fill; 32]).unwrap())
    }

    #[test]
    fn a_record_opens_only_with_its_key_in_its_place() {
        let (key, opening) = data_key(1);
        let record = seal_single(key, KEY_ID, &place(b"a"), b"value").unwrap();
        assert_eq!(peek_key_id(&record), Ok(KEY_ID));
        assert_eq!(open_single(&opening, KEY_ID, &place(b"a"), &record).unwrap().expose(), b"value");
        let not_authentic = CryptoError::NotAuthentic { what: "sealed record" };
        let (_, other) = data_key(2);
        assert_eq!(open_single(&other, KEY_ID, &place(b"a"), &record).unwrap_err(), not_authentic);
        assert_eq!(open_single(&opening, KEY_ID, &place(b"b"), &record).unwrap_err(), not_authentic);
        let older = Aad { version: 0, ..place(b"a") };
        assert_eq!(open_single(&opening, KEY_ID, &older, &record).unwrap_err(), not_authentic);
        let other_key = CryptoError::OtherKey { what: "sealed record" };
        assert_eq!(open_single(&opening, [4; 16], &place(b"a"), &record).unwrap_err(), other_key);
    }

    #[test]
    fn the_two_suites_do_not_open_each_other() {
        let (key, opening) = data_key(1);
        let many = SystemKey::new(LockedKey::from_slice(opening.expose()).unwrap());
        let single_record = seal_single(key, KEY_ID, &place(b"a"), b"value").unwrap();
        let many_record = seal_many(&many, KEY_ID, &place(b"a"), b"value", &mut system_rng()).unwrap();
        assert!(open_many(&many, KEY_ID, &place(b"a"), &single_record).is_err());
        assert!(open_single(&opening, KEY_ID, &place(b"a"), &many_record).is_err());
    }

    #[test]
    fn equal_records_under_a_system_key_look_different() {
        let key = system_key(1);
        let record = || seal_many(&key, KEY_ID, &place(b"a"), b"value", &mut system_rng()).unwrap();
        assert_ne!(record(), record());
    }

    #[test]
    fn changing_any_byte_is_found() {
        let (key, opening) = data_key(1);
        let single = seal_single(key, KEY_ID, &place(b"a"), b"value").unwrap();
        let system = system_key(1);
        let many = seal_many(&system, KEY_ID, &place(b"a"), b"value", &mut system_rng()).unwrap();
        let flips = |record: &[u8], opens: &dyn Fn(&[u8]) -> bool| {
            assert!(opens(record));
            for position in 0..record.len() {
                for bit in 0..8 {
                    let mut changed = record.to_vec();
                    changed[position] ^= 1 << bit;
                    assert!(!opens(&changed), "byte {position}, bit {bit}");
                }
                assert!(!opens(&record[..position]));
            }
            assert!(!opens(&[record, &[0]].concat()));
        };
        flips(&single, &|bytes| open_single(&opening, KEY_ID, &place(b"a"), bytes).is_ok());
        flips(&many, &|bytes| open_many(&system, KEY_ID, &place(b"a"), bytes).is_ok());
    }

    #[test]
    fn the_commitment_is_checked_before_anything_is_decrypted() {
        let system = system_key(1);
        let mut record = seal_many(&system, KEY_ID, &place(b"a"), b"value", &mut system_rng()).unwrap();
        // The ciphertext stays authentic under the derived key; only the commitment changes.
        record[22 + 32] ^= 1;
        let error = open_many(&system, KEY_ID, &place(b"a"), &record).unwrap_err();
        assert_eq!(error, CryptoError::NotAuthentic { what: "sealed record" });
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(value in prop::collection::vec(any::<u8>(), 0..2000), fill: u8, key_id: [u8; 16],
                                 seed: u64, record in prop::collection::vec(any::<u8>(), 0..40)) {
            let (key, opening) = data_key(seed);
            let sealed = seal_single(key, key_id, &place(&record), &value).unwrap();
            prop_assert_eq!(sealed.len(), value.len() + 70);
            let opened = open_single(&opening, key_id, &place(&record), &sealed).unwrap();
            prop_assert_eq!(opened.expose(), &value);
            let system = system_key(fill);
            let sealed = seal_many(&system, key_id, &place(&record), &value, &mut TestRng::seeded(seed)).unwrap();
            prop_assert_eq!(sealed.len(), value.len() + 102);
            let opened = open_many(&system, key_id, &place(&record), &sealed).unwrap();
            prop_assert_eq!(opened.expose(), &value);
        }

        #[test]
        fn arbitrary_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), headed: bool) {
            let bytes = if headed { [b"KSRC\x01\x02".as_slice(), &bytes].concat() } else { bytes };
            prop_assert!(open_many(&system_key(1), KEY_ID, &place(b"a"), &bytes).is_err());
        }
    }
}
