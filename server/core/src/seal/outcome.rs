//! What comes of ceremonies of an open vault. Each runs as a job of the vault, recorded before and after.

use keystead_crypto::seal_record::SealHeader;
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::shamir;
use keystead_crypto::token::Token;
use keystead_domain::policy::Resource;
use keystead_domain::time::UnixMillis;
use tokio::sync::MutexGuard;

use super::ceremony::{Ceremony, Progress};
use super::task::Task;
use super::{TrustedSeal, auto_unseal, pin, refused_pins, rekey, root};
use crate::error::VaultError;
use crate::operation::{self, Detail};
use crate::request::SystemPermit;
use crate::unsealed::UnsealedVault;
use crate::vault::{OpenVault, Vault};

/// A share for one holder.
pub struct HandedShare {
    /// Its number, from 1.
    pub number: u8,
    /// Its text, or that sealed for the recipient and armored.
    pub text: SecretBytes,
    /// The age recipient that it is sealed for.
    pub recipient: Option<String>,
}

/// What came of a ceremony.
pub enum Outcome {
    /// New shares, good once they are confirmed.
    Shares {
        /// One a holder.
        shares: Vec<HandedShare>,
        /// The ceremony that confirms them.
        confirm: Option<Progress>,
    },
    /// The new shares are the vault's; this is its seal record now.
    Rekeyed {
        /// The bytes of the record.
        record: Vec<u8>,
        /// What of it is not done, although the shares are the vault's.
        remark: Option<String>,
    },
    /// The token has its new PIN; this is the seal record now.
    PinChanged {
        /// The bytes of the record.
        record: Vec<u8>,
    },
    /// Whether the vault opens by itself.
    AutoUnseal {
        /// It does.
        enabled: bool,
    },
    /// A new administrator's token, with its end.
    Root(Token, UnixMillis),
    /// There is a new way; data keys are wrapped for it in the background. This is the seal record now.
    Joined {
        /// The bytes of the record.
        record: Vec<u8>,
    },
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Shares { .. } => "Shares",
            Self::Rekeyed { .. } => "Rekeyed",
            Self::PinChanged { .. } => "PinChanged",
            Self::AutoUnseal { .. } => "AutoUnseal",
            Self::Root(..) => "Root",
            Self::Joined { .. } => "Joined",
        })
    }
}

impl Outcome {
    pub(super) fn confirmed_by(self, ceremony: Progress) -> Self {
        match self {
            Self::Shares { shares, .. } => Self::Shares { shares, confirm: Some(ceremony) },
            other => other,
        }
    }
}

/// An outcome, and the ceremony that follows it, with the header whose shares count then.
pub(super) struct Reached {
    pub(super) outcome: Outcome,
    pub(super) next: Option<(Task, SealHeader)>,
}

impl From<Outcome> for Reached {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, next: None }
    }
}

/// The right to do what a quorum approved.
pub(super) struct ByQuorum;

/// Does what a complete ceremony is for.
pub(super) async fn reach(
    vault: &Vault,
    open: &OpenVault,
    ceremony: &Ceremony,
) -> Result<Reached, VaultError> {
    let purpose = ceremony.purpose();
    let mut detail: Detail = vec![("ceremony", ceremony.id().to_string())];
    detail.extend(ceremony.task().parameters());
    let shares = ceremony.shares();
    let work = |permit: SystemPermit<ByQuorum>| async move {
        open.look_after_tokens().await?;
        pin::settle(open).await?;
        let unseal_key = &shamir::combine(shares)?;
        match ceremony.task() {
            Task::Unseal => Err(VaultError::AlreadyUnsealed),
            Task::Rekey(plan) => {
                let (_alone, seal) = alone(open).await?;
                rekey::prepare(open, &seal, unseal_key, plan, vault.parts.clock.now()).await
            }
            Task::ChangePin { token, new } => {
                let (_alone, seal) = alone(open).await?;
                let changed = pin::change(open, &permit, &seal, unseal_key, token, new).await?;
                refused_pins::expect_changed(vault, open, new).await;
                Ok(changed.into())
            }
            Task::EnableAutoUnseal => {
                let (_alone, seal) = alone(open).await?;
                auto_unseal::enable(vault, open, &permit, &seal, unseal_key).await.map(Reached::from)
            }
            Task::DisableAutoUnseal => {
                let _alone = alone(open).await?;
                auto_unseal::disable(open, &permit).await.map(Reached::from)
            }
            Task::RecoverRoot => root::recover(open, &permit).await.map(Reached::from),
            // The rest sees to it itself that it is alone.
            Task::ConfirmRekey(pending) => {
                rekey::confirm(open, &permit, pending, unseal_key).await.map(Reached::from)
            }
            Task::AddToken { serial, pin } => {
                open.join_token(&permit, unseal_key, serial, pin).await?;
                joined(open).await
            }
            Task::AddRecovery(recipient) => {
                open.join_recovery(&permit, unseal_key, recipient).await?;
                joined(open).await
            }
        }
    };
    operation::run_job(open, purpose.job(), Resource::System, detail, work).await
}

/// Nobody else changes keys or the seal record while this is held. With the record as it is now, which the keys in memory
/// follow.
async fn alone(open: &UnsealedVault) -> Result<(MutexGuard<'_, ()>, TrustedSeal), VaultError> {
    let alone = open.rotation.one_change().await;
    let ways = open.ways_now().await?;
    let seal = TrustedSeal::load(open.storage.as_ref()).await?;
    if ways.seal == Some(seal.revision) {
        return Ok((alone, seal));
    }
    Err(VaultError::Contention { what: "the seal record".to_owned() })
}

async fn joined(open: &OpenVault) -> Result<Reached, VaultError> {
    let record = TrustedSeal::load(open.storage.as_ref()).await?.record.encode();
    Ok(Outcome::Joined { record }.into())
}
