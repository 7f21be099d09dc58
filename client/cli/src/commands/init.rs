//! `init`: makes a new vault and hands out its shares, the only copies there are.
//!
//! Invariant: the files for the shares exist before the server is asked, and a share that cannot be written is printed
//! rather than lost.

use std::path::{Path, PathBuf};

use clap::Args;
use keystead_client::{InitRequest, InitialShare, Initialized, SecretBytes};
use serde::Serialize;

use super::{Connect, timestamp};
use crate::args::values::Operator;
use crate::error::CliError;
use crate::files::{NewFile, OutDir};
use crate::output::Output;
use crate::prompt;

const EXAMPLES: &str = "\
Over the server's local socket, with a file for each holder:
  keystead --addr unix:///run/keystead/local.sock init --shares 5 --threshold 3 \\
      --operator alice=spiffe://example.org/operator/alice --out-dir shares \\
      --token-backup-statement 'token cloned to HSM B, 2026-03-01'

Give each file to one holder and delete it here. Without --operator, a bootstrap token is made that dies in 24 hours.";

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
    /// File with the PIN of the HSM token; "-" is standard input. Without it, the PIN is asked for
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// It is understood that losing the token loses every secret
    #[arg(long, conflicts_with = "token_backup_statement")]
    accept_total_loss: bool,
    /// How the token is backed up; kept in the audit log
    #[arg(long, value_name = "TEXT")]
    token_backup_statement: Option<String>,
}

pub(crate) async fn run(args: InitArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    if args.threshold > args.shares {
        return Err(CliError::Quorum);
    }
    if !args.accept_total_loss && args.token_backup_statement.is_none() {
        return Err(CliError::TokenLoss);
    }
    let places = args.out_dir.as_deref().map(|dir| Places::make(dir, args.shares, args.operators.is_empty()));
    let places = places.transpose()?;
    let made = make(args, connect).await;
    match (made, places) {
        (Ok(made), Some(places)) => places.fill(&made, output),
        (Ok(made), None) => print(&made, output),
        (Err(error), places) => {
            if let Some(places) = places {
                places.remove();
            }
            Err(error)
        }
    }
}

async fn make(args: InitArgs, connect: Connect<'_>) -> Result<Initialized, CliError> {
    let client = connect.connect().await?;
    let request = InitRequest {
        shares: args.shares,
        threshold: args.threshold,
        hsm_pin: prompt::short_secret("the PIN of the HSM token", args.pin_file.as_deref())?,
        operators: args.operators.into_iter().map(Into::into).collect(),
        accept_total_loss: args.accept_total_loss,
        token_backup_statement: args.token_backup_statement.unwrap_or_default(),
    };
    Ok(client.system().initialize(request).await?)
}

/// Empty files that wait for what the server makes.
struct Places {
    dir: OutDir,
    names: Vec<String>,
    shares: Vec<NewFile>,
    token: Option<NewFile>,
}

impl Places {
    fn make(path: &Path, shares: u32, token: bool) -> Result<Self, CliError> {
        let dir = OutDir::open_or_make(path)?;
        let mut names: Vec<_> = (1..=shares).map(|number| format!("share-{number}.txt")).collect();
        if token {
            names.push("bootstrap-token.txt".to_owned());
        }
        let mut files = dir.make(&names).inspect_err(|_| dir.remove(&[]))?;
        let token = if token { files.pop() } else { None };
        Ok(Self { dir, names, shares: files, token })
    }

    fn remove(&self) {
        self.dir.remove(&self.names);
    }

    fn fill(self, made: &Initialized, output: &Output) -> Result<(), CliError> {
        let (asked, found) = (self.shares.len(), made.shares.len());
        if asked != found {
            print(made, output)?;
            return Err(CliError::SharesMade { asked, made: found });
        }
        let mut written = Vec::new();
        let mut lost = Ok(());
        let shares = self.shares.into_iter().zip(made.shares.iter().map(|share| &share.text));
        let token = self.token.into_iter().zip(&made.bootstrap_token);
        for (file, text) in shares.chain(token) {
            let path = file.path().display().to_string();
            match file.fill(&[text.expose(), b"\n"]) {
                Ok(path) => written.push(path.display().to_string()),
                Err(error) => {
                    output.remark(&format!("{path} could not be written; this is what belongs into it:"));
                    output.secret_line("", text)?;
                    lost = Err(error);
                }
            }
        }
        lost.and(self.dir.sync())?;
        if output.is_json() {
            return output.json(&serde_json::json!({
                "vault_id": made.vault_id,
                "files": written,
                "bootstrap_expire_time": timestamp(made.bootstrap_expires.as_ref()),
            }));
        }
        output.sentence(&format!("Vault {} is made, and sealed. Written:", made.vault_id), &())?;
        for path in &written {
            output.sentence(&format!("  {path}"), &())?;
        }
        output.remark("Give each share to one holder and delete it here: there is no other copy.");
        Ok(())
    }
}

#[derive(Serialize)]
struct Printed<'a> {
    vault_id: &'a str,
    shares: Vec<PrintedShare<'a>>,
    bootstrap_token: Option<&'a str>,
    bootstrap_expire_time: String,
}

#[derive(Serialize)]
struct PrintedShare<'a> {
    number: u32,
    text: &'a str,
}

fn print(made: &Initialized, output: &Output) -> Result<(), CliError> {
    let expires = timestamp(made.bootstrap_expires.as_ref());
    if output.is_json() {
        return output.json(&Printed {
            vault_id: &made.vault_id,
            shares: made.shares.iter().map(printed).collect(),
            bootstrap_token: made.bootstrap_token.as_ref().map(text),
            bootstrap_expire_time: expires,
        });
    }
    output.sentence(&format!("Vault {} is made, and sealed. Its shares:", made.vault_id), &())?;
    for share in &made.shares {
        output.secret_line(&format!("  {}: ", share.number), &share.text)?;
    }
    if let Some(token) = &made.bootstrap_token {
        output.secret_line(&format!("Bootstrap token (dies {expires}): "), token)?;
    }
    output.remark("Give each share to one holder: this is the only time they are shown.");
    Ok(())
}

fn printed(share: &InitialShare) -> PrintedShare<'_> {
    PrintedShare { number: share.number, text: text(&share.text) }
}

/// Shares and tokens came as strings, so they are text.
fn text(secret: &SecretBytes) -> &str {
    secret.expose_str().unwrap_or_default()
}
