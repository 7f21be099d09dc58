//! Keys: made once, checked at every bind, one set a vault.

use keystead_crypto::ports::{KeyWrapper, Signer};

use super::*;

const OTHER_TAG: [u8; 8] = *b"vault--2";
const LABEL: &str = "keystead/7661756c742d2d31/master/1";

/// The id that goes with `LABEL`.
fn id() -> String {
    use sha2::Digest;
    data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(LABEL.as_bytes())[..16])
}

#[tokio::test]
async fn a_key_is_made_once() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    for key in ALL {
        assert!(matches!(hsm.create_key(TAG, key).await, Err(HsmError::Misconfigured { .. })));
    }
    hsm.bind(TAG, &ALL).await.unwrap();
}

#[tokio::test]
async fn vaults_on_one_token_do_not_share_keys() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    let sealed = hsm.wrap(MASTER, b"aad", b"one").await.unwrap();
    let first = hsm.verifying_key().await.unwrap();
    for key in ALL {
        hsm.create_key(OTHER_TAG, key).await.unwrap();
    }
    hsm.bind(OTHER_TAG, &ALL).await.unwrap();
    assert_eq!(hsm.unwrap(MASTER, b"aad", &sealed).await, Err(HsmError::NotAuthentic));
    assert_ne!(hsm.verifying_key().await.unwrap(), first);
    hsm.bind(TAG, &ALL).await.unwrap();
    assert_eq!(hsm.unwrap(MASTER, b"aad", &sealed).await.unwrap(), b"one");
}

#[tokio::test]
async fn a_destroyed_key_is_gone_and_destroying_twice_is_success() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    for key in ALL {
        hsm.destroy_key(TAG, key).await.unwrap();
        hsm.destroy_key(TAG, key).await.unwrap();
        let missing = hsm.bind(TAG, &[key]).await;
        assert!(matches!(missing, Err(HsmError::NotUnique { found: 0, .. })), "{missing:?}");
    }
}

#[tokio::test]
async fn a_destroyed_key_keeps_no_later_child_from_coming_back() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    hsm.destroy_key(OTHER_TAG, MASTER).await.unwrap();
    hsm.destroy_key(TAG, EPOCH).await.unwrap();
    kill(&hsm, rustix::process::Signal::KILL);
    hsm.wrap(MASTER, b"", b"x").await.unwrap();
    hsm.sign(b"x").await.unwrap();
    assert!(matches!(hsm.wrap(EPOCH, b"", b"x").await, Err(HsmError::NotUnique { found: 0, .. })));
}

#[tokio::test]
async fn versions_are_different_keys() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    let second = HsmKey { version: 2, ..MASTER };
    let unbound = hsm.wrap(second, b"", b"x").await;
    assert!(matches!(unbound, Err(HsmError::NotUnique { found: 0, .. })), "{unbound:?}");
    hsm.create_key(TAG, second).await.unwrap();
    hsm.bind(TAG, &[MASTER, second]).await.unwrap();
    let sealed = hsm.wrap(second, b"", b"x").await.unwrap();
    assert_eq!(hsm.unwrap(MASTER, b"", &sealed).await, Err(HsmError::NotAuthentic));
    assert_eq!(hsm.unwrap(second, b"", &sealed).await.unwrap(), b"x");
}

#[tokio::test]
async fn a_failed_bind_leaves_the_former_one() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    assert!(hsm.bind(OTHER_TAG, &ALL).await.is_err());
    hsm.wrap(MASTER, b"", b"x").await.unwrap();
}

#[tokio::test]
async fn a_key_with_any_other_flag_is_refused_by_its_name() {
    // Every key that pkcs11-tool makes is modifiable, so that one flag at least is wrong in each.
    let wrong = [
        (&["--sensitive", "--extractable"][..], "Extractable(false)"),
        (&[], "Sensitive(true)"),
        (&["--sensitive", "--usage-wrap"], "Modifiable(false)"),
        (&["--sensitive", "--usage-sign"], "Modifiable(false)"),
    ];
    for (flags, named) in wrong {
        let bench = Bench::new();
        let keygen = ["--keygen", "--key-type", "AES:32", "--label", LABEL, "--id", &id()];
        bench.pkcs11_tool(&[&keygen[..], flags].concat());
        let hsm = HsmHandle::spawn(bench.config()).unwrap();
        hsm.login(bench.pin()).await.unwrap();
        let refused = hsm.bind(TAG, &[MASTER]).await;
        let Err(HsmError::Misconfigured { what }) = &refused else { panic!("{refused:?}") };
        assert!(what.contains(LABEL) && what.contains("must have"), "{what}");
        assert!(what.contains("Modifiable(false)") && what.contains(named), "{what}");
    }
}

#[tokio::test]
async fn two_keys_of_one_name_are_refused() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    bench.pkcs11_tool(&["--keygen", "--key-type", "AES:32", "--label", LABEL, "--id", &id(), "--sensitive"]);
    let refused = hsm.bind(TAG, &[MASTER]).await;
    assert!(matches!(refused, Err(HsmError::NotUnique { found: 2, .. })), "{refused:?}");
}

#[tokio::test]
async fn keys_are_used_only_for_what_they_are() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    assert!(matches!(hsm.wrap(AUDIT, b"", b"x").await, Err(HsmError::Unsupported { .. })));
    hsm.bind(TAG, &[MASTER]).await.unwrap();
    assert!(matches!(hsm.sign(b"x").await, Err(HsmError::NotUnique { found: 0, .. })));
}

#[tokio::test]
async fn a_key_destroyed_by_somebody_else_is_missed_by_name() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    bench.pkcs11_tool(&["--delete-object", "--type", "secrkey", "--label", LABEL]);
    assert!(hsm.wrap(MASTER, b"", b"x").await.is_err());
    until(&hsm, "missed", |status| {
        matches!(status, HsmStatus::Down { reason: HsmError::NotUnique { found: 0, .. } })
    })
    .await;
}

#[tokio::test]
async fn the_keys_of_a_vault_are_listed_sorted_and_once() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    assert_eq!(hsm.list_keys(OTHER_TAG).await.unwrap(), []);
    let second = HsmKey { version: 2, ..MASTER };
    for key in [AUTO, second] {
        hsm.create_key(TAG, key).await.unwrap();
    }
    hsm.create_key(OTHER_TAG, AUTO).await.unwrap();
    let unknown =
        ["other/1", "master/03", "master/4/5"].map(|end| format!("keystead/7661756c742d2d31/{end}"));
    for label in [LABEL, "", "keystead"].into_iter().chain(unknown.iter().map(String::as_str)) {
        bench.pkcs11_tool(&["--keygen", "--key-type", "AES:32", "--label", label, "--sensitive"]);
    }
    assert_eq!(hsm.list_keys(TAG).await.unwrap(), [MASTER, second, EPOCH, AUDIT, AUTO]);
    assert_eq!(hsm.list_keys(OTHER_TAG).await.unwrap(), [AUTO]);
    hsm.destroy_key(TAG, AUDIT).await.unwrap();
    assert_eq!(hsm.list_keys(TAG).await.unwrap(), [MASTER, second, EPOCH, AUTO]);
}

#[tokio::test]
async fn an_auto_key_wraps_like_an_epoch_key() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    hsm.create_key(TAG, AUTO).await.unwrap();
    hsm.bind(TAG, &[AUTO, EPOCH]).await.unwrap();
    let sealed = hsm.wrap(AUTO, b"aad", b"boxed").await.unwrap();
    assert_eq!(hsm.unwrap(AUTO, b"aad", &sealed).await.unwrap(), b"boxed");
    assert_eq!(hsm.unwrap(EPOCH, b"aad", &sealed).await, Err(HsmError::NotAuthentic));
}
