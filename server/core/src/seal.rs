//! Unsealing with a quorum of shares, and sealing.
//!
//! Invariant: a share is told right or wrong when it is entered, before it counts; the key that shares make exists only
//! while the vault opens; what a sealed vault records is clear and names nobody's data.

mod ceremony;
mod opening;

use std::sync::Arc;

use keystead_audit::EntryKind;
use keystead_crypto::seal_record::{SealHeader, SealRecord};
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::share::Share;
use keystead_domain::id::{CeremonyId, VaultId};
use keystead_domain::policy::{Action, Resource};
use keystead_domain::seal::Entered;
use keystead_domain::time::Ttl;
use keystead_storage::{Keyspace, Revision, keyspace};

use crate::audit_trail::ClearEntry;
use crate::error::VaultError;
use crate::keys::corrupt;
use crate::operation::{self, Detail, Effect, Operation};
use crate::request::{Permit, RequestContext};
use crate::unsealed::UnsealedVault;
use crate::vault::{Vault, to_its_end};

pub(crate) use self::ceremony::Ceremony;
pub use self::ceremony::Progress;
pub(crate) use self::opening::KEYRING_FORMAT;

/// A seal record whose header was verified.
pub(crate) struct TrustedSeal {
    revision: Revision,
    pub(crate) record: SealRecord,
    pub(crate) header: SealHeader,
}

/// Whether a vault serves, and how it opens.
#[derive(Debug)]
pub struct Status {
    /// The header of the seal record with its signed bytes; nothing before init.
    pub header: Option<(SealHeader, Vec<u8>)>,
    /// Whether keys are open.
    pub unsealed: bool,
    /// The ceremony under way.
    pub ceremony: Option<Progress>,
}

/// What one share did.
#[derive(Debug)]
pub enum Submitted {
    /// More are needed.
    More(Progress),
    /// The vault is open.
    Unsealed,
}

/// What one share did, before it is recorded.
enum Step {
    More(Progress),
    Opened(Box<UnsealedVault>),
}

impl Vault {
    /// The state of the vault. Open to anybody who can connect.
    ///
    /// # Errors
    /// Those of the store; a seal record that does not decode.
    pub async fn status(&self) -> Result<Status, VaultError> {
        let seal = self.seal_record().await?;
        let now = self.parts.clock.now();
        let ceremony = self.progress.load_full().filter(|progress| progress.expires > now);
        Ok(Status {
            header: seal.map(|seal| (seal.header.clone(), seal.record.header.encode())),
            unsealed: self.is_unsealed(),
            ceremony: ceremony.map(|progress| (*progress).clone()),
        })
    }

    /// Wipes the shares of a ceremony that timed out. Called every few seconds.
    pub fn tidy(&self) {
        if let Ok(mut ceremony) = self.ceremony.try_lock() {
            self.drop_expired(&mut ceremony);
            self.show(ceremony.as_ref());
        }
    }

    fn show(&self, ceremony: Option<&Ceremony>) {
        self.progress.store(ceremony.map(|ceremony| Arc::new(ceremony.seen())));
    }

    /// Enters one share.
    ///
    /// # Errors
    /// `Share` with its own reason for each kind of bad share; `OtherCeremony`; with the last share those of the HSM.
    pub async fn submit_share(
        self: &Arc<Self>,
        ctx: &RequestContext,
        text: SecretBytes,
        ceremony_id: Option<CeremonyId>,
    ) -> Result<Submitted, VaultError> {
        let (vault, ctx) = (Arc::clone(self), ctx.again());
        to_its_end("unsealing", async move {
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
        ceremony_id: Option<CeremonyId>,
    ) -> Result<Submitted, VaultError> {
        if self.is_unsealed() {
            return Err(VaultError::AlreadyUnsealed);
        }
        self.drop_expired(ceremony);
        let seal = self.seal_record().await?.ok_or(VaultError::NotInitialized)?;
        let entered = self.enter(&seal, ceremony, text, ceremony_id).await;
        let mut detail: Detail = Vec::new();
        if let Ok(Step::More(progress)) = &entered {
            detail.push(("ceremony", progress.id.to_string()));
            detail.push(("entered", format!("{} of {}", progress.entered.len(), progress.threshold)));
        }
        let recorded = self.record_share(ctx, &entered, detail).await;
        match (entered, recorded) {
            (Ok(Step::More(progress)), Ok(())) => {
                tracing::info!(
                    entered = progress.entered.len(),
                    needed = progress.threshold,
                    "a share was entered"
                );
                Ok(Submitted::More(progress))
            }
            (Ok(Step::Opened(opened)), Ok(())) => {
                self.open(*opened);
                tracing::info!("the vault is unsealed");
                Ok(Submitted::Unsealed)
            }
            // No record, no open vault.
            (Ok(Step::Opened(opened)), Err(error)) => {
                drop(opened);
                self.forget_keys().await;
                Err(error)
            }
            // No record, no share.
            (Ok(Step::More(_)), Err(error)) => {
                if let Some(under_way) = ceremony {
                    under_way.take_last_back(self.parts.clock.now());
                }
                drop(ceremony.take_if(|under_way| under_way.shares().is_empty()));
                Err(error)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Good shares are all recorded; of bad ones the first of an address in a minute.
    async fn record_share(
        &self,
        ctx: &RequestContext,
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
            action: "system:unseal",
            outcome: entered.as_ref().map_or_else(VaultError::reason, |_| "ok"),
            peer: Some(ctx.peer),
            intent: None,
            detail,
        };
        entry.record(&self.parts.audit, self.parts.clock.as_ref()).await.map(drop)
    }

    /// Drops a half-done ceremony.
    ///
    /// # Errors
    /// `OperatorOnly`, `OtherCeremony`.
    pub async fn cancel_unseal(&self, ctx: &RequestContext, id: CeremonyId) -> Result<(), VaultError> {
        self.check_operator(ctx, "cancelling an unseal ceremony")?;
        let mut ceremony = self.ceremony.lock().await;
        let current = ceremony.as_ref().map(Ceremony::id);
        if current != Some(id) {
            return Err(VaultError::OtherCeremony {
                asked: id.to_string(),
                current: current.map(|id| id.to_string()),
            });
        }
        let entry = ClearEntry {
            kind: EntryKind::System,
            action: "system:cancel-unseal",
            outcome: "ok",
            peer: Some(ctx.peer),
            intent: None,
            detail: vec![("ceremony", id.to_string())],
        };
        entry.record(&self.parts.audit, self.parts.clock.as_ref()).await?;
        *ceremony = None;
        self.show(None);
        Ok(())
    }

    /// Seals for a caller: authorized, recorded before and after.
    ///
    /// # Errors
    /// Those of the gate.
    pub async fn seal(self: &Arc<Self>, ctx: RequestContext) -> Result<(), VaultError> {
        let open = self.opened().await?;
        operation::run(&open, ctx, SealVault { vault: Arc::clone(self) }).await?;
        drop(open);
        // Sealed means wiped: those still inside end first.
        self.closed().await;
        Ok(())
    }

    /// Seals without a caller: the process ends, or cannot go on.
    ///
    /// # Errors
    /// When the log could not record it; the vault is sealed all the same.
    pub async fn seal_by_itself(&self, why: &'static str) -> Result<(), VaultError> {
        // A step that is opening the vault comes to its end first, and is sealed with it.
        let mut ceremony = self.ceremony.lock().await;
        *ceremony = None;
        self.show(None);
        let Some(shut) = self.shut() else { return Ok(()) };
        shut.drained().await;
        self.forget_keys().await;
        drop(shut);
        let entry = ClearEntry {
            kind: EntryKind::System,
            action: "system:seal",
            outcome: "ok",
            peer: None,
            intent: None,
            detail: vec![("why", why.to_owned())],
        };
        entry.record(&self.parts.audit, self.parts.clock.as_ref()).await.map(drop)
    }

    async fn forget_keys(&self) {
        tracing::info!("the vault is sealed");
        self.opener.clear();
        self.parts.hsm.logout().await;
    }

    /// The seal record, if there is one and its audit key signed its header. Checked once for each revision: anybody
    /// may ask for the status.
    pub(crate) async fn seal_record(&self) -> Result<Option<Arc<TrustedSeal>>, VaultError> {
        let at = keyspace::seal_record();
        let Some(stored) = self.parts.storage.snapshot().await?.get(Keyspace::Seal, &at).await? else {
            return Ok(None);
        };
        if let Some(known) = self.seal.load_full()
            && known.revision == stored.revision
        {
            return Ok(Some(known));
        }
        let record = SealRecord::decode(&stored.value).map_err(|_| corrupt(Keyspace::Seal, &at))?;
        let header = record.verify().map_err(|error| VaultError::SealRecord { what: error.to_string() })?;
        let seal = Arc::new(TrustedSeal { revision: stored.revision, record, header });
        self.seal.store(Some(Arc::clone(&seal)));
        Ok(Some(seal))
    }

    async fn enter(
        &self,
        seal: &TrustedSeal,
        ceremony: &mut Option<Ceremony>,
        text: SecretBytes,
        asked: Option<CeremonyId>,
    ) -> Result<Step, VaultError> {
        let TrustedSeal { record, header, .. } = seal;
        let share = Share::parse(text.expose())?;
        header.check_share(&share)?;
        if let Some(asked) = asked
            && ceremony.as_ref().map(Ceremony::id) != Some(asked)
        {
            return Err(VaultError::OtherCeremony {
                asked: asked.to_string(),
                current: ceremony.as_ref().map(|ceremony| ceremony.id().to_string()),
            });
        }
        let under_way = match ceremony {
            Some(under_way) => under_way,
            None => ceremony.insert(Ceremony::begin(header, self.parts.clock.now(), self.unseal_timeout()?)?),
        };
        let number = share.number();
        match under_way.enter(share, self.parts.clock.now())? {
            Entered::Duplicate => Err(VaultError::ShareEntered { number }),
            Entered::Expired => {
                *ceremony = None;
                Err(VaultError::OtherCeremony { asked: "(timed out)".to_owned(), current: None })
            }
            Entered::More { .. } => Ok(Step::More(under_way.seen())),
            Entered::Complete => {
                self.closed().await;
                match opening::open(self, record, header, under_way.shares()).await {
                    Err(error) if opening::may_work_later(&error) => {
                        tracing::warn!(%error, "the quorum is there, but the vault cannot be opened now; the last share is to be entered again");
                        under_way.take_last_back(self.parts.clock.now());
                        Err(error)
                    }
                    // Whatever else came of it, the shares have done their work.
                    opened => {
                        *ceremony = None;
                        if let Err(error) = &opened {
                            tracing::warn!(%error, "the quorum did not open the vault; all shares are to be entered again");
                        }
                        opened.map(|opened| Step::Opened(Box::new(opened)))
                    }
                }
            }
        }
    }

    fn unseal_timeout(&self) -> Result<Ttl, VaultError> {
        Ttl::from_secs(self.parts.options.unseal_timeout.as_secs().max(1))
            .map_err(|error| VaultError::SealRecord { what: error.to_string() })
    }

    fn drop_expired(&self, ceremony: &mut Option<Ceremony>) {
        if ceremony.as_ref().is_some_and(|ceremony| ceremony.has_expired(self.parts.clock.now())) {
            *ceremony = None;
        }
    }
}

/// The id of the vault that a header names.
pub(crate) fn vault_id(header: &SealHeader) -> VaultId {
    VaultId(header.vault)
}

/// Seals the vault.
struct SealVault {
    vault: Arc<Vault>,
}

impl Operation for SealVault {
    type Output = ();
    const ACTION: Action = Action::SystemSeal;
    const EFFECT: Effect = Effect::Change;
    const URGENT: bool = true;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, _: &UnsealedVault, _: Permit<Self>) -> Result<(), VaultError> {
        let Some(shut) = self.vault.shut() else { return Ok(()) };
        let vault = self.vault;
        // This request is inside too: the rest happens once its outcome is recorded and it has left.
        tokio::spawn(async move {
            shut.drained().await;
            vault.forget_keys().await;
            drop(shut);
        });
        Ok(())
    }

    fn detail((): &()) -> Detail {
        Detail::new()
    }
}
