//! The entry's codec, and what a seal authenticates.

use super::*;
use data_encoding::HEXLOWER;
use proptest::collection::vec;
use proptest::prelude::*;

prop_compose! {
    fn any_entry()(
        seq in any::<u64>(), time in any::<u64>(), kind in 0..EntryKind::ALL.len(),
        node in "[A-Za-z0-9._-]{1,64}", key_id in any::<Option<[u8; 16]>>(), bytes in vec(any::<u8>(), 0..100),
    ) -> Entry {
        let body = match key_id {
            None => StoredBody::Clear(bytes),
            Some(key_id) => StoredBody::Sealed { key_id, bytes },
        };
        Entry { seq, time: UnixMillis(time), kind: EntryKind::ALL[kind], node: Node::new(&node).unwrap(), body }
    }
}

fn example(body: StoredBody) -> Entry {
    let node = Node::new("node-1").unwrap();
    Entry { seq: 258, time: UnixMillis(1_795_312_239_001), kind: EntryKind::Read, node, body }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(entry in any_entry()) {
        prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
    }

    #[test]
    fn a_flipped_byte_gives_an_error_or_another_entry(
        entry in any_entry(), at in any::<prop::sample::Index>(), flip in 1u8..,
    ) {
        let mut bytes = entry.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(other) = Entry::decode(&bytes) {
            prop_assert_eq!(other.encode(), bytes);
            prop_assert_ne!(other.leaf_hash(), entry.leaf_hash());
        }
    }

    #[test]
    fn a_cut_or_longer_entry_is_refused(entry in any_entry(), at in any::<prop::sample::Index>()) {
        let mut bytes = entry.encode();
        prop_assert!(Entry::decode(&bytes[..at.index(bytes.len())]).is_err());
        bytes.push(0);
        prop_assert_eq!(Entry::decode(&bytes), Err(EntryError::TrailingBytes));
    }

    #[test]
    fn any_bytes_are_taken_without_panic_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(entry) = Entry::decode(&bytes) {
            prop_assert_eq!(entry.encode(), bytes);
        }
    }
}

#[test]
fn the_documented_vectors_hold() {
    let clear = example(StoredBody::Clear(vec![1]));
    assert_eq!(
        HEXLOWER.encode(&clear.encode()),
        "0101000000000000000102000001a200f2c19906".to_owned() + "6e6f64652d31" + "00000001" + "01"
    );
    assert_eq!(
        HEXLOWER.encode(&clear.leaf_hash()),
        "0a394ac14200735e6a51c8df7edf2dbc2e1b7b32edd192150d18a6118c2c2586"
    );
    let sealed = example(StoredBody::Sealed { key_id: [0x11; 16], bytes: vec![0xaa, 0xbb] });
    assert_eq!(
        HEXLOWER.encode(&sealed.encode()),
        "0101010000000000000102000001a200f2c19906".to_owned()
            + "6e6f64652d31"
            + "11111111111111111111111111111111"
            + "00000002"
            + "aabb"
    );
    assert_eq!(
        HEXLOWER.encode(&sealed.leaf_hash()),
        "586dacc869815a66206fc23819972709e30e3236c39031f2dd43e9739923a7b8"
    );
}

#[test]
fn each_deviation_is_refused_by_its_name() {
    let good = example(StoredBody::Clear(vec![1])).encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        Entry::decode(&bytes)
    };
    assert_eq!(with(0, 2), Err(EntryError::UnknownFormat { found: 2 }));
    assert_eq!(with(1, 0), Err(EntryError::UnknownKind { found: 0 }));
    assert_eq!(with(1, 9), Err(EntryError::UnknownKind { found: 9 }));
    assert_eq!(with(2, 2), Err(EntryError::UnknownForm { found: 2 }));
    assert_eq!(with(20, b'/'), Err(EntryError::InvalidNode));
    assert_eq!(with(19, 0), Err(EntryError::InvalidNode));
}

#[test]
fn node_names_are_checked() {
    for bad in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
        assert_eq!(Node::new(bad), Err(InvalidNode));
    }
}

#[test]
fn the_header_is_what_comes_before_the_length_of_the_body() {
    let entry = example(StoredBody::Sealed { key_id: [7; 16], bytes: vec![1, 2, 3] });
    let bytes = entry.encode();
    assert_eq!(entry.header(), bytes[..bytes.len() - 7]);
}
