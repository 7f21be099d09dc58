//! Adding a target, or changing it.
//!
//! Invariant: it is used once before it is stored; while logins of the vault's, or passwords that it keeps, are in it, it does not
//! move, and a password that somebody else knows goes nowhere else. Its admin login is no static role's.

use std::sync::atomic::Ordering;

use keystead_crypto::secret::SecretBytes;
use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::target::{TargetRecord, TargetSettings};
use keystead_domain::time::Ttl;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, StorageError, keyspace};

use super::super::links::Whose;
use super::super::{CredentialError, TRIES, etag_matches, in_time, load, seal, static_roles, target_at};
use super::{PROBE_AT_MOST, StoredTarget, Target, live_on};
use crate::engine::{AdminLogin, Finding, Probe};
use crate::error::VaultError;
use crate::keys::fresh_id;
use crate::operation::{Detail, Effect, Operation};
use crate::request::Permit;
use crate::unsealed::UnsealedVault;

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
        let TargetSettings::Postgres(at_server) = &op.settings;
        let admin = at_server.admin.as_str();
        static_roles::require_free(vault, snapshot.as_ref(), &op.name, &op.settings, admin, &mut batch)
            .await?;
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
            Some(login) => SecretBytes::copy_from(login.secret.expose()),
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
        let unmatched = unmatched(&op.accept, &probe, old.as_ref().map(|(old, _)| old));
        if !findings.is_empty() || !unmatched.is_empty() {
            vault.keys.forget_data_key(stored.login.data_key);
            return Err(not_accepted(op.name.to_string(), findings, unmatched));
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
                vault.links.static_pauses.end(id);
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

/// Digests that are of nothing there: a slip, unless what was accepted before is closed by now.
fn unmatched(accept: &[String], probe: &Probe, old: Option<&StoredTarget>) -> Vec<String> {
    let there = |digest: &String| probe.baseline.iter().any(|found| found.digest == *digest);
    let before = |digest: &String| old.is_some_and(|old| old.record.accepted.contains(digest));
    accept.iter().filter(|digest| !there(digest) && !before(digest)).cloned().collect()
}

fn not_accepted(target: String, findings: Vec<Finding>, unmatched: Vec<String>) -> VaultError {
    if findings.is_empty() {
        let rule = format!(
            "nothing that everybody may do there has the digest {}; leave it out, since nothing is left to accept",
            unmatched.join(" or ")
        );
        return VaultError::Invalid { field: "target.accepted", rule };
    }
    CredentialError::Baseline { target, findings, unmatched }.into()
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
