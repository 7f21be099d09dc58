//! `seal-record export`: the record that a backup of the store needs, into a new file.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::Connect;
use crate::error::CliError;
use crate::files::NewFile;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum SealRecordCommand {
    /// Write the seal record into a new file of mode 0600
    #[command(after_help = "Example:\n  keystead seal-record export seal-record-2026-03.ksseal")]
    Export(ExportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The file; one that exists is never overwritten
    file: PathBuf,
}

pub(crate) async fn run(
    command: SealRecordCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    let SealRecordCommand::Export(args) = command;
    let system = connect.connect().await?.system();
    let file = NewFile::make(&args.file)?;
    let exported = match system.export_seal_record().await {
        Ok(exported) => exported,
        Err(error) => {
            file.remove();
            return Err(error.into());
        }
    };
    let path = file.fill(&[&exported.seal_record])?.display().to_string();
    let epoch = exported.epoch;
    output.sentence(
        &format!("The seal record of share epoch {epoch} is in {path}. By itself it opens nothing."),
        &json!({ "epoch": epoch, "file": path }),
    )
}
