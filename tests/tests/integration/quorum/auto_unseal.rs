//! A vault that opens by itself, because its quorum wanted it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use keystead_client::v1;
use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_crypto::ports::HsmLogin;
use keystead_crypto::secret::SecretBytes;
use keystead_server::config::AutoPin;
use keystead_storage::keyspace;
use keystead_tests::{ServerProcess, TestVault, until};

use super::{approve, by_quorum, put_back, start, stored, unseal_with};
use crate::{get, put, reason};

pub(crate) fn write_pin(path: &Path, pin: &str) {
    fs::write(path, pin).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A vault whose configuration names a file for the PIN.
async fn vault(dir: &Path) -> (TestVault, PathBuf) {
    let file = dir.join("pin");
    let configured = file.clone();
    let vault = TestVault::builder()
        .config(move |config| config.seal.auto_pin = Some(AutoPin::File(configured.clone())))
        .start()
        .await;
    write_pin(&file, &vault.token().pin);
    (vault, file)
}

fn enable() -> Purpose {
    Purpose::EnableAutoUnseal(v1::EnableAutoUnseal {})
}

async fn opens(vault: &TestVault) {
    until("the vault opens by itself", || async { vault.vault().is_unsealed().then_some(()) }).await;
}

#[tokio::test]
async fn it_opens_at_each_start_until_its_quorum_ends_that() {
    let dir = tempfile::tempdir().unwrap();
    let (mut vault, _) = vault(dir.path()).await;
    let shares = vault.shares();
    put(&vault.operator(), "a", "kept").await;
    assert_eq!(vault.local().system().status().await.unwrap().powers, 2);
    by_quorum(&vault, enable()).await;
    assert_eq!(vault.local().system().status().await.unwrap().powers, 1);

    vault.restart().await;
    opens(&vault).await;
    assert_eq!(get(&vault.operator(), "a").await, "kept");
    vault.operator().system().seal().await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!vault.vault().is_unsealed(), "whoever seals it means it");
    unseal_with(&vault, &shares[..2]).await;

    vault.stop().await;
    let copy = stored(&vault, &keyspace::seal_auto()).await.unwrap();
    vault.start_again().await.unwrap();
    opens(&vault).await;
    by_quorum(&vault, Purpose::DisableAutoUnseal(v1::DisableAutoUnseal {})).await;
    assert_eq!(vault.local().system().status().await.unwrap().powers, 2);
    vault.stop().await;
    assert!(stored(&vault, &keyspace::seal_auto()).await.is_none());

    // An old copy of the record opens nothing: its key is gone.
    put_back(&vault, &keyspace::seal_auto(), &copy.value).await;
    vault.start_again().await.unwrap();
    assert!(vault.vault().unseal_by_itself().await.is_err());
    assert!(!vault.vault().is_unsealed());
    unseal_with(&vault, &shares[1..]).await;
}

#[tokio::test]
async fn it_is_not_turned_on_without_a_pin_that_works() {
    let unconfigured = TestVault::start().await;
    let refused = unconfigured.operator().system().start_ceremony(enable()).await;
    assert_eq!(reason(refused), "AUTO_PIN_MISSING");

    let dir = tempfile::tempdir().unwrap();
    let (vault, file) = vault(dir.path()).await;
    fs::remove_file(&file).unwrap();
    assert_eq!(reason(vault.operator().system().start_ceremony(enable()).await), "AUTO_PIN_UNREADABLE");
    write_pin(&file, "some other pin");
    let begun = start(&vault, enable()).await;
    let shares = vault.shares();
    let system = vault.local().system();
    system.submit_share(&super::share(&shares[0]), &begun.ceremony_id).await.unwrap();
    let refused = system.submit_share(&super::share(&shares[1]), &begun.ceremony_id).await;
    assert_eq!(reason(refused), "AUTO_PIN_WRONG");
    assert_eq!(vault.local().system().status().await.unwrap().powers, 2);
}

#[tokio::test]
async fn a_pin_that_the_token_refuses_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut vault, file) = vault(dir.path()).await;
    by_quorum(&vault, enable()).await;
    vault.stop().await;
    write_pin(&file, "wrong, 0000");
    vault.start_again().await.unwrap();
    // The start's own attempt has been made, or this one is the first: both are answered by one refusal of the token.
    let refused = vault.vault().unseal_by_itself().await.unwrap_err();
    assert_eq!(refused.reason(), "HSM_PIN_REFUSED");
    assert!(!refused.may_pass());

    // A login by the right PIN ends the token's count of wrong ones; whatever is sent now would show in it.
    let other = vault.hsm();
    assert!(other.inspect(None).await.unwrap().token.pin_count_low);
    other.login(SecretBytes::copy_from(vault.token().pin.as_bytes())).await.unwrap();
    other.logout().await;
    assert_eq!(vault.vault().unseal_by_itself().await.unwrap_err().reason(), "HSM_PIN_REFUSED");
    assert!(!other.inspect(None).await.unwrap().token.pin_count_low);
    unseal_with(&vault, &vault.shares()[..2]).await;
}

/// A server whose PIN comes from its environment opens at each start, and says powers: 1.
async fn opens_by_its_environment(mut server: ServerProcess) {
    server.start_again().await;
    server.init().await;
    server.unseal().await;
    put(&server.operator(), "a", "kept").await;
    let begun = server.operator().system().start_ceremony(enable()).await.unwrap();
    approve(&server.anonymous(), &begun.ceremony_id, &server.shares()[..server.threshold()]).await;
    for _ in 0..2 {
        server.kill().await;
        server.start_again().await;
        until("the vault opens by itself", || async {
            let status = server.local().system().status().await.unwrap();
            (status.state() == v1::SealState::Unsealed && status.powers == 1).then_some(())
        })
        .await;
        assert_eq!(get(&server.operator(), "a").await, "kept");
    }
    let pin = server.token().pin.clone();
    assert!(!server.stderr().contains(&pin), "the PIN is in nothing that it says");
}

#[tokio::test]
async fn it_opens_by_a_pin_from_a_variable() {
    let mut server = ServerProcess::prepare(&[("seal.auto_pin_env", "A_PIN")]);
    let pin = server.token().pin.clone();
    server.set_variable("A_PIN", Some(&pin));
    opens_by_its_environment(server).await;
}

#[tokio::test]
async fn it_opens_by_a_credential_of_systemd() {
    let mut server = ServerProcess::prepare(&[("seal.auto_pin_credential", "a-pin")]);
    let directory = server.dir().join("credentials");
    fs::create_dir(&directory).unwrap();
    write_pin(&directory.join("a-pin"), &server.token().pin);
    server.set_variable("CREDENTIALS_DIRECTORY", directory.to_str());
    opens_by_its_environment(server).await;
}
