//! A clone of the token by its vendor's means: the same keys and another serial.

use std::path::{Path, PathBuf};
use std::process::Command;

use keystead_crypto::ports::HsmLogin;
use keystead_hsm::testing::SoftToken;
use keystead_tests::{TestVault, until};

use super::unseal_with;
use crate::{get, put};

/// Every file below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Makes `copy` hold what the vault's token holds. SoftHSM keeps the serial in a file; a vendor's clone has its own.
fn clone(vault: &TestVault, copy: &SoftToken, serial: &str) -> String {
    let own = serial.bytes().rev().collect::<Vec<u8>>();
    assert_ne!(own, serial.as_bytes());
    std::fs::remove_dir_all(&copy.tokens).unwrap();
    let copied = Command::new("cp").arg("-a").arg(&vault.token().tokens).arg(&copy.tokens).status();
    assert!(copied.unwrap().success());
    let mut changed = 0;
    for file in files(&copy.tokens) {
        let mut bytes = std::fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(serial.len()).position(|window| window == serial.as_bytes()) {
            bytes[at..at + serial.len()].copy_from_slice(&own);
            std::fs::write(&file, bytes).unwrap();
            changed += 1;
        }
    }
    assert_eq!(changed, 1, "one file has the serial");
    String::from_utf8(own).unwrap()
}

#[tokio::test]
async fn data_opens_through_a_clone_by_the_serial_of_its_original() {
    let dir = tempfile::tempdir().unwrap();
    let copy = SoftToken::create(dir.path()).unwrap();
    let (env, original) = (copy.env(), std::sync::Arc::new(std::sync::Mutex::new(String::new())));
    let named = std::sync::Arc::clone(&original);
    let mut vault = TestVault::builder()
        .config(move |config| {
            let serial = named.lock().unwrap().clone();
            if !serial.is_empty() {
                let mut further = config.hsm.clone();
                further.env.clone_from(&env);
                further.clone_of = Some(serial);
                config.further = vec![further];
            }
        })
        .start()
        .await;
    put(&vault.operator(), "a", "of the original").await;
    vault.stop().await;
    let hsm = vault.hsm();
    let serial = hsm.probe().await.unwrap().serial;
    hsm.logout().await;
    let own = clone(&vault, &copy, &serial);
    let cloned = vault.hsm_of(&SoftToken { pin: vault.token().pin.clone(), ..copy.clone() });
    assert_eq!(cloned.probe().await.unwrap().serial, own);
    cloned.logout().await;
    original.lock().unwrap().clone_from(&serial);

    // The original is away, from the first share on.
    let (tokens, aside) = (vault.token().tokens.clone(), vault.dir().join("aside"));
    std::fs::rename(&tokens, &aside).unwrap();
    vault.start_again().await.unwrap();
    unseal_with(&vault, &vault.shares()[..2]).await;
    assert_eq!(get(&vault.operator(), "a").await, "of the original");
    put(&vault.operator(), "b", "of the clone").await;
    let keys = vault.operator().keys();
    until("every data key has its wraps", || async { keys.rotation().await.unwrap().complete.then_some(()) })
        .await;

    // What the clone wrapped, its original opens, alone and beside it.
    vault.stop().await;
    std::fs::rename(&aside, &tokens).unwrap();
    vault.start_again().await.unwrap();
    unseal_with(&vault, &vault.shares()[1..]).await;
    assert_eq!(get(&vault.operator(), "b").await, "of the clone");
    vault.stop().await;
    std::fs::rename(&copy.tokens, dir.path().join("gone")).unwrap();
    vault.start_again().await.unwrap();
    unseal_with(&vault, &vault.shares()[1..]).await;
    assert_eq!(get(&vault.operator(), "b").await, "of the clone");
}
