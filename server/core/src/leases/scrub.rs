//! Compares leases with their index, a page at a time, for ever: what lacks is put back, what leads nowhere goes.
//!
//! Invariant: record and entries are compared in one view of the store, and mended only while the record is unchanged. A lease
//! that lost its entry by time would never end by itself.

use std::sync::{Mutex, PoisonError};

use keystead_domain::id::RecordId;
use keystead_domain::policy::Resource;
use keystead_storage::{Batch, Keyspace, Precondition, Range, Revision, Snapshot, StorageError, keyspace};

use super::store::{self, Stored};
use crate::error::VaultError;
use crate::operation::{self, Detail};
use crate::request::SystemPermit;
use crate::unsealed::UnsealedVault;

/// Leases, and entries of the index, compared in one step.
const LEASES: usize = 128;
const ENTRIES: usize = 256;
/// Entries mended in one batch, with a precondition each.
const A_BATCH: usize = 20;

/// The job that mends the index.
enum Mend {}

/// How far the comparison is.
#[derive(Default)]
pub(super) struct Scrub(Mutex<Place>);

#[derive(Clone)]
enum Place {
    Leases(Option<Vec<u8>>),
    Index(Option<Vec<u8>>),
}

impl Default for Place {
    fn default() -> Self {
        Self::Leases(None)
    }
}

/// What one step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Leases and entries that were compared.
    pub looked: usize,
    /// Entries that were put back or removed.
    pub mended: usize,
    /// Everything was compared once since the last time that this was so.
    pub whole: bool,
}

/// One thing to mend: an entry that is to be there with a content, or not at all, while a lease is as it was seen.
struct Flaw {
    entry: Vec<u8>,
    content: Option<Vec<u8>>,
    lease: RecordId,
    seen: Option<Revision>,
}

impl UnsealedVault {
    /// Compares the next page.
    ///
    /// # Errors
    /// Those of log and store; the next call goes on.
    pub async fn scrub_leases(&self) -> Result<Scrubbed, VaultError> {
        let place = self.leases.scrub.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let snapshot = self.storage.snapshot().await?;
        let (flaws, mut done, next) = match place {
            Place::Leases(after) => self.compare_leases(snapshot.as_ref(), after).await?,
            Place::Index(after) => self.compare_entries(snapshot.as_ref(), after).await?,
        };
        drop(snapshot);
        for some in flaws.chunks(A_BATCH) {
            done.mended = done.mended.saturating_add(self.mend(some).await?);
        }
        *self.leases.scrub.0.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(done)
    }

    async fn compare_leases(
        &self,
        snapshot: &dyn Snapshot,
        after: Option<Vec<u8>>,
    ) -> Result<(Vec<Flaw>, Scrubbed, Place), VaultError> {
        let page = snapshot.range(Keyspace::Leases, Range::all(after.as_deref()), LEASES).await?;
        let mut flaws = Vec::new();
        for (key, _) in &page {
            let Some(id) = <[u8; 16]>::try_from(key.as_ref()).ok().map(RecordId) else { continue };
            // One that does not open is told of when it is due.
            let Ok(Some(Stored { lease, revision })) = store::load(self, snapshot, id).await else {
                continue;
            };
            for (entry, content) in store::entries(&self.keys, &lease) {
                if snapshot.get(Keyspace::LeaseIndex, &entry).await?.is_none() {
                    flaws.push(Flaw { entry, content: Some(content), lease: id, seen: Some(revision) });
                }
            }
        }
        let done = Scrubbed { looked: page.len(), ..Scrubbed::default() };
        let next = match page.last() {
            Some((last, _)) if page.len() == LEASES => Place::Leases(Some(last.to_vec())),
            _ => Place::Index(None),
        };
        Ok((flaws, done, next))
    }

    async fn compare_entries(
        &self,
        snapshot: &dyn Snapshot,
        after: Option<Vec<u8>>,
    ) -> Result<(Vec<Flaw>, Scrubbed, Place), VaultError> {
        let page = snapshot.range(Keyspace::LeaseIndex, Range::all(after.as_deref()), ENTRIES).await?;
        let jobs = keyspace::lease_jobs();
        let mut flaws = Vec::new();
        for (key, _) in page.iter().filter(|(key, _)| !key.starts_with(&jobs)) {
            let Some(id) = keyspace::lease_under_in(key).map(RecordId) else { continue };
            let (known, seen) = match store::load(self, snapshot, id).await {
                Ok(None) => (false, None),
                Ok(Some(Stored { lease, revision })) => {
                    let known = store::entries(&self.keys, &lease)
                        .iter()
                        .any(|(entry, _)| entry.as_slice() == key.as_ref());
                    (known, Some(revision))
                }
                Err(_) => continue,
            };
            if !known {
                flaws.push(Flaw { entry: key.to_vec(), content: None, lease: id, seen });
            }
        }
        let last_page = page.len() < ENTRIES;
        let done = Scrubbed { looked: page.len(), whole: last_page, ..Scrubbed::default() };
        let next = match page.last() {
            Some((last, _)) if !last_page => Place::Index(Some(last.to_vec())),
            _ => Place::Leases(None),
        };
        Ok((flaws, done, next))
    }

    async fn mend(&self, flaws: &[Flaw]) -> Result<usize, VaultError> {
        let mut batch = Batch::new();
        for flaw in flaws {
            let unchanged = flaw.seen.map_or(Precondition::Absent, Precondition::Revision);
            batch.require(Keyspace::Leases, keyspace::lease(flaw.lease.as_bytes()), unchanged);
            match &flaw.content {
                Some(content) => {
                    tracing::error!(lease = %flaw.lease, "an entry of the index of leases was missing and is put back");
                    batch.put(Keyspace::LeaseIndex, flaw.entry.clone(), content.clone());
                }
                None => {
                    tracing::error!(lease = %flaw.lease, "an entry of the index of leases led nowhere and is removed");
                    batch.delete(Keyspace::LeaseIndex, flaw.entry.clone());
                }
            }
        }
        let detail: Detail = vec![("entries", flaws.len().to_string())];
        let work = |permit: SystemPermit<Mend>| async move {
            match self.commit(Some(permit.intent()), batch).await {
                Ok(_) => Ok(flaws.len()),
                // One of them changed: the next pass looks again.
                Err(VaultError::Storage(StorageError::Conflict { .. })) => Ok(0),
                Err(error) => Err(error),
            }
        };
        let mended = operation::run_job(self, "mend-lease-index", Resource::System, detail, work).await?;
        // A minute that was passed may have a lease in it again.
        self.leases.look_again();
        Ok(mended)
    }
}
