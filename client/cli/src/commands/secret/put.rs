//! `secret put`: a value from prompts, files or standard input. No argument takes a value.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use keystead_client::{PutOptions, SecretBytes, SecretValue};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::json;
use zeroize::Zeroizing;

use super::MAX_VALUE_BYTES;
use super::versions::version_json;
use crate::args::values::{FieldFile, FieldFileParser, FieldName};
use crate::commands::Connect;
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

const EXAMPLES: &str = "\
Examples:
  keystead secret put shop/db --field user --field password        asks for both, without echo
  keystead secret put shop/tls --from-file cert=tls.crt --from-file key=tls.key
  pwgen -s 32 1 | keystead secret put shop/db --stdin password
  keystead secret put shop/keystore --data-file keystore.p12
  keystead secret put shop/db --field password --expect 3         only if version 3 is the current

An empty value is refused: it is what a command leaves behind that failed. --allow-empty stores it.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PutArgs {
    /// Where, such as shop/db
    path: String,
    /// Ask for the value of this field, without echo
    #[arg(long = "field", value_name = "NAME", value_parser = FieldName, conflicts_with = "data_file")]
    fields: Vec<String>,
    /// Take a field from a file, byte for byte; "-" is standard input
    #[arg(long = "from-file", value_name = "NAME=FILE", value_parser = FieldFileParser, conflicts_with = "data_file")]
    from_files: Vec<FieldFile>,
    /// Take a field from standard input, without the line ending at its end
    #[arg(long, value_name = "NAME", value_parser = FieldName, conflicts_with = "data_file")]
    stdin: Option<String>,
    /// Take fields from a file with a JSON object of names and texts; "-" is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "data_file")]
    fields_file: Option<PathBuf>,
    /// Store the bytes of a file instead of fields; "-" is standard input
    #[arg(long, value_name = "FILE")]
    data_file: Option<PathBuf>,
    /// Store a value even if it is empty
    #[arg(long)]
    allow_empty: bool,
    /// Only if this is the current version; 0 means that there must be none
    #[arg(long, value_name = "VERSION")]
    expect: Option<u64>,
    /// The id of this write, for repeating it safely within 24 hours
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

pub(super) async fn run(mut args: PutArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let options = PutOptions { expected_version: args.expect, request_id: args.request_id.take() };
    let value = value(&args)?;
    let version = connect.connect().await?.secrets().put_with(&args.path, value, options).await?;
    let json = json!({ "path": args.path, "version": version_json(&version) });
    output.sentence(&format!("Stored {} as version {}.", args.path, version.version), &json)
}

fn value(args: &PutArgs) -> Result<SecretValue, CliError> {
    if let Some(file) = &args.data_file {
        let mut bytes = prompt::secret_bytes("the value", "--data-file", file, MAX_VALUE_BYTES)?;
        if bytes.is_empty() && !args.allow_empty {
            return Err(CliError::EmptyValue { what: "the value".to_owned() });
        }
        return Ok(SecretValue::data(std::mem::take(&mut *bytes)));
    }
    check_stdin(args)?;
    let mut fields: Vec<(String, SecretBytes)> = Vec::new();
    if let Some(file) = &args.fields_file {
        fields.extend(fields_of(file)?);
    }
    for FieldFile { name, file } in &args.from_files {
        let mut bytes = prompt::secret_bytes("a field", "--from-file", file, MAX_VALUE_BYTES)?;
        fields.push((name.clone(), SecretBytes::new(std::mem::take(&mut *bytes))));
    }
    if let Some(name) = &args.stdin {
        let bytes = prompt::secret_bytes("a field", "--stdin", Path::new("-"), MAX_VALUE_BYTES)?;
        fields.push((name.clone(), prompt::without_line_ending(bytes)));
    }
    let given = fields.iter().map(|(name, _)| name).chain(&args.fields);
    if let Some(name) = twice(given) {
        return Err(CliError::FieldTwice { name: name.clone() });
    }
    for name in &args.fields {
        fields.push((name.clone(), prompt::ask(name)?));
    }
    // What a command leaves behind that failed before the pipe.
    if let Some((name, _)) = fields.iter().find(|(_, value)| value.is_empty() && !args.allow_empty) {
        return Err(CliError::EmptyValue { what: format!("the field {name:?}") });
    }
    if fields.is_empty() { Err(CliError::NoValue) } else { Ok(SecretValue::Fields(fields)) }
}

/// Two takers of standard input would share it at random.
fn check_stdin(args: &PutArgs) -> Result<(), CliError> {
    let dash = Path::new("-");
    let files = args.from_files.iter().filter(|field| field.file == dash).map(|_| "--from-file");
    let json = args.fields_file.iter().filter(|file| *file == dash).map(|_| "--fields-file");
    let mut takers = args.stdin.iter().map(|_| "--stdin").chain(json).chain(files);
    match (takers.next(), takers.next()) {
        (Some(first), Some(second)) => Err(CliError::StdinTwice { first, second }),
        _ => Ok(()),
    }
}

fn twice<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = std::collections::BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

/// Texts that are wiped if parsing ends early.
#[derive(Default)]
struct Fields {
    by_name: BTreeMap<String, SecretBytes>,
    /// A name that comes again. JSON lets it, and whoever reads takes the one or the other.
    twice: Option<String>,
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names and texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some((name, Zeroized(value))) = object.next_entry::<String, Zeroized>()? {
                    match fields.by_name.entry(name) {
                        Entry::Occupied(known) => fields.twice = Some(known.key().clone()),
                        Entry::Vacant(new) => {
                            new.insert(value);
                        }
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

struct Zeroized(SecretBytes);

impl<'de> Deserialize<'de> for Zeroized {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretBytes::from(text)))
    }
}

fn fields_of(file: &Path) -> Result<Vec<(String, SecretBytes)>, CliError> {
    // A value may be twice as long in JSON, where every quote and line ending takes two bytes.
    let text: Zeroizing<Vec<u8>> =
        prompt::secret_bytes("the fields", "--fields-file", file, 2 * MAX_VALUE_BYTES)?;
    // The error of serde_json would quote the value, so only its place is kept.
    let fields: Fields = serde_json::from_slice(&text).map_err(|error| CliError::FieldsJson {
        origin: file.display().to_string(),
        line: error.line(),
        column: error.column(),
    })?;
    match fields.twice {
        Some(name) => Err(CliError::FieldTwice { name }),
        None => Ok(fields.by_name.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(change: impl FnOnce(&mut PutArgs)) -> PutArgs {
        let mut args = PutArgs {
            path: "shop/db".into(),
            fields: Vec::new(),
            from_files: Vec::new(),
            stdin: None,
            fields_file: None,
            data_file: None,
            allow_empty: false,
            expect: None,
            request_id: None,
        };
        change(&mut args);
        args
    }

    #[test]
    fn files_become_fields_or_data_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, b"\x00line\n").unwrap();
        let fields = value(&args(|args| {
            args.from_files = vec![FieldFile { name: "key".into(), file: file.clone() }];
        }));
        assert_eq!(fields.unwrap(), SecretValue::fields([("key", b"\x00line\n".to_vec())]));
        let data = value(&args(|args| args.data_file = Some(file))).unwrap();
        assert_eq!(data, SecretValue::data(b"\x00line\n".to_vec()));
    }

    #[test]
    fn fields_come_from_json_and_errors_never_quote_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.json");
        std::fs::write(&file, r#"{"user": "shop", "password": "a\"b"}"#).unwrap();
        let fields = value(&args(|args| args.fields_file = Some(file.clone()))).unwrap();
        assert_eq!(fields, SecretValue::fields([("password", "a\"b"), ("user", "shop")]));
        for wrong in [r#"["canary"]"#, r#"{"a": ["canary"]}"#, r#""canary""#, "canary", r#"{"a": "canary"#] {
            std::fs::write(&file, wrong).unwrap();
            let error = value(&args(|args| args.fields_file = Some(file.clone()))).unwrap_err();
            assert!(matches!(error, CliError::FieldsJson { .. }));
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
        std::fs::write(&file, r#"{"a": "canary", "b": "x", "a": "canary2"}"#).unwrap();
        let error = value(&args(|args| args.fields_file = Some(file.clone()))).unwrap_err();
        assert_eq!(error.to_string(), "the field \"a\" is given twice");
    }

    #[test]
    fn an_empty_value_is_stored_only_where_that_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (empty, json) = (dir.path().join("empty"), dir.path().join("f.json"));
        std::fs::write(&empty, "").unwrap();
        std::fs::write(&json, r#"{"user": "shop", "password": ""}"#).unwrap();
        let from_file = || FieldFile { name: "key".into(), file: empty.clone() };
        let given = |allow_empty| {
            [
                args(|args| (args.data_file, args.allow_empty) = (Some(empty.clone()), allow_empty)),
                args(|args| (args.from_files, args.allow_empty) = (vec![from_file()], allow_empty)),
                args(|args| (args.fields_file, args.allow_empty) = (Some(json.clone()), allow_empty)),
            ]
        };
        for (args, what) in
            given(false).iter().zip(["the value", "the field \"key\"", "the field \"password\""])
        {
            let said = value(args).unwrap_err().to_string();
            assert!(
                said.starts_with(&format!("{what} is empty")) && said.contains("--allow-empty"),
                "{said}"
            );
        }
        let stored = given(true).map(|args| value(&args).unwrap());
        let fields = SecretValue::fields([("password", ""), ("user", "shop")]);
        assert_eq!(stored, [SecretValue::data(""), SecretValue::fields([("key", "")]), fields]);
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        assert!(matches!(value(&args(|_| ())), Err(CliError::NoValue)));
        let twice = args(|args| {
            args.fields = vec!["a".into(), "a".into()];
        });
        assert!(matches!(value(&twice), Err(CliError::FieldTwice { .. })));
        let stdin = args(|args| {
            args.stdin = Some("a".into());
            args.from_files = vec![FieldFile { name: "b".into(), file: "-".into() }];
        });
        assert!(matches!(value(&stdin), Err(CliError::StdinTwice { .. })));
    }
}
