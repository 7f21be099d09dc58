//! `creds`: a login of a role or of a static role, printed or handed to a command.

mod during;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use keystead_client::v1::Right;
use keystead_client::{Credential, IssueOptions, Issued, Lease, Leases, Period, StaticCredential};
use serde::{Serialize, Serializer};

use super::{Connect, lease, rights, time};
use crate::args::span::Span;
use crate::error::CliError;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  keystead creds issue shop
  keystead creds issue shop --ttl 15m -o json
  keystead creds issue shop --exec psql
  keystead creds issue shop --class medium --exec pg_dump --table orders

--exec takes the rest of the line. The command finds host, port, database, login and password in PGHOST, PGPORT, PGDATABASE, PGUSER \
and PGPASSWORD, and the CA in PGSSLROOTCERT with PGSSLMODE=verify-full. The lease is renewed while the command runs and revoked \
when it ends; its exit code is passed on. It does not see KEYSTEAD_ADDR, KEYSTEAD_CACERT, KEYSTEAD_CERT, KEYSTEAD_KEY and \
KEYSTEAD_TOKEN, unless --keep-vault-env is given before --exec.";

const READ: &str = "\
Examples:
  keystead creds read ledger
  keystead creds read ledger --exec psql

The password is changed on the static role's schedule. A command that was given it by --exec is told of nothing; of a static role with \
two logins it works until the rotation after the next.";

#[derive(Debug, Subcommand)]
pub(crate) enum CredsCommand {
    /// Make a login of a role: print it, or run a command with it
    #[command(after_help = EXAMPLES)]
    Issue(IssueArgs),
    /// Get the login of a static role: print it, or run a command with it
    #[command(after_help = READ)]
    Read(ReadArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// The static role
    name: String,
    /// Leave the variables that the vault is reached with, such as KEYSTEAD_KEY, in the command's environment
    #[arg(long, requires = "exec")]
    keep_vault_env: bool,
    /// Run this command with the login in its environment; takes the rest of the line
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    exec: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct IssueArgs {
    /// The role
    role: String,
    /// How long a period of the lease is to be, as in 15m; without it, as the role says
    #[arg(long, value_name = "SPAN", conflicts_with = "class")]
    ttl: Option<Span>,
    /// The same as a class
    #[arg(long)]
    class: Option<Class>,
    /// The id of this request: repeating it gives the same lease with a new password
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Let the lease end after its first period, although the command still runs
    #[arg(long, requires = "exec")]
    no_renew: bool,
    /// Leave the variables that the vault is reached with, such as KEYSTEAD_KEY, in the command's environment
    #[arg(long, requires = "exec")]
    keep_vault_env: bool,
    /// Run this command with the login in its environment; takes the rest of the line
    #[arg(long, value_name = "CMD", num_args = 1.., allow_hyphen_values = true)]
    exec: Vec<OsString>,
}

/// Classes of lives.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Class {
    /// 180 s
    Fast,
    /// 5,400 s
    Medium,
    /// 86,400 s
    Slow,
}

pub(crate) async fn run(
    command: CredsCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<ExitCode, CliError> {
    match command {
        CredsCommand::Issue(args) => issue(args, connect, output).await,
        CredsCommand::Read(args) => read(args, connect, output).await,
    }
}

async fn read(args: ReadArgs, connect: Connect<'_>, output: &Output) -> Result<ExitCode, CliError> {
    let client = connect.connect().await?;
    let signals = if args.exec.is_empty() { None } else { Some(during::Signals::take()?) };
    let read = client.static_roles().credential(&args.name).await?;
    match signals {
        Some(signals) => {
            let line = during::CommandLine { words: &args.exec, keep_vault_env: args.keep_vault_env };
            during::run_static(line, read.credential, signals).await
        }
        None => show_static(&read, output).map(|()| ExitCode::SUCCESS),
    }
}

fn show_static(read: &StaticCredential, output: &Output) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(&ShownStatic {
            version: read.version,
            next_rotate_time: time(read.next_rotation),
            credential: &read.credential,
        });
    }
    let about = [("Version", read.version.to_string()), ("Changes", time(read.next_rotation))];
    show_login(&about, &read.credential, output)
}

/// What is about a login, the login, and its password last.
fn show_login(
    about: &[(&'static str, String)],
    credential: &Credential,
    output: &Output,
) -> Result<(), CliError> {
    let login = postgres(credential)?;
    let mut facts = about.to_vec();
    facts.extend([
        ("Host", login.host.clone()),
        ("Port", login.port.to_string()),
        ("Server name", login.server_name.clone().unwrap_or_default()),
        ("Database", login.database.clone()),
        ("Login", login.username.clone()),
    ]);
    output.facts(&facts, &())?;
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    output.secret_line(&format!("{:<width$}  ", "Password"), &login.password)
}

async fn issue(args: IssueArgs, connect: Connect<'_>, output: &Output) -> Result<ExitCode, CliError> {
    let period = match (args.ttl, args.class) {
        (Some(ttl), _) => Period::Ttl(ttl.duration()),
        (None, Some(Class::Fast)) => Period::Fast,
        (None, Some(Class::Medium)) => Period::Medium,
        (None, Some(Class::Slow)) => Period::Slow,
        (None, None) => Period::OfRole,
    };
    let client = connect.connect().await?;
    let signals = if args.exec.is_empty() { None } else { Some(during::Signals::take()?) };
    let options = IssueOptions { period, request_id: args.request_id };
    let issued = client.credentials().issue_with(&args.role, options).await?;
    let Some(signals) = signals else {
        let shown = show(&issued.lease, &issued.credential, &issued.excess, output);
        if shown.is_err() {
            give_back(issued, &client.leases(), output).await;
        }
        return shown.map(|()| ExitCode::SUCCESS);
    };
    remark_excess(&issued.excess, output);
    let line = during::CommandLine { words: &args.exec, keep_vault_env: args.keep_vault_env };
    during::run(line, issued, !args.no_renew, signals, &client.leases(), output).await
}

/// Nobody has seen the password, or all of it: a reader that went away, a disk that is full.
async fn give_back(issued: Issued, leases: &Leases, output: &Output) {
    let Issued { lease, credential, .. } = issued;
    // The password is wiped before anything else takes its time.
    drop(credential);
    match leases.revoke(&lease.id).await {
        Ok(_) => output.remark("The lease is revoked, since its login could not be printed."),
        Err(error) => {
            output.remark(&format!("The lease could not be revoked: {error}"));
            during::remark_left(&lease, output);
        }
    }
}

/// Prints a lease with what its holder logs in with.
pub(super) fn show(
    lease: &Lease,
    credential: &Credential,
    excess: &[Right],
    output: &Output,
) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(&Shown {
            lease: lease::as_json(lease),
            credential,
            excess: rights::as_json(excess),
        });
    }
    let about = [
        ("Lease", lease.id.clone()),
        ("Ends", time(lease.expires)),
        ("At the latest", time(lease.max_expires)),
    ];
    show_login(&about, credential, output)?;
    output.remark(
        "This is the only time that the password is shown. What is not needed any more is given back by:",
    );
    output.remark(&format!("  keystead lease revoke {}", lease.id));
    remark_excess(excess, output);
    Ok(())
}

fn remark_excess(excess: &[Right], output: &Output) {
    for right in excess {
        output.remark(&format!("The login can do more than its role declares: {}.", rights::shown(right)));
    }
}

/// The one kind there is.
fn postgres(credential: &Credential) -> Result<&keystead_client::PostgresCredential, CliError> {
    match credential {
        Credential::Postgres(login) => Ok(login),
        _ => Err(CliError::UnknownCredential),
    }
}

/// Borrowed all the way, so that no copy of the password is left but the line that is printed, which is wiped.
#[derive(Serialize)]
struct Shown<'a> {
    lease: serde_json::Value,
    #[serde(serialize_with = "credential")]
    credential: &'a Credential,
    excess: Vec<serde_json::Value>,
}

/// The same of a static role's login.
#[derive(Serialize)]
struct ShownStatic<'a> {
    version: u64,
    next_rotate_time: String,
    #[serde(serialize_with = "credential")]
    credential: &'a Credential,
}

#[derive(Serialize)]
struct ShownPostgres<'a> {
    host: &'a str,
    port: u16,
    database: &'a str,
    username: &'a str,
    password: &'a str,
    ca_pem: &'a str,
    server_name: &'a str,
}

fn credential<S: Serializer>(credential: &Credential, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::{Error as _, SerializeMap as _};
    let login = postgres(credential).map_err(S::Error::custom)?;
    let mut map = serializer.serialize_map(Some(1))?;
    let password = login.password.expose_str();
    map.serialize_entry(
        "postgres",
        &ShownPostgres {
            host: &login.host,
            port: login.port,
            database: &login.database,
            username: &login.username,
            password: password.ok_or_else(|| S::Error::custom("the password is not text"))?,
            ca_pem: &login.ca_pem,
            server_name: login.server_name.as_deref().unwrap_or_default(),
        },
    )?;
    map.end()
}
