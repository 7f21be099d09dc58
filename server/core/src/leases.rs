//! Leases: who holds which login, until when, and how it is taken away.
//!
//! Invariant: a login is removed by its lease and by nothing else; a lease is closed when the target confirmed that, when
//! the target was never asked for the login, or when an operator took it upon them. What is due is found by time, so that
//! opening the vault reads nothing that is not.

pub(crate) mod clock;
pub(crate) mod counts;
mod forget;
pub(crate) mod many;
mod ops;
#[cfg(feature = "testing")]
mod planted;
mod reconcile;
mod revoker;
mod scrub;
pub(crate) mod store;
mod told;
mod watch;
pub(crate) mod watchers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keystead_domain::name::Name;
use keystead_domain::time::{Ttl, UnixMillis};
use keystead_storage::{Batch, Keyspace, Precondition, Snapshot, keyspace};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub use self::clock::ClockState;
use self::clock::LeaseClock;
use self::counts::Counts;
pub use self::many::{Marked, RevokeLeases};
pub use self::ops::{
    AcceptClock, LeasePage, ListLeases, ReadLease, RenewLease, Renewed, RevokeLease, Selector,
};
pub use self::reconcile::Reconciled;
use self::revoker::{LeftOff, UnderWay};
pub use self::revoker::{Revoked, Round};
use self::scrub::Scrub;
pub use self::scrub::Scrubbed;
use self::told::Told;
pub use self::watch::WatchLease;
use self::watchers::Watchers;
use crate::clock::Clock;
use crate::credentials::issue::{Abandoned, Turns};
use crate::credentials::{CredentialError, ONE_CALL, in_time, targets};
use crate::engine::Link;
use crate::error::VaultError;
use crate::keys::corrupt;
use crate::records;
use crate::unsealed::UnsealedVault;

/// How leases are bounded.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// No lease lives longer.
    pub max_ttl: Ttl,
    /// Live leases of one principal at most.
    pub max_live_per_principal: u32,
    /// Revocations under way on one target at most.
    pub revocations_per_target: usize,
    /// Leases that one principal follows at the same time at most.
    pub max_watches_per_principal: usize,
    /// Leases that are followed at the same time at most, by all together.
    pub max_watches: usize,
}

/// What an open vault knows of leases.
pub(crate) struct Leases {
    pub(crate) options: LeaseOptions,
    pub(crate) clock: LeaseClock,
    pub(crate) counts: Counts,
    /// Something is due sooner than the next look.
    pub(crate) wake: Arc<Notify>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) abandoned: Abandoned,
    pub(crate) turns: Turns,
    pub(crate) under_way: UnderWay,
    scrub: Scrub,
    /// Records that do not open.
    broken: Told,
    /// Where the last round left off, if it did not get to the end.
    left_off: Mutex<Option<LeftOff>>,
    /// A login that no lease owns was left in a target.
    compare: AtomicBool,
    state: Mutex<State>,
}

/// What is stored of leases as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The time of leases when this was written.
    mark: UnixMillis,
    /// The first minute of each shard that may have a lease due in it.
    low: Vec<u32>,
}

impl State {
    fn new(mark: UnixMillis) -> Self {
        Self { mark, low: vec![0; usize::from(keyspace::LEASE_SHARDS)] }
    }
}

impl Leases {
    /// Goes on from what is stored; of a new vault, from now.
    fn new(
        options: LeaseOptions,
        clock: Arc<dyn Clock>,
        stored: Option<State>,
        wake: Arc<Notify>,
        watchers: Arc<Watchers>,
    ) -> Self {
        let clock = LeaseClock::new(clock, stored.as_ref().map(|state| state.mark));
        let state = stored.unwrap_or_else(|| State::new(clock.now()));
        Self {
            options,
            clock,
            counts: Counts::default(),
            wake,
            watchers,
            abandoned: Abandoned::default(),
            turns: Turns::default(),
            under_way: UnderWay::default(),
            scrub: Scrub::default(),
            broken: Told::default(),
            left_off: Mutex::default(),
            compare: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// Reads what is stored.
    pub(crate) async fn load(
        options: LeaseOptions,
        clock: Arc<dyn Clock>,
        keys: &crate::keys::Keys,
        snapshot: &dyn Snapshot,
        wake: Arc<Notify>,
        watchers: Arc<Watchers>,
    ) -> Result<Self, VaultError> {
        let at = keyspace::meta_leases();
        let stored = match snapshot.get(Keyspace::Meta, &at).await? {
            None => None,
            Some(stored) => {
                let plain = keys.open_record(Keyspace::Meta, &at, &stored.value)?;
                let state: State =
                    records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Meta, &at))?;
                if state.low.len() != usize::from(keyspace::LEASE_SHARDS) {
                    return Err(corrupt(Keyspace::Meta, &at));
                }
                Some(state)
            }
        };
        Ok(Self::new(options, clock, stored, wake, watchers))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left_off(&self) -> MutexGuard<'_, Option<LeftOff>> {
        self.left_off.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn low(&self, shard: u8) -> u32 {
        self.state().low.get(usize::from(shard)).copied().unwrap_or(0)
    }

    /// Nothing is due in a shard before this minute. It only rises.
    fn raise_low(&self, shard: u8, minute: u32) {
        if let Some(low) = self.state().low.get_mut(usize::from(shard)) {
            *low = minute.max(*low);
        }
    }

    /// A login that no lease owns was left in a target: it goes when that is compared with the leases.
    fn want_comparison(&self) {
        self.compare.store(true, Ordering::Release);
    }

    /// Looks at every minute of the index again.
    fn look_again(&self) {
        self.state().low.fill(0);
    }

    /// The clock is believed, or a target's clock settles that.
    ///
    /// # Errors
    /// `ClockDoubted`.
    pub(crate) async fn check_clock(&self, target: &Name, link: &dyn Link) -> Result<(), VaultError> {
        let ClockState::Doubted { ahead } = self.clock.look() else { return Ok(()) };
        let said = in_time(target, ONE_CALL, link.now()).await?;
        if said.is_some_and(|said| self.clock.hear(said)) {
            tracing::info!(ahead_s = ahead / 1000, "a target's clock agrees with the server's: leases go on");
            return Ok(());
        }
        Err(CredentialError::ClockDoubted { ahead_s: ahead / 1000 }.into())
    }
}

impl UnsealedVault {
    /// Whether targets should be compared with leases now, since a lease was closed by force. Says so once.
    pub fn comparison_wanted(&self) -> bool {
        self.leases.compare.swap(false, Ordering::AcqRel)
    }

    /// What the clocks say of each other.
    pub fn lease_clock(&self) -> ClockState {
        self.leases.clock.look()
    }

    /// Asks targets what time it is, while the server's clock is doubted.
    async fn settle_lease_clock(&self) -> Result<(), VaultError> {
        const ASKED: usize = 8;
        const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
        if !matches!(self.leases.clock.look(), ClockState::Doubted { .. }) {
            return Ok(());
        }
        let snapshot = self.storage.snapshot().await?;
        let (links, _) = targets::links(self, snapshot.as_ref(), None, ASKED).await?;
        drop(snapshot);
        let asked = links.iter().map(|(_, _, link)| tokio::time::timeout(ANSWERS_WITHIN, link.now()));
        for said in futures::future::join_all(asked).await {
            if let Ok(Ok(Some(said))) = said
                && self.leases.clock.hear(said)
            {
                tracing::info!("a target's clock agrees with the server's: leases go on");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Stores the time of leases and how far the index is done with.
    pub(crate) async fn keep_lease_state(&self) -> Result<(), VaultError> {
        const MARK_EVERY: u64 = 30_000;
        let at = keyspace::meta_leases();
        let stored = self.storage.snapshot().await?.get(Keyspace::Meta, &at).await?;
        let mut state = self.leases.state().clone();
        let now = self.leases.clock.now();
        if stored.is_some() && now.millis_since(state.mark) < MARK_EVERY {
            return Ok(());
        }
        state.mark = now;
        let plain = records::encode(&state).map_err(|_| corrupt(Keyspace::Meta, &at))?;
        let unchanged = stored.map_or(Precondition::Absent, |stored| Precondition::Revision(stored.revision));
        let mut batch = Batch::new();
        batch.require(Keyspace::Meta, at.clone(), unchanged);
        batch.put(Keyspace::Meta, at.clone(), self.keys.seal_record(Keyspace::Meta, &at, &plain)?);
        self.commit(None, batch).await?;
        self.leases.state().mark = now;
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
