//! Targets: added with their admin login, which is proven by issuing and revoking once.

mod put;

use std::sync::Arc;
use std::time::Duration;

use keystead_domain::id::RecordId;
use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::target::{TargetRecord, TargetSettings};
use keystead_storage::{Batch, Keyspace, Precondition, Revision, Snapshot, StorageError, keyspace};
use serde::{Deserialize, Serialize};

pub use self::put::PutTarget;
use super::links::{StoredLogin, Whose};
use super::roles::StoredRole;
use super::static_roles;
use super::{CredentialError, ONE_CALL, TRIES, in_time, load, page, target_at};
use crate::engine::{EngineError, Link, Probe, Setup};
use crate::error::VaultError;
use crate::leases::counts;
use crate::operation::{Detail, Effect, Operation};
use crate::request::Permit;
use crate::unsealed::UnsealedVault;

/// A probe issues and revokes a login; it may take this long.
const PROBE_AT_MOST: Duration = Duration::from_secs(30);
const PAGE: usize = 256;

/// A target as stored, with its admin login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredTarget {
    pub(crate) record: TargetRecord,
    pub(super) login: StoredLogin,
    /// The next one, while the target is given it.
    pub(super) pending: Option<StoredLogin>,
}

/// A target with its revision.
#[derive(Debug, Clone)]
pub struct Target {
    /// The record.
    pub record: TargetRecord,
    /// Its revision, opaque.
    pub etag: String,
    /// What was learnt by using it, where it was used.
    pub probe: Option<Probe>,
}

/// Reads a target's settings.
pub struct ReadTarget {
    /// Which.
    pub name: Name,
}

/// Lists targets in a stable order.
pub struct ListTargets {
    /// At most this many.
    pub limit: usize,
    /// The key to go on after.
    pub after: Option<Vec<u8>>,
}

/// A page of targets.
pub struct TargetPage {
    /// The targets.
    pub targets: Vec<Target>,
    /// The key to go on after.
    pub next: Option<Vec<u8>>,
}

/// Removes a target that no role and no lease needs.
pub struct DeleteTarget {
    /// Which.
    pub name: Name,
}

/// Uses a target once, and tells what was learnt.
pub struct ProbeTarget {
    /// Which.
    pub name: Name,
}

/// Shows what an administrator of a target runs once before it is added.
pub struct TargetSetup {
    /// The name that it is to have.
    pub name: Name,
    /// What it needs.
    pub setup: Setup,
}

/// The target of a name.
///
/// # Errors
/// `NotFound`.
pub(crate) async fn find(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    name: &Name,
) -> Result<(StoredTarget, Revision), VaultError> {
    let at = target_at(&vault.keys, name);
    load(vault, snapshot, Keyspace::Targets, &at)
        .await?
        .ok_or_else(|| VaultError::NotFound { what: format!("target {name}") })
}

/// Targets with their links, and the key to go on after.
pub(crate) type Linked = (Vec<(Name, RecordId, Arc<dyn Link>)>, Option<Vec<u8>>);

/// Links to targets, some at a time.
pub(crate) async fn links(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Linked, VaultError> {
    let (found, next) = page::<StoredTarget>(vault, snapshot, Keyspace::Targets, after, limit).await?;
    let mut links = Vec::with_capacity(found.len());
    for (target, _) in found {
        match vault.link(snapshot, &target).await {
            Ok(link) => links.push((target.record.name, target.record.id, link)),
            // A login that does not open, or settings that make no link: the others are there all the same.
            Err(error) => tracing::error!(target = %target.record.name, %error, "a target is left out"),
        }
    }
    Ok((links, next))
}

/// Read anew each time: nobody counts by target.
async fn live_on(vault: &UnsealedVault, target: RecordId) -> Result<u64, VaultError> {
    counts::in_index(vault.storage.as_ref(), &keyspace::leases_of_target(target.as_bytes())).await
}

/// Whether a login is the admin login of this target or of another one in the same server.
pub(super) async fn is_admin_of_any(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    target: &StoredTarget,
    login: &str,
) -> Result<bool, VaultError> {
    let TargetSettings::Postgres(here) = &target.record.settings;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let (found, next) =
            page::<StoredTarget>(vault, snapshot, Keyspace::Targets, after.as_deref(), PAGE).await?;
        let admin = found.iter().any(|(other, _)| {
            let TargetSettings::Postgres(there) = &other.record.settings;
            (&there.host, there.port) == (&here.host, here.port) && there.admin.as_str() == login
        });
        match next {
            _ if admin => return Ok(true),
            Some(next) => after = Some(next),
            None => return Ok(false),
        }
    }
}

/// Roles that are defined on a target.
async fn roles_on(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    target: RecordId,
) -> Result<u64, VaultError> {
    let mut count = 0_u64;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let (roles, next) =
            page::<StoredRole>(vault, snapshot, Keyspace::Roles, after.as_deref(), PAGE).await?;
        let of = roles.iter().filter(|(role, _)| role.record.target_id == target).count();
        count = count.saturating_add(u64::try_from(of).unwrap_or(u64::MAX));
        match next {
            Some(next) => after = Some(next),
            None => return Ok(count),
        }
    }
}

async fn delete(vault: &UnsealedVault, permit: &Permit<DeleteTarget>, name: &Name) -> Result<(), VaultError> {
    let what = format!("target {name}");
    for _ in 0..TRIES {
        let snapshot = vault.storage.snapshot().await?;
        let (stored, revision) = find(vault, snapshot.as_ref(), name).await?;
        let id = stored.record.id;
        let in_use = |count, of, mend| CredentialError::InUse { what: what.clone(), count, of, mend };
        match roles_on(vault, snapshot.as_ref(), id).await? {
            0 => {}
            roles => return Err(in_use(roles, "roles", "delete them first").into()),
        }
        drop(snapshot);
        let none_begun = vault.links.begun.write().await;
        let snapshot = vault.storage.snapshot().await?;
        match static_roles::on_target(vault, snapshot.as_ref(), id).await? {
            0 => {}
            roles => return Err(in_use(roles, "static roles", "delete them first").into()),
        }
        drop(snapshot);
        match live_on(vault, id).await? {
            0 => {}
            leases => return Err(in_use(leases, "live leases", "revoke them first").into()),
        }
        let at = target_at(&vault.keys, name);
        let mut batch = Batch::new();
        batch.require(Keyspace::Targets, at.clone(), Precondition::Revision(revision));
        batch.delete(Keyspace::Targets, at);
        let logins: Vec<_> = std::iter::once(stored.login).chain(stored.pending).collect();
        for login in &logins {
            batch.delete(Keyspace::DataKeys, keyspace::data_key(login.data_key.as_bytes()));
        }
        let committed = vault.commit(permit.intent(), batch).await;
        drop(none_begun);
        match committed {
            Ok(_) => {
                vault.links.forget(id);
                vault.links.settling.end(id);
                vault.links.static_pauses.end(id);
                for login in &logins {
                    vault.forget_login(login).await;
                }
                return Ok(());
            }
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Err(VaultError::Contention { what })
}

impl Operation for ReadTarget {
    type Output = Target;
    const ACTION: Action = Action::TargetsRead;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::Target(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Target, VaultError> {
        let snapshot = permit.view(vault).await?;
        let (stored, revision) = find(vault, &*snapshot, &self.name).await?;
        Ok(Target { record: stored.record, etag: revision.to_string(), probe: None })
    }

    fn detail(_: &Target) -> Detail {
        Detail::new()
    }
}

impl Operation for ListTargets {
    type Output = TargetPage;
    const ACTION: Action = Action::TargetsList;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<TargetPage, VaultError> {
        let snapshot = permit.view(vault).await?;
        let (found, next) =
            page::<StoredTarget>(vault, &*snapshot, Keyspace::Targets, self.after.as_deref(), self.limit)
                .await?;
        let target = |(stored, revision): (StoredTarget, Revision)| Target {
            record: stored.record,
            etag: revision.to_string(),
            probe: None,
        };
        Ok(TargetPage { targets: found.into_iter().map(target).collect(), next })
    }

    fn detail(output: &TargetPage) -> Detail {
        vec![("entries", output.targets.len().to_string())]
    }
}

impl Operation for DeleteTarget {
    type Output = ();
    const ACTION: Action = Action::TargetsDelete;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Target(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<(), VaultError> {
        delete(vault, &permit, &self.name).await
    }

    fn detail((): &()) -> Detail {
        Detail::new()
    }
}

impl Operation for ProbeTarget {
    type Output = Target;
    const ACTION: Action = Action::TargetsWrite;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Target(self.name.clone())
    }

    fn asked(&self) -> Detail {
        vec![("probe", "issue and revoke once".to_owned())]
    }

    async fn handle(self, vault: &UnsealedVault, _: Permit<Self>) -> Result<Target, VaultError> {
        let snapshot = vault.storage.snapshot().await?;
        let (stored, revision) = find(vault, snapshot.as_ref(), &self.name).await?;
        let link = vault.link(snapshot.as_ref(), &stored).await?;
        let secret =
            vault.open_login(snapshot.as_ref(), Whose::admin(stored.record.id), &stored.login).await?;
        drop(snapshot);
        // The link's connections may be from before somebody changed the password.
        if !in_time(&self.name, ONE_CALL, link.admin_secret_works(&secret)).await? {
            return Err(CredentialError::from(EngineError::admin_password(self.name.to_string())).into());
        }
        let probe = in_time(&self.name, PROBE_AT_MOST, link.probe()).await?;
        vault.target_answers(stored.record.id);
        Ok(Target { record: stored.record, etag: revision.to_string(), probe: Some(probe) })
    }

    fn detail(_: &Target) -> Detail {
        Detail::new()
    }
}

impl Operation for TargetSetup {
    type Output = String;
    const ACTION: Action = Action::TargetsWrite;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::Target(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, _: Permit<Self>) -> Result<String, VaultError> {
        Ok(vault.links.engine(self.setup.kind())?.setup(vault.keys.vault, &self.setup))
    }

    fn detail(_: &String) -> Detail {
        Detail::new()
    }
}
