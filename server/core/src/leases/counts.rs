//! How many live leases an owner and a role have, so that a limit refuses early. Counted from the index once, when first
//! asked for, and kept up from then on; nothing is read when the vault opens.
//!
//! With several nodes each counts what it made since it looked: the limit is a fence against run-away callers, not a
//! promise to the lease.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keystead_storage::{Keyspace, Range, Storage};

use crate::error::VaultError;

/// Keys read in one go.
const PAGE: usize = 1024;
/// A count that refuses is read anew if it is older.
const ANEW_AFTER: Duration = Duration::from_secs(10);

/// Counts by the prefix that they have in the index.
#[derive(Default)]
pub(crate) struct Counts(Mutex<HashMap<Vec<u8>, Count>>);

#[derive(Default, Clone, Copy)]
struct Count {
    live: i64,
    /// Places of leases that are not in the store yet.
    taken: i64,
    /// When it was read from the index, on the monotonic clock; before that it holds what changed meanwhile.
    read: Option<Duration>,
}

impl Count {
    fn all(self) -> u64 {
        u64::try_from(self.live.saturating_add(self.taken)).unwrap_or(0)
    }
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

    /// Counts a prefix in the index, unless that was done since a moment.
    async fn read(
        &self,
        storage: &dyn Storage,
        prefix: &[u8],
        since: Duration,
        now: Duration,
    ) -> Result<(), VaultError> {
        if self.all().entry(prefix.to_vec()).or_default().read.is_some_and(|read| read >= since) {
            return Ok(());
        }
        let found = i64::try_from(in_index(storage, prefix).await?).unwrap_or(i64::MAX);
        let mut all = self.all();
        let count = all.entry(prefix.to_vec()).or_default();
        match count.read {
            // What ended while it was read for the first time is taken off what was found.
            None => count.live = count.live.saturating_add(found),
            Some(read) if read < since => count.live = found,
            Some(_) => return Ok(()),
        }
        count.read = Some(now);
        Ok(())
    }

    /// Takes a place under each prefix, unless one of them has as many as it may: then says which. `now` is on the
    /// monotonic clock. Who is refused is counted anew every so often: where a commit had no known outcome, the count is
    /// off by one.
    pub(crate) async fn take(
        &self,
        storage: &dyn Storage,
        limits: &[(Vec<u8>, u64)],
        now: Duration,
    ) -> Result<Result<Place<'_>, usize>, VaultError> {
        for (prefix, _) in limits {
            self.read(storage, prefix, Duration::ZERO, now).await?;
        }
        let full = match self.try_take(limits) {
            Ok(under) => return Ok(Ok(Place { counts: self, under })),
            Err(full) => full,
        };
        if let Some((prefix, _)) = limits.get(full) {
            self.read(storage, prefix, now.saturating_sub(ANEW_AFTER), now).await?;
        }
        Ok(self.try_take(limits).map(|under| Place { counts: self, under }))
    }

    fn try_take(&self, limits: &[(Vec<u8>, u64)]) -> Result<Vec<Vec<u8>>, usize> {
        let mut all = self.all();
        let full = limits
            .iter()
            .position(|(prefix, limit)| all.get(prefix).is_some_and(|count| count.all() >= *limit));
        if let Some(full) = full {
            return Err(full);
        }
        let under: Vec<Vec<u8>> = limits.iter().map(|(prefix, _)| prefix.clone()).collect();
        for prefix in &under {
            let count = all.entry(prefix.clone()).or_default();
            count.taken = count.taken.saturating_add(1);
        }
        Ok(under)
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
        self.give_back(1);
    }

    fn give_back(&mut self, live: i64) {
        let mut all = self.counts.all();
        for prefix in self.under.drain(..) {
            let count = all.entry(prefix).or_default();
            count.taken = count.taken.saturating_sub(1);
            count.live = count.live.saturating_add(live);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.give_back(0);
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
        let now = Duration::from_secs(100);
        let fourth = counts.take(&storage, &limits, now).await.unwrap().ok().unwrap();
        counts.take(&storage, &limits, now).await.unwrap().ok().unwrap().keep();
        assert_eq!(counts.take(&storage, &limits, now).await.unwrap().err(), Some(1), "the role is full");
        drop(fourth);
        counts.take(&storage, &limits, now).await.unwrap().ok().unwrap().keep();
        assert_eq!(counts.take(&storage, &limits, now).await.unwrap().err(), Some(1), "and full again");
        counts.ended(std::slice::from_ref(&prefix));
        let again = counts.take(&storage, &limits, now).await.unwrap().ok().unwrap();
        assert_eq!(counts.take(&storage, &limits, now).await.unwrap().err(), Some(1));
        // The two that were kept never came into the store; what is under way still counts.
        let later = now + ANEW_AFTER + Duration::from_millis(1);
        counts.take(&storage, &limits, later).await.unwrap().ok().unwrap().keep();
        assert_eq!(counts.take(&storage, &limits, later).await.unwrap().err(), Some(1));
        drop(again);
    }
}
