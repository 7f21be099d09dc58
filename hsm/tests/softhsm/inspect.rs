//! Looking at a token: what is told, and that nothing on it changes.

use keystead_hsm::report::{Outcome, Report};
use keystead_hsm::{MechanismChoice, PinOrigin};

use super::*;

fn by_person(bench: &Bench) -> Option<(SecretBytes, PinOrigin)> {
    Some((bench.pin(), PinOrigin::Person))
}

fn rung<'a>(report: &'a Report, name: &str) -> &'a Outcome {
    &report.rungs.iter().find(|rung| rung.name == name).unwrap().test
}

async fn of(config: HsmConfig, login: Option<(SecretBytes, PinOrigin)>) -> Report {
    HsmHandle::spawn(config).unwrap().inspect(login).await.unwrap()
}

#[tokio::test]
async fn with_a_login_everything_is_tried_and_nothing_changes() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    let before = bench.pkcs11_tool(&["--list-objects"]);
    let report = hsm.inspect(by_person(&bench)).await.unwrap();
    assert_eq!(report.problems(), Vec::<String>::new());
    assert_eq!(report.unseen(), None);
    assert_eq!(
        (report.mechanism.as_deref(), report.signature.as_deref()),
        (Some("aes-gcm"), Some("Ed25519"))
    );
    assert_eq!(
        (rung(&report, "aes-gcm"), rung(&report, "aes-cbc-hmac")),
        (&Outcome::Passed, &Outcome::Passed)
    );
    for (name, reason) in [("aes-gcm-hsm-iv", "no IV of its own"), ("aes-gcm-appended-iv", "behind the tag")]
    {
        assert!(rung(&report, name).failure().unwrap().contains(reason));
    }
    assert_eq!((&report.signature_test, &report.random_test), (&Outcome::Passed, &Outcome::Passed));
    assert!(report.mechanisms.iter().all(|mechanism| mechanism.present && !mechanism.uses.is_empty()));
    let keys: Vec<&str> = report.keys.iter().map(|key| key.label.as_str()).collect();
    assert_eq!(keys, ALL.map(|key| key.label(TAG)));
    assert!(report.times.is_some());
    assert_eq!(bench.pkcs11_tool(&["--list-objects"]), before);
    assert_eq!(hsm.list_keys(TAG).await.unwrap(), ALL, "a login that stands goes on");
}

#[tokio::test]
async fn without_a_login_nothing_is_tried_and_that_is_told() {
    let bench = Bench::new();
    bench.token.take_mechanisms(&["CKM_AES_GCM", "CKM_EDDSA"]).unwrap();
    let report = of(bench.config(), None).await;
    assert_eq!(
        (report.token.label.as_str(), report.token.pin_min_bytes, report.token.pin_set),
        ("keystead", 4, true)
    );
    assert!(report.unseen().unwrap().contains("not logged in"));
    assert_eq!(rung(&report, "aes-cbc-hmac"), &Outcome::NotTested);
    assert!(rung(&report, "aes-gcm").failure().unwrap().contains("CKM_AES_GCM"));
    assert_eq!(report.mechanism.as_deref(), Some("aes-cbc-hmac"));
    assert_eq!(
        (report.signature.as_deref(), &report.signature_test),
        (Some("ECDSA P-256"), &Outcome::NotTested)
    );
    assert_eq!(report.keys, []);
}

#[tokio::test]
async fn a_token_that_cannot_serve_says_why() {
    let bench = Bench::new();
    let config = HsmConfig { mechanism: MechanismChoice::AesGcmHsmIv, ..bench.config() };
    let report = of(config, by_person(&bench)).await;
    assert_eq!(report.mechanism, None);
    assert!(report.problems().concat().contains("hsm.mechanism"), "{:?}", report.problems());
    assert!(!report.rungs[0].allowed && report.rungs[1].allowed);

    bench.token.take_mechanisms(&["CKM_EDDSA", "CKM_ECDSA"]).unwrap();
    let report = of(bench.config(), by_person(&bench)).await;
    assert_eq!(report.signature, None);
    assert!(report.problems().concat().contains("Ed25519"), "{:?}", report.problems());
}

#[tokio::test]
async fn a_key_with_a_wrong_flag_and_one_that_is_there_twice_are_told() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    let second = HsmKey { version: 2, ..MASTER };
    for key in [MASTER, second] {
        let (label, id) = (key.label(TAG), data_encoding::HEXLOWER.encode(&key.id(TAG)));
        bench.pkcs11_tool(&[
            "--keygen",
            "--key-type",
            "AES:32",
            "--label",
            &label,
            "--id",
            &id,
            "--extractable",
        ]);
    }
    let report = hsm.inspect(by_person(&bench)).await.unwrap();
    let failures: Vec<Option<&str>> = report.keys.iter().map(|key| key.test.failure()).collect();
    let [Some(twice), Some(flags), None, None] = failures.as_slice() else { panic!("{failures:?}") };
    assert!(twice.contains("found 2") && twice.contains("remove or rename"), "{twice}");
    assert!(flags.contains("Extractable(false)"), "{flags}");
    assert_eq!(report.problems().len(), 2);
}

#[tokio::test]
async fn a_refused_pin_is_not_sent_twice_and_a_program_never_locks_a_token() {
    let bench = Bench::new();
    let hsm = HsmHandle::spawn(bench.counted()).unwrap();
    let wrong = || Some((SecretBytes::copy_from(b"canary-pin-2718"), PinOrigin::Program));
    for _ in 0..3 {
        let refused = hsm.inspect(wrong()).await.unwrap_err();
        assert_eq!(refused, HsmError::PinRefused);
    }
    assert_eq!(bench.starts(), 1);
    assert_eq!(hsm.login(wrong().unwrap().0).await, Err(HsmError::PinRefused));
    assert_eq!(bench.starts(), 1);
    // Another run knows nothing of the refusal, but the token counts.
    let again = HsmHandle::spawn(bench.config()).unwrap();
    let report = again.inspect(None).await.unwrap();
    assert!(report.token.pin_count_low);
    let held_back = again.inspect(wrong()).await;
    assert!(
        matches!(&held_back, Err(HsmError::Misconfigured { what }) if what.contains("counts")),
        "{held_back:?}"
    );
    let right = again.inspect(by_person(&bench)).await.unwrap();
    assert!(right.logged_in);
    assert!(!again.inspect(None).await.unwrap().token.pin_count_low);
}
