//! `exec`: becomes a command with secrets in its environment.
//!
//! The process is replaced, so that exit code, signals and terminal are the command's own and no copy of a secret stays
//! in this program. What the vault is reached with is taken out of the environment: the command gets what was named, nothing
//! more.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use clap::Args;
use keystead_client::{Builder, Secret, SecretBytes, SecretValue};

use super::Connect;
use crate::args::values::EnvSecret;
use crate::error::CliError;

/// The server's limit for one batch.
const BATCH: usize = 100;

const EXAMPLES: &str = "\
Examples:
  keystead exec --env PGUSER=shop/db#user --env PGPASSWORD=shop/db#password -- psql -h db shop
  keystead exec --env API_KEY=shop/api-key -- ./server          a secret of plain bytes

The command's exit code is passed on. It does not see KEYSTEAD_ADDR, KEYSTEAD_CACERT, KEYSTEAD_CERT, KEYSTEAD_KEY and \
KEYSTEAD_TOKEN, unless --keep-vault-env is given.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExecArgs {
    /// Put a field of a secret into an environment variable; without #FIELD, a secret of plain bytes
    #[arg(long = "env", short = 'e', value_name = "NAME=PATH#FIELD", required = true)]
    variables: Vec<EnvSecret>,
    /// Leave the variables that the vault is reached with, such as KEYSTEAD_KEY, in the environment: for a command that calls it itself
    #[arg(long)]
    keep_vault_env: bool,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) async fn run(args: ExecArgs, connect: Connect<'_>) -> Result<(), CliError> {
    check_once(&args.variables)?;
    let mut paths: Vec<&str> = args.variables.iter().map(|variable| variable.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    let secrets = connect.connect().await?.secrets();
    let mut read = BTreeMap::new();
    for batch in paths.chunks(BATCH) {
        let answers = secrets.batch_get(batch).await?;
        read.extend(batch.iter().copied().zip(answers));
    }

    let command = command(&args, &read)?;
    replace(command)
}

fn check_once(variables: &[EnvSecret]) -> Result<(), CliError> {
    let mut seen = BTreeSet::new();
    match variables.iter().find(|variable| !seen.insert(variable.name.as_str())) {
        Some(EnvSecret { name, .. }) => Err(CliError::VariableTwice { option: "--env", name: name.clone() }),
        None => Ok(()),
    }
}

/// The command with its environment.
fn command(args: &ExecArgs, read: &BTreeMap<&str, Secret>) -> Result<Command, CliError> {
    let mut words = args.command.iter();
    let mut command = Command::new(words.next().map_or(OsStr::new(""), OsString::as_os_str));
    command.args(words);
    // First: a token that the command gets by name is its own.
    if !args.keep_vault_env {
        for name in Builder::VARIABLES {
            command.env_remove(name);
        }
    }
    for variable in &args.variables {
        if let Some(secret) = read.get(variable.path.as_str()) {
            command.env(&variable.name, OsStr::from_bytes(value(variable, secret)?.expose()));
        }
    }
    Ok(command)
}

/// Becomes the command; there is only a failure to come back with.
fn replace(mut command: Command) -> Result<(), CliError> {
    let source = command.exec();
    Err(CliError::Exec { command: command.get_program().to_string_lossy().into_owned(), source })
}

fn value<'a>(variable: &EnvSecret, secret: &'a Secret) -> Result<&'a SecretBytes, CliError> {
    let path = || variable.path.clone();
    let value = match (&variable.field, &secret.value) {
        (None, SecretValue::Data(bytes)) => bytes,
        (None, SecretValue::Fields(_)) => {
            let field = secret.value.field_names().next().unwrap_or("name");
            return Err(CliError::FieldNeeded { path: path(), example: format!("{}#{field}", path()) });
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
    fn the_command_does_not_see_what_the_vault_is_reached_with() {
        let read = BTreeMap::from([("shop/token", secret(SecretValue::data("its own")))]);
        let of = |keep_vault_env| {
            let variables = vec!["KEYSTEAD_TOKEN=shop/token".parse().unwrap()];
            let args = ExecArgs { variables, keep_vault_env, command: vec!["env".into()] };
            let command = command(&args, &read).unwrap();
            let mut env: Vec<_> = command
                .get_envs()
                .map(|(name, value)| (name.to_owned(), value.map(OsStr::to_owned)))
                .collect();
            env.sort();
            env
        };
        let own = (OsString::from("KEYSTEAD_TOKEN"), Some(OsString::from("its own")));
        assert_eq!(of(true), std::slice::from_ref(&own));
        let mut without: Vec<_> = Builder::VARIABLES.map(|name| (OsString::from(name), None)).into();
        *without.last_mut().unwrap() = own;
        assert_eq!(of(false), without);
    }

    #[test]
    fn a_variable_is_named_once() {
        let of =
            |names: [&str; 3]| check_once(&names.map(|name| format!("{name}=shop/db#user").parse().unwrap()));
        of(["A", "B", "a"]).unwrap();
        let error = of(["A", "B", "A"]).unwrap_err().to_string();
        assert!(error.starts_with("--env names the variable A twice"), "{error}");
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
            matches!(of("A=p", &fields), Err(CliError::FieldNeeded { example, .. }) if example == "p#user")
        );
        assert!(matches!(of("A=p#user", &data), Err(CliError::NoFields { .. })));
        assert!(matches!(of("A=p#zero", &fields), Err(CliError::ZeroByte { .. })));
    }
}
