//! `secret get`: to a terminal escaped (a field's own lines and tabs stay), to a file or a program byte for byte.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use clap::Args;
use data_encoding::BASE64;
use keystead_client::{Secret, SecretBytes, SecretValue};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::versions::version_json;
use crate::commands::Connect;
use crate::error::CliError;
use crate::files::NewFile;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  keystead secret get shop/db                                   all fields, as a table
  keystead secret get shop/db --field password | psql-wrapper   just the bytes
  keystead secret get shop/tls --field key --out-file tls.key   a new file of mode 0600
  keystead secret get shop/db --version 3 -o json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GetArgs {
    /// Where, such as shop/db
    path: String,
    /// This version instead of the current one, which is the newest, also if it is deleted
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// Only this field
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// Write the bytes into a new file of mode 0600; "-" is standard output
    #[arg(long, value_name = "FILE")]
    out_file: Option<PathBuf>,
}

pub(super) async fn run(args: GetArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let secrets = connect.connect().await?.secrets();
    let secret = secrets.get_version(&args.path, args.version.unwrap_or_default()).await?;
    if let Some(file) = &args.out_file {
        let bytes = one(&args, &secret)?.ok_or_else(|| field_needed(&args.path, &secret))?;
        if file == Path::new("-") {
            return raw(bytes, output);
        }
        let path = NewFile::make(file)?.fill(&[bytes.expose()])?;
        let path = path.display().to_string();
        return output.sentence(&format!("Written to {path}."), &serde_json::json!({ "file": path }));
    }
    if output.is_json() {
        one(&args, &secret)?;
        return output.json(&Shown { path: &args.path, secret: &secret, field: args.field.as_deref() });
    }
    match (one(&args, &secret)?, &secret.value) {
        (Some(bytes), _) => raw(bytes, output),
        (None, SecretValue::Fields(fields)) => {
            for (name, value) in fields {
                let words = format!("{}  ", crate::output::escaped(name));
                match value.expose_str() {
                    Some(_) => output.secret_line(&words, value)?,
                    None => output.text(&format!("{words}({} bytes, not text)\n", value.len()))?,
                }
            }
            Ok(())
        }
        (None, SecretValue::Data(_)) => Ok(()),
    }
}

/// The one thing that was asked for: a field, or all of a value that has none.
fn one<'a>(args: &GetArgs, secret: &'a Secret) -> Result<Option<&'a SecretBytes>, CliError> {
    match (&args.field, &secret.value) {
        (Some(name), _) => {
            let field = secret.field(name);
            field.map(Some).map_err(|source| CliError::Field { path: args.path.clone(), source })
        }
        (None, SecretValue::Data(bytes)) => Ok(Some(bytes)),
        (None, SecretValue::Fields(_)) => Ok(None),
    }
}

fn field_needed(path: &str, secret: &Secret) -> CliError {
    let field = secret.value.field_names().next().unwrap_or("name");
    CliError::FieldNeeded { path: path.to_owned(), example: format!("--field {field}") }
}

fn raw(bytes: &SecretBytes, output: &Output) -> Result<(), CliError> {
    if !io::stdout().is_terminal() {
        return output.bytes(bytes.expose());
    }
    match bytes.expose_str() {
        Some(text) => output.secret_text(text),
        None => Err(CliError::BinaryOnTerminal),
    }
}

/// Borrowed all the way, so that no copy is left but the line that is printed, which is wiped.
struct Shown<'a> {
    path: &'a str,
    secret: &'a Secret,
    field: Option<&'a str>,
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("path", self.path)?;
        map.serialize_entry("version", &version_json(&self.secret.version))?;
        match &self.secret.value {
            SecretValue::Data(bytes) => match bytes.expose_str() {
                Some(text) => map.serialize_entry("data", text)?,
                None => {
                    map.serialize_entry("data_base64", &BASE64.encode_display(bytes.expose()).to_string())?
                }
            },
            SecretValue::Fields(fields) => {
                let wanted =
                    || fields.iter().filter(|(name, _)| self.field.is_none_or(|wanted| wanted == name));
                let text = wanted().filter(|(_, value)| value.expose_str().is_some()).collect();
                map.serialize_entry("fields", &Fields(text, false))?;
                let binary: Vec<_> = wanted().filter(|(_, value)| value.expose_str().is_none()).collect();
                if !binary.is_empty() {
                    map.serialize_entry("fields_base64", &Fields(binary, true))?;
                }
            }
        }
        map.end()
    }
}

struct Fields<'a>(Vec<&'a (String, SecretBytes)>, bool);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| {
            let shown = match value.expose_str().filter(|_| !self.1) {
                Some(text) => std::borrow::Cow::Borrowed(text),
                None => std::borrow::Cow::Owned(BASE64.encode(value.expose())),
            };
            (name, shown)
        }))
    }
}

#[cfg(test)]
mod tests {
    use keystead_client::{SecretVersion, VersionState};

    use super::*;

    fn json(value: SecretValue, field: Option<&str>) -> serde_json::Value {
        let version = SecretVersion {
            version: 3,
            state: VersionState::Active,
            created: None,
            created_by: "operator/alice".into(),
            deleted: None,
            destroyed: None,
            size_bytes: 1,
        };
        let secret = Secret { version, value };
        serde_json::to_value(Shown { path: "a/b", secret: &secret, field }).unwrap()
    }

    #[test]
    fn json_has_text_as_text_and_bytes_as_base64() {
        let both = json(SecretValue::fields([("user", b"shop".to_vec()), ("key", vec![0xff])]), None);
        assert_eq!(both["fields"], serde_json::json!({ "user": "shop" }));
        assert_eq!(both["fields_base64"], serde_json::json!({ "key": "/w==" }));
        assert_eq!(both["version"]["version"], 3);
        let one = json(SecretValue::fields([("user", "shop"), ("password", "x")]), Some("user"));
        assert_eq!(one["fields"], serde_json::json!({ "user": "shop" }));
        assert_eq!(json(SecretValue::data("text"), None)["data"], "text");
        assert_eq!(json(SecretValue::data(vec![0xff]), None)["data_base64"], "/w==");
    }
}
