//! Targets: added with their admin login, which is proven by issuing and revoking once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keystead_domain::id::RecordId;
use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::target::{TargetRecord, TargetSettings};
use keystead_domain::time::Ttl;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, Snapshot, StorageError, keyspace};
use serde::{Deserialize, Serialize};

use super::links::{StoredLogin, Whose};
use super::roles::StoredRole;
use super::static_roles;
use super::{CredentialError, ONE_CALL, TRIES, etag_matches, in_time, load, page, seal, target_at};
use crate::engine::{AdminLogin, EngineError, Link, Probe, Setup};
use crate::error::VaultError;
use crate::keys::fresh_id;
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

/// Adds a target, or changes it. It is used once before it is stored.
pub struct PutTarget {
    /// Its name.
    pub name: Name,
    /// How it is reached.
    pub settings: TargetSettings,
    /// Its admin login; nothing keeps the one it has.
    pub login: Option<AdminLogin>,
    /// No lease on it lives longer.
    pub max_ttl: Ttl,
    /// Digests of what everybody may do there, accepted.
    pub accept: Vec<String>,
    /// It must be unchanged since this was read.
    pub etag: Option<String>,
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

async fn put(vault: &UnsealedVault, permit: &Permit<PutTarget>, op: PutTarget) -> Result<Target, VaultError> {
    let what = format!("target {}", op.name);
    let at = target_at(&vault.keys, &op.name);
    for _ in 0..TRIES {
        let snapshot = vault.storage.snapshot().await?;
        vault.keys.follow_seal(snapshot.as_ref(), vault.storage.as_ref()).await?;
        let old: Option<(StoredTarget, Revision)> =
            load(vault, snapshot.as_ref(), Keyspace::Targets, &at).await?;
        etag_matches(op.etag.as_deref(), old.as_ref().map(|(_, revision)| *revision), &what)?;
        if let Some((old, _)) = &old {
            check_moves(vault, old, &op).await?;
        }
        let mut batch = Batch::new();
        let (id, created) = match &old {
            Some((old, _)) => (old.record.id, old.record.created),
            None => (fresh_id(), vault.clock.now()),
        };
        let login = match (&op.login, &old) {
            (Some(login), _) => vault.seal_login(&mut batch, Whose::admin(id), &login.secret).await?,
            (None, Some((old, _))) => {
                check_keeps_login(old, &op)?;
                old.login.clone()
            }
            (None, None) => {
                let rule = "a new target needs the password of its admin login".to_owned();
                return Err(VaultError::Invalid { field: "login", rule });
            }
        };
        let kept = old.as_ref().map(|(old, _)| old).filter(|_| op.login.is_none());
        let record = TargetRecord {
            id,
            name: op.name.clone(),
            settings: op.settings.clone(),
            max_ttl: op.max_ttl,
            accepted: op.accept.clone(),
            created,
            rotated: kept.and_then(|old| old.record.rotated),
        };
        // A rotation under way goes forward: the target may have taken the new password already.
        let pending = old.as_ref().and_then(|(old, _)| old.pending.clone());
        let stored = StoredTarget { record, login, pending };
        let secret = match &op.login {
            Some(login) => keystead_crypto::secret::SecretBytes::copy_from(login.secret.expose()),
            None => vault.open_login(snapshot.as_ref(), Whose::admin(id), &stored.login).await?,
        };
        // Nothing is purged from the store's files that a snapshot can still see.
        drop(snapshot);
        let link = vault.new_link(&stored, secret)?;
        let probe = in_time(&op.name, PROBE_AT_MOST, link.probe())
            .await
            .map_err(|error| error.then("the target is not stored"))?;
        let findings: Vec<_> =
            probe.baseline.iter().filter(|found| !op.accept.contains(&found.digest)).cloned().collect();
        if !findings.is_empty() {
            vault.keys.forget_data_key(stored.login.data_key);
            return Err(CredentialError::Baseline { target: op.name.to_string(), findings }.into());
        }
        let unchanged =
            old.as_ref().map_or(Precondition::Absent, |(_, revision)| Precondition::Revision(*revision));
        let none_begun = vault.links.begun.write().await;
        if let Some((old, _)) = &old {
            // Once more: the probe took its time, and logins were issued meanwhile.
            check_moves(vault, old, &op).await?;
        }
        batch.require(Keyspace::Targets, at.clone(), unchanged);
        batch.put(Keyspace::Targets, at.clone(), seal(&vault.keys, Keyspace::Targets, &at, &stored)?);
        let replaced = old.map(|(old, _)| old.login).filter(|login| *login != stored.login);
        if let Some(replaced) = &replaced {
            batch.delete(Keyspace::DataKeys, keyspace::data_key(replaced.data_key.as_bytes()));
        }
        let committed = vault.commit(permit.intent(), batch).await;
        drop(none_begun);
        match committed {
            Ok(revision) => {
                vault.links.settling.end(id);
                if stored.pending.is_some() {
                    vault.links.logins_unsettled.store(true, Ordering::Release);
                }
                if let Some(replaced) = &replaced {
                    vault.forget_login(replaced).await;
                }
                return Ok(Target { record: stored.record, etag: revision.to_string(), probe: Some(probe) });
            }
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Err(VaultError::Contention { what })
}

/// A password goes only where it was meant to go: who may change a target, and does not know its password, does not send it
/// elsewhere, and has no other server trusted with it.
fn check_keeps_login(old: &StoredTarget, op: &PutTarget) -> Result<(), VaultError> {
    let (TargetSettings::Postgres(was), TargetSettings::Postgres(is)) = (&old.record.settings, &op.settings);
    // Another database of the same server has the same logins.
    let same = (&was.host, was.port, &was.server_name) == (&is.host, is.port, &is.server_name)
        && (&was.ca_pem, &was.admin) == (&is.ca_pem, &is.admin);
    if same {
        return Ok(());
    }
    let rule = "host, port, server name, CA or admin login change, so the password of the admin login is needed as well";
    Err(VaultError::Invalid { field: "login", rule: rule.to_owned() })
}

/// Live leases name logins in the database that they were made in.
async fn check_moves(vault: &UnsealedVault, old: &StoredTarget, op: &PutTarget) -> Result<(), VaultError> {
    let (TargetSettings::Postgres(was), TargetSettings::Postgres(is)) = (&old.record.settings, &op.settings);
    if (&was.host, was.port, &was.database) == (&is.host, is.port, &is.database) {
        return Ok(());
    }
    let count = live_on(vault, old.record.id).await?;
    if count > 0 {
        let mend = "revoke them before it moves, or add the other database as a target of its own";
        let what = format!("target {}", op.name);
        return Err(CredentialError::InUse { what, count, of: "live leases", mend }.into());
    }
    // Their passwords would be sent to the other place.
    let snapshot = vault.storage.snapshot().await?;
    let count = static_roles::on_target(vault, snapshot.as_ref(), old.record.id).await?;
    if count > 0 {
        let mend = "add the other database as a target of its own, and define them there";
        let what = format!("target {}", op.name);
        return Err(CredentialError::InUse { what, count, of: "static roles", mend }.into());
    }
    Ok(())
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

impl Operation for PutTarget {
    type Output = Target;
    const ACTION: Action = Action::TargetsWrite;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Target(self.name.clone())
    }

    fn asked(&self) -> Detail {
        vec![("kind", self.settings.kind().as_str().to_owned()), ("accepted", self.accept.join(","))]
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Target, VaultError> {
        put(vault, &permit, self).await
    }

    fn detail(output: &Target) -> Detail {
        vec![("target_id", output.record.id.to_string())]
    }
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
            let what = "the admin login's password is not taken; set one there (`\\password` in psql), and hand it over with `keystead target put --password-file`".to_owned();
            let target = self.name.to_string();
            return Err(CredentialError::from(EngineError::Admin { target, what }).into());
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
