//! What ceremonies are for. Invariant: whatever a quorum approves is in the parameters, and those are in the ceremony's
//! id; what cannot be shown (a PIN) is handed over at the start and used for nothing else.

use keystead_crypto::codec::Writer;
use keystead_crypto::recovery::RecoveryRecipient;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::seal::Quorum;

use super::rekey::PendingSeal;

/// What a ceremony is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Open the vault.
    Unseal,
    /// Make new shares.
    Rekey,
    /// Show that the new shares arrived.
    ConfirmRekey,
    /// Change the PIN of a token.
    ChangePin,
    /// Let the vault open by itself.
    EnableAutoUnseal,
    /// Let it open with shares only.
    DisableAutoUnseal,
    /// Make a token for a new administrator.
    RecoverRoot,
    /// Have a further token open the vault's data.
    AddToken,
    /// Have a key that is kept offline open the vault's data.
    AddRecovery,
}

impl Purpose {
    /// Its word in the audit log.
    pub const fn action(self) -> &'static str {
        match self {
            Self::Unseal => "system:unseal",
            Self::Rekey => "system:rekey",
            Self::ConfirmRekey => "system:confirm-rekey",
            Self::ChangePin => "system:change-pin",
            Self::EnableAutoUnseal => "system:enable-auto-unseal",
            Self::DisableAutoUnseal => "system:disable-auto-unseal",
            Self::RecoverRoot => "system:recover-root",
            Self::AddToken => "system:add-token",
            Self::AddRecovery => "system:add-recovery",
        }
    }

    /// Its name as a job of the vault.
    pub(super) fn job(self) -> &'static str {
        let action = self.action();
        action.strip_prefix("system:").unwrap_or(action)
    }

    /// The vault must be open for it; only unsealing needs it shut.
    pub const fn needs_open_vault(self) -> bool {
        !matches!(self, Self::Unseal)
    }
}

/// New shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rekey {
    /// How many, and how many of them are needed.
    pub quorum: Quorum,
    /// Whom each share is sealed for, by its number; nobody, or as many as there are shares.
    pub recipients: Vec<RecoveryRecipient>,
    /// Replace Q too.
    pub new_q: bool,
}

/// What a ceremony does once its quorum is there, with what it needs for that.
pub(crate) enum Task {
    Unseal,
    Rekey(Rekey),
    ConfirmRekey(Box<PendingSeal>),
    ChangePin { token: String, new: SecretBytes },
    EnableAutoUnseal,
    DisableAutoUnseal,
    RecoverRoot,
    AddToken { serial: String, pin: SecretBytes },
    AddRecovery(RecoveryRecipient),
}

/// What whoever enters a share approves.
pub type Parameters = Vec<(&'static str, String)>;

impl Task {
    pub(crate) fn purpose(&self) -> Purpose {
        match self {
            Self::Unseal => Purpose::Unseal,
            Self::Rekey(_) => Purpose::Rekey,
            Self::ConfirmRekey(_) => Purpose::ConfirmRekey,
            Self::ChangePin { .. } => Purpose::ChangePin,
            Self::EnableAutoUnseal => Purpose::EnableAutoUnseal,
            Self::DisableAutoUnseal => Purpose::DisableAutoUnseal,
            Self::RecoverRoot => Purpose::RecoverRoot,
            Self::AddToken { .. } => Purpose::AddToken,
            Self::AddRecovery(_) => Purpose::AddRecovery,
        }
    }

    pub(crate) fn parameters(&self) -> Parameters {
        match self {
            Self::Unseal | Self::EnableAutoUnseal | Self::DisableAutoUnseal | Self::RecoverRoot => Vec::new(),
            Self::ChangePin { token, .. } => vec![("token", token.clone())],
            Self::AddToken { serial, .. } => vec![("token", serial.clone())],
            Self::AddRecovery(recipient) => vec![("recipient", recipient.text().to_owned())],
            Self::ConfirmRekey(pending) => vec![("epoch", pending.header.epoch.to_string())],
            Self::Rekey(Rekey { quorum, recipients, new_q }) => {
                let mut parameters = vec![
                    ("shares", quorum.shares().to_string()),
                    ("threshold", quorum.threshold().to_string()),
                    ("new_q", new_q.to_string()),
                ];
                let recipients =
                    recipients.iter().map(|recipient| ("recipient", recipient.text().to_owned()));
                parameters.extend(recipients);
                parameters
            }
        }
    }
}

/// The parameters as a ceremony's id binds them.
pub(super) fn canonical(parameters: &Parameters) -> Vec<u8> {
    let mut out = Writer::new();
    for (name, value) in parameters {
        out.text(name).text(value);
    }
    out.finish()
}
