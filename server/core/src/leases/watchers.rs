//! Who follows a lease, and what wakes them.
//!
//! Invariant: every commit of the open vault wakes whoever hangs on a record that it changed; a watcher takes its place
//! before it reads. So within this process no change goes unseen. For one that comes from elsewhere, or whose writer was
//! cut off, a watcher looks again every so often. Waking keeps nothing: what comes before a watcher has looked is one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keystead_domain::principal::PrincipalName;
use keystead_storage::{Batch, Keyspace};
use tokio::sync::Notify;

use crate::credentials::CredentialError;

/// A record that a watcher hangs on: its lease, its caller's principal and session, or any policy.
type Record = (Keyspace, Vec<u8>);

/// The watchers of this process, whether the vault is open or not.
#[derive(Default)]
pub(crate) struct Watchers(Mutex<Places>);

#[derive(Default)]
struct Places {
    by_record: HashMap<Record, Vec<Arc<Notify>>>,
    by_principal: HashMap<PrincipalName, usize>,
    all: usize,
}

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) a_principal: usize,
    pub(crate) all: usize,
}

/// The place of one watcher, free again when it is dropped.
pub(crate) struct Watcher {
    watchers: Arc<Watchers>,
    principal: PrincipalName,
    records: Vec<Record>,
    wake: Arc<Notify>,
}

/// What any policy is to a watcher.
fn policies() -> Record {
    (Keyspace::Policies, Vec::new())
}

/// What a batch changes that somebody may hang on.
pub(crate) fn changed_by(batch: &Batch) -> Vec<Record> {
    let changes = batch.operations().iter().filter_map(|operation| match operation.keyspace {
        Keyspace::Policies => Some(policies()),
        Keyspace::Leases | Keyspace::Principals | Keyspace::Sessions => {
            Some((operation.keyspace, operation.key.to_vec()))
        }
        _ => None,
    });
    changes.collect()
}

impl Watchers {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever hangs on one of these.
    pub(crate) fn wake(&self, changed: &[Record]) {
        if changed.is_empty() {
            return;
        }
        let places = self.places();
        for record in changed {
            for wake in places.by_record.get(record).into_iter().flatten() {
                wake.notify_one();
            }
        }
    }

    /// A place for a principal that hangs on these records, and on the policies.
    ///
    /// # Errors
    /// `WatchLimit`.
    pub(crate) fn enter(
        self: &Arc<Self>,
        principal: &PrincipalName,
        mut records: Vec<Record>,
        bounds: Bounds,
    ) -> Result<Watcher, CredentialError> {
        records.push(policies());
        let wake = Arc::<Notify>::default();
        let mut places = self.places();
        let own = places.by_principal.get(principal).copied().unwrap_or(0);
        let full = |of: String, limit, setting| Err(CredentialError::WatchLimit { of, limit, setting });
        if own >= bounds.a_principal {
            let setting = "leases.max_watches_per_principal in the server's configuration";
            return full(principal.to_string(), bounds.a_principal, setting);
        }
        if places.all >= bounds.all {
            let setting = "leases.max_watches in the server's configuration";
            return full("the server".to_owned(), bounds.all, setting);
        }
        places.all = places.all.saturating_add(1);
        places.by_principal.insert(principal.clone(), own.saturating_add(1));
        for record in &records {
            places.by_record.entry(record.clone()).or_default().push(Arc::clone(&wake));
        }
        drop(places);
        Ok(Watcher { watchers: Arc::clone(self), principal: principal.clone(), records, wake })
    }

    /// How many watch, and how many records they hang on.
    #[cfg(test)]
    pub(crate) fn count(&self) -> (usize, usize) {
        let places = self.places();
        (places.all, places.by_record.len())
    }
}

impl Watcher {
    /// Waits until something changed since the last time. May be dropped without losing a change.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut places = self.watchers.places();
        places.all = places.all.saturating_sub(1);
        if let Some(own) = places.by_principal.get_mut(&self.principal) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                places.by_principal.remove(&self.principal);
            }
        }
        for record in &self.records {
            let Some(hang) = places.by_record.get_mut(record) else { continue };
            hang.retain(|wake| !Arc::ptr_eq(wake, &self.wake));
            if hang.is_empty() {
                places.by_record.remove(record);
            }
        }
    }
}
