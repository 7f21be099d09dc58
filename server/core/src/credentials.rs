//! Logins in targets: targets and roles are defined by operators, logins are issued to services, as leases.
//!
//! Invariant: a login is owned by a lease that is in the store before the login exists; its secret is made here, handed out
//! once and kept nowhere. The admin login of a target lies under a data key of its own, and nothing answers with it.

pub mod admin;
mod error;
pub mod issue;
mod links;
mod pauses;
pub mod roles;
pub mod static_roles;
pub mod targets;

use std::time::Duration;

use keystead_domain::name::Name;
use keystead_storage::{Keyspace, Range, Revision, Snapshot, keyspace};
use serde::de::DeserializeOwned;

pub use self::error::CredentialError;
pub(crate) use self::links::Links;
pub(crate) use self::pauses::jitter;
use crate::engine::EngineError;
use crate::error::VaultError;
use crate::keys::{Keys, corrupt};
use crate::records;
use crate::unsealed::UnsealedVault;

/// Tries of one change against other writers.
const TRIES: usize = 8;
/// A target has so long for one thing: to renew or remove a login, to tell the time.
pub(crate) const ONE_CALL: Duration = Duration::from_secs(20);

/// A call to a target, with a deadline. Whoever waits here holds no snapshot: nothing that a snapshot can see is purged.
pub(crate) async fn in_time<T>(
    target: &Name,
    at_most: Duration,
    call: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, CredentialError> {
    match tokio::time::timeout(at_most, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => {
            let (target, seconds) = (target.to_string(), at_most.as_secs());
            Err(CredentialError::Slow { target, seconds, then: "ask again later" })
        }
    }
}

fn target_at(keys: &Keys, name: &Name) -> Vec<u8> {
    keyspace::target(&keys.lookup.tag("target", &[name.as_str().as_bytes()]))
}

fn role_at(keys: &Keys, name: &Name) -> Vec<u8> {
    keyspace::role(&keys.lookup.tag("role", &[name.as_str().as_bytes()]))
}

fn open<T: DeserializeOwned>(
    vault: &UnsealedVault,
    keyspace: Keyspace,
    at: &[u8],
    stored: &[u8],
) -> Result<T, VaultError> {
    let plain = vault.keys.open_record(keyspace, at, stored)?;
    records::decode(plain.expose()).ok_or_else(|| corrupt(keyspace, at))
}

async fn load<T: DeserializeOwned>(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    keyspace: Keyspace,
    at: &[u8],
) -> Result<Option<(T, Revision)>, VaultError> {
    let Some(stored) = snapshot.get(keyspace, at).await? else { return Ok(None) };
    Ok(Some((open(vault, keyspace, at, &stored.value)?, stored.revision)))
}

fn seal<T: serde::Serialize>(
    keys: &Keys,
    keyspace: Keyspace,
    at: &[u8],
    record: &T,
) -> Result<Vec<u8>, VaultError> {
    let plain = records::encode(record).map_err(|_| corrupt(keyspace, at))?;
    keys.seal_record(keyspace, at, &plain)
}

/// Records of one keyspace, and the key to go on after.
type Page<T> = (Vec<(T, Revision)>, Option<Vec<u8>>);

/// One that does not open is put aside with an alarm, and does not hide the others.
async fn page<T: DeserializeOwned>(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    keyspace: Keyspace,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Page<T>, VaultError> {
    page_of(vault, snapshot, keyspace, Range::all(after), limit).await
}

/// The same within a range of keys.
async fn page_of<T: DeserializeOwned>(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    keyspace: Keyspace,
    range: Range,
    limit: usize,
) -> Result<Page<T>, VaultError> {
    let stored = snapshot.range(keyspace, range, limit.saturating_add(1)).await?;
    let more = stored.len() > limit;
    let mut found = Vec::with_capacity(stored.len().min(limit));
    let mut last = None;
    for (at, versioned) in stored.into_iter().take(limit) {
        match open(vault, keyspace, &at, &versioned.value) {
            Ok(record) => found.push((record, versioned.revision)),
            Err(error) => tracing::error!(%error, "a record is left out"),
        }
        last = Some(at.to_vec());
    }
    Ok((found, last.filter(|_| more)))
}

fn etag_matches(asked: Option<&str>, current: Option<Revision>, what: &str) -> Result<(), VaultError> {
    match asked {
        Some(asked) if current.map(|revision| revision.to_string()).as_deref() != Some(asked) => {
            Err(VaultError::EtagMismatch { what: what.to_owned() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod vectors;
