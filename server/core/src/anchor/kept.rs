//! The head of the log in one token. Invariant: one store at a time; what may have been stored without an answer is read
//! again before the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use data_encoding::HEXLOWER;
use keystead_audit::{AuditLog, Checkpoint, Head, ReadError};
use keystead_crypto::ports::{Anchor, HsmError};

use crate::audit_tail::blocking;
use crate::error::VaultError;

/// The log that is anchored.
pub(super) struct Log {
    pub(super) audit: Arc<AuditLog>,
    /// `<vault>/<node>`.
    pub(super) origin: String,
}

/// The anchor in one token.
pub(super) struct Kept {
    token: Arc<dyn Anchor>,
    looked_at: AtomicBool,
    /// Held while an anchor is stored: one at a time.
    known: tokio::sync::Mutex<Known>,
}

/// The newest anchor, as far as this process knows.
struct Known {
    counter: u64,
    size: u64,
    /// No store failed or was cut off since: its answer may have been lost.
    sure: bool,
}

/// What a token keeps.
pub(super) struct Found {
    counter: u64,
    /// Nothing in a new token, which looks like one whose anchor was taken away.
    pub(super) anchored: Option<Checkpoint>,
    /// Why the log is not the one that is anchored.
    pub(super) misfit: Option<VaultError>,
}

impl Found {
    pub(super) fn size(&self) -> u64 {
        self.anchored.as_ref().map_or(0, |anchored| anchored.head.size)
    }
}

impl Kept {
    pub(super) fn new(token: Arc<dyn Anchor>) -> Self {
        Self {
            token,
            looked_at: AtomicBool::new(false),
            known: tokio::sync::Mutex::new(Known { counter: 0, size: 0, sure: false }),
        }
    }

    /// Whether its anchor was compared with the log since the vault opened.
    pub(super) fn was_looked_at(&self) -> bool {
        self.looked_at.load(Ordering::Acquire)
    }

    /// Its anchor was compared with the log; the next one is for a log of more than `size` entries.
    pub(super) async fn looked_at(&self, found: &Found, size: u64) {
        *self.known.lock().await = Known { counter: found.counter, size, sure: true };
        self.looked_at.store(true, Ordering::Release);
    }

    /// What the token keeps, compared with the log.
    ///
    /// # Errors
    /// `AnchorUntrusted` for what is no head at all; those of HSM and log.
    pub(super) async fn read(&self, log: &Log) -> Result<Found, VaultError> {
        let (counter, value) = match self.token.load().await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Found { counter: 0, anchored: None, misfit: None }),
            Err(HsmError::Lied { what }) => return Err(untrusted(&what)),
            Err(error) => return Err(error.into()),
        };
        let malformed = || untrusted("its value is not the head of a log");
        let anchored = Checkpoint::decode(&value).ok_or_else(malformed)?;
        let misfit = log.misfit(&anchored).await?;
        Ok(Found { counter, anchored: Some(anchored), misfit })
    }

    /// Anchors the head of what is on the disk, if that has grown. The new head, if it did. An anchor of another log is
    /// replaced if an operator gave it up.
    pub(super) async fn keep(
        &self,
        log: &Log,
        given_up: &(dyn Fn(&Checkpoint) -> bool + Sync),
    ) -> Result<Option<Head>, VaultError> {
        let mut known = self.known.lock().await;
        if !known.sure {
            let found = self.read(log).await?;
            let size = match (found.misfit, found.anchored) {
                (None, anchored) => anchored.map_or(0, |anchored| anchored.head.size),
                (Some(_), Some(anchored)) if given_up(&anchored) => 0,
                (Some(misfit), _) => return Err(misfit),
            };
            *known = Known { counter: found.counter, size, sure: true };
        }
        let head = log.audit.durable_head();
        if head.size <= known.size {
            return Ok(None);
        }
        let counter = known.counter.checked_add(1).ok_or_else(|| untrusted("its counter is used up"))?;
        let value = Checkpoint { origin: log.origin.clone(), head }.encode();
        known.sure = false;
        self.token.store(counter, &value).await?;
        *known = Known { counter, size: head.size, sure: true };
        Ok(Some(head))
    }
}

impl Log {
    /// Why this is not the log, or not as much of it, whose head was anchored.
    ///
    /// # Errors
    /// Those of the log.
    async fn misfit(&self, anchored: &Checkpoint) -> Result<Option<VaultError>, VaultError> {
        if anchored.origin != self.origin {
            return Ok(Some(VaultError::AnchorUntrusted {
                what: format!("it is of the log {}, and this is {}", anchored.origin, self.origin),
                remedy: format!(
                    "put the right log and node name back, or, to go on with this log on purpose, set audit.accept_anchor = \"{}\" and start again",
                    anchored.head
                ),
            }));
        }
        let rolled_back = |instead| {
            let (anchored, log) = (anchored.head, self.audit.head());
            Ok(Some(VaultError::AuditRolledBack { anchored, log, instead }))
        };
        let size = anchored.head.size;
        let log = Arc::clone(&self.audit);
        match blocking(move || log.root_at(size).map_err(VaultError::from)).await {
            Ok(root) if root == anchored.head.root => Ok(None),
            Ok(root) => rolled_back(Some(HEXLOWER.encode(&root))),
            Err(VaultError::AuditUnreadable(ReadError::NoSuchEntry { .. })) => rolled_back(None),
            Err(error) => Err(error),
        }
    }
}

fn untrusted(what: &str) -> VaultError {
    VaultError::AnchorUntrusted {
        what: what.to_owned(),
        remedy: "if nobody had a reason to change it, treat the token as tampered with; to go on without it, destroy the vault's data object `anchor` on the token with the vendor's tool".to_owned(),
    }
}

#[cfg(test)]
mod tests;
