//! The token: a wrong PIN, and one that goes away and comes back.

use keystead_client::{InitRequest, SecretValue, v1};
use keystead_tests::{TestVault, until};
use rustix::process::{Pid, Signal, kill_process};

use crate::{get, put, reason};

#[tokio::test]
async fn a_refused_pin_is_never_tried_again_by_program() {
    let vault = TestVault::builder().uninitialized().start().await;
    let wrong = || InitRequest { hsm_pin: "not-the-pin".into(), ..vault.init_request() };
    let system = vault.local().system();
    assert_eq!(reason(system.initialize(wrong()).await), "HSM_PIN_REFUSED");
    // Without its token an attempt that reached for it would say that the token is away.
    let (tokens, aside) = (vault.token().tokens.clone(), vault.dir().join("aside"));
    std::fs::rename(&tokens, &aside).unwrap();
    kill_hsm(&vault);
    for _ in 0..3 {
        assert_eq!(reason(system.initialize(wrong()).await), "HSM_PIN_REFUSED");
    }
    std::fs::rename(&aside, &tokens).unwrap();
    assert_eq!(system.status().await.unwrap().state(), v1::SealState::Uninitialized);
    until("the right PIN works", || async {
        let made = system.initialize(vault.init_request()).await;
        match &made {
            Ok(made) => vault.keep_shares(made),
            Err(error) => assert_eq!(error.reason(), "HSM_UNAVAILABLE", "{error}"),
        }
        made.ok()
    })
    .await;
    vault.unseal().await;
}

fn kill_hsm(vault: &TestVault) {
    for id in vault.hsm_processes() {
        let id = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        // One that ended by itself is as good.
        let _ = kill_process(id, Signal::KILL);
    }
}

#[tokio::test]
async fn a_token_that_vanishes_and_returns_loses_nothing() {
    let mut vault = TestVault::start().await;
    let operator = vault.operator();
    put(&operator, "a", "kept").await;
    let (tokens, aside) = (vault.token().tokens.clone(), vault.dir().join("aside"));
    std::fs::rename(&tokens, &aside).unwrap();
    kill_hsm(&vault);
    let write = async || operator.secrets().put("b", SecretValue::data("x")).await;
    let refused = until("writes are refused", || async { write().await.err() }).await;
    assert_eq!(refused.reason(), "HSM_UNAVAILABLE", "{refused}");
    assert_eq!(get(&operator, "a").await, "kept", "what is at hand stays readable");
    std::fs::rename(&aside, &tokens).unwrap();
    until("writes work again", || async { write().await.ok() }).await;
    assert!(vault.vault().is_unsealed());
    vault.restart().await;
    vault.unseal().await;
    assert_eq!(get(&vault.operator(), "b").await, "x");
    vault.stop().await;
}

#[tokio::test]
async fn a_dead_hsm_process_is_started_again() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    put(&operator, "a", "one").await;
    for _ in 0..2 {
        assert_eq!(vault.hsm_processes().len(), 1);
        kill_hsm(&vault);
        until("writes work again", || async {
            operator.secrets().put("a", SecretValue::data("two")).await.ok()
        })
        .await;
    }
    assert_eq!(get(&operator, "a").await, "two");
}
