//! A question to the policies and the answer.
//!
//! Invariant: only [`Verdict::Allow`] lets anything through; the default, an error and an absence are `Deny`.

use std::net::IpAddr;

use crate::name::GroupName;
use crate::principal::PrincipalName;
use crate::time::UnixMillis;

use super::action::Action;
use super::resource::Resource;

/// May this principal do this to that, under these circumstances?
#[derive(Debug, Clone, Copy)]
pub struct AccessRequest<'a> {
    /// Who asks.
    pub principal: &'a PrincipalName,
    /// The groups the principal's record lists.
    pub groups: &'a [GroupName],
    /// What it wants to do.
    pub action: Action,
    /// To what.
    pub resource: &'a Resource,
    /// Under which circumstances.
    pub context: &'a AccessContext,
}

/// How a request was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// By the client certificate of its connection.
    Certificate,
    /// By a session token.
    Token,
    /// By the local socket.
    LocalSocket,
}

impl Method {
    /// The word policies and audit entries use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
            Self::LocalSocket => "local-socket",
        }
    }
}

/// The circumstances of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessContext {
    /// How it was authenticated.
    pub method: Method,
    /// The vault's clock.
    pub now: UnixMillis,
    /// The caller's address; none on the local socket.
    pub peer: Option<IpAddr>,
    /// The verified end user a service acts for.
    pub on_behalf_of: Option<String>,
    /// Seconds since a second factor was shown.
    pub mfa_age_secs: Option<u64>,
}

/// What the policies say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Yes.
    Allow,
    /// No.
    Deny,
    /// Yes, once a second person has agreed.
    NeedsApproval,
}

impl Verdict {
    /// The word audit entries use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::NeedsApproval => "needs-approval",
        }
    }
}

/// The answer and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What the policies say.
    pub verdict: Verdict,
    /// The statements that decided, as `<policy>#<number from 0>`, sorted. Empty if nothing permitted.
    pub determining: Vec<String>,
    /// What went wrong on the way. A permit that fails grants nothing, a forbid that fails denies; both
    /// deserve an alarm.
    pub errors: Vec<String>,
    /// Whether the answer depends on principal, groups, action and resource alone.
    pub cacheable: bool,
}

impl Decision {
    pub(super) const fn nothing_permits() -> Self {
        Self { verdict: Verdict::Deny, determining: Vec::new(), errors: Vec::new(), cacheable: true }
    }

    pub(super) fn impossible(reason: String) -> Self {
        Self { errors: vec![reason], ..Self::nothing_permits() }
    }
}

/// What each statement says to a request, for `policy explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The answer the request gets.
    pub decision: Decision,
    /// Every statement whose scope names the principal, one of its groups or everybody.
    pub statements: Vec<StatementOutcome>,
}

/// What one statement says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementOutcome {
    /// `<policy>#<number from 0>`.
    pub id: String,
    /// Whether it forbids rather than permits.
    pub forbids: bool,
    /// Whether its permit asks for a second person.
    pub needs_approval: bool,
    /// Whether it holds.
    pub outcome: Outcome,
}

/// Whether a statement holds for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It does.
    Satisfied,
    /// It speaks of this action and may speak of this resource, but its scope or its conditions don't hold.
    NotSatisfied,
    /// Its scope names other actions or resources.
    OutOfScope,
    /// Its conditions can't be evaluated.
    Failed(String),
}
