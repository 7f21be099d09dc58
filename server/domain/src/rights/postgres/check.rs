//! Whether a declaration says one thing, and says it once.
//!
//! Invariant: what passes has no empty list that narrows a right, nothing twice, and no privilege where PostgreSQL has none.
//! Whether the objects exist is the target's to say.

use std::collections::BTreeSet;
use std::fmt;

use super::{
    MAX_GRANTS, MAX_IDENTIFIER, MAX_STATEMENT_TIMEOUT, Objects, PgName, PostgresRole, RoutineGrant,
    SequenceGrant, TableGrant, TablePrivilege,
};

/// Names that one list may have.
pub const MAX_NAMES: usize = 256;
/// Bytes that the types of a routine's arguments may have.
pub const MAX_ARGUMENTS: usize = 2048;

/// Why a declaration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{entry}: {problem}")]
pub struct DeclarationError {
    /// Where: `tables[2]`.
    pub entry: String,
    /// What.
    pub problem: DeclarationProblem,
}

/// What is wrong with an entry of a declaration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclarationProblem {
    /// An empty list would be nothing, or be taken for everything.
    #[error("{what}: none named; leave the entry out, or name some")]
    Empty {
        /// Which list.
        what: &'static str,
    },
    /// The same right twice.
    #[error("{what} is declared twice")]
    Twice {
        /// What.
        what: String,
    },
    /// More than can be managed.
    #[error("{what}: {count}, at most {limit}")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A privilege that columns do not have.
    #[error("{} is no privilege of columns; those are SELECT, INSERT, UPDATE and REFERENCES", .privilege.as_str())]
    NotOfColumns {
        /// Which.
        privilege: TablePrivilege,
    },
    /// Columns of tables that are not named.
    #[error("columns go with tables that are named, not with a pattern")]
    ColumnsOfPattern,
    /// Future tables are all of a schema.
    #[error(
        "tables to come cannot be told by name or column: they go with the pattern * and without columns"
    )]
    FutureOfSome,
    /// A pattern that nothing fits.
    #[error("pattern: expected 1 to {MAX_IDENTIFIER} bytes without NUL")]
    Pattern,
    /// Types that PostgreSQL would write otherwise.
    #[error(
        "arguments: expected the types as pg_get_function_identity_arguments writes them, in up to {MAX_ARGUMENTS} bytes"
    )]
    Arguments,
    /// A time that is none, or too long.
    #[error("statement_timeout: {seconds} s, expected 1 to {MAX_STATEMENT_TIMEOUT}")]
    Timeout {
        /// What was asked for.
        seconds: u32,
    },
}

use DeclarationProblem::{
    Arguments, ColumnsOfPattern, Empty, FutureOfSome, NotOfColumns, Pattern, Timeout, TooMany, Twice,
};

impl PostgresRole {
    /// Checks everything that can be said without the database.
    pub fn check(&self) -> Result<(), DeclarationError> {
        let count = self.schemas.len() + self.tables.len() + self.sequences.len() + self.routines.len();
        at("grants", within("grants", count, MAX_GRANTS))?;
        at("schemas", once(&self.schemas))?;
        at("search_path", within("schemas", self.search_path.len(), MAX_NAMES))?;
        at("search_path", once(&self.search_path))?;
        let mut said = BTreeSet::new();
        for (index, grant) in self.tables.iter().enumerate() {
            at(&format!("tables[{index}]"), table(grant, &mut said))?;
        }
        for (index, grant) in self.sequences.iter().enumerate() {
            at(&format!("sequences[{index}]"), sequence(grant, &mut said))?;
        }
        for (index, grant) in self.routines.iter().enumerate() {
            at(&format!("routines[{index}]"), routine(grant, &mut said))?;
        }
        match self.statement_timeout {
            Some(seconds) if seconds == 0 || seconds > MAX_STATEMENT_TIMEOUT => {
                at("statement_timeout", Err(Timeout { seconds }))
            }
            _ => Ok(()),
        }
    }
}

type Checked = Result<(), DeclarationProblem>;
type Said = BTreeSet<String>;

fn at(entry: &str, checked: Checked) -> Result<(), DeclarationError> {
    checked.map_err(|problem| DeclarationError { entry: entry.to_owned(), problem })
}

fn table(grant: &TableGrant, said: &mut Said) -> Checked {
    objects("tables", &grant.tables)?;
    if grant.privileges.is_empty() {
        return Err(Empty { what: "privileges" });
    }
    within("columns", grant.columns.len(), MAX_NAMES)?;
    once(&grant.columns)?;
    let pattern = match &grant.tables {
        Objects::Named(_) => None,
        Objects::Matching(pattern) => Some(pattern.as_str()),
    };
    if !grant.columns.is_empty() {
        if pattern.is_some() {
            return Err(ColumnsOfPattern);
        }
        if let Some(privilege) = grant.privileges.iter().find(|privilege| !privilege.is_of_columns()) {
            return Err(NotOfColumns { privilege: *privilege });
        }
    }
    if grant.future_of.is_some() && (pattern != Some("*") || !grant.columns.is_empty()) {
        return Err(FutureOfSome);
    }
    for privilege in &grant.privileges {
        for name in spelled(&grant.tables) {
            let of = format!("{} on {}.{name}", privilege.as_str(), grant.schema);
            if grant.columns.is_empty() {
                new(said, of)?;
            } else {
                grant.columns.iter().try_for_each(|column| new(said, format!("{of}.{column}")))?;
            }
        }
    }
    Ok(())
}

fn sequence(grant: &SequenceGrant, said: &mut Said) -> Checked {
    objects("sequences", &grant.sequences)?;
    if grant.privileges.is_empty() {
        return Err(Empty { what: "privileges" });
    }
    for privilege in &grant.privileges {
        for name in spelled(&grant.sequences) {
            new(said, format!("{} on sequence {}.{name}", privilege.as_str(), grant.schema))?;
        }
    }
    Ok(())
}

fn routine(grant: &RoutineGrant, said: &mut Said) -> Checked {
    if !are_types(&grant.arguments) {
        return Err(Arguments);
    }
    new(said, format!("EXECUTE on {}.{}({})", grant.schema, grant.name, grant.arguments))
}

fn objects(what: &'static str, objects: &Objects) -> Checked {
    match objects {
        Objects::Named(names) if names.is_empty() => Err(Empty { what }),
        Objects::Named(names) => within(what, names.len(), MAX_NAMES),
        Objects::Matching(pattern)
            if pattern.is_empty() || pattern.len() > MAX_IDENTIFIER || pattern.contains('\0') =>
        {
            Err(Pattern)
        }
        Objects::Matching(_) => Ok(()),
    }
}

fn spelled(objects: &Objects) -> Vec<String> {
    match objects {
        Objects::Named(names) => names.iter().map(PgName::quoted).collect(),
        Objects::Matching(pattern) => vec![format!("matching {pattern}")],
    }
}

/// Type names in a row: words, dots, brackets and commas, or anything in closed double quotes. People are shown this in
/// statements to paste.
fn are_types(text: &str) -> bool {
    let mut quoted = false;
    let plain = text.chars().all(|character| {
        if character == '"' {
            quoted = !quoted;
        }
        let word = character.is_ascii_alphanumeric() || " _,.[]\"".contains(character);
        word || (quoted && !character.is_control())
    });
    plain && !quoted && text.len() <= MAX_ARGUMENTS
}

fn within(what: &'static str, count: usize, limit: usize) -> Checked {
    if count > limit { Err(TooMany { what, count, limit }) } else { Ok(()) }
}

fn once<T: Ord + fmt::Display>(list: &[T]) -> Checked {
    let mut seen = BTreeSet::new();
    match list.iter().find(|entry| !seen.insert(*entry)) {
        Some(entry) => Err(Twice { what: entry.to_string() }),
        None => Ok(()),
    }
}

fn new(said: &mut Said, what: String) -> Checked {
    if said.insert(what.clone()) { Ok(()) } else { Err(Twice { what }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rights::postgres::SequencePrivilege;

    fn name(text: &str) -> PgName {
        PgName::parse(text).unwrap()
    }

    fn grant(tables: Objects, columns: &[&str], privileges: &[TablePrivilege]) -> TableGrant {
        TableGrant {
            schema: name("shop"),
            tables,
            columns: columns.iter().map(|column| name(column)).collect(),
            privileges: privileges.to_vec(),
            future_of: None,
        }
    }

    fn named(tables: &[&str]) -> Objects {
        Objects::Named(tables.iter().map(|table| name(table)).collect())
    }

    fn problem(tables: Vec<TableGrant>) -> DeclarationProblem {
        PostgresRole { tables, ..PostgresRole::default() }.check().unwrap_err().problem
    }

    const SELECT: TablePrivilege = TablePrivilege::Select;

    #[test]
    fn an_error_names_the_entry() {
        let tables = vec![grant(named(&["a"]), &[], &[SELECT]), grant(named(&["b"]), &[], &[])];
        let error = PostgresRole { tables, ..PostgresRole::default() }.check().unwrap_err();
        assert_eq!(error.to_string(), "tables[1]: privileges: none named; leave the entry out, or name some");
    }

    #[test]
    fn empty_lists_are_no_grants() {
        assert_eq!(problem(vec![grant(named(&[]), &[], &[SELECT])]), Empty { what: "tables" });
        assert_eq!(problem(vec![grant(Objects::Matching(String::new()), &[], &[SELECT])]), Pattern);
        let sequence = SequenceGrant { schema: name("s"), sequences: named(&["q"]), privileges: Vec::new() };
        let role = PostgresRole { sequences: vec![sequence], ..PostgresRole::default() };
        assert_eq!(role.check().unwrap_err().problem, Empty { what: "privileges" });
        assert_eq!(PostgresRole::default().check(), Ok(()), "a role without rights is one");
    }

    #[test]
    fn columns_have_fewer_privileges_and_go_with_names() {
        let delete = TablePrivilege::Delete;
        assert_eq!(
            problem(vec![grant(named(&["t"]), &["c"], &[SELECT, delete])]),
            NotOfColumns { privilege: delete }
        );
        assert_eq!(problem(vec![grant(Objects::Matching("*".into()), &["c"], &[SELECT])]), ColumnsOfPattern);
    }

    #[test]
    fn tables_to_come_are_all_of_a_schema() {
        for tables in [named(&["t"]), Objects::Matching("t*".into())] {
            let mut grant = grant(tables, &[], &[SELECT]);
            grant.future_of = Some(name("app"));
            assert_eq!(problem(vec![grant]), FutureOfSome);
        }
        let mut grant = grant(Objects::Matching("*".into()), &[], &[SELECT]);
        grant.future_of = Some(name("app"));
        assert_eq!(PostgresRole { tables: vec![grant], ..PostgresRole::default() }.check(), Ok(()));
    }

    #[test]
    fn arguments_are_types_and_nothing_that_ends_a_statement() {
        for good in ["", "integer, text[]", "timestamp with time zone", r#"shop."odd;(name""#, "public.t"] {
            assert!(are_types(good), "{good}");
        }
        for wrong in ["integer); DROP TABLE t", "a;b", "\"open", "'x'", "a--b", "a\nb", "\"a\nb\""] {
            assert!(!are_types(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_timeout_of_nothing_would_be_none() {
        for seconds in [0, MAX_STATEMENT_TIMEOUT + 1] {
            let role = PostgresRole { statement_timeout: Some(seconds), ..PostgresRole::default() };
            assert_eq!(role.check().unwrap_err().problem, Timeout { seconds });
        }
    }

    proptest! {
        #[test]
        fn said_twice_is_refused_wherever_it_stands(
            tables in prop::collection::btree_set("[a-z]{1,4}", 2..6), again: prop::sample::Index, as_sequence: bool,
        ) {
            let all: Vec<&str> = tables.iter().map(String::as_str).collect();
            let twice = [*again.get(&all)];
            let role = |extra: &[&str]| match as_sequence {
                false => PostgresRole {
                    tables: [&all[..], extra].into_iter().filter(|list| !list.is_empty())
                        .map(|list| grant(named(list), &[], &[SELECT])).collect(),
                    ..PostgresRole::default()
                },
                true => PostgresRole {
                    sequences: [&all[..], extra].into_iter().filter(|list| !list.is_empty()).map(|list| SequenceGrant {
                        schema: name("shop"), sequences: named(list), privileges: vec![SequencePrivilege::Usage],
                    }).collect(),
                    ..PostgresRole::default()
                },
            };
            prop_assert_eq!(role(&[]).check(), Ok(()));
            let found = role(&twice).check().unwrap_err().problem;
            let is_twice = matches!(found, Twice { .. });
            prop_assert!(is_twice);
        }
    }
}
