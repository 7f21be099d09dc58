//! Static roles: logins that somebody else made, whose passwords the vault keeps, changes and hands out.
//!
//! Invariant: a login belongs to one static role; each of its passwords lies under a data key of its own; what is handed out
//! was let in by the target when the vault last tried it. Absent: making logins, and removing them.

pub mod credential;
mod put;
pub mod rotate;
#[cfg(test)]
mod tests;

use keystead_domain::id::RecordId;
use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::static_role::{StaticRoleRecord, Which};
use keystead_domain::target::TargetSettings;
use keystead_storage::{Batch, Keyspace, Precondition, Range, Revision, Snapshot, StorageError, keyspace};
use serde::{Deserialize, Serialize};

pub use self::put::PutStaticRole;
use super::links::StoredLogin;
use super::targets::{self, StoredTarget};
use super::{CredentialError, TRIES, load, page_of};
use crate::error::VaultError;
use crate::keys::Keys;
use crate::operation::{Detail, Effect, Operation};
use crate::request::Permit;
use crate::unsealed::UnsealedVault;

const PAGE: usize = 256;

/// A static role as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredStaticRole {
    pub(super) record: StaticRoleRecord,
    /// The server that the logins are in, whatever its targets are called.
    pub(super) place: String,
    pub(super) first: StoredLogin,
    pub(super) second: Option<StoredLogin>,
    /// What a login is getting.
    pub(super) pending: Option<StoredLogin>,
}

impl StoredStaticRole {
    /// The password that a login has.
    fn password(&self, which: Which) -> Option<&StoredLogin> {
        match which {
            Which::First => Some(&self.first),
            Which::Second => self.second.as_ref(),
        }
    }

    /// Another one; tells the one before.
    fn replace(&mut self, which: Which, password: StoredLogin) -> Option<StoredLogin> {
        match which {
            Which::First => Some(std::mem::replace(&mut self.first, password)),
            Which::Second => self.second.replace(password),
        }
    }

    fn login(&self, which: Which) -> &str {
        self.record.logins.name(which).unwrap_or_default()
    }
}

/// A static role with its revision.
#[derive(Debug, Clone)]
pub struct StaticRole {
    /// The record.
    pub record: StaticRoleRecord,
    /// Its revision, opaque.
    pub etag: String,
}

impl StaticRole {
    fn of(stored: StoredStaticRole, revision: Revision) -> Self {
        Self { record: stored.record, etag: revision.to_string() }
    }
}

/// Reads a static role's definition.
pub struct ReadStaticRole {
    /// Which.
    pub name: Name,
}

/// Lists static roles in a stable order.
pub struct ListStaticRoles {
    /// At most this many.
    pub limit: usize,
    /// The key to go on after.
    pub after: Option<Vec<u8>>,
}

/// A page of static roles.
pub struct StaticRolePage {
    /// The static roles.
    pub roles: Vec<StaticRole>,
    /// The key to go on after.
    pub next: Option<Vec<u8>>,
}

/// Forgets a static role. Its logins stay in the target, with passwords that nobody has then.
pub struct DeleteStaticRole {
    /// Which.
    pub name: Name,
}

fn role_at(keys: &Keys, name: &Name) -> Vec<u8> {
    keyspace::static_role(&keys.lookup.tag("static-role", &[name.as_str().as_bytes()]))
}

/// Logins are a server's, which may be several targets.
fn place(settings: &TargetSettings) -> String {
    let TargetSettings::Postgres(at) = settings;
    format!("postgres {} {}", at.host.as_str(), at.port)
}

fn login_at(keys: &Keys, place: &str, login: &str) -> Vec<u8> {
    keyspace::static_login(&keys.lookup.tag("static-login", &[place.as_bytes(), login.as_bytes()]))
}

/// Has a batch require that a login is no static role's; tells where that would be.
pub(super) async fn require_free(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    target: &Name,
    settings: &TargetSettings,
    login: &str,
    batch: &mut Batch,
) -> Result<Vec<u8>, VaultError> {
    let whose = login_at(&vault.keys, &place(settings), login);
    if snapshot.get(Keyspace::StaticRoles, &whose).await?.is_some() {
        return Err(taken(target, login).into());
    }
    batch.require(Keyspace::StaticRoles, whose.clone(), Precondition::Absent);
    Ok(whose)
}

fn taken(target: &Name, login: &str) -> CredentialError {
    CredentialError::LoginTaken { target: target.to_string(), login: login.to_owned() }
}

/// The static role of a name.
async fn find(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    name: &Name,
) -> Result<(StoredStaticRole, Revision), VaultError> {
    let at = role_at(&vault.keys, name);
    load(vault, snapshot, Keyspace::StaticRoles, &at)
        .await?
        .ok_or_else(|| VaultError::NotFound { what: format!("static role {name}") })
}

/// Its target: the one that it was defined for, not another of that name.
async fn target_of(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    role: &StaticRoleRecord,
) -> Result<StoredTarget, VaultError> {
    let (target, _) = targets::find(vault, snapshot, &role.target).await?;
    if target.record.id == role.target_id {
        return Ok(target);
    }
    let (role, target) = (role.name.to_string(), role.target.to_string());
    Err(CredentialError::OtherTarget { role, target }.into())
}

/// How many there are on a target.
pub(super) async fn on_target(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    target: RecordId,
) -> Result<u64, VaultError> {
    let mut count = 0_u64;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let range = Range::prefix(keyspace::STATIC_ROLES, after.as_deref());
        let (roles, next) =
            page_of::<StoredStaticRole>(vault, snapshot, Keyspace::StaticRoles, range, PAGE).await?;
        let of = roles.iter().filter(|(role, _)| role.record.target_id == target).count();
        count = count.saturating_add(u64::try_from(of).unwrap_or(u64::MAX));
        match next {
            Some(next) => after = Some(next),
            None => return Ok(count),
        }
    }
}

async fn delete(
    vault: &UnsealedVault,
    permit: &Permit<DeleteStaticRole>,
    name: &Name,
) -> Result<(), VaultError> {
    let _turn = vault.links.static_turn(name).await;
    for _ in 0..TRIES {
        let snapshot = vault.storage.snapshot().await?;
        let (stored, revision) = find(vault, snapshot.as_ref(), name).await?;
        drop(snapshot);
        let at = role_at(&vault.keys, name);
        let mut batch = Batch::new();
        batch.require(Keyspace::StaticRoles, at.clone(), Precondition::Revision(revision));
        batch.delete(Keyspace::StaticRoles, at);
        for login in stored.record.logins.names() {
            batch.delete(Keyspace::StaticRoles, login_at(&vault.keys, &stored.place, login));
        }
        let passwords: Vec<_> =
            std::iter::once(stored.first).chain(stored.second).chain(stored.pending).collect();
        for password in &passwords {
            batch.delete(Keyspace::DataKeys, keyspace::data_key(password.data_key.as_bytes()));
        }
        match vault.commit(permit.intent(), batch).await {
            Ok(_) => {
                for password in &passwords {
                    vault.forget_login(password).await;
                }
                return Ok(());
            }
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Err(VaultError::Contention { what: format!("static role {name}") })
}

fn described(record: &StaticRoleRecord) -> Detail {
    vec![
        ("static_role_id", record.id.to_string()),
        ("target", record.target.to_string()),
        ("version", record.schedule.handed_out_version().to_string()),
    ]
}

impl Operation for ReadStaticRole {
    type Output = StaticRole;
    const ACTION: Action = Action::StaticRolesRead;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::StaticRole(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<StaticRole, VaultError> {
        let snapshot = permit.view(vault).await?;
        let (stored, revision) = find(vault, &*snapshot, &self.name).await?;
        Ok(StaticRole::of(stored, revision))
    }

    fn detail(_: &StaticRole) -> Detail {
        Detail::new()
    }
}

impl Operation for ListStaticRoles {
    type Output = StaticRolePage;
    const ACTION: Action = Action::StaticRolesList;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<StaticRolePage, VaultError> {
        let snapshot = permit.view(vault).await?;
        let range = Range::prefix(keyspace::STATIC_ROLES, self.after.as_deref());
        let (found, next) =
            page_of::<StoredStaticRole>(vault, &*snapshot, Keyspace::StaticRoles, range, self.limit).await?;
        let roles = found.into_iter().map(|(stored, revision)| StaticRole::of(stored, revision)).collect();
        Ok(StaticRolePage { roles, next })
    }

    fn detail(output: &StaticRolePage) -> Detail {
        vec![("entries", output.roles.len().to_string())]
    }
}

impl Operation for DeleteStaticRole {
    type Output = ();
    const ACTION: Action = Action::StaticRolesDelete;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::StaticRole(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<(), VaultError> {
        delete(vault, &permit, &self.name).await
    }

    fn detail((): &()) -> Detail {
        Detail::new()
    }
}
