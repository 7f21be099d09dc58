//! One module a command. Each connects, asks, and prints; what is shared by several is here.

pub(crate) mod audit;
pub(crate) mod ceremony;
pub(crate) mod completions;
pub(crate) mod creds;
pub(crate) mod exec;
mod handed;
pub(crate) mod init;
pub(crate) mod keys;
pub(crate) mod lease;
pub(crate) mod policy;
pub(crate) mod principal;
mod progress;
mod rights;
pub(crate) mod role;
pub(crate) mod seal_record;
pub(crate) mod secret;
pub(crate) mod share;
pub(crate) mod static_role;
pub(crate) mod status;
pub(crate) mod target;
pub(crate) mod unseal;
pub(crate) mod whoami;

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use keystead_client::{Builder, Client, Error};
use prost_types::Timestamp;

use crate::args::{Command, Global};
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

/// Runs the command; what it ends with is its own only where another program ran.
pub(crate) async fn run(global: &Global, command: Command, output: &Output) -> Result<ExitCode, CliError> {
    let connect = Connect(global);
    let done = match command {
        Command::Init(args) => init::run(args, connect, output).await,
        Command::Unseal(args) => unseal::run(args, connect, output).await,
        Command::Seal => status::seal(connect, output).await,
        Command::Status => status::run(connect, output).await,
        Command::Ceremony(command) => ceremony::run(command, connect, output).await,
        Command::SealRecord(command) => seal_record::run(command, connect, output).await,
        Command::Share(command) => share::run(command, connect, output).await,
        Command::Secret(command) => secret::run(command, connect, output).await,
        Command::Target(command) => target::run(command, connect, output).await,
        Command::Role(command) => role::run(command, connect, output).await,
        Command::StaticRole(command) => static_role::run(command, connect, output).await,
        Command::Creds(command) => return creds::run(command, connect, output).await,
        Command::Lease(command) => lease::run(command, connect, output).await,
        Command::Keys(command) => keys::run(command, connect, output).await,
        Command::Policy(command) => policy::run(command, connect, output).await,
        Command::Principal(command) => principal::run(command, connect, output).await,
        Command::Whoami => whoami::run(connect, output).await,
        Command::Audit(command) => audit::run(command, connect, output).await,
        Command::Exec(args) => exec::run(args, connect).await,
        Command::Completions(args) => completions::run(&args, output),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// How to reach the vault: the environment, and what the arguments say otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Connect<'a>(&'a Global);

impl Connect<'_> {
    pub(crate) async fn connect(self) -> Result<Client, CliError> {
        let mut builder = self.builder()?;
        if let Some(file) = &self.0.token_file {
            builder = builder.token(prompt::short_secret("the token", "--token-file", Some(file))?);
        }
        Ok(builder.build().await?)
    }

    /// All but what is read from a file of ours.
    fn builder(self) -> Result<Builder, CliError> {
        let mut builder = Builder::from_env()?;
        if let Some(addr) = &self.0.addr {
            builder = builder.addr(addr);
        }
        if let Some(file) = &self.0.ca_cert {
            builder = builder.ca_cert_file(file);
        }
        match (&self.0.cert, &self.0.key) {
            (Some(cert), Some(key)) => builder = builder.identity_files(cert, key),
            (None, None) => {}
            // Not that of the environment: it belongs to another certificate.
            (Some(_), None) => {
                return Err(CliError::HalfIdentity {
                    given: "--cert",
                    lacking: "--key",
                    variable: "KEYSTEAD_KEY",
                });
            }
            (None, Some(_)) => {
                return Err(CliError::HalfIdentity {
                    given: "--key",
                    lacking: "--cert",
                    variable: "KEYSTEAD_CERT",
                });
            }
        }
        if let Some(seconds) = self.0.timeout {
            builder = builder.deadline(Duration::from_secs(seconds));
        }
        Ok(builder)
    }
}

/// What to do about a caller that is unknown.
pub(crate) fn hint(error: &CliError, global: &Global) -> Option<&'static str> {
    let unknown = matches!(error, CliError::Client(Error::Unauthenticated(_)));
    let anonymous = || {
        global.token_file.is_none() && Connect(global).builder().is_ok_and(|builder| builder.is_anonymous())
    };
    if !unknown {
        return None;
    }
    Some(if anonymous() {
        "neither a client certificate nor a token was sent: give --cert and --key with an https address, or --token-file"
    } else {
        "whose certificate or token this is, is not registered or disabled, or it was revoked or has ended; an operator looks \
         with `keystead principal list`"
    })
}

/// A time as RFC 3339, or nothing.
fn time(time: Option<SystemTime>) -> String {
    timestamp(time.map(Timestamp::from).as_ref())
}

/// The same for a time off the wire.
fn timestamp(time: Option<&Timestamp>) -> String {
    time.map(Timestamp::to_string).unwrap_or_default()
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn a_certificate_and_its_key_come_from_the_same_place() {
        let of = |line: &str| {
            let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
            Connect(&cli.global).builder().map(drop)
        };
        of("keystead --cert c.pem --key k.pem whoami").unwrap();
        for (line, said) in [
            ("keystead --cert c.pem whoami", "--cert is given without --key: what KEYSTEAD_KEY says"),
            ("keystead --key k.pem whoami", "--key is given without --cert: what KEYSTEAD_CERT says"),
        ] {
            let error = of(line).unwrap_err();
            assert!(error.to_string().starts_with(said), "{error}");
        }
    }
}
