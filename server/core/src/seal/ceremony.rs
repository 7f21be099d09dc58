//! The shares entered so far. Invariant: only shares that the header knows get in; each holder counts once; what is
//! collected is wiped with the ceremony.

use std::time::Duration;

use keystead_crypto::seal_record::SealHeader;
use keystead_crypto::share::Share;
use keystead_domain::id::CeremonyId;
use keystead_domain::seal::{Entered, Quorum, ShareNumber, UnsealProgress};
use keystead_domain::time::{Ttl, UnixMillis};
use rand_core::Rng;

use super::task::{Parameters, Purpose, Task, canonical};
use crate::clock::Clock;
use crate::error::VaultError;
use crate::keys::rng;
use crate::unsealed::UnsealedVault;

/// A ceremony that collects shares.
pub(crate) struct Ceremony {
    id: CeremonyId,
    task: Task,
    /// The shares that count are those of this header.
    header: SealHeader,
    quorum: Quorum,
    timeout: Ttl,
    progress: UnsealProgress,
    shares: Vec<Share>,
    ends: Duration,
    expires: UnixMillis,
}

/// What a holder sees of a ceremony.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Its id.
    pub id: CeremonyId,
    /// What it is for.
    pub purpose: Purpose,
    /// What whoever enters a share approves.
    pub parameters: Parameters,
    /// Shares needed.
    pub threshold: u8,
    /// Share numbers entered.
    pub entered: Vec<u8>,
    /// When it is dropped, as the wall clock stood when it began: for people.
    pub expires: UnixMillis,
    /// The same on the monotonic clock, which nobody sets back: this counts.
    pub(super) ends: Duration,
}

impl Ceremony {
    /// One that has begun now, bound to its purpose, its parameters and the header whose shares count.
    pub(super) fn begin(
        task: Task,
        header: &SealHeader,
        clock: &dyn Clock,
        timeout: Ttl,
    ) -> Result<Self, VaultError> {
        let quorum = Quorum::new(header.threshold, header.shares)
            .map_err(|error| VaultError::SealRecord { what: error.to_string() })?;
        let mut nonce = [0; 16];
        rng().fill_bytes(&mut nonce);
        Ok(Self {
            id: CeremonyId(header.ceremony_id(
                task.purpose().action(),
                &canonical(&task.parameters()),
                nonce,
            )),
            task,
            header: header.clone(),
            quorum,
            timeout,
            progress: UnsealProgress::new(quorum, timeout),
            shares: Vec::new(),
            ends: clock.monotonic().saturating_add(Duration::from_millis(timeout.as_millis())),
            expires: clock.now().plus(timeout),
        })
    }

    pub(super) fn id(&self) -> CeremonyId {
        self.id
    }

    pub(super) fn has_expired(&self, now: Duration) -> bool {
        self.ends <= now
    }

    pub(super) fn purpose(&self) -> Purpose {
        self.task.purpose()
    }

    pub(super) fn task(&self) -> &Task {
        &self.task
    }

    /// Ends it, and takes back what it has made so far.
    pub(super) async fn give_up(self, vault: &UnsealedVault) {
        if let Task::ConfirmRekey(pending) = self.task {
            pending.give_up(vault).await;
        }
    }

    pub(super) fn header(&self) -> &SealHeader {
        &self.header
    }

    pub(super) fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// Counts a share that was found good.
    pub(super) fn enter(&mut self, share: Share, now: Duration) -> Result<Entered, VaultError> {
        let out_of_range =
            || VaultError::SealRecord { what: "the threshold or a share number is out of range".to_owned() };
        let number = ShareNumber::new(share.number()).ok_or_else(out_of_range)?;
        let entered = self.progress.enter(number, now);
        if matches!(entered, Entered::More { .. } | Entered::Complete) {
            self.shares.push(share);
        }
        Ok(entered)
    }

    /// Takes the last share back: it could not be recorded, or what the quorum was for could not be tried. The others need
    /// not come again.
    pub(super) fn take_last_back(&mut self, now: Duration) {
        drop(self.shares.pop());
        self.progress = UnsealProgress::new(self.quorum, self.timeout);
        for number in self.shares.iter().filter_map(|share| ShareNumber::new(share.number())) {
            self.progress.enter(number, now);
        }
    }

    pub(super) fn seen(&self) -> Progress {
        Progress {
            id: self.id,
            purpose: self.purpose(),
            parameters: self.task.parameters(),
            threshold: self.progress.threshold(),
            entered: self.shares.iter().map(Share::number).collect(),
            expires: self.expires,
            ends: self.ends,
        }
    }
}
