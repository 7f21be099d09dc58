//! What changes secrets. Invariant: one batch a change, with preconditions on all that it read; a conflict is looked at
//! again a bounded number of times.

use keystead_crypto::aad::label;
use keystead_crypto::envelope::{Wrap, WrappedDataKey};
use keystead_crypto::record;
use keystead_domain::id::RecordId;
use keystead_domain::path::SecretPath;
use keystead_domain::secret_version::{SecretMeta, VersionError, VersionMeta, VersionState};
use keystead_storage::{Batch, Keyspace, Precondition, StorageError, keyspace};

use super::{DeleteVersions, DestroyVersions, Destroyed, PutSecret, UndeleteVersions, load, load_meta};
use crate::directory;
use crate::error::VaultError;
use crate::keys::{MasterKey, NewDataKey, corrupt, fresh_id};
use crate::records;
use crate::request::Permit;
use crate::request_ids::{self, Answer, Seen};
use crate::unsealed::UnsealedVault;

/// Tries of one change against other writers.
const TRIES: usize = 16;

/// Stores a new version; durable when it returns.
///
/// # Errors
/// `Version` when another version was expected, `RequestIdReused`, and those of store and HSM.
pub async fn put(
    vault: &UnsealedVault,
    permit: &Permit<PutSecret>,
    op: &PutSecret,
) -> Result<VersionMeta, VaultError> {
    let payload = op.payload.encode();
    for _ in 0..TRIES {
        let snapshot = vault.storage.snapshot().await?;
        vault.keys.follow_seal(snapshot.as_ref(), vault.storage.as_ref()).await?;
        let seen = match &op.request_id {
            None => None,
            Some(id) => {
                let principal = permit.caller().principal();
                let (path, expected) = (op.path.to_string(), op.expected.map(u64::to_be_bytes));
                let expected = expected.as_ref().map_or([].as_slice(), <[u8; 8]>::as_slice);
                let request: [&[u8]; 3] = [path.as_bytes(), expected, payload.expose()];
                match request_ids::look_up(vault, snapshot.as_ref(), principal, id, &request).await? {
                    Seen::Answered(Answer::Version(version), _) => {
                        let (_, meta, _) = load(vault, snapshot.as_ref(), &op.path).await?;
                        return meta.version(version).cloned().ok_or_else(|| contention(&op.path));
                    }
                    Seen::Answered(Answer::Lease(_), _) => {
                        return Err(VaultError::RequestIdReused { id: id.as_str().to_owned() });
                    }
                    Seen::New(unanswered) => Some(unanswered),
                }
            }
        };
        let mut batch = Batch::new();
        let id = directory::find_or_create(vault, snapshot.as_ref(), &op.path, &mut batch).await?;
        let at = keyspace::secret_meta(id.as_bytes());
        let (mut meta, unchanged) = match load_meta(vault, snapshot.as_ref(), id).await? {
            Some((meta, revision)) => ((*meta).clone(), Precondition::Revision(revision)),
            None => (SecretMeta::new(), Precondition::Absent),
        };
        let version = meta.next(op.expected)?;
        let data_key_id = fresh_id();
        let NewDataKey { key: data_key, record: wrapped } = vault.create_data_key(data_key_id).await?;
        let aad = vault.keys.aad(label::SECRET_VERSION, Keyspace::Secrets, id.as_bytes(), version);
        let stored_at = keyspace::secret(id.as_bytes(), version);
        let sealed = record::seal_single(data_key, *data_key_id.as_bytes(), &aad, payload.expose())
            .map_err(|_| corrupt(Keyspace::Secrets, &stored_at))?;
        let added = VersionMeta {
            version,
            state: VersionState::Active,
            created: vault.clock.now(),
            created_by: permit.caller().principal().clone(),
            size: u32::try_from(op.payload.size()).unwrap_or(u32::MAX),
            data_key: data_key_id,
            master_version: wrapped.master_version,
        };
        meta.push(added.clone())?;
        wrapped.put(&mut batch);
        batch.put(Keyspace::Secrets, stored_at, sealed);
        batch.require(Keyspace::SecretMeta, at.clone(), unchanged);
        batch.put(Keyspace::SecretMeta, at.clone(), seal_meta(vault, &at, &meta)?);
        if let Some(seen) = seen {
            request_ids::remember(vault, &mut batch, seen, Answer::Version(version))?;
        }
        match vault.commit(permit.intent(), batch).await {
            Ok(_) => return Ok(added),
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {
                vault.keys.forget_data_key(data_key_id)
            }
            Err(error) => return Err(error),
        }
    }
    Err(contention(&op.path))
}

/// Hides versions; repeating it changes nothing.
///
/// # Errors
/// `NotFound` and the version errors.
pub async fn delete(
    vault: &UnsealedVault,
    permit: &Permit<DeleteVersions>,
    op: &DeleteVersions,
) -> Result<Vec<VersionMeta>, VaultError> {
    let now = vault.clock.now();
    let delete = |meta: &mut SecretMeta| match op.versions.as_slice() {
        [] => meta.delete(&[meta.select(None)?.version], now),
        named => meta.delete(named, now),
    };
    change(vault, permit.intent(), &op.path, delete).await.map(|changed| changed.versions)
}

/// Brings deleted versions back.
///
/// # Errors
/// `NotFound` and the version errors.
pub async fn undelete(
    vault: &UnsealedVault,
    permit: &Permit<UndeleteVersions>,
    op: &UndeleteVersions,
) -> Result<Vec<VersionMeta>, VaultError> {
    change(vault, permit.intent(), &op.path, |meta| meta.undelete(&op.versions))
        .await
        .map(|changed| changed.versions)
}

/// Removes the wrapped data keys and ciphertexts of versions from the store, its log and its files, and says which keys
/// still open copies in older backups. Asked again for versions that are destroyed already, it says how that is now.
///
/// # Errors
/// `NotFound` and the version errors.
pub async fn destroy(
    vault: &UnsealedVault,
    permit: &Permit<DestroyVersions>,
    op: &DestroyVersions,
) -> Result<Destroyed, VaultError> {
    let now = vault.clock.now();
    let Changed { id, versions: changed, meta, wraps } =
        change(vault, permit.intent(), &op.path, |meta| meta.destroy(&op.versions, now)).await?;
    for version in &changed {
        vault.keys.forget_data_key(version.data_key);
        vault.storage.purge(Keyspace::DataKeys, &keyspace::data_key(version.data_key.as_bytes())).await?;
        vault.storage.purge(Keyspace::Secrets, &keyspace::secret(id.as_bytes(), version.version)).await?;
        // A read that began before may have fetched the key again; no view from before is left now.
        vault.keys.forget_data_key(version.data_key);
    }
    let masters = vault.keys.ledger().await.masters;
    let mut backup_keys: Vec<MasterKey> = Vec::new();
    for version in op.versions.iter().filter_map(|version| meta.version(*version)) {
        let VersionState::Destroyed { at } = version.state else { continue };
        let last = wraps.iter().find(|(of, _)| *of == version.version).map(|(_, wraps)| wraps.as_slice());
        for key in masters.that_wrapped(version.created, at, last) {
            if !backup_keys.contains(&key) {
                backup_keys.push(key);
            }
        }
    }
    Ok(Destroyed { versions: changed, backup_keys })
}

/// A change of the version list.
struct Changed {
    id: RecordId,
    versions: Vec<VersionMeta>,
    /// The list after it.
    meta: SecretMeta,
    /// Of destroyed versions: way and version of M of each wrap that they had at the end.
    wraps: Vec<(u64, Vec<(String, u32)>)>,
}

/// One change of the version list. Keys and ciphertexts of versions that it destroyed leave in the same batch.
async fn change(
    vault: &UnsealedVault,
    intent: Option<u64>,
    path: &SecretPath,
    apply: impl Fn(&mut SecretMeta) -> Result<Vec<VersionMeta>, VersionError>,
) -> Result<Changed, VaultError> {
    for _ in 0..TRIES {
        let snapshot = vault.storage.snapshot().await?;
        let (id, meta, revision) = load(vault, snapshot.as_ref(), path).await?;
        let mut meta = (*meta).clone();
        let changed = apply(&mut meta)?;
        let at = keyspace::secret_meta(id.as_bytes());
        let mut batch = Batch::new();
        let mut wraps = Vec::new();
        for version in
            changed.iter().filter(|version| matches!(version.state, VersionState::Destroyed { .. }))
        {
            let at = keyspace::data_key(version.data_key.as_bytes());
            if let Some(stored) = snapshot.get(Keyspace::DataKeys, &at).await? {
                // What is said of its wraps must be true of the record that goes.
                batch.require(Keyspace::DataKeys, at.clone(), Precondition::Revision(stored.revision));
                if let Ok(record) = WrappedDataKey::decode(&stored.value) {
                    let named = |wrap: &Wrap| (wrap.token.clone(), wrap.master_version);
                    wraps.push((version.version, record.wraps().iter().map(named).collect()));
                }
            }
            batch.delete(Keyspace::DataKeys, at);
            batch.delete(Keyspace::Secrets, keyspace::secret(id.as_bytes(), version.version));
        }
        batch.require(Keyspace::SecretMeta, at.clone(), Precondition::Revision(revision));
        batch.put(Keyspace::SecretMeta, at.clone(), seal_meta(vault, &at, &meta)?);
        match vault.commit(intent, batch).await {
            Ok(_) => return Ok(Changed { id, versions: changed, meta, wraps }),
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Err(contention(path))
}

fn seal_meta(vault: &UnsealedVault, at: &[u8], meta: &SecretMeta) -> Result<Vec<u8>, VaultError> {
    let plain = records::encode(meta).map_err(|_| corrupt(Keyspace::SecretMeta, at))?;
    vault.keys.seal_record(Keyspace::SecretMeta, at, &plain)
}

fn contention(path: &SecretPath) -> VaultError {
    VaultError::Contention { what: format!("secret {path}") }
}
