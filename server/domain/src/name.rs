//! Names of roles, targets, nodes, groups, policies and tenants: `[a-z0-9][a-z0-9-]{0,62}`.
//!
//! Invariant: a value exists only in its one canonical spelling; nothing is trimmed, folded or decoded, so
//! two names are equal exactly when their bytes are. Names with a meaning of their own are refused where
//! somebody could take them ([`RESERVED`]), also when read back from the store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most bytes a name may have.
pub const MAX_NAME: usize = 63;

/// Names nobody may give to a principal, a group, a policy or a tenant, because some part of a vault
/// (this one, or the one the reader comes from) gives them a meaning.
pub const RESERVED: [&str; 10] =
    ["all", "any", "anonymous", "bootstrap", "default", "everyone", "keystead", "none", "root", "system"];

/// Why a text is not a name; `what` says of which kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct NameError {
    /// Which name was expected.
    pub what: &'static str,
    /// What is wrong with it.
    pub problem: NameProblem,
}

/// What is wrong with a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// No bytes at all.
    #[error("is empty")]
    Empty,
    /// More bytes than allowed.
    #[error("has {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// How long it was.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A character outside the alphabet.
    #[error("byte {position} is '{}', not one of {allowed}", .found.escape_default())]
    Character {
        /// Where, in bytes counted from 0.
        position: usize,
        /// The character found there.
        found: char,
        /// The characters allowed there.
        allowed: &'static str,
    },
    /// One of [`RESERVED`].
    #[error("'{name}' is reserved")]
    Reserved {
        /// The reserved name.
        name: &'static str,
    },
}

/// A plain name: of a role or a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

impl Name {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Self::parse_as("name", text)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn parse_as(what: &'static str, text: &str) -> Result<Self, NameError> {
        check(text).map_err(|problem| NameError { what, problem })?;
        Ok(Self(text.into()))
    }

    /// A name written in this crate's own code.
    pub(crate) fn built_in(text: &'static str) -> Self {
        debug_assert!(check(text).is_ok(), "{text}");
        Self(text.into())
    }

    pub(crate) fn parse_unreserved(what: &'static str, text: &str) -> Result<Self, NameError> {
        match RESERVED.into_iter().find(|reserved| *reserved == text) {
            Some(name) => Err(NameError { what, problem: NameProblem::Reserved { name } }),
            None => Self::parse_as(what, text),
        }
    }
}

fn check(text: &str) -> Result<(), NameProblem> {
    if text.is_empty() {
        return Err(NameProblem::Empty);
    }
    if text.len() > MAX_NAME {
        return Err(NameProblem::TooLong { length: text.len(), limit: MAX_NAME });
    }
    for (position, found) in text.char_indices() {
        let plain = found.is_ascii_lowercase() || found.is_ascii_digit();
        if !plain && (position == 0 || found != '-') {
            let allowed = if position == 0 { "a-z 0-9" } else { "a-z 0-9 -" };
            return Err(NameProblem::Character { position, found, allowed });
        }
    }
    Ok(())
}

macro_rules! text_conversions {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }
    };
}
pub(crate) use text_conversions;

macro_rules! name_of {
    ($(#[$doc:meta])* $name:ident, $what:literal, $parse:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Name);

        impl $name {
            /// Checks a text.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                Name::$parse($what, text).map(Self)
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        text_conversions!($name);
    };
}

text_conversions!(Name);
name_of!(
    /// One server process of a vault.
    NodeName,
    "node name",
    parse_as
);
name_of!(
    /// A group that principals are members of.
    GroupName,
    "group name",
    parse_unreserved
);
name_of!(
    /// A stored policy document.
    PolicyName,
    "policy name",
    parse_unreserved
);

/// The tenant a record belongs to. Only `default` exists yet; every key, AAD and resource has the place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(Name);

impl TenantName {
    const DEFAULT: &str = "default";

    /// Checks a text. `default` is the built-in tenant; the other reserved names are refused.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text == Self::DEFAULT {
            return Ok(Self::default());
        }
        Name::parse_unreserved("tenant name", text).map(Self)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Default for TenantName {
    fn default() -> Self {
        Self(Name::built_in(Self::DEFAULT))
    }
}

text_conversions!(TenantName);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_error_says_where_and_why() {
        assert_eq!(Name::parse("").unwrap_err().to_string(), "name: is empty");
        assert_eq!(
            GroupName::parse("-ops").unwrap_err().to_string(),
            "group name: byte 0 is '-', not one of a-z 0-9"
        );
        assert_eq!(
            PolicyName::parse("ops\u{1b}[2J").unwrap_err().to_string(),
            "policy name: byte 3 is '\\u{1b}', not one of a-z 0-9 -"
        );
        assert_eq!(
            Name::parse(&"a".repeat(64)).unwrap_err().problem,
            NameProblem::TooLong { length: 64, limit: 63 }
        );
        assert!(Name::parse(&"a".repeat(63)).is_ok());
    }

    #[test]
    fn every_spelling_of_a_reserved_name_is_refused() {
        for word in RESERVED {
            let upper = word.to_uppercase();
            let wide: String =
                word.bytes().map(|b| char::from_u32(0xFF00 + u32::from(b) - 0x20).unwrap()).collect();
            let mut spellings = vec![word.to_owned(), upper, wide, word.replacen('o', "ο", 1) + "\u{301}"];
            for glue in [" ", "\t", "\n", "\u{a0}", "\u{200b}", "\u{feff}", "\0", "/", ".", "\u{301}"] {
                spellings.push(format!("{word}{glue}"));
                spellings.push(format!("{glue}{word}"));
            }
            for spelling in spellings {
                assert!(GroupName::parse(&spelling).is_err(), "group {spelling:?}");
                assert!(PolicyName::parse(&spelling).is_err(), "policy {spelling:?}");
                if word != "default" || spelling != word {
                    assert!(TenantName::parse(&spelling).is_err(), "tenant {spelling:?}");
                }
            }
        }
    }

    #[test]
    fn a_reserved_name_in_the_store_is_refused_too() {
        let stored = postcard::to_stdvec("root").unwrap();
        assert!(postcard::from_bytes::<GroupName>(&stored).is_err());
        assert!(postcard::from_bytes::<Name>(&stored).is_ok());
        assert_eq!(TenantName::parse("default").unwrap(), TenantName::default());
    }

    proptest! {
        #[test]
        fn names_print_as_they_parse(text in "[a-z0-9][a-z0-9-]{0,62}") {
            let name = Name::parse(&text).unwrap();
            prop_assert_eq!(name.to_string(), &text[..]);
            let stored = postcard::to_stdvec(&name).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Name>(&stored).unwrap(), name);
        }

        #[test]
        fn any_text_is_itself_or_an_error(text in "\\PC{0,70}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(name.as_str(), &text);
            }
        }
    }
}
