//! Shares as they come in, from the first to what the last one does.
//!
//! Invariant: a share is told right or wrong when it is entered, before it counts; a good one counts only once it is
//! recorded; whatever a quorum has done is recorded before its result leaves.

use std::sync::Arc;

use keystead_audit::EntryKind;
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::share::Share;
use keystead_domain::id::CeremonyId;
use keystead_domain::seal::Entered;

use super::ceremony::{Ceremony, Progress};
use super::task::{Purpose, Task};
use super::{TrustedSeal, opening, outcome};
use crate::audit_trail::ClearEntry;
use crate::error::VaultError;
use crate::operation::Detail;
use crate::request::RequestContext;
use crate::unsealed::UnsealedVault;
use crate::vault::{OpenVault, Vault, to_its_end};

/// What one share did.
#[derive(Debug)]
pub enum Submitted {
    /// More are needed.
    More(Progress),
    /// The vault is open.
    Unsealed,
    /// What the ceremony was for is done.
    Done(outcome::Outcome),
}

/// What one share did, before it is recorded.
enum Step {
    More(Progress),
    Opened(Box<UnsealedVault>, Progress),
    /// The quorum of an open vault is there.
    Complete(OpenVault),
}

impl Vault {
    /// Enters one share.
    ///
    /// # Errors
    /// `Share` with its own reason for each kind of bad share; `OtherCeremony`; with the last share those of what the
    /// ceremony is for.
    pub async fn submit_share(
        self: &Arc<Self>,
        ctx: &RequestContext,
        text: SecretBytes,
        ceremony_id: Option<CeremonyId>,
    ) -> Result<Submitted, VaultError> {
        let (vault, ctx) = (Arc::clone(self), ctx.again());
        to_its_end("a ceremony", async move {
            let mut ceremony = vault.ceremony.lock().await;
            let submitted = vault.submit(&mut ceremony, &ctx, text, ceremony_id).await;
            vault.show(ceremony.as_ref());
            submitted
        })
        .await
    }

    async fn submit(
        &self,
        ceremony: &mut Option<Ceremony>,
        ctx: &RequestContext,
        text: SecretBytes,
        asked: Option<CeremonyId>,
    ) -> Result<Submitted, VaultError> {
        self.drop_expired(ceremony);
        let seal = self.seal_record().await?.ok_or(VaultError::NotInitialized)?;
        let open = self.unsealed().ok();
        if open.is_some() && ceremony.is_none() && asked.is_none() {
            return Err(VaultError::AlreadyUnsealed);
        }
        let before = ceremony.as_ref().map(Ceremony::seen);
        let entered = self.enter(&seal, ceremony, open, text, asked).await;
        let purpose = ceremony.as_ref().map_or(Purpose::Unseal, Ceremony::purpose);
        let detail = match &entered {
            // A share that opens the vault ends its ceremony; one that is refused leaves those that count.
            Ok(Step::Opened(_, whole)) => counted(whole),
            Ok(_) => ceremony.as_ref().map(Ceremony::seen).as_ref().map(counted).unwrap_or_default(),
            Err(_) => before.as_ref().map(counted).unwrap_or_default(),
        };
        let recorded = self.record_share(ctx, purpose, &entered, detail).await;
        match (entered, recorded) {
            (Ok(Step::More(progress)), Ok(())) => {
                tracing::info!(
                    ?purpose,
                    entered = progress.entered.len(),
                    needed = progress.threshold,
                    "a share was entered"
                );
                Ok(Submitted::More(progress))
            }
            (Ok(Step::Opened(opened, _)), Ok(())) => {
                self.open(*opened);
                tracing::info!("the vault is unsealed");
                Ok(Submitted::Unsealed)
            }
            (Ok(Step::Complete(open)), Ok(())) => self.fulfil(&open, ceremony).await,
            // No record, no open vault.
            (Ok(Step::Opened(opened, _)), Err(error)) => {
                drop(opened);
                self.forget_keys().await;
                Err(error)
            }
            // No record, no share.
            (Ok(Step::More(_) | Step::Complete(_)), Err(error)) => {
                self.take_last_back(ceremony);
                Err(error)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Good shares are all recorded; of bad ones the first of an address in a minute.
    async fn record_share(
        &self,
        ctx: &RequestContext,
        purpose: Purpose,
        entered: &Result<Step, VaultError>,
        mut detail: Detail,
    ) -> Result<(), VaultError> {
        if entered.is_err() {
            let Some(before) = self.refusals.record(ctx.peer, self.parts.clock.monotonic()) else {
                return Ok(());
            };
            if before > 0 {
                detail.push(("refused_and_not_recorded_before", before.to_string()));
            }
        }
        let entry = ClearEntry {
            kind: if entered.is_ok() { EntryKind::System } else { EntryKind::Refused },
            action: purpose.action(),
            outcome: entered.as_ref().map_or_else(VaultError::reason, |_| "ok"),
            caller: Some(ctx.peer.into()),
            intent: None,
            detail,
        };
        entry.record(&self.parts.audit, self.parts.clock.as_ref()).await.map(drop)
    }

    async fn enter(
        &self,
        seal: &TrustedSeal,
        ceremony: &mut Option<Ceremony>,
        open: Option<OpenVault>,
        text: SecretBytes,
        asked: Option<CeremonyId>,
    ) -> Result<Step, VaultError> {
        let share = Share::parse(text.expose())?;
        let current = ceremony.as_ref().map(Ceremony::id);
        // A share that is to do more than open the vault names what it approves.
        let must_name = open.is_some();
        if (asked.is_some() || must_name) && asked != current {
            return Err(VaultError::OtherCeremony {
                asked: asked.map_or_else(|| "(none)".to_owned(), |id| id.to_string()),
                current: current.map(|id| id.to_string()),
            });
        }
        ceremony.as_ref().map_or(&seal.header, Ceremony::header).check_share(&share)?;
        let clock = self.parts.clock.as_ref();
        let under_way = match ceremony {
            Some(under_way) => under_way,
            None => ceremony.insert(Ceremony::begin(
                Task::Unseal,
                &seal.header,
                clock,
                self.ceremony_timeout(Purpose::Unseal)?,
            )?),
        };
        let number = share.number();
        match (under_way.enter(share, clock.monotonic())?, open) {
            (Entered::Duplicate, _) => Err(VaultError::ShareEntered { number }),
            (Entered::Expired, _) => {
                *ceremony = None;
                Err(VaultError::OtherCeremony { asked: "(timed out)".to_owned(), current: None })
            }
            (Entered::More { .. }, _) => Ok(Step::More(under_way.seen())),
            (Entered::Complete, Some(open)) => Ok(Step::Complete(open)),
            (Entered::Complete, None) => self.unseal(seal, ceremony).await,
        }
    }

    async fn unseal(&self, seal: &TrustedSeal, ceremony: &mut Option<Ceremony>) -> Result<Step, VaultError> {
        self.closed().await;
        let Some(complete) = ceremony.as_ref() else {
            return Err(VaultError::OtherCeremony { asked: "(over)".to_owned(), current: None });
        };
        let whole = complete.seen();
        match opening::open(self, seal, complete.shares()).await {
            Err(error) if error.may_pass() => {
                tracing::warn!(%error, "the quorum is there, but the vault cannot be opened now; the last share is to be entered again");
                self.take_last_back(ceremony);
                Err(error)
            }
            // Whatever else came of it, the shares have done their work.
            opened => {
                *ceremony = None;
                if let Err(error) = &opened {
                    tracing::warn!(%error, "the quorum did not open the vault; all shares are to be entered again");
                }
                opened.map(|opened| Step::Opened(Box::new(opened), whole))
            }
        }
    }

    fn take_last_back(&self, ceremony: &mut Option<Ceremony>) {
        if let Some(under_way) = ceremony {
            under_way.take_last_back(self.parts.clock.monotonic());
        }
        // One that a share began ends with it.
        drop(
            ceremony
                .take_if(|under_way| under_way.shares().is_empty() && under_way.purpose() == Purpose::Unseal),
        );
    }

    /// Does what an open vault's quorum approved.
    async fn fulfil(
        &self,
        open: &OpenVault,
        ceremony: &mut Option<Ceremony>,
    ) -> Result<Submitted, VaultError> {
        let Some(complete) = ceremony.as_ref() else {
            return Err(VaultError::OtherCeremony { asked: "(over)".to_owned(), current: None });
        };
        let purpose = complete.purpose();
        match outcome::reach(self, open, complete).await {
            Err(error) if error.may_pass() => {
                tracing::warn!(?purpose, %error, "the quorum is there, but this cannot be done now; the last share is to be entered again");
                self.take_last_back(ceremony);
                Err(error)
            }
            Err(error) => {
                tracing::warn!(?purpose, %error, "the quorum is there, but this cannot be done; the ceremony is over");
                if let Some(over) = ceremony.take() {
                    over.give_up(open).await;
                }
                Err(error)
            }
            Ok(outcome::Reached { outcome, next }) => {
                tracing::info!(?purpose, "a quorum of holders had this done");
                self.anchor_soon.notify_one();
                let next = next.map(|(task, header)| {
                    let timeout = self.ceremony_timeout(task.purpose())?;
                    Ceremony::begin(task, &header, self.parts.clock.as_ref(), timeout)
                });
                *ceremony = next.transpose()?;
                Ok(match ceremony {
                    Some(next) => Submitted::Done(outcome.confirmed_by(next.seen())),
                    None => Submitted::Done(outcome),
                })
            }
        }
    }
}

/// Which ceremony, and how many of its shares count.
fn counted(progress: &Progress) -> Detail {
    vec![
        ("ceremony", progress.id.to_string()),
        ("entered", format!("{} of {}", progress.entered.len(), progress.threshold)),
    ]
}
