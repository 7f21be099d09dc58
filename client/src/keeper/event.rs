//! What a keeper tells.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::leases::Lease;

/// What a keeper does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeeperStep {
    /// Renew the lease.
    Renew,
    /// Issue the next credential.
    Issue,
    /// Hand back a lease that was replaced.
    Release {
        /// Its id.
        lease: String,
    },
}

/// What happened to a kept credential. It holds no secret; words of errors come from another machine: escape them before
/// they reach a terminal.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KeeperEvent {
    /// It lives longer.
    Renewed {
        /// Its lease.
        lease: Lease,
    },
    /// Another one is handed out from now on.
    Replaced {
        /// Its lease.
        lease: Lease,
        /// The id of the lease before, which is handed back after the grace.
        before: String,
    },
    /// The vault ended its lease: somebody revoked it, or its time was over. The next credential is issued at once.
    Ended {
        /// Its lease, as the vault last showed it.
        lease: Lease,
    },
    /// A lease was handed back.
    Released {
        /// Its id.
        lease: String,
    },
    /// A step did not succeed.
    Failed {
        /// Which.
        step: KeeperStep,
        /// Why.
        error: Arc<Error>,
        /// When it is tried again; if not set, another way is taken, or the lease ends by itself.
        again: Option<Duration>,
    },
    /// It is over, and there is no next one yet.
    Lost {
        /// The role.
        role: String,
        /// Why the last try failed.
        error: Option<Arc<Error>>,
    },
}

impl fmt::Display for KeeperStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Renew => f.write_str("renew the lease"),
            Self::Issue => f.write_str("issue the next credential"),
            Self::Release { lease } => write!(f, "hand back lease {lease}"),
        }
    }
}

impl fmt::Display for KeeperEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Renewed { lease } => write!(f, "lease {} of role {} is renewed", lease.id, lease.role),
            Self::Replaced { lease, before } => {
                write!(f, "role {}: lease {} takes the place of {before}", lease.role, lease.id)
            }
            Self::Ended { lease } => write!(f, "lease {} of role {} was ended", lease.id, lease.role),
            Self::Released { lease } => write!(f, "lease {lease} is handed back"),
            Self::Failed { step, error, again: Some(again) } => {
                write!(f, "could not {step}: {error}; again in {again:.1?}")
            }
            Self::Failed { step, error, again: None } => write!(f, "could not {step}: {error}"),
            Self::Lost { role, .. } => {
                write!(f, "the credential of role {role} is over, and there is no next one yet")
            }
        }
    }
}
