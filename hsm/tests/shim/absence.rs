//! Tokens and modules that go away, for a moment or until somebody puts them back.

use std::time::Duration;

use keystead_crypto::ports::{HsmError, HsmLogin};

use super::bench::{AUDIT, EPOCH, MASTER, TAG, is_unavailable};
use super::faulty::{Op, Stage};

/// Lost sessions and handles: new ones are taken, and nobody notices.
#[tokio::test]
async fn a_lost_session_or_handle_is_replaced_unnoticed() {
    for code in [
        "CKR_SESSION_HANDLE_INVALID",
        "CKR_SESSION_CLOSED",
        "CKR_OBJECT_HANDLE_INVALID",
        "CKR_KEY_HANDLE_INVALID",
    ] {
        let stage = Stage::new().await;
        let worker = stage.hsm.worker_pid();
        for op in Op::ALL {
            let fault = stage.inject(&format!("return on={} rv={code} times=1", op.function()));
            stage.call(op).await.unwrap_or_else(|error| panic!("{op:?} after {code}: {error}"));
            assert_eq!(stage.fired(&fault), 1, "{op:?} {code}");
        }
        assert_eq!(stage.hsm.worker_pid(), worker);
        stage.recovers().await;
    }
}

/// The key that was destroyed is not looked for among them.
#[tokio::test]
async fn a_stale_handle_is_replaced_after_a_key_was_destroyed() {
    let stage = Stage::new().await;
    let worker = stage.hsm.worker_pid();
    stage.hsm.destroy_key(TAG, EPOCH).await.unwrap();
    let fault = stage.inject("return on=C_Encrypt rv=CKR_KEY_HANDLE_INVALID times=1");
    stage.call(Op::Wrap).await.unwrap();
    assert_eq!(stage.fired(&fault), 1);
    assert_eq!(stage.hsm.worker_pid(), worker);
    stage.recovers().await;
}

#[tokio::test]
async fn a_key_that_was_destroyed_without_an_answer_keeps_no_later_child_from_coming_back() {
    let stage = Stage::new().await;
    // Two searches find what there is to destroy; the third makes sure.
    let fault = stage.inject("abort on=C_FindObjectsInit after=2 times=1");
    stage.hsm.destroy_key(TAG, EPOCH).await.unwrap();
    assert_eq!(stage.fired(&fault), 1);
    assert_eq!(stage.hsm.list_keys(TAG).await.unwrap(), [MASTER, AUDIT]);
    stage.recovers().await;
}

/// What ends a worker once: the next one answers the same call.
async fn passes_once(fault: &str) {
    for op in Op::ALL {
        let stage = Stage::new().await;
        let worker = stage.hsm.worker_pid();
        let fault =
            stage.inject(&format!("{} times=1", fault.replace("on=ON", &format!("on={}", op.function()))));
        stage.call(op).await.unwrap_or_else(|error| panic!("{op:?} after {fault:?}: {error}"));
        assert_eq!(stage.fired(&fault), 1, "{op:?}");
        assert_ne!(stage.hsm.worker_pid(), worker, "{op:?}");
        stage.place.assert_no_pin_tried_twice();
    }
}

/// What stays: an error that says to come back later, each time and in time, and service when it ends.
async fn stays_until_it_ends(fault: &str) {
    for op in [Op::Wrap, Op::Unwrap, Op::Sign, Op::Random, Op::Store] {
        let stage = Stage::new().await;
        let fault = stage.inject(&fault.replace("on=ON", &format!("on={}", op.function())));
        for _ in 0..3 {
            let outcome = stage.call(op).await;
            assert!(is_unavailable(&outcome), "{op:?}: {outcome:?}");
        }
        assert!(stage.fired(&fault) > 0, "{op:?}");
        stage.recovers().await;
    }
}

macro_rules! cases {
    ($check:ident: $($name:ident $fault:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $check($fault).await;
            }
        )*
    };
}

cases! { passes_once:
    a_crash_costs_nothing "abort on=ON";
    an_exit_costs_nothing "exit on=ON code=0";
    a_login_that_is_gone_costs_nothing "return on=ON rv=CKR_USER_NOT_LOGGED_IN";
    a_device_error_costs_nothing "return on=ON rv=CKR_DEVICE_ERROR";
    a_removed_device_costs_nothing "return on=ON rv=CKR_DEVICE_REMOVED";
    a_library_that_forgets_costs_nothing "return on=ON rv=CKR_CRYPTOKI_NOT_INITIALIZED";
}

cases! { stays_until_it_ends:
    a_token_that_is_pulled_out_is_unavailable_until_it_is_back "pulled";
    a_device_with_errors_is_unavailable_until_it_has_none "pulled rv=CKR_DEVICE_ERROR";
    a_token_that_is_absent_is_unavailable_until_it_is_there "return on=ON rv=CKR_TOKEN_NOT_PRESENT";
    sessions_that_are_always_lost_are_unavailable "return on=ON rv=CKR_SESSION_HANDLE_INVALID";
    handles_that_are_always_stale_are_unavailable "return on=ON rv=CKR_OBJECT_HANDLE_INVALID";
    a_login_that_never_lasts_is_unavailable "return on=ON rv=CKR_USER_NOT_LOGGED_IN";
    a_module_that_always_crashes_is_unavailable "abort on=ON";
}

/// GENERAL_ERROR may be a forged ciphertext's answer too: of the other calls it is the device's fault.
#[tokio::test]
async fn a_general_error_is_the_devices_fault() {
    for op in [Op::Wrap, Op::Sign, Op::Random, Op::Store] {
        let stage = Stage::new().await;
        let fault = stage.inject(&format!("return on={} rv=CKR_GENERAL_ERROR times=1", op.function()));
        stage.call(op).await.unwrap_or_else(|error| panic!("{op:?}: {error}"));
        assert_eq!(stage.fired(&fault), 1);
        stage.recovers().await;
    }
}

/// A device that fails once while it decrypts must not make a good ciphertext look forged.
#[tokio::test]
async fn one_general_error_does_not_make_a_good_ciphertext_look_forged() {
    for code in ["CKR_GENERAL_ERROR", "CKR_FUNCTION_FAILED"] {
        let stage = Stage::new().await;
        let fault = stage.inject(&format!("return on=C_Decrypt rv={code} times=1"));
        stage.call(Op::Unwrap).await.unwrap();
        assert_eq!(stage.fired(&fault), 1);
        stage.recovers().await;
        let stays = stage.inject(&format!("return on=C_Decrypt rv={code}"));
        let outcome = stage.call(Op::Unwrap).await;
        assert!(is_unavailable(&outcome), "{outcome:?}");
        assert!(stage.fired(&stays) > 1);
        stage.recovers().await;
    }
}

#[tokio::test]
async fn a_slow_call_within_the_deadline_is_waited_for() {
    let stage = Stage::with_deadline(Duration::from_secs(3)).await;
    let worker = stage.hsm.worker_pid();
    for op in [Op::Wrap, Op::Unwrap, Op::Sign] {
        let fault = stage.inject(&format!("delay on={} ms=300 times=2", op.function()));
        stage.call(op).await.unwrap();
        assert_eq!(stage.fired(&fault), 2, "the length is asked for first");
    }
    assert_eq!(stage.hsm.worker_pid(), worker);
    stage.recovers().await;
}

async fn ends_at_the_deadline(fault: &str, op: Op) {
    let stage = Stage::with_deadline(Duration::from_secs(1)).await;
    let worker = stage.hsm.worker_pid();
    let fault = stage.inject(&format!("{fault} on={}", op.function()));
    assert_eq!(stage.call(op).await, Err(HsmError::DeadlineExceeded { millis: 1000 }), "{op:?}");
    assert!(stage.fired(&fault) > 0);
    stage.recovers().await;
    assert_ne!(stage.hsm.worker_pid(), worker);
}

#[tokio::test]
async fn a_call_that_hangs_ends_at_the_deadline() {
    tokio::join!(
        ends_at_the_deadline("hang", Op::Wrap),
        ends_at_the_deadline("hang", Op::Unwrap),
        ends_at_the_deadline("hang", Op::Sign),
        ends_at_the_deadline("hang", Op::Random),
        ends_at_the_deadline("hang", Op::Store),
        ends_at_the_deadline("hang", Op::Load),
    );
}

#[tokio::test]
async fn a_call_that_is_too_slow_ends_at_the_deadline() {
    tokio::join!(
        ends_at_the_deadline("delay ms=1500 times=1", Op::Wrap),
        ends_at_the_deadline("delay ms=1500 times=1", Op::Sign),
    );
}

/// A module that hangs while a fresh worker starts: nobody waits for longer than a deadline for an answer.
#[tokio::test]
async fn a_start_that_hangs_keeps_nobody_waiting() {
    for function in ["C_Initialize", "C_GetSlotList", "C_OpenSession", "C_Login", "C_FindObjectsInit"] {
        let stage = Stage::with_deadline(Duration::from_secs(1)).await;
        let hang = stage.inject(&format!("hang on={function}"));
        stage.inject("abort on=C_Encrypt times=1");
        for _ in 0..2 {
            let outcome = stage.call(Op::Wrap).await;
            assert!(
                matches!(outcome, Err(HsmError::Unavailable { .. } | HsmError::DeadlineExceeded { .. })),
                "{function}: {outcome:?}"
            );
        }
        assert!(stage.fired(&hang) > 0, "{function}");
        stage.recovers().await;
    }
}
