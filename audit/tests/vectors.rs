//! The vectors of docs/audit-format.md, made again and compared with the page.
//!
//! Invariant: a vector on the page that no code makes fails the test, and so does one that the code makes otherwise.

use data_encoding::HEXLOWER;
use keystead_audit::{
    AuditLog, Body, Checkpoint, Durability, Entry, EntryKind, Node, OpenOptions, StoredBody, UnixMillis,
};
use std::collections::BTreeMap;
use std::path::Path;

const TIME: UnixMillis = UnixMillis(1_795_312_239_001);

/// The `name = hex` lines of the page.
#[expect(clippy::unwrap_used, reason = "a page that cannot be read fails the test")]
fn page() -> BTreeMap<String, String> {
    let path = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../docs/audit-format.md");
    let text = std::fs::read_to_string(path).unwrap();
    let is_hex = |value: &str| value.len() > 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.lines()
        .filter_map(|line| line.split_once(" = "))
        .filter(|(_, value)| is_hex(value))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn the_page_and_the_code_agree() {
    let entry = |body| {
        let node = Node::new("node-1").unwrap();
        Entry { seq: 258, time: TIME, kind: EntryKind::Read, node, body }
    };
    let clear = entry(StoredBody::Clear(vec![1]));
    let sealed = entry(StoredBody::Sealed { key_id: [0x11; 16], bytes: vec![0xaa, 0xbb] });
    let body = Body {
        principal: "service/shop".into(),
        tenant: "default".into(),
        method: "certificate".into(),
        action: "secrets:read".into(),
        resource: "secret/shop/db".into(),
        decision: "allow".into(),
        policies: vec!["shop#0".into()],
        outcome: "ok".into(),
        latency_us: Some(412),
        detail: vec![("version".into(), "3".into())],
        ..Body::default()
    };
    let dir = tempfile::TempDir::new().unwrap();
    let log = AuditLog::open(dir.path(), OpenOptions::new("node-1").unwrap()).unwrap();
    let slot = log.reserve().unwrap();
    slot.record_clear(EntryKind::Read, TIME, Body::default(), Durability::Fsync).wait().unwrap();
    let file = std::fs::read(dir.path().join("audit-00000000000000000000.log")).unwrap();

    let origin = "000102030405060708090a0b0c0d0e0f/node-1".to_owned();
    let checkpoint = Checkpoint { origin, head: log.durable_head() };

    let made = [
        ("entry.clear", clear.encode()),
        ("entry.clear.leaf", clear.leaf_hash().to_vec()),
        ("entry.sealed", sealed.encode()),
        ("entry.sealed.leaf", sealed.leaf_hash().to_vec()),
        ("body", body.encode().unwrap()),
        ("file", file),
        ("checkpoint", checkpoint.encode()),
    ];
    let made: BTreeMap<String, String> =
        made.into_iter().map(|(name, bytes)| (name.to_owned(), HEXLOWER.encode(&bytes))).collect();
    assert_eq!(page(), made);
}
