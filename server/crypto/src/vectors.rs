//! The fixed vectors of docs/storage-format.md, made again by this crate's code. The page is read at build time, so the
//! page, the code and the vectors cannot drift apart. Inputs are listed there.

use futures::executor::block_on;

use crate::aad::{Aad, label};
use crate::arena::LockedKey;
use crate::auto_seal::{self, AutoBoxes, AutoPlace, AutoSeal};
use crate::envelope::{DataKey, InnerBlob, Q, TokenWay, Way, WrappedDataKey, wrap_aad};
use crate::mac::LookupKey;
use crate::names::{DirectoryEntry, NameKey};
use crate::ports::{HsmKey, HsmKeyPurpose, Signer};
use crate::record::{self, SystemKey};
use crate::recovery::RecoveryIdentity;
use crate::seal_record::{QBox, SealHeader, SealRecord, TokenWay as SealTokenWay, Way as SealWay, WayBoxes};
use crate::secret::SecretBytes;
use crate::shamir::{self, Sharing};
use crate::share::{SCHEME_GF256, Share};
use crate::testing::{MemoryHsm, TestRng, hex, unhex};
use crate::token::Token;
use crate::unseal_key::UnsealKey;

const PAGE: &str = include_str!("../../../docs/storage-format.md");
const VAULT: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const SERIAL: &str = "0123456789abcdef";

/// Compares with the line `name = value` of the page.
pub(crate) fn check(name: &str, value: &str) {
    let lines: Vec<_> =
        PAGE.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")).collect();
    assert_eq!(lines, [value], "vector {name}");
}

/// The value of the line `name = value` of the page, for what cannot be made again.
fn given(name: &str) -> &'static str {
    let mut lines = PAGE.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    lines.next().unwrap()
}

fn locked(fill: u8) -> LockedKey {
    LockedKey::from_slice(&[fill; 32]).unwrap()
}

fn counting(first: u8) -> [u8; 16] {
    std::array::from_fn(|n| first + u8::try_from(n).unwrap())
}

fn data_key_place(record: &[u8; 16]) -> Aad<'_> {
    Aad { label: label::DATA_KEY, vault: VAULT, tenant: "default", keyspace: "data_keys", record, version: 0 }
}

fn secret_place(record: &[u8; 16]) -> Aad<'_> {
    Aad {
        label: label::SECRET_VERSION,
        vault: VAULT,
        tenant: "default",
        keyspace: "secrets",
        record,
        version: 1,
    }
}

#[test]
fn every_label_of_a_place_is_on_the_page() {
    let source = include_str!("aad.rs");
    let labels: Vec<_> = source.split('"').filter(|part| part.starts_with("keystead/v1/")).collect();
    assert!(labels.len() > 10);
    for label in labels {
        assert!(PAGE.contains(&format!("| `{label}` |")), "{label}");
    }
}

#[test]
fn places() {
    check("aad.data-key", &hex(&data_key_place(&counting(0xa0)).canonical()));
    check("aad.secret", &hex(&secret_place(&counting(0xb0)).canonical()));
}

#[test]
fn keys_on_the_token() {
    let tag = [0, 1, 2, 3, 4, 5, 6, 7];
    for purpose in HsmKeyPurpose::ALL {
        let name = purpose.word();
        let key = HsmKey { purpose, version: 1 };
        check(&format!("hsm-key.{name}.label"), &key.label(tag));
        check(&format!("hsm-key.{name}.id"), &hex(&key.id(tag)));
        if purpose != HsmKeyPurpose::Audit {
            check(&format!("module.{name}-key"), &hex(&MemoryHsm::key(key)));
        }
    }
}

#[test]
fn envelope() {
    let hsm = MemoryHsm::honest();
    let (q, key, id) = (Q::new(1, locked(0x22)), DataKey::fixed([0x33; 32]), counting(0xa0));
    let place = data_key_place(&id);
    let mut rng = TestRng::counting(0);
    let way = Way::Token(TokenWay { hsm: &hsm, name: SERIAL, master_version: 1 });
    let created = block_on(WrappedDataKey::create(vec![way], &q, &place, &key, &mut rng)).unwrap();
    let (wrapped, inner) = (created.wrapped, created.inner);
    let alone = InnerBlob::seal(&q, &place, &key, &mut TestRng::counting(0));
    assert_eq!(alone.unwrap(), inner);
    check("inner-blob", &hex(inner.bytes()));
    let wrap = &wrapped.wraps()[0];
    check(
        "wrap.aad",
        &hex(&wrap_aad(
            wrap.key_id,
            1,
            1,
            &std::array::from_fn(|n| u8::try_from(n).unwrap()),
            &place.canonical(),
        )),
    );
    check("data-key-record", &hex(&wrapped.encode()));
}

#[test]
fn recovery_wraps() {
    let text = SecretBytes::copy_from(given("recovery.identity").as_bytes());
    let identity = RecoveryIdentity::parse(&text).unwrap();
    check("recovery.recipient", identity.recipient().text());
    check("recovery.name", identity.recipient().name());
    let record = WrappedDataKey::decode(&unhex(given("recovery.data-key-record"))).unwrap();
    let (q, place_id) = (Q::new(1, locked(0x22)), counting(0xa0));
    let opened = record.open_recovery(&identity, &[&q], &data_key_place(&place_id)).unwrap();
    assert_eq!(opened.key.expose(), &[0x33; 32]);
    let inner = identity.open("vector", &record.wraps()[1].sealed, 48).unwrap();
    check("inner-blob", &hex(&inner));
}

#[test]
fn records() {
    let (id, secret) = (counting(0xa0), counting(0xb0));
    let single = record::seal_single(DataKey::fixed([0x33; 32]), id, &secret_place(&secret), b"s3cr3t");
    check("record.single", &hex(&single.unwrap()));
    let system = SystemKey::new(locked(0x44));
    let many = record::seal_many(&system, id, &secret_place(&secret), b"s3cr3t", &mut TestRng::counting(0));
    check("record.many", &hex(&many.unwrap()));
}

#[test]
fn names() {
    let key = NameKey::new(1, locked(0x55));
    check("directory.key", &hex(&key.entry_key([0; 16], "shop")));
    let entry = DirectoryEntry { name: "shop".into(), child: counting(0xc0) };
    check("directory.value", &hex(entry.encode().unwrap().expose()));
}

#[test]
fn tokens() {
    let token = Token::generate(&mut TestRng::counting(0));
    check("token.text", std::str::from_utf8(token.to_text().expose()).unwrap());
    check("token.tag", &hex(&token.tag(&LookupKey::new(1, locked(0x66)))));
}

#[test]
fn shares_and_seal() {
    let hsm = MemoryHsm::honest();
    let audit_key = block_on(hsm.verifying_key()).unwrap();
    check("audit-key", &hex(&audit_key.bytes));
    check("audit-key.fingerprint", &hex(&audit_key.fingerprint()));

    let key = UnsealKey::new(locked(0x11));
    let audit_fingerprint = audit_key.fingerprint();
    let sharing = Sharing { vault: VAULT, epoch: 1, threshold: 2, shares: 3, audit_fingerprint };
    let shares = shamir::split(&key, &sharing, &mut TestRng::counting(0)).unwrap();
    for share in &shares {
        let number = share.number();
        check(&format!("share.{number}.y"), &hex(share.y.expose()));
        check(&format!("share.{number}.text"), std::str::from_utf8(share.to_text().expose()).unwrap());
        check(&format!("share.{number}.digest"), &hex(&share.digest()));
    }

    let q = Q::new(1, locked(0x22));
    let header = SealHeader {
        vault: VAULT,
        epoch: 1,
        threshold: 2,
        shares: 3,
        scheme: SCHEME_GF256,
        q_version: 1,
        former_q_version: None,
        audit_key,
        endorsed_keys: Vec::new(),
        signer: 0,
        ways: vec![SealWay::Token(SealTokenWay {
            serial: SERIAL.into(),
            oldest_master: 1,
            master: 1,
            audit_key: 0,
        })],
        share_digests: shares.iter().map(Share::digest).collect(),
        created_ms: 1_700_000_000_000,
    };
    let signed = block_on(header.sign(&hsm)).unwrap();
    check("seal.header", &hex(&signed.bytes));
    check("seal.signature", &hex(&signed.signature));
    let place = header.box_place(SERIAL);
    let pin_box = key.pin_box_seal(place, b"1234", &mut TestRng::counting(0)).unwrap();
    check("seal.pin-box", &hex(&pin_box));
    let inner = key.q_inner_seal(place, &q, &mut TestRng::counting(0)).unwrap();
    check("seal.q-inner", &hex(&inner));
    let sealed = block_on(key.box_q(&hsm, place, &q, &mut TestRng::counting(0))).unwrap();
    check("seal.q-box", &hex(&[sealed.iv.as_slice(), &sealed.ciphertext].concat()));
    let boxes = WayBoxes { pins: vec![pin_box], q: vec![QBox { version: 1, sealed }] };
    let record = SealRecord { header: signed, boxes: vec![boxes] };
    check("seal.record.sha256", &sha256(&record.encode()));
}

#[test]
fn auto_unseal() {
    let (hsm, q) = (MemoryHsm::honest(), Q::new(1, locked(0x22)));
    let place = AutoPlace { vault: VAULT, version: 1, token: SERIAL };
    let sealed = block_on(auto_seal::seal(&hsm, place, &q)).unwrap();
    check("auto.box", &hex(&[sealed.iv.as_slice(), &sealed.ciphertext].concat()));
    let q = vec![QBox { version: 1, sealed }];
    let boxes = vec![AutoBoxes { token: SERIAL.into(), q }];
    check("auto.record", &hex(&AutoSeal { version: 1, boxes }.encode()));
    check("auto.record.ended", &hex(&AutoSeal { version: 1, boxes: Vec::new() }.encode()));
}

fn sha256(bytes: &[u8]) -> String {
    hex(&<[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(bytes)))
}
