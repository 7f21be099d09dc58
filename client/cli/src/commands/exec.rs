//! `exec`: becomes a command with secrets in its environment.
//!
//! The process is replaced, so that exit code, signals and terminal are the command's own and no copy of a secret stays
//! in this program. KEYSTEAD_TOKEN is taken out of the environment: the command gets what was named, nothing more.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use clap::Args;
use keystead_client::{Secret, SecretBytes, SecretValue};

use super::Connect;
use crate::args::values::EnvSecret;
use crate::error::CliError;

/// The server's limit for one batch.
const BATCH: usize = 100;

const EXAMPLES: &str = "\
Examples:
  keystead exec --env PGUSER=shop/db#user --env PGPASSWORD=shop/db#password -- psql -h db shop
  keystead exec --env API_KEY=shop/api-key -- ./server          a secret of plain bytes

The command's exit code is passed on. It does not see KEYSTEAD_TOKEN unless --keep-token says so.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExecArgs {
    /// Put a field of a secret into an environment variable; without #FIELD, a secret of plain bytes
    #[arg(long = "env", short = 'e', value_name = "NAME=PATH#FIELD", required = true)]
    variables: Vec<EnvSecret>,
    /// Leave KEYSTEAD_TOKEN in the environment
    #[arg(long)]
    keep_token: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) async fn run(args: ExecArgs, connect: Connect<'_>) -> Result<(), CliError> {
    let mut paths: Vec<&str> = args.variables.iter().map(|variable| variable.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    let secrets = connect.connect().await?.secrets();
    let mut read = BTreeMap::new();
    for batch in paths.chunks(BATCH) {
        let answers = secrets.batch_get(batch).await?;
        read.extend(batch.iter().copied().zip(answers));
    }

    let mut words = args.command.iter();
    let program = words.next().map_or(OsStr::new(""), OsString::as_os_str);
    let mut command = Command::new(program);
    command.args(words);
    for variable in &args.variables {
        if let Some(secret) = read.get(variable.path.as_str()) {
            command.env(&variable.name, OsStr::from_bytes(value(variable, secret)?.expose()));
        }
    }
    if !args.keep_token {
        command.env_remove("KEYSTEAD_TOKEN");
    }
    let source = command.exec();
    Err(CliError::Exec { command: program.to_string_lossy().into_owned(), source })
}

fn value<'a>(variable: &EnvSecret, secret: &'a Secret) -> Result<&'a SecretBytes, CliError> {
    let path = || variable.path.clone();
    let value = match (&variable.field, &secret.value) {
        (None, SecretValue::Data(bytes)) => bytes,
        (None, SecretValue::Fields(_)) => {
            let example = secret.value.field_names().next().unwrap_or("name").to_owned();
            return Err(CliError::FieldNeeded { path: path(), example });
        }
        (Some(field), SecretValue::Data(_)) => {
            return Err(CliError::NoFields { path: path(), field: field.clone() });
        }
        (Some(field), SecretValue::Fields(_)) => {
            secret.field(field).map_err(|source| CliError::Field { path: path(), source })?
        }
    };
    if value.expose().contains(&0) {
        return Err(CliError::ZeroByte { name: variable.name.clone() });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use keystead_client::{SecretVersion, VersionState};

    use super::*;

    fn secret(value: SecretValue) -> Secret {
        let version = SecretVersion {
            version: 1,
            state: VersionState::Active,
            created: None,
            created_by: String::new(),
            deleted: None,
            destroyed: None,
            size_bytes: 0,
        };
        Secret { version, value }
    }

    #[test]
    fn a_variable_gets_its_field_or_a_clear_error() {
        let fields = secret(SecretValue::fields([("user", b"shop".to_vec()), ("zero", b"a\0b".to_vec())]));
        let data = secret(SecretValue::data("bytes"));
        let of =
            |text: &str, secret| value(&text.parse().unwrap(), secret).map(|value| value.expose().to_vec());
        assert_eq!(of("A=p#user", &fields).unwrap(), b"shop");
        assert_eq!(of("A=p", &data).unwrap(), b"bytes");
        assert!(matches!(of("A=p#no", &fields), Err(CliError::Field { .. })));
        assert!(
            matches!(of("A=p", &fields), Err(CliError::FieldNeeded { example, .. }) if example == "user")
        );
        assert!(matches!(of("A=p#user", &data), Err(CliError::NoFields { .. })));
        assert!(matches!(of("A=p#zero", &fields), Err(CliError::ZeroByte { .. })));
    }
}
