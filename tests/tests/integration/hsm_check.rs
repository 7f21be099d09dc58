//! `keystead-server hsm check`, and vaults on tokens that lack the usual mechanisms.

use std::io::Write;
use std::process::{Command, Stdio};

use keystead_tests::canary::Canaries;
use keystead_tests::{TestVault, programs};
use serde_json::Value;

use crate::{get, put};

struct Checked {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Checked {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// Runs the check with this on its standard input.
fn check(vault: &TestVault, arguments: &[&str], stdin: &str) -> Checked {
    let mut child = Command::new(programs::server())
        .args(["hsm", "check", "--config"])
        .arg(vault.config_file())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that reads no PIN may have gone.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Checked {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test]
async fn a_vault_of_a_token_without_gcm_and_eddsa_works_and_its_keys_are_sound() {
    let mut vault = TestVault::builder().uninitialized().start().await;
    vault.token().take_mechanisms(&["CKM_AES_GCM", "CKM_EDDSA"]).unwrap();
    let made = vault.local().system().initialize(vault.init_request()).await.unwrap();
    vault.keep_shares(&made);
    vault.unseal().await;
    put(&vault.operator(), "a", "kept").await;
    vault.restart().await;
    vault.unseal().await;
    assert_eq!(get(&vault.operator(), "a").await, "kept");

    let pin = vault.token().pin.clone();
    let checked = check(&vault, &["--output", "json"], &pin);
    assert_eq!(checked.code, Some(0), "{}{}", checked.stdout, checked.stderr);
    let report = checked.json();
    assert_eq!(report["usable"], true);
    assert_eq!((&report["mechanism"], &report["signature"]), (&"aes-cbc-hmac".into(), &"ECDSA P-256".into()));
    let keys = report["keys"].as_array().unwrap();
    let word = |key: &Value| key["label"].as_str().unwrap().split('/').nth(2).unwrap().to_owned();
    assert_eq!(keys.iter().map(word).collect::<Vec<_>>(), ["master", "epoch", "audit"]);
    assert!(keys.iter().all(|key| key["test"]["state"] == "passed"), "{keys:?}");
    assert_eq!(get(&vault.operator(), "a").await, "kept", "a check disturbs no vault");

    let mut canaries = Canaries::new();
    canaries.plant("PIN", &pin);
    canaries.absent_from("standard output", checked.stdout);
    canaries.absent_from("standard error", checked.stderr);
}

#[tokio::test]
async fn a_refused_pin_is_a_problem_that_a_program_does_not_repeat() {
    let vault = TestVault::builder().uninitialized().start().await;
    let pin_file = vault.dir().join("pin");
    std::fs::write(&pin_file, "canary-pin-31415\n").unwrap();
    let pin_file = pin_file.to_str().unwrap();
    let refused = check(&vault, &["--pin-file", pin_file], "");
    assert_eq!(refused.code, Some(1));
    assert!(refused.stdout.contains("problem: the token refused the PIN"), "{}", refused.stdout);
    assert!(refused.stdout.ends_with("not usable\n"), "{}", refused.stdout);
    let held_back = check(&vault, &["--pin-file", pin_file, "--output", "json"], "");
    assert_eq!((held_back.code, &held_back.json()["usable"]), (Some(1), &false.into()));
    assert!(held_back.stdout.contains("counts wrong PINs"), "{}", held_back.stdout);
    for checked in [refused, held_back] {
        assert!(!format!("{}{}", checked.stdout, checked.stderr).contains("canary-pin"));
    }
}

#[tokio::test]
async fn a_check_without_a_pin_says_what_it_did_not_see() {
    let vault = TestVault::builder().uninitialized().start().await;
    let unseen = check(&vault, &["--no-login", "--output", "json"], "");
    assert_eq!(unseen.code, Some(0), "{}", unseen.stderr);
    let report = unseen.json();
    assert!(report["not_looked_at"].as_str().unwrap().contains("not logged in"));
    assert_eq!((&report["logged_in"], &report["times"]), (&false.into(), &Value::Null));
    let empty = check(&vault, &[], "");
    assert_eq!(empty.code, Some(1));
    assert!(empty.stderr.contains("--pin-file") && empty.stderr.contains("--no-login"), "{}", empty.stderr);
    std::fs::rename(&vault.token().tokens, vault.dir().join("aside")).unwrap();
    let absent = check(&vault, &["--no-login"], "");
    assert_eq!(absent.code, Some(1));
    assert!(
        absent.stderr.contains("no token was reached") && absent.stderr.contains("hsm.env"),
        "{}",
        absent.stderr
    );
}
