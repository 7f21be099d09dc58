//! Tests of the protocol: parse ∘ print = id, and nothing shorter, longer or unknown is taken.

use proptest::prelude::*;

use super::error::MAX_REASON;
use super::*;
use crate::report::{KeyState, MechanismState, Outcome, RungState, Times, TokenState};

fn keys() -> impl Strategy<Value = HsmKey> {
    let purposes = prop::sample::select(HsmKeyPurpose::ALL.to_vec());
    (purposes, any::<u32>()).prop_map(|(purpose, version)| HsmKey { purpose, version })
}

fn cares() -> impl Strategy<Value = Care> {
    prop_oneof![Just(Care::ByPerson), Just(Care::Again), Just(Care::Unattended)]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

fn sealed() -> impl Strategy<Value = HsmSealed> {
    (any::<u8>(), bytes(), bytes()).prop_map(|(mechanism, iv, ciphertext)| HsmSealed {
        mechanism,
        iv,
        ciphertext,
    })
}

fn requests() -> impl Strategy<Value = Request> {
    let mechanisms = (prop::sample::select(MechanismChoice::ALL.to_vec()), prop::option::of(1_u32..));
    let start = (
        ".{1,20}",
        any::<Option<[u8; 32]>>(),
        ".{0,20}",
        prop::option::of(".{1,9}"),
        any::<u8>(),
        mechanisms,
    );
    prop_oneof![
        start.prop_map(|(module, module_sha256, token_label, token_serial, sessions, mechanisms)| {
            Request::Start(Start {
                module: module.into(),
                module_sha256,
                token_label,
                token_serial,
                sessions,
                mechanism: mechanisms.0,
                gcm_mechanism: mechanisms.1,
            })
        }),
        (bytes(), cares()).prop_map(|(pin, care)| Request::Login { pin: SecretBytes::new(pin), care }),
        (any::<[u8; 8]>(), prop::collection::vec(keys(), 0..5))
            .prop_map(|(vault_tag, keys)| Request::Bind { vault_tag, keys }),
        (any::<[u8; 8]>(), keys()).prop_map(|(vault_tag, key)| Request::CreateKey { vault_tag, key }),
        (any::<[u8; 8]>(), keys()).prop_map(|(vault_tag, key)| Request::DestroyKey { vault_tag, key }),
        (keys(), bytes(), bytes()).prop_map(|(key, aad, plaintext)| Request::Wrap {
            key,
            aad,
            plaintext: SecretBytes::new(plaintext)
        }),
        (keys(), bytes(), sealed()).prop_map(|(key, aad, sealed)| Request::Unwrap { key, aad, sealed }),
        (keys(), bytes(), bytes()).prop_map(|(key, aad, plaintext)| Request::WrapAndUnwrap {
            key,
            aad,
            plaintext: SecretBytes::new(plaintext)
        }),
        Just(()).prop_map(|()| Request::VerifyingKey),
        bytes().prop_map(|message| Request::Sign { message }),
        (any::<u64>(), bytes()).prop_map(|(counter, value)| Request::AnchorStore { counter, value }),
        Just(()).prop_map(|()| Request::AnchorLoad),
        any::<u32>().prop_map(|bytes| Request::Random { bytes }),
        Just(()).prop_map(|()| Request::Shutdown),
        any::<[u8; 8]>().prop_map(|vault_tag| Request::ListKeys { vault_tag }),
        prop::option::of((bytes(), cares())).prop_map(|login| Request::Inspect {
            login: login.map(|(pin, care)| (SecretBytes::new(pin), care))
        }),
        (bytes(), bytes()).prop_map(|(current, new)| Request::ChangePin {
            current: SecretBytes::new(current),
            new: SecretBytes::new(new)
        }),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Passed),
        Just(Outcome::NotTested),
        ".{0,30}".prop_map(|why| Outcome::Failed { why }),
    ]
}

fn reports() -> impl Strategy<Value = Report> {
    let token = (".{0,9}", ".{0,9}", any::<(usize, usize, bool, bool, bool, bool)>()).prop_map(
        |(label, serial, pin)| TokenState {
            label: label.clone(),
            serial,
            model: label,
            firmware: "1.2".into(),
            pin_min_bytes: pin.0,
            pin_max_bytes: pin.1,
            pin_set: pin.2,
            pin_count_low: pin.3,
            pin_final_try: pin.4,
            pin_locked: pin.5,
        },
    );
    let name = || prop::option::of("[a-z]{1,9}");
    let mechanism = ("[A-Z_]{1,9}", any::<bool>(), any::<Option<(usize, usize)>>()).prop_map(
        |(name, present, key_sizes)| MechanismState { uses: vec![name.clone()], name, present, key_sizes },
    );
    let rung = ("[a-z]{1,9}", any::<bool>(), outcomes()).prop_map(|(name, allowed, test)| RungState {
        name,
        allowed,
        test,
    });
    let key = (".{0,9}", outcomes()).prop_map(|(label, test)| KeyState { label, test });
    let times = any::<Option<(u64, u64)>>()
        .prop_map(|times| times.map(|(wrap_us, unwrap_us)| Times { wrap_us, unwrap_us }));
    let lists = (
        prop::collection::vec(mechanism, 0..3),
        prop::collection::vec(rung, 0..3),
        prop::collection::vec(key, 0..3),
    );
    (token, any::<bool>(), lists, (name(), name()), (outcomes(), outcomes()), times).prop_map(
        |(token, logged_in, (mechanisms, rungs, keys), (mechanism, signature), tests, times)| Report {
            token,
            logged_in,
            mechanisms,
            rungs,
            mechanism,
            signature,
            signature_test: tests.0,
            random_test: tests.1,
            keys,
            times,
        },
    )
}

fn answers() -> impl Strategy<Value = Result<Reply, HsmError>> {
    let algorithm = prop_oneof![Just(SignatureAlgorithm::Ed25519), Just(SignatureAlgorithm::EcdsaP256)];
    prop_oneof![
        Just(()).prop_map(|()| Ok(Reply::Done)),
        (".{0,9}", ".{0,9}", ".{0,9}").prop_map(|(serial, label, model)| Ok(Reply::Token(TokenInfo {
            serial,
            label,
            model
        }))),
        sealed().prop_map(|sealed| Ok(Reply::Sealed(sealed))),
        bytes().prop_map(|bytes| Ok(Reply::Bytes(SecretBytes::new(bytes)))),
        (sealed(), bytes())
            .prop_map(|(sealed, opened)| Ok(Reply::SealedAndOpened(sealed, SecretBytes::new(opened)))),
        (algorithm, bytes()).prop_map(|(algorithm, bytes)| Ok(Reply::Key(VerifyingKey { algorithm, bytes }))),
        prop::option::of((any::<u64>(), bytes())).prop_map(|value| Ok(Reply::Anchor(value))),
        prop::collection::vec(keys(), 0..5).prop_map(|keys| Ok(Reply::Keys(keys))),
        reports().prop_map(|report| Ok(Reply::Report(Box::new(report)))),
        ".{0,30}".prop_map(|reason| Err(HsmError::Unavailable { reason })),
        any::<u64>().prop_map(|millis| Err(HsmError::DeadlineExceeded { millis })),
        Just(()).prop_map(|()| Err(HsmError::PinRefused)),
        Just(()).prop_map(|()| Err(HsmError::PinLocked)),
        Just(()).prop_map(|()| Err(HsmError::PinUncertain)),
        Just(()).prop_map(|()| Err(HsmError::NotLoggedIn)),
        (".{0,30}", 0..1000_usize).prop_map(|(what, found)| Err(HsmError::NotUnique { what, found })),
        Just(()).prop_map(|()| Err(HsmError::NotAuthentic)),
        ".{0,30}".prop_map(|what| Err(HsmError::Lied { what })),
        ".{0,30}".prop_map(|what| Err(HsmError::Unsupported { what })),
        ".{0,30}".prop_map(|what| Err(HsmError::Misconfigured { what })),
    ]
}

proptest! {
    #[test]
    fn requests_come_back(id: u64, request in requests()) {
        let frame = request.encode(id).unwrap();
        let (back_id, back) = Request::decode(&frame[4..]).unwrap();
        prop_assert_eq!(back_id, id);
        prop_assert_eq!(back.encode(id).unwrap(), frame);
    }

    #[test]
    fn shorter_and_longer_requests_are_refused(request in requests(), cut: prop::sample::Index) {
        let frame = request.encode(1).unwrap();
        let body = &frame[4..];
        prop_assert!(Request::decode(&body[..cut.index(body.len())]).is_err());
        let longer = [body, &[0]].concat();
        prop_assert!(Request::decode(&longer).is_err());
    }

    #[test]
    fn answers_come_back(id: u64, answer in answers()) {
        let frame = encode_answer(id, &answer).unwrap();
        let (back_id, back) = decode_answer(&frame[4..]).unwrap();
        prop_assert_eq!(back_id, id);
        prop_assert_eq!(encode_answer(id, &back).unwrap(), frame);
    }

    #[test]
    fn shorter_and_longer_answers_are_refused(answer in answers(), cut: prop::sample::Index) {
        let frame = encode_answer(1, &answer).unwrap();
        let body = &frame[4..];
        prop_assert!(decode_answer(&body[..cut.index(body.len())]).is_err());
        let longer = [body, &[0]].concat();
        prop_assert!(decode_answer(&longer).is_err());
    }

    #[test]
    fn no_bytes_at_all_make_a_decoder_fall_over(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Request::decode(&bytes);
        let _ = decode_answer(&bytes);
    }
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let reason = "ä".repeat(MAX_REASON);
    let frame = encode_answer(1, &Err(HsmError::Unavailable { reason })).unwrap();
    let (_, answer) = decode_answer(&frame[4..]).unwrap();
    assert_eq!(answer.unwrap_err(), HsmError::Unavailable { reason: "ä".repeat(MAX_REASON / 2) });
}

#[test]
fn unknown_tags_are_named() {
    assert_eq!(
        Request::decode(&[0, 0, 0, 0, 0, 0, 0, 1, 99]).unwrap_err(),
        FrameError::UnknownTag { what: "request", tag: 99 }
    );
    assert_eq!(
        decode_answer(&[0, 0, 0, 0, 0, 0, 0, 1, 99]).unwrap_err(),
        FrameError::UnknownTag { what: "answer", tag: 99 }
    );
}
