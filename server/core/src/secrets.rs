//! Secrets: put, get, list, history, delete, undelete, destroy.
//!
//! Invariant: every version is sealed once, under its own data key; each function takes the permit of its operation.

pub mod payload;
mod write;

use std::sync::Arc;

use keystead_crypto::aad::label;
use keystead_crypto::record;
use keystead_domain::id::{RecordId, RequestId};
use keystead_domain::path::{FolderPath, SecretPath};
use keystead_domain::policy::{Action, Resource};
use keystead_domain::secret_version::{SecretMeta, VersionMeta};
use keystead_storage::{Keyspace, Revision, Snapshot, keyspace};

pub use self::payload::Payload;
pub use self::write::{delete, destroy, put, undelete};
use crate::directory;
use crate::error::VaultError;
use crate::keys::{MasterKey, corrupt};
use crate::operation::{Detail, Effect, Operation};
use crate::records;
use crate::request::Permit;
use crate::unsealed::UnsealedVault;

/// Stores a new version.
pub struct PutSecret {
    /// Where.
    pub path: SecretPath,
    /// What.
    pub payload: Payload,
    /// The current version must be this one; 0 means none.
    pub expected: Option<u64>,
    /// Makes a repeated call harmless.
    pub request_id: Option<RequestId>,
}

/// Reads the current version, or the one named.
pub struct ReadSecret {
    /// Where.
    pub path: SecretPath,
    /// Which.
    pub version: Option<u64>,
}

/// Lists the children of a folder.
pub struct ListSecrets {
    /// The folder.
    pub folder: FolderPath,
    /// At most this many: 1 to 1,000.
    pub limit: usize,
    /// The directory key to go on after.
    pub after: Option<Vec<u8>>,
}

/// Shows the versions of a secret.
pub struct SecretHistory {
    /// Where.
    pub path: SecretPath,
}

/// Hides versions.
pub struct DeleteVersions {
    /// Where.
    pub path: SecretPath,
    /// Which; empty means the current one.
    pub versions: Vec<u64>,
}

/// Brings deleted versions back.
pub struct UndeleteVersions {
    /// Where.
    pub path: SecretPath,
    /// Which.
    pub versions: Vec<u64>,
}

/// Removes the wrapped data keys of versions.
pub struct DestroyVersions {
    /// Where.
    pub path: SecretPath,
    /// Which.
    pub versions: Vec<u64>,
}

/// What destroying versions did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destroyed {
    /// The versions that were destroyed by this call.
    pub versions: Vec<VersionMeta>,
    /// The keys that open copies of the named versions in older backups, with Q: until each is destroyed, they do.
    pub backup_keys: Vec<MasterKey>,
}

/// A version with its value.
pub struct Secret {
    /// Which version this is.
    pub meta: VersionMeta,
    /// Its value.
    pub payload: Payload,
}

/// One child of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its segment.
    pub name: String,
    /// A secret lies here.
    pub is_secret: bool,
    /// There are paths below.
    pub is_folder: bool,
}

/// A page of children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In a stable order.
    pub entries: Vec<Listed>,
    /// The directory key to go on after; nothing at the end.
    pub next: Option<Vec<u8>>,
}

/// Reads a secret.
///
/// # Errors
/// `NotFound` and the version errors; `Hsm` when the data key is not at hand and the HSM is away.
pub async fn read(
    vault: &UnsealedVault,
    permit: &Permit<ReadSecret>,
    op: &ReadSecret,
) -> Result<Secret, VaultError> {
    let snapshot = permit.view(vault).await?;
    let (id, meta, _) = load(vault, &*snapshot, &op.path).await?;
    let meta = meta.select(op.version)?.clone();
    let key = keyspace::secret(id.as_bytes(), meta.version);
    let stored =
        snapshot.get(Keyspace::Secrets, &key).await?.ok_or_else(|| corrupt(Keyspace::Secrets, &key))?;
    let data_key = match vault.keys.cached_data_key(meta.data_key) {
        Some(data_key) => data_key?,
        None => {
            let at = keyspace::data_key(meta.data_key.as_bytes());
            let wrapped = snapshot
                .get(Keyspace::DataKeys, &at)
                .await?
                .ok_or_else(|| corrupt(Keyspace::DataKeys, &at))?;
            match vault.keys.open_data_key(meta.data_key, &wrapped.value).await {
                Ok(data_key) => data_key,
                // The key of this wrap may have been given up since this view was taken.
                Err(error) => match renewed(vault, &at, wrapped.revision).await? {
                    Some(renewed) => vault.keys.open_data_key(meta.data_key, &renewed).await?,
                    None => return Err(error),
                },
            }
        }
    };
    let aad = vault.keys.aad(label::SECRET_VERSION, Keyspace::Secrets, id.as_bytes(), meta.version);
    let plain = record::open_single(&data_key, *meta.data_key.as_bytes(), &aad, &stored.value)
        .map_err(|_| corrupt(Keyspace::Secrets, &key))?;
    let payload = Payload::decode(plain).ok_or_else(|| corrupt(Keyspace::Secrets, &key))?;
    Ok(Secret { meta, payload })
}

/// The record of a data key, if it was wrapped anew since.
async fn renewed(
    vault: &UnsealedVault,
    at: &[u8],
    since: Revision,
) -> Result<Option<bytes::Bytes>, VaultError> {
    let now = vault.storage.snapshot().await?.get(Keyspace::DataKeys, at).await?;
    Ok(now.filter(|now| now.revision != since).map(|now| now.value))
}

/// Lists the children of a folder; one that does not exist is empty.
///
/// # Errors
/// Those of the store.
pub async fn list(
    vault: &UnsealedVault,
    permit: &Permit<ListSecrets>,
    op: &ListSecrets,
) -> Result<Page, VaultError> {
    let snapshot = permit.view(vault).await?;
    let Some(folder) = directory::find_folder(vault, &*snapshot, &op.folder).await? else {
        return Ok(Page { entries: Vec::new(), next: None });
    };
    let (children, next) =
        directory::children(&vault.keys, &*snapshot, folder, op.after.as_deref(), op.limit).await?;
    let mut entries = Vec::with_capacity(children.len());
    for child in children {
        let at = keyspace::secret_meta(child.id.as_bytes());
        let is_secret = snapshot.get(Keyspace::SecretMeta, &at).await?.is_some();
        let below = directory::children(&vault.keys, &*snapshot, child.id, None, 1).await?;
        entries.push(Listed { name: child.name, is_secret, is_folder: !below.0.is_empty() });
    }
    Ok(Page { entries, next: next.map(|key| key.to_vec()) })
}

/// The versions of a secret, newest first, and the current version.
///
/// # Errors
/// `NotFound`.
pub async fn history(
    vault: &UnsealedVault,
    permit: &Permit<SecretHistory>,
    op: &SecretHistory,
) -> Result<(Vec<VersionMeta>, u64), VaultError> {
    let snapshot = permit.view(vault).await?;
    let (_, meta, _) = load(vault, &*snapshot, &op.path).await?;
    let mut versions = meta.versions().to_vec();
    versions.reverse();
    Ok((versions, meta.current()))
}

/// The id, metadata and metadata revision of a secret.
async fn load(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    path: &SecretPath,
) -> Result<(RecordId, Arc<SecretMeta>, Revision), VaultError> {
    let id = directory::find(vault, snapshot, path).await?.ok_or_else(|| not_found(path))?;
    let (meta, revision) = load_meta(vault, snapshot, id).await?.ok_or_else(|| not_found(path))?;
    Ok((id, meta, revision))
}

/// Metadata by id. The cached copy counts only while the store has the same revision.
async fn load_meta(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    id: RecordId,
) -> Result<Option<(Arc<SecretMeta>, Revision)>, VaultError> {
    let key = keyspace::secret_meta(id.as_bytes());
    let Some(stored) = snapshot.get(Keyspace::SecretMeta, &key).await? else { return Ok(None) };
    if let Some((revision, meta)) = vault.metas.get(&id)
        && revision == stored.revision
    {
        return Ok(Some((meta, revision)));
    }
    let plain = vault.keys.open_record(Keyspace::SecretMeta, &key, &stored.value)?;
    let meta: SecretMeta =
        records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::SecretMeta, &key))?;
    let meta = Arc::new(meta);
    vault.metas.insert(id, (stored.revision, Arc::clone(&meta)));
    Ok(Some((meta, stored.revision)))
}

fn not_found(path: &SecretPath) -> VaultError {
    VaultError::NotFound { what: format!("secret {path}") }
}

fn versions_detail(versions: &[VersionMeta]) -> Detail {
    let numbers: Vec<String> = versions.iter().map(|version| version.version.to_string()).collect();
    vec![("versions", numbers.join(","))]
}

impl Operation for PutSecret {
    type Output = VersionMeta;
    const ACTION: Action = Action::SecretsWrite;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Secret(self.path.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<VersionMeta, VaultError> {
        put(vault, &permit, &self).await
    }

    fn detail(output: &VersionMeta) -> Detail {
        vec![("version", output.version.to_string())]
    }
}

impl Operation for ReadSecret {
    type Output = Secret;
    const ACTION: Action = Action::SecretsRead;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::Secret(self.path.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Secret, VaultError> {
        read(vault, &permit, &self).await
    }

    fn detail(output: &Secret) -> Detail {
        vec![("version", output.meta.version.to_string())]
    }
}

impl Operation for ListSecrets {
    type Output = Page;
    const ACTION: Action = Action::SecretsList;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::Folder(self.folder.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Page, VaultError> {
        list(vault, &permit, &self).await
    }

    fn detail(output: &Page) -> Detail {
        vec![("entries", output.entries.len().to_string())]
    }
}

impl Operation for SecretHistory {
    type Output = (Vec<VersionMeta>, u64);
    const ACTION: Action = Action::SecretsHistory;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::Secret(self.path.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Self::Output, VaultError> {
        history(vault, &permit, &self).await
    }

    fn detail(_: &Self::Output) -> Detail {
        Detail::new()
    }
}

/// The two moves back and forth differ only in name, action and function.
macro_rules! version_move {
    ($op:ident, $action:expr, $function:ident) => {
        impl Operation for $op {
            type Output = Vec<VersionMeta>;
            const ACTION: Action = $action;
            const EFFECT: Effect = Effect::Change;

            fn resource(&self) -> Resource {
                Resource::Secret(self.path.clone())
            }

            async fn handle(
                self,
                vault: &UnsealedVault,
                permit: Permit<Self>,
            ) -> Result<Self::Output, VaultError> {
                $function(vault, &permit, &self).await
            }

            fn detail(output: &Self::Output) -> Detail {
                versions_detail(output)
            }
        }
    };
}

version_move!(DeleteVersions, Action::SecretsDelete, delete);
version_move!(UndeleteVersions, Action::SecretsUndelete, undelete);

impl Operation for DestroyVersions {
    type Output = Destroyed;
    const ACTION: Action = Action::SecretsDestroy;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Secret(self.path.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Destroyed, VaultError> {
        destroy(vault, &permit, &self).await
    }

    fn detail(output: &Destroyed) -> Detail {
        versions_detail(&output.versions)
    }
}
