//! The head of the audit log, kept in every token: what the host does not keep, the host cannot wind back unseen.
//!
//! Invariant: the vault opens, and stays open, only on a log that has the entries whose head any token keeps that answers,
//! or whose operator gave up exactly that head; only what is on the disk is anchored, and never a smaller log than before.
//! Keeping it writes no entry, or the log would grow for ever by itself. Absent: what came after the last anchor, which can
//! be cut off; a token that stays away.

mod kept;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use keystead_audit::{AuditLog, Checkpoint, EntryKind, Head};
use keystead_crypto::ports::Hsm;

use self::kept::{Found, Kept, Log};
use crate::audit_trail::ClearEntry;
use crate::clock::Clock;
use crate::error::VaultError;
use crate::keys::link::{Link, means_away};
use crate::vault::{Vault, VaultParts, to_its_end};

/// An anchored head that an operator gave up.
#[derive(Clone)]
pub(crate) struct GivenUp {
    token: String,
    anchored: Checkpoint,
    log: Head,
    why: &'static str,
}

impl GivenUp {
    /// What an operator should know.
    pub(crate) fn warning(&self) -> String {
        format!(
            "the head {} of {} that token {} kept of the audit log was given up at the last unseal, because audit.accept_anchor says so; the log's was {}. Take the setting out",
            self.anchored.head, self.anchored.origin, self.token, self.log
        )
    }

    /// Whoever gives up a log's head gives up what came before it: another token may lag.
    fn covers(&self, anchored: &Checkpoint) -> bool {
        self.anchored.origin == anchored.origin && self.anchored.head.size >= anchored.head.size
    }

    async fn record(&self, audit: &AuditLog, clock: &dyn Clock) -> Result<(), VaultError> {
        let entry = ClearEntry {
            kind: EntryKind::System,
            action: "system:give-up-anchor",
            outcome: "ok",
            caller: None,
            intent: None,
            detail: vec![
                ("why", self.why.to_owned()),
                ("token", self.token.clone()),
                ("anchored_origin", self.anchored.origin.clone()),
                ("anchored", self.anchored.head.to_string()),
                ("log", self.log.to_string()),
            ],
        };
        entry.record(audit, clock).await.map(drop)
    }
}

/// A token of the configuration and its anchor.
struct Place {
    link: Arc<Link>,
    kept: Kept,
}

/// Keeps the tokens' copies of the head up to date. Holds no key of the vault, so that sealing need not wait for it.
pub(crate) struct AnchorKeeper {
    log: Log,
    accepted: Option<Head>,
    places: Vec<Place>,
    /// The token that opened the vault.
    opener: usize,
    given_up: Mutex<Vec<GivenUp>>,
    /// One at a time looks at tokens that answer for the first time.
    looking: tokio::sync::Mutex<()>,
    /// The size of the log that the newest anchor covers.
    covered: AtomicU64,
}

impl AnchorKeeper {
    /// Compares the log with what each token keeps of it that answers; they must be bound to the vault's keys. The one
    /// that opened the vault must answer.
    ///
    /// # Errors
    /// `AuditRolledBack`, with the newest anchor that the log does not have; `AnchorUntrusted`; those of HSM and log.
    pub(crate) async fn check(
        parts: &VaultParts,
        links: &[Arc<Link>],
        opener: usize,
        origin: String,
    ) -> Result<Self, VaultError> {
        let log = Log { audit: Arc::clone(&parts.audit), origin };
        let keeper = Self::unchecked(log, links, opener, parts.options.accept_anchor);
        let given_up = keeper.look().await.inspect_err(|error| {
            tracing::error!(reason = error.reason(), %error, "the vault is not opened on this audit log");
        })?;
        if given_up.is_empty() && keeper.accepted.is_some() {
            tracing::warn!("audit.accept_anchor is set, but no anchor had to be given up; take it out");
        }
        Ok(keeper)
    }

    fn unchecked(log: Log, links: &[Arc<Link>], opener: usize, accepted: Option<Head>) -> Self {
        let place = |link: &Arc<Link>| Place {
            link: Arc::clone(link),
            kept: Kept::new(Arc::<dyn Hsm>::clone(&link.hsm)),
        };
        Self {
            log,
            accepted,
            places: links.iter().map(place).collect(),
            opener,
            given_up: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            covered: AtomicU64::new(0),
        }
    }

    /// Anchors that were given up since the vault opened.
    pub(crate) fn given_up(&self) -> Vec<GivenUp> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that anchors were given up at the opening, if any were.
    pub(crate) async fn record_given_up(&self, parts: &VaultParts) -> Result<(), VaultError> {
        for given_up in self.given_up() {
            given_up.record(&parts.audit, parts.clock.as_ref()).await?;
        }
        Ok(())
    }

    /// Looks at tokens that are back since the vault opened. As long as one keeps what the log does not have, each call
    /// fails.
    ///
    /// # Errors
    /// As [`Self::check`]; the vault must not stay open with the first two.
    pub(crate) async fn look_at_those_back(&self, clock: &dyn Clock) -> Result<(), VaultError> {
        for given_up in self.look().await? {
            given_up.record(&self.log.audit, clock).await?;
        }
        Ok(())
    }

    /// Whether a token may join: it keeps nothing that the log does not have.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(crate) async fn admits(&self, link: &Link) -> Result<(), VaultError> {
        let Some(place) = self.places.iter().find(|place| Arc::ptr_eq(&place.link.hsm, &link.hsm)) else {
            return Ok(());
        };
        let Found { anchored, misfit, .. } = place.kept.read(&self.log).await?;
        match (misfit, anchored) {
            (Some(_), Some(anchored)) if self.accepts(&anchored, &self.given_up()) => Ok(()),
            (misfit, _) => misfit.map_or(Ok(()), Err),
        }
    }

    /// Whether an operator gave up this anchor, or a newer one of the same log.
    fn accepts(&self, anchored: &Checkpoint, given_up: &[GivenUp]) -> bool {
        self.accepted == Some(anchored.head) || given_up.iter().any(|given_up| given_up.covers(anchored))
    }

    /// Looks at tokens that answer and were not looked at yet. What an operator gives up now; all or nothing of it counts.
    async fn look(&self) -> Result<Vec<GivenUp>, VaultError> {
        let _one_at_a_time = self.looking.lock().await;
        let mut fits: Vec<(&Place, Found)> = Vec::new();
        let mut misfits: Vec<(&Place, String, Found, VaultError)> = Vec::new();
        for (at, place) in self.places.iter().enumerate() {
            let Some(token) = place.link.ready_way().filter(|_| !place.kept.was_looked_at()) else {
                continue;
            };
            match place.kept.read(&self.log).await {
                Ok(mut found) => match found.misfit.take() {
                    None => fits.push((place, found)),
                    Some(misfit) => misfits.push((place, token, found, misfit)),
                },
                Err(VaultError::Hsm(error)) if at != self.opener => {
                    tracing::warn!(%token, %error, "what a further token keeps of the audit log cannot be read; it is tried again");
                }
                Err(error) => return Err(error),
            }
        }
        // The newest first: it is the one to name, and giving it up gives up the older ones.
        misfits.sort_by_key(|(_, _, found, _)| std::cmp::Reverse(found.size()));
        let mut known = self.given_up();
        let (already, mut given_up) = (known.len(), Vec::new());
        for (place, token, found, misfit) in misfits {
            match found.anchored.as_ref().filter(|anchored| self.accepts(anchored, &known)) {
                Some(anchored) => {
                    let (anchored, log) = (anchored.clone(), self.log.audit.head());
                    known.push(GivenUp { token, anchored, log, why: misfit.reason() });
                    given_up.push((place, found));
                }
                None => {
                    tracing::error!(%token, "a token keeps a head that the audit log does not have");
                    return Err(misfit);
                }
            }
        }
        for (place, found) in fits {
            self.covered.fetch_max(found.size(), Ordering::Relaxed);
            place.kept.looked_at(&found, found.size()).await;
        }
        for (place, found) in given_up {
            // What was given up is replaced, however far the log is.
            place.kept.looked_at(&found, 0).await;
        }
        let new = known.split_off(already);
        for given_up in &new {
            tracing::warn!("{}", given_up.warning());
        }
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).extend(new.iter().cloned());
        Ok(new)
    }

    /// Anchors the head of what is on the disk in each token that answers, if that has grown; one that is back is looked at
    /// before. The new head, if it did. A token that is away is no failure while another has it.
    ///
    /// # Errors
    /// Those of the HSM; `AuditRolledBack` and `AnchorUntrusted` for a token that keeps what the log does not have. The others
    /// have the head all the same.
    pub(crate) async fn keep(&self, clock: &dyn Clock) -> Result<Option<Head>, VaultError> {
        let looked = self.look_at_those_back(clock).await;
        let answers = |place: &&Place| place.link.ready_way().is_some() && place.kept.was_looked_at();
        let mut places: Vec<&Place> = self.places.iter().filter(answers).collect();
        if places.is_empty() {
            // Nobody answers, as far as is known: the one that opened the vault says why.
            places.extend(self.places.get(self.opener));
        }
        let given_up = self.given_up();
        let accepts = |anchored: &Checkpoint| self.accepts(anchored, &given_up);
        // Side by side: a slow one does not keep the head from the others.
        let kept = join_all(places.iter().map(|place| place.kept.keep(&self.log, &accepts))).await;
        let (mut newest, mut up_to_date, mut away) = (None, false, None);
        let mut failed = looked.err();
        for (place, kept) in places.iter().zip(kept) {
            match kept {
                Ok(head) => {
                    up_to_date = true;
                    if let Some(head) = head {
                        self.covered.fetch_max(head.size, Ordering::Relaxed);
                        newest = newest.filter(|newest: &Head| newest.size > head.size).or(Some(head));
                    }
                }
                Err(VaultError::Hsm(error)) if means_away(&error) => away = Some(error),
                Err(error) => {
                    let token = place.link.way().unwrap_or_default();
                    tracing::warn!(%token, %error, "the head of the audit log could not be anchored in a token");
                    failed = Some(error);
                }
            }
        }
        match (failed, away) {
            (Some(error), _) => Err(error),
            (None, Some(error)) if !up_to_date => Err(error.into()),
            (None, _) => Ok(newest),
        }
    }
}

impl Vault {
    /// Brings the tokens' copies of the audit log's head up to date. The new head, if the log has grown.
    ///
    /// # Errors
    /// `Sealed`; those of the HSM; `AuditRolledBack` and `AnchorUntrusted` if somebody else changed what the token keeps.
    pub async fn anchor(&self) -> Result<Option<Head>, VaultError> {
        // The open vault is not held: sealing does not wait for a slow token. And one store comes to its end before the next.
        let keeper = Arc::clone(&self.unsealed()?.anchor);
        let clock = Arc::clone(&self.parts.clock);
        to_its_end("anchoring", async move { keeper.keep(clock.as_ref()).await }).await
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
