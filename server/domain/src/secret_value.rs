//! What a secret's value may look like from outside: its greatest size and the names of its fields.
//!
//! Invariant: the value itself never appears in this crate; sealing it is `keystead-crypto`'s, moving it
//! `keystead-core`'s.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{NameError, NameProblem, text_conversions};

/// The most bytes one version of a secret may have, all fields and their names together.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// The most fields one version of a secret may have.
pub const MAX_FIELDS: usize = 128;
/// The most bytes a field's name may have.
pub const MAX_FIELD_NAME: usize = 64;

/// The name of one field of a secret: `[A-Za-z0-9_][A-Za-z0-9._-]{0,63}`, case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(Box<str>);

impl FieldName {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text).map_err(|problem| NameError { what: "field name", problem })?;
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

text_conversions!(FieldName);

fn check(text: &str) -> Result<(), NameProblem> {
    if text.is_empty() {
        return Err(NameProblem::Empty);
    }
    if text.len() > MAX_FIELD_NAME {
        return Err(NameProblem::TooLong { length: text.len(), limit: MAX_FIELD_NAME });
    }
    for (position, found) in text.char_indices() {
        let first = found.is_ascii_alphanumeric() || found == '_';
        if !first && (position == 0 || !matches!(found, '.' | '-')) {
            let allowed = if position == 0 { "A-Z a-z 0-9 _" } else { "A-Z a-z 0-9 _ . -" };
            return Err(NameProblem::Character { position, found, allowed });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn field_names_are_plain() {
        for good in ["password", "DB_URL", "tls.crt", "_x", "0"] {
            assert_eq!(FieldName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".x", "-x", "a b", "a/b", "ä", "a=b", &"a".repeat(65)] {
            assert!(FieldName::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_itself_or_an_error(text in "\\PC{0,70}") {
            if let Ok(name) = FieldName::parse(&text) {
                prop_assert_eq!(name.as_str(), &text);
            }
        }
    }
}
