//! What a target has against what the vault knows, both ways: a login without a lease is removed, a lease without a login is
//! ended.
//!
//! Invariant: a lease is in the store before its login is made, so a login whose lease is not there is nobody's. Where that is
//! found wrong, a store was restored from before: the login is removed all the same, since nobody would ever revoke it.

use std::collections::HashSet;
use std::sync::Arc;

use keystead_domain::id::RecordId;
use keystead_domain::lease::{Handle, LeaseState, Why};
use keystead_domain::name::Name;
use keystead_domain::policy::Resource;
use keystead_domain::time::UnixMillis;
use keystead_storage::{Keyspace, Range, keyspace};

use super::ops::{change, find};
use super::store;
use crate::credentials::{CredentialError, ONE_CALL, in_time, targets};
use crate::engine::{EngineError, Link};
use crate::error::VaultError;
use crate::operation::{self, Detail};
use crate::request::SystemPermit;
use crate::rotation::Beside;
use crate::vault::OpenVault;

/// Logins asked for at a time.
const PAGE: usize = 500;
/// A lease is compared only if it was there, active, so long before the target was asked, in milliseconds.
const SETTLED: u64 = 60_000;

/// The job that removes a login that no lease owns.
enum RemoveOrphan {}
/// The job that ends a lease whose login is gone.
enum EndVanished {}

/// What comparing targets and leases came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reconciled {
    /// Targets that were compared.
    pub targets: usize,
    /// Targets that did not answer.
    pub away: usize,
    /// Logins that no lease owned, removed.
    pub orphans: usize,
    /// Leases whose logins were gone, ended.
    pub vanished: usize,
}

impl OpenVault {
    /// Compares every target with its leases.
    ///
    /// # Errors
    /// Those of log and store; a target that fails is counted, and looked at the next time.
    pub async fn reconcile_leases(&self) -> Result<Reconciled, VaultError> {
        let mut done = Reconciled::default();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let snapshot = self.storage.snapshot().await?;
            let (found, next) = targets::links(self, snapshot.as_ref(), after.as_deref(), 64).await?;
            drop(snapshot);
            for (name, id, link) in found {
                if self.closing() {
                    return Ok(done);
                }
                match self.reconcile(&name, id, &link, &mut done).await {
                    Ok(()) => done.targets = done.targets.saturating_add(1),
                    Err(VaultError::Credential(error)) => {
                        tracing::warn!(target = %name, %error, "a target could not be compared with its leases");
                        done.away = done.away.saturating_add(1);
                    }
                    Err(error) => return Err(error),
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(done),
            }
        }
    }

    async fn reconcile(
        &self,
        name: &Name,
        id: RecordId,
        link: &Arc<dyn Link>,
        done: &mut Reconciled,
    ) -> Result<(), VaultError> {
        let asked_at = self.leases.clock.now();
        let mut there: HashSet<RecordId> = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = in_time(name, ONE_CALL, link.list(after.as_deref(), PAGE)).await?;
            let Some(page) = page else { return Ok(()) };
            let last = page.len() < PAGE;
            for found in page {
                after = Some(found.handle.name.clone());
                there.insert(found.lease);
                let owned = match find(self, found.lease).await {
                    Ok(stored) => stored.lease.state.is_live(),
                    Err(VaultError::NotFound { .. }) => false,
                    // It may own the login: a person has to look.
                    Err(VaultError::CorruptRecord { .. }) => true,
                    Err(error) => return Err(error),
                };
                if owned {
                    continue;
                }
                if self.closing() {
                    return Ok(());
                }
                match self.remove_orphan(name, link, &found.handle).await {
                    Ok(()) => done.orphans = done.orphans.saturating_add(1),
                    // One that owns something elsewhere stays; the target goes on answering for the others.
                    Err(VaultError::Credential(CredentialError::Engine(EngineError::Refused {
                        what,
                        ..
                    }))) => {
                        tracing::warn!(target = %name, login = %found.handle.name, %what, "a login that no lease owns is not removed");
                    }
                    Err(error) => return Err(error),
                }
            }
            if last {
                break;
            }
        }
        self.end_vanished(id, &there, asked_at, done).await
    }

    async fn remove_orphan(
        &self,
        name: &Name,
        link: &Arc<dyn Link>,
        handle: &Handle,
    ) -> Result<(), VaultError> {
        tracing::warn!(target = %name, login = %handle.name, "a login that no lease owns is removed");
        let detail: Detail = vec![("login", handle.name.clone())];
        let work = |_: SystemPermit<RemoveOrphan>| async move {
            in_time(name, ONE_CALL, link.revoke(handle)).await?;
            Ok(())
        };
        operation::run_job(self, "remove-orphan", Resource::Target(name.clone()), detail, work).await
    }

    async fn end_vanished(
        &self,
        target: RecordId,
        there: &HashSet<RecordId>,
        asked_at: UnixMillis,
        done: &mut Reconciled,
    ) -> Result<(), VaultError> {
        let prefix = keyspace::leases_of_target(target.as_bytes());
        let snapshot = self.storage.snapshot().await?;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let range = Range::prefix(&prefix, after.as_deref());
            let page = snapshot.range(Keyspace::LeaseIndex, range, PAGE).await?;
            let last = page.len() < PAGE;
            for (key, _) in page {
                after = Some(key.to_vec());
                let Some(id) = keyspace::lease_under_in(&key).map(RecordId) else { continue };
                if there.contains(&id) {
                    continue;
                }
                let Ok(Some(stored)) = store::load(self, snapshot.as_ref(), id).await else { continue };
                let settled = stored.lease.issued.0.saturating_add(SETTLED) <= asked_at.0;
                if settled && stored.lease.state == LeaseState::Active {
                    self.end_one(id).await?;
                    done.vanished = done.vanished.saturating_add(1);
                }
            }
            if last {
                return Ok(());
            }
        }
    }

    async fn end_one(&self, id: RecordId) -> Result<(), VaultError> {
        tracing::warn!(lease = %id, "a lease whose login is gone from its target is ended");
        let work = |permit: SystemPermit<EndVanished>| async move {
            let now = self.leases.clock.now();
            change(self, Some(permit.intent()), id, |lease| {
                if lease.state != LeaseState::Active {
                    return Ok(false);
                }
                lease.begin_revoking(Why::LoginGone, now).map_err(CredentialError::from)?;
                Ok(true)
            })
            .await
            .map(drop)
        };
        operation::run_job(self, "end-vanished-lease", Resource::Lease(id), Detail::new(), work).await
    }
}
