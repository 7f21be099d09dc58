//! A whole seal: made, split, opened again, and refused in every way that a person or a disk can get it wrong.

use futures::executor::block_on;
use proptest::prelude::*;
use subtle::ConstantTimeEq;

use super::*;
use crate::envelope::Q;
use crate::ports::{HsmError, SignatureAlgorithm, VerifyingKey};
use crate::shamir::{Sharing, combine, split};
use crate::share::{SCHEME_GF256, Share, ShareError};
use crate::testing::{Lie, MemoryHsm, system_rng};
use crate::unseal_key::{BoxPlace, UnsealKey};

const VAULT: [u8; 16] = [0x77; 16];
const SERIAL: &str = "0123456789abcdef";

fn token(serial: &str) -> Way {
    Way::Token(TokenWay { serial: serial.into(), oldest_master: 1, master: 1, audit_key: 0 })
}

const PLACE: BoxPlace<'static> = BoxPlace { vault: VAULT, epoch: 1, way: SERIAL };

struct Sealed {
    record: SealRecord,
    header: SealHeader,
    shares: Vec<Share>,
    q: Q,
}

fn sharing(audit_key: &VerifyingKey, threshold: u8, shares: u8) -> Sharing {
    Sharing { vault: VAULT, epoch: 4, threshold, shares, audit_fingerprint: audit_key.fingerprint() }
}

fn sealed(hsm: &MemoryHsm) -> Sealed {
    let mut rng = system_rng();
    let audit_key = block_on(hsm.verifying_key()).unwrap();
    let key = UnsealKey::generate(&mut rng);
    let q = Q::generate(2, &mut rng);
    let shares = split(&key, &sharing(&audit_key, 3, 5), &mut rng).unwrap();
    let header = SealHeader {
        vault: VAULT,
        epoch: 4,
        threshold: 3,
        shares: 5,
        scheme: SCHEME_GF256,
        q_version: 2,
        former_q_version: None,
        audit_key,
        endorsed_keys: Vec::new(),
        signer: 0,
        ways: vec![token(SERIAL)],
        share_digests: shares.iter().map(Share::digest).collect(),
        created_ms: 1_700_000_000_000,
    };
    let boxes = WayBoxes {
        pins: vec![key.pin_box_seal(header.box_place(SERIAL), b"1234", &mut rng).unwrap()],
        q: vec![QBox {
            version: 2,
            sealed: block_on(key.box_q(hsm, header.box_place(SERIAL), &q, &mut rng)).unwrap(),
        }],
    };
    let record = SealRecord { header: block_on(header.sign(hsm)).unwrap(), boxes: vec![boxes] };
    Sealed { record, header, shares, q }
}

/// Opens a stored seal record as the server does.
fn open(hsm: &MemoryHsm, stored: &[u8], shares: &[Share]) -> Option<(Vec<u8>, Q)> {
    let record = SealRecord::decode(stored).ok()?;
    let header = record.verify().ok()?;
    for share in shares {
        header.check_share(share).ok()?;
    }
    let key = combine(shares).ok()?;
    let way = header.ways[0].name();
    let pin = key.pin_box_open(header.box_place(&way), &record.boxes[0].pins[0]).ok()?;
    let q_box = record.boxes[0].q_box(header.q_version)?;
    let q = key.unbox_q(hsm, header.box_place(&way), header.q_version, q_box);
    Some((pin.into_exposed(), block_on(q).ok()?))
}

#[test]
fn a_quorum_of_shares_opens_pin_and_q() {
    let hsm = MemoryHsm::honest();
    let Sealed { record, header, shares, q } = sealed(&hsm);
    let stored = record.encode();
    assert_eq!(SealRecord::decode(&stored), Ok(record.clone()));
    assert_eq!(record.verify(), Ok(header));
    let (pin, opened) = open(&hsm, &stored, &shares[1..4]).unwrap();
    assert_eq!(pin, b"1234");
    assert_eq!(opened.version(), 2);
    assert!(bool::from(opened.expose().ct_eq(q.expose())));
    assert!(open(&hsm, &stored, &shares[..2]).is_none(), "two are too few");
}

#[test]
fn changing_any_byte_of_the_stored_record_is_found() {
    let hsm = MemoryHsm::honest();
    let Sealed { record, shares, .. } = sealed(&hsm);
    let stored = record.encode();
    assert!(open(&hsm, &stored, &shares[..3]).is_some());
    for position in 0..stored.len() {
        let mut changed = stored.clone();
        changed[position] ^= 1 << (position % 8);
        assert!(open(&hsm, &changed, &shares[..3]).is_none(), "byte {position}");
        assert!(SealRecord::decode(&stored[..position]).is_err(), "cut at {position}");
    }
    assert!(SealRecord::decode(&[stored.as_slice(), &[0]].concat()).is_err());
}

#[test]
fn each_wrong_share_is_refused_on_entry_with_its_own_reason() {
    let hsm = MemoryHsm::honest();
    let Sealed { header, shares, .. } = sealed(&hsm);
    let again = |change: &dyn Fn(&mut Share)| {
        let mut share = Share::parse(shares[1].to_text().expose()).unwrap();
        change(&mut share);
        // As it comes from a holder: as text, with a checksum that fits.
        header.check_share(&Share::parse(share.to_text().expose()).unwrap())
    };
    assert_eq!(again(&|_| ()), Ok(()));
    assert_eq!(
        again(&|share| share.vault = [1; 16]),
        Err(ShareError::OtherVault { share: [1; 16], expected: VAULT })
    );
    assert_eq!(again(&|share| share.epoch = 3), Err(ShareError::OtherEpoch { share: 3, expected: 4 }));
    assert_eq!(
        again(&|share| share.threshold = 2),
        Err(ShareError::OtherThreshold { share: 2, expected: 3 })
    );
    assert!(matches!(
        again(&|share| share.audit_fingerprint = [0; 8]),
        Err(ShareError::OtherAuditKey { share: [0, 0, 0, 0, 0, 0, 0, 0], .. })
    ));
    assert_eq!(again(&|share| share.number = 6), Err(ShareError::NumberTooHigh { number: 6, shares: 5 }));
    assert_eq!(again(&|share| share.number = 3), Err(ShareError::WrongShare { number: 3 }));
    let mut other = *shares[1].y.expose();
    other[31] ^= 0x80;
    assert_eq!(
        again(&|share| share.y = crate::secret::SecretKey::from_slice(&other).unwrap()),
        Err(ShareError::WrongShare { number: 2 })
    );
    let zero = Share { number: 0, ..Share::parse(shares[1].to_text().expose()).unwrap() };
    assert_eq!(header.check_share(&zero), Err(ShareError::ZeroNumber));
}

#[test]
fn a_share_of_another_split_with_the_same_names_is_a_wrong_share() {
    let hsm = MemoryHsm::honest();
    let (first, second) = (sealed(&hsm), sealed(&hsm));
    assert_eq!(first.header.check_share(&second.shares[0]), Err(ShareError::WrongShare { number: 1 }));
}

#[test]
fn a_forged_header_signed_by_its_own_key_is_found_by_a_true_share() {
    let hsm = MemoryHsm::honest();
    let Sealed { header, shares, .. } = sealed(&hsm);
    let forger = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let forged = SealHeader {
        threshold: 2,
        audit_key: VerifyingKey {
            algorithm: SignatureAlgorithm::Ed25519,
            bytes: forger.verifying_key().to_bytes().to_vec(),
        },
        ..header
    };
    let bytes = forged.encode();
    let signature = ed25519_dalek::Signer::sign(&forger, &signed_bytes(&bytes)).to_bytes().to_vec();
    let read = SignedSealHeader { bytes, signature }.verify().unwrap();
    assert!(matches!(read.check_share(&shares[0]), Err(ShareError::OtherAuditKey { .. })));
}

#[test]
fn a_module_that_signs_something_else_is_not_believed() {
    let Sealed { header, .. } = sealed(&MemoryHsm::honest());
    let error = block_on(header.sign(&MemoryHsm::lying(Lie::OtherMessage))).unwrap_err();
    assert_eq!(error, CryptoError::SignatureInvalid { what: "seal header" });
}

#[test]
fn a_module_that_lies_about_the_box_of_q_is_not_believed() {
    let key = UnsealKey::generate(&mut system_rng());
    let q = Q::generate(1, &mut system_rng());
    for lie in [Lie::OtherBytes, Lie::OtherKey, Lie::ShortBytes, Lie::LongIv, Lie::NoEncryption] {
        let hsm = MemoryHsm::lying(lie);
        let error = block_on(key.box_q(&hsm, PLACE, &q, &mut system_rng())).unwrap_err();
        assert!(matches!(error, CryptoError::Hsm(HsmError::Lied { .. })), "{lie:?}: {error:?}");
    }
}

#[test]
fn a_box_opens_only_for_its_vault_epoch_and_version() {
    let hsm = MemoryHsm::honest();
    let key = UnsealKey::generate(&mut system_rng());
    let q = Q::generate(1, &mut system_rng());
    let q_box = block_on(key.box_q(&hsm, PLACE, &q, &mut system_rng())).unwrap();
    let pin_box = key.pin_box_seal(PLACE, b"pin", &mut system_rng()).unwrap();
    assert!(block_on(key.unbox_q(&hsm, PLACE, 1, &q_box)).is_ok());
    let other_vault = BoxPlace { vault: [0; 16], ..PLACE };
    let other_epoch = BoxPlace { epoch: 2, ..PLACE };
    let other_way = BoxPlace { way: "fedcba9876543210", ..PLACE };
    for (place, version) in [(other_vault, 1), (other_epoch, 1), (other_way, 1), (PLACE, 2)] {
        let error = block_on(key.unbox_q(&hsm, place, version, &q_box)).unwrap_err();
        assert_eq!(error, CryptoError::NotAuthentic { what: "box of Q" });
    }
    for place in [other_vault, other_epoch, other_way] {
        assert!(key.pin_box_open(place, &pin_box).is_err());
    }
    let other = UnsealKey::generate(&mut system_rng());
    assert!(other.pin_box_open(PLACE, &pin_box).is_err());
    assert!(block_on(other.unbox_q(&hsm, PLACE, 1, &q_box)).is_err());
}

#[test]
fn pin_boxes_are_all_of_one_length() {
    let key = UnsealKey::generate(&mut system_rng());
    for length in [0, 4, 255] {
        let pin = vec![b'7'; length];
        let sealed = key.pin_box_seal(PLACE, &pin, &mut system_rng()).unwrap();
        assert_eq!(sealed.len(), PIN_BOX_BYTES);
        assert_eq!(key.pin_box_open(PLACE, &sealed).unwrap().expose(), pin);
    }
    let error = key.pin_box_seal(PLACE, &[b'7'; 256], &mut system_rng()).unwrap_err();
    assert_eq!(error, CryptoError::TooLong { what: "PIN", found: 256, max: 255 });
}

#[test]
fn further_audit_keys_count_when_one_before_vouches_for_them() {
    let hsm = MemoryHsm::honest();
    let Sealed { header, .. } = sealed(&hsm);
    let second = ed25519_dalek::SigningKey::from_bytes(&[2; 32]);
    let key = VerifyingKey {
        algorithm: SignatureAlgorithm::Ed25519,
        bytes: second.verifying_key().to_bytes().to_vec(),
    };
    let signature = block_on(endorse(&hsm, &header.audit_key, VAULT, &key)).unwrap();
    let endorsed = EndorsedKey { key, by: 0, signature };
    let two = SealHeader { endorsed_keys: vec![endorsed.clone()], signer: 1, ..header };
    let sign = |header: &SealHeader| {
        let bytes = header.encode();
        let signature = ed25519_dalek::Signer::sign(&second, &signed_bytes(&bytes)).to_bytes().to_vec();
        SignedSealHeader { bytes, signature }
    };
    assert_eq!(sign(&two).verify(), Ok(two.clone()));
    let other_vault = SealHeader { vault: [1; 16], ..two.clone() };
    let error = CryptoError::SignatureInvalid { what: "endorsement of an audit key" };
    assert_eq!(sign(&other_vault).verify(), Err(error.clone()));
    let mut forged = two.clone();
    forged.endorsed_keys[0].signature[0] ^= 1;
    assert_eq!(sign(&forged).verify(), Err(error));
    let by_itself = SealHeader { endorsed_keys: vec![EndorsedKey { by: 1, ..endorsed }], ..two.clone() };
    assert!(SealHeader::decode(&by_itself.encode()).is_err());
    assert!(SealHeader::decode(&SealHeader { signer: 2, ..two }.encode()).is_err());
}

#[test]
fn boxes_must_be_those_of_the_ways() {
    let hsm = MemoryHsm::honest();
    let Sealed { record, header, .. } = sealed(&hsm);
    let with = |boxes: Vec<WayBoxes>| SealRecord { boxes, ..record.clone() }.verify();
    let good = record.boxes[0].clone();
    assert_eq!(with(vec![good.clone()]), Ok(header));
    let older = QBox { version: 1, sealed: good.q[0].sealed.clone() };
    for boxes in [
        vec![good.clone(), good.clone()],
        vec![WayBoxes { pins: Vec::new(), ..good.clone() }],
        vec![WayBoxes { q: vec![older.clone()], ..good.clone() }],
        vec![WayBoxes { q: vec![good.q[0].clone(), older], ..good.clone() }],
    ] {
        assert!(with(boxes).is_err());
    }
}

#[test]
fn ways_are_told_apart_by_their_names_and_one_is_a_token() {
    let Sealed { header, .. } = sealed(&MemoryHsm::honest());
    let recovery = Way::Recovery(RecoveryWay { recipient: "age1example".into() });
    let with = |ways: Vec<Way>| SealHeader::decode(&SealHeader { ways, ..header.clone() }.encode()).is_ok();
    assert!(with(vec![token("a"), token("b"), recovery.clone()]));
    assert!(!with(vec![token("a"), token("a")]), "one name twice");
    assert!(!with(vec![recovery]), "no token");
    assert!(!with(Vec::new()));
    let unknown_key = TokenWay { serial: "a".into(), oldest_master: 1, master: 1, audit_key: 1 };
    assert!(!with(vec![Way::Token(unknown_key.clone())]));
    assert!(!with(vec![Way::Token(TokenWay { oldest_master: 2, audit_key: 0, ..unknown_key })]));
}

fn way() -> impl Strategy<Value = Way> {
    let token = ("[ -~]{1,64}", 1u32..100, 0u32..100).prop_map(|(serial, oldest, more)| {
        Way::Token(TokenWay { serial, oldest_master: oldest, master: oldest + more, audit_key: 0 })
    });
    let recovery = "age1[a-z0-9]{1,60}".prop_map(|recipient| Way::Recovery(RecoveryWay { recipient }));
    prop_oneof![token, recovery]
}

proptest! {
    #[test]
    fn headers_parse_as_printed(
        vault: [u8; 16], epoch in 1u32.., threshold in 2u8..10, more in 0u8..10, first in "[ -~]{1,64}",
        rest in prop::collection::vec(way(), 0..7), q_version in 2u32.., former in prop::option::of(1u32..2),
        key: [u8; 32], created_ms: u64, p256: bool, endorsed in 0u8..15,
    ) {
        let shares = threshold + more;
        let audit_key = if p256 {
            VerifyingKey { algorithm: SignatureAlgorithm::EcdsaP256, bytes: [&[4], key.as_slice(), &key].concat() }
        } else {
            VerifyingKey { algorithm: SignatureAlgorithm::Ed25519, bytes: key.to_vec() }
        };
        let mut ways = vec![token(&first)];
        for way in rest {
            if ways.iter().all(|other| other.name() != way.name()) {
                ways.push(way);
            }
        }
        let header = SealHeader {
            vault, epoch, threshold, shares, scheme: 1, q_version, former_q_version: former, created_ms,
            endorsed_keys: (0..endorsed)
                .map(|by| EndorsedKey { key: audit_key.clone(), by, signature: vec![by; 64] })
                .collect(),
            audit_key,
            signer: endorsed,
            ways,
            share_digests: vec![key; usize::from(shares)],
        };
        prop_assert_eq!(SealHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn what_parses_is_what_would_be_printed(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let Sealed { record, .. } = sealed(&MemoryHsm::honest());
        let mut bytes = record.encode();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Ok(decoded) = SealRecord::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes.clone());
            if let Ok(header) = SealHeader::decode(&decoded.header.bytes) {
                prop_assert_eq!(header.encode(), decoded.header.bytes);
            }
        }
    }
}
