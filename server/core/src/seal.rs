//! What a quorum of shares does, from unsealing to rekeying, and sealing.
//!
//! Invariant: the key that shares make exists only while what they were entered for is done; what a sealed vault records
//! is clear and names nobody's data.

pub(crate) mod auto_unseal;
mod ceremony;
mod entering;
mod opening;
mod outcome;
pub(crate) mod pin;
pub mod recovery;
pub(crate) mod refused_pins;
mod rekey;
pub mod restoring;
mod root;
mod starting;
mod task;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use keystead_audit::EntryKind;
use keystead_crypto::CryptoError;
use keystead_crypto::ports::{HsmKey, HsmKeyPurpose};
use keystead_crypto::seal_record::{SealHeader, SealRecord, TokenWay};
use keystead_domain::id::VaultId;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::time::Ttl;
use keystead_storage::{Keyspace, Revision, Storage, Versioned, keyspace};

use crate::anchor::GivenUp;
use crate::audit_trail::ClearEntry;
use crate::error::VaultError;
use crate::keys::corrupt;
use crate::operation::{self, Detail, Effect, Operation};
use crate::request::{Permit, RequestContext};
use crate::unsealed::UnsealedVault;
use crate::vault::{Shut, Vault};

pub use self::auto_unseal::PinSource;
pub(crate) use self::ceremony::Ceremony;
pub use self::ceremony::Progress;
pub use self::entering::Submitted;
pub(crate) use self::opening::KEYRING_FORMAT;
pub use self::outcome::{HandedShare, Outcome};
pub use self::starting::{ExportSealRecord, ExportedSeal, Wish};
pub use self::task::{Parameters, Purpose, Rekey};

/// New shares have to reach their holders before they can be confirmed.
const CONFIRM_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);
/// How long keys wait for the last record, and for its anchor.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A seal record whose header was verified.
pub(crate) struct TrustedSeal {
    revision: Revision,
    pub(crate) record: SealRecord,
    pub(crate) header: SealHeader,
}

impl TrustedSeal {
    fn read(at: &[u8], stored: &Versioned) -> Result<Self, VaultError> {
        let record = SealRecord::decode(&stored.value).map_err(|_| corrupt(Keyspace::Seal, at))?;
        let header = record.verify().map_err(seal_error)?;
        Ok(Self { revision: stored.revision, record, header })
    }

    /// The one in the store.
    pub(crate) async fn load(storage: &dyn Storage) -> Result<Self, VaultError> {
        let at = keyspace::seal_record();
        let stored = storage.snapshot().await?.get(Keyspace::Seal, &at).await?;
        Self::read(&at, &stored.ok_or(VaultError::NotInitialized)?)
    }
}

/// Whether a vault serves, and how it opens.
#[derive(Debug)]
pub struct Status {
    /// The header of the seal record with its signed bytes; nothing before init.
    pub header: Option<(SealHeader, Vec<u8>)>,
    /// Whether keys are open.
    pub unsealed: bool,
    /// The independent powers that open stored data.
    pub powers: u8,
    /// The ceremony under way.
    pub ceremony: Option<Progress>,
    /// What an operator should know of how the vault was opened.
    pub warnings: Vec<String>,
}

impl Vault {
    /// The state of the vault. Open to anybody who can connect.
    ///
    /// # Errors
    /// Those of the store; a seal record that does not decode.
    pub async fn status(&self) -> Result<Status, VaultError> {
        let seal = self.seal_record().await?;
        let now = self.parts.clock.monotonic();
        let unsealed = self.is_unsealed();
        let ceremony = self.progress.load_full();
        let ceremony = ceremony.filter(|progress| progress.ends > now && progress.purpose.fits(unsealed));
        let auto = auto_unseal::load(self.parts.storage.as_ref()).await?;
        Ok(Status {
            header: seal.map(|seal| (seal.header.clone(), seal.record.header.encode())),
            unsealed,
            powers: if auto.is_some_and(|(record, _)| record.enabled()) { 1 } else { 2 },
            ceremony: ceremony.map(|progress| (*progress).clone()),
            warnings: self.warnings(),
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
        let entry = ClearEntry {
            kind: EntryKind::System,
            action: "system:seal",
            outcome: "ok",
            caller: None,
            intent: None,
            detail: vec![("why", why.to_owned())],
        };
        // Before the anchor, so that it covers this too; keys wait for neither for long.
        let record = entry.record(&self.parts.audit, self.parts.clock.as_ref());
        let recorded = tokio::time::timeout(LAST_WORDS, record).await;
        self.anchor_last(&shut).await;
        self.forget_keys().await;
        drop(shut);
        let late = || Err(VaultError::Interrupted { what: "recording that the vault was sealed" });
        recorded.unwrap_or_else(|_| late()).map(drop)
    }

    /// Anchors the end of the log while the token is still logged in; sealing goes on whatever comes of it.
    async fn anchor_last(&self, shut: &Shut) {
        if !self.parts.options.anchor_at_sealing {
            return;
        }
        match tokio::time::timeout(LAST_WORDS, shut.anchor().keep(self.parts.clock.as_ref())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "the end of the audit log could not be anchored at sealing; entries after the last anchor could be cut off unseen");
            }
            Err(_) => {
                tracing::warn!(
                    "the token was too slow to anchor the end of the audit log at sealing; entries after the last anchor could be cut off unseen"
                );
            }
        }
    }

    fn warnings(&self) -> Vec<String> {
        let Ok(open) = self.unsealed() else { return Vec::new() };
        open.anchor.given_up().iter().map(GivenUp::warning).chain(open.auto_pin.warning()).collect()
    }

    /// Upkeep of the vault, if it is open. Seals it when a token that came back keeps a head that the audit log does not
    /// have: it would not have been opened had that token been there.
    ///
    /// # Errors
    /// Those of [`UnsealedVault::upkeep`]; the next call tries again.
    pub async fn upkeep(&self) -> Result<(), VaultError> {
        let Ok(open) = self.unsealed() else { return Ok(()) };
        let kept = open.upkeep().await;
        let looked = refused_pins::look_at_source(self, &open).await;
        drop(open);
        if let Err(error @ (VaultError::AuditRolledBack { .. } | VaultError::AnchorUntrusted { .. })) = &kept
        {
            tracing::error!(reason = error.reason(), %error, "the vault is sealed: a token that came back says that this is not its audit log");
            self.seal_by_itself(error.reason()).await?;
        }
        kept.and(looked)
    }

    async fn forget_keys(&self) {
        tracing::info!("the vault is sealed");
        self.opener.clear();
        self.log_out().await;
    }

    /// Logs out of every token.
    async fn log_out(&self) {
        self.parts.hsm.logout().await;
        for further in &self.parts.further {
            further.hsm.logout().await;
        }
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
        let seal = Arc::new(TrustedSeal::read(&at, &stored)?);
        self.seal.store(Some(Arc::clone(&seal)));
        Ok(Some(seal))
    }

    fn ceremony_timeout(&self, purpose: Purpose) -> Result<Ttl, VaultError> {
        let timeout = match purpose {
            Purpose::ConfirmRekey => CONFIRM_WITHIN,
            _ => self.parts.options.unseal_timeout,
        };
        Ttl::from_secs(timeout.as_secs().max(1))
            .map_err(|error| VaultError::SealRecord { what: error.to_string() })
    }

    /// A ceremony ends in time, and with the state of the vault that it began in.
    fn drop_expired(&self, ceremony: &mut Option<Ceremony>) {
        let (now, unsealed) = (self.parts.clock.monotonic(), self.is_unsealed());
        let over = |current: &mut Ceremony| current.has_expired(now) || !current.purpose().fits(unsealed);
        drop(ceremony.take_if(over));
    }
}

/// The keys of a token that a seal header names.
pub(crate) fn keys_of(header: &SealHeader, token: &TokenWay) -> Vec<HsmKey> {
    let masters = token.oldest_master..=token.master;
    let mut keys: Vec<_> =
        masters.map(|version| HsmKey { purpose: HsmKeyPurpose::Master, version }).collect();
    keys.push(HsmKey { purpose: HsmKeyPurpose::Epoch, version: header.epoch });
    keys.push(HsmKey { purpose: HsmKeyPurpose::Audit, version: 1 });
    keys
}

fn broken(what: &str) -> VaultError {
    VaultError::SealRecord { what: what.to_owned() }
}

/// An error in making, checking or opening a seal record.
pub(crate) fn seal_error(error: CryptoError) -> VaultError {
    match error {
        CryptoError::Hsm(error) => VaultError::Hsm(error),
        error => VaultError::SealRecord { what: error.to_string() },
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
            vault.anchor_last(&shut).await;
            vault.forget_keys().await;
            drop(shut);
        });
        Ok(())
    }

    fn detail((): &()) -> Detail {
        Detail::new()
    }
}
