//! Logging in: a PIN that was refused is never sent again, by anybody's call.

use keystead_crypto::ports::{Anchor, Entropy, KeyWrapper, Signer};

use super::*;

fn wrong() -> SecretBytes {
    SecretBytes::copy_from(b"not-the-pin")
}

#[tokio::test]
async fn the_token_says_who_it_is() {
    let bench = Bench::new();
    let hsm = HsmHandle::spawn(bench.config()).unwrap();
    let probed = hsm.probe().await.unwrap();
    assert_eq!(probed.label, "keystead");
    assert_eq!(probed.serial.len(), 16);
    assert!(probed.model.contains("SoftHSM"));
    assert_eq!(hsm.status(), HsmStatus::LoggedOut);
    assert_eq!(hsm.login(bench.pin()).await.unwrap(), probed);
    assert_eq!(hsm.status(), HsmStatus::Ready { token: probed.clone() });
    assert_eq!(hsm.login(bench.pin()).await.unwrap(), probed, "a second login with the same PIN is success");
}

#[tokio::test]
async fn nothing_works_before_login_and_after_logout() {
    let bench = Bench::new();
    let hsm = HsmHandle::spawn(bench.config()).unwrap();
    assert_eq!(hsm.random(8).await.unwrap_err(), HsmError::NotLoggedIn);
    assert_eq!(hsm.bind(TAG, &ALL).await, Err(HsmError::NotLoggedIn));
    hsm.login(bench.pin()).await.unwrap();
    assert!(matches!(hsm.load().await, Err(HsmError::Misconfigured { .. })), "bound to no vault yet");
    let pid = hsm.worker_pid().unwrap();
    hsm.logout().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(hsm.status(), HsmStatus::LoggedOut);
    assert_eq!(hsm.wrap(MASTER, b"", b"").await.unwrap_err(), HsmError::NotLoggedIn);
    assert_eq!(hsm.sign(b"").await.unwrap_err(), HsmError::NotLoggedIn);
    hsm.logout().await;
}

#[tokio::test]
async fn a_refused_pin_is_never_sent_again() {
    let bench = Bench::new();
    let hsm = HsmHandle::spawn(bench.counted()).unwrap();
    assert_eq!(hsm.login(wrong()).await, Err(HsmError::PinRefused));
    assert_eq!(bench.starts(), 1);
    for _ in 0..5 {
        assert_eq!(hsm.login(wrong()).await, Err(HsmError::PinRefused));
        assert_eq!(hsm.random(8).await.unwrap_err(), HsmError::NotLoggedIn);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.starts(), 1, "no child, no PIN sent");
    hsm.login(bench.pin()).await.unwrap();
    assert_eq!(bench.starts(), 2);
}

#[tokio::test]
async fn a_wrong_pin_does_not_end_a_login_that_stands() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    let pid = hsm.worker_pid();
    assert_eq!(hsm.login(wrong()).await, Err(HsmError::PinRefused));
    hsm.wrap(MASTER, b"", b"x").await.unwrap();
    assert_eq!(hsm.worker_pid(), pid);
}

#[tokio::test]
async fn a_pin_changed_on_the_token_is_tried_once_and_never_again() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.counted()).await;
    assert_eq!(bench.starts(), 1);
    bench.pkcs11_tool(&["--change-pin", "--new-pin", "another-pin"]);
    kill(&hsm, rustix::process::Signal::KILL);
    until(&hsm, "refused", |status| *status == HsmStatus::Down { reason: HsmError::PinRefused }).await;
    let starts = bench.starts();
    assert_eq!(starts, 2);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(hsm.wrap(MASTER, b"", b"x").await.unwrap_err(), HsmError::PinRefused);
    assert_eq!(hsm.login(bench.pin()).await, Err(HsmError::PinRefused));
    assert_eq!(bench.starts(), starts);
    hsm.login(SecretBytes::copy_from(b"another-pin")).await.unwrap();
    hsm.bind(TAG, &ALL).await.unwrap();
    hsm.wrap(MASTER, b"", b"x").await.unwrap();
}

#[tokio::test]
async fn no_error_shows_a_pin() {
    let bench = Bench::new();
    let hsm = HsmHandle::spawn(bench.config()).unwrap();
    let canary = "canary-pin-31415";
    let error = hsm.login(SecretBytes::copy_from(canary.as_bytes())).await.unwrap_err();
    assert!(!format!("{error} {error:?} {:?}", hsm.status()).contains(canary));
}
