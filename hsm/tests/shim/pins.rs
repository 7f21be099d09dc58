//! PINs: one refusal is the last attempt, whoever asks.

use std::time::Duration;

use keystead_crypto::ports::{HsmError, HsmLogin};
use keystead_crypto::secret::SecretBytes;
use keystead_hsm::{HsmConfig, HsmHandle, HsmStatus};

use super::bench::{ALL, Place, TAG, is_unavailable, until};
use super::faulty::{Faulty, Op, Stage};

#[tokio::test]
async fn a_pin_that_is_refused_is_sent_once_whoever_asks() {
    let place = Faulty::new();
    let hsm = HsmHandle::spawn(place.config()).unwrap();
    let fault = place.shim.inject("return on=C_Login rv=CKR_PIN_INCORRECT").unwrap();
    for _ in 0..3 {
        assert_eq!(hsm.login(place.pin()).await, Err(HsmError::PinRefused));
    }
    assert_eq!(place.shim.fired(&fault).unwrap(), 1);
    place.shim.heal().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(hsm.login(place.pin()).await, Err(HsmError::PinRefused));
    assert_eq!(place.shim.logins().unwrap().len(), 1);
}

#[tokio::test]
async fn a_pin_that_is_refused_after_a_crash_is_sent_once() {
    let stage = Stage::new().await;
    let refused = stage.inject("return on=C_Login rv=CKR_PIN_INCORRECT");
    let crash = stage.inject("abort on=C_Encrypt times=1");
    assert_eq!(stage.call(Op::Wrap).await, Err(HsmError::PinRefused));
    for op in Op::ALL {
        assert_eq!(stage.call(op).await, Err(HsmError::PinRefused), "{op:?}");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((stage.fired(&refused), stage.fired(&crash)), (1, 1));
    assert_eq!(stage.place.shim.logins().unwrap().len(), 2);
    stage.place.assert_no_pin_tried_twice();
    stage.assert_quiet();
}

#[tokio::test]
async fn a_pin_that_is_refused_by_a_change_is_no_pin_to_come_back_with() {
    let stage = Stage::new().await;
    let refused = stage.inject("return on=C_SetPIN rv=CKR_PIN_INCORRECT");
    let new = SecretBytes::copy_from(b"a-new-pin");
    assert_eq!(stage.hsm.change_pin(stage.place.pin(), new).await, Err(HsmError::PinRefused));
    let crash = stage.inject("abort on=C_Encrypt times=1");
    assert_eq!(stage.call(Op::Wrap).await, Err(HsmError::PinRefused));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((stage.fired(&refused), stage.fired(&crash)), (1, 1));
    assert_eq!(stage.place.shim.logins().unwrap().len(), 1, "only the first one's");
    stage.assert_quiet();
}

#[tokio::test]
async fn a_pin_that_is_locked_is_left_alone_until_a_person_says_so() {
    let stage = Stage::new().await;
    let locked = stage.inject("return on=C_Login rv=CKR_PIN_LOCKED");
    stage.inject("abort on=C_Encrypt times=1");
    assert_eq!(stage.call(Op::Wrap).await, Err(HsmError::PinLocked));
    until(&stage.hsm, "locked", |status| *status == HsmStatus::Down { reason: HsmError::PinLocked }).await;
    for op in Op::ALL {
        assert_eq!(stage.call(op).await, Err(HsmError::PinLocked), "{op:?}");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stage.fired(&locked), 1);
    stage.place.assert_no_pin_tried_twice();
    // Unlocked by the vendor's tool; the PIN is the right one still.
    stage.place.shim.heal().unwrap();
    stage.hsm.login(stage.place.pin()).await.unwrap();
    stage.hsm.bind(TAG, &ALL).await.unwrap();
    stage.call(Op::Wrap).await.unwrap();
    stage.assert_quiet();
}

/// A login without an answer is no refusal; the token does not count, so that it is tried again.
#[tokio::test]
async fn a_login_without_an_answer_is_no_refusal() {
    for fault in ["abort on=C_Login times=2", "return on=C_Login rv=CKR_DEVICE_ERROR times=2"] {
        let stage = Stage::new().await;
        let fault = stage.inject(fault);
        stage.inject("abort on=C_Encrypt times=1");
        let outcome = stage.call(Op::Wrap).await;
        assert!(is_unavailable(&outcome), "{outcome:?}");
        until(&stage.hsm, "back", |status| matches!(status, HsmStatus::Ready { .. })).await;
        assert_eq!(stage.fired(&fault), 2);
        stage.recovers().await;
    }
}

fn wrong() -> SecretBytes {
    SecretBytes::copy_from(b"87654321")
}

/// A login where nobody acts, as of a server that was started anew.
async fn unattended(place: &Faulty, pin: SecretBytes) -> Result<(), HsmError> {
    let hsm = HsmHandle::spawn(HsmConfig { deadline: Duration::from_secs(2), ..place.config() }).unwrap();
    let outcome = hsm.login_unattended(pin).await.map(drop);
    hsm.logout().await;
    outcome
}

#[tokio::test]
async fn a_pin_that_was_refused_is_not_sent_by_later_processes_until_a_person_logged_in() {
    let place = Faulty::new();
    assert_eq!(unattended(&place, wrong()).await, Err(HsmError::PinRefused));
    for _ in 0..3 {
        let kept = unattended(&place, wrong()).await;
        assert!(matches!(kept, Err(HsmError::Misconfigured { .. })), "{kept:?}");
    }
    assert_eq!(place.shim.logins().unwrap().len(), 1);
    let hsm = HsmHandle::spawn(place.config()).unwrap();
    hsm.login(place.pin()).await.unwrap();
    hsm.logout().await;
    unattended(&place, place.pin()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_pin_whose_login_never_answered_is_not_sent_again_where_nobody_acts() {
    let place = Faulty::new();
    let mute = place.shim.inject("mute on=C_Login").unwrap();
    let hsm = HsmHandle::spawn(HsmConfig { deadline: Duration::from_secs(2), ..place.config() }).unwrap();
    let silent = hsm.login_unattended(wrong()).await;
    assert!(matches!(silent, Err(HsmError::DeadlineExceeded { .. })), "{silent:?}");
    for _ in 0..3 {
        let kept = hsm.login_unattended(wrong()).await;
        assert!(matches!(kept, Err(HsmError::Misconfigured { .. })), "{kept:?}");
    }
    assert!(matches!(unattended(&place, wrong()).await, Err(HsmError::Misconfigured { .. })));
    assert_eq!((place.shim.fired(&mute).unwrap(), place.shim.logins().unwrap().len()), (1, 1));
}

#[tokio::test]
async fn the_right_pin_is_sent_again_after_a_login_that_never_answered() {
    let place = Faulty::new();
    place.shim.inject("hang on=C_Login times=1").unwrap();
    let silent = unattended(&place, place.pin()).await;
    assert!(matches!(silent, Err(HsmError::DeadlineExceeded { .. })), "{silent:?}");
    unattended(&place, place.pin()).await.unwrap();
}
