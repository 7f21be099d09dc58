//! What a role's logins may do in a PostgreSQL database.
//!
//! Invariant: names are checked identifiers of any bytes that PostgreSQL takes; they become SQL only by quoting, in the engine.

mod check;

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

pub use self::check::{DeclarationError, DeclarationProblem, MAX_ARGUMENTS, MAX_NAMES};

/// Bytes of a PostgreSQL identifier (NAMEDATALEN - 1).
pub const MAX_IDENTIFIER: usize = 63;
/// Grants that a role may have.
pub const MAX_GRANTS: usize = 256;
/// Seconds that a statement may be told to run at most.
pub const MAX_STATEMENT_TIMEOUT: u32 = 24 * 60 * 60;

/// A PostgreSQL identifier: 1 to [`MAX_IDENTIFIER`] bytes without NUL. Case and spaces count; it is always quoted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PgName(Box<str>);

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PgNameError {
    /// No bytes at all.
    #[error("is empty")]
    Empty,
    /// More bytes than PostgreSQL keeps: it would cut them off, and name something else.
    #[error("has {length} bytes; PostgreSQL keeps {MAX_IDENTIFIER}")]
    TooLong {
        /// How long it was.
        length: usize,
    },
    /// A byte that no identifier may have.
    #[error("has a NUL byte")]
    Nul,
}

impl PgName {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, PgNameError> {
        match text.len() {
            0 => Err(PgNameError::Empty),
            length if length > MAX_IDENTIFIER => Err(PgNameError::TooLong { length }),
            _ if text.contains('\0') => Err(PgNameError::Nul),
            _ => Ok(Self(text.into())),
        }
    }

    /// The text, unquoted.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As SQL and people see it: in double quotes, each inner one doubled (PostgreSQL 4.1.1).
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0.replace('"', "\"\""))
    }
}

impl fmt::Display for PgName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.quoted())
    }
}

impl TryFrom<String> for PgName {
    type Error = PgNameError;

    fn try_from(text: String) -> Result<Self, PgNameError> {
        Self::parse(&text)
    }
}

impl From<PgName> for String {
    fn from(name: PgName) -> Self {
        name.0.into()
    }
}

macro_rules! privileges {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $(#[doc = concat!("`", $word, "`")] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The SQL key word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Reads the key word.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|privilege| privilege.as_str() == word)
            }
        }
    };
}

privileges! {
    /// What may be done with a table or view. On columns only the first three and `REFERENCES` exist.
    TablePrivilege {
        Select = "SELECT",
        Insert = "INSERT",
        Update = "UPDATE",
        Delete = "DELETE",
        Truncate = "TRUNCATE",
        References = "REFERENCES",
        Trigger = "TRIGGER",
    }
}

impl TablePrivilege {
    /// Whether it exists on columns too.
    pub const fn is_of_columns(self) -> bool {
        matches!(self, Self::Select | Self::Insert | Self::Update | Self::References)
    }
}

privileges! {
    /// What may be done with a sequence.
    SequencePrivilege {
        Usage = "USAGE",
        Select = "SELECT",
        Update = "UPDATE",
    }
}

/// Which objects of a schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Objects {
    /// These.
    Named(Vec<PgName>),
    /// Those whose names match: `*` stands for any characters, everything else for itself. Looked up when the role is
    /// defined and whenever it is read back.
    Matching(String),
}

/// Privileges on tables or views of one schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableGrant {
    /// The schema.
    pub schema: PgName,
    /// The tables.
    pub tables: Objects,
    /// Only these columns; none named means the whole table.
    pub columns: Vec<PgName>,
    /// What.
    pub privileges: Vec<TablePrivilege>,
    /// Whether tables that their owner makes later are meant as well, of this owner: given when the next login is made.
    pub future_of: Option<PgName>,
}

/// Privileges on sequences of one schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceGrant {
    /// The schema.
    pub schema: PgName,
    /// The sequences.
    pub sequences: Objects,
    /// What.
    pub privileges: Vec<SequencePrivilege>,
}

/// `EXECUTE` on one function or procedure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutineGrant {
    /// The schema.
    pub schema: PgName,
    /// Its name.
    pub name: PgName,
    /// The types of its arguments as PostgreSQL writes them (`pg_get_function_identity_arguments`), to tell overloads apart.
    pub arguments: String,
}

/// What becomes of objects that a login made, when it is removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Owned {
    /// They are dropped with it.
    #[default]
    Drop,
    /// They go to the role's group, which outlives every login.
    ReassignToGroup,
}

/// What a role's logins may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PostgresRole {
    /// Schemas that may be looked into (`USAGE`). A grant within a schema does not imply it.
    pub schemas: Vec<PgName>,
    /// Tables and views.
    pub tables: Vec<TableGrant>,
    /// Sequences.
    pub sequences: Vec<SequenceGrant>,
    /// Functions and procedures.
    pub routines: Vec<RoutineGrant>,
    /// Schemas that are searched for unqualified names; none means PostgreSQL's default.
    pub search_path: Vec<PgName>,
    /// Seconds that a statement may run (`statement_timeout`); nothing means the database's own.
    pub statement_timeout: Option<u32>,
    /// Sessions that one login may have open.
    pub connection_limit: Option<NonZeroU16>,
    /// What becomes of objects that a login made.
    pub owned: Owned,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_identifier_has_the_bytes_that_postgresql_keeps() {
        assert_eq!(PgName::parse(""), Err(PgNameError::Empty));
        assert_eq!(PgName::parse(&"é".repeat(32)), Err(PgNameError::TooLong { length: 64 }));
        assert_eq!(PgName::parse("a\0b"), Err(PgNameError::Nul));
        assert_eq!(PgName::parse(r#"or"ders; --"#).unwrap().quoted(), r#""or""ders; --""#);
    }

    #[test]
    fn key_words_read_as_they_print() {
        for privilege in TablePrivilege::ALL {
            assert_eq!(TablePrivilege::parse(privilege.as_str()), Some(*privilege));
        }
        assert_eq!(TablePrivilege::parse("select"), None);
        assert_eq!(SequencePrivilege::parse("USAGE"), Some(SequencePrivilege::Usage));
    }

    proptest! {
        #[test]
        fn a_quoted_name_has_no_quote_that_ends_it_early(text in "[^\0]{1,20}") {
            prop_assume!(text.len() <= MAX_IDENTIFIER);
            let quoted = PgName::parse(&text).unwrap().quoted();
            let inner = &quoted[1..quoted.len() - 1];
            prop_assert_eq!(inner.replace("\"\"", "\u{0}").matches('"').count(), 0);
            prop_assert_eq!(inner.replace("\"\"", "\""), text);
        }
    }
}
