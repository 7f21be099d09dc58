//! `secret`: put, get, list, history, delete, undelete, destroy.

mod get;
mod put;
mod versions;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Connect, yes_or_no};
use crate::error::CliError;
use crate::output::Output;

/// As the server's limit.
const MAX_VALUE_BYTES: usize = 1 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Store a new version of a secret
    Put(put::PutArgs),
    /// Read a secret
    Get(get::GetArgs),
    /// List the children of a folder
    List(ListArgs),
    /// Show the versions of a secret, without their values
    History(versions::HistoryArgs),
    /// Hide versions; they can be undeleted until destroyed
    Delete(versions::DeleteArgs),
    /// Bring deleted versions back
    Undelete(versions::UndeleteArgs),
    /// Remove the keys of versions for good
    Destroy(versions::DestroyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The folder; without it, the root
    #[arg(default_value = "")]
    folder: String,
}

pub(crate) async fn run(
    command: SecretCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    match command {
        SecretCommand::Put(args) => put::run(args, connect, output).await,
        SecretCommand::Get(args) => get::run(args, connect, output).await,
        SecretCommand::List(args) => list(args, connect, output).await,
        SecretCommand::History(args) => versions::history(args, connect, output).await,
        SecretCommand::Delete(args) => versions::delete(args, connect, output).await,
        SecretCommand::Undelete(args) => versions::undelete(args, connect, output).await,
        SecretCommand::Destroy(args) => versions::destroy(args, connect, output).await,
    }
}

async fn list(args: ListArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let mut entries = connect.connect().await?.secrets().list(&args.folder).collect().await?;
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| vec![entry.name.clone(), yes_or_no(entry.is_secret), yes_or_no(entry.is_folder)])
        .collect();
    let json: Vec<_> = entries
        .iter()
        .map(
            |entry| json!({ "name": entry.name, "is_secret": entry.is_secret, "is_folder": entry.is_folder }),
        )
        .collect();
    output.table(&["NAME", "SECRET", "FOLDER"], &rows, &json)
}
