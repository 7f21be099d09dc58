//! What keeps a server from starting: each says what is wrong and where, and nothing is lost.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keystead_server::StartError;
use keystead_storage::{Batch, Keyspace, Storage, StorageError, keyspace};
use keystead_storage_rocksdb::{Options, RocksStorage};
use keystead_tests::{ServerProcess, TestVault};

use crate::{get, put, reason};

/// What a start that fails says, and that it fails.
fn says(process: &ServerProcess) -> String {
    let output = process.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_wrong_configuration_is_named_by_line() {
    let process = ServerProcess::prepare(&[]);
    let good = std::fs::read_to_string(process.config_file()).unwrap();
    let lines = good.lines().count();
    let wrong = [
        ("[limits]\nmax_conections = 3\n", "max_conections"),
        ("[limit]\nmax_connections = 3\n", "limit"),
        ("[limits]\nmax_connections = \"canary-value\"\n", "max_connections"),
        ("[limits]\nmax_connections = 0\n", "max_connections"),
        ("[log]\nlevel = \"canary-value\"\n", "log.level"),
        ("[limits\n", "not TOML"),
    ];
    for (text, named) in wrong {
        std::fs::write(process.config_file(), format!("{good}{text}")).unwrap();
        let said = says(&process);
        let place = [1, 2].map(|line| format!("keystead.toml:{}:", lines + line));
        assert!(place.iter().any(|place| said.contains(place)), "{said} does not say {place:?}");
        assert!(said.contains(named), "{said}");
        assert!(!said.contains("canary-value"), "the value is quoted: {said}");
        assert!(!process.data_dir().exists(), "a refused configuration writes nothing");
    }
    std::fs::write(process.config_file(), good.replace("data_dir = \"data\"\n", "")).unwrap();
    assert!(says(&process).contains("server.data_dir"));
    let process = ServerProcess::prepare(&[("log.levle", "debug")]);
    assert!(says(&process).contains("KEYSTEAD_SERVER__LOG__LEVLE"));
}

#[tokio::test]
async fn check_config_reads_the_certificates_and_starts_nothing() {
    let process = ServerProcess::prepare(&[]);
    let check = || {
        let mut command = std::process::Command::new(keystead_tests::server());
        command.arg("check-config").arg("--config").arg(process.config_file()).output().unwrap()
    };
    let good = check();
    assert!(good.status.success(), "{good:?}");
    assert!(String::from_utf8(good.stdout).unwrap().contains("tls.cert_file = "));
    std::fs::remove_file(process.pki().server().key).unwrap();
    let bad = check();
    assert_eq!((bad.status.code(), bad.stdout.as_slice()), (Some(1), [].as_slice()));
    let said = String::from_utf8(bad.stderr).unwrap();
    assert!(said.contains("keystead.toml:7:") && said.contains("`tls.key_file`: cannot read"), "{said}");
    assert!(!process.data_dir().exists());
}

#[tokio::test]
async fn a_missing_module_is_named() {
    let vault = TestVault::builder()
        .config(|config| config.hsm.module = "/nonexistent/libnothing.so".into())
        .uninitialized()
        .start()
        .await;
    let error = vault.local().system().initialize(vault.init_request()).await.unwrap_err();
    assert_eq!(error.reason(), "HSM_MISCONFIGURED", "{error}");
    assert!(error.to_string().contains("/nonexistent/libnothing.so"), "{error}");
}

#[tokio::test]
async fn one_data_directory_has_one_server() {
    let mut vault = TestVault::start().await;
    put(&vault.operator(), "a", "x").await;
    let mut config = vault.config();
    config.server.unix_socket = vault.dir().join("second.sock");
    let second = vault.build(config).await.err().expect("a second server on one store");
    assert!(matches!(second, StartError::Storage(StorageError::InUse { .. })), "{second:?}");
    assert_eq!(get(&vault.operator(), "a").await, "x");
    vault.restart().await;
    vault.unseal().await;
    assert_eq!(get(&vault.operator(), "a").await, "x");
}

#[tokio::test]
async fn a_directory_or_key_that_others_can_read_is_refused() {
    let mut vault = TestVault::builder().sealed().start().await;
    vault.stop().await;
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&vault.data_dir(), 0o755);
    let error = vault.start_again().await.unwrap_err();
    assert!(matches!(&error, StartError::Directory { path, .. } if *path == vault.data_dir()), "{error:?}");
    mode(&vault.data_dir(), 0o700);
    mode(&vault.pki().server().key, 0o644);
    let error = vault.start_again().await.unwrap_err();
    assert!(matches!(error, StartError::Tls(_)), "{error:?}");
    mode(&vault.pki().server().key, 0o600);
    vault.start_again().await.unwrap();
    vault.unseal().await;
}

async fn change_store(vault: &TestVault, batch: Batch) {
    let store = RocksStorage::open(&vault.data_dir().join("store"), Options::default()).unwrap();
    store.commit(batch).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_newer_store_is_left_alone() {
    let mut vault = TestVault::start().await;
    put(&vault.operator(), "a", "x").await;
    vault.stop().await;
    let written = |version: u32| {
        let format = keystead_storage::format::StoreFormat {
            version,
            ..keystead_storage::format::StoreFormat::CURRENT
        };
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, keyspace::meta_format(), format.encode());
        batch
    };
    change_store(&vault, written(2)).await;
    let before = fingerprint(&vault.data_dir().join("store"));
    let error = vault.start_again().await.unwrap_err();
    assert!(matches!(error, StartError::Storage(StorageError::NewerFormat { .. })), "{error:?}");
    assert_eq!(fingerprint(&vault.data_dir().join("store")), before, "refused, yet written to");
}

/// Names and contents of the files that hold data; RocksDB's own log of a start is not data.
fn fingerprint(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = keystead_tests::canary::files_below(dir)
        .into_iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.to_owned();
            let data = name.ends_with(".sst") || name.ends_with(".log");
            data.then(|| (name, std::fs::read(&path).unwrap()))
        })
        .filter(|(_, content)| !content.is_empty())
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn the_store_of_another_vault_does_not_open() {
    let mut vault = TestVault::start().await;
    let mut other = TestVault::start().await;
    put(&other.operator(), "a", "kept").await;
    vault.stop().await;
    other.stop().await;
    let (own, borrowed) = (vault.data_dir().join("store"), other.data_dir().join("store"));
    let aside = vault.dir().join("aside");
    std::fs::rename(&own, &aside).unwrap();
    std::fs::rename(&borrowed, &own).unwrap();
    vault.start_again().await.unwrap();

    let system = vault.local().system();
    let share = |text: &str| keystead_client::SecretBytes::from(text);
    let refused = system.submit_share(&share(&vault.shares()[0]), "").await;
    assert_eq!(reason(refused), "SHARE_OTHER_VAULT");
    // The other vault's quorum, with the token and the audit log of this one.
    let theirs = other.shares();
    system.submit_share(&share(&theirs[0]), "").await.unwrap();
    let refused = reason(system.submit_share(&share(&theirs[1]), "").await);
    assert!(matches!(refused.as_str(), "HSM_PIN_REFUSED" | "OTHER_TOKEN" | "HSM_MISCONFIGURED"), "{refused}");
    assert!(!vault.vault().is_unsealed());
    vault.stop().await;

    std::fs::rename(&own, &borrowed).unwrap();
    std::fs::rename(&aside, &own).unwrap();
    // The other vault's store and token, with the audit log of this one.
    let log = other.data_dir().join("audit");
    std::fs::rename(&log, other.dir().join("aside")).unwrap();
    std::fs::rename(vault.data_dir().join("audit"), &log).unwrap();
    other.start_again().await.unwrap();
    let system = other.local().system();
    system.submit_share(&share(&theirs[0]), "").await.unwrap();
    let refused = system.submit_share(&share(&theirs[1]), "").await;
    assert_eq!(reason(refused), "AUDIT_OF_ANOTHER_VAULT");
    other.stop().await;

    std::fs::rename(&log, vault.data_dir().join("audit")).unwrap();
    std::fs::rename(other.dir().join("aside"), &log).unwrap();
    for mut whole in [vault, other] {
        whole.start_again().await.unwrap();
        whole.unseal().await;
        whole.stop().await;
    }
}
