//! What can go wrong in a use case. Invariant: no variant holds secret material, and a refusal reads the same whether or
//! not the thing exists. The machine-readable reason of each is [`VaultError::reason`].

use keystead_audit::{AuditError, Head, OpenError, ReadError, Refused};
use keystead_crypto::ports::HsmError;
use keystead_crypto::share::ShareError;
use keystead_domain::policy::PolicyError;
use keystead_domain::secret_version::VersionError;
use keystead_storage::StorageError;

use crate::credentials::CredentialError;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// There is no vault in the store yet.
    #[error("this vault is not initialized; run `keystead init` on the server's local socket")]
    NotInitialized,
    /// There is one already.
    #[error("this store holds vault {vault} already; init makes a new vault only in an empty store")]
    AlreadyInitialized {
        /// The vault in the store.
        vault: String,
    },
    /// Something of a vault is there, but not its seal record.
    #[error("the store holds {keyspace} records but no seal record; restore that, or init in an empty store")]
    NotEmpty {
        /// Where the first was found.
        keyspace: &'static str,
    },
    /// Keys are closed.
    #[error("the vault is sealed; operators open it with `keystead unseal`")]
    Sealed,
    /// The vault is open already.
    #[error("the vault is unsealed already")]
    AlreadyUnsealed,
    /// Nobody known called. One text for every cause.
    #[error("the caller could not be authenticated")]
    Unauthenticated,
    /// The policies refuse; an operator looks the id up in the audit log.
    #[error("not allowed; an operator finds the cause in the audit log under request id {reason_id}")]
    Denied {
        /// The request id of the audit entry.
        reason_id: String,
    },
    /// Another person has to approve first.
    #[error("this needs the approval of another person (request id {reason_id})")]
    NeedsApproval {
        /// The request id of the audit entry.
        reason_id: String,
    },
    /// Only a local or configured operator may do this while sealed.
    #[error("{what} needs the server's local socket or a configured operator certificate")]
    OperatorOnly {
        /// What was asked.
        what: &'static str,
    },
    /// It is not there, and the caller may know that.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The rules of secret versions say no.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// A field of the request breaks a rule.
    #[error("{field}: {rule}")]
    Invalid {
        /// The field, as on the wire.
        field: &'static str,
        /// The rule and the value's place in it, never a secret.
        rule: String,
    },
    /// The record changed since it was read.
    #[error("{what} changed since it was read; read it again and repeat")]
    EtagMismatch {
        /// Which record.
        what: String,
    },
    /// Somebody else's identity would be taken over.
    #[error("the certificate identity {matcher} belongs to {owner} already")]
    MatcherTaken {
        /// The identity.
        matcher: String,
        /// Its owner.
        owner: String,
    },
    /// The request id was used for something else.
    #[error("request id {id} was used for a different request within the last 24 hours; take a new one")]
    RequestIdReused {
        /// The id.
        id: String,
    },
    /// The caller would give away, or take over, rights that are not its own.
    #[error(
        "principals in group {group} can be changed only by its members and by who may write policy/{group}: the group carries rights"
    )]
    GroupBeyondCaller {
        /// The group.
        group: String,
    },
    /// A policy text is wrong.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The author of a change could not take it back.
    #[error("after this change you could no longer write {what}; let somebody else make it")]
    WouldLockOut {
        /// What is changed.
        what: String,
    },
    /// A share was refused.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The ceremony is another one, or over.
    #[error("the ceremony {asked} is not under way{}", .current.as_ref().map(|id| format!("; {id} is")).unwrap_or_default())]
    OtherCeremony {
        /// What the holder saw.
        asked: String,
        /// What is under way.
        current: Option<String>,
    },
    /// Another ceremony has not ended.
    #[error("ceremony {current} is under way; end it first, with its shares or by cancelling it")]
    CeremonyUnderWay {
        /// Its id.
        current: String,
    },
    /// The seal record changed between the making of new shares and their confirmation.
    #[error(
        "the seal record changed since the new shares were made, so they are good for nothing: the old shares are the vault's; begin the rekey again"
    )]
    RekeyOvertaken,
    /// A change of the PIN was cut off, and nobody knows yet which one holds.
    #[error(
        "the PIN of token {token} was being changed when something failed; seal and unseal the vault, which finds out which one holds"
    )]
    PinUndecided {
        /// Its serial.
        token: String,
    },
    /// The configuration has no PIN for a vault that opens by itself.
    #[error(
        "the server has no PIN to open the vault by itself; set seal.auto_pin_file, auto_pin_env or auto_pin_credential"
    )]
    NoAutoPin,
    /// The PIN for a vault that opens by itself cannot be read.
    #[error("the PIN to open the vault by itself cannot be had: {what}")]
    AutoPin {
        /// What could not be read.
        what: String,
    },
    /// The PIN of the configuration is not the token's.
    #[error("the PIN in {from} is not the token's; the vault would not open by itself")]
    OtherAutoPin {
        /// Where it is.
        from: String,
    },
    /// The share of this holder is entered already.
    #[error("share {number} was entered already; another holder's is needed")]
    ShareEntered {
        /// Its number.
        number: u8,
    },
    /// The audit log cannot take the record.
    #[error("the audit log cannot record this request, so it was not done")]
    Audit(#[source] AuditError),
    /// The audit log has no room, or fails.
    #[error("the audit log takes no more records now, so the request was not done")]
    AuditRefused(#[from] Refused),
    /// The audit log cannot be read.
    #[error("the audit log cannot be read")]
    AuditUnreadable(#[from] ReadError),
    /// The audit log is another vault's, or damaged.
    #[error("the audit log does not belong to this vault")]
    AuditOrigin(#[from] OpenError),
    /// The log is not the one whose head the token keeps, or not as far.
    #[error(
        "the audit log was cut, changed or replaced by an older one: the token keeps the head {anchored}, but {}; put the newer log back, or, if it was given up on purpose, set audit.accept_anchor = \"{anchored}\" and start again",
        found(anchored, log, instead.as_deref())
    )]
    AuditRolledBack {
        /// What the token keeps.
        anchored: Head,
        /// The head of the log as it is.
        log: Head,
        /// The root that the log had at the anchored size, in hex; nothing where it has not that many entries.
        instead: Option<String>,
    },
    /// What the token keeps of the log's head is malformed, or of another log.
    #[error("the audit head kept in the token cannot be used: {what}; {remedy}")]
    AnchorUntrusted {
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The change took effect or not, but its outcome could not be recorded; nothing more is said of it.
    #[error("the outcome could not be recorded; look the request up once the audit log works again")]
    OutcomeUnrecorded(#[source] AuditError),
    /// The HSM.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A stored record does not open or decode.
    #[error("a stored record does not open: {keyspace}/{key}; restore it from a backup")]
    CorruptRecord {
        /// Where.
        keyspace: &'static str,
        /// Its key in hex.
        key: String,
    },
    /// The seal record is not this vault's or was changed.
    #[error("the seal record cannot be trusted: {what}")]
    SealRecord {
        /// Which check failed.
        what: String,
    },
    /// The token is none of those that the vault has keys on.
    #[error(
        "the token in the HSM is {found}, but this vault's keys are on {}; configure the right one",
        .expected.join(" and ")
    )]
    OtherToken {
        /// Serials in the seal record.
        expected: Vec<String>,
        /// Serial of the token there.
        found: String,
    },
    /// A token that is needed does not answer.
    #[error("token {token} does not answer; try again once it does (`keystead keys list` shows it)")]
    TokenAway {
        /// Its way.
        token: String,
    },
    /// A token that is needed does not answer, and a clone of it cannot stand in.
    #[error(
        "token {token} does not answer, and its clone cannot stand in for this: keys are made and destroyed, and PINs changed, on \
         the token itself. Bring it back and try again (`keystead keys list` shows it)"
    )]
    OnlyItsClone {
        /// The serial of the token.
        token: String,
    },
    /// Data keys are still being wrapped anew.
    #[error(
        "data keys are still being wrapped anew; try again when `keystead keys rotation` says that it is done"
    )]
    RotationUnderWay,
    /// A master key has made as many wraps as it may.
    #[error(
        "master key {version} of token {way} has made all the wraps that it may; rotate it with `keystead keys rotate`"
    )]
    MasterKeyUsedUp {
        /// The token's way.
        way: String,
        /// The version.
        version: u32,
    },
    /// Targets, roles and leases.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The random source fails or repeats.
    #[error("the random source failed; nothing was made")]
    Randomness,
    /// The server is going down.
    #[error("{what} was interrupted; try again")]
    Interrupted {
        /// What was under way.
        what: &'static str,
    },
    /// Somebody else kept changing the same record.
    #[error("too many writers on {what}; try again")]
    Contention {
        /// Which record.
        what: String,
    },
}

fn found(anchored: &Head, log: &Head, instead: Option<&str>) -> String {
    match instead {
        Some(root) => format!("the first {} of its {} entries have the root {root}", anchored.size, log.size),
        None => format!("its own is {log}"),
    }
}

impl VaultError {
    /// Whether the same may work once something else is mended: nothing is wrong with the shares, and no PIN was refused.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Hsm(error) => {
                !matches!(error, HsmError::PinRefused | HsmError::PinLocked | HsmError::PinUncertain)
            }
            Self::Storage(_)
            | Self::TokenAway { .. }
            | Self::OnlyItsClone { .. }
            | Self::OtherToken { .. }
            | Self::AuditOrigin(_)
            | Self::AuditUnreadable(_)
            | Self::AuditRolledBack { .. }
            | Self::AnchorUntrusted { .. }
            | Self::AutoPin { .. } => true,
            _ => false,
        }
    }

    /// The machine-readable reason, stable across versions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotInitialized => "NOT_INITIALIZED",
            Self::AlreadyInitialized { .. } => "ALREADY_INITIALIZED",
            Self::NotEmpty { .. } => "STORE_NOT_EMPTY",
            Self::Sealed => "SEALED",
            Self::AlreadyUnsealed => "ALREADY_UNSEALED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Denied { .. } => "DENIED",
            Self::NeedsApproval { .. } => "NEEDS_APPROVAL",
            Self::OperatorOnly { .. } => "OPERATOR_ONLY",
            Self::NotFound { .. } => "NOT_FOUND",
            Self::Version(error) => match error {
                VersionError::Conflict { .. } => "VERSION_MISMATCH",
                VersionError::NoSuchVersion { .. } => "VERSION_NOT_FOUND",
                VersionError::Deleted { .. } => "VERSION_DELETED",
                VersionError::Destroyed { .. } => "VERSION_DESTROYED",
                VersionError::TooManyVersions { .. } => "TOO_MANY_VERSIONS",
                _ => "INVALID_ARGUMENT",
            },
            Self::Invalid { .. } => "INVALID_ARGUMENT",
            Self::EtagMismatch { .. } => "ETAG_MISMATCH",
            Self::MatcherTaken { .. } => "CERTIFICATE_IDENTITY_TAKEN",
            Self::RequestIdReused { .. } => "REQUEST_ID_REUSED",
            Self::GroupBeyondCaller { .. } => "GROUP_BEYOND_CALLER",
            Self::Policy(_) => "INVALID_POLICY",
            Self::WouldLockOut { .. } => "WOULD_LOCK_OUT",
            Self::Share(error) => error.reason(),
            Self::OtherCeremony { .. } => "OTHER_CEREMONY",
            Self::CeremonyUnderWay { .. } => "CEREMONY_UNDER_WAY",
            Self::RekeyOvertaken => "REKEY_OVERTAKEN",
            Self::PinUndecided { .. } => "PIN_UNDECIDED",
            Self::NoAutoPin => "AUTO_PIN_MISSING",
            Self::AutoPin { .. } => "AUTO_PIN_UNREADABLE",
            Self::OtherAutoPin { .. } => "AUTO_PIN_WRONG",
            Self::ShareEntered { .. } => "SHARE_DUPLICATE",
            Self::Audit(_) | Self::AuditRefused(_) | Self::AuditUnreadable(_) => "AUDIT_UNAVAILABLE",
            Self::AuditOrigin(_) => "AUDIT_OF_ANOTHER_VAULT",
            Self::AuditRolledBack { .. } => "AUDIT_ROLLED_BACK",
            Self::AnchorUntrusted { .. } => "AUDIT_ANCHOR_UNTRUSTED",
            Self::OutcomeUnrecorded(_) => "OUTCOME_UNRECORDED",
            Self::Hsm(error) => match error {
                HsmError::PinRefused => "HSM_PIN_REFUSED",
                HsmError::PinLocked => "HSM_PIN_LOCKED",
                HsmError::PinUncertain => "HSM_PIN_UNCERTAIN",
                HsmError::Misconfigured { .. }
                | HsmError::NotUnique { .. }
                | HsmError::Unsupported { .. } => "HSM_MISCONFIGURED",
                HsmError::NotAuthentic | HsmError::Lied { .. } => "HSM_ANSWER_REFUSED",
                _ => "HSM_UNAVAILABLE",
            },
            Self::Storage(error) => match error {
                StorageError::Conflict { .. } => "CONFLICT",
                StorageError::Full { .. } => "STORAGE_FULL",
                StorageError::UnknownOutcome { .. } => "UNKNOWN_OUTCOME",
                StorageError::Corrupt { .. } => "STORAGE_CORRUPT",
                StorageError::BatchTooLarge { .. } => "CHANGE_TOO_LARGE",
                _ => "STORAGE_UNAVAILABLE",
            },
            Self::CorruptRecord { .. } => "RECORD_CORRUPT",
            Self::SealRecord { .. } => "SEAL_RECORD_UNTRUSTED",
            Self::OtherToken { .. } => "OTHER_TOKEN",
            Self::TokenAway { .. } | Self::OnlyItsClone { .. } => "TOKEN_AWAY",
            Self::RotationUnderWay => "ROTATION_UNDER_WAY",
            Self::MasterKeyUsedUp { .. } => "MASTER_KEY_USED_UP",
            Self::Credential(error) => error.reason(),
            Self::Randomness => "RANDOMNESS_FAILED",
            Self::Interrupted { .. } => "INTERRUPTED",
            Self::Contention { .. } => "CONTENTION",
        }
    }
}
