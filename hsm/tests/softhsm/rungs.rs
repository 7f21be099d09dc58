//! The mechanism ladder on SoftHSM, which has the first rung and the last: AES-GCM with the host's IV, and AES-CBC-PAD
//! with HMAC. What it does not have must be refused with the reason.

use std::collections::HashSet;

use keystead_crypto::ports::{HsmSealed, KeyWrapper};
use keystead_hsm::MechanismChoice;

use super::*;

const MAC_LABEL: &str = "keystead/7661756c742d2d31/master/1-mac";

fn with(bench: &Bench, mechanism: MechanismChoice) -> HsmConfig {
    HsmConfig { mechanism, ..bench.config() }
}

async fn logged_in(bench: &Bench, config: HsmConfig) -> HsmHandle {
    let hsm = HsmHandle::spawn(config).unwrap();
    hsm.login(bench.pin()).await.unwrap();
    hsm
}

#[tokio::test]
async fn cbc_and_hmac_wrap_and_open_and_take_no_forgery() {
    let bench = Bench::new();
    let hsm = bench.ready(with(&bench, MechanismChoice::AesCbcHmac)).await;
    for (length, sealed_length) in [(0, 48), (1, 48), (15, 48), (16, 64), (48, 96), (4096, 4144)] {
        let plaintext = vec![0x5a; length];
        let sealed = hsm.wrap(MASTER, b"aad", &plaintext).await.unwrap();
        let form = (sealed.mechanism, sealed.iv.len(), sealed.ciphertext.len());
        assert_eq!(form, (4, 16, sealed_length));
        assert_eq!(hsm.unwrap(MASTER, b"aad", &sealed).await.unwrap(), plaintext);
    }
    let sealed = hsm.wrap(MASTER, b"aad", &[7; 48]).await.unwrap();
    let pid = hsm.worker_pid();
    let refused = async |aad: &[u8], key, forged: &HsmSealed| {
        assert_eq!(hsm.unwrap(key, aad, forged).await, Err(HsmError::NotAuthentic), "{forged:?}");
    };
    for at in 0..sealed.ciphertext.len() {
        let mut forged = sealed.clone();
        forged.ciphertext[at] ^= 1;
        refused(b"aad", MASTER, &forged).await;
    }
    for at in 0..sealed.iv.len() {
        let mut forged = sealed.clone();
        forged.iv[at] ^= 1;
        refused(b"aad", MASTER, &forged).await;
    }
    for length in [0, 16, 32, 48, 64, 80, 95] {
        let ciphertext = sealed.ciphertext[..length].to_vec();
        refused(b"aad", MASTER, &HsmSealed { ciphertext, ..sealed.clone() }).await;
    }
    refused(b"aae", MASTER, &sealed).await;
    refused(b"aad", EPOCH, &sealed).await;
    refused(b"aad", MASTER, &HsmSealed { mechanism: 2, ..sealed.clone() }).await;
    assert_eq!(hsm.unwrap(MASTER, b"aad", &sealed).await.unwrap(), [7; 48]);
    assert_eq!(hsm.worker_pid(), pid, "a forged ciphertext is no reason to restart");
}

#[tokio::test]
async fn every_wrap_has_an_iv_of_its_own() {
    // CVE-2023-4680: a caller that may choose the nonce. No port takes one; what comes out never repeats.
    for mechanism in [MechanismChoice::AesGcm, MechanismChoice::AesCbcHmac] {
        let bench = Bench::new();
        let hsm = bench.ready(with(&bench, mechanism)).await;
        let mut ivs = HashSet::new();
        for _ in 0..200 {
            assert!(ivs.insert(hsm.wrap(MASTER, b"aad", b"same").await.unwrap().iv));
        }
    }
}

#[tokio::test]
async fn auto_takes_the_first_rung_that_the_token_has() {
    let bench = Bench::new();
    let hsm = bench.ready(with(&bench, MechanismChoice::Auto)).await;
    assert_eq!(hsm.wrap(MASTER, b"", b"x").await.unwrap().mechanism, 1);

    let bench = Bench::new();
    bench.token.take_mechanisms(&["CKM_AES_GCM"]).unwrap();
    let hsm = bench.ready(with(&bench, MechanismChoice::Auto)).await;
    assert_eq!(hsm.wrap(MASTER, b"", b"x").await.unwrap().mechanism, 4);
    let none = HsmHandle::spawn(with(&bench, MechanismChoice::AesGcm)).unwrap().login(bench.pin()).await;
    let Err(HsmError::Unsupported { what }) = none else { panic!("{none:?}") };
    assert!(what.contains("aes-gcm: ") && what.contains("CKM_AES_GCM"), "{what}");
}

#[tokio::test]
async fn a_rung_that_the_token_does_not_do_is_refused_with_the_reason() {
    let bench = Bench::new();
    // SoftHSM uses the zeros that it is lent: sealing so would use one IV for ever.
    for (mechanism, reason) in [
        (MechanismChoice::AesGcmHsmIv, "makes no IV of its own"),
        (MechanismChoice::AesGcmAppendedIv, "puts no IV of 12 or 16 bytes behind the tag"),
    ] {
        let login = HsmHandle::spawn(with(&bench, mechanism)).unwrap().login(bench.pin()).await;
        let Err(HsmError::Unsupported { what }) = login else { panic!("{login:?}") };
        assert!(what.contains(mechanism.word()) && what.contains(reason), "{what}");
    }
    let vendor = HsmConfig { gcm_mechanism: Some(0x8000_1087), ..with(&bench, MechanismChoice::AesGcm) };
    let login = HsmHandle::spawn(vendor.clone()).unwrap().login(bench.pin()).await;
    assert!(matches!(login, Err(HsmError::Unsupported { .. })), "{login:?}");
    let hsm = bench.ready(HsmConfig { mechanism: MechanismChoice::Auto, ..vendor }).await;
    assert_eq!(hsm.wrap(MASTER, b"", b"x").await.unwrap().mechanism, 4);
}

#[tokio::test]
async fn a_token_may_change_its_rung_and_old_blobs_still_open() {
    let bench = Bench::new();
    let second = HsmKey { version: 2, ..MASTER };
    let gcm = bench.ready(with(&bench, MechanismChoice::AesGcm)).await;
    let old = gcm.wrap(MASTER, b"aad", b"old").await.unwrap();
    gcm.logout().await;

    let cbc = logged_in(&bench, with(&bench, MechanismChoice::AesCbcHmac)).await;
    cbc.create_key(TAG, second).await.unwrap();
    cbc.bind(TAG, &[MASTER, second]).await.unwrap();
    assert_eq!(cbc.unwrap(MASTER, b"aad", &old).await.unwrap(), b"old");
    let mut forged = old.clone();
    forged.ciphertext[0] ^= 1;
    let pid = cbc.worker_pid();
    assert_eq!(cbc.unwrap(MASTER, b"aad", &forged).await, Err(HsmError::NotAuthentic));
    assert_eq!(cbc.worker_pid(), pid);
    let refused = cbc.wrap(MASTER, b"aad", b"x").await;
    let Err(HsmError::Misconfigured { what }) = refused else { panic!("{refused:?}") };
    assert!(what.contains("no MAC key") && what.contains("hsm.mechanism"), "{what}");
    let new = cbc.wrap(second, b"aad", b"new").await.unwrap();
    cbc.logout().await;

    let gcm = logged_in(&bench, with(&bench, MechanismChoice::AesGcm)).await;
    gcm.bind(TAG, &[MASTER, second]).await.unwrap();
    assert_eq!(gcm.unwrap(second, b"aad", &new).await.unwrap(), b"new");
    assert_eq!(gcm.unwrap(MASTER, b"aad", &old).await.unwrap(), b"old");
    assert_eq!(gcm.wrap(second, b"aad", b"x").await.unwrap().mechanism, 1);
}

#[tokio::test]
async fn a_mac_key_is_made_checked_and_destroyed_with_its_key() {
    let bench = Bench::new();
    let hsm = bench.ready(with(&bench, MechanismChoice::AesCbcHmac)).await;
    let listed = bench.pkcs11_tool(&["--list-objects", "--type", "secrkey"]);
    let of_master = listed.split("Secret Key Object").find(|object| object.contains(MAC_LABEL)).unwrap();
    assert!(of_master.contains("never extractable") && !of_master.contains("encrypt"), "{of_master}");
    assert_eq!(hsm.list_keys(TAG).await.unwrap(), ALL);
    hsm.destroy_key(TAG, MASTER).await.unwrap();
    assert!(!bench.pkcs11_tool(&["--list-objects", "--type", "secrkey"]).contains(MAC_LABEL));
    hsm.create_key(TAG, MASTER).await.unwrap();
    hsm.bind(TAG, &ALL).await.unwrap();

    let id = data_encoding::HEXLOWER.encode(&MASTER.mac_id(TAG));
    let another = ["--keygen", "--key-type", "GENERIC:32", "--label", MAC_LABEL, "--id", &id, "--sensitive"];
    bench.pkcs11_tool(&another);
    let twice = hsm.bind(TAG, &[MASTER]).await;
    assert!(
        matches!(&twice, Err(HsmError::NotUnique { what, found: 2 }) if what.contains("-mac")),
        "{twice:?}"
    );
    assert!(twice.unwrap_err().to_string().contains("remove or rename"));
    // Labels without the id, and of another class, are the vault's by name too, and go with it.
    hsm.destroy_key(TAG, MASTER).await.unwrap();
    hsm.create_key(TAG, MASTER).await.unwrap();
    bench.pkcs11_tool(&["--delete-object", "--type", "secrkey", "--label", MAC_LABEL]);
    bench.pkcs11_tool(&another);
    let flags = hsm.bind(TAG, &[MASTER]).await;
    assert!(matches!(&flags, Err(HsmError::Misconfigured { what }) if what.contains("-mac")), "{flags:?}");
}

#[tokio::test]
async fn a_key_whose_mac_key_is_gone_opens_nothing_of_it_and_says_why() {
    let bench = Bench::new();
    let hsm = bench.ready(with(&bench, MechanismChoice::AesCbcHmac)).await;
    let sealed = hsm.wrap(MASTER, b"aad", b"x").await.unwrap();
    hsm.logout().await;
    bench.pkcs11_tool(&["--delete-object", "--type", "secrkey", "--label", MAC_LABEL]);
    hsm.login(bench.pin()).await.unwrap();
    hsm.bind(TAG, &[MASTER]).await.unwrap();
    let lost = hsm.unwrap(MASTER, b"aad", &sealed).await;
    assert!(
        matches!(&lost, Err(HsmError::NotUnique { what, found: 0 }) if what.contains("MAC key")),
        "{lost:?}"
    );
}
