//! What a caller can want to do: one value an operation, with the word policies use for it.
//!
//! Invariant: this table and `schema.cedarschema` say the same (a test compares them). `system:init` is the
//! one action no policy can grant: an uninitialized vault has no policies, an initialized one no need of it.

use std::fmt;

use super::resource::ResourceKind;

/// The groups of actions a policy can name at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionGroup {
    /// Reading and listing secrets and the definitions of roles.
    Read,
    /// Writing, deleting and undeleting secrets.
    Write,
    /// Destroying secrets and running the vault.
    Admin,
}

impl ActionGroup {
    /// The word policies use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $kind:ident, $group:expr;)*) => {
        /// What a caller wants to do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Action {
            $($(#[$doc])* $name,)*
        }

        impl Action {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The word policies, requests and audit entries use.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// What kind of resource it is done to.
            pub const fn resource_kind(self) -> ResourceKind {
                match self { $(Self::$name => ResourceKind::$kind,)* }
            }

            /// The group a policy can name it by, if any.
            pub const fn group(self) -> Option<ActionGroup> {
                match self { $(Self::$name => $group,)* }
            }
        }
    };
}

const READ: Option<ActionGroup> = Some(ActionGroup::Read);
const WRITE: Option<ActionGroup> = Some(ActionGroup::Write);
const ADMIN: Option<ActionGroup> = Some(ActionGroup::Admin);

actions! {
    /// Read a version of a secret.
    SecretsRead = "secrets:read", Secret, READ;
    /// Write a new version.
    SecretsWrite = "secrets:write", Secret, WRITE;
    /// List what is in a folder.
    SecretsList = "secrets:list", Folder, READ;
    /// See the versions of a secret without their values.
    SecretsHistory = "secrets:history", Secret, READ;
    /// Hide versions.
    SecretsDelete = "secrets:delete", Secret, WRITE;
    /// Show hidden versions again.
    SecretsUndelete = "secrets:undelete", Secret, WRITE;
    /// Destroy versions for good.
    SecretsDestroy = "secrets:destroy", Secret, ADMIN;
    /// Read a role's definition.
    RolesRead = "roles:read", Role, READ;
    /// Define a role.
    RolesWrite = "roles:write", Role, ADMIN;
    /// Delete a role.
    RolesDelete = "roles:delete", Role, ADMIN;
    /// List roles.
    RolesList = "roles:list", System, ADMIN;
    /// Issue a credential from a role.
    RolesIssue = "roles:issue", Role, None;
    /// Read a static role's definition, never a password.
    StaticRolesRead = "static-roles:read", StaticRole, READ;
    /// Define a static role, or give the vault the password of its login.
    StaticRolesWrite = "static-roles:write", StaticRole, ADMIN;
    /// Change the password of a static role now.
    StaticRolesRotate = "static-roles:rotate", StaticRole, ADMIN;
    /// Delete a static role.
    StaticRolesDelete = "static-roles:delete", StaticRole, ADMIN;
    /// List static roles.
    StaticRolesList = "static-roles:list", System, ADMIN;
    /// Get the login of a static role, with its password.
    StaticRolesCredential = "static-roles:credential", StaticRole, None;
    /// Read a target's settings, never its login.
    TargetsRead = "targets:read", Target, ADMIN;
    /// Add or change a target.
    TargetsWrite = "targets:write", Target, ADMIN;
    /// Give the admin login of a target a new password.
    TargetsRotate = "targets:rotate", Target, ADMIN;
    /// Delete a target.
    TargetsDelete = "targets:delete", Target, ADMIN;
    /// List targets.
    TargetsList = "targets:list", System, ADMIN;
    /// See a lease.
    LeasesRead = "leases:read", Lease, ADMIN;
    /// Renew a lease.
    LeasesRenew = "leases:renew", Lease, None;
    /// Revoke a lease.
    LeasesRevoke = "leases:revoke", Lease, ADMIN;
    /// Revoke leases of others, many at once.
    LeasesRevokeMany = "leases:revoke-many", System, ADMIN;
    /// Say that the server's clock is right, so that leases go on.
    LeasesAcceptClock = "leases:accept-clock", System, ADMIN;
    /// List leases.
    LeasesList = "leases:list", System, ADMIN;
    /// Read the record of a principal.
    PrincipalsRead = "principals:read", Principal, ADMIN;
    /// Register or change a principal.
    PrincipalsWrite = "principals:write", Principal, ADMIN;
    /// Delete a principal.
    PrincipalsDelete = "principals:delete", Principal, ADMIN;
    /// List principals.
    PrincipalsList = "principals:list", System, ADMIN;
    /// End one's own session.
    SessionsRevokeSelf = "sessions:revoke-self", Principal, None;
    /// Read a policy.
    PoliciesRead = "policies:read", Policy, ADMIN;
    /// Write a policy.
    PoliciesWrite = "policies:write", Policy, ADMIN;
    /// Delete a policy.
    PoliciesDelete = "policies:delete", Policy, ADMIN;
    /// List policies.
    PoliciesList = "policies:list", System, ADMIN;
    /// Ask what the policies say about any caller.
    PoliciesExplain = "policies:explain", System, ADMIN;
    /// Read the audit log.
    AuditRead = "audit:read", Audit, ADMIN;
    /// See ways, keys and how far their rotation is.
    KeysRead = "keys:read", System, ADMIN;
    /// Rotate the master key.
    KeysRotate = "keys:rotate", System, ADMIN;
    /// Retire a token or a recovery recipient.
    KeysRetire = "keys:retire", System, ADMIN;
    /// Seal the vault.
    SystemSeal = "system:seal", System, ADMIN;
    /// Begin and end ceremonies that need a quorum, and take the seal record away.
    SystemCeremony = "system:ceremony", System, ADMIN;
    /// Initialize the vault. No policy can grant it.
    SystemInit = "system:init", System, None;
}

/// A word that names no action. The message says which action was meant, or where all are listed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("action: '{}' is not one of the actions; {}", .word.escape_default(), self.hint())]
pub struct UnknownAction {
    /// The word.
    pub word: String,
}

impl UnknownAction {
    /// Which action was meant, or where to find them all.
    pub(super) fn hint(&self) -> String {
        match Action::like(&self.word) {
            Some(action) => format!("did you mean {action}?"),
            None => "docs/reference/policies.md lists them".to_owned(),
        }
    }
}

impl Action {
    /// Reads the word.
    pub fn parse(word: &str) -> Result<Self, UnknownAction> {
        let found = Self::ALL.iter().find(|action| action.as_str() == word);
        found.copied().ok_or_else(|| UnknownAction { word: word.to_owned() })
    }

    /// The action whose word is at most [`MOST_SLIPS`] slips of the pen away, the nearest first.
    fn like(word: &str) -> Option<Self> {
        // No longer word is that near to an action's; what a caller sends is not looked at further.
        let longest = Self::ALL.iter().map(|action| action.as_str().len()).max()?;
        if word.len() > longest + MOST_SLIPS {
            return None;
        }
        let near = Self::ALL.iter().map(|action| (slips(word, action.as_str()), *action));
        near.filter(|(slips, _)| *slips <= MOST_SLIPS).min().map(|(_, action)| action)
    }

    /// Whether a policy can speak about it at all.
    pub const fn is_for_policies(self) -> bool {
        !matches!(self, Self::SystemInit)
    }

    pub(super) fn index(self) -> usize {
        #[expect(clippy::as_conversions, reason = "the discriminant of a fieldless enum has no other door")]
        usize::from(self as u8)
    }
}

const MOST_SLIPS: usize = 2;

/// How many bytes have to be put in, taken out or changed to make one word of the other.
fn slips(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (taken, byte) in from.bytes().enumerate() {
        let mut left = taken + 1;
        let mut next = vec![left];
        for ((other, above), diagonal) in to.bytes().zip(row.iter().skip(1)).zip(&row) {
            let changed = diagonal + usize::from(byte != other);
            left = changed.min(left + 1).min(above + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ActionSet(u64);

const _: () = assert!(Action::ALL.len() <= 64, "an ActionSet has 64 bits");

impl ActionSet {
    pub(super) const EMPTY: Self = Self(0);
    pub(super) const ALL: Self = Self(u64::MAX);

    pub(super) fn with(self, action: Action) -> Self {
        Self(self.0 | 1 << action.index())
    }

    pub(super) fn contains(self, action: Action) -> bool {
        self.0 & (1 << action.index()) != 0
    }

    /// The action of this name, or all that are in the group of this name; empty if there is neither.
    pub(super) fn named(self, word: &str) -> Self {
        let named = |action: &&Action| {
            action.as_str() == word || action.group().is_some_and(|group| group.as_str() == word)
        };
        Action::ALL.iter().filter(named).fold(self, |set, action| set.with(*action))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_actions_are_one_to_one() {
        for (index, action) in Action::ALL.iter().enumerate() {
            assert_eq!(Action::parse(action.as_str()), Ok(*action));
            assert_eq!(action.index(), index);
        }
        for wrong in ["", "secrets", "Secrets:read", "secrets:read ", "secrets:*", "read"] {
            assert!(Action::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_action_meant_or_with_where_they_are() {
        let said = |word: &str| Action::parse(word).unwrap_err().to_string();
        for (wrong, meant) in [
            ("secrets:raed", "secrets:read"),
            ("secret:list", "secrets:list"),
            ("Secrets:Read", "secrets:read"),
            ("policy:explain", ""),
            ("secrets:undelte", "secrets:undelete"),
            ("system:sea", "system:seal"),
            ("read", ""),
            ("", ""),
        ] {
            let told = match meant {
                "" => "docs/reference/policies.md lists them".to_owned(),
                meant => format!("did you mean {meant}?"),
            };
            assert_eq!(said(wrong), format!("action: '{wrong}' is not one of the actions; {told}"));
        }
        assert!(said(&"x".repeat(100_000)).ends_with("lists them"));
        assert_eq!((slips("", "abc"), slips("abc", ""), slips("abc", "axc")), (3, 3, 1));
    }

    #[test]
    fn no_group_includes_issuing_a_credential() {
        for word in ["read", "write", "admin"] {
            assert!(!ActionSet::EMPTY.named(word).contains(Action::RolesIssue));
        }
        assert!(ActionSet::EMPTY.named("read").contains(Action::SecretsRead));
        assert!(!ActionSet::EMPTY.named("admin").contains(Action::SecretsRead));
        assert_eq!(ActionSet::EMPTY.named("no-such-action"), ActionSet::EMPTY);
    }
}
