//! The envelope against an honest module, a lying one, and changed bytes.

use futures::executor::block_on;
use proptest::prelude::*;

use super::wraps::wrap;
use super::*;
use crate::aad::label;
use crate::error::CryptoError;
use crate::ports::HsmError;
use crate::recovery::RecoveryRecipient;
use crate::recovery::tests::{RECIPIENT, identity, other_identity};
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

fn token<'a>(hsm: &'a MemoryHsm, name: &'a str) -> TokenWay<'a> {
    TokenWay { hsm, name, master_version: 1 }
}

fn created_for(ways: Vec<Way<'_>>) -> Result<Created, CryptoError> {
    let key = DataKey::fixed([0x44; 32]);
    block_on(WrappedDataKey::create(ways, &q(1), &place(&[1; 16]), &key, &mut TestRng::counting(9)))
}

fn created(hsm: &MemoryHsm) -> Result<(WrappedDataKey, InnerBlob), CryptoError> {
    created_for(vec![Way::Token(token(hsm, TOKEN))]).map(|created| (created.wrapped, created.inner))
}

fn open(wrapped: &WrappedDataKey, tokens: &[TokenWay<'_>], q: &Q) -> Result<Opened, CryptoError> {
    block_on(wrapped.open(tokens, &[q], &place(&[1; 16])))
}

#[test]
fn a_data_key_comes_back_through_the_module_and_q() {
    let hsm = MemoryHsm::honest();
    let (wrapped, inner) = created(&hsm).unwrap();
    assert_eq!((hsm.calls("wrap"), hsm.calls("unwrap")), (1, 1), "a fresh wrap is opened once");
    let stored = WrappedDataKey::decode(&wrapped.encode()).unwrap();
    assert_eq!(stored, wrapped);
    let opened = open(&stored, &[token(&hsm, TOKEN)], &q(1)).unwrap();
    assert_eq!(opened.inner, inner);
    assert_eq!(opened.key.expose(), &[0x44; 32]);
}

#[test]
fn neither_another_place_nor_another_q_opens_it() {
    let hsm = MemoryHsm::honest();
    let (wrapped, inner) = created(&hsm).unwrap();
    let moved = block_on(wrapped.open(&[token(&hsm, TOKEN)], &[&q(1)], &place(&[2; 16])));
    assert_eq!(moved.unwrap_err(), CryptoError::NotAuthentic { what: "wrapped data key" });
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
    let error = open(&wrapped, &[token(&hsm, "other")], &q(1)).unwrap_err();
    let expected = CryptoError::NoWrapForToken { token: "other".into(), wrapped_for: vec![TOKEN.into()] };
    assert_eq!(error, expected);
    assert_eq!(hsm.calls("unwrap"), 1, "the module is not asked");
}

#[test]
fn a_lying_module_is_found_before_the_wrap_is_believed() {
    // CVE-2018-19786: the key was logged when a module gave other data back.
    for lie in [Lie::OtherBytes, Lie::OtherKey, Lie::ShortBytes, Lie::LongIv, Lie::NoEncryption] {
        let error = created(&MemoryHsm::lying(lie)).unwrap_err();
        assert!(matches!(error, CryptoError::Hsm(HsmError::Lied { .. })), "{lie:?}: {error:?}");
        let cause = std::error::Error::source(&error).unwrap();
        let said = format!("{error} {error:?} {cause} {cause:?}").to_lowercase();
        // The data key and the other key's blob, as lists, as hex and as text.
        for leaked in ["68, 68", "44, 44", "4444", "dddd", "119, 119", "77, 77", "7777", "wwww"] {
            assert!(!said.contains(leaked), "{lie:?}: {said}");
        }
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
fn every_way_opens_the_same_data_key() {
    let (first, second) = (MemoryHsm::honest(), MemoryHsm::of_token(2));
    let recipient = RecoveryRecipient::parse(RECIPIENT).unwrap();
    let ways = vec![
        Way::Token(token(&first, TOKEN)),
        Way::Token(token(&second, "second")),
        Way::Recovery(&recipient),
    ];
    let created = created_for(ways).unwrap();
    assert_eq!(created.gaps, []);
    let stored = WrappedDataKey::decode(&created.wrapped.encode()).unwrap();
    assert_eq!(stored, created.wrapped);
    for (hsm, name) in [(&first, TOKEN), (&second, "second")] {
        let opened = open(&stored, &[token(hsm, name)], &q(1)).unwrap();
        assert_eq!((opened.key.expose(), opened.inner), (&[0x44; 32], created.inner.clone()));
    }
    let recovered = stored.open_recovery(&identity(), &[&q(1)], &place(&[1; 16])).unwrap();
    assert_eq!((recovered.key.expose(), recovered.inner), (&[0x44; 32], created.inner.clone()));
    let crossed = open(&stored, &[token(&second, TOKEN)], &q(1)).unwrap_err();
    assert_eq!(crossed, CryptoError::NotAuthentic { what: "wrapped data key" });
}

#[test]
fn recovery_needs_the_identity_the_place_and_q() {
    let hsm = MemoryHsm::honest();
    let recipient = RecoveryRecipient::parse(RECIPIENT).unwrap();
    let ways = vec![Way::Token(token(&hsm, TOKEN)), Way::Recovery(&recipient)];
    let wrapped = created_for(ways).unwrap().wrapped;
    let not_authentic = CryptoError::NotAuthentic { what: "inner blob" };
    let other_q = wrapped.open_recovery(&identity(), &[&q(2)], &place(&[1; 16])).unwrap_err();
    let moved = wrapped.open_recovery(&identity(), &[&q(1)], &place(&[2; 16])).unwrap_err();
    assert_eq!((other_q, moved), (not_authentic.clone(), not_authentic));
    let error = wrapped.open_recovery(&other_identity(), &[&q(1)], &place(&[1; 16])).unwrap_err();
    assert!(matches!(error, CryptoError::NoWrapForToken { .. }), "{error:?}");
}

#[test]
fn the_first_way_must_wrap_and_a_further_one_that_is_away_is_a_gap() {
    let (good, away) = (MemoryHsm::honest(), MemoryHsm::lying(Lie::Away));
    let created = created_for(vec![Way::Token(token(&good, TOKEN)), Way::Token(token(&away, "second"))]);
    let created = created.unwrap();
    assert_eq!(created.wrapped.wraps().len(), 1);
    assert_eq!(created.gaps.iter().map(|gap| gap.way.as_str()).collect::<Vec<_>>(), ["second"]);
    let refused = created_for(vec![Way::Token(token(&away, "second")), Way::Token(token(&good, TOKEN))]);
    assert!(matches!(refused.unwrap_err(), CryptoError::Hsm(HsmError::Unavailable { .. })));
    assert!(created_for(Vec::new()).is_err(), "a record without a wrap opens for nobody");
}

#[test]
fn the_next_token_opens_when_the_first_is_away_or_lies() {
    let second = MemoryHsm::of_token(2);
    for lie in [Lie::Away, Lie::OtherBytes, Lie::ShortBytes] {
        let first = MemoryHsm::honest();
        let ways = vec![Way::Token(token(&first, TOKEN)), Way::Token(token(&second, "second"))];
        let wrapped = created_for(ways).unwrap().wrapped;
        let first = MemoryHsm::lying(lie);
        let tokens = [token(&first, TOKEN), token(&second, "second")];
        let opened = open(&wrapped, &tokens, &q(1)).unwrap();
        assert_eq!(opened.key.expose(), &[0x44; 32], "{lie:?}");
        assert_eq!(opened.failed.len(), 1, "{lie:?}");
        assert!(open(&wrapped, &tokens[..1], &q(1)).is_err(), "{lie:?}");
    }
}

#[test]
fn the_newest_wrap_opens_and_older_ones_until_they_are_dropped() {
    let hsm = MemoryHsm::honest();
    let (mut wrapped, inner) = created(&hsm).unwrap();
    let newer = TokenWay { master_version: 2, ..token(&hsm, TOKEN) };
    block_on(wrapped.add_wrap(Way::Token(newer), &inner, &place(&[1; 16]))).unwrap();
    assert!(wrapped.has(&Way::Token(newer), 1) && wrapped.has(&Way::Token(token(&hsm, TOKEN)), 1));
    let before = hsm.calls("unwrap");
    assert_eq!(open(&wrapped, &[newer], &q(1)).unwrap().inner, inner);
    assert_eq!(hsm.calls("unwrap"), before + 1);
    assert_eq!(wrapped.drop_wraps(|wrap| wrap.master_version < 2), 1);
    assert_eq!(wrapped.wraps().iter().map(|wrap| wrap.master_version).collect::<Vec<_>>(), [2]);
    assert_eq!(open(&wrapped, &[newer], &q(1)).unwrap().key.expose(), &[0x44; 32]);
    assert_eq!(wrapped.drop_wraps(|_| true), 0, "the last wrap stays");
    assert_eq!(wrapped.wraps().len(), 1);
}

#[test]
fn a_new_q_reseals_under_the_same_salt_and_the_former_opens_until_it_is_dropped() {
    let hsm = MemoryHsm::honest();
    let (mut wrapped, inner) = created(&hsm).unwrap();
    let place = place(&[1; 16]);
    let newer = Q::new(2, LockedKey::from_slice(&[9; 32]).unwrap());
    let resealed = inner.reseal(&q(1), &newer, &place).unwrap();
    assert_eq!(resealed, inner.reseal(&q(1), &newer, &place).unwrap(), "one message under its key");
    assert_ne!(resealed.bytes(), inner.bytes());
    let way = token(&hsm, TOKEN);
    block_on(wrapped.add_wrap(Way::Token(way), &resealed, &place)).unwrap();
    for q in [&q(1), &newer] {
        assert_eq!(open(&wrapped, &[way], q).unwrap().key.expose(), &[0x44; 32]);
    }
    assert_eq!(wrapped.drop_wraps(|wrap| wrap.q_version < 2), 1);
    assert!(open(&wrapped, &[way], &q(1)).is_err(), "the former Q opens nothing any more");
    assert_eq!(open(&wrapped, &[way], &newer).unwrap().key.expose(), &[0x44; 32]);
    assert!(inner.reseal(&q(7), &newer, &place).is_err(), "only with the Q that it is sealed under");
}

#[test]
fn a_list_takes_no_foreign_blob_and_not_more_than_it_holds() {
    let hsm = MemoryHsm::honest();
    let (mut wrapped, inner) = created(&hsm).unwrap();
    let place = place(&[1; 16]);
    let foreign = InnerBlob::seal(&q(1), &place, &DataKey::fixed([2; 32]), &mut system_rng()).unwrap();
    let way = |master_version| Way::Token(TokenWay { master_version, ..token(&hsm, TOKEN) });
    assert!(block_on(wrapped.add_wrap(way(2), &foreign, &place)).is_err());
    for version in 1..=16 {
        block_on(wrapped.add_wrap(way(version), &inner, &place)).unwrap();
    }
    assert_eq!(wrapped.wraps().len(), MAX_WRAPS);
    let full = block_on(wrapped.add_wrap(way(17), &inner, &place)).unwrap_err();
    assert!(matches!(full, CryptoError::TooLong { what: "list of wraps", .. }));
    block_on(wrapped.add_wrap(way(16), &inner, &place)).unwrap();
    assert_eq!(WrappedDataKey::decode(&wrapped.encode()).unwrap(), wrapped);
}

#[test]
fn no_token_is_named_as_a_recovery_way() {
    let hsm = MemoryHsm::honest();
    let canonical = place(&[1; 16]).canonical();
    let (_, inner) = created(&hsm).unwrap();
    let named = Way::Token(token(&hsm, "recovery:0011223344556677"));
    assert!(block_on(wrap(named, [7; 16], &canonical, &inner)).is_err());
}

#[test]
fn lists_that_are_never_written_are_refused() {
    let (good, _) = created(&MemoryHsm::honest()).unwrap();
    let wrap = good.wraps[0].clone();
    let offline = Wrap {
        token: "recovery:0011223344556677".into(),
        master_version: 0,
        sealed: HsmSealed { mechanism: 32, iv: Vec::new(), ciphertext: vec![1] },
        ..wrap.clone()
    };
    let list = |wraps| WrappedDataKey { salt: good.salt, wraps }.encode();
    assert!(WrappedDataKey::decode(&list(vec![wrap.clone(), offline.clone()])).is_ok());
    let bad = [
        list(vec![]),
        list(vec![wrap.clone(), wrap.clone()]),
        list((1..=17).map(|master_version| Wrap { master_version, ..wrap.clone() }).collect()),
        list(vec![Wrap { master_version: 0, ..wrap.clone() }]),
        list(vec![Wrap { q_version: 0, ..wrap.clone() }]),
        list(vec![Wrap { token: String::new(), ..wrap.clone() }]),
        list(vec![Wrap { token: "x".repeat(65), ..wrap.clone() }]),
        list(vec![Wrap { sealed: HsmSealed { mechanism: 0, ..wrap.sealed.clone() }, ..wrap.clone() }]),
        list(vec![Wrap { sealed: HsmSealed { iv: vec![0; 16], ..wrap.sealed.clone() }, ..wrap.clone() }]),
        list(vec![Wrap { sealed: HsmSealed { mechanism: 5, ..wrap.sealed.clone() }, ..wrap.clone() }]),
        list(vec![Wrap { sealed: HsmSealed { mechanism: 4, ..wrap.sealed.clone() }, ..wrap.clone() }]),
        list(vec![Wrap {
            sealed: HsmSealed { ciphertext: vec![0; 15], ..wrap.sealed.clone() },
            ..wrap.clone()
        }]),
        list(vec![Wrap { token: "recovery:0011223344556677".into(), ..wrap.clone() }]),
        list(vec![Wrap { master_version: 1, ..offline.clone() }]),
        list(vec![Wrap { token: TOKEN.into(), ..offline.clone() }]),
        list(vec![Wrap { sealed: HsmSealed { iv: vec![0; 12], ..offline.sealed.clone() }, ..offline }]),
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
                .and_then(|wrapped| open(&wrapped, &[token(&hsm, TOKEN)], &q(1)));
            assert!(opened.is_err(), "byte {position}, bit {bit}");
        }
    }
}

fn any_sealed() -> impl Strategy<Value = HsmSealed> {
    let form = prop_oneof![
        (Just(1), Just(12), 16_usize..100),
        (2_u8..=3, prop_oneof![Just(12), Just(16)], 16_usize..100),
        (Just(4), Just(16), (3_usize..7).prop_map(|blocks| blocks * 16)),
    ];
    form.prop_flat_map(|(mechanism, iv, ciphertext)| {
        let bytes = |count| prop::collection::vec(any::<u8>(), count);
        (Just(mechanism), bytes(iv), bytes(ciphertext)).prop_map(|(mechanism, iv, ciphertext)| HsmSealed {
            mechanism,
            iv,
            ciphertext,
        })
    })
}

fn any_wrap() -> impl Strategy<Value = Wrap> {
    let token = ("[A-Za-z0-9 ]{1,64}", any::<[u8; 16]>(), 1u32.., 1u32.., any_sealed());
    let token = token.prop_map(|(token, key_id, master_version, q_version, sealed)| Wrap {
        token,
        key_id,
        master_version,
        q_version,
        sealed,
    });
    let ciphertext = prop::collection::vec(any::<u8>(), 1..100);
    let offline = ("[0-9a-f]{16}", any::<[u8; 16]>(), 1u32.., ciphertext);
    let offline = offline.prop_map(|(name, key_id, q_version, ciphertext)| Wrap {
        token: format!("recovery:{name}"),
        key_id,
        master_version: 0,
        q_version,
        sealed: HsmSealed { mechanism: 32, iv: Vec::new(), ciphertext },
    });
    prop_oneof![token, offline]
}

/// What may happen to a record over the years.
#[derive(Debug, Clone)]
enum Step {
    Wrap { token: usize, master_version: u32 },
    Offline,
    NewQ,
    DropOlderMasters,
    DropFormerQs,
    Retire { token: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0usize..2, 1u32..4).prop_map(|(token, master_version)| Step::Wrap { token, master_version }),
        Just(Step::Offline),
        Just(Step::NewQ),
        Just(Step::DropOlderMasters),
        Just(Step::DropFormerQs),
        (0usize..2).prop_map(|token| Step::Retire { token }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_wraps_come_and_go_each_that_is_left_opens_the_same_key(
        steps in prop::collection::vec(any_step(), 0..12),
    ) {
        let hsms = [MemoryHsm::honest(), MemoryHsm::of_token(2)];
        let names = [TOKEN, "second"];
        let recipient = RecoveryRecipient::parse(RECIPIENT).unwrap();
        let place = place(&[1; 16]);
        let (mut wrapped, mut inner) = created(&hsms[0]).unwrap();
        let mut qs = vec![q(1)];
        for step in steps {
            let current = qs.last().unwrap();
            match step {
                Step::Wrap { token: n, master_version } => {
                    let way = Way::Token(TokenWay { master_version, ..token(&hsms[n], names[n]) });
                    drop(block_on(wrapped.add_wrap(way, &inner, &place)));
                }
                Step::Offline => drop(block_on(wrapped.add_wrap(Way::Recovery(&recipient), &inner, &place))),
                Step::NewQ => {
                    let fill = u8::try_from(qs.len() + 1).unwrap();
                    let newer = Q::new(current.version() + 1, LockedKey::from_slice(&[fill; 32]).unwrap());
                    inner = inner.reseal(current, &newer, &place).unwrap();
                    qs.push(newer);
                }
                Step::DropOlderMasters => {
                    let newest = wrapped.wraps().iter().map(|wrap| wrap.master_version).max().unwrap();
                    wrapped.drop_wraps(|wrap| wrap.master_version != 0 && wrap.master_version < newest);
                }
                Step::DropFormerQs => drop(wrapped.drop_wraps(|wrap| wrap.q_version < current.version())),
                Step::Retire { token: n } => drop(wrapped.drop_wraps(|wrap| wrap.token == names[n])),
            }
        }
        let stored = WrappedDataKey::decode(&wrapped.encode()).unwrap();
        prop_assert!(!stored.wraps().is_empty());
        for wrap in stored.wraps() {
            let alone = WrappedDataKey { salt: stored.salt, wraps: vec![wrap.clone()] };
            let q = qs.iter().find(|q| q.version() == wrap.q_version).unwrap();
            let opened = match names.iter().position(|name| *name == wrap.token) {
                Some(n) => block_on(alone.open(&[token(&hsms[n], names[n])], &[q], &place)).unwrap().key,
                None => alone.open_recovery(&identity(), &[q], &place).unwrap().key,
            };
            prop_assert_eq!(opened.expose(), &[0x44; 32]);
        }
    }
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
