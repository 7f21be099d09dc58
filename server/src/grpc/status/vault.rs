//! From a use case's error to the parts of a status. Invariant: a refusal says the same whether or not the thing exists;
//! what went wrong inside is logged with its causes, under the request's id, and answered without them.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use keystead_core::credentials::CredentialError;
use keystead_core::engine::{EngineError, Excess};
use keystead_core::error::VaultError;
use keystead_crypto::ports::HsmError;
use keystead_domain::secret_version::VersionError;
use keystead_storage::StorageError;
use tonic::{Code, Status};

use super::ErrorParts;

/// When to come back after something is away for a moment.
const SOON: Duration = Duration::from_secs(1);

/// The status of a use case's error. It keeps the error for [`log_failure`] if it is the server's failure.
pub fn refuse(error: VaultError) -> Status {
    let parts = ErrorParts::new(code(&error), error.reason(), error.to_string());
    let failed = matches!(parts.code, Code::Internal | Code::Unavailable | Code::DataLoss | Code::Unknown)
        && !matches!(error, VaultError::Sealed);
    let mut status = details(parts, &error).into_status();
    if failed {
        status.set_source(Arc::new(error));
    }
    status
}

/// Logs what [`refuse`] found to be the server's failure.
pub fn log_failure(status: &Status, request_id: &str) {
    if let Some(error) = status.source().and_then(|source| source.downcast_ref::<VaultError>()) {
        tracing::warn!(request_id, reason = error.reason(), error = %chain(error), "a request failed");
    }
}

fn details(parts: ErrorParts, error: &VaultError) -> ErrorParts {
    match error {
        VaultError::Invalid { field, rule } => parts.field(*field, rule.clone()),
        VaultError::Policy(error) => parts.field("policy.text", error.to_string()),
        VaultError::Share(error) => parts.field("share", error.to_string()),
        VaultError::Denied { reason_id } | VaultError::NeedsApproval { reason_id } => {
            parts.with("reason_id", reason_id.clone())
        }
        VaultError::Sealed => parts.precondition("SEALED", "vault", "operators unseal it"),
        VaultError::NotInitialized => {
            parts.precondition("NOT_INITIALIZED", "vault", "an operator initializes it")
        }
        VaultError::AuditRolledBack { anchored, log, .. } => {
            parts.with("anchored", anchored.to_string()).with("log", log.to_string())
        }
        VaultError::Credential(CredentialError::Limit { of, limit, .. }) => {
            parts.quota(of.clone(), format!("{limit} live leases"))
        }
        VaultError::Credential(CredentialError::WatchLimit { of, limit, .. }) => {
            parts.quota(of.clone(), format!("{limit} leases followed"))
        }
        VaultError::Credential(CredentialError::Baseline { findings, .. }) => {
            findings.iter().fold(parts, |parts, found| {
                parts.precondition(
                    "BASELINE_NOT_ACCEPTED",
                    found.digest.clone(),
                    format!("{}: {}", found.right, found.closed_by),
                )
            })
        }
        VaultError::Credential(CredentialError::Engine(error))
            if matches!(error.cause(), EngineError::Ca { .. }) =>
        {
            parts.field("target.postgres.ca_pem", error.to_string())
        }
        VaultError::Credential(CredentialError::Engine(EngineError::Excess { excess, .. })) => {
            excess.iter().fold(parts, |parts, Excess { right, closed_by }| {
                let description = match closed_by {
                    Some(statement) => format!("{right}: {statement}"),
                    None => right.to_string(),
                };
                parts.precondition("RIGHTS_IN_EXCESS", right.object.clone(), description)
            })
        }
        VaultError::Credential(CredentialError::StaticExcess { excess, .. }) => {
            excess.iter().fold(parts, |parts, right| {
                parts.precondition("RIGHTS_IN_EXCESS", right.object.clone(), right.to_string())
            })
        }
        VaultError::Version(VersionError::Conflict { expected, current }) => {
            parts.with("expected_version", expected.to_string()).with("current_version", current.to_string())
        }
        _ if parts.code == Code::Unavailable || parts.code == Code::ResourceExhausted => {
            parts.retry_after(SOON)
        }
        _ => parts,
    }
}

fn code(error: &VaultError) -> Code {
    match error {
        VaultError::NotInitialized
        | VaultError::AlreadyUnsealed
        | VaultError::Sealed
        | VaultError::OtherToken { .. }
        | VaultError::NotEmpty { .. }
        | VaultError::AuditOrigin(_)
        | VaultError::AuditRolledBack { .. }
        | VaultError::AnchorUntrusted { .. }
        | VaultError::SealRecord { .. }
        | VaultError::WouldLockOut { .. }
        | VaultError::RotationUnderWay
        | VaultError::MasterKeyUsedUp { .. }
        | VaultError::OtherCeremony { .. }
        | VaultError::CeremonyUnderWay { .. }
        | VaultError::RekeyOvertaken
        | VaultError::PinUndecided { .. }
        | VaultError::NoAutoPin
        | VaultError::AutoPin { .. }
        | VaultError::OtherAutoPin { .. } => Code::FailedPrecondition,
        VaultError::AlreadyInitialized { .. }
        | VaultError::MatcherTaken { .. }
        | VaultError::RequestIdReused { .. }
        | VaultError::ShareEntered { .. } => Code::AlreadyExists,
        VaultError::Unauthenticated => Code::Unauthenticated,
        VaultError::Denied { .. }
        | VaultError::NeedsApproval { .. }
        | VaultError::OperatorOnly { .. }
        | VaultError::GroupBeyondCaller { .. } => Code::PermissionDenied,
        VaultError::NotFound { .. } => Code::NotFound,
        VaultError::Version(error) => match error {
            VersionError::Conflict { .. } => Code::Aborted,
            VersionError::NoSuchVersion { .. } => Code::NotFound,
            VersionError::Deleted { .. }
            | VersionError::Destroyed { .. }
            | VersionError::TooManyVersions { .. } => Code::FailedPrecondition,
            _ => Code::InvalidArgument,
        },
        VaultError::Invalid { .. } | VaultError::Policy(_) | VaultError::Share(_) => Code::InvalidArgument,
        VaultError::EtagMismatch { .. } | VaultError::Contention { .. } => Code::Aborted,
        VaultError::Audit(_) | VaultError::AuditRefused(_) | VaultError::AuditUnreadable(_) => {
            Code::Unavailable
        }
        VaultError::OutcomeUnrecorded(_) => Code::Unknown,
        VaultError::Interrupted { .. } | VaultError::TokenAway { .. } | VaultError::OnlyItsClone { .. } => {
            Code::Unavailable
        }
        VaultError::Hsm(error) => match error {
            HsmError::Unavailable { .. } | HsmError::DeadlineExceeded { .. } | HsmError::NotLoggedIn => {
                Code::Unavailable
            }
            HsmError::PinRefused
            | HsmError::PinLocked
            | HsmError::PinUncertain
            | HsmError::Misconfigured { .. }
            | HsmError::NotUnique { .. }
            | HsmError::Unsupported { .. } => Code::FailedPrecondition,
            HsmError::NotAuthentic | HsmError::Lied { .. } => Code::DataLoss,
        },
        VaultError::Storage(error) => match error {
            StorageError::Conflict { .. } => Code::Aborted,
            StorageError::Full { .. } => Code::ResourceExhausted,
            StorageError::UnknownOutcome { .. } => Code::Unknown,
            StorageError::Corrupt { .. } => Code::DataLoss,
            StorageError::BatchTooLarge { .. } => Code::InvalidArgument,
            _ => Code::Unavailable,
        },
        VaultError::CorruptRecord { .. } => Code::DataLoss,
        VaultError::Credential(error) => credential_code(error),
        _ => Code::Internal,
    }
}

fn credential_code(error: &CredentialError) -> Code {
    match error {
        CredentialError::Engine(error) if matches!(error.cause(), EngineError::Unavailable { .. }) => {
            Code::Unavailable
        }
        CredentialError::Engine(error) if matches!(error.cause(), EngineError::Ca { .. }) => {
            Code::InvalidArgument
        }
        CredentialError::Slow { .. } | CredentialError::StillIssuing => Code::Unavailable,
        CredentialError::Limit { .. } | CredentialError::WatchLimit { .. } => Code::ResourceExhausted,
        CredentialError::MayNotIssue { .. } => Code::PermissionDenied,
        _ => Code::FailedPrecondition,
    }
}

/// An error with its causes, for the log.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_that_is_none_is_the_callers_mistake() {
        let ca = EngineError::Ca { target: "shop-db".to_owned(), what: "it holds no certificate".to_owned() };
        for error in [ca.clone(), EngineError::NotAsked(Box::new(ca))] {
            let error = VaultError::Credential(CredentialError::Engine(error));
            assert_eq!((code(&error), error.reason()), (Code::InvalidArgument, "TARGET_CA_UNUSABLE"));
        }
    }
}
