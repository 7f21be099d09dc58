//! A role as a file, TOML or JSON: read for `role put`, and written the same way by `role get`.
//!
//! Invariant: what is not known is an error, never left out in silence; an error names line and key. Whether names are good and
//! objects exist is the server's to say.

use std::fmt;
use std::path::Path;

use keystead_client::v1;
use keystead_client::v1::postgres_sequence_grant::Sequences;
use keystead_client::v1::postgres_table_grant::Tables;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::words::{Excess, Owned, SequencePrivilege, TablePrivilege};
use crate::args::span::Span;
use crate::error::CliError;
use crate::prompt;

/// Larger than any role that a server takes.
const MAX_FILE_BYTES: usize = 1 << 20;

/// A role without its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoleFile {
    target: String,
    default_ttl: Span,
    max_ttl: Span,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_live: Option<u32>,
    #[serde(default)]
    on_excess: Excess,
    postgres: Postgres,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Postgres {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    schemas: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    search_path: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statement_timeout: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connection_limit: Option<u16>,
    #[serde(default)]
    owned: Owned,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tables: Vec<TableGrant>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sequences: Vec<SequenceGrant>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    routines: Vec<RoutineGrant>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TableGrant {
    schema: String,
    tables: Objects,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    columns: Vec<String>,
    privileges: Vec<TablePrivilege>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    future_of: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SequenceGrant {
    schema: String,
    sequences: Objects,
    privileges: Vec<SequencePrivilege>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutineGrant {
    schema: String,
    name: String,
    #[serde(default)]
    arguments: String,
}

/// A list of names, or a pattern.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum Objects {
    Named(Vec<String>),
    Matching(String),
}

impl<'de> Deserialize<'de> for Objects {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Objects;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"a list of names, or one pattern such as "order_*""#)
            }

            fn visit_str<E: serde::de::Error>(self, pattern: &str) -> Result<Objects, E> {
                Ok(Objects::Matching(pattern.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Objects, A::Error> {
                let mut names = Vec::new();
                while let Some(name) = seq.next_element()? {
                    names.push(name);
                }
                Ok(Objects::Named(names))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl RoleFile {
    /// Reads a file; `-` is standard input. JSON begins with a brace, which no TOML does.
    pub(super) fn read(path: &Path) -> Result<Self, CliError> {
        let bytes = prompt::bytes("the role", path, MAX_FILE_BYTES)?;
        let text = str::from_utf8(&bytes).map_err(|_| CliError::NotText { what: "the role" })?;
        let origin =
            if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
        let read = if text.trim_start().starts_with('{') { from_json(text) } else { from_toml(text) };
        read.map_err(|Wrong { line, key, why }| CliError::RoleFile { origin, line, key, why })
    }

    /// As the file that `read` takes.
    pub(super) fn to_toml(&self) -> Result<String, CliError> {
        toml::to_string_pretty(self).map_err(CliError::Toml)
    }

    /// What it declares.
    pub(super) fn into_declared(self) -> v1::PostgresRole {
        self.postgres.into_wire()
    }

    /// For the wire.
    pub(super) fn into_wire(self, name: String, etag: String) -> v1::Role {
        v1::Role {
            name,
            target: self.target,
            declaration: Some(v1::role::Declaration::Postgres(self.postgres.into_wire())),
            default_ttl: Some(self.default_ttl.to_wire()),
            max_ttl: Some(self.max_ttl.to_wire()),
            max_live: self.max_live.unwrap_or_default(),
            on_excess: self.on_excess.0.into(),
            create_time: None,
            update_time: None,
            etag,
        }
    }

    /// Off the wire.
    pub(super) fn from_wire(role: &v1::Role) -> Result<Self, CliError> {
        let Some(v1::role::Declaration::Postgres(postgres)) = &role.declaration else {
            return Err(CliError::UnknownKind { what: "role", name: role.name.clone() });
        };
        Ok(Self {
            target: role.target.clone(),
            default_ttl: Span::from_wire(role.default_ttl.as_ref()),
            max_ttl: Span::from_wire(role.max_ttl.as_ref()),
            max_live: Some(role.max_live),
            on_excess: Excess::from_wire(role.on_excess).unwrap_or_default(),
            postgres: Postgres::from_wire(postgres)
                .ok_or_else(|| CliError::UnknownKind { what: "role", name: role.name.clone() })?,
        })
    }
}

/// Where a file is wrong, and why.
struct Wrong {
    line: usize,
    key: String,
    why: String,
}

fn from_toml(text: &str) -> Result<RoleFile, Wrong> {
    let wrong = |error: &toml::de::Error, key: String| {
        let start = error.span().map_or(0, |span| span.start);
        let before = text.get(..start).unwrap_or_default();
        let line = before.matches('\n').count().saturating_add(1);
        Wrong { line, key, why: error.message().to_owned() }
    };
    let document = toml::Deserializer::parse(text).map_err(|error| wrong(&error, String::new()))?;
    serde_path_to_error::deserialize(document).map_err(|error| wrong(error.inner(), key(error.path())))
}

fn from_json(text: &str) -> Result<RoleFile, Wrong> {
    let mut document = serde_json::Deserializer::from_str(text);
    let wrong = |error: &serde_json::Error, key: String| {
        let why = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        Wrong { line: error.line(), key, why: why.strip_suffix(&place).unwrap_or(&why).to_owned() }
    };
    let role = serde_path_to_error::deserialize(&mut document)
        .map_err(|error| wrong(error.inner(), key(error.path())))?;
    document.end().map_err(|error| wrong(&error, String::new()))?;
    Ok(role)
}

/// The key, such as `postgres.tables[1].privileges[0]`; nothing at the top.
fn key(path: &serde_path_to_error::Path) -> String {
    let key = path.to_string();
    if key == "." { String::new() } else { key }
}

impl Postgres {
    fn into_wire(self) -> v1::PostgresRole {
        let table = |grant: TableGrant| v1::PostgresTableGrant {
            schema: grant.schema,
            tables: Some(match grant.tables {
                Objects::Named(names) => Tables::Named(v1::PostgresNames { names }),
                Objects::Matching(pattern) => Tables::Matching(pattern),
            }),
            columns: grant.columns,
            privileges: grant.privileges.into_iter().map(|word| word.0.into()).collect(),
            future_of: grant.future_of.unwrap_or_default(),
        };
        let sequence = |grant: SequenceGrant| v1::PostgresSequenceGrant {
            schema: grant.schema,
            sequences: Some(match grant.sequences {
                Objects::Named(names) => Sequences::Named(v1::PostgresNames { names }),
                Objects::Matching(pattern) => Sequences::Matching(pattern),
            }),
            privileges: grant.privileges.into_iter().map(|word| word.0.into()).collect(),
        };
        let routine = |grant: RoutineGrant| v1::PostgresRoutineGrant {
            schema: grant.schema,
            name: grant.name,
            arguments: grant.arguments,
        };
        v1::PostgresRole {
            schemas: self.schemas,
            tables: self.tables.into_iter().map(table).collect(),
            sequences: self.sequences.into_iter().map(sequence).collect(),
            routines: self.routines.into_iter().map(routine).collect(),
            search_path: self.search_path,
            statement_timeout: self.statement_timeout.map(Span::to_wire),
            connection_limit: self.connection_limit.map(u32::from).unwrap_or_default(),
            owned: self.owned.0.into(),
        }
    }

    /// Nothing if it has what this program does not know.
    fn from_wire(role: &v1::PostgresRole) -> Option<Self> {
        let table = |grant: &v1::PostgresTableGrant| {
            Some(TableGrant {
                schema: grant.schema.clone(),
                tables: match grant.tables.as_ref()? {
                    Tables::Named(names) => Objects::Named(names.names.clone()),
                    Tables::Matching(pattern) => Objects::Matching(pattern.clone()),
                },
                columns: grant.columns.clone(),
                privileges: all(&grant.privileges, |number| TablePrivilege::from_wire(*number))?,
                future_of: Some(grant.future_of.clone()).filter(|owner| !owner.is_empty()),
            })
        };
        let sequence = |grant: &v1::PostgresSequenceGrant| {
            Some(SequenceGrant {
                schema: grant.schema.clone(),
                sequences: match grant.sequences.as_ref()? {
                    Sequences::Named(names) => Objects::Named(names.names.clone()),
                    Sequences::Matching(pattern) => Objects::Matching(pattern.clone()),
                },
                privileges: all(&grant.privileges, |number| SequencePrivilege::from_wire(*number))?,
            })
        };
        let routine = |grant: &v1::PostgresRoutineGrant| RoutineGrant {
            schema: grant.schema.clone(),
            name: grant.name.clone(),
            arguments: grant.arguments.clone(),
        };
        Some(Self {
            schemas: role.schemas.clone(),
            search_path: role.search_path.clone(),
            statement_timeout: role.statement_timeout.as_ref().map(|span| Span::from_wire(Some(span))),
            connection_limit: u16::try_from(role.connection_limit).ok().filter(|limit| *limit != 0),
            owned: Owned::from_wire(role.owned)?,
            tables: all(&role.tables, table)?,
            sequences: all(&role.sequences, sequence)?,
            routines: role.routines.iter().map(routine).collect(),
        })
    }
}

fn all<A, B>(from: &[A], to: impl Fn(&A) -> Option<B>) -> Option<Vec<B>> {
    from.iter().map(to).collect()
}

#[cfg(test)]
mod tests;
