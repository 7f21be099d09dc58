//! Whether somebody else ends the lease, as the vault tells it: a kept credential need not wait until it is refused.
//!
//! It is an addition: without it (an older vault, a limit, a broken connection) a lease is renewed in its time all the
//! same, and nothing is said. By the runtime's clock: what it waits for is no part of a credential's life.

use std::convert::Infallible;
use std::time::Duration;

use futures::future;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Code;

use super::run::Keeper;
use super::verdict::{self, Unrenewed};
use crate::error::Error;
use crate::leases::{Lease, LeaseState, NO_LEASE};
use crate::retry::fraction;

/// A connection that held for so long was no failure.
const LASTED: Duration = Duration::from_secs(30);

/// What the vault says of a lease that is over.
#[derive(Clone, Debug)]
pub(super) struct Over {
    /// Its id.
    pub(super) id: String,
    /// As the vault last showed it; nothing if it has forgotten it.
    pub(super) lease: Option<Lease>,
}

impl Keeper {
    /// Follows the lease that is held, and tells when it is over.
    pub(super) async fn follow(
        &self,
        mut held: watch::Receiver<String>,
        over: &watch::Sender<Option<Over>>,
    ) -> Infallible {
        loop {
            let id = held.borrow_and_update().clone();
            let told = async {
                let lease = self.end_of(&id).await;
                over.send_replace(Some(Over { id: id.clone(), lease }));
                future::pending::<Infallible>().await
            };
            tokio::select! {
                never = told => match never {},
                changed = held.changed() => if changed.is_err() { return future::pending().await },
            }
        }
    }

    /// Comes back when the vault says that a lease is over, with what it says; connects anew after a pause, as often as it
    /// takes.
    async fn end_of(&self, id: &str) -> Option<Lease> {
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let error = match self.follow_once(id).await {
                Ok(lease) => return Some(lease),
                Err(error) if verdict::unrenewed(&error) == Unrenewed::Nothing => return None,
                Err(error) => error,
            };
            if error.refusal().is_some_and(|refusal| refusal.code == Code::Unimplemented) {
                return future::pending().await;
            }
            failures = if began.elapsed() > LASTED { 1 } else { failures.saturating_add(1) };
            tokio::time::sleep(verdict::pause(&error, failures, Duration::ZERO, fraction())).await;
        }
    }

    /// Follows a lease until it is over, or until something fails.
    async fn follow_once(&self, id: &str) -> Result<Lease, Error> {
        // Where there are many keepers, some wait for their turn; their leases are renewed all the same.
        let _place = match self.leases.places_to_watch().acquire().await {
            Ok(place) => place,
            Err(_) => return future::pending().await,
        };
        let mut changes = self.leases.watch(id).await?;
        while let Some(lease) = changes.next().await? {
            if matches!(lease.state, LeaseState::Revoking | LeaseState::Revoked) {
                return Ok(lease);
            }
        }
        Err(NO_LEASE)
    }
}
