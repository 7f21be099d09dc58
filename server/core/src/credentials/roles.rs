//! Roles: defined in their target when they are written, and read back whole.

use std::sync::Arc;
use std::time::Duration;

use keystead_domain::id::RecordId;
use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::role::{Declaration, MAX_LIVE, OnExcess, RoleRecord};
use keystead_domain::time::Ttl;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, Snapshot, StorageError, keyspace};
use serde::{Deserialize, Serialize};

use super::targets::{self, StoredTarget};
use super::{CredentialError, TRIES, etag_matches, in_time, load, page, role_at, seal, target_at};
use crate::engine::{Definition, Link};
use crate::error::VaultError;
use crate::keys::fresh_id;
use crate::leases::counts;
use crate::operation::{Detail, Effect, Operation};
use crate::request::Permit;
use crate::unsealed::UnsealedVault;

/// Defining a role grants and reads back everything; it may take this long.
const DEFINE_AT_MOST: Duration = Duration::from_secs(60);

/// A role as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredRole {
    pub(crate) record: RoleRecord,
    /// It is being deleted: nothing is issued from it.
    pub(crate) leaving: bool,
}

/// A role with its revision.
#[derive(Debug, Clone)]
pub struct Role {
    /// The record.
    pub record: RoleRecord,
    /// Its revision, opaque.
    pub etag: String,
    /// How it is in its target, where that was looked at.
    pub definition: Option<Definition>,
}

/// Defines a role, or changes it. It is stored first, and then put into practice in its target: one that cannot be stays stored,
/// to be mended or deleted.
pub struct PutRole {
    /// Its name.
    pub name: Name,
    /// Its target. It cannot change.
    pub target: Name,
    /// What its logins may do.
    pub declaration: Declaration,
    /// How long a lease lives if nobody says.
    pub default_ttl: Ttl,
    /// How long a lease lives at most.
    pub max_ttl: Ttl,
    /// Live leases at most.
    pub max_live: u32,
    /// What happens on excess.
    pub on_excess: OnExcess,
    /// It must be unchanged since this was read.
    pub etag: Option<String>,
}

/// Reads a role's definition.
pub struct ReadRole {
    /// Which.
    pub name: Name,
}

/// Lists roles in a stable order.
pub struct ListRoles {
    /// At most this many.
    pub limit: usize,
    /// The key to go on after.
    pub after: Option<Vec<u8>>,
}

/// A page of roles.
pub struct RolePage {
    /// The roles.
    pub roles: Vec<Role>,
    /// The key to go on after.
    pub next: Option<Vec<u8>>,
}

/// Removes a role that has no live lease, from its target too.
pub struct DeleteRole {
    /// Which.
    pub name: Name,
}

/// Shows what defining a role does and what its logins can do; leaves nothing behind.
pub struct VerifyRole {
    /// Which.
    pub name: Name,
}

/// The role of a name.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn find(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    name: &Name,
) -> Result<(StoredRole, Revision), VaultError> {
    let at = role_at(&vault.keys, name);
    load(vault, snapshot, Keyspace::Roles, &at)
        .await?
        .ok_or_else(|| VaultError::NotFound { what: format!("role {name}") })
}

/// Ids of the roles whose names begin so.
pub(crate) async fn with_prefix(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    prefix: &str,
) -> Result<Vec<RecordId>, VaultError> {
    const PAGE: usize = 256;
    let mut ids = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let (roles, next) =
            page::<StoredRole>(vault, snapshot, Keyspace::Roles, after.as_deref(), PAGE).await?;
        let named = roles.iter().filter(|(role, _)| role.record.name.as_str().starts_with(prefix));
        ids.extend(named.map(|(role, _)| role.record.id));
        match next {
            Some(next) => after = Some(next),
            None => return Ok(ids),
        }
    }
}

/// A role's target: the one that it was defined for, not another of that name.
pub(crate) async fn target_of(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    role: &RoleRecord,
) -> Result<(StoredTarget, Revision), VaultError> {
    let (target, revision) = targets::find(vault, snapshot, &role.target).await?;
    if target.record.id != role.target_id {
        let (role, target) = (role.name.to_string(), role.target.to_string());
        return Err(CredentialError::OtherTarget { role, target }.into());
    }
    Ok((target, revision))
}

fn check(op: &PutRole) -> Result<(), VaultError> {
    let invalid = |field, rule: String| Err(VaultError::Invalid { field, rule });
    if op.default_ttl > op.max_ttl {
        return invalid("default_ttl", "is longer than max_ttl".to_owned());
    }
    if op.max_live == 0 || op.max_live > MAX_LIVE {
        return invalid("max_live", format!("1 to {MAX_LIVE}"));
    }
    let Declaration::Postgres(declared) = &op.declaration;
    declared.check().map_err(|error| VaultError::Invalid { field: "declaration", rule: error.to_string() })
}

async fn put(vault: &UnsealedVault, permit: &Permit<PutRole>, op: PutRole) -> Result<Role, VaultError> {
    check(&op)?;
    let what = format!("role {}", op.name);
    let at = role_at(&vault.keys, &op.name);
    for _ in 0..TRIES {
        let snapshot = vault.storage.snapshot().await?;
        let (target, target_revision) = targets::find(vault, snapshot.as_ref(), &op.target).await?;
        let kind = target.record.settings.kind();
        if op.declaration.kind() != kind {
            let rule = format!("target {} is a {} target", op.target, kind.as_str());
            return Err(VaultError::Invalid { field: "declaration", rule });
        }
        let old: Option<(StoredRole, Revision)> =
            load(vault, snapshot.as_ref(), Keyspace::Roles, &at).await?;
        etag_matches(op.etag.as_deref(), old.as_ref().map(|(_, revision)| *revision), &what)?;
        if let Some((old, _)) = &old
            && (old.leaving || old.record.target_id != target.record.id)
        {
            let rule = "a role keeps its target; delete it, and define it anew".to_owned();
            return Err(VaultError::Invalid { field: "target", rule });
        }
        let now = vault.clock.now();
        let (id, created) =
            old.as_ref().map_or((fresh_id(), now), |(old, _)| (old.record.id, old.record.created));
        let record = RoleRecord {
            id,
            name: op.name.clone(),
            target: op.target.clone(),
            target_id: target.record.id,
            declaration: op.declaration.clone(),
            default_ttl: op.default_ttl,
            max_ttl: op.max_ttl,
            max_live: op.max_live,
            on_excess: op.on_excess,
            created,
            changed: now,
        };
        // Stored first, so that no group of the vault's is in a target without the vault knowing its role.
        let stored = StoredRole { record, leaving: false };
        let mut batch = Batch::new();
        let unchanged =
            old.as_ref().map_or(Precondition::Absent, |(_, revision)| Precondition::Revision(*revision));
        batch.require(Keyspace::Roles, at.clone(), unchanged);
        batch.require(
            Keyspace::Targets,
            target_at(&vault.keys, &op.target),
            Precondition::Revision(target_revision),
        );
        batch.put(Keyspace::Roles, at.clone(), seal(&vault.keys, Keyspace::Roles, &at, &stored)?);
        match vault.commit(permit.intent(), batch).await {
            Ok(revision) => {
                let link = vault.link(snapshot.as_ref(), &target).await?;
                drop(snapshot);
                let define = link.define(&stored.record, &target.record.accepted);
                let definition = in_time(&op.target, DEFINE_AT_MOST, define).await.map_err(|error| {
                    error.then("the role is stored; define it again when the target answers")
                })?;
                let etag = revision.to_string();
                return Ok(Role { record: stored.record, etag, definition: Some(definition) });
            }
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Err(VaultError::Contention { what })
}

/// First nothing is issued any more, then the target forgets the role, then the vault.
async fn delete(vault: &UnsealedVault, permit: &Permit<DeleteRole>, name: &Name) -> Result<(), VaultError> {
    let Leaving { mut stored, revision, target } = leave(vault, permit, name).await?;
    let prefix = keyspace::leases_of_role(stored.record.id.as_bytes());
    let count = counts::in_index(vault.storage.as_ref(), &prefix).await?;
    let undefined = match (count, target) {
        (0, Some((target, link))) => in_time(&target, DEFINE_AT_MOST, link.undefine(stored.record.id)).await,
        (0, None) => Ok(()),
        (count, _) => {
            let (what, mend) = (format!("role {name}"), "revoke them first (`keystead lease revoke --role`)");
            Err(CredentialError::InUse { what, count, of: "live leases", mend })
        }
    };
    let at = role_at(&vault.keys, name);
    let mut batch = Batch::new();
    batch.require(Keyspace::Roles, at.clone(), Precondition::Revision(revision));
    if undefined.is_ok() {
        batch.delete(Keyspace::Roles, at);
    } else {
        stored.leaving = false;
        batch.put(Keyspace::Roles, at.clone(), seal(&vault.keys, Keyspace::Roles, &at, &stored)?);
    }
    vault.commit(permit.intent(), batch).await?;
    Ok(undefined.map_err(|error| error.then("the role is still there; delete it again later"))?)
}

/// A role from which nothing is issued any more.
struct Leaving {
    stored: StoredRole,
    revision: Revision,
    /// None if it was deleted, and perhaps added anew: nothing of the role is there.
    target: Option<(Name, Arc<dyn Link>)>,
}

async fn leave(
    vault: &UnsealedVault,
    permit: &Permit<DeleteRole>,
    name: &Name,
) -> Result<Leaving, VaultError> {
    for _ in 0..TRIES {
        let snapshot = vault.storage.snapshot().await?;
        let (mut stored, revision) = find(vault, snapshot.as_ref(), name).await?;
        let target = match target_of(vault, snapshot.as_ref(), &stored.record).await {
            Ok((target, _)) => {
                let link = vault.link(snapshot.as_ref(), &target).await?;
                Some((target.record.name, link))
            }
            Err(
                VaultError::NotFound { .. } | VaultError::Credential(CredentialError::OtherTarget { .. }),
            ) => None,
            Err(error) => return Err(error),
        };
        drop(snapshot);
        stored.leaving = true;
        let at = role_at(&vault.keys, name);
        let mut batch = Batch::new();
        batch.require(Keyspace::Roles, at.clone(), Precondition::Revision(revision));
        batch.put(Keyspace::Roles, at.clone(), seal(&vault.keys, Keyspace::Roles, &at, &stored)?);
        match vault.commit(permit.intent(), batch).await {
            Ok(revision) => return Ok(Leaving { stored, revision, target }),
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Err(VaultError::Contention { what: format!("role {name}") })
}

fn ttl_detail(record: &RoleRecord) -> Detail {
    vec![
        ("role_id", record.id.to_string()),
        ("target", record.target.to_string()),
        ("max_ttl_s", record.max_ttl.as_secs().to_string()),
    ]
}

impl Operation for PutRole {
    type Output = Role;
    const ACTION: Action = Action::RolesWrite;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Role(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Role, VaultError> {
        put(vault, &permit, self).await
    }

    fn detail(output: &Role) -> Detail {
        let mut detail = ttl_detail(&output.record);
        if let Some(definition) = &output.definition {
            detail.push(("excess", definition.excess.len().to_string()));
            detail.push(("missing", definition.missing.len().to_string()));
        }
        detail
    }
}

impl Operation for ReadRole {
    type Output = Role;
    const ACTION: Action = Action::RolesRead;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::Role(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Role, VaultError> {
        let snapshot = permit.view(vault).await?;
        let (stored, revision) = find(vault, &*snapshot, &self.name).await?;
        Ok(Role { record: stored.record, etag: revision.to_string(), definition: None })
    }

    fn detail(_: &Role) -> Detail {
        Detail::new()
    }
}

impl Operation for ListRoles {
    type Output = RolePage;
    const ACTION: Action = Action::RolesList;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<RolePage, VaultError> {
        let snapshot = permit.view(vault).await?;
        let (found, next) =
            page::<StoredRole>(vault, &*snapshot, Keyspace::Roles, self.after.as_deref(), self.limit).await?;
        let role = |(stored, revision): (StoredRole, Revision)| Role {
            record: stored.record,
            etag: revision.to_string(),
            definition: None,
        };
        Ok(RolePage { roles: found.into_iter().map(role).collect(), next })
    }

    fn detail(output: &RolePage) -> Detail {
        vec![("entries", output.roles.len().to_string())]
    }
}

impl Operation for DeleteRole {
    type Output = ();
    const ACTION: Action = Action::RolesDelete;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Role(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<(), VaultError> {
        delete(vault, &permit, &self.name).await
    }

    fn detail((): &()) -> Detail {
        Detail::new()
    }
}

impl Operation for VerifyRole {
    type Output = Role;
    const ACTION: Action = Action::RolesWrite;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::Role(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Role, VaultError> {
        let snapshot = permit.view(vault).await?;
        let (stored, revision) = find(vault, &*snapshot, &self.name).await?;
        let (target, _) = target_of(vault, &*snapshot, &stored.record).await?;
        let link = vault.link(&*snapshot, &target).await?;
        drop(snapshot);
        drop(permit);
        let verify = link.verify(&stored.record, &target.record.accepted);
        let definition = in_time(&target.record.name, DEFINE_AT_MOST, verify).await?;
        Ok(Role { record: stored.record, etag: revision.to_string(), definition: Some(definition) })
    }

    fn detail(output: &Role) -> Detail {
        ttl_detail(&output.record)
    }
}
