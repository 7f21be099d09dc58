//! Configurations that do not fit get an error that says what, and a child gets nothing it does not need.

use keystead_crypto::ports::KeyWrapper;
use sha2::{Digest, Sha256};

use super::*;

async fn probed(config: HsmConfig) -> String {
    let hsm = HsmHandle::spawn(config).unwrap();
    match hsm.probe().await.unwrap_err() {
        HsmError::Misconfigured { what } => what,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_missing_module_is_named() {
    let bench = Bench::new();
    let config = HsmConfig { module: "/nonexistent/module.so".into(), ..bench.config() };
    assert!(probed(config.clone()).await.contains("/nonexistent/module.so"));
    let login = HsmHandle::spawn(config).unwrap().login(bench.pin()).await;
    assert!(matches!(login, Err(HsmError::Misconfigured { .. })));
}

#[tokio::test]
async fn a_module_that_is_none_is_named() {
    let bench = Bench::new();
    let text = HsmConfig { module: bench.token.conf.clone(), ..bench.config() };
    assert!(probed(text).await.contains("cannot be loaded"));
}

#[tokio::test]
async fn only_the_pinned_module_is_loaded() {
    let bench = Bench::new();
    let hash: [u8; 32] = Sha256::digest(std::fs::read(&bench.token.module).unwrap()).into();
    let right = HsmConfig { module_sha256: Some(hash), ..bench.config() };
    HsmHandle::spawn(right).unwrap().probe().await.unwrap();
    let wrong = HsmConfig { module_sha256: Some([7; 32]), ..bench.config() };
    assert!(probed(wrong).await.contains("SHA-256"));
}

#[tokio::test]
async fn a_missing_worker_is_named() {
    let bench = Bench::new();
    let config = HsmConfig { worker_exe: "/nonexistent/worker".into(), ..bench.config() };
    assert!(probed(config).await.contains("/nonexistent/worker"));
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_unavailable() {
    let bench = Bench::new();
    for script in ["exit 0", "echo nonsense >&0; exec sleep 60"] {
        let worker_args = vec!["-c".to_owned(), script.to_owned()];
        let config = HsmConfig { worker_exe: "/bin/sh".into(), worker_args, ..bench.config() };
        let outcome = HsmHandle::spawn(config).unwrap().probe().await;
        assert!(is_unavailable(&outcome), "{script}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_token_is_found_by_label_and_serial() {
    let bench = Bench::new();
    let absent = HsmConfig { token_label: "another".into(), ..bench.config() };
    assert!(is_unavailable(&HsmHandle::spawn(absent).unwrap().probe().await));

    let serial = HsmHandle::spawn(bench.config()).unwrap().probe().await.unwrap().serial;
    bench.token.init("keystead").unwrap();
    let twice = HsmHandle::spawn(bench.config()).unwrap().probe().await;
    assert!(matches!(twice, Err(HsmError::NotUnique { found: 2, .. })), "{twice:?}");
    let exact = HsmConfig { token_serial: Some(serial.clone()), ..bench.config() };
    let hsm = HsmHandle::spawn(exact).unwrap();
    assert_eq!(hsm.login(bench.pin()).await.unwrap().serial, serial);
}

#[tokio::test]
async fn a_child_has_its_own_environment_and_no_privileges_to_gain() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.counted()).await;
    let env = std::fs::read_to_string(bench.path().join("env")).unwrap();
    assert!(env.contains("SOFTHSM2_CONF=") && !env.contains("CARGO"), "{env}");
    let proc = format!("/proc/{}", hsm.worker_pid().unwrap());
    let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let limits = std::fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    hsm.wrap(MASTER, b"", b"x").await.unwrap();
}
