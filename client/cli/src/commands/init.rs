//! `init`: makes a new vault and hands out its shares, the only copies there are.

use std::path::PathBuf;

use clap::Args;
use keystead_client::{InitRequest, Initialized};
use serde_json::json;

use super::Connect;
use super::handed::{Expected, Made, Places};
use crate::args::values::Operator;
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

const EXAMPLES: &str = "\
Over the server's local socket, with a file for each holder:
  keystead --addr unix:///run/keystead/local.sock init --shares 5 --threshold 3 \\
      --operator alice=spiffe://example.org/operator/alice --out-dir shares \\
      --token-backup-statement 'token cloned to HSM B, 2026-03-01'

Give each share to one holder and delete it here; keep the seal record beside backups of the \
store. Without --operator, a bootstrap token is made that dies in 24 hours.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InitArgs {
    /// Shares to make, one a holder
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=255))]
    shares: u32,
    /// Shares needed to unseal
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=255))]
    threshold: u32,
    /// An operator with full rights, known by a client certificate: NAME=spiffe://..., NAME=dns:HOST or NAME=email:ADDRESS
    #[arg(long = "operator", value_name = "NAME=IDENTITY")]
    operators: Vec<Operator>,
    /// Directory for one new file a share, of mode 0600; without it, the shares are printed
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
    /// New file for the seal record; without it, the record goes into the directory
    #[arg(long, value_name = "FILE")]
    seal_record: Option<PathBuf>,
    /// File with the PIN of the HSM token; "-" is standard input. Without it, the PIN is asked for
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// It is understood that losing the token loses every secret
    #[arg(long, conflicts_with = "token_backup_statement")]
    accept_total_loss: bool,
    /// How the token is backed up; kept in the audit log
    #[arg(long, value_name = "TEXT")]
    token_backup_statement: Option<String>,
    /// age recipient whose private half is kept offline: with it and a quorum the vault can be moved to a new token when this
    /// one is lost. May be given for several
    #[arg(long = "recovery-recipient", value_name = "AGE1...")]
    recovery_recipients: Vec<String>,
}

pub(crate) async fn run(args: InitArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    if args.threshold > args.shares {
        return Err(CliError::Quorum);
    }
    let kept = args.token_backup_statement.is_some() || !args.recovery_recipients.is_empty();
    if !args.accept_total_loss && !kept {
        return Err(CliError::TokenLoss);
    }
    let token = args.operators.is_empty();
    let expected = Expected { shares: args.shares, sealed: false, token, seal_record: true };
    let places = Places::make(args.out_dir.as_deref(), args.seal_record.as_deref(), expected)?;
    let made = match make(args, connect).await {
        Ok(made) => made,
        Err(error) => {
            places.remove();
            return Err(error);
        }
    };
    let handed = Made {
        shares: &made.shares,
        token: made.bootstrap_token.as_ref(),
        token_expires: made.bootstrap_expires.as_ref(),
        seal_record: Some(&made.seal_record),
    };
    let sentence = format!("Vault {} is made, and sealed.", made.vault_id);
    let filled = places.fill(handed, &sentence, &json!({ "vault_id": made.vault_id }), output);
    if !output.is_json() {
        output.remark("Give each share to one holder and delete it here: there is no other copy.");
    }
    filled
}

async fn make(args: InitArgs, connect: Connect<'_>) -> Result<Initialized, CliError> {
    let client = connect.connect().await?;
    let request = InitRequest {
        shares: args.shares,
        threshold: args.threshold,
        hsm_pin: prompt::short_secret("the PIN of the HSM token", "--pin-file", args.pin_file.as_deref())?,
        operators: args.operators.into_iter().map(Into::into).collect(),
        accept_total_loss: args.accept_total_loss,
        token_backup_statement: args.token_backup_statement.unwrap_or_default(),
        recovery_recipients: args.recovery_recipients,
    };
    Ok(client.system().initialize(request).await?)
}
