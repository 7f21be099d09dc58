//! Defining a static role: whoever knows the passwords that its logins have hands them over.
//!
//! Invariant: a password is kept only after the target let its login in with it; what it replaces is forgotten with the same write.

use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::RecordId;
use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::role::OnExcess;
use keystead_domain::static_role::{
    MAX_PERIOD_SECS, MIN_PERIOD_SECS, Schedule, StaticLogins, StaticRoleRecord, Which,
};
use keystead_domain::time::Ttl;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, Snapshot, StorageError, keyspace};

use super::super::links::{StoredLogin, Whose};
use super::super::targets::{self, StoredTarget};
use super::super::{CredentialError, ONE_CALL, TRIES, etag_matches, in_time, load, seal, target_at};
use super::{StaticRole, StoredStaticRole, described, place, require_free, role_at, taken};
use crate::error::VaultError;
use crate::keys::fresh_id;
use crate::operation::{Detail, Effect, Operation};
use crate::request::Permit;
use crate::unsealed::UnsealedVault;

/// Defines a static role, or changes it: each password that is given is tried before it is kept.
pub struct PutStaticRole {
    /// Its name.
    pub name: Name,
    /// Its target. It cannot change.
    pub target: Name,
    /// Its logins. They cannot change.
    pub logins: StaticLogins,
    /// The password of the first login; nothing keeps the one that the vault has.
    pub first: Option<SecretBytes>,
    /// The same of the second.
    pub second: Option<SecretBytes>,
    /// How long a password stays.
    pub period: Option<Ttl>,
    /// What happens when a login is more than a login.
    pub on_excess: OnExcess,
    /// It must be unchanged since this was read.
    pub etag: Option<String>,
}

fn check(op: &PutStaticRole) -> Result<(), VaultError> {
    let invalid = |field, rule: String| Err(VaultError::Invalid { field, rule });
    if op.period.is_some_and(|period| !(MIN_PERIOD_SECS..=MAX_PERIOD_SECS).contains(&period.as_secs())) {
        let days = MAX_PERIOD_SECS / 86_400;
        return invalid("rotation_period", format!("from {MIN_PERIOD_SECS} seconds to {days} days"));
    }
    if op.logins.alternate() && op.logins.name(Which::First) == op.logins.name(Which::Second) {
        return invalid("logins", "the two logins that take turns are the same".to_owned());
    }
    if op.second.is_some() && !op.logins.alternate() {
        return invalid("second_password", "there is no second login".to_owned());
    }
    Ok(())
}

fn keeps_its_logins(op: &PutStaticRole, old: &StoredStaticRole, target: RecordId) -> Result<(), VaultError> {
    if old.record.target_id == target && old.record.logins == op.logins {
        return Ok(());
    }
    let rule = "a static role keeps its target and its logins; delete it, and define it anew".to_owned();
    Err(VaultError::Invalid { field: "logins", rule })
}

/// None of its logins is one by which the vault works in that server.
async fn no_admins(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    target: &StoredTarget,
    op: &PutStaticRole,
) -> Result<(), VaultError> {
    for login in op.logins.names() {
        if targets::is_admin_of_any(vault, snapshot, target, login).await? {
            return Err(taken(&op.target, login).into());
        }
    }
    Ok(())
}

/// Tries the passwords that were given.
async fn try_given(
    vault: &UnsealedVault,
    snapshot: Box<dyn Snapshot>,
    target: &StoredTarget,
    op: &PutStaticRole,
) -> Result<(), VaultError> {
    let link = vault.link(snapshot.as_ref(), target).await?;
    drop(snapshot);
    for (which, given) in [(Which::First, &op.first), (Which::Second, &op.second)] {
        let (Some(login), Some(given)) = (op.logins.name(which), given) else { continue };
        let (target, login) = (op.target.to_string(), login.to_owned());
        match in_time(&op.target, ONE_CALL, link.try_login(&login, given)).await? {
            None => return Err(CredentialError::StaticLoginGiven { target, login }.into()),
            Some(excess) if !excess.is_empty() && op.on_excess == OnExcess::Refuse => {
                return Err(CredentialError::StaticExcess { target, login, excess }.into());
            }
            Some(excess) if !excess.is_empty() => {
                let excess: Vec<_> = excess.iter().map(ToString::to_string).collect();
                tracing::warn!(static_role = %op.name, login, ?excess, "a static login can do more than a service needs");
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn put(
    vault: &UnsealedVault,
    permit: &Permit<PutStaticRole>,
    op: PutStaticRole,
) -> Result<StaticRole, VaultError> {
    check(&op)?;
    let what = format!("static role {}", op.name);
    let _turn = vault.links.static_turn(&op.name).await;
    for _ in 0..TRIES {
        match put_once(vault, permit, &op, &what).await {
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
            done => return done,
        }
    }
    Err(VaultError::Contention { what })
}

async fn put_once(
    vault: &UnsealedVault,
    permit: &Permit<PutStaticRole>,
    op: &PutStaticRole,
    what: &str,
) -> Result<StaticRole, VaultError> {
    let at = role_at(&vault.keys, &op.name);
    let snapshot = vault.storage.snapshot().await?;
    vault.keys.follow_seal(snapshot.as_ref(), vault.storage.as_ref()).await?;
    let (target, target_revision) = targets::find(vault, snapshot.as_ref(), &op.target).await?;
    let kind = target.record.settings.kind();
    if op.logins.kind() != kind {
        let rule = format!("target {} is a {} target", op.target, kind.as_str());
        return Err(VaultError::Invalid { field: "logins", rule });
    }
    let old: Option<(StoredStaticRole, Revision)> =
        load(vault, snapshot.as_ref(), Keyspace::StaticRoles, &at).await?;
    etag_matches(op.etag.as_deref(), old.as_ref().map(|(_, revision)| *revision), what)?;
    let mut batch = Batch::new();
    match &old {
        Some((old, revision)) => {
            keeps_its_logins(op, old, target.record.id)?;
            batch.require(Keyspace::StaticRoles, at.clone(), Precondition::Revision(*revision));
        }
        None => {
            batch.require(Keyspace::StaticRoles, at.clone(), Precondition::Absent);
            no_admins(vault, snapshot.as_ref(), &target, op).await?;
            let settings = &target.record.settings;
            for login in op.logins.names() {
                let whose =
                    require_free(vault, snapshot.as_ref(), &op.target, settings, login, &mut batch).await?;
                let owner = seal(&vault.keys, Keyspace::StaticRoles, &whose, &op.name)?;
                batch.put(Keyspace::StaticRoles, whose, owner);
            }
        }
    }
    let target_key = target_at(&vault.keys, &op.target);
    batch.require(Keyspace::Targets, target_key, Precondition::Revision(target_revision));
    let old = old.map(|(old, _)| old);
    let created = old.is_none();
    let id = old.as_ref().map_or_else(fresh_id, |old| old.record.id);
    let given = Given {
        first: keep(vault, &mut batch, id, op.first.as_ref()).await?,
        second: keep(vault, &mut batch, id, op.second.as_ref()).await?,
    };
    let made = given.keys();
    let done = async {
        try_given(vault, snapshot, &target, op).await?;
        let (stored, gone) = define(vault, op, id, &target, old, given)?;
        for password in &gone {
            batch.delete(Keyspace::DataKeys, keyspace::data_key(password.data_key.as_bytes()));
        }
        batch.put(Keyspace::StaticRoles, at.clone(), seal(&vault.keys, Keyspace::StaticRoles, &at, &stored)?);
        // So that its target neither moves nor goes meanwhile, and no other one comes that works by its login.
        let _begun = vault.links.begun.read().await;
        if created {
            no_admins(vault, vault.storage.snapshot().await?.as_ref(), &target, op).await?;
        }
        let revision = vault.commit(permit.intent(), batch).await?;
        Ok((stored, gone, revision))
    };
    match done.await {
        Ok((stored, gone, revision)) => {
            vault.static_role_is_due(&stored.record);
            for password in &gone {
                vault.forget_login(password).await;
            }
            Ok(StaticRole::of(stored, revision))
        }
        Err(error) => {
            made.into_iter().for_each(|key| vault.keys.forget_data_key(key));
            Err(error)
        }
    }
}

/// Passwords that came with a request, sealed.
struct Given {
    first: Option<StoredLogin>,
    second: Option<StoredLogin>,
}

impl Given {
    fn keys(&self) -> Vec<RecordId> {
        self.first.iter().chain(&self.second).map(|password| password.data_key).collect()
    }
}

async fn keep(
    vault: &UnsealedVault,
    batch: &mut Batch,
    role: RecordId,
    secret: Option<&SecretBytes>,
) -> Result<Option<StoredLogin>, VaultError> {
    match secret {
        Some(secret) => Ok(Some(vault.seal_login(batch, Whose::of_static_role(role), secret).await?)),
        None => Ok(None),
    }
}

/// The role as it is to be, and the passwords that are not needed any more.
fn define(
    vault: &UnsealedVault,
    op: &PutStaticRole,
    id: RecordId,
    target: &StoredTarget,
    old: Option<StoredStaticRole>,
    given: Given,
) -> Result<(StoredStaticRole, Vec<StoredLogin>), VaultError> {
    let (now, lease_now) = (vault.clock.now(), vault.leases.clock.now());
    let Some(mut stored) = old else {
        let lacking = |field: &'static str| {
            let rule = "a new static role needs the password that its login has now".to_owned();
            VaultError::Invalid { field, rule }
        };
        if op.logins.alternate() && given.second.is_none() {
            return Err(lacking("second_password"));
        }
        let record = StaticRoleRecord {
            id,
            name: op.name.clone(),
            target: op.target.clone(),
            target_id: target.record.id,
            logins: op.logins.clone(),
            period: op.period,
            on_excess: op.on_excess,
            created: now,
            changed: now,
            schedule: Schedule::new(op.period, lease_now),
        };
        let first = given.first.ok_or_else(|| lacking("first_password"))?;
        let place = place(&target.record.settings);
        return Ok((
            StoredStaticRole { record, place, first, second: given.second, pending: None },
            Vec::new(),
        ));
    };
    let mut gone = Vec::new();
    for (which, given) in [(Which::First, given.first), (Which::Second, given.second)] {
        let Some(given) = given else { continue };
        // Somebody set it there by hand: a rotation of this login that is under way has nothing to go on from.
        if stored.record.schedule.give_up(which) {
            gone.extend(stored.pending.take());
        }
        gone.extend(stored.replace(which, given));
        stored.record.schedule.given(which);
    }
    if stored.record.period != op.period {
        stored.record.schedule.reschedule(op.period, lease_now);
    }
    (stored.record.period, stored.record.on_excess, stored.record.changed) = (op.period, op.on_excess, now);
    Ok((stored, gone))
}

impl Operation for PutStaticRole {
    type Output = StaticRole;
    const ACTION: Action = Action::StaticRolesWrite;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::StaticRole(self.name.clone())
    }

    fn asked(&self) -> Detail {
        let names: Vec<_> = self.logins.names().collect();
        let given = usize::from(self.first.is_some()) + usize::from(self.second.is_some());
        let on_excess = match self.on_excess {
            OnExcess::Refuse => "refuse",
            OnExcess::Warn => "warn",
        };
        vec![
            ("logins", names.join(",")),
            ("passwords_given", given.to_string()),
            ("on_excess", on_excess.to_owned()),
        ]
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<StaticRole, VaultError> {
        put(vault, &permit, self).await
    }

    fn detail(output: &StaticRole) -> Detail {
        described(&output.record)
    }
}
