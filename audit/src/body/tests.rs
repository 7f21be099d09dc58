//! The body's codec: one encoding a body, and nothing else taken.

use super::*;
use data_encoding::HEXLOWER;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

prop_compose! {
    fn any_body()(
        (principal, tenant, method, action, resource, decision, outcome) in
            (".{0,20}", ".{0,8}", ".{0,8}", ".{0,8}", ".{0,40}", ".{0,8}", ".{0,8}"),
        (on_behalf_of, peer, request_id, trace_id) in (of(".{0,9}"), of(".{0,9}"), of(".{0,9}"), of(".{0,9}")),
        (lease, store_revision, latency_us, intent) in (of(".{0,9}"), of(".{0,9}"), of(any::<u64>()), of(any::<u64>())),
        policies in vec(".{0,9}", 0..4),
        detail in vec((".{0,9}", ".{0,9}"), 0..4),
    ) -> Body {
        Body {
            principal, resource, on_behalf_of, peer, request_id, trace_id, lease, store_revision, latency_us, intent,
            policies, detail,
            tenant: tenant.into(), method: method.into(), action: action.into(), decision: decision.into(),
            outcome: outcome.into(),
        }
    }
}

fn example() -> Body {
    Body {
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
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(body in any_body()) {
        let bytes = body.encode().unwrap();
        prop_assert_eq!(Body::decode(&bytes), Ok(body));
    }

    #[test]
    fn what_is_decoded_has_no_other_encoding(body in any_body(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut bytes = body.encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(decoded) = Body::decode(&bytes) {
            prop_assert_eq!(decoded.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_taken_without_panic_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(decoded) = Body::decode(&bytes) {
            prop_assert_eq!(decoded.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn a_cut_body_is_refused_or_a_shorter_one(body in any_body(), at in any::<prop::sample::Index>()) {
        let bytes = body.encode().unwrap();
        let cut = &bytes[..at.index(bytes.len())];
        if let Ok(decoded) = Body::decode(cut) {
            prop_assert_eq!(decoded.encode().unwrap(), cut);
            prop_assert_ne!(decoded, body);
        }
    }
}

#[test]
fn the_documented_vector_holds() {
    let hex = HEXLOWER.encode(&example().encode().unwrap());
    assert_eq!(
        hex,
        concat!(
            "01",
            "01000c736572766963652f73686f70",
            "02000764656661756c74",
            "03000b6365727469666963617465",
            "06000c736563726574733a72656164",
            "07000e7365637265742f73686f702f6462",
            "080005616c6c6f77",
            "09000673686f702330",
            "0a00026f6b",
            "0d0008000000000000019c",
            "11000a000776657273696f6e33",
        )
    );
}

#[test]
fn each_deviation_is_refused_by_its_name() {
    for (bytes, error) in [
        (&b""[..], BodyError::Truncated { tag: 0 }),
        (b"\x02", BodyError::UnknownFormat { found: 2 }),
        (b"\x01\x01\x00", BodyError::Truncated { tag: 1 }),
        (b"\x01\x01\x00\x02a", BodyError::Truncated { tag: 1 }),
        (b"\x01\x01\x00\x00", BodyError::Empty { tag: 1 }),
        (b"\x01\x01\x00\x01\xff", BodyError::NotText { tag: 1 }),
        (b"\x01\x12\x00\x00", BodyError::UnknownField { tag: 18 }),
        (b"\x01\x00\x00\x00", BodyError::OutOfOrder { tag: 0 }),
        (b"\x01\x02\x00\x01a\x01\x00\x01a", BodyError::OutOfOrder { tag: 1 }),
        (b"\x01\x01\x00\x01a\x01\x00\x01a", BodyError::OutOfOrder { tag: 1 }),
        (b"\x01\x0d\x00\x01a", BodyError::NotNumber { tag: 13 }),
        (b"\x01\x11\x00\x02\x00\x01", BodyError::Truncated { tag: 17 }),
    ] {
        assert_eq!(Body::decode(bytes), Err(error));
    }
}

#[test]
fn a_body_beyond_the_limit_is_refused_both_ways() {
    let body = Body { detail: vec![(String::new(), "x".repeat(MAX_BODY_BYTES))], ..Body::default() };
    assert!(matches!(body.encode(), Err(BodyTooLarge { .. })));
    let long = vec![1; MAX_BODY_BYTES + 1];
    assert_eq!(Body::decode(&long), Err(BodyError::TooLarge { size: MAX_BODY_BYTES + 1 }));
    let fits = Body { principal: "x".repeat(MAX_BODY_BYTES - 4), ..Body::default() };
    let bytes = fits.encode().unwrap();
    assert_eq!(bytes.len(), MAX_BODY_BYTES);
    assert_eq!(Body::decode(&bytes), Ok(fits));
}
