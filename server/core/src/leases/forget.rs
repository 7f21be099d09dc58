//! The way out for a lease whose record does not open: nobody can revoke it, and its entries count against limits and keep
//! its role and target for ever.
//!
//! Invariant: only an operator's force comes here, and only for a record that does not open. What removes the login is lost
//! with it; the login itself is found when its target is compared with the leases, which own it no more.

use keystead_domain::id::RecordId;
use keystead_storage::{Batch, Keyspace, Precondition, Range, StorageError, keyspace};

use super::ops::{TRIES, not_found};
use super::store;
use crate::error::VaultError;
use crate::unsealed::UnsealedVault;

/// Entries of the index read in one go: which of them are the lease's, only the record would say.
const PAGE: usize = 1_024;

impl UnsealedVault {
    /// Removes a record that does not open, and whatever in the index leads to it.
    pub(super) async fn forget_lease(&self, intent: Option<u64>, id: RecordId) -> Result<(), VaultError> {
        for _ in 0..TRIES {
            let at = keyspace::lease(id.as_bytes());
            let stored = self.storage.snapshot().await?.get(Keyspace::Leases, &at).await?;
            let revision = stored.ok_or_else(|| not_found(id))?.revision;
            let entries = self.lease_entries(id).await?;
            let mut batch = Batch::new();
            batch.require(Keyspace::Leases, at.clone(), Precondition::Revision(revision));
            batch.delete(Keyspace::Leases, at);
            for entry in &entries {
                batch.delete(Keyspace::LeaseIndex, entry.clone());
            }
            match self.commit(intent, batch).await {
                Ok(_) => {
                    tracing::warn!(lease = %id, "a lease that does not open was removed by force");
                    self.leases.counts.ended(&store::prefixes_of(&entries));
                    self.leases.want_comparison();
                    return Ok(());
                }
                Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Err(VaultError::Contention { what: format!("lease {id}") })
    }

    /// Every entry that leads to a lease, found by looking at all.
    async fn lease_entries(&self, id: RecordId) -> Result<Vec<Vec<u8>>, VaultError> {
        let snapshot = self.storage.snapshot().await?;
        let jobs = keyspace::lease_jobs();
        let mut found = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = snapshot.range(Keyspace::LeaseIndex, Range::all(after.as_deref()), PAGE).await?;
            for (key, _) in page.iter().filter(|(key, _)| !key.starts_with(&jobs)) {
                if keyspace::lease_under_in(key).as_ref() == Some(id.as_bytes()) {
                    found.push(key.to_vec());
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(last.to_vec()),
                _ => return Ok(found),
            }
        }
    }
}
