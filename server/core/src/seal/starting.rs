//! Beginning and ending ceremonies. Invariant: neither is for anybody who merely connects; one is under way at a time.

use std::sync::Arc;

use keystead_audit::EntryKind;
use keystead_crypto::recovery::RecoveryRecipient;
use keystead_crypto::seal_record::SealHeader;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::CeremonyId;
use keystead_domain::policy::{Action, Resource};
use tokio::sync::MutexGuard;

use super::ceremony::{Ceremony, Progress};
use super::task::{Purpose, Rekey, Task};
use super::{auto_unseal, pin};
use crate::audit_trail::{ClearCaller, ClearEntry};
use crate::error::VaultError;
use crate::operation::{self, Detail, Effect, Operation};
use crate::request::{Permit, RequestContext};
use crate::unsealed::UnsealedVault;
use crate::vault::{Vault, to_its_end};

/// What a quorum shall be asked for.
pub enum Wish {
    /// New shares.
    Rekey(Rekey),
    /// A new PIN for a token.
    ChangePin {
        /// Its serial; the only one if it is not said.
        serial: Option<String>,
        /// The PIN.
        new: SecretBytes,
    },
    /// A vault that opens by itself.
    EnableAutoUnseal,
    /// A vault that opens with shares only.
    DisableAutoUnseal,
    /// A new administrator.
    RecoverRoot,
    /// A further token, by its serial, with its PIN.
    AddToken(String, SecretBytes),
    /// A key that is kept offline.
    AddRecovery(RecoveryRecipient),
}

impl Vault {
    /// Begins a ceremony of an open vault.
    ///
    /// # Errors
    /// Those of the gate, or `OperatorOnly` for a new administrator; `CeremonyUnderWay`; `Invalid` for parameters that
    /// cannot be.
    pub async fn start_ceremony(
        self: &Arc<Self>,
        ctx: RequestContext,
        wish: Wish,
    ) -> Result<Progress, VaultError> {
        if let Wish::Rekey(plan) = &wish {
            check_recipients(plan)?;
        }
        let open = self.opened().await?;
        if matches!(wish, Wish::RecoverRoot) {
            // Policies that lock everybody out must not lock this out.
            let caller = self.check_operator(&ctx, "recovering an administrator")?;
            let vault = Arc::clone(self);
            let begun = async move { vault.begin_recorded(&open, caller, wish).await };
            return to_its_end("beginning a ceremony", begun).await;
        }
        operation::run(&open, ctx, StartCeremony { vault: Arc::clone(self), wish }).await
    }

    /// Begins one that no gate records.
    async fn begin_recorded(
        &self,
        open: &UnsealedVault,
        caller: ClearCaller,
        wish: Wish,
    ) -> Result<Progress, VaultError> {
        let progress = self.begin(open, wish).await?;
        let recorded = self.record_start(caller, &progress).await;
        if recorded.is_err()
            && let Ok(mut ceremony) = self.ceremony_while_open().await
        {
            self.end_ceremony(&mut ceremony, progress.id).await;
        }
        recorded.map(|()| progress)
    }

    async fn record_start(&self, caller: ClearCaller, progress: &Progress) -> Result<(), VaultError> {
        let entry = ClearEntry {
            kind: EntryKind::System,
            action: "system:start-ceremony",
            outcome: "ok",
            caller: Some(caller),
            intent: None,
            detail: begun(progress),
        };
        entry.record(&self.parts.audit, self.parts.clock.as_ref()).await.map(drop)
    }

    async fn begin(&self, open: &UnsealedVault, wish: Wish) -> Result<Progress, VaultError> {
        let seal = self.seal_record().await?.ok_or(VaultError::NotInitialized)?;
        let mut ceremony = self.ceremony_while_open().await?;
        self.drop_expired(&mut ceremony);
        if let Some(current) = ceremony.as_ref() {
            return Err(VaultError::CeremonyUnderWay { current: current.id().to_string() });
        }
        let task = match wish {
            Wish::Rekey(plan) => {
                // Said now, and not when the new shares are out.
                if plan.new_q {
                    open.check_renews_q().await?;
                }
                Task::Rekey(plan)
            }
            Wish::ChangePin { serial, new } => {
                let token = token_named(&seal.header, serial.as_deref())?;
                if seal.header.tokens().count() > 1 && auto_unseal::is_enabled(open.storage.as_ref()).await? {
                    return Err(VaultError::Invalid {
                        field: "purpose",
                        rule: "the vault opens by itself, with one PIN for all its tokens: have a quorum end that first".to_owned(),
                    });
                }
                pin::check_no_clone(&open.keys, &token)?;
                Task::ChangePin { token, new }
            }
            Wish::EnableAutoUnseal => {
                // Said at once rather than when a quorum has come together.
                auto_unseal::check_source(self)?;
                Task::EnableAutoUnseal
            }
            Wish::DisableAutoUnseal if auto_unseal::load(open.storage.as_ref()).await?.is_none() => {
                return Err(VaultError::Invalid {
                    field: "purpose",
                    rule: "the vault does not open by itself".to_owned(),
                });
            }
            Wish::DisableAutoUnseal => Task::DisableAutoUnseal,
            Wish::RecoverRoot => Task::RecoverRoot,
            Wish::AddToken(serial, pin) => {
                open.check_token_joins(&serial).await?;
                Task::AddToken { serial, pin }
            }
            Wish::AddRecovery(recipient) => {
                open.check_joins(recipient.name()).await?;
                Task::AddRecovery(recipient)
            }
        };
        let timeout = self.ceremony_timeout(task.purpose())?;
        let begun = Ceremony::begin(task, &seal.header, self.parts.clock.as_ref(), timeout)?;
        let progress = begun.seen();
        *ceremony = Some(begun);
        self.show(ceremony.as_ref());
        Ok(progress)
    }

    /// Ends a half-done ceremony.
    ///
    /// # Errors
    /// `OtherCeremony`; `OperatorOnly`, or those of the gate when the vault is open.
    pub async fn cancel_ceremony(
        self: &Arc<Self>,
        ctx: RequestContext,
        id: CeremonyId,
    ) -> Result<(), VaultError> {
        let caller = match self.check_operator(&ctx, "cancelling a ceremony") {
            Ok(caller) => caller,
            Err(refused) => {
                let Ok(open) = self.unsealed() else { return Err(refused) };
                let cancel = CancelCeremony { vault: Arc::clone(self), id };
                return operation::run(&open, ctx, cancel).await.map(drop);
            }
        };
        // Without holding the vault open: sealing waits for whoever does, and may have the ceremony.
        let vault = Arc::clone(self);
        to_its_end("cancelling a ceremony", async move {
            let mut ceremony = vault.ceremony.lock().await;
            vault.check_current(&mut ceremony, id)?;
            let entry = ClearEntry {
                kind: EntryKind::System,
                action: "system:cancel-ceremony",
                outcome: "ok",
                caller: Some(caller),
                intent: None,
                detail: vec![("ceremony", id.to_string())],
            };
            entry.record(&vault.parts.audit, vault.parts.clock.as_ref()).await?;
            vault.end_ceremony(&mut ceremony, id).await;
            Ok(())
        })
        .await
    }

    /// For whoever holds the vault open: a sealing that waits for them must not wait for the one who has the ceremony.
    async fn ceremony_while_open(&self) -> Result<MutexGuard<'_, Option<Ceremony>>, VaultError> {
        tokio::select! {
            ceremony = self.ceremony.lock() => Ok(ceremony),
            () = self.sealed() => Err(VaultError::Sealed),
        }
    }

    fn check_current(&self, ceremony: &mut Option<Ceremony>, id: CeremonyId) -> Result<(), VaultError> {
        self.drop_expired(ceremony);
        match ceremony.as_ref().map(Ceremony::id) {
            Some(current) if current == id => Ok(()),
            current => Err(VaultError::OtherCeremony {
                asked: id.to_string(),
                current: current.map(|id| id.to_string()),
            }),
        }
    }

    /// Ends it, and takes back what it has made so far.
    async fn end_ceremony(&self, ceremony: &mut Option<Ceremony>, id: CeremonyId) {
        let ended = ceremony.take_if(|current| current.id() == id);
        self.show(ceremony.as_ref());
        if let (Some(ended), Ok(open)) = (ended, self.unsealed()) {
            ended.give_up(&open).await;
        }
    }
}

/// Begins a ceremony.
struct StartCeremony {
    vault: Arc<Vault>,
    wish: Wish,
}

impl Operation for StartCeremony {
    type Output = Progress;
    const ACTION: Action = Action::SystemCeremony;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, open: &UnsealedVault, _: Permit<Self>) -> Result<Progress, VaultError> {
        self.vault.begin(open, self.wish).await
    }

    fn detail(progress: &Progress) -> Detail {
        begun(progress)
    }
}

/// What the audit log has of a beginning: which ceremony, what for, with which parameters.
fn begun(progress: &Progress) -> Detail {
    let mut detail: Detail =
        vec![("ceremony", progress.id.to_string()), ("purpose", progress.purpose.action().to_owned())];
    detail.extend(progress.parameters.clone());
    detail
}

/// Ends one.
struct CancelCeremony {
    vault: Arc<Vault>,
    id: CeremonyId,
}

impl Operation for CancelCeremony {
    type Output = CeremonyId;
    const ACTION: Action = Action::SystemCeremony;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, _: &UnsealedVault, _: Permit<Self>) -> Result<CeremonyId, VaultError> {
        let mut ceremony = self.vault.ceremony_while_open().await?;
        self.vault.check_current(&mut ceremony, self.id)?;
        self.vault.end_ceremony(&mut ceremony, self.id).await;
        Ok(self.id)
    }

    fn detail(id: &CeremonyId) -> Detail {
        vec![("ceremony", id.to_string())]
    }
}

/// The seal record, for keeping beside backups.
pub struct ExportSealRecord {
    /// The vault.
    pub vault: Arc<Vault>,
}

/// A seal record that leaves.
pub struct ExportedSeal {
    /// Its bytes.
    pub record: Vec<u8>,
    /// The epoch of its shares.
    pub epoch: u32,
}

impl Operation for ExportSealRecord {
    type Output = ExportedSeal;
    const ACTION: Action = Action::SystemCeremony;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, _: &UnsealedVault, _: Permit<Self>) -> Result<ExportedSeal, VaultError> {
        let seal = self.vault.seal_record().await?.ok_or(VaultError::NotInitialized)?;
        Ok(ExportedSeal { record: seal.record.encode(), epoch: seal.header.epoch })
    }

    fn detail(exported: &ExportedSeal) -> Detail {
        vec![("epoch", exported.epoch.to_string())]
    }
}

/// One for each share, or none, and nobody twice: who has two shares is two holders in one.
fn check_recipients(plan: &Rekey) -> Result<(), VaultError> {
    let invalid = |rule| Err(VaultError::Invalid { field: "recipients", rule });
    let Rekey { quorum, recipients, .. } = plan;
    if !recipients.is_empty() && recipients.len() != usize::from(quorum.shares()) {
        return invalid(format!("{} shares need as many recipients, or none", quorum.shares()));
    }
    for (at, recipient) in recipients.iter().enumerate() {
        let text = recipient.text();
        if let Some(before) = recipients.iter().take(at).position(|other| other.text() == text) {
            let (first, second) = (before.saturating_add(1), at.saturating_add(1));
            return invalid(format!(
                "{text} would get share {first} and share {second}, and count as two holders; name each recipient once"
            ));
        }
    }
    Ok(())
}

/// The token that is meant, or the only one there is.
fn token_named(header: &SealHeader, serial: Option<&str>) -> Result<String, VaultError> {
    let mut tokens = header.tokens().filter(|token| serial.is_none_or(|serial| token.serial == serial));
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(token.serial.clone()),
        (None, _) => Err(VaultError::NotFound { what: "a token of the vault with this serial".to_owned() }),
        (Some(_), Some(_)) => Err(VaultError::Invalid {
            field: "serial",
            rule: "the vault has several tokens; say which".to_owned(),
        }),
    }
}

impl Purpose {
    /// Whether it ends with the next sealing, or unsealing.
    pub(super) fn fits(self, unsealed: bool) -> bool {
        self.needs_open_vault() == unsealed
    }
}
