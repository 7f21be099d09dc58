//! The head of the audit log, kept in the token: what the host does not keep, the host cannot wind back unseen.
//!
//! Invariant: the vault opens only on a log that has the entries whose head the token keeps, or whose operator gave up
//! exactly that head; only what is on the disk is anchored, and never a smaller log than before. Keeping it writes no
//! entry, or the log would grow for ever by itself. Absent: what came after the last anchor, which can be cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::HEXLOWER;
use keystead_audit::{AuditLog, Checkpoint, EntryKind, Head, ReadError};
use keystead_crypto::ports::{Anchor, Hsm, HsmError};

use crate::audit_tail::blocking;
use crate::audit_trail::ClearEntry;
use crate::error::VaultError;
use crate::vault::{Vault, VaultParts, to_its_end};

/// An anchored head that an operator gave up.
pub(crate) struct GivenUp {
    anchored: Checkpoint,
    log: Head,
    why: &'static str,
}

impl GivenUp {
    /// What an operator should know.
    pub(crate) fn warning(&self) -> String {
        format!(
            "the head {} of {} that the token kept of the audit log was given up at the last unseal, because audit.accept_anchor says so; the log's was {}. Take the setting out",
            self.anchored.head, self.anchored.origin, self.log
        )
    }
}

/// The newest anchor, as far as this process knows.
struct Known {
    counter: u64,
    size: u64,
    /// No store failed or was cut off since: its answer may have been lost.
    sure: bool,
}

/// Keeps the token's copy of the head up to date. Holds no key of the vault, so that sealing need not wait for it.
pub(crate) struct AnchorKeeper {
    token: Arc<dyn Anchor>,
    audit: Arc<AuditLog>,
    origin: String,
    accepted: Option<Head>,
    given_up: Option<GivenUp>,
    /// Held while an anchor is stored: one at a time.
    known: tokio::sync::Mutex<Known>,
    /// The size of the log that the newest anchor covers.
    covered: AtomicU64,
}

impl AnchorKeeper {
    /// Compares the log with what a token keeps of it, which must be bound to the vault's keys.
    ///
    /// # Errors
    /// `AuditRolledBack`, `AnchorUntrusted`, and those of HSM and log.
    pub(crate) async fn check(
        parts: &VaultParts,
        hsm: &Arc<dyn Hsm>,
        origin: String,
    ) -> Result<Self, VaultError> {
        let token: Arc<dyn Anchor> = Arc::<dyn Hsm>::clone(hsm);
        let mut keeper = Self::unchecked(token, Arc::clone(&parts.audit), origin);
        keeper.accepted = parts.options.accept_anchor;
        let (known, given_up) = keeper.look().await.inspect_err(|error| {
            tracing::error!(reason = error.reason(), %error, "the vault is not opened on this audit log");
        })?;
        match &given_up {
            Some(given_up) => tracing::warn!("{}", given_up.warning()),
            None if keeper.accepted.is_some() => {
                tracing::warn!("audit.accept_anchor is set, but no anchor had to be given up; take it out");
            }
            None => {}
        }
        keeper.covered = AtomicU64::new(known.size);
        keeper.known = tokio::sync::Mutex::new(known);
        keeper.given_up = given_up;
        Ok(keeper)
    }

    fn unchecked(token: Arc<dyn Anchor>, audit: Arc<AuditLog>, origin: String) -> Self {
        Self {
            token,
            audit,
            origin,
            accepted: None,
            given_up: None,
            known: tokio::sync::Mutex::new(Known { counter: 0, size: 0, sure: false }),
            covered: AtomicU64::new(0),
        }
    }

    pub(crate) fn given_up(&self) -> Option<&GivenUp> {
        self.given_up.as_ref()
    }

    /// Records that an anchor was given up, if one was.
    pub(crate) async fn record_given_up(&self, parts: &VaultParts) -> Result<(), VaultError> {
        let Some(given_up) = &self.given_up else { return Ok(()) };
        let entry = ClearEntry {
            kind: EntryKind::System,
            action: "system:give-up-anchor",
            outcome: "ok",
            peer: None,
            intent: None,
            detail: vec![
                ("why", given_up.why.to_owned()),
                ("anchored_origin", given_up.anchored.origin.clone()),
                ("anchored", given_up.anchored.head.to_string()),
                ("log", given_up.log.to_string()),
            ],
        };
        entry.record(&self.audit, parts.clock.as_ref()).await.map(drop)
    }

    /// Anchors the head of what is on the disk, if that has grown. The new head, if it did.
    pub(crate) async fn keep(&self) -> Result<Option<Head>, VaultError> {
        let mut known = self.known.lock().await;
        if !known.sure {
            (*known, _) = self.look().await?;
        }
        let head = self.audit.durable_head();
        if head.size <= known.size {
            return Ok(None);
        }
        let counter = known.counter.checked_add(1).ok_or_else(|| self.untrusted("its counter is used up"))?;
        let value = Checkpoint { origin: self.origin.clone(), head }.encode();
        known.sure = false;
        self.token.store(counter, &value).await?;
        *known = Known { counter, size: head.size, sure: true };
        self.covered.store(head.size, Ordering::Relaxed);
        Ok(Some(head))
    }

    /// What the token keeps, if this log has it or it was given up.
    async fn look(&self) -> Result<(Known, Option<GivenUp>), VaultError> {
        let (counter, value) = match self.token.load().await {
            Ok(Some(found)) => found,
            // A new token looks like one whose anchor was taken away.
            Ok(None) => return Ok((Known { counter: 0, size: 0, sure: true }, None)),
            Err(HsmError::Lied { what }) => return Err(self.untrusted(&what)),
            Err(error) => return Err(error.into()),
        };
        let malformed = || self.untrusted("its value is not the head of a log");
        let anchored = Checkpoint::decode(&value).ok_or_else(malformed)?;
        match self.compare(&anchored).await {
            Ok(()) => Ok((Known { counter, size: anchored.head.size, sure: true }, None)),
            Err(error) if self.accepted == Some(anchored.head) => {
                let given_up = GivenUp { anchored, log: self.audit.head(), why: error.reason() };
                Ok((Known { counter, size: 0, sure: true }, Some(given_up)))
            }
            Err(error) => Err(error),
        }
    }

    async fn compare(&self, anchored: &Checkpoint) -> Result<(), VaultError> {
        if anchored.origin != self.origin {
            return Err(VaultError::AnchorUntrusted {
                what: format!("it is of the log {}, and this is {}", anchored.origin, self.origin),
                remedy: format!(
                    "put the right log and node name back, or, to go on with this log on purpose, set audit.accept_anchor = \"{}\" and start again",
                    anchored.head
                ),
            });
        }
        let rolled_back = |instead| VaultError::AuditRolledBack {
            anchored: anchored.head,
            log: self.audit.head(),
            instead,
        };
        let size = anchored.head.size;
        let log = Arc::clone(&self.audit);
        match blocking(move || log.root_at(size).map_err(VaultError::from)).await {
            Ok(root) if root == anchored.head.root => Ok(()),
            Ok(root) => Err(rolled_back(Some(HEXLOWER.encode(&root)))),
            Err(VaultError::AuditUnreadable(ReadError::NoSuchEntry { .. })) => Err(rolled_back(None)),
            Err(error) => Err(error),
        }
    }

    fn untrusted(&self, what: &str) -> VaultError {
        VaultError::AnchorUntrusted {
            what: what.to_owned(),
            remedy: "if nobody had a reason to change it, treat the token as tampered with; to go on without it, destroy the vault's data object `anchor` on the token with the vendor's tool".to_owned(),
        }
    }
}

impl Vault {
    /// Brings the token's copy of the audit log's head up to date. The new head, if the log has grown.
    ///
    /// # Errors
    /// `Sealed`; those of the HSM; `AuditRolledBack` and `AnchorUntrusted` if somebody else changed what the token keeps.
    pub async fn anchor(&self) -> Result<Option<Head>, VaultError> {
        // The open vault is not held: sealing does not wait for a slow token. And one store comes to its end before the next.
        let keeper = Arc::clone(&self.unsealed()?.anchor);
        to_its_end("anchoring", async move { keeper.keep().await }).await
    }

    /// Waits until there is a reason to anchor before the usual time.
    pub async fn anchor_wanted(&self) {
        self.anchor_soon.notified().await;
    }

    /// How many entries of the log no anchor covers, while the vault is open.
    pub fn unanchored(&self) -> Option<u64> {
        let open = self.unsealed().ok()?;
        Some(self.parts.audit.size().saturating_sub(open.anchor.covered.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests;
