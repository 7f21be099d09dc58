//! Cedar policies: put, read, list, delete, explain.
//!
//! Invariant: a set is compiled whole before it is stored, and swapped in before the answer leaves, so that a change
//! takes effect on the next request.

mod explain;

use std::sync::Arc;

use keystead_domain::name::PolicyName;
use keystead_domain::policy::{Action, Policies, Resource, Verdict};
use keystead_domain::time::UnixMillis;
use keystead_storage::{
    Batch, Keyspace, Precondition, Range, Revision, Snapshot, Storage, StorageError, keyspace,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::explain::{ExplainPolicy, Explained, Standing};
use crate::error::VaultError;
use crate::keys::{Keys, corrupt};
use crate::operation::{Detail, Effect, Operation};
use crate::records;
use crate::request::{Caller, Permit};
use crate::unsealed::UnsealedVault;

/// Policies of a vault at most: deciding stays fast by slicing, compiling does not.
pub const MAX_POLICIES: usize = 10_000;
const PAGE: usize = 512;

/// A policy as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// Its name.
    pub name: PolicyName,
    /// Cedar text.
    pub text: String,
    /// When it was written.
    pub updated: UnixMillis,
}

/// A policy with its revision.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The record.
    pub record: PolicyRecord,
    /// Its revision, opaque.
    pub etag: String,
}

/// Stores a policy.
pub struct PutPolicy {
    /// Its name.
    pub name: PolicyName,
    /// Cedar text.
    pub text: String,
    /// It must be unchanged since this was read.
    pub etag: Option<String>,
}

/// Reads a policy.
pub struct ReadPolicy {
    /// Which.
    pub name: PolicyName,
}

/// Lists policies in a stable order.
pub struct ListPolicies {
    /// At most this many.
    pub limit: usize,
    /// The key to go on after.
    pub after: Option<Vec<u8>>,
}

/// A page of policies.
pub struct PolicyPage {
    /// The policies.
    pub policies: Vec<Policy>,
    /// The key to go on after.
    pub next: Option<Vec<u8>>,
}

/// Removes a policy.
pub struct DeletePolicy {
    /// Which.
    pub name: PolicyName,
}

/// Where a policy lies.
pub(crate) fn policy_key(keys: &Keys, name: &PolicyName) -> Vec<u8> {
    keyspace::policy(&keys.lookup.tag("policy", &[name.as_str().as_bytes()]))
}

/// Adds a policy to a batch.
pub(crate) fn seal_policy(keys: &Keys, batch: &mut Batch, record: &PolicyRecord) -> Result<(), VaultError> {
    let at = policy_key(keys, &record.name);
    let plain = records::encode(record).map_err(|_| corrupt(Keyspace::Policies, &at))?;
    let sealed = keys.seal_record(Keyspace::Policies, &at, &plain)?;
    batch.put(Keyspace::Policies, at, sealed);
    Ok(())
}

/// Compiles what the store holds.
pub(crate) async fn load_all(keys: &Keys, storage: &dyn Storage) -> Result<Policies, VaultError> {
    let snapshot = storage.snapshot().await?;
    compile(texts(keys, snapshot.as_ref()).await?).await
}

/// Compiles off the async threads: a third of a millisecond a policy.
async fn compile(texts: Vec<(PolicyName, String)>) -> Result<Policies, VaultError> {
    match tokio::task::spawn_blocking(move || Policies::compile(texts)).await {
        Ok(compiled) => Ok(compiled?),
        Err(_) => Err(VaultError::Interrupted { what: "compiling the policies" }),
    }
}

async fn texts(keys: &Keys, snapshot: &dyn Snapshot) -> Result<Vec<(PolicyName, String)>, VaultError> {
    let mut texts = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = snapshot.range(Keyspace::Policies, Range::all(after.as_deref()), PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(texts) };
        after = Some(last.to_vec());
        for (key, stored) in &page {
            let record = decode(keys, key, &stored.value)?;
            texts.push((record.name, record.text));
        }
    }
}

fn decode(keys: &Keys, at: &[u8], stored: &[u8]) -> Result<PolicyRecord, VaultError> {
    let plain = keys.open_record(Keyspace::Policies, at, stored)?;
    records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Policies, at))
}

async fn open(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    at: &[u8],
) -> Result<Option<(PolicyRecord, Revision)>, VaultError> {
    let Some(stored) = snapshot.get(Keyspace::Policies, at).await? else { return Ok(None) };
    Ok(Some((decode(&vault.keys, at, &stored.value)?, stored.revision)))
}

async fn put(vault: &UnsealedVault, permit: &Permit<PutPolicy>, op: PutPolicy) -> Result<Policy, VaultError> {
    Policies::validate_one(&op.name, &op.text)?;
    let _one_writer = vault.policy_writes.lock().await;
    let snapshot = vault.storage.snapshot().await?;
    let at = policy_key(&vault.keys, &op.name);
    let old = open(vault, snapshot.as_ref(), &at).await?;
    let current = old.map(|(_, revision)| revision);
    if op.etag.is_some() && op.etag != current.map(etag) {
        return Err(VaultError::EtagMismatch { what: format!("policy {}", op.name) });
    }
    let mut texts = texts(&vault.keys, snapshot.as_ref()).await?;
    texts.retain(|(name, _)| *name != op.name);
    if texts.len() >= MAX_POLICIES {
        return Err(VaultError::Invalid {
            field: "policy",
            rule: format!("a vault holds at most {MAX_POLICIES} policies; delete one first"),
        });
    }
    texts.push((op.name.clone(), op.text.clone()));
    let compiled = compile(texts).await?;
    still_writable(vault, permit.caller(), &op.name, &compiled)?;
    let record = PolicyRecord { name: op.name, text: op.text, updated: vault.clock.now() };
    let mut batch = Batch::new();
    batch.require(Keyspace::Policies, at, current.map_or(Precondition::Absent, Precondition::Revision));
    seal_policy(&vault.keys, &mut batch, &record)?;
    let revision = commit(vault, permit.intent(), batch, compiled).await?;
    Ok(Policy { record, etag: etag(revision) })
}

/// A change after which its author could not take it back would lock everybody out sooner or later.
fn still_writable(
    vault: &UnsealedVault,
    author: &Caller,
    name: &PolicyName,
    compiled: &Policies,
) -> Result<(), VaultError> {
    let resource = Resource::Policy(name.clone());
    match vault.decide_by(compiled, author, Action::PoliciesWrite, &resource).verdict {
        Verdict::Allow => Ok(()),
        _ => Err(VaultError::WouldLockOut { what: format!("policy {name}") }),
    }
}

/// Stores a change and puts the new set in place. When nobody knows whether it was stored, the store is asked; while it
/// does not say, nothing is permitted.
async fn commit(
    vault: &UnsealedVault,
    intent: Option<u64>,
    batch: Batch,
    compiled: Policies,
) -> Result<Revision, VaultError> {
    let committed = vault.commit(intent, batch).await;
    let now_in_force = match &committed {
        Ok(_) => compiled,
        Err(VaultError::Storage(StorageError::UnknownOutcome { .. })) => {
            match load_all(&vault.keys, vault.storage.as_ref()).await {
                Ok(stored) => stored,
                Err(error) => {
                    tracing::error!(%error, "the policies cannot be read again; nothing is permitted until the vault is unsealed anew");
                    Policies::compile(Vec::new())?
                }
            }
        }
        Err(_) => return committed,
    };
    vault.policies.store(Arc::new(now_in_force));
    committed
}

/// Puts a policy of the vault's own in place, with what else is to change together with it.
pub(crate) async fn restore(
    vault: &UnsealedVault,
    intent: u64,
    record: PolicyRecord,
    mut batch: Batch,
) -> Result<(), VaultError> {
    let _one_writer = vault.policy_writes.lock().await;
    let snapshot = vault.storage.snapshot().await?;
    let mut texts = texts(&vault.keys, snapshot.as_ref()).await?;
    texts.retain(|(name, _)| *name != record.name);
    texts.push((record.name.clone(), record.text.clone()));
    let compiled = compile(texts).await?;
    seal_policy(&vault.keys, &mut batch, &record)?;
    commit(vault, Some(intent), batch, compiled).await.map(drop)
}

async fn remove(
    vault: &UnsealedVault,
    permit: &Permit<DeletePolicy>,
    name: &PolicyName,
) -> Result<(), VaultError> {
    let _one_writer = vault.policy_writes.lock().await;
    let snapshot = vault.storage.snapshot().await?;
    let at = policy_key(&vault.keys, name);
    let (_, revision) = open(vault, snapshot.as_ref(), &at).await?.ok_or_else(|| not_found(name))?;
    let mut texts = texts(&vault.keys, snapshot.as_ref()).await?;
    texts.retain(|(other, _)| other != name);
    let compiled = compile(texts).await?;
    still_writable(vault, permit.caller(), name, &compiled)?;
    let mut batch = Batch::new();
    batch.require(Keyspace::Policies, at.clone(), Precondition::Revision(revision));
    batch.delete(Keyspace::Policies, at);
    commit(vault, permit.intent(), batch, compiled).await.map(drop)
}

async fn page(
    vault: &UnsealedVault,
    permit: &Permit<ListPolicies>,
    op: &ListPolicies,
) -> Result<PolicyPage, VaultError> {
    let snapshot = permit.view(vault).await?;
    let stored = snapshot
        .range(Keyspace::Policies, Range::all(op.after.as_deref()), op.limit.saturating_add(1))
        .await?;
    let more = stored.len() > op.limit;
    let mut policies = Vec::with_capacity(stored.len().min(op.limit));
    let mut last = None;
    for (key, versioned) in stored.into_iter().take(op.limit) {
        let record = decode(&vault.keys, &key, &versioned.value)?;
        policies.push(Policy { record, etag: etag(versioned.revision) });
        last = Some(key.to_vec());
    }
    Ok(PolicyPage { policies, next: last.filter(|_| more) })
}

fn etag(revision: Revision) -> String {
    revision.to_string()
}

fn not_found(name: &PolicyName) -> VaultError {
    VaultError::NotFound { what: format!("policy {name}") }
}

impl Operation for PutPolicy {
    type Output = Policy;
    const ACTION: Action = Action::PoliciesWrite;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Policy(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Policy, VaultError> {
        put(vault, &permit, self).await
    }

    fn detail(output: &Policy) -> Detail {
        let digest = Sha256::digest(output.record.text.as_bytes());
        vec![
            ("bytes", output.record.text.len().to_string()),
            ("sha256", data_encoding::HEXLOWER.encode(&digest)),
        ]
    }
}

impl Operation for ReadPolicy {
    type Output = Policy;
    const ACTION: Action = Action::PoliciesRead;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::Policy(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Policy, VaultError> {
        let snapshot = permit.view(vault).await?;
        let at = policy_key(&vault.keys, &self.name);
        let (record, revision) = open(vault, &*snapshot, &at).await?.ok_or_else(|| not_found(&self.name))?;
        Ok(Policy { record, etag: etag(revision) })
    }

    fn detail(_: &Policy) -> Detail {
        Detail::new()
    }
}

impl Operation for ListPolicies {
    type Output = PolicyPage;
    const ACTION: Action = Action::PoliciesList;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<PolicyPage, VaultError> {
        page(vault, &permit, &self).await
    }

    fn detail(output: &PolicyPage) -> Detail {
        vec![("entries", output.policies.len().to_string())]
    }
}

impl Operation for DeletePolicy {
    type Output = ();
    const ACTION: Action = Action::PoliciesDelete;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Policy(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<(), VaultError> {
        remove(vault, &permit, &self.name).await
    }

    fn detail((): &()) -> Detail {
        Detail::new()
    }
}
