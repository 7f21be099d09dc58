//! The envelope against an honest module, a lying one, and changed bytes.

use futures::executor::block_on;
use proptest::prelude::*;

use super::*;
use crate::aad::label;
use crate::testing::{Lie, MemoryHsm, TestRng, system_rng};

const TOKEN: &str = "0123456789abcdef";

fn place(record: &[u8]) -> Aad<'_> {
    Aad {
        label: label::DATA_KEY,
        vault: [7; 16],
        tenant: "default",
        keyspace: "data_keys",
        record,
        version: 0,
    }
}

fn q(fill: u8) -> Q {
    Q::new(1, LockedKey::from_slice(&[fill; 32]).unwrap())
}

fn created(hsm: &MemoryHsm) -> Result<(WrappedDataKey, InnerBlob), CryptoError> {
    let key = DataKey::fixed([0x44; 32]);
    let record = [1; 16];
    block_on(WrappedDataKey::create(hsm, TOKEN, 1, &q(1), &place(&record), &key, &mut TestRng::counting(9)))
}

#[test]
fn a_data_key_comes_back_through_the_module_and_q() {
    let hsm = MemoryHsm::honest();
    let (wrapped, inner) = created(&hsm).unwrap();
    assert_eq!((hsm.calls("wrap"), hsm.calls("unwrap")), (1, 1), "a fresh wrap is opened once");
    let stored = WrappedDataKey::decode(&wrapped.encode()).unwrap();
    assert_eq!(stored, wrapped);
    let unwrapped = block_on(stored.unwrap_inner(&hsm, TOKEN, &place(&[1; 16]))).unwrap();
    assert_eq!(unwrapped, inner);
    assert_eq!(unwrapped.open(&q(1), &place(&[1; 16])).unwrap().expose(), &[0x44; 32]);
}

#[test]
fn neither_another_place_nor_another_q_opens_it() {
    let hsm = MemoryHsm::honest();
    let (wrapped, inner) = created(&hsm).unwrap();
    let moved = block_on(wrapped.unwrap_inner(&hsm, TOKEN, &place(&[2; 16])));
    assert_eq!(moved, Err(CryptoError::NotAuthentic { what: "wrapped data key" }));
    let not_authentic = CryptoError::NotAuthentic { what: "inner blob" };
    assert_eq!(inner.open(&q(2), &place(&[1; 16])).unwrap_err(), not_authentic);
    assert_eq!(inner.open(&q(1), &place(&[2; 16])).unwrap_err(), not_authentic);
    let newer = Q::new(2, LockedKey::from_slice(&[1; 32]).unwrap());
    let other = CryptoError::OtherQ { what: "inner blob", needed: 1, given: 2 };
    assert_eq!(inner.open(&newer, &place(&[1; 16])).unwrap_err(), other);
}

#[test]
fn a_token_without_a_wrap_is_told_which_tokens_have_one() {
    let hsm = MemoryHsm::honest();
    let (wrapped, _) = created(&hsm).unwrap();
    let error = block_on(wrapped.unwrap_inner(&hsm, "other", &place(&[1; 16]))).unwrap_err();
    let expected = CryptoError::NoWrapForToken { token: "other".into(), wrapped_for: vec![TOKEN.into()] };
    assert_eq!(error, expected);
    assert_eq!(hsm.calls("unwrap"), 1, "the module is not asked");
}

#[test]
fn a_lying_module_is_found_before_the_wrap_is_believed() {
    for lie in [Lie::OtherBytes, Lie::ShortBytes, Lie::LongIv, Lie::NoEncryption] {
        let error = created(&MemoryHsm::lying(lie)).unwrap_err();
        assert!(matches!(error, CryptoError::Hsm(HsmError::Lied { .. })), "{lie:?}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("44, 44"), "no key material in an error");
    }
}

#[test]
fn equal_keys_have_different_envelopes() {
    let hsm = MemoryHsm::honest();
    let key = DataKey::fixed([1; 32]);
    let place = place(b"x");
    let blob = || InnerBlob::seal(&q(1), &place, &key, &mut system_rng()).unwrap();
    assert_ne!(blob(), blob());
    assert_ne!(created(&hsm).unwrap().0.encode(), created(&hsm).unwrap().0.encode());
}

#[test]
fn a_list_of_wraps_is_kept_in_order_and_the_newest_is_opened() {
    let hsm = MemoryHsm::honest();
    let (first, inner) = created(&hsm).unwrap();
    let canonical = place(&[1; 16]).canonical();
    let newer = block_on(wrap(&hsm, TOKEN, [7; 16], 2, &canonical, &inner)).unwrap();
    let other = block_on(wrap(&hsm, "second token", [7; 16], 1, &canonical, &inner)).unwrap();
    let list = WrappedDataKey { salt: first.salt, wraps: vec![newer, first.wraps[0].clone(), other] };
    let decoded = WrappedDataKey::decode(&list.encode()).unwrap();
    assert_eq!(decoded, list);
    for token in [TOKEN, "second token"] {
        assert_eq!(block_on(decoded.unwrap_inner(&hsm, token, &place(&[1; 16]))), Ok(inner.clone()));
    }
}

#[test]
fn lists_that_are_never_written_are_refused() {
    let (good, _) = created(&MemoryHsm::honest()).unwrap();
    let wrap = good.wraps[0].clone();
    let list = |wraps| WrappedDataKey { salt: good.salt, wraps }.encode();
    let bad = [
        list(vec![]),
        list(vec![wrap.clone(), wrap.clone()]),
        list((1..=17).map(|master_version| Wrap { master_version, ..wrap.clone() }).collect()),
        list(vec![Wrap { master_version: 0, ..wrap.clone() }]),
        list(vec![Wrap { q_version: 0, ..wrap.clone() }]),
        list(vec![Wrap { token: String::new(), ..wrap.clone() }]),
        list(vec![Wrap { token: "x".repeat(65), ..wrap.clone() }]),
        list(vec![Wrap { sealed: HsmSealed { mechanism: 0, ..wrap.sealed.clone() }, ..wrap.clone() }]),
        list(vec![Wrap { sealed: HsmSealed { iv: vec![0; 16], ..wrap.sealed.clone() }, ..wrap }]),
    ];
    for (number, bytes) in bad.iter().enumerate() {
        assert!(matches!(WrappedDataKey::decode(bytes), Err(CryptoError::Malformed { .. })), "list {number}");
    }
}

#[test]
fn changing_any_byte_of_the_record_is_found() {
    let hsm = MemoryHsm::honest();
    let encoded = created(&hsm).unwrap().0.encode();
    for position in 0..encoded.len() {
        for bit in 0..8 {
            let mut changed = encoded.clone();
            changed[position] ^= 1 << bit;
            let opened = WrappedDataKey::decode(&changed)
                .and_then(|wrapped| block_on(wrapped.unwrap_inner(&hsm, TOKEN, &place(&[1; 16]))))
                .and_then(|inner| inner.open(&q(1), &place(&[1; 16])));
            assert!(opened.is_err(), "byte {position}, bit {bit}");
        }
    }
}

fn any_wrap() -> impl Strategy<Value = Wrap> {
    (
        "[A-Za-z0-9 ]{1,64}",
        any::<[u8; 16]>(),
        1u32..,
        1u32..,
        any::<[u8; 12]>(),
        prop::collection::vec(any::<u8>(), 1..100),
    )
        .prop_map(|(token, key_id, master_version, q_version, iv, ciphertext)| Wrap {
            token,
            key_id,
            master_version,
            q_version,
            sealed: HsmSealed { mechanism: 1, iv: iv.to_vec(), ciphertext },
        })
}

proptest! {
    #[test]
    fn parse_after_print_is_the_record(salt: [u8; 32], wraps in prop::collection::vec(any_wrap(), 1..5)) {
        let wrapped = WrappedDataKey { salt, wraps };
        prop_assert_eq!(WrappedDataKey::decode(&wrapped.encode()), Ok(wrapped));
    }

    #[test]
    fn what_parses_is_what_would_be_printed(
        salt: [u8; 32], wrap in any_wrap(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = WrappedDataKey { salt, wraps: vec![wrap] }.encode();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Ok(decoded) = WrappedDataKey::decode(&bytes) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }
}
