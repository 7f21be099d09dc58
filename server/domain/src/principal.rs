//! Who can call: `service/<name>` and `operator/<name>`, their groups and their certificates.
//!
//! Invariant: a principal exists only as a registered record. What the vault does by itself is named
//! `system/<job>`, and the administrator of the first day `operator/bootstrap`: both are made here by name
//! and refused by [`PrincipalName::parse`], so no caller can take them, and `system/` cannot be looked for. Which certificate a principal shows
//! is in `certificate_matcher`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::certificate_matcher::CertificateMatcher;
use crate::name::{GroupName, Name, NameError};
use crate::time::UnixMillis;

/// The most certificate matchers a principal may have.
pub const MAX_MATCHERS: usize = 8;
/// The most groups a principal may be in.
pub const MAX_GROUPS: usize = 32;

const BOOTSTRAP: &str = "bootstrap";

/// What kind of principal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PrincipalKind {
    /// A program.
    Service,
    /// A person.
    Operator,
    /// The vault itself, doing one of its jobs. Never a caller.
    System,
}

impl PrincipalKind {
    /// The word before the slash.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Operator => "operator",
            Self::System => "system",
        }
    }
}

/// The name of a principal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PrincipalName {
    kind: PrincipalKind,
    name: Name,
}

/// Why a text is not the name of a principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// It begins neither with `service/` nor with `operator/`.
    #[error("principal: expected service/<name> or operator/<name>")]
    Kind,
    /// What follows the slash is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// More groups than a principal may be in.
    #[error("principal: is in {count} groups, at most {MAX_GROUPS} are allowed")]
    TooManyGroups {
        /// How many there were.
        count: usize,
    },
    /// More matchers than a principal may have.
    #[error("principal: has {count} certificate matchers, at most {MAX_MATCHERS} are allowed")]
    TooManyMatchers {
        /// How many there were.
        count: usize,
    },
    /// The same group or matcher twice.
    #[error("principal: '{entry}' is listed twice")]
    Repeated {
        /// The group or matcher.
        entry: String,
    },
}

impl PrincipalName {
    /// Checks a text that comes from a caller: `service/x` or `operator/x`, reserved names refused.
    pub fn parse(text: &str) -> Result<Self, PrincipalError> {
        let (kind, name) = split(text)?;
        Ok(Self { kind, name: Name::parse_unreserved("principal name", name)? })
    }

    /// Checks a text that a caller looks for. Under a reserved name nobody is found, but for the bootstrap administrator.
    pub fn parse_sought(text: &str) -> Result<Self, PrincipalError> {
        let (kind, name) = split(text)?;
        Ok(Self { kind, name: Name::parse_as("principal name", name)? })
    }

    /// Checks a text from the vault's own records, where the vault's jobs and the bootstrap administrator
    /// appear.
    pub fn parse_stored(text: &str) -> Result<Self, PrincipalError> {
        match text.split_once('/') {
            Some(("system", job)) => {
                Ok(Self { kind: PrincipalKind::System, name: Name::parse_as("system job", job)? })
            }
            Some(("operator", BOOTSTRAP)) => Ok(Self::bootstrap()),
            _ => Self::parse(text),
        }
    }

    /// A registered program.
    pub fn service(name: &str) -> Result<Self, PrincipalError> {
        Ok(Self { kind: PrincipalKind::Service, name: Name::parse_unreserved("principal name", name)? })
    }

    /// A registered person.
    pub fn operator(name: &str) -> Result<Self, PrincipalError> {
        Ok(Self { kind: PrincipalKind::Operator, name: Name::parse_unreserved("principal name", name)? })
    }

    /// The vault, doing one of its jobs.
    pub const fn system(job: Name) -> Self {
        Self { kind: PrincipalKind::System, name: job }
    }

    /// Who holds the bootstrap token that `init` handed out: `operator/bootstrap`.
    pub fn bootstrap() -> Self {
        Self { kind: PrincipalKind::Operator, name: Name::built_in(BOOTSTRAP) }
    }

    /// What kind of principal it is.
    pub const fn kind(&self) -> PrincipalKind {
        self.kind
    }

    /// The part after the slash.
    pub const fn name(&self) -> &Name {
        &self.name
    }
}

fn split(text: &str) -> Result<(PrincipalKind, &str), PrincipalError> {
    match text.split_once('/') {
        Some(("service", name)) => Ok((PrincipalKind::Service, name)),
        Some(("operator", name)) => Ok((PrincipalKind::Operator, name)),
        _ => Err(PrincipalError::Kind),
    }
}

impl fmt::Display for PrincipalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.name)
    }
}

impl FromStr for PrincipalName {
    type Err = PrincipalError;

    fn from_str(text: &str) -> Result<Self, PrincipalError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for PrincipalName {
    type Error = PrincipalError;

    fn try_from(text: String) -> Result<Self, PrincipalError> {
        Self::parse_stored(&text)
    }
}

impl From<PrincipalName> for String {
    fn from(name: PrincipalName) -> Self {
        name.to_string()
    }
}

/// A registered principal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrincipalRecord {
    /// Its name.
    pub name: PrincipalName,
    /// The groups it is in.
    pub groups: Vec<GroupName>,
    /// Which certificates are its own; none means that no certificate is.
    pub matchers: Vec<CertificateMatcher>,
    /// Whether it is refused for now.
    pub disabled: bool,
    /// When it was registered. Also tells a name registered anew from its earlier life.
    pub created: UnixMillis,
}

impl PrincipalRecord {
    /// Checks what the types can't: the numbers of groups and matchers, and that none is listed twice.
    /// Run before a record is written and after one is read.
    pub fn check(&self) -> Result<(), PrincipalError> {
        if self.groups.len() > MAX_GROUPS {
            return Err(PrincipalError::TooManyGroups { count: self.groups.len() });
        }
        if self.matchers.len() > MAX_MATCHERS {
            return Err(PrincipalError::TooManyMatchers { count: self.matchers.len() });
        }
        refuse_repeated(&self.groups)?;
        refuse_repeated(&self.matchers)
    }

    /// What a session of this registration carries in its `generation`.
    pub const fn generation(&self) -> u64 {
        self.created.0
    }
}

fn refuse_repeated<T: Ord + fmt::Display>(entries: &[T]) -> Result<(), PrincipalError> {
    let mut seen = BTreeSet::new();
    match entries.iter().find(|entry| !seen.insert(*entry)) {
        Some(entry) => Err(PrincipalError::Repeated { entry: entry.to_string() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_caller_can_be_neither_the_vault_nor_the_bootstrap_administrator() {
        for text in [
            "system/rewrap",
            "operator/bootstrap",
            "service/root",
            "operator/system",
            "service/default",
            "service",
            "service/",
            "/x",
            "x",
            "",
            "Service/x",
            "service/X",
            "service/x/y",
            " service/x",
            "service/x ",
            "group/x",
            "service//x",
            "operator/ROOT",
            "operator/root\u{200b}",
        ] {
            assert!(PrincipalName::parse(text).is_err(), "{text:?}");
        }
        assert!(PrincipalName::service("bootstrap").is_err());
        assert!(PrincipalName::operator("root").is_err());
    }

    #[test]
    fn a_reserved_name_may_be_looked_for_and_a_job_not() {
        for text in ["operator/bootstrap", "service/none", "operator/root", "service/api"] {
            assert_eq!(PrincipalName::parse_sought(text).unwrap().to_string(), text);
        }
        assert_eq!(PrincipalName::parse_sought("operator/bootstrap").unwrap(), PrincipalName::bootstrap());
        for text in ["system/rewrap", "none", "service/", "service/X", "group/x"] {
            assert!(PrincipalName::parse_sought(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn records_may_name_the_vault_and_the_bootstrap_administrator() {
        let job = PrincipalName::system(Name::parse("rewrap").unwrap());
        for name in [job, PrincipalName::bootstrap(), PrincipalName::service("api").unwrap()] {
            assert_eq!(PrincipalName::parse_stored(&name.to_string()).unwrap(), name);
            let stored = postcard::to_stdvec(&name).unwrap();
            assert_eq!(postcard::from_bytes::<PrincipalName>(&stored).unwrap(), name);
        }
        assert!(PrincipalName::parse_stored("operator/root").is_err());
    }

    #[test]
    fn a_record_has_bounded_and_distinct_entries() {
        let mut record = PrincipalRecord {
            name: PrincipalName::service("api").unwrap(),
            groups: vec![GroupName::parse("shop").unwrap()],
            matchers: vec![CertificateMatcher::dns("api.shop").unwrap()],
            disabled: false,
            created: UnixMillis(7),
        };
        assert_eq!(record.check(), Ok(()));
        assert_eq!(record.generation(), 7);
        record.matchers = vec![CertificateMatcher::dns("api.shop").unwrap(); 2];
        assert_eq!(record.check(), Err(PrincipalError::Repeated { entry: "dns:api.shop".into() }));
        record.matchers = vec![CertificateMatcher::dns("api.shop").unwrap(); 9];
        assert_eq!(record.check(), Err(PrincipalError::TooManyMatchers { count: 9 }));
        record.groups = vec![GroupName::parse("shop").unwrap(); 33];
        assert_eq!(record.check(), Err(PrincipalError::TooManyGroups { count: 33 }));
    }

    proptest! {
        #[test]
        fn any_text_is_itself_or_an_error(text in "(service|operator|system)/[a-z0-9-]{0,66}|\\PC{0,40}") {
            if let Ok(name) = PrincipalName::parse(&text) {
                prop_assert_eq!(name.to_string(), &text[..]);
                prop_assert!(name.kind() != PrincipalKind::System);
            }
            if let Ok(name) = PrincipalName::parse_stored(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
