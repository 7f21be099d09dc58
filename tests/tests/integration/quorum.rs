//! What a quorum does with an open vault: new shares, a new PIN, a vault that opens by itself, a new administrator.

pub(crate) mod auto_unseal;
mod clone;
mod command;
mod crashes;
mod pin;
mod rekey;
mod restore;
mod root;
pub(crate) mod ways;

use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_client::{Client, SecretBytes, Submitted, v1};
use keystead_storage::{Batch, Keyspace, Storage, Versioned};
use keystead_storage_rocksdb::{Options, RocksStorage};
use keystead_tests::TestVault;

fn share(text: &str) -> SecretBytes {
    SecretBytes::from(text.to_owned())
}

/// Begins a ceremony as the administrator.
async fn start(vault: &TestVault, purpose: Purpose) -> v1::CeremonyProgress {
    vault.operator().system().start_ceremony(purpose).await.unwrap()
}

/// Enters shares until what the ceremony is for is done.
async fn approve(client: &Client, ceremony: &str, shares: &[String]) -> Submitted {
    let (last, first) = shares.split_last().unwrap();
    for text in first {
        let more = client.system().submit_share(&share(text), ceremony).await.unwrap();
        assert_eq!(more.ceremony.unwrap().ceremony_id, ceremony);
    }
    client.system().submit_share(&share(last), ceremony).await.unwrap()
}

/// The whole of it, by the vault's own quorum.
async fn by_quorum(vault: &TestVault, purpose: Purpose) -> Submitted {
    let begun = start(vault, purpose).await;
    let shares = vault.shares();
    approve(&vault.anonymous(), &begun.ceremony_id, &shares[..vault.threshold()]).await
}

/// Opens a vault with these shares.
async fn unseal_with(vault: &TestVault, shares: &[String]) {
    for text in shares {
        vault.local().system().submit_share(&share(text), "").await.unwrap();
    }
    assert!(vault.vault().is_unsealed());
}

/// A record of the seal keyspace of a stopped vault.
async fn stored(vault: &TestVault, key: &[u8]) -> Option<Versioned> {
    let store = open_store(vault);
    store.snapshot().await.unwrap().get(Keyspace::Seal, key).await.unwrap()
}

/// Puts one back, as whoever has an old copy of the store would.
async fn put_back(vault: &TestVault, key: &[u8], value: &[u8]) {
    let mut batch = Batch::new();
    batch.put(Keyspace::Seal, key.to_vec(), value.to_vec());
    open_store(vault).commit(batch).await.unwrap();
}

fn open_store(vault: &TestVault) -> RocksStorage {
    RocksStorage::open(&vault.data_dir().join("store"), Options::default()).unwrap()
}
