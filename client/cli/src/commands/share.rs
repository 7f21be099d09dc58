//! `share check`: looks at a share without using it, and the checks that are made before one is sent.
//!
//! The server's signed header names the digest of every share. A share that was not handed out for this vault never
//! leaves this process; neither does one whose server shows a header of another audit key.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use data_encoding::HEXLOWER;
use keystead_client::SecretBytes;
use keystead_client::v1::{GetStatusResponse, SealState};
use keystead_crypto::seal_record::{SealHeader, SignedSealHeader};
use keystead_crypto::share::Share;
use serde_json::json;

use super::Connect;
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

/// As many as a vault can have.
const MAX_SHARES: usize = 255;
/// Where a share comes from that has no file.
const ENTERED: &str = "what was entered";

#[derive(Debug, Subcommand)]
pub(crate) enum ShareCommand {
    /// Tell whether a share opens this vault. Nothing is sent
    #[command(
        after_help = "Examples:\n  keystead share check\n  keystead share check --share-file share-2.txt"
    )]
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// File with the share; "-" is standard input. Without it, the share is asked for
    #[arg(long, value_name = "FILE")]
    share_file: Option<PathBuf>,
}

pub(crate) async fn run(
    command: ShareCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    let ShareCommand::Check(args) = command;
    let status = connect.connect().await?.system().status().await?;
    let header = verified_header(&status)?;
    let text = prompt::short_secret("the share", "--share-file", args.share_file.as_deref())?;
    let origin = args.share_file.as_deref().map_or_else(|| ENTERED.to_owned(), of_file);
    let share = checked(&header, &text, &origin)?;
    let (number, vault, epoch) = (share.number(), HEXLOWER.encode(&header.vault), header.epoch);
    output.sentence(
        &format!("This is share {number} of vault {vault}, epoch {epoch}. It was not sent."),
        &json!({ "number": number, "vault_id": vault, "epoch": epoch, "valid": true }),
    )
}

/// The header of the server's seal record, if it is signed and agrees with what the server says beside it.
pub(super) fn verified_header(status: &GetStatusResponse) -> Result<SealHeader, CliError> {
    if status.state() == SealState::Uninitialized {
        return Err(CliError::NotInitialized);
    }
    let header = SignedSealHeader::decode(&status.seal_header)
        .and_then(|signed| signed.verify())
        .map_err(CliError::SealHeader)?;
    let named = [
        ("vaults", status.vault_id == HEXLOWER.encode(&header.vault)),
        ("share epochs", status.epoch == header.epoch),
        ("thresholds", status.threshold == u32::from(header.threshold)),
        ("numbers of shares", status.shares == u32::from(header.shares)),
    ];
    match named.iter().find(|(_, same)| !same) {
        Some((what, _)) => Err(CliError::StatusDisagrees { what }),
        None => Ok(header),
    }
}

/// The share, if it is one of those that the header names.
pub(super) fn checked(header: &SealHeader, text: &SecretBytes, origin: &str) -> Result<Share, CliError> {
    Share::parse(text.expose())
        .and_then(|share| header.check_share(&share).map(|()| share))
        .map_err(|source| CliError::Share { origin: origin.to_owned(), source })
}

fn of_file(file: &Path) -> String {
    file.display().to_string()
}

/// The shares with where each comes from.
pub(super) fn read_shares(files: &[PathBuf]) -> Result<Vec<(String, SecretBytes)>, CliError> {
    if !files.is_empty() {
        return files
            .iter()
            .map(|file| Ok((of_file(file), prompt::short_secret("the share", "--share-file", Some(file))?)))
            .collect();
    }
    let shares = prompt::asked_or_lines("the share", "--share-file", MAX_SHARES)?;
    let several = shares.len() > 1;
    let origin = |line: usize| if several { format!("line {line}") } else { ENTERED.to_owned() };
    Ok(shares.into_iter().enumerate().map(|(index, share)| (origin(index + 1), share)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_vault_there_is_nothing_to_check() {
        let status = GetStatusResponse { state: SealState::Uninitialized.into(), ..Default::default() };
        assert!(matches!(verified_header(&status), Err(CliError::NotInitialized)));
    }

    #[test]
    fn a_header_that_is_not_signed_stops_everything() {
        let mut status = GetStatusResponse { state: SealState::Sealed.into(), ..Default::default() };
        assert!(matches!(verified_header(&status), Err(CliError::SealHeader(_))));
        status.seal_header = vec![0; 200];
        assert!(matches!(verified_header(&status), Err(CliError::SealHeader(_))));
    }
}
