//! Registered principals: put, read, list, delete, and "who am I".
//!
//! Invariant: a certificate identity belongs to one principal at most; record and index change in one batch.

use keystead_domain::lease::Why;
use keystead_domain::name::PolicyName;
use keystead_domain::policy::{Action, Method, Resource, Verdict};
use keystead_domain::principal::{PrincipalName, PrincipalRecord};
use keystead_domain::time::UnixMillis;
use keystead_domain::{CertificateMatcher, GroupName};
use keystead_storage::{Batch, Keyspace, Precondition, Range, Revision, Snapshot, StorageError, keyspace};

use super::lockout;
use crate::error::VaultError;
use crate::keys::{Keys, corrupt};
use crate::leases::{many, store};
use crate::operation::{Detail, Effect, Grant, Operation};
use crate::records;
use crate::request::{Caller, Permit};
use crate::unsealed::UnsealedVault;

/// Tries against other writers.
const TRIES: usize = 8;

/// A record with its revision.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The record.
    pub record: PrincipalRecord,
    /// Its revision, opaque.
    pub etag: String,
}

/// Registers a principal, or replaces its record.
pub struct PutPrincipal {
    /// The record; `created` is set here.
    pub record: PrincipalRecord,
    /// The record must be unchanged since this was read.
    pub etag: Option<String>,
}

/// Reads a record.
pub struct ReadPrincipal {
    /// Whose.
    pub name: PrincipalName,
}

/// Lists records in a stable order.
pub struct ListPrincipals {
    /// At most this many.
    pub limit: usize,
    /// The key to go on after.
    pub after: Option<Vec<u8>>,
}

/// A page of records.
pub struct PrincipalPage {
    /// The records.
    pub principals: Vec<Principal>,
    /// The key to go on after.
    pub next: Option<Vec<u8>>,
}

/// Removes a principal.
pub struct DeletePrincipal {
    /// Whose.
    pub name: PrincipalName,
}

/// Asks who the caller is. Anybody who is identified may.
pub struct WhoAmI;

/// Who the caller is.
pub struct WhoAmIAnswer {
    /// The principal.
    pub principal: PrincipalName,
    /// Its groups.
    pub groups: Vec<GroupName>,
    /// How it was authenticated.
    pub method: Method,
    /// When that ends.
    pub expires: UnixMillis,
}

/// Where a principal's record lies.
pub(crate) fn name_tag(keys: &Keys, name: &PrincipalName) -> [u8; 33] {
    keys.lookup.tag("principal", &[name.to_string().as_bytes()])
}

/// Where a certificate identity points to its principal.
pub(crate) fn index_tag(keys: &Keys, identity: &CertificateMatcher) -> [u8; 33] {
    keys.lookup.tag("principal-index", &[&identity.index_bytes()])
}

/// Adds record and index entries to a batch.
pub(crate) fn seal_principal(
    keys: &Keys,
    batch: &mut Batch,
    record: &PrincipalRecord,
) -> Result<(), VaultError> {
    let at = keyspace::principal(&name_tag(keys, &record.name));
    put_sealed(keys, batch, Keyspace::Principals, at, record)?;
    for identity in &record.matchers {
        let at = keyspace::principal_index(&index_tag(keys, identity));
        put_sealed(keys, batch, Keyspace::PrincipalIndex, at, &record.name)?;
    }
    Ok(())
}

fn put_sealed<T: serde::Serialize>(
    keys: &Keys,
    batch: &mut Batch,
    keyspace: Keyspace,
    at: Vec<u8>,
    record: &T,
) -> Result<(), VaultError> {
    let plain = records::encode(record).map_err(|_| corrupt(keyspace, &at))?;
    let sealed = keys.seal_record(keyspace, &at, &plain)?;
    batch.put(keyspace, at, sealed);
    Ok(())
}

/// Registers a principal.
///
/// # Errors
/// `EtagMismatch`, `MatcherTaken`, `GroupBeyondCaller`.
pub(crate) async fn put(
    vault: &UnsealedVault,
    permit: &Permit<PutPrincipal>,
    op: &PutPrincipal,
) -> Result<Principal, VaultError> {
    for _ in 0..TRIES {
        let snapshot = vault.storage.snapshot().await?;
        let at = keyspace::principal(&name_tag(&vault.keys, &op.record.name));
        let old = open(vault, snapshot.as_ref(), &at).await?;
        check_etag(&op.record.name, op.etag.as_deref(), old.as_ref().map(|(_, revision)| *revision))?;
        check_groups(vault, permit.caller(), &op.record.groups)?;
        check_groups(vault, permit.caller(), old.as_ref().map_or(&[], |(old, _)| &old.groups))?;
        lockout::check_own(vault, permit.caller(), &op.record)?;
        let mut record = op.record.clone();
        record.created = old.as_ref().map_or_else(|| vault.clock.now(), |(record, _)| record.created);
        let mut batch = Batch::new();
        let unchanged =
            old.as_ref().map_or(Precondition::Absent, |(_, revision)| Precondition::Revision(*revision));
        batch.require(Keyspace::Principals, at.clone(), unchanged);
        let before = old.map(|(record, _)| record.matchers).unwrap_or_default();
        for identity in before.iter().filter(|identity| !record.matchers.contains(identity)) {
            batch.delete(
                Keyspace::PrincipalIndex,
                keyspace::principal_index(&index_tag(&vault.keys, identity)),
            );
        }
        for identity in record.matchers.iter().filter(|identity| !before.contains(identity)) {
            let index = keyspace::principal_index(&index_tag(&vault.keys, identity));
            if let Some(owner) = owner(vault, snapshot.as_ref(), &index).await? {
                return Err(VaultError::MatcherTaken {
                    matcher: identity.to_string(),
                    owner: owner.to_string(),
                });
            }
            batch.require(Keyspace::PrincipalIndex, index, Precondition::Absent);
        }
        seal_principal(&vault.keys, &mut batch, &record)?;
        if record.disabled {
            many::begin(&vault.keys, &mut batch, store::of_owner(&vault.keys, &record.name), Why::OwnerGone)?;
        }
        match vault.commit(permit.intent(), batch).await {
            Ok(revision) => return Ok(Principal { record, etag: etag(revision) }),
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Err(VaultError::Contention { what: format!("principal {}", op.record.name) })
}

async fn remove(
    vault: &UnsealedVault,
    permit: &Permit<DeletePrincipal>,
    name: &PrincipalName,
) -> Result<(), VaultError> {
    for _ in 0..TRIES {
        let snapshot = vault.storage.snapshot().await?;
        let at = keyspace::principal(&name_tag(&vault.keys, name));
        let (record, revision) = open(vault, snapshot.as_ref(), &at).await?.ok_or_else(|| not_found(name))?;
        check_groups(vault, permit.caller(), &record.groups)?;
        lockout::check_not_own(permit.caller(), name)?;
        let mut batch = Batch::new();
        batch.require(Keyspace::Principals, at.clone(), Precondition::Revision(revision));
        batch.delete(Keyspace::Principals, at);
        for identity in &record.matchers {
            batch.delete(
                Keyspace::PrincipalIndex,
                keyspace::principal_index(&index_tag(&vault.keys, identity)),
            );
        }
        many::begin(&vault.keys, &mut batch, store::of_owner(&vault.keys, name), Why::OwnerGone)?;
        match vault.commit(permit.intent(), batch).await {
            Ok(_) => {
                vault.leases.wake.notify_one();
                return Ok(());
            }
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Err(VaultError::Contention { what: format!("principal {name}") })
}

async fn page(
    vault: &UnsealedVault,
    permit: &Permit<ListPrincipals>,
    op: &ListPrincipals,
) -> Result<PrincipalPage, VaultError> {
    let snapshot = permit.view(vault).await?;
    let range = Range::all(op.after.as_deref());
    let stored = snapshot.range(Keyspace::Principals, range, op.limit.saturating_add(1)).await?;
    let more = stored.len() > op.limit;
    let mut principals = Vec::with_capacity(stored.len().min(op.limit));
    let mut last = None;
    for (key, versioned) in stored.into_iter().take(op.limit) {
        let record = decode(vault, &key, &versioned.value)?;
        principals.push(Principal { record, etag: etag(versioned.revision) });
        last = Some(key.to_vec());
    }
    Ok(PrincipalPage { principals, next: last.filter(|_| more) })
}

async fn open(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    at: &[u8],
) -> Result<Option<(PrincipalRecord, Revision)>, VaultError> {
    let Some(stored) = snapshot.get(Keyspace::Principals, at).await? else { return Ok(None) };
    Ok(Some((decode(vault, at, &stored.value)?, stored.revision)))
}

fn decode(vault: &UnsealedVault, at: &[u8], stored: &[u8]) -> Result<PrincipalRecord, VaultError> {
    let plain = vault.keys.open_record(Keyspace::Principals, at, stored)?;
    records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Principals, at))
}

async fn owner(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    index: &[u8],
) -> Result<Option<PrincipalName>, VaultError> {
    let Some(stored) = snapshot.get(Keyspace::PrincipalIndex, index).await? else { return Ok(None) };
    let plain = vault.keys.open_record(Keyspace::PrincipalIndex, index, &stored.value)?;
    records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::PrincipalIndex, index)).map(Some)
}

/// A group is what policies give to it: whoever may change the principals of a group could take its rights, or shed a
/// `forbid` on it. Only its members may, and those who may write policies for it.
fn check_groups(vault: &UnsealedVault, caller: &Caller, groups: &[GroupName]) -> Result<(), VaultError> {
    let may_write_policies = |group: &GroupName| {
        PolicyName::parse(group.as_str()).is_ok_and(|policy| {
            let decision = vault.decide(caller, Action::PoliciesWrite, &Resource::Policy(policy));
            decision.verdict == Verdict::Allow
        })
    };
    match groups.iter().find(|group| !caller.groups().contains(group) && !may_write_policies(group)) {
        Some(group) => Err(VaultError::GroupBeyondCaller { group: group.as_str().to_owned() }),
        None => Ok(()),
    }
}

fn check_etag(
    name: &PrincipalName,
    asked: Option<&str>,
    current: Option<Revision>,
) -> Result<(), VaultError> {
    match asked {
        Some(asked) if current.map(etag).as_deref() != Some(asked) => {
            Err(VaultError::EtagMismatch { what: format!("principal {name}") })
        }
        _ => Ok(()),
    }
}

/// An etag is the revision in hex.
pub(crate) fn etag(revision: Revision) -> String {
    revision.to_string()
}

fn not_found(name: &PrincipalName) -> VaultError {
    VaultError::NotFound { what: format!("principal {name}") }
}

impl Operation for WhoAmI {
    type Output = WhoAmIAnswer;
    const ACTION: Action = Action::PrincipalsRead;
    const EFFECT: Effect = Effect::Read;
    const GRANT: Grant = Grant::Identified;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, _: &UnsealedVault, permit: Permit<Self>) -> Result<WhoAmIAnswer, VaultError> {
        let caller = permit.caller();
        Ok(WhoAmIAnswer {
            principal: caller.principal().clone(),
            groups: caller.groups().to_vec(),
            method: caller.method(),
            expires: caller.expires(),
        })
    }

    fn detail(_: &WhoAmIAnswer) -> Detail {
        vec![("self", "who-am-i".to_owned())]
    }
}

impl Operation for PutPrincipal {
    type Output = Principal;
    const ACTION: Action = Action::PrincipalsWrite;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Principal(self.record.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Principal, VaultError> {
        put(vault, &permit, &self).await
    }

    fn detail(output: &Principal) -> Detail {
        let groups: Vec<&str> = output.record.groups.iter().map(GroupName::as_str).collect();
        let identities: Vec<String> = output.record.matchers.iter().map(ToString::to_string).collect();
        vec![
            ("groups", groups.join(",")),
            ("identities", identities.join(",")),
            ("disabled", output.record.disabled.to_string()),
        ]
    }
}

impl Operation for ReadPrincipal {
    type Output = Principal;
    const ACTION: Action = Action::PrincipalsRead;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::Principal(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Principal, VaultError> {
        let snapshot = permit.view(vault).await?;
        let at = keyspace::principal(&name_tag(&vault.keys, &self.name));
        let found = open(vault, &*snapshot, &at).await?;
        let (record, revision) = found.ok_or_else(|| not_found(&self.name))?;
        Ok(Principal { record, etag: etag(revision) })
    }

    fn detail(_: &Principal) -> Detail {
        Detail::new()
    }
}

impl Operation for ListPrincipals {
    type Output = PrincipalPage;
    const ACTION: Action = Action::PrincipalsList;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<PrincipalPage, VaultError> {
        page(vault, &permit, &self).await
    }

    fn detail(output: &PrincipalPage) -> Detail {
        vec![("entries", output.principals.len().to_string())]
    }
}

impl Operation for DeletePrincipal {
    type Output = ();
    const ACTION: Action = Action::PrincipalsDelete;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Principal(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<(), VaultError> {
        remove(vault, &permit, &self.name).await
    }

    fn detail((): &()) -> Detail {
        Detail::new()
    }
}
