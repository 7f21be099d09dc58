//! Reads the TOML file and the overrides into values, each with its origin. Invariant: what comes out is known, of
//! the right kind and within bounds; every error names where it stands, the key, and what is allowed.
//!
//! Absent on purpose: the values themselves in errors; an operator who pastes a secret in the wrong place does not
//! find it in the log.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::ConfigError;
use super::keys::{self, FURTHER, Key, Kind, OPERATORS, Preset, Value};
use crate::env::OVERRIDE_PREFIX;

/// Where a value or an error stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In the file.
    File {
        /// The file.
        path: PathBuf,
        /// Counts from 1.
        line: usize,
        /// Counts from 1, in characters.
        column: usize,
    },
    /// In the environment.
    Variable(String),
    /// Nowhere: the preset.
    Preset,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Preset => f.write_str("preset"),
        }
    }
}

/// Values of one table, by key name.
pub(super) type Table = BTreeMap<&'static str, (Value, Origin)>;

/// Everything that was read.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// Single tables, by section.
    pub(super) sections: BTreeMap<&'static str, Table>,
    /// One a `[[operators]]`, with the place of its header.
    pub(super) operators: Vec<(Table, Origin)>,
    /// One a `[[hsm.further]]`, with the place of its header.
    pub(super) further: Vec<(Table, Origin)>,
}

/// Reads a file's text and the overrides.
pub(super) fn read(path: &Path, text: &str, overrides: &[(String, OsString)]) -> Result<Source, ConfigError> {
    let file = File { path, text };
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        at: file.origin(error.span().map_or(0, |span| span.start)),
        message: error.message().to_owned(),
    })?;
    let mut source = Source::default();
    for (name, value) in document.get_ref() {
        let at = file.origin(name.span().start);
        let heads = |section: &&str| section == name.get_ref() && *section != FURTHER;
        let section = keys::sections().into_iter().find(heads);
        let Some(section) = section else {
            let allowed = keys::sections().join(", ");
            return Err(ConfigError::UnknownSection { at, section: name.get_ref().to_string(), allowed });
        };
        if section == OPERATORS {
            source.operators = file.list(OPERATORS, value)?;
        } else {
            if let (HSM, DeValue::Table(entries)) = (section, value.get_ref())
                && let Some((_, value)) = entries.iter().find(|(name, _)| is_further(section, name.get_ref()))
            {
                source.further = file.list(FURTHER, value)?;
            }
            let table = file.table(section, value)?;
            source.sections.insert(section, table);
        }
    }
    for (variable, value) in overrides {
        let (key, value) = read_override(variable, value)?;
        let origin = Origin::Variable(variable.clone());
        source.sections.entry(key.section).or_default().insert(key.name, (value, origin));
    }
    source.fill_presets(path)?;
    Ok(source)
}

impl Source {
    fn fill_presets(&mut self, path: &Path) -> Result<(), ConfigError> {
        for key in keys::KEYS {
            if keys::is_list(key.section) {
                let tables = if key.section == OPERATORS { &mut self.operators } else { &mut self.further };
                for (table, origin) in tables {
                    fill_preset(table, key, &origin.to_string())?;
                }
            } else {
                fill_preset(self.sections.entry(key.section).or_default(), key, &path.display().to_string())?;
            }
        }
        Ok(())
    }
}

fn fill_preset(table: &mut Table, key: &'static Key, within: &str) -> Result<(), ConfigError> {
    if table.contains_key(key.name) {
        return Ok(());
    }
    match key.preset {
        Preset::Absent => {}
        Preset::Required => {
            let allowed = key.kind.allowed();
            return Err(ConfigError::Missing { within: within.to_owned(), key: key.full_name(), allowed });
        }
        Preset::Text(text) => {
            if let Some(value) = key.kind.read(text) {
                table.insert(key.name, (value, Origin::Preset));
            }
        }
    }
    Ok(())
}

fn read_override(variable: &str, value: &OsString) -> Result<(&'static Key, Value), ConfigError> {
    let settable = |key: &&Key| !keys::is_list(key.section) && key.kind != Kind::Table;
    let name_of = |key: &Key| format!("{OVERRIDE_PREFIX}{}__{}", key.section, key.name).to_uppercase();
    let key = keys::KEYS.iter().filter(settable).find(|key| name_of(key) == variable);
    let Some(key) = key else {
        let allowed = keys::KEYS.iter().filter(settable).map(name_of).collect::<Vec<_>>().join(", ");
        return Err(ConfigError::UnknownOverride { variable: variable.to_owned(), allowed });
    };
    let value = value.to_str().and_then(|text| key.kind.read(text));
    match value {
        Some(value) => Ok((key, value)),
        None => Err(ConfigError::BadValue {
            at: Origin::Variable(variable.to_owned()),
            key: key.full_name(),
            allowed: key.kind.allowed(),
        }),
    }
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Origin::File { path: self.path.to_owned(), line, column }
    }

    fn list(
        &self,
        section: &'static str,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<Vec<(Table, Origin)>, ConfigError> {
        let DeValue::Array(array) = value.get_ref() else {
            return Err(ConfigError::WrongType {
                at: self.origin(value.span().start),
                key: section.into(),
                found: type_name(value.get_ref()),
                allowed: format!("tables headed [[{section}]]"),
            });
        };
        let one = |entry| Ok((self.table(section, entry)?, self.origin(entry.span().start)));
        array.iter().map(one).collect()
    }

    fn table(&self, section: &'static str, value: &Spanned<DeValue<'_>>) -> Result<Table, ConfigError> {
        let DeValue::Table(entries) = value.get_ref() else {
            return Err(ConfigError::WrongType {
                at: self.origin(value.span().start),
                key: section.into(),
                found: type_name(value.get_ref()),
                allowed: format!("a table headed [{section}]"),
            });
        };
        let mut table = Table::new();
        for (name, value) in entries.iter().filter(|(name, _)| !is_further(section, name.get_ref())) {
            let Some(key) = keys::find(section, name.get_ref()) else {
                return Err(ConfigError::UnknownKey {
                    at: self.origin(name.span().start),
                    key: format!("{section}.{}", name.get_ref()),
                    allowed: keys::names_in(section).join(", "),
                });
            };
            let at = self.origin(value.span().start);
            let value = self.value(key, value)?;
            table.insert(key.name, (value, at));
        }
        Ok(table)
    }

    fn value(&self, key: &Key, value: &Spanned<DeValue<'_>>) -> Result<Value, ConfigError> {
        let at = || self.origin(value.span().start);
        let allowed = key.kind.allowed();
        let bad = || ConfigError::BadValue { at: at(), key: key.full_name(), allowed: key.kind.allowed() };
        match (value.get_ref(), key.kind) {
            (DeValue::String(text), kind) if !kind.is_integer() && !is_compound(kind) => {
                kind.read(text).ok_or_else(bad)
            }
            (DeValue::Integer(number), kind) if kind.is_integer() => {
                let number = u64::from_str_radix(number.as_str(), number.radix()).map_err(|_| bad())?;
                kind.read(&number.to_string()).ok_or_else(bad)
            }
            (DeValue::Array(array), Kind::Paths) => {
                let path = |entry: &Spanned<DeValue<'_>>| match entry.get_ref() {
                    DeValue::String(text) => match Kind::Path.read(text) {
                        Some(Value::Path(path)) => Some(path),
                        _ => None,
                    },
                    _ => None,
                };
                array.iter().map(path).collect::<Option<_>>().map(Value::Paths).ok_or_else(bad)
            }
            (DeValue::Table(entries), Kind::Table) => {
                let entry =
                    |(name, value): (&Spanned<DeString<'_>>, &Spanned<DeValue<'_>>)| match value.get_ref() {
                        DeValue::String(text) if is_variable_name(name.get_ref()) && !text.contains('\0') => {
                            Some((name.get_ref().to_string(), text.to_string()))
                        }
                        _ => None,
                    };
                entries.iter().map(entry).collect::<Option<_>>().map(Value::Table).ok_or_else(bad)
            }
            (other, _) => Err(ConfigError::WrongType {
                at: at(),
                key: key.full_name(),
                found: type_name(other),
                allowed,
            }),
        }
    }
}

/// The section that holds a list.
const HSM: &str = "hsm";

/// Whether an entry of a section is the list of further tokens.
fn is_further(section: &str, name: &str) -> bool {
    section == HSM && FURTHER.strip_prefix("hsm.") == Some(name)
}

fn is_compound(kind: Kind) -> bool {
    matches!(kind, Kind::Paths | Kind::Table)
}

fn is_variable_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(['=', '\0'])
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
