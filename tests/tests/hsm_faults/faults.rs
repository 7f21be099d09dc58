//! The faults, one after the other.

use std::time::Duration;

use keystead_tests::canary::Canaries;
use keystead_tests::{ServerProcess, children_of, until};

use crate::load::{CANARY, Load, prepare};

// Few in a vault: the pause before a worker starts anew grows with each that ends soon after the last.

const PULLED: &[&str] = &["pulled", "pulled rv=CKR_DEVICE_ERROR"];

const LOST: &[&str] = &[
    "return on=C_EncryptInit,C_DecryptInit rv=CKR_SESSION_HANDLE_INVALID times=40",
    "return on=C_Encrypt,C_Decrypt rv=CKR_SESSION_CLOSED times=4",
    "return on=C_EncryptInit,C_DecryptInit rv=CKR_OBJECT_HANDLE_INVALID times=4",
    "return on=C_EncryptInit,C_DecryptInit rv=CKR_KEY_HANDLE_INVALID times=40",
    "return on=C_EncryptInit,C_DecryptInit rv=CKR_USER_NOT_LOGGED_IN times=3",
];

const ENDED: &[&str] = &[
    "abort on=C_Encrypt times=1",
    "exit on=C_Decrypt times=1",
    "hang on=C_Encrypt times=1",
    "hang on=C_Login times=1",
];

const TROUBLED: &[&str] = &[
    "delay on=C_Encrypt,C_Decrypt ms=100 times=30",
    "return on=C_Decrypt rv=CKR_GENERAL_ERROR times=1",
    "return on=C_Decrypt rv=CKR_GENERAL_ERROR times=5",
    "return on=C_Encrypt rv=CKR_GENERAL_ERROR times=3",
];

/// Lies: callers may be told that an answer was refused, too.
const LIES: &[&str] = &[
    "corrupt on=C_Encrypt times=20",
    "corrupt on=C_Decrypt at=3 times=20",
    "swap on=C_Encrypt times=20",
    "swap on=C_Decrypt times=20",
    "former on=C_Encrypt times=20",
    "former on=C_Decrypt times=20",
    "other-key on=C_EncryptInit times=20",
    "other-key on=C_DecryptInit times=20",
    "short on=C_Encrypt times=20",
    "long on=C_Decrypt times=20",
    "overlong on=C_Encrypt,C_Decrypt by=4096 times=20",
    "empty on=C_Decrypt times=20",
    "constant on=C_Decrypt byte=0 times=20",
];

async fn start(cold: usize) -> (ServerProcess, Load, Canaries) {
    let settings = [("hsm.deadline_ms", "1000"), ("log.level", "debug"), ("audit.durability", "os")];
    let mut server = ServerProcess::start_behind_shim(&settings).await;
    server.init().await;
    server.unseal().await;
    let mut canaries = Canaries::new();
    canaries.plant("PIN", &server.token().pin);
    canaries.plant("value", CANARY);
    for share in server.shares() {
        canaries.plant("share", share);
    }
    let known = prepare(&mut server, cold).await;
    let load = Load::start(&server, known);
    load.serves(5, 5).await;
    (server, load, canaries)
}

/// Switches a fault on, lets it happen, ends it, and waits for service.
async fn live_through(server: &ServerProcess, load: &Load, fault: &str, allowed: &[&str]) {
    let shim = server.shim();
    load.refusals();
    // What happens only when a worker starts needs one that ends.
    let crash = fault.contains("C_Login").then(|| shim.inject("abort on=C_Encrypt times=1").unwrap());
    let on = shim.inject(fault).unwrap();
    until(fault, || async { (shim.fired(&on).unwrap() > 0).then_some(()) }).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    shim.end(&on).unwrap();
    if let Some(crash) = crash {
        shim.end(&crash).unwrap();
    }
    load.serves(3, 3).await;
    for (reason, times) in load.refusals() {
        assert!(allowed.contains(&reason.as_str()), "{fault}: {times} times {reason}");
    }
}

/// Nothing secret was said, no PIN was tried again, and all that was acknowledged is there for a server that starts new.
async fn settle(mut server: ServerProcess, load: Load, canaries: &Canaries) {
    let known = load.end().await;
    canaries.absent_from("what callers were told", &known.said);
    server.terminate().await;
    server.start_again().await;
    server.unseal().await;
    known.compare_all(&server).await;
    canaries.absent_from("the log", server.stderr());
    no_pin_tried_twice(&server);
}

fn no_pin_tried_twice(server: &ServerProcess) {
    let logins = server.shim().logins().unwrap();
    for (at, login) in logins.iter().enumerate() {
        // CKR_PIN_INCORRECT and CKR_PIN_LOCKED.
        if login.answer.as_deref().is_some_and(|answer| ["0xa0", "0xa4"].contains(&answer)) {
            let again = logins.iter().skip(at + 1).any(|later| later.pin == login.pin);
            assert!(!again, "a refused PIN was sent again: {logins:?}");
        }
    }
}

/// What is no lie: callers are told to come back, and nothing else.
async fn survives(faults: &[&str]) {
    let (server, load, canaries) = start(600).await;
    for fault in faults {
        live_through(&server, &load, fault, &["HSM_UNAVAILABLE"]).await;
    }
    settle(server, load, &canaries).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_under_load_survives_a_token_that_is_pulled_out() {
    survives(PULLED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_under_load_survives_lost_sessions_and_handles() {
    survives(LOST).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_under_load_survives_a_module_that_crashes_or_hangs() {
    survives(ENDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_under_load_survives_a_device_in_trouble() {
    survives(TROUBLED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_under_load_believes_no_hsm_that_lies() {
    let (server, load, canaries) = start(900).await;
    for fault in LIES {
        let allowed = ["HSM_UNAVAILABLE", "HSM_ANSWER_REFUSED", "RECORD_CORRUPT"];
        live_through(&server, &load, fault, &allowed).await;
    }
    settle(server, load, &canaries).await;
}

/// A PIN that is refused while a worker comes back: one attempt, an error that says so, and the vault is not lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_under_load_sends_a_refused_pin_once() {
    let (mut server, load, canaries) = start(300).await;
    let refused = server.shim().inject("return on=C_Login rv=CKR_PIN_INCORRECT").unwrap();
    server.shim().inject("abort on=C_Encrypt times=1").unwrap();
    until("the PIN is refused", || async {
        load.known.lock().unwrap().refused.contains_key("HSM_PIN_REFUSED").then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.shim().fired(&refused).unwrap(), 1);
    assert_eq!(children_of(server.id()).unwrap(), Vec::<u32>::new(), "no worker waits for a PIN");
    no_pin_tried_twice(&server);
    let known = load.end().await;
    server.shim().heal().unwrap();
    // People look after the token, and start the server anew.
    server.terminate().await;
    server.start_again().await;
    server.unseal().await;
    known.compare_all(&server).await;
    canaries.absent_from("what callers were told", &known.said);
    canaries.absent_from("the log", server.stderr());
}
