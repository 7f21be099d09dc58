//! `keys`: ways to the data keys, master keys and system keys, and their rotation.

use std::time::Duration;

use clap::{Args, Subcommand};
use keystead_client::Keys;
use keystead_client::v1::{
    GetRotationResponse, KeyWay, ListKeysResponse, MasterKey, MasterKeyState, SystemKey,
};
use serde_json::{Value, json};

use super::{Connect, timestamp, yes_or_no};
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

/// How often a pass is looked at while somebody waits for it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Show ways, master keys, system keys, and what should be mended
    List,
    /// Make a new master key on every token; data keys are wrapped anew in the background
    #[command(after_help = "Example:\n  keystead keys rotate --wait --yes")]
    Rotate(RotateArgs),
    /// Show how far the pass over all data keys is
    Rotation,
    /// Take a way out: a token, or a recovery recipient
    #[command(after_help = "Example:\n  keystead keys retire 9f2c81b07d1e4a66 --yes")]
    Retire(RetireArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// Wait until every data key is wrapped by the new key and the old one is destroyed
    #[arg(long)]
    wait: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RetireArgs {
    /// Its name, as `keystead keys list` shows it
    way: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(crate) async fn run(command: KeysCommand, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    match command {
        KeysCommand::List => list(connect, output).await,
        KeysCommand::Rotate(args) => rotate(args, connect, output).await,
        KeysCommand::Rotation => show(&connect.connect().await?.keys().rotation().await?, output),
        KeysCommand::Retire(args) => {
            let question = format!("Retire {}? Nothing opens through it any more.", args.way);
            prompt::confirm(&question, args.yes)?;
            connect.connect().await?.keys().retire(&args.way).await?;
            output.sentence(&format!("{} is retired.", args.way), &json!({ "retired": args.way }))
        }
    }
}

async fn list(connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let keys = connect.connect().await?.keys().list().await?;
    if output.is_json() {
        return output.json(&as_json(&keys));
    }
    let way = |way: &KeyWay| {
        let versions = match (way.oldest_master_version, way.master_version) {
            (0, _) => String::new(),
            (oldest, current) if oldest == current => current.to_string(),
            (oldest, current) => format!("{current} (and {oldest})"),
        };
        let answers = if way.recipient.is_empty() { yes_or_no(way.ready) } else { "offline".to_owned() };
        let remark = if way.reason.is_empty() { way.recipient.clone() } else { way.reason.clone() };
        vec![way.name.clone(), answers, versions, remark]
    };
    let rows: Vec<_> = keys.ways.iter().map(way).collect();
    output.table(&["WAY", "ANSWERS", "MASTER KEY", ""], &rows, &())?;
    let master = |key: &MasterKey| {
        let wraps = if key.max_wraps == 0 { String::new() } else { key.wraps.to_string() };
        vec![
            key.way.clone(),
            key.version.to_string(),
            state(key).to_owned(),
            timestamp(key.since.as_ref()),
            wraps,
        ]
    };
    let rows: Vec<_> = keys.master_keys.iter().map(master).collect();
    output.table(&["WAY", "VERSION", "STATE", "SINCE", "WRAPS"], &rows, &())?;
    let system = |key: &SystemKey| {
        let state = if key.current { "current" } else { "superseded" };
        vec![key.id.clone(), state.to_owned(), timestamp(key.since.as_ref()), key.records.to_string()]
    };
    let rows: Vec<_> = keys.system_keys.iter().map(system).collect();
    output.table(&["SYSTEM KEY", "STATE", "SINCE", "RECORDS"], &rows, &())?;
    let alarms: Vec<_> = keys.alarms.iter().map(|alarm| vec![alarm.clone()]).collect();
    if alarms.is_empty() { Ok(()) } else { output.table(&["ALARM"], &alarms, &()) }
}

async fn rotate(args: RotateArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    prompt::confirm("Make a new master key on every token?", args.yes)?;
    let keys = connect.connect().await?.keys();
    let made = keys.rotate().await?.master_keys;
    let json: Vec<_> = made.iter().map(|key| json!({ "way": key.way, "version": key.version })).collect();
    if args.wait {
        wait(&keys, &made).await?;
    }
    let named: Vec<_> = made.iter().map(|key| format!("version {} on {}", key.version, key.way)).collect();
    let then =
        if args.wait { "the old one is destroyed" } else { "data keys are wrapped anew in the background" };
    let sentence = format!("New master key: {}; {then}.", named.join(", "));
    output.sentence(&sentence, &json!({ "master_keys": json, "waited": args.wait }))?;
    if !output.is_json() {
        let when = if args.wait { "Now" } else { "Once `keystead keys rotation` says that it is complete," };
        output.remark(&format!(
            "{when} export the seal record again (`keystead seal-record export FILE`) and back the tokens up."
        ));
    }
    Ok(())
}

/// Until every token has given its older keys up.
async fn wait(keys: &Keys, made: &[MasterKey]) -> Result<(), CliError> {
    loop {
        let ways = keys.list().await?.ways;
        let done = made.iter().all(|key| {
            ways.iter().any(|way| way.name == key.way && way.oldest_master_version >= key.version)
        });
        if done {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn show(rotation: &GetRotationResponse, output: &Output) -> Result<(), CliError> {
    let done = format!("{} of about {}", rotation.looked_at, rotation.estimated_total);
    output.facts(
        &[
            ("Under way", yes_or_no(rotation.running)),
            ("Begun", timestamp(rotation.start_time.as_ref())),
            ("Ended", timestamp(rotation.end_time.as_ref())),
            ("Data keys looked at", done),
            ("Wrapped anew", rotation.rewrapped.to_string()),
            ("Left, about", rotation.estimated_remaining.to_string()),
            ("In a second", rotation.rate_per_second.to_string()),
            ("Lacking", rotation.lacking.to_string()),
            ("Malformed", rotation.malformed.join(", ")),
            ("Complete", yes_or_no(rotation.complete)),
            ("Last error", rotation.last_error.clone()),
        ],
        &json!({
            "running": rotation.running,
            "start_time": timestamp(rotation.start_time.as_ref()),
            "end_time": timestamp(rotation.end_time.as_ref()),
            "looked_at": rotation.looked_at,
            "rewrapped": rotation.rewrapped,
            "estimated_total": rotation.estimated_total,
            "estimated_remaining": rotation.estimated_remaining,
            "rate_per_second": rotation.rate_per_second,
            "lacking": rotation.lacking,
            "malformed": rotation.malformed,
            "complete": rotation.complete,
            "last_error": rotation.last_error,
        }),
    )
}

fn state(key: &MasterKey) -> &'static str {
    match key.state() {
        MasterKeyState::Current => "current",
        MasterKeyState::Superseded => "superseded",
        MasterKeyState::Destroyed => "destroyed",
        MasterKeyState::Unspecified => "unknown",
    }
}

fn as_json(keys: &ListKeysResponse) -> Value {
    let way = |way: &KeyWay| {
        json!({
            "name": way.name,
            "recipient": way.recipient,
            "ready": way.ready,
            "reason": way.reason,
            "oldest_master_version": way.oldest_master_version,
            "master_version": way.master_version,
        })
    };
    let master = |key: &MasterKey| {
        json!({
            "way": key.way,
            "version": key.version,
            "state": state(key),
            "since": timestamp(key.since.as_ref()),
            "superseded_time": timestamp(key.superseded_time.as_ref()),
            "destroy_time": timestamp(key.destroy_time.as_ref()),
            "wraps": key.wraps,
            "max_wraps": key.max_wraps,
            "overdue_time": timestamp(key.overdue_time.as_ref()),
        })
    };
    let system = |key: &SystemKey| {
        json!({
            "id": key.id,
            "current": key.current,
            "since": timestamp(key.since.as_ref()),
            "records": key.records,
        })
    };
    json!({
        "ways": keys.ways.iter().map(way).collect::<Vec<_>>(),
        "master_keys": keys.master_keys.iter().map(master).collect::<Vec<_>>(),
        "system_keys": keys.system_keys.iter().map(system).collect::<Vec<_>>(),
        "q_version": keys.q_version,
        "alarms": keys.alarms,
    })
}
