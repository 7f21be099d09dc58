//! `secret history`, `delete`, `undelete`, `destroy`: what happens to versions.

use clap::Args;
use keystead_client::v1::BackupKey;
use keystead_client::{SecretVersion, VersionState};
use serde_json::{Value, json};

use crate::commands::{Connect, time, timestamp};
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// Where, such as shop/db
    path: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Where, such as shop/db
    path: String,
    /// Which version, may be repeated; without any, the current one
    #[arg(long = "version", value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    versions: Vec<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct UndeleteArgs {
    /// Where, such as shop/db
    path: String,
    /// Which version; may be repeated
    #[arg(long = "version", value_name = "VERSION", required = true, value_parser = clap::value_parser!(u64).range(1..))]
    versions: Vec<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct DestroyArgs {
    /// Where, such as shop/db
    path: String,
    /// Which version; may be repeated
    #[arg(long = "version", value_name = "VERSION", required = true, value_parser = clap::value_parser!(u64).range(1..))]
    versions: Vec<u64>,
    /// Do not ask: it cannot be undone
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn history(
    args: HistoryArgs,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    let history = connect.connect().await?.secrets().history(&args.path).await?;
    let json = json!({
        "path": args.path,
        "current_version": history.current_version,
        "versions": history.versions.iter().map(version_json).collect::<Vec<_>>(),
    });
    show(&history.versions, &json, output)
}

pub(super) async fn delete(args: DeleteArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let versions = connect.connect().await?.secrets().delete(&args.path, &args.versions).await?;
    show_changed(&args.path, &versions, output)
}

pub(super) async fn undelete(
    args: UndeleteArgs,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    let versions = connect.connect().await?.secrets().undelete(&args.path, &args.versions).await?;
    show_changed(&args.path, &versions, output)
}

pub(super) async fn destroy(
    args: DestroyArgs,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    let question = format!("Destroy version {} of {} for good?", numbers(&args.versions), args.path);
    prompt::confirm(&question, args.yes)?;
    let destroyed = connect.connect().await?.secrets().destroy(&args.path, &args.versions).await?;
    let keys = &destroyed.unrecoverable_after;
    let json = json!({
        "path": args.path,
        "versions": destroyed.versions.iter().map(version_json).collect::<Vec<_>>(),
        "unrecoverable": destroyed.unrecoverable,
        "unrecoverable_after": keys.iter().map(backup_key_json).collect::<Vec<_>>(),
    });
    show(&destroyed.versions, &json, output)?;
    if !output.is_json() {
        let left = keys.iter().filter(|key| key.destroy_time.is_none()).map(backup_key);
        let left: Vec<_> = left.collect();
        output.remark(&match left.as_slice() {
            [] => "No copy in any backup opens any more: the keys that wrapped it are destroyed.".to_owned(),
            left => format!("Copies in older backups open until these are destroyed: {}.", left.join(", ")),
        });
    }
    Ok(())
}

fn backup_key(key: &BackupKey) -> String {
    match key.master_version {
        0 => format!("the private half of {}", key.way),
        version => format!("master key {version} of token {}", key.way),
    }
}

fn backup_key_json(key: &BackupKey) -> Value {
    json!({
        "way": key.way,
        "master_version": key.master_version,
        "since": timestamp(key.since.as_ref()),
        "destroy_time": timestamp(key.destroy_time.as_ref()),
    })
}

fn show_changed(path: &str, versions: &[SecretVersion], output: &Output) -> Result<(), CliError> {
    let json = json!({ "path": path, "versions": versions.iter().map(version_json).collect::<Vec<_>>() });
    show(versions, &json, output)
}

fn show(versions: &[SecretVersion], json: &Value, output: &Output) -> Result<(), CliError> {
    if versions.is_empty() {
        return output.sentence("Nothing was left to change.", json);
    }
    let row = |version: &SecretVersion| {
        vec![
            version.version.to_string(),
            state(version.state).to_owned(),
            time(version.created),
            version.created_by.clone(),
            version.size_bytes.to_string(),
            time(version.destroyed.or(version.deleted)),
        ]
    };
    let rows: Vec<_> = versions.iter().map(row).collect();
    output.table(&["VERSION", "STATE", "STORED", "BY", "BYTES", "GONE SINCE"], &rows, json)
}

fn numbers<N: ToString>(numbers: &[N]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn state(state: VersionState) -> &'static str {
    match state {
        VersionState::Active => "active",
        VersionState::Deleted => "deleted",
        VersionState::Destroyed => "destroyed",
        _ => "unknown",
    }
}

/// A version as JSON.
pub(super) fn version_json(version: &SecretVersion) -> Value {
    json!({
        "version": version.version,
        "state": state(version.state),
        "create_time": time(version.created),
        "created_by": version.created_by,
        "delete_time": time(version.deleted),
        "destroy_time": time(version.destroyed),
        "size_bytes": version.size_bytes,
    })
}
