//! Answers that are wrong. The worker finds what can be seen from outside; the rest is for the vault, which opens every
//! fresh wrap, and whose inner blobs, records and signatures are authentic by themselves.

use keystead_crypto::ports::{HsmError, HsmLogin, KeyWrapper, Signer};
use keystead_hsm::{HsmConfig, HsmHandle};

use super::bench::{ALL, AUDIT, EPOCH, MASTER, Place, TAG};
use super::faulty::{CANARY, Faulty, Op, Stage};

fn lied<T: std::fmt::Debug>(outcome: &Result<T, HsmError>) -> bool {
    matches!(outcome, Err(HsmError::Lied { .. }))
}

#[tokio::test]
async fn an_answer_of_another_length_is_a_lie() {
    let stage = Stage::new().await;
    for op in [Op::Wrap, Op::Unwrap, Op::Sign] {
        for lie in ["short", "short by=20", "long", "long by=64", "empty"] {
            let (kind, rest) = lie.split_once(' ').unwrap_or((lie, ""));
            let fault = stage.inject(&format!("{kind} on={} {rest}", op.function()));
            let outcome = stage.call(op).await;
            assert!(lied(&outcome), "{op:?} {lie}: {outcome:?}");
            assert!(stage.fired(&fault) > 0);
            stage.place.shim.end(&fault).unwrap();
        }
    }
    stage.recovers().await;
}

#[tokio::test]
async fn a_length_beyond_the_buffer_is_never_believed() {
    for op in [Op::Wrap, Op::Unwrap, Op::Sign] {
        let stage = Stage::new().await;
        let fault = stage.inject(&format!("overlong on={} by=1000000", op.function()));
        let outcome = stage.call(op).await;
        assert!(outcome.is_ok() || lied(&outcome), "{op:?}: {outcome:?}");
        assert!(stage.fired(&fault) > 0);
        stage.recovers().await;
    }
}

/// Wraps that are not what they should be do not open, which the vault tries before it counts on one.
#[tokio::test]
async fn a_wrap_that_is_wrong_does_not_open() {
    for lie in [
        "corrupt on=C_Encrypt",
        "corrupt on=C_Encrypt at=47",
        "former on=C_Encrypt",
        "constant on=C_Encrypt",
        "other-key on=C_EncryptInit",
    ] {
        let stage = Stage::new().await;
        let fault = stage.inject(lie);
        let honest = stage.hsm.wrap(MASTER, b"aad", b"the first stays true for some..!").await;
        let sealed = stage.hsm.wrap(MASTER, b"aad", CANARY).await.or(honest).unwrap();
        assert!(stage.fired(&fault) > 0, "{lie}");
        let outcome = stage.hsm.unwrap(MASTER, b"aad", &sealed).await;
        assert_eq!(outcome, Err(HsmError::NotAuthentic), "{lie}");
        let both = stage.hsm.wrap_and_unwrap(MASTER, b"aad", CANARY).await;
        assert_eq!(both, Err(HsmError::NotAuthentic), "{lie}, in one journey");
        stage.recovers().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wraps_that_are_swapped_do_not_open() {
    let stage = Stage::new().await;
    let fault = stage.inject("swap on=C_Encrypt ms=5000");
    let (one, two) =
        tokio::join!(stage.hsm.wrap(MASTER, b"aad", CANARY), stage.hsm.wrap(MASTER, b"aad", CANARY));
    assert_eq!(stage.fired(&fault), 2);
    for sealed in [one.unwrap(), two.unwrap()] {
        assert_eq!(stage.hsm.unwrap(MASTER, b"aad", &sealed).await, Err(HsmError::NotAuthentic));
    }
    stage.recovers().await;
}

/// A ciphertext opened with another key is not authentic, and not the device's fault either.
#[tokio::test]
async fn another_keys_decryption_is_refused() {
    let stage = Stage::new().await;
    let under_epoch = stage.hsm.wrap(EPOCH, b"aad", CANARY).await.unwrap();
    assert_eq!(stage.hsm.unwrap(EPOCH, b"aad", &under_epoch).await.unwrap(), CANARY);
    let fault = stage.inject("other-key on=C_DecryptInit");
    let outcome = stage.call(Op::Unwrap).await;
    assert!(matches!(outcome, Err(HsmError::NotAuthentic | HsmError::Unavailable { .. })), "{outcome:?}");
    assert!(stage.fired(&fault) > 0);
    stage.recovers().await;
}

#[tokio::test]
async fn a_wrong_signature_is_not_a_signature() {
    let stage = Stage::new().await;
    let good = stage.hsm.sign(b"message").await.unwrap();
    for lie in ["corrupt on=C_Sign at=40", "constant on=C_Sign byte=7"] {
        let fault = stage.inject(lie);
        match stage.hsm.sign(b"message").await {
            // Ed25519 has one signature a message: the vault verifies each before it uses it.
            Ok(signature) => assert_ne!(signature, good),
            Err(error) => assert!(matches!(error, HsmError::Lied { .. }), "{error}"),
        }
        assert!(stage.fired(&fault) > 0);
        stage.place.shim.heal().unwrap();
    }
    stage.recovers().await;
}

/// The self-test after each login finds a token that lies about everything.
#[tokio::test]
async fn a_token_that_lies_is_not_logged_in_to() {
    for lie in [
        "corrupt on=C_Encrypt",
        "corrupt on=C_Decrypt",
        "former on=C_Encrypt",
        "former on=C_Decrypt",
        "constant on=C_Decrypt",
        "short on=C_Encrypt",
        "long on=C_Decrypt",
        "empty on=C_Encrypt",
        "constant on=C_GenerateRandom",
        "former on=C_GenerateRandom",
        "iv how=silent",
    ] {
        let place = Faulty::new();
        let hsm = HsmHandle::spawn(place.config()).unwrap();
        let fault = place.shim.inject(lie).unwrap();
        let outcome = hsm.login(place.pin()).await;
        assert!(
            matches!(
                outcome,
                Err(HsmError::Lied { .. } | HsmError::Unsupported { .. } | HsmError::Unavailable { .. })
            ),
            "{lie}: {outcome:?}"
        );
        assert!(place.shim.fired(&fault).unwrap() > 0, "{lie}");
        place.shim.heal().unwrap();
        hsm.login(place.pin()).await.unwrap_or_else(|error| panic!("after {lie}: {error}"));
    }
}

/// A lie in the self-test of a worker that starts anew is no reason to ask a person for the PIN.
#[tokio::test]
async fn a_lie_while_coming_back_is_over_when_it_ends() {
    for lie in ["corrupt on=C_Decrypt", "constant on=C_GenerateRandom", "empty on=C_Encrypt"] {
        let stage = Stage::new().await;
        stage.inject("abort on=C_Sign times=1");
        let fault = stage.inject(lie);
        assert!(stage.call(Op::Sign).await.is_err(), "{lie}");
        assert!(stage.fired(&fault) > 0, "{lie}");
        stage.recovers().await;
    }
}

#[tokio::test]
async fn a_random_source_that_fails_or_repeats_is_an_error() {
    for (fault, draws) in [
        ("constant on=C_GenerateRandom byte=0", 1),
        ("constant on=C_GenerateRandom byte=255", 1),
        ("former on=C_GenerateRandom", 2),
    ] {
        let stage = Stage::new().await;
        let fault = stage.inject(fault);
        for _ in 1..draws {
            stage.call(Op::Random).await.unwrap();
        }
        for _ in 0..3 {
            let outcome = stage.call(Op::Random).await;
            assert!(lied(&outcome), "{outcome:?}");
        }
        assert_eq!(stage.fired(&fault), 3);
        stage.recovers().await;
    }
    let stage = Stage::new().await;
    let fault = stage.inject("return on=C_GenerateRandom rv=CKR_RANDOM_NO_RNG");
    assert!(stage.call(Op::Random).await.is_err());
    assert!(stage.fired(&fault) > 0);
    stage.recovers().await;
}

#[tokio::test]
async fn an_object_that_is_there_twice_is_refused_by_name() {
    let stage = Stage::new().await;
    let fault = stage.inject("twice");
    for key in ALL {
        let outcome = stage.hsm.bind(TAG, &[key]).await;
        assert!(matches!(outcome, Err(HsmError::NotUnique { found: 2, .. })), "{outcome:?}");
    }
    assert!(stage.fired(&fault) >= 3);
    // The former binding stands.
    stage.call(Op::Wrap).await.unwrap();
    stage.recovers().await;
}

#[tokio::test]
async fn a_key_with_a_flag_that_it_should_not_have_is_refused() {
    let stage = Stage::new().await;
    for (attribute, value, keys) in [
        ("CKA_EXTRACTABLE", "01", &[MASTER, AUDIT][..]),
        ("CKA_SENSITIVE", "00", &[MASTER, AUDIT]),
        ("CKA_ALWAYS_SENSITIVE", "00", &[MASTER, AUDIT]),
        ("CKA_NEVER_EXTRACTABLE", "00", &[MASTER, AUDIT]),
        ("CKA_LOCAL", "00", &[MASTER, AUDIT]),
        ("CKA_MODIFIABLE", "01", &[MASTER, AUDIT]),
        ("CKA_WRAP", "01", &[MASTER]),
        ("CKA_SIGN", "01", &[MASTER]),
        ("CKA_DECRYPT", "01", &[AUDIT]),
    ] {
        let fault = stage.inject(&format!("attribute type={attribute} value={value}"));
        for key in keys {
            let outcome = stage.hsm.bind(TAG, &[*key]).await;
            assert!(
                matches!(outcome, Err(HsmError::Misconfigured { .. })),
                "{attribute} {key:?}: {outcome:?}"
            );
        }
        assert!(stage.fired(&fault) >= keys.len());
        stage.place.shim.end(&fault).unwrap();
    }
    stage.recovers().await;
}

#[tokio::test]
async fn a_token_without_a_mechanism_says_which() {
    for (hidden, named) in
        [("CKM_AES_KEY_GEN", "AES_KEY_GEN"), ("CKM_AES_GCM,CKM_AES_CBC_PAD,CKM_AES_CBC", "AES")]
    {
        let place = Faulty::new();
        let fault = place.shim.inject(&format!("hide mechanisms={hidden}")).unwrap();
        let hsm = HsmHandle::spawn(HsmConfig { sessions: 1, ..place.config() }).unwrap();
        match hsm.login(place.pin()).await {
            Err(HsmError::Unsupported { what }) => assert!(what.contains(named), "{what}"),
            outcome => panic!("{hidden}: {outcome:?}"),
        }
        assert!(place.shim.fired(&fault).unwrap() > 0);
        place.shim.heal().unwrap();
        hsm.login(place.pin()).await.unwrap();
    }
}
