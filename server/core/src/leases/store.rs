//! Leases in the store: the record, and the index entries that lead to it.
//!
//! Invariant: record and index change in one batch, so that the index by time leads to every lease that is in the store. An
//! entry by time has the target's id, so that a target that is away is passed over unread; the others have no content. What
//! counts is the record.

use keystead_domain::id::RecordId;
use keystead_domain::lease::{LeaseRecord, LeaseState};
use keystead_domain::principal::PrincipalName;
use keystead_domain::time::UnixMillis;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, Snapshot, keyspace};

use crate::auth;
use crate::error::VaultError;
use crate::keys::{Keys, corrupt};
use crate::records;
use crate::unsealed::UnsealedVault;

const MINUTE: u64 = 60_000;

/// The minute of a moment.
pub(crate) fn minute(at: UnixMillis) -> u32 {
    u32::try_from(at.0 / MINUTE).unwrap_or(u32::MAX)
}

/// A lease with its revision.
pub(crate) struct Stored {
    pub(crate) lease: LeaseRecord,
    pub(crate) revision: Revision,
}

/// Reads a lease.
pub(crate) async fn load(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    id: RecordId,
) -> Result<Option<Stored>, VaultError> {
    let at = keyspace::lease(id.as_bytes());
    let Some(stored) = snapshot.get(Keyspace::Leases, &at).await? else { return Ok(None) };
    let plain = vault.keys.open_record(Keyspace::Leases, &at, &stored.value)?;
    let lease: LeaseRecord = records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Leases, &at))?;
    if lease.id != id {
        return Err(corrupt(Keyspace::Leases, &at));
    }
    Ok(Some(Stored { lease, revision: stored.revision }))
}

/// Where an owner's leases are in the index.
pub(crate) fn of_owner(keys: &Keys, owner: &PrincipalName) -> Vec<u8> {
    keyspace::leases_of_owner(&auth::name_tag(keys, owner))
}

/// The prefixes under which a lease counts against limits: its owner's and its role's.
pub(crate) fn limited_under(keys: &Keys, owner: &PrincipalName, role: RecordId) -> [Vec<u8>; 2] {
    [of_owner(keys, owner), keyspace::leases_of_role(role.as_bytes())]
}

fn prefixes(keys: &Keys, lease: &LeaseRecord) -> Vec<Vec<u8>> {
    let mut under: Vec<Vec<u8>> = limited_under(keys, &lease.owner, lease.role_id).into();
    under.push(keyspace::leases_of_target(lease.target_id.as_bytes()));
    under.extend(lease.session.iter().map(|session| keyspace::leases_of_session(session)));
    under
}

/// The prefixes of entries that lead to one lease.
pub(super) fn prefixes_of(entries: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let prefix = |entry: &Vec<u8>| entry.split_last_chunk::<16>().map(|(prefix, _)| prefix.to_vec());
    entries.iter().filter_map(prefix).collect()
}

/// Every entry that the index has of a lease, with its content.
pub(super) fn entries(keys: &Keys, lease: &LeaseRecord) -> Vec<(Vec<u8>, Vec<u8>)> {
    let id = lease.id.as_bytes();
    let due = (keyspace::lease_due(minute(lease.due()), id), lease.target_id.as_bytes().to_vec());
    let under =
        prefixes(keys, lease).into_iter().map(|prefix| (keyspace::lease_under(&prefix, id), Vec::new()));
    std::iter::once(due).chain(under.filter(|_| lease.state.is_live())).collect()
}

/// Adds a lease to a batch. `before` is what the store holds, which must be unchanged; nothing for a new one.
pub(crate) fn put(
    vault: &UnsealedVault,
    batch: &mut Batch,
    lease: &LeaseRecord,
    before: Option<&Stored>,
) -> Result<(), VaultError> {
    let id = lease.id.as_bytes();
    let at = keyspace::lease(id);
    let unchanged = before.map_or(Precondition::Absent, |stored| Precondition::Revision(stored.revision));
    batch.require(Keyspace::Leases, at.clone(), unchanged);
    let plain = records::encode(lease).map_err(|_| corrupt(Keyspace::Leases, &at))?;
    let sealed = vault.keys.seal_record(Keyspace::Leases, &at, &plain)?;
    batch.put(Keyspace::Leases, at, sealed);
    let due = minute(lease.due());
    let was_due = before.map(|stored| minute(stored.lease.due()));
    if let Some(was_due) = was_due.filter(|was_due| *was_due != due) {
        batch.delete(Keyspace::LeaseIndex, keyspace::lease_due(was_due, id));
    }
    if was_due != Some(due) {
        let target = lease.target_id.as_bytes().to_vec();
        batch.put(Keyspace::LeaseIndex, keyspace::lease_due(due, id), target);
    }
    let live = lease.state.is_live();
    let was_live = before.is_some_and(|stored| stored.lease.state.is_live());
    for prefix in prefixes(&vault.keys, lease) {
        let entry = keyspace::lease_under(&prefix, id);
        if live && !was_live {
            batch.put(Keyspace::LeaseIndex, entry, Vec::new());
        } else if was_live && !live {
            batch.delete(Keyspace::LeaseIndex, entry);
        }
    }
    Ok(())
}

/// Takes a closed lease out.
pub(crate) fn remove(batch: &mut Batch, stored: &Stored) {
    let id = stored.lease.id.as_bytes();
    batch.require(Keyspace::Leases, keyspace::lease(id), Precondition::Revision(stored.revision));
    batch.delete(Keyspace::Leases, keyspace::lease(id));
    batch.delete(Keyspace::LeaseIndex, keyspace::lease_due(minute(stored.lease.due()), id));
}

/// A change of a lease was committed: the limits hear of it.
pub(crate) fn committed(vault: &UnsealedVault, before: LeaseState, lease: &LeaseRecord) {
    if before.is_live() && !lease.state.is_live() {
        vault.leases.counts.ended(&limited_under(&vault.keys, &lease.owner, lease.role_id));
    }
}
