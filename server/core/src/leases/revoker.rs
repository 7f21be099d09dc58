//! What takes logins away: looks for what is due, and works on each target apart.
//!
//! Invariant: a lease is closed only after its target said that the login is gone. A failure is tried again for ever, after a
//! pause; a target that is away is left alone for a while as a whole, so that it holds up no other, and is then asked with one
//! lease at a time until it answers.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keystead_domain::id::RecordId;
use keystead_domain::lease::{Backoff, Closed, LeaseRecord, LeaseState, Why};
use keystead_domain::policy::Resource;
use keystead_domain::time::UnixMillis;
use keystead_storage::{Batch, Keyspace, Range, StorageError, keyspace};

use super::ops::{change, find};
use super::store::{self, minute};
use crate::credentials::{CredentialError, ONE_CALL, in_time, jitter, targets};
use crate::error::VaultError;
use crate::fail_points::{self, Step};
use crate::operation::{self, Detail};
use crate::request::SystemPermit;
use crate::rotation::Beside;
use crate::unsealed::UnsealedVault;
use crate::vault::OpenVault;

/// Index entries read in one go, and looked at in one round.
const PAGE: usize = 512;
const A_ROUND: usize = 20_000;
/// Minutes that are not given up yet: a batch under way may still put something there.
const MARGIN: u32 = 2;
/// Closed leases removed in one batch.
const REMOVED_A_BATCH: usize = 12;

/// The job that ends a lease.
enum Revoke {}
/// The job that removes leases that ended a day ago.
enum Tidy {}

/// What one round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Round {
    /// Revocations that were begun.
    pub begun: usize,
    /// Leases that are due and wait: their target is away, or has enough to do.
    pub waiting: usize,
    /// Leases, and revocations of many, whose records do not open.
    pub broken: usize,
}

/// How a revocation went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// The login is gone.
    Gone,
    /// It is tried again.
    Later,
}

/// What is under way, by target.
#[derive(Default)]
pub(crate) struct UnderWay(Mutex<HashMap<RecordId, OnTarget>>);

#[derive(Default)]
struct OnTarget {
    leases: HashSet<RecordId>,
    /// Calls that got no answer, in a row.
    away: u32,
    /// It is left alone before this, on the monotonic clock.
    not_before: Duration,
}

impl UnderWay {
    fn all(&self) -> MutexGuard<'_, HashMap<RecordId, OnTarget>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a lease on, if its target has room.
    fn begin(&self, target: RecordId, lease: RecordId, at_most: usize, now: Duration) -> bool {
        let mut all = self.all();
        let on = all.entry(target).or_default();
        let room = if on.away > 0 { 1 } else { at_most };
        now >= on.not_before && on.leases.len() < room && on.leases.insert(lease)
    }

    /// Whether a target takes nothing now; the lease is not looked at.
    fn closed(&self, target: RecordId, at_most: usize, now: Duration) -> bool {
        let all = self.all();
        let Some(on) = all.get(&target) else { return false };
        let room = if on.away > 0 { 1 } else { at_most };
        now < on.not_before || on.leases.len() >= room
    }

    /// A target answered to something else; says whether it was left alone until now.
    fn answers(&self, target: RecordId) -> bool {
        let mut all = self.all();
        let Some(on) = all.get_mut(&target).filter(|on| on.away > 0) else { return false };
        (on.away, on.not_before) = (0, Duration::ZERO);
        true
    }

    /// Whether nothing is under way.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.all().values().all(|on| on.leases.is_empty())
    }

    fn end(&self, target: RecordId, lease: RecordId, away: bool, now: Duration) {
        let mut all = self.all();
        let Some(on) = all.get_mut(&target) else { return };
        on.leases.remove(&lease);
        if away {
            on.away = on.away.saturating_add(1);
            let pause = Backoff { failures: on.away }.pause(jitter());
            on.not_before = now.saturating_add(Duration::from_millis(pause));
        } else {
            on.away = 0;
            on.not_before = Duration::ZERO;
            if on.leases.is_empty() {
                all.remove(&target);
            }
        }
    }
}

/// A shard and a key of it: what a round begins with when the one before had looked at enough.
pub(super) struct LeftOff {
    shard: u8,
    start: Vec<u8>,
}

/// What is due of a lease.
enum Due {
    Revoke,
    Remove,
    Later,
}

fn due(lease: &LeaseRecord, now: UnixMillis) -> Due {
    if !lease.due().has_come(now) {
        return Due::Later;
    }
    match lease.state {
        LeaseState::Issuing | LeaseState::Active | LeaseState::Revoking => Due::Revoke,
        LeaseState::Revoked => Due::Remove,
    }
}

impl OpenVault {
    /// Looks for leases that are due, and begins what is to be done about them; revocations go on beside it, held inside the
    /// open vault, and wake the next round.
    ///
    /// # Errors
    /// Those of log and store; the next round goes on.
    pub async fn look_after_leases(&self) -> Result<Round, VaultError> {
        let mut round = Round::default();
        // None of them keeps logins from being removed.
        for done in [
            self.settle_lease_clock().await,
            self.keep_lease_state().await,
            self.resume_lease_jobs().await.map(|broken| round.broken = broken),
        ] {
            if let Err(error) = done {
                tracing::warn!(%error, "something of leases could not be looked after; it is tried again");
            }
        }
        self.revoke_abandoned().await;
        let mut over = Vec::new();
        let mut looked = 0_usize;
        // What waits for a target that is away is passed over each time: others are behind it.
        let mut from = self.leases.left_off().take();
        let first = from.as_ref().map_or(0, |from| from.shard);
        for shard in (first..keyspace::LEASE_SHARDS).chain(0..first) {
            let from = from.take().map(|from| from.start);
            let left = self.look_at_shard(shard, from, &mut round, &mut over, &mut looked).await?;
            if left.is_some() {
                *self.leases.left_off() = left;
                break;
            }
            if self.closing() {
                break;
            }
        }
        for some in over.chunks(REMOVED_A_BATCH) {
            self.remove_closed(some).await?;
        }
        Ok(round)
    }

    /// Looks at what is due in one shard; says where to go on if that is enough for one round.
    async fn look_at_shard(
        &self,
        shard: u8,
        from: Option<Vec<u8>>,
        round: &mut Round,
        over: &mut Vec<RecordId>,
        looked: &mut usize,
    ) -> Result<Option<LeftOff>, VaultError> {
        let now = self.leases.clock.now();
        let (low, until) = (self.leases.low(shard), minute(now).saturating_add(1));
        let at_most = self.leases.options.revocations_per_target;
        let snapshot = self.storage.snapshot().await?;
        let from_the_first = from.is_none();
        let mut start = from.unwrap_or_else(|| keyspace::lease_due_from(shard, low));
        let mut first_left = None;
        loop {
            let range = Range::between(start.clone(), keyspace::lease_due_from(shard, until));
            let page = snapshot.range(Keyspace::LeaseIndex, range, PAGE).await?;
            *looked = looked.saturating_add(page.len());
            for (key, hint) in &page {
                let Some((minute, id)) = keyspace::lease_due_in(key) else { continue };
                let id = RecordId(id);
                first_left.get_or_insert(minute);
                let target = <[u8; 16]>::try_from(hint.value.as_ref()).ok().map(RecordId);
                let monotonic = self.clock.monotonic();
                if target.is_some_and(|target| self.leases.under_way.closed(target, at_most, monotonic)) {
                    round.waiting = round.waiting.saturating_add(1);
                    continue;
                }
                let lease = match store::load(self, snapshot.as_ref(), id).await {
                    Ok(Some(stored)) => stored.lease,
                    // Its entry is a leftover of nothing: record and entry go together.
                    Ok(None) => continue,
                    Err(error) => {
                        if self.leases.broken.first(id.as_bytes()) {
                            tracing::error!(lease = %id, %error, "a lease does not open and is put aside");
                        }
                        round.broken = round.broken.saturating_add(1);
                        continue;
                    }
                };
                match due(&lease, now) {
                    Due::Later => {}
                    Due::Remove => over.push(id),
                    Due::Revoke => {
                        if self.leases.under_way.begin(lease.target_id, id, at_most, monotonic) {
                            round.begun = round.begun.saturating_add(1);
                            self.revoke_beside(id, lease.target_id);
                        } else {
                            round.waiting = round.waiting.saturating_add(1);
                        }
                    }
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => {
                    start = last.iter().copied().chain([0]).collect();
                    if *looked >= A_ROUND {
                        return Ok(Some(LeftOff { shard, start }));
                    }
                }
                _ => {
                    // What was seen from the midst says nothing of what is before it.
                    if from_the_first {
                        let done = minute(now).saturating_sub(MARGIN);
                        self.leases.raise_low(shard, first_left.unwrap_or(done).min(done));
                    }
                    return Ok(None);
                }
            }
        }
    }

    fn revoke_beside(&self, id: RecordId, target: RecordId) {
        let open = self.clone();
        self.beside(async move {
            let result = open.revoke_one(id).await;
            let away = matches!(&result, Err(VaultError::Credential(error)) if error.is_of_target());
            open.leases.under_way.end(target, id, away, open.clock.monotonic());
            match result {
                Ok(_) => open.leases.wake.notify_one(),
                Err(error) => {
                    tracing::warn!(lease = %id, %error, "a login is not removed yet; it is tried again")
                }
            }
        });
    }
}

impl UnsealedVault {
    /// A target that was away answers: what waits for it waits no longer.
    pub(crate) fn target_answers(&self, target: RecordId) {
        if self.leases.under_way.answers(target) {
            self.leases.wake.notify_one();
        }
    }

    /// Ends one lease: recorded before and after, and tried again later if the target did not confirm.
    ///
    /// # Errors
    /// Those of log, store and target.
    pub async fn revoke_one(&self, id: RecordId) -> Result<Revoked, VaultError> {
        let lease = find(self, id).await?.lease;
        let detail: Detail = vec![
            ("owner", lease.owner.to_string()),
            ("role", lease.role.to_string()),
            ("target", lease.target.to_string()),
            ("login", lease.handle.name.clone()),
            ("why", why(&lease).as_str().to_owned()),
        ];
        let work = |permit: SystemPermit<Revoke>| self.revoke_under(permit, id);
        operation::run_job(self, "revoke-lease", Resource::Lease(id), detail, work).await
    }

    async fn revoke_under(&self, permit: SystemPermit<Revoke>, id: RecordId) -> Result<Revoked, VaultError> {
        let intent = Some(permit.intent());
        let now = self.leases.clock.now();
        let lease = change(self, intent, id, |lease| {
            if lease.state == LeaseState::Revoking || !lease.due().has_come(now) {
                return Ok(false);
            }
            lease.begin_revoking(why(lease), now).map_err(CredentialError::from)?;
            Ok(true)
        })
        .await?;
        if lease.state != LeaseState::Revoking {
            // Renewed, or closed, since it was found.
            return Ok(Revoked::Later);
        }
        fail_points::after(Step::RevokeBegun);
        match self.remove_login(&lease).await {
            Ok(()) => {
                fail_points::after(Step::RevokeRemoved);
                let now = self.leases.clock.now();
                change(self, intent, id, |lease| {
                    if lease.state != LeaseState::Revoking {
                        return Ok(false);
                    }
                    lease.close(Closed::Confirmed { at: now }).map_err(CredentialError::from)?;
                    Ok(true)
                })
                .await?;
                fail_points::after(Step::RevokeClosed);
                Ok(Revoked::Gone)
            }
            Err(error) => {
                let now = self.leases.clock.now();
                let said = error.to_string();
                change(self, intent, id, |lease| {
                    if lease.state != LeaseState::Revoking {
                        return Ok(false);
                    }
                    let failures =
                        lease.ending.as_ref().map_or(0, |ending| ending.failures).saturating_add(1);
                    let pause = Backoff { failures }.pause(jitter());
                    lease.failed(&said, pause, now).map_err(CredentialError::from)?;
                    Ok(true)
                })
                .await?;
                Err(error)
            }
        }
    }

    async fn remove_login(&self, lease: &LeaseRecord) -> Result<(), VaultError> {
        let snapshot = self.storage.snapshot().await?;
        let (target, _) = targets::find(self, snapshot.as_ref(), &lease.target).await?;
        if target.record.id != lease.target_id {
            let (role, target) = (lease.role.to_string(), lease.target.to_string());
            return Err(CredentialError::OtherTarget { role, target }.into());
        }
        let link = self.link(snapshot.as_ref(), &target).await?;
        drop(snapshot);
        in_time(&lease.target, ONE_CALL, link.revoke(&lease.handle))
            .await
            .map_err(|error| error.then("its removal is tried again"))?;
        Ok(())
    }

    /// Leases whose logins nobody took.
    async fn revoke_abandoned(&self) {
        for (id, reissues) in self.leases.abandoned.take() {
            if let Err(error) = self.abandon(id, reissues).await {
                tracing::warn!(lease = %id, %error, "a lease that nobody took is revoked later");
                self.leases.abandoned.add(id, reissues);
            }
        }
    }

    async fn abandon(&self, id: RecordId, reissues: u32) -> Result<(), VaultError> {
        let work = |permit: SystemPermit<Revoke>| async move {
            let now = self.leases.clock.now();
            let marked = change(self, Some(permit.intent()), id, |lease| {
                if !lease.state.is_live() || lease.reissues != reissues {
                    return Ok(false);
                }
                lease.begin_revoking(Why::NotIssued, now).map_err(CredentialError::from)?;
                // The target has answered: nothing comes any more.
                lease.try_at(now).map_err(CredentialError::from)?;
                Ok(true)
            });
            match marked.await {
                // It was never stored, or is gone already.
                Ok(_) | Err(VaultError::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        };
        operation::run_job(self, "abandon-lease", Resource::Lease(id), Detail::new(), work).await
    }

    async fn remove_closed(&self, ids: &[RecordId]) -> Result<(), VaultError> {
        let snapshot = self.storage.snapshot().await?;
        let mut batch = Batch::new();
        for id in ids {
            if let Some(stored) = store::load(self, snapshot.as_ref(), *id).await?
                && stored.lease.state == LeaseState::Revoked
            {
                store::remove(&mut batch, &stored);
            }
        }
        if batch.operations().is_empty() {
            return Ok(());
        }
        let work = |permit: SystemPermit<Tidy>| async move {
            match self.commit(Some(permit.intent()), batch).await {
                Ok(_) | Err(VaultError::Storage(StorageError::Conflict { .. })) => Ok(()),
                Err(error) => Err(error),
            }
        };
        operation::run_job(self, "tidy-leases", Resource::System, Detail::new(), work).await
    }
}

/// Why a lease that is due ends.
fn why(lease: &LeaseRecord) -> Why {
    match (&lease.ending, lease.state) {
        (Some(ending), _) => ending.why,
        (None, LeaseState::Issuing) => Why::NotIssued,
        (None, _) => Why::Expired,
    }
}
