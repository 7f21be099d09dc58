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

#[tokio::test]
async fn pins_that_were_sent_without_an_answer_are_not_sent_again() {
    let bench = Bench::new();
    let serial = HsmHandle::spawn(bench.config()).unwrap().probe().await.unwrap().serial;
    let (dir, real) = (bench.path().display().to_string(), worker().display().to_string());
    let fake = std::env::current_exe().unwrap().display().to_string();
    // The first child is real; the later ones die with the PIN that they were given.
    let script = format!(
        "if [ -e {dir}/starts ]; then exec {fake} --ignored --exact change_pin::silent_worker; fi; \
         echo start > {dir}/starts; exec {real}"
    );
    let mut env = bench.token.env();
    env.extend([("PINS".to_owned(), format!("{dir}/pins")), ("SERIAL".to_owned(), serial)]);
    let worker_args = vec!["-c".to_owned(), script];
    let deadline = Duration::from_secs(2);
    let config = HsmConfig { worker_exe: "/bin/sh".into(), worker_args, env, deadline, ..bench.config() };
    let hsm = bench.ready(config).await;
    kill(&hsm, Signal::STOP);
    assert_eq!(hsm.change_pin(bench.pin(), new_pin()).await, Err(HsmError::PinUncertain));
    until(&hsm, "given up", |status| *status == HsmStatus::Down { reason: HsmError::PinUncertain }).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sent = std::fs::read_to_string(bench.path().join("pins")).unwrap();
    assert_eq!(sent, format!("a-new-pin\n{}\n", bench.token.pin));
    assert_eq!(hsm.wrap(MASTER, b"aad", b"x").await.unwrap_err(), HsmError::PinUncertain);
}

/// No test: the program of the children above. It names the token, notes the PIN of the login, and is gone.
#[test]
#[ignore = "run as a child by the test above"]
fn silent_worker() {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    fn frame(socket: &mut impl Read) -> Vec<u8> {
        let mut length = [0; 4];
        socket.read_exact(&mut length).unwrap();
        let mut body = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        socket.read_exact(&mut body).unwrap();
        body
    }

    let stdin = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut socket = std::os::unix::net::UnixStream::from(stdin);
    let start = frame(&mut socket);
    // The id of the request, the kind of the answer, and three texts.
    let mut answer = [&start[..8], &[1]].concat();
    for text in [std::env::var("SERIAL").unwrap().as_str(), "keystead", "model"] {
        answer.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        answer.extend(text.as_bytes());
    }
    let length = u32::try_from(answer.len()).unwrap().to_be_bytes();
    socket.write_all(&[&length[..], &answer].concat()).unwrap();
    // Id, kind, the PIN's length, the PIN, and on whose word.
    let login = frame(&mut socket);
    let pins = std::env::var("PINS").unwrap();
    let mut pins = std::fs::OpenOptions::new().create(true).append(true).open(pins).unwrap();
    pins.write_all(&[&login[13..login.len() - 1], b"\n"].concat()).unwrap();
}
