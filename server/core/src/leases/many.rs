//! Revoking many leases at once: a job in the store, so that a crash in the midst leaves none out.
//!
//! Invariant: the cursor moves in the batch that holds what was marked up to it. Marking makes every lease due at once; the
//! revoker removes the logins, a bounded number at a time on each target.

use keystead_domain::id::RecordId;
use keystead_domain::lease::Why;
use keystead_domain::policy::{Action, Resource};
use keystead_storage::{Batch, Keyspace, Precondition, Range, Revision, StorageError, keyspace};
use serde::{Deserialize, Serialize};

use super::ops::{Selector, prefixes};
use super::store;
use crate::credentials::CredentialError;
use crate::error::VaultError;
use crate::keys::{Keys, corrupt, fresh_id};
use crate::operation::{self, Detail, Effect, Grant, Operation};
use crate::records;
use crate::request::{Caller, Permit, SystemPermit};
use crate::unsealed::UnsealedVault;

/// Leases marked in one batch: three operations and a precondition each, and room for the cursor and markers.
const A_BATCH: usize = 12;
/// Jobs begun in one batch.
const JOBS_A_BATCH: usize = 16;
/// Jobs read in one go.
const JOBS_A_PAGE: usize = 64;
/// Tries of one page against other writers.
const TRIES: usize = 64;

/// The job of the vault itself that ends what a crash cut off.
enum RevokeMany {}

/// Revokes leases.
pub struct RevokeLeases {
    /// Which.
    pub of: Selector,
}

/// How many leases are being revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marked {
    /// So many.
    pub leases: u64,
}

/// A revocation of many, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    /// The prefix in the index.
    prefix: Vec<u8>,
    why: Why,
    /// The last key that is done.
    after: Option<Vec<u8>>,
}

/// Adds a revocation of all leases under a prefix to a batch. It is worked off in the background, or at once by whoever
/// calls [`UnsealedVault::mark_leases`].
pub(crate) fn begin(keys: &Keys, batch: &mut Batch, prefix: Vec<u8>, why: Why) -> Result<(), VaultError> {
    let at = keyspace::lease_job(fresh_id().as_bytes());
    let plain =
        records::encode(&Job { prefix, why, after: None }).map_err(|_| corrupt(Keyspace::LeaseIndex, &at))?;
    let sealed = keys.seal_record(Keyspace::LeaseIndex, &at, &plain)?;
    batch.require(Keyspace::LeaseIndex, at.clone(), Precondition::Absent);
    batch.put(Keyspace::LeaseIndex, at, sealed);
    Ok(())
}

impl UnsealedVault {
    /// Works off the revocations of many that are in the store; says how many of them do not open.
    ///
    /// # Errors
    /// Those of log and store; the next call goes on.
    pub(super) async fn resume_lease_jobs(&self) -> Result<usize, VaultError> {
        let (open, broken) = self.count_lease_jobs().await?;
        // One that does not open is nothing to do: a try of it each round would fill the log.
        if open > 0 {
            operation::run_job(
                self,
                "revoke-many",
                Resource::System,
                Detail::new(),
                |permit: SystemPermit<RevokeMany>| async move { self.mark_leases(Some(permit.intent())).await },
            )
            .await?;
        }
        Ok(broken)
    }

    /// How many revocations of many open, and how many do not.
    async fn count_lease_jobs(&self) -> Result<(usize, usize), VaultError> {
        let snapshot = self.storage.snapshot().await?;
        let (mut open, mut broken) = (0_usize, 0_usize);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let range = Range::prefix(keyspace::lease_jobs(), after.as_deref());
            let page = snapshot.range(Keyspace::LeaseIndex, range, JOBS_A_PAGE).await?;
            for (at, stored) in &page {
                let count = if self.open_job(at, &stored.value).is_some() { &mut open } else { &mut broken };
                *count = count.saturating_add(1);
            }
            match page.last() {
                Some((last, _)) if page.len() == JOBS_A_PAGE => after = Some(last.to_vec()),
                _ => return Ok((open, broken)),
            }
        }
    }

    /// One that does not open is put aside with an alarm.
    fn open_job(&self, at: &[u8], stored: &[u8]) -> Option<Job> {
        let plain = self.keys.open_record(Keyspace::LeaseIndex, at, stored);
        let job = plain.and_then(|plain| {
            records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::LeaseIndex, at))
        });
        match job {
            Ok(job) => Some(job),
            Err(error) => {
                if self.leases.broken.first(at) {
                    tracing::error!(%error, "a revocation of many leases does not open and is put aside: revoke them again");
                }
                None
            }
        }
    }

    /// The same under an intent that is there already; says how many leases were marked.
    pub(crate) async fn mark_leases(&self, intent: Option<u64>) -> Result<u64, VaultError> {
        let mut marked = 0_u64;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let snapshot = self.storage.snapshot().await?;
            let range = Range::prefix(keyspace::lease_jobs(), after.as_deref());
            let Some((at, stored)) = snapshot.range(Keyspace::LeaseIndex, range, 1).await?.into_iter().next()
            else {
                break;
            };
            after = Some(at.to_vec());
            drop(snapshot);
            if let Some(job) = self.open_job(&at, &stored.value) {
                marked = marked.saturating_add(self.mark(intent, &at, job, stored.revision).await?);
            }
        }
        // Whoever waits for this looks for such jobs again.
        if marked > 0 {
            self.leases.wake.notify_one();
        }
        Ok(marked)
    }

    async fn mark(
        &self,
        intent: Option<u64>,
        at: &[u8],
        mut job: Job,
        mut revision: Revision,
    ) -> Result<u64, VaultError> {
        let (mut marked, mut conflicts) = (0_u64, 0_usize);
        loop {
            let (batch, next, found) = self.mark_page(at, &job, revision).await?;
            match self.commit(intent, batch).await {
                Ok(committed) => {
                    marked = marked.saturating_add(found);
                    conflicts = 0;
                    match next {
                        Some(next) => (job, revision) = (next, committed),
                        None => return Ok(marked),
                    }
                }
                Err(VaultError::Storage(StorageError::Conflict { .. })) if conflicts < TRIES => {
                    conflicts = conflicts.saturating_add(1);
                    // Somebody else works it off, or changed one of the leases.
                    let now = self.storage.snapshot().await?.get(Keyspace::LeaseIndex, at).await?;
                    if now.is_none_or(|now| now.revision != revision) {
                        return Ok(marked);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// One page: its batch, the job as it is after it (nothing at the end), and how many leases it marks.
    async fn mark_page(
        &self,
        at: &[u8],
        job: &Job,
        revision: Revision,
    ) -> Result<(Batch, Option<Job>, u64), VaultError> {
        let snapshot = self.storage.snapshot().await?;
        let range = Range::prefix(&job.prefix, job.after.as_deref());
        let page = snapshot.range(Keyspace::LeaseIndex, range, A_BATCH).await?;
        let now = self.leases.clock.now();
        let mut batch = Batch::new();
        let mut found = 0_u64;
        let mut next = job.clone();
        for (key, _) in &page {
            next.after = Some(key.to_vec());
            let Some(id) = keyspace::lease_under_in(key) else { continue };
            let stored = match store::load(self, snapshot.as_ref(), RecordId(id)).await {
                Ok(Some(stored)) if stored.lease.state.is_live() => stored,
                Ok(_) => continue,
                Err(error) => {
                    if self.leases.broken.first(&id) {
                        tracing::error!(lease = %RecordId(id), %error, "a lease does not open and is put aside");
                    }
                    continue;
                }
            };
            let mut lease = stored.lease.clone();
            lease.begin_revoking(job.why, now).map_err(CredentialError::from)?;
            lease.hurry(now).map_err(CredentialError::from)?;
            store::put(self, &mut batch, &lease, Some(&stored))?;
            found = found.saturating_add(1);
        }
        batch.require(Keyspace::LeaseIndex, at.to_vec(), Precondition::Revision(revision));
        if page.len() < A_BATCH {
            batch.delete(Keyspace::LeaseIndex, at.to_vec());
            return Ok((batch, None, found));
        }
        let plain = records::encode(&next).map_err(|_| corrupt(Keyspace::LeaseIndex, at))?;
        batch.put(
            Keyspace::LeaseIndex,
            at.to_vec(),
            self.keys.seal_record(Keyspace::LeaseIndex, at, &plain)?,
        );
        Ok((batch, Some(next), found))
    }
}

impl Operation for RevokeLeases {
    type Output = Marked;
    const ACTION: Action = Action::LeasesRevokeMany;
    const EFFECT: Effect = Effect::Change;
    const GRANT: Grant = Grant::Owner;
    const URGENT: bool = true;

    fn resource(&self) -> Resource {
        Resource::System
    }

    fn asked(&self) -> Detail {
        self.of.detail()
    }

    async fn is_own(&self, _: &UnsealedVault, _: &Caller) -> Result<bool, VaultError> {
        Ok(self.of.is_own())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Marked, VaultError> {
        let snapshot = vault.storage.snapshot().await?;
        let prefixes = prefixes(vault, snapshot.as_ref(), permit.caller(), &self.of).await?;
        drop(snapshot);
        for some in prefixes.chunks(JOBS_A_BATCH) {
            let mut batch = Batch::new();
            for prefix in some {
                begin(&vault.keys, &mut batch, prefix.clone(), Why::Asked)?;
            }
            vault.commit(permit.intent(), batch).await?;
        }
        let leases = vault.mark_leases(permit.intent()).await?;
        Ok(Marked { leases })
    }

    fn detail(output: &Marked) -> Detail {
        vec![("leases", output.leases.to_string())]
    }
}

/// A job as its page says.
#[cfg(test)]
pub(super) fn vector() -> Vec<u8> {
    let job = Job { prefix: keyspace::leases_of_role(&[0xc2; 16]), why: Why::OwnerGone, after: None };
    records::encode(&job).unwrap()
}
