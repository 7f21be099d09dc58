//! `keystead-server seal-record restore`: a backup from before a rekey opens with the shares and the seal record of now.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use keystead_client::v1;
use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_tests::{TestVault, programs};
use serde_json::Value;

use super::{approve, by_quorum, unseal_with};
use crate::{get, put};

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn restore(vault: &TestVault, file: &Path, more: &[&str]) -> Output {
    Command::new(programs::server())
        .args(["seal-record", "restore"])
        .arg(file)
        .arg("--config")
        .arg(vault.config_file())
        .args(more)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn refused(output: Output) -> String {
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// New shares and the seal record of now.
async fn rekey(vault: &TestVault) -> (Vec<String>, Vec<u8>) {
    let rekey = v1::Rekey { shares: 4, threshold: 3, ..Default::default() };
    let handed = by_quorum(vault, Purpose::Rekey(rekey)).await;
    let text = |share: &keystead_client::InitialShare| share.text.expose_str().unwrap().to_owned();
    let new: Vec<String> = handed.shares.iter().map(text).collect();
    let done = approve(&vault.local(), &handed.ceremony.unwrap().ceremony_id, &new[..3]).await;
    (new, done.seal_record.unwrap())
}

#[tokio::test]
async fn a_backup_from_before_a_rekey_opens_with_the_new_shares_and_the_exported_record() {
    // Without an anchor, so that the token does not remember the newer log.
    let mut vault = TestVault::builder().config(|config| config.audit.anchor_interval = None).start().await;
    put(&vault.operator(), "a", "in the backup").await;
    let first = vault.operator().system().export_seal_record().await.unwrap().seal_record;
    vault.stop().await;
    let (backup, file, former) =
        (vault.dir().join("backup"), vault.dir().join("epoch-2.ksseal"), vault.dir().join("epoch-1.ksseal"));
    copy(&vault.data_dir(), &backup);
    vault.start_again().await.unwrap();
    unseal_with(&vault, &vault.shares()[..2]).await;
    let (new, record) = rekey(&vault).await;
    std::fs::write(&file, record).unwrap();
    std::fs::write(&former, first).unwrap();
    let running = refused(restore(&vault, &file, &["--yes"]));
    assert!(running.contains("is its server stopped?"), "{running}");
    vault.stop().await;

    let older = refused(restore(&vault, &former, &["--yes"]));
    assert!(older.contains("share epoch 1 of the file is before 2") && older.contains("[SEAL_RECORD_OLDER]"));
    copy(&backup, &vault.data_dir());
    let nobody = restore(&vault, &file, &[]);
    let printed = String::from_utf8(nobody.stdout.clone()).unwrap();
    assert!(printed.contains("share epoch") && printed.contains("2 of 3") && printed.contains("3 of 4"));
    let said = refused(nobody);
    assert!(said.contains("nobody to ask") && said.contains("--yes"), "{said}");

    let done = restore(&vault, &file, &["--yes", "--output", "json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let printed: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(printed["restored"], true);
    let changed: Vec<_> = printed["changes"].as_array().unwrap().iter().map(|one| &one["what"]).collect();
    assert_eq!(changed, ["share epoch", "shares needed"]);
    let again = restore(&vault, &file, &[]);
    assert!(again.status.success());
    let printed = String::from_utf8(again.stdout).unwrap();
    assert!(printed.contains("has this seal record already"), "{printed}");

    vault.start_again().await.unwrap();
    assert_eq!(vault.local().system().status().await.unwrap().epoch, 2);
    unseal_with(&vault, &new[1..]).await;
    assert_eq!(get(&vault.operator(), "a").await, "in the backup");
    put(&vault.operator(), "b", "after").await;
    let entries = vault.audit().await;
    let recorded: Vec<_> = entries
        .iter()
        .filter(|entry| entry.action == "system:restore-seal-record")
        .map(|entry| (entry.outcome.as_str(), entry.detail["epoch"].as_str()))
        .collect();
    assert_eq!(recorded, [("", "2"), ("ok", "2")]);
}
