//! Tokens of other makers, as far as the shim can play them: each rung of the mechanism ladder, found by itself, passes the
//! suites of the ports.

use keystead_crypto::ports::{HsmError, HsmLogin, HsmSealed, KeyWrapper};
use keystead_hsm::{HsmConfig, HsmHandle, MechanismChoice};

use super::bench::{MASTER, Place, suite};
use super::faulty::{CANARY, Faulty, Op, Stage};

// AWS CloudHSM, Thales ProtectServer.
suite::conforms!(writes_its_iv_back, Faulty::other(&["iv how=written-back bytes=12"], None, (2, 12)));
suite::conforms!(
    writes_a_long_iv_back_and_takes_none,
    Faulty::other(&["iv how=written-back bytes=16 caller=refused"], None, (2, 16))
);
// Thales Luna in FIPS mode.
suite::conforms!(appends_its_iv, Faulty::other(&["iv how=appended bytes=12"], None, (3, 12)));
suite::conforms!(appends_a_long_iv, Faulty::other(&["iv how=appended bytes=16"], None, (3, 16)));
// Google Cloud KMS, AWS CloudHSM: AES-GCM by a number of the vendor's only.
suite::conforms!(
    has_a_vendors_number,
    Faulty::other(&["vendor number=0x80000042", "hide mechanisms=CKM_AES_GCM"], Some(0x8000_0042), (1, 12))
);
// YubiHSM 2 and others without AES-GCM.
suite::conforms!(has_no_gcm, no_gcm());

fn no_gcm() -> Faulty {
    Faulty::other(&["hide mechanisms=CKM_AES_GCM"], None, (4, 16))
}

/// CVE-2023-2197: what has a wrong MAC is not decrypted, so that padding tells nothing.
#[tokio::test]
async fn a_ciphertext_with_a_wrong_mac_is_never_decrypted() {
    let place = no_gcm();
    let hsm = place.ready(place.config()).await;
    let sealed = hsm.wrap(MASTER, b"aad", CANARY).await.unwrap();
    let (decrypts, signs) =
        (place.shim.calls("C_DecryptInit").unwrap(), place.shim.calls("C_SignInit").unwrap());
    let refused = async |forged: HsmSealed, aad: &[u8]| {
        assert_eq!(hsm.unwrap(MASTER, aad, &forged).await, Err(HsmError::NotAuthentic));
    };
    for at in 0..sealed.ciphertext.len() {
        let mut forged = sealed.clone();
        forged.ciphertext[at] ^= 1;
        refused(forged, b"aad").await;
    }
    for at in 0..sealed.iv.len() {
        let mut forged = sealed.clone();
        forged.iv[at] ^= 1;
        refused(forged, b"aad").await;
    }
    for blocks in 0..sealed.ciphertext.len() / 16 {
        let ciphertext = sealed.ciphertext[..blocks * 16].to_vec();
        refused(HsmSealed { ciphertext, ..sealed.clone() }, b"aad").await;
    }
    refused(sealed.clone(), b"other").await;
    assert_eq!(place.shim.calls("C_DecryptInit").unwrap(), decrypts);
    assert!(place.shim.calls("C_SignInit").unwrap() >= signs + sealed.ciphertext.len() + sealed.iv.len());
    assert_eq!(hsm.unwrap(MASTER, b"aad", &sealed).await.unwrap(), CANARY);
    assert_eq!(place.shim.calls("C_DecryptInit").unwrap(), decrypts + 1);
}

/// A token whose IVs stay with it, or repeat, is not used by AES-GCM at all.
#[tokio::test]
async fn an_iv_that_cannot_be_known_is_refused() {
    for (fault, mechanism) in [
        ("iv how=silent", MechanismChoice::AesGcm),
        ("iv how=silent", MechanismChoice::AesGcmHsmIv),
        ("iv how=silent", MechanismChoice::AesGcmAppendedIv),
        ("iv how=written-back", MechanismChoice::AesGcm),
        ("iv how=written-back caller=refused", MechanismChoice::AesGcm),
        ("iv how=written-back", MechanismChoice::AesGcmAppendedIv),
        ("iv how=appended", MechanismChoice::AesGcm),
        ("iv how=appended", MechanismChoice::AesGcmHsmIv),
        ("iv how=appended bytes=13", MechanismChoice::AesGcmAppendedIv),
    ] {
        let place = Faulty::new();
        let fault_on = place.shim.inject(fault).unwrap();
        let hsm = HsmHandle::spawn(HsmConfig { mechanism, ..place.config() }).unwrap();
        let outcome = hsm.login(place.pin()).await;
        assert!(outcome.is_err(), "{fault} {mechanism:?}: {outcome:?}");
        assert!(place.shim.fired(&fault_on).unwrap() > 0, "{fault}");
    }
}

/// A passing lie in the self-test does not put the vault on another rung: its keys were made for this one.
#[tokio::test]
async fn a_passing_lie_does_not_change_the_rung() {
    for lie in ["corrupt on=C_Decrypt times=1", "short on=C_Encrypt times=1", "empty on=C_Encrypt times=2"] {
        let stage = Stage::new().await;
        let fault = stage.inject(lie);
        stage.inject("abort on=C_Sign times=1");
        // Whatever comes of this one call.
        let _ = stage.call(Op::Sign).await;
        stage.recovers().await;
        assert!(stage.fired(&fault) > 0, "{lie}");
        let sealed = stage.hsm.wrap(MASTER, b"aad", CANARY).await.unwrap();
        assert_eq!(sealed.mechanism, stage.sealed.mechanism, "{lie}");
    }
}
