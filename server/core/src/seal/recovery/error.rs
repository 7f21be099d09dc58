//! Why a vault is not recovered. Invariant: no variant holds secret material.

use crate::error::VaultError;

/// Why a vault is not recovered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecoverError {
    /// What may go wrong anywhere: shares, token, store, log.
    #[error(transparent)]
    Vault(VaultError),
    /// The identity is none of the vault's.
    #[error(
        "the identity is that of {given}, but {}",
        if .known.is_empty() { "this vault has no recovery key".to_owned() } else { format!("this vault's recovery keys are {}", .known.join(" and ")) }
    )]
    OtherIdentity {
        /// The name of its way.
        given: String,
        /// The recovery ways of the seal record.
        known: Vec<String>,
    },
    /// The configured token has the vault's keys.
    #[error(
        "token {token} has the keys of this vault, so they are not lost: start the server and unseal it with its shares; \
         if the token takes another PIN now, have its security officer set the former one"
    )]
    TokenNotLost {
        /// Its serial.
        token: String,
    },
    /// The vault's own records cannot be opened.
    #[error(
        "the vault's own key {id} cannot be recovered ({why}); restore its data_keys record from a backup"
    )]
    SystemKeyLost {
        /// Its id in hex.
        id: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Secrets would be lost.
    #[error(
        "{count} data keys do not open with the recovery key, and what they seal would be lost; all others are moved. \
         Restore these records from a backup and run this again, or give them up with --leave-behind"
    )]
    LeftBehind {
        /// How many.
        count: u64,
    },
    /// The last commit may have taken effect.
    #[error(
        "the vault may be on its new token or not: keep the new shares, start the server, and look at the share epoch in \
         `keystead status`"
    )]
    PerhapsDone(#[source] VaultError),
    /// The shares have no place.
    #[error("the new shares could not be kept ({0}), so the former ones still count; run this again")]
    NotKept(String),
}

impl<E> From<E> for RecoverError
where
    VaultError: From<E>,
{
    fn from(error: E) -> Self {
        Self::Vault(error.into())
    }
}

impl RecoverError {
    /// The machine-readable reason, as the audit log has it; stable across versions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Vault(error) | Self::PerhapsDone(error) => error.reason(),
            Self::OtherIdentity { .. } => "RECOVERY_KEY_UNKNOWN",
            Self::TokenNotLost { .. } => "TOKEN_NOT_LOST",
            Self::SystemKeyLost { .. } => "SYSTEM_KEY_LOST",
            Self::LeftBehind { .. } => "DATA_KEYS_LEFT_BEHIND",
            Self::NotKept(_) => "SHARES_NOT_KEPT",
        }
    }
}
