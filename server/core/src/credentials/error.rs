//! What can go wrong with targets, roles and leases.

use keystead_domain::lease::LeaseError;
use keystead_domain::rights::Right;

use crate::engine::{EngineError, Finding, list};

/// Why a login was not issued, kept or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The target.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// It took longer than it may.
    #[error("target {target} did not answer within {seconds} s; {then}")]
    Slow {
        /// Which.
        target: String,
        /// How long was waited.
        seconds: u64,
        /// What becomes of what was asked for.
        then: &'static str,
    },
    /// This server has no engine for it.
    #[error("this server has no engine for {kind} targets")]
    NoEngine {
        /// Which kind.
        kind: &'static str,
    },
    /// Everybody may do things there that nobody accepted. There may be many: the answer's details list them.
    #[error(
        "on target {target} everybody may do what no role declares ({} findings); close each with its statement, or accept it by its digest{}",
        .findings.len(),
        but_not(.unmatched)
    )]
    Baseline {
        /// Which.
        target: String,
        /// What.
        findings: Vec<Finding>,
        /// Digests that were to be accepted, and are of nothing there.
        unmatched: Vec<String>,
    },
    /// There are as many live leases as there may be.
    #[error("{of} has {}, as many as it may; let some end, or raise {setting}", counted(.limit, "live leases"))]
    Limit {
        /// Whose.
        of: String,
        /// How many.
        limit: u64,
        /// What sets the limit.
        setting: &'static str,
    },
    /// As many follow leases as may.
    #[error("{of} follows {limit} leases, as many as it may; end some, or raise {setting}")]
    WatchLimit {
        /// Who.
        of: String,
        /// How many.
        limit: usize,
        /// What sets the limit.
        setting: &'static str,
    },
    /// The lease does not do that.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The same request is still under way, or was cut off a moment ago.
    #[error("the lease of this request id is still being issued; ask again in a moment")]
    StillIssuing,
    /// Something hangs on it.
    #[error("{what} still has {}; {mend}", counted(.count, .of))]
    InUse {
        /// What was to go.
        what: String,
        /// How many.
        count: u64,
        /// Of what, in the plural.
        of: &'static str,
        /// What to do.
        mend: &'static str,
    },
    /// The role is for another kind of target, or for one that was added anew.
    #[error("role {role} was defined for another target of the name {target}; define it again")]
    OtherTarget {
        /// The role.
        role: String,
        /// The target's name.
        target: String,
    },
    /// A static role's password is not taken.
    #[error(
        "login {login} of static role {role} is not let in to target {target} with the password that the vault has; somebody else changed it: set one there, and give it to the vault with `keystead static-role put`"
    )]
    StaticLogin {
        /// The static role.
        role: String,
        /// The target.
        target: String,
        /// The login.
        login: String,
    },
    /// A password that was given for a static role is not taken.
    #[error(
        "login {login} is not let in to target {target} with the password that was given: it has another one, or none by SCRAM, or there is no such login"
    )]
    StaticLoginGiven {
        /// The target.
        target: String,
        /// The login.
        login: String,
    },
    /// The login of a static role can do what no service needs.
    #[error(
        "login {login} on target {target} can do more than a service needs: {}; take that away there, or take the login as it is (`--allow-excess`)",
        list(.excess.iter())
    )]
    StaticExcess {
        /// The target.
        target: String,
        /// The login.
        login: String,
        /// What.
        excess: Vec<Right>,
    },
    /// A login belongs to one static role, and to no target as its admin login.
    #[error(
        "login {login} on target {target} is a static role's already, or the admin login of a target; two would change its password behind each other"
    )]
    LoginTaken {
        /// The target.
        target: String,
        /// The login.
        login: String,
    },
    /// The right that the lease stands on is gone.
    #[error(
        "role {role} does not issue to this caller any more, so its lease is not renewed; it ends when it ends"
    )]
    MayNotIssue {
        /// The role.
        role: String,
    },
    /// The wall clock is not believed.
    #[error(
        "the server's clock is {ahead_s} s ahead of when the vault was last open, and no target confirms it; check it, then `keystead lease accept-clock`"
    )]
    ClockDoubted {
        /// By how many seconds.
        ahead_s: u64,
    },
}

/// So many of them; `of` is a plural on "s".
fn counted(count: &u64, of: &str) -> String {
    match (count, of.strip_suffix('s')) {
        (1, Some(one)) => format!("1 {one}"),
        _ => format!("{count} {of}"),
    }
}

/// Digests that were given for others.
fn but_not(digests: &[String]) -> String {
    if digests.is_empty() { String::new() } else { format!(", which is not {}", digests.join(" or ")) }
}

impl CredentialError {
    /// Where there was no answer in time, says what becomes of what was asked for.
    #[must_use]
    pub(crate) fn then(mut self, what: &'static str) -> Self {
        if let Self::Slow { then, .. } = &mut self {
            *then = what;
        }
        self
    }

    /// The same, whatever the target said.
    #[must_use]
    pub(crate) fn all_the_same(self, then: &'static str) -> Self {
        match self {
            Self::Engine(error) => Self::Engine(error.then(then)),
            other => other.then(then),
        }
    }

    /// Whether it is the target as a whole, so that whatever else it is asked now fails too: it does not answer, is not the
    /// one that was configured, or does not take the vault's login.
    pub(crate) fn is_of_target(&self) -> bool {
        match self {
            Self::Slow { .. } => true,
            Self::Engine(error) => matches!(
                error.cause(),
                EngineError::Unavailable { .. }
                    | EngineError::Admin { .. }
                    | EngineError::Identity { .. }
                    | EngineError::Ca { .. }
            ),
            _ => false,
        }
    }

    /// The machine-readable reason, stable across versions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Engine(error) => match error.cause() {
                EngineError::Unavailable { .. } | EngineError::NotAsked(_) => "TARGET_UNAVAILABLE",
                EngineError::Refused { .. } => "TARGET_REFUSED",
                EngineError::Admin { .. } => "TARGET_ADMIN_LOGIN",
                EngineError::Identity { .. } => "TARGET_UNTRUSTED",
                EngineError::Ca { .. } => "TARGET_CA_UNUSABLE",
                EngineError::Excess { .. } => "RIGHTS_IN_EXCESS",
                EngineError::Definition { .. } => "ROLE_NOT_DEFINABLE",
            },
            Self::Slow { .. } => "TARGET_UNAVAILABLE",
            Self::NoEngine { .. } => "TARGET_KIND_UNSUPPORTED",
            Self::Baseline { .. } => "BASELINE_NOT_ACCEPTED",
            Self::Limit { .. } => "LEASE_LIMIT",
            Self::WatchLimit { .. } => "LEASE_WATCH_LIMIT",
            Self::Lease(error) => match error {
                LeaseError::AtItsLongest { .. } => "LEASE_AT_ITS_LONGEST",
                _ => "LEASE_ENDED",
            },
            Self::StillIssuing => "LEASE_BEING_ISSUED",
            Self::InUse { .. } => "IN_USE",
            Self::OtherTarget { .. } => "ROLE_OF_ANOTHER_TARGET",
            Self::StaticLogin { .. } | Self::StaticLoginGiven { .. } => "STATIC_LOGIN_REFUSED",
            Self::StaticExcess { .. } => "RIGHTS_IN_EXCESS",
            Self::LoginTaken { .. } => "STATIC_LOGIN_TAKEN",
            Self::MayNotIssue { .. } => "LEASE_NOT_RENEWED",
            Self::ClockDoubted { .. } => "CLOCK_IN_DOUBT",
        }
    }
}
