//! `keystead secret get` as a script calls it: what comes on which stream, and what errors say to do.

use std::process::Output;

use keystead_client::SecretValue;
use keystead_tests::{Identity, TestVault};

use crate::put;

async fn run(vault: &TestVault, identity: &Identity, words: &[&str]) -> (String, String) {
    let mut command = vault.command(identity);
    command.current_dir(vault.dir()).args(words);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { stdout, stderr, .. } = ran.await.unwrap();
    (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_to_a_dash_comes_on_standard_output() {
    let vault = TestVault::start().await;
    let fields = SecretValue::fields([("user", "shop"), ("password", "hunter2")]);
    vault.operator().secrets().put("shop/db", fields).await.unwrap();
    put(&vault.operator(), "shop/key", "bytes").await;
    let get = async |words: &[&str]| run(&vault, vault.admin(), &[&["secret", "get"], words].concat()).await;
    assert_eq!(get(&["shop/key", "--out-file", "-"]).await, ("bytes".to_owned(), String::new()));
    assert_eq!(get(&["shop/db", "--field", "user", "--out-file", "-"]).await.0, "shop");
    assert!(!vault.dir().join("-").exists());
    let (nothing, said) = get(&["shop/db", "--out-file", "-"]).await;
    assert_eq!(nothing, "");
    assert!(said.contains("as in --field user"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_knows_is_told_where_to_look() {
    let vault = TestVault::start().await;
    let unknown = vault.pki().client("spiffe://keystead.test/nobody");
    let (_, said) = run(&vault, &unknown, &["secret", "get", "shop/db"]).await;
    assert!(said.contains("UNAUTHENTICATED") && said.contains("keystead principal list"), "{said}");
}
