//! How many live leases an owner and a role have, so that a limit refuses early. Counted from the index once, when first
//! asked for, and kept up from then on; nothing is read when the vault opens.
//!
//! With several nodes each counts what it made since it looked: the limit is a fence against run-away callers, not a
//! promise to the lease.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystead_storage::{Keyspace, Range, Storage};

use crate::error::VaultError;

/// Keys read in one go.
const PAGE: usize = 1024;

/// Counts by the prefix that they have in the index.
#[derive(Default)]
pub(crate) struct Counts(Mutex<HashMap<Vec<u8>, Count>>);

#[derive(Default, Clone, Copy)]
struct Count {
    live: i64,
    /// It was read from the index; before that it holds what changed meanwhile.
    read: bool,
}

/// A place among the live leases, kept by [`Place::keep`] and else given back.
pub(crate) struct Place<'a> {
    counts: &'a Counts,
    under: Vec<Vec<u8>>,
}

/// Live leases under any prefix, as the index has them now.
pub(crate) async fn in_index(storage: &dyn Storage, prefix: &[u8]) -> Result<u64, VaultError> {
    let snapshot = storage.snapshot().await?;
    let mut found = 0_u64;
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page =
            snapshot.range(Keyspace::LeaseIndex, Range::prefix(prefix, after.as_deref()), PAGE).await?;
        found = found.saturating_add(u64::try_from(page.len()).unwrap_or(u64::MAX));
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = Some(last.to_vec()),
            _ => return Ok(found),
        }
    }
}

impl Counts {
    fn all(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Live leases under a prefix that a limit is on: of an owner or a role.
    pub(crate) async fn live(&self, storage: &dyn Storage, prefix: &[u8]) -> Result<u64, VaultError> {
        let known = self.all().get(prefix).copied().filter(|count| count.read);
        if let Some(count) = known {
            return Ok(u64::try_from(count.live).unwrap_or(0));
        }
        // What ends from here on is taken off what is found.
        self.all().entry(prefix.to_vec()).or_default();
        let found = i64::try_from(in_index(storage, prefix).await?).unwrap_or(i64::MAX);
        let mut all = self.all();
        let count = all.entry(prefix.to_vec()).or_default();
        if !count.read {
            *count = Count { live: count.live.saturating_add(found), read: true };
        }
        Ok(u64::try_from(count.live).unwrap_or(0))
    }

    /// Takes a place under each prefix, unless one of them has as many as it may: then says which.
    pub(crate) async fn take(
        &self,
        storage: &dyn Storage,
        limits: &[(Vec<u8>, u64)],
    ) -> Result<Result<Place<'_>, usize>, VaultError> {
        for (prefix, _) in limits {
            self.live(storage, prefix).await?;
        }
        let mut all = self.all();
        let full = limits.iter().position(|(prefix, limit)| {
            let live = all.get(prefix).map_or(0, |count| count.live);
            u64::try_from(live).unwrap_or(0) >= *limit
        });
        if let Some(full) = full {
            return Ok(Err(full));
        }
        let under: Vec<Vec<u8>> = limits.iter().map(|(prefix, _)| prefix.clone()).collect();
        for prefix in &under {
            let count = all.entry(prefix.clone()).or_default();
            count.live = count.live.saturating_add(1);
        }
        Ok(Ok(Place { counts: self, under }))
    }

    /// A lease under these prefixes has ended.
    pub(crate) fn ended(&self, prefixes: &[Vec<u8>]) {
        let mut all = self.all();
        for prefix in prefixes {
            if let Some(count) = all.get_mut(prefix) {
                count.live = count.live.saturating_sub(1);
            }
        }
    }
}

impl Place<'_> {
    /// The lease is in the store, or may be.
    pub(crate) fn keep(mut self) {
        self.under.clear();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.counts.ended(&self.under);
    }
}

#[cfg(test)]
mod tests {
    use keystead_storage::{Batch, MemoryStorage, keyspace};

    use super::*;

    #[tokio::test]
    async fn a_limit_holds_for_what_is_in_the_index_and_for_what_is_under_way() {
        let storage = MemoryStorage::new();
        let prefix = keyspace::leases_of_role(&[1; 16]);
        let mut batch = Batch::new();
        for lease in 0..3_u8 {
            batch.put(Keyspace::LeaseIndex, keyspace::lease_under(&prefix, &[lease; 16]), Vec::new());
        }
        storage.commit(batch).await.unwrap();
        let counts = Counts::default();
        let limits = [(keyspace::leases_of_owner(&[9; 33]), 100), (prefix.clone(), 5)];
        let fourth = counts.take(&storage, &limits).await.unwrap().ok().unwrap();
        counts.take(&storage, &limits).await.unwrap().ok().unwrap().keep();
        assert_eq!(counts.take(&storage, &limits).await.unwrap().err(), Some(1), "the role is full");
        drop(fourth);
        assert_eq!(counts.live(&storage, &prefix).await.unwrap(), 4);
        counts.ended(std::slice::from_ref(&prefix));
        assert_eq!(counts.live(&storage, &prefix).await.unwrap(), 3);
        assert_eq!(counts.live(&storage, &limits[0].0).await.unwrap(), 1);
    }
}
