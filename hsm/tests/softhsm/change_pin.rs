//! Changing the PIN: the handle uses the new one from then on, and no PIN is sent twice when a change is cut off.

use keystead_crypto::ports::KeyWrapper;
use rustix::process::Signal;

use super::*;

fn new_pin() -> SecretBytes {
    SecretBytes::copy_from(b"a-new-pin")
}

fn short_deadline(bench: &Bench) -> HsmConfig {
    HsmConfig { deadline: Duration::from_secs(2), ..bench.counted() }
}

/// Kills the child and waits for the next one, which has logged in.
async fn replaced(hsm: &HsmHandle) {
    let killed = kill(hsm, Signal::KILL);
    let next = |status: &HsmStatus| matches!(status, HsmStatus::Ready { .. });
    until(hsm, "back", |status| next(status) && hsm.worker_pid().is_some_and(|pid| pid != killed)).await;
    hsm.wrap(MASTER, b"aad", b"x").await.unwrap();
}

#[tokio::test]
async fn a_child_that_dies_after_a_change_logs_in_with_the_new_pin() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.counted()).await;
    hsm.change_pin(bench.pin(), new_pin()).await.unwrap();
    assert_eq!(bench.starts(), 1, "the child that changed it goes on");
    kill(&hsm, Signal::KILL);
    hsm.wrap(MASTER, b"aad", b"x").await.unwrap();
    assert_eq!(hsm.login(bench.pin()).await, Err(HsmError::PinRefused), "the old one is not even sent");
    assert_eq!(bench.starts(), 2);
    hsm.change_pin(new_pin(), bench.pin()).await.unwrap();
    hsm.login(bench.pin()).await.unwrap();
    let other = HsmHandle::spawn(bench.config()).unwrap();
    assert_eq!(other.login(new_pin()).await, Err(HsmError::PinRefused));
    other.login(bench.pin()).await.unwrap();
}

#[tokio::test]
async fn a_refused_current_pin_changes_nothing_and_is_never_sent_again() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.counted()).await;
    let wrong = || SecretBytes::copy_from(b"not-the-pin");
    assert_eq!(hsm.change_pin(wrong(), new_pin()).await, Err(HsmError::PinRefused));
    let pid = kill(&hsm, Signal::STOP);
    // A stopped child answers nothing: these refusals are not the token's.
    assert_eq!(hsm.change_pin(wrong(), new_pin()).await, Err(HsmError::PinRefused));
    assert_eq!(hsm.login(wrong()).await, Err(HsmError::PinRefused));
    assert_eq!(kill(&hsm, Signal::CONT), pid);
    hsm.wrap(MASTER, b"aad", b"x").await.unwrap();
    hsm.change_pin(bench.pin(), new_pin()).await.unwrap();
}

#[tokio::test]
async fn a_new_pin_that_the_token_cannot_take_is_refused_before_any_is_sent() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    for length in [0, 3, 256] {
        let new = SecretBytes::new(vec![b'7'; length]);
        // The current one is wrong: had it been sent, it would be refused.
        let refused = hsm.change_pin(SecretBytes::copy_from(b"not-the-pin"), new).await;
        let Err(HsmError::Misconfigured { what }) = &refused else { panic!("{refused:?}") };
        assert_eq!(*what, format!("a new PIN of {length} bytes; the token takes 4 to 255"));
    }
    let binary = hsm.change_pin(bench.pin(), SecretBytes::new(vec![0xff; 8])).await;
    assert!(matches!(binary, Err(HsmError::Misconfigured { .. })), "{binary:?}");
    let logged_out = HsmHandle::spawn(bench.config()).unwrap().change_pin(bench.pin(), new_pin()).await;
    assert_eq!(logged_out, Err(HsmError::NotLoggedIn));
    let other = HsmHandle::spawn(bench.config()).unwrap();
    other.login(bench.pin()).await.unwrap();
}

#[tokio::test]
async fn a_change_cut_off_before_the_token_did_it_leaves_the_old_pin() {
    let bench = Bench::new();
    let hsm = bench.ready(short_deadline(&bench)).await;
    kill(&hsm, Signal::STOP);
    let outcome = hsm.change_pin(bench.pin(), new_pin()).await;
    assert_eq!(outcome, Err(HsmError::DeadlineExceeded { millis: 2000 }));
    hsm.wrap(MASTER, b"aad", b"x").await.unwrap();
    assert_eq!(bench.starts(), 2);
    assert_eq!(hsm.login(new_pin()).await, Err(HsmError::PinRefused), "sent once, and not again");
    assert_eq!(bench.starts(), 2);
    replaced(&hsm).await;
}

#[tokio::test]
async fn a_change_cut_off_after_the_token_did_it_is_success() {
    let bench = Bench::new();
    let hsm = bench.ready(short_deadline(&bench)).await;
    kill(&hsm, Signal::STOP);
    let changing = tokio::spawn({
        let (hsm, pin) = (hsm.clone(), bench.pin());
        async move { hsm.change_pin(pin, new_pin()).await }
    });
    bench.pkcs11_tool(&["--change-pin", "--new-pin", "a-new-pin"]);
    assert_eq!(changing.await.unwrap(), Ok(()));
    hsm.wrap(MASTER, b"aad", b"x").await.unwrap();
    assert_eq!(hsm.login(bench.pin()).await, Err(HsmError::PinRefused));
    replaced(&hsm).await;
}

#[tokio::test]
async fn a_cut_off_change_after_which_neither_pin_is_taken_waits_for_a_person() {
    let bench = Bench::new();
    let hsm = bench.ready(short_deadline(&bench)).await;
    kill(&hsm, Signal::STOP);
    let changing = tokio::spawn({
        let (hsm, pin) = (hsm.clone(), bench.pin());
        async move { hsm.change_pin(pin, new_pin()).await }
    });
    bench.pkcs11_tool(&["--change-pin", "--new-pin", "a-third-pin"]);
    assert_eq!(changing.await.unwrap(), Err(HsmError::PinUncertain));
    assert_eq!(hsm.status(), HsmStatus::Down { reason: HsmError::PinUncertain });
    tokio::time::sleep(Duration::from_millis(500)).await;
    for pin in [bench.pin(), new_pin()] {
        assert_eq!(hsm.login(pin).await, Err(HsmError::PinRefused));
    }
    assert_eq!(bench.starts(), 2, "each was sent once, by one child");
    hsm.login(SecretBytes::copy_from(b"a-third-pin")).await.unwrap();
}

#[tokio::test]
async fn a_cut_off_change_of_a_token_that_vanished_is_settled_when_it_is_back() {
    let bench = Bench::new();
    let hsm = bench.ready(short_deadline(&bench)).await;
    kill(&hsm, Signal::STOP);
    let away = bench.path().join("away");
    std::fs::rename(&bench.token.tokens, &away).unwrap();
    assert_eq!(hsm.change_pin(bench.pin(), new_pin()).await, Err(HsmError::PinUncertain));
    std::fs::rename(&away, &bench.token.tokens).unwrap();
    until(&hsm, "back", |status| matches!(status, HsmStatus::Ready { .. })).await;
    hsm.wrap(MASTER, b"aad", b"x").await.unwrap();
    hsm.login(bench.pin()).await.unwrap();
}
