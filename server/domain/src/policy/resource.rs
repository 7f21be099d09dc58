//! What an action is done to, with its one spelling for requests and audit entries.
//!
//! Invariant: `parse ∘ print = id`; a resource exists only with names that were checked. Whether it exists in
//! the vault is unknown here, so a refusal can't tell.

use std::fmt;
use std::str::FromStr;

use crate::id::{IdError, RecordId};
use crate::name::{Name, NameError, PolicyName};
use crate::path::{FolderPath, PathError, SecretPath};
use crate::principal::{PrincipalError, PrincipalName};

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// A secret, by its path.
    Secret(SecretPath),
    /// A folder, by its path.
    Folder(FolderPath),
    /// A role.
    Role(Name),
    /// A static role.
    StaticRole(Name),
    /// A target.
    Target(Name),
    /// A lease.
    Lease(RecordId),
    /// The record of a principal.
    Principal(PrincipalName),
    /// A policy.
    Policy(PolicyName),
    /// The audit log.
    Audit,
    /// The vault as a whole.
    System,
}

/// What kind of resource it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// A secret.
    Secret,
    /// A folder.
    Folder,
    /// A role.
    Role,
    /// A static role.
    StaticRole,
    /// A target.
    Target,
    /// A lease.
    Lease,
    /// The record of a principal.
    Principal,
    /// A policy.
    Policy,
    /// The audit log.
    Audit,
    /// The vault as a whole.
    System,
}

impl ResourceKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Secret,
        Self::Folder,
        Self::Role,
        Self::StaticRole,
        Self::Target,
        Self::Lease,
        Self::Principal,
        Self::Policy,
        Self::Audit,
        Self::System,
    ];

    /// The entity type in the schema, without its namespace.
    pub const fn entity_type(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::Folder => "Folder",
            Self::Role => "Role",
            Self::StaticRole => "StaticRole",
            Self::Target => "Target",
            Self::Lease => "Lease",
            Self::Principal => "Principal",
            Self::Policy => "Policy",
            Self::Audit => "Audit",
            Self::System => "System",
        }
    }
}

/// Why a text is not a resource.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// It begins with no known word.
    #[error(
        "resource: expected audit, system, or secret/, folder/, role/, static-role/, target/, lease/, principal/ or policy/ and a name"
    )]
    Kind,
    /// The path is wrong.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The name is wrong.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The principal is wrong.
    #[error(transparent)]
    Principal(#[from] PrincipalError),
    /// The lease id is wrong.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl Resource {
    /// Reads `secret/a/b`, `folder/a` (`folder/` is the root), `role/x`, `static-role/x`, `target/x`,
    /// `lease/<id>`, `principal/service/x`, `policy/x`, `audit` or `system`.
    pub fn parse(text: &str) -> Result<Self, ResourceError> {
        match text {
            "audit" => return Ok(Self::Audit),
            "system" => return Ok(Self::System),
            _ => {}
        }
        let (kind, rest) = text.split_once('/').ok_or(ResourceError::Kind)?;
        Ok(match kind {
            "secret" => Self::Secret(SecretPath::parse(rest)?),
            "folder" => Self::Folder(FolderPath::parse(rest)?),
            "role" => Self::Role(Name::parse_as("role", rest)?),
            "static-role" => Self::StaticRole(Name::parse_as("static role", rest)?),
            "target" => Self::Target(Name::parse_as("target", rest)?),
            "lease" => Self::Lease(rest.parse()?),
            "principal" => Self::Principal(PrincipalName::parse(rest)?),
            "policy" => Self::Policy(PolicyName::parse(rest)?),
            _ => return Err(ResourceError::Kind),
        })
    }

    /// What kind it is.
    pub const fn kind(&self) -> ResourceKind {
        match self {
            Self::Secret(_) => ResourceKind::Secret,
            Self::Folder(_) => ResourceKind::Folder,
            Self::Role(_) => ResourceKind::Role,
            Self::StaticRole(_) => ResourceKind::StaticRole,
            Self::Target(_) => ResourceKind::Target,
            Self::Lease(_) => ResourceKind::Lease,
            Self::Principal(_) => ResourceKind::Principal,
            Self::Policy(_) => ResourceKind::Policy,
            Self::Audit => ResourceKind::Audit,
            Self::System => ResourceKind::System,
        }
    }

    /// Reads the id of an entity as policies write it: the canonical name alone.
    pub(super) fn from_entity(kind: ResourceKind, id: &str) -> Result<Self, ResourceError> {
        Ok(match kind {
            ResourceKind::Secret => Self::Secret(SecretPath::parse(id)?),
            ResourceKind::Folder => Self::Folder(FolderPath::parse(id)?),
            ResourceKind::Role => Self::Role(Name::parse_as("role", id)?),
            ResourceKind::StaticRole => Self::StaticRole(Name::parse_as("static role", id)?),
            ResourceKind::Target => Self::Target(Name::parse_as("target", id)?),
            ResourceKind::Lease => Self::Lease(id.parse()?),
            ResourceKind::Principal => Self::Principal(PrincipalName::parse(id)?),
            ResourceKind::Policy => Self::Policy(PolicyName::parse(id)?),
            ResourceKind::Audit => Self::Audit,
            ResourceKind::System => Self::System,
        })
    }

    /// The id of the entity as policies write it.
    pub(super) fn entity_id(&self) -> String {
        match self {
            Self::Secret(path) => path.to_string(),
            Self::Folder(path) => path.to_string(),
            Self::Role(name) | Self::StaticRole(name) | Self::Target(name) => name.to_string(),
            Self::Lease(id) => id.to_string(),
            Self::Principal(name) => name.to_string(),
            Self::Policy(name) => name.to_string(),
            Self::Audit => "log".to_owned(),
            Self::System => "vault".to_owned(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(path) => write!(f, "secret/{path}"),
            Self::Folder(path) => write!(f, "folder/{path}"),
            Self::Role(name) => write!(f, "role/{name}"),
            Self::StaticRole(name) => write!(f, "static-role/{name}"),
            Self::Target(name) => write!(f, "target/{name}"),
            Self::Lease(id) => write!(f, "lease/{id}"),
            Self::Principal(name) => write!(f, "principal/{name}"),
            Self::Policy(name) => write!(f, "policy/{name}"),
            Self::Audit => f.write_str("audit"),
            Self::System => f.write_str("system"),
        }
    }
}

impl FromStr for Resource {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn resources_have_one_spelling() {
        let lease = format!("lease/{}", "0a".repeat(16));
        for good in [
            "secret/a/b",
            "folder/",
            "folder/a/b",
            "role/app",
            "target/main-db",
            &lease,
            "principal/service/x",
            "principal/operator/ada",
            "policy/shop",
            "audit",
            "system",
        ] {
            assert_eq!(Resource::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "secret",
            "secret/",
            "secret/a/",
            "secret//a",
            "Secret/a",
            "folder",
            "folder/a/",
            "role/",
            "role/App",
            "lease/1",
            "principal/x",
            "principal/system/rewrap",
            "policy/root",
            "audit/",
            "system/",
            "audit/log",
            "tree/a",
        ] {
            assert!(Resource::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_itself_or_an_error(
            text in "(secret|folder|role|target|lease|principal|policy|audit|system)/?[a-z/.]{0,20}",
        ) {
            if let Ok(resource) = Resource::parse(&text) {
                prop_assert_eq!(resource.to_string(), &text[..]);
                prop_assert_eq!(Resource::from_entity(resource.kind(), &resource.entity_id()), Ok(resource));
            }
        }
    }
}
