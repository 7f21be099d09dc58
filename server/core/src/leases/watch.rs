//! Following a lease: as it is, then each change, until its login is gone.
//!
//! Invariant: nothing is held between two looks but the lease as it was sent last. Whoever reads slowly sees fewer changes,
//! the latest always among them.

use std::time::Duration;

use keystead_domain::id::RecordId;
use keystead_domain::lease::{LeaseRecord, LeaseState};
use keystead_domain::policy::{Action, Resource};
use keystead_storage::{Keyspace, keyspace};

use super::ops::{find, owned};
use super::watchers::{Bounds, Watcher};
use crate::auth;
use crate::error::VaultError;
use crate::operation::{Grant, StreamOperation};
use crate::request::{Caller, Permit};
use crate::unsealed::UnsealedVault;

/// So often it is looked at again although nothing woke the watcher: for what no commit of this process tells, such as the
/// end of a session or certificate by time, a revoked certificate, a write whose outcome was unknown.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Follows a lease.
pub struct WatchLease {
    id: RecordId,
    look_again: Duration,
    /// From the opening on.
    place: Option<Watcher>,
    sent: Option<LeaseRecord>,
}

impl WatchLease {
    /// Of this id.
    pub fn new(id: RecordId) -> Self {
        Self { id, look_again: LOOK_AGAIN, place: None, sent: None }
    }

    #[cfg(test)]
    pub(super) fn look_again_after(mut self, pause: Duration) -> Self {
        self.look_again = pause;
        self
    }
}

impl StreamOperation for WatchLease {
    type Item = LeaseRecord;
    const ACTION: Action = Action::LeasesRead;
    const GRANT: Grant = Grant::Owner;
    const RECORD_ITEMS: bool = true;

    fn resource(&self) -> Resource {
        Resource::Lease(self.id)
    }

    async fn is_own(&self, vault: &UnsealedVault, caller: &Caller) -> Result<bool, VaultError> {
        owned(vault, caller, self.id).await
    }

    async fn begin(&mut self, vault: &UnsealedVault, caller: &Caller) -> Result<(), VaultError> {
        let principal = caller.principal();
        let mut records = vec![
            (Keyspace::Leases, keyspace::lease(self.id.as_bytes())),
            (Keyspace::Principals, keyspace::principal(&auth::name_tag(&vault.keys, principal))),
        ];
        records.extend(caller.session().map(|session| (Keyspace::Sessions, session.to_vec())));
        let options = &vault.leases.options;
        let bounds = Bounds { a_principal: options.max_watches_per_principal, all: options.max_watches };
        self.place = Some(vault.leases.watchers.enter(principal, records, bounds)?);
        Ok(())
    }

    async fn ready(&mut self) -> bool {
        match (&self.sent, &self.place) {
            (Some(sent), _) if sent.state == LeaseState::Revoked => return false,
            (Some(_), Some(place)) => {
                // Either way it is looked at.
                tokio::time::timeout(self.look_again, place.changed()).await.ok();
            }
            _ => {}
        }
        true
    }

    async fn next(
        &mut self,
        vault: &UnsealedVault,
        _: &Permit<Self>,
    ) -> Result<Vec<LeaseRecord>, VaultError> {
        let lease = find(vault, self.id).await?.lease;
        if self.sent.as_ref() == Some(&lease) {
            return Ok(Vec::new());
        }
        self.sent = Some(lease.clone());
        Ok(vec![lease])
    }
}
