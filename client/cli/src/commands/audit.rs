//! `audit tail`: entries of the audit log, one a line, as they come.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use keystead_client::v1::AuditEntry;
use serde_json::{Value, json};

use super::{Connect, timestamp};
use crate::error::CliError;
use crate::output::{Output, escaped};

const EXAMPLES: &str = "\
Examples:
  keystead audit tail -n 100
  keystead audit tail --follow -o json | jq 'select(.decision == \"deny\")'";

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Print the newest entries, oldest first
    #[command(after_help = EXAMPLES)]
    Tail(TailArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// How many of the newest entries to begin with
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    last: u32,
    /// Stay and print what comes
    #[arg(long, short)]
    follow: bool,
}

pub(crate) async fn run(
    command: AuditCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    let AuditCommand::Tail(args) = command;
    let mut entries = connect.connect().await?.audit().tail(args.last, args.follow).await?;
    if !output.is_json() {
        output.text(&head())?;
    }
    while let Some(entry) = entries.next().await? {
        if output.is_json() {
            output.json(&as_json(&entry))?;
        } else {
            output.text(&line(&entry))?;
        }
    }
    Ok(())
}

/// The columns that matter to a person and their widths: entries come one by one, so that none is known beforehand.
const COLUMNS: [(&str, usize); 8] = [
    ("SEQUENCE", 8),
    ("TIME", 24),
    ("KIND", 8),
    ("PRINCIPAL", 18),
    ("ACTION", 17),
    ("RESOURCE", 26),
    ("DECISION", 14),
    ("OUTCOME", 15),
];

fn head() -> String {
    row(&COLUMNS.map(|(name, _)| name.to_owned()), "DETAIL")
}

fn line(entry: &AuditEntry) -> String {
    let named =
        |name: &str, value: &str| if value.is_empty() { String::new() } else { format!("{name}={value}") };
    let mut more = vec![
        named("by", &entry.policies.join(",")),
        named("from", &entry.peer),
        named("request", &entry.request_id),
        entry.intent.map(|intent| format!("intent={intent}")).unwrap_or_default(),
    ];
    more.extend(detail(entry).into_iter().map(|(name, value)| format!("{name}={value}")));
    more.retain(|word| !word.is_empty());
    let cells = [
        entry.sequence.to_string(),
        timestamp(entry.time.as_ref()),
        entry.kind.clone(),
        entry.principal.clone(),
        entry.action.clone(),
        entry.resource.clone(),
        entry.decision.clone(),
        entry.outcome.clone(),
    ];
    row(&cells, &more.join("  "))
}

/// One line; what is empty is a dash.
fn row(cells: &[String; COLUMNS.len()], last: &str) -> String {
    let shown = |text: &str| if text.is_empty() { "-".to_owned() } else { escaped(text) };
    let mut line = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let _infallible = write!(line, "{:width$}  ", shown(cell));
    }
    line.push_str(&shown(last));
    line.push('\n');
    line
}

fn detail(entry: &AuditEntry) -> Vec<(&String, &String)> {
    let mut detail: Vec<_> = entry.detail.iter().collect();
    detail.sort();
    detail
}

fn as_json(entry: &AuditEntry) -> Value {
    json!({
        "sequence": entry.sequence,
        "node": entry.node,
        "time": timestamp(entry.time.as_ref()),
        "kind": entry.kind,
        "principal": entry.principal,
        "method": entry.method,
        "peer": entry.peer,
        "action": entry.action,
        "resource": entry.resource,
        "decision": entry.decision,
        "policies": entry.policies,
        "outcome": entry.outcome,
        "request_id": entry.request_id,
        "trace_id": entry.trace_id,
        "latency_us": entry.latency_us,
        "intent": entry.intent,
        "detail": entry.detail,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_whatever_is_in_it() {
        let entry = AuditEntry {
            sequence: 7,
            kind: "read".into(),
            principal: "service/shop".into(),
            action: "secrets:read".into(),
            resource: "secret/shop/\u{1b}[2J\ndb".into(),
            decision: "allow".into(),
            outcome: "ok".into(),
            ..AuditEntry::default()
        };
        let line = line(&entry);
        let words: Vec<&str> = line.split_whitespace().collect();
        let resource = "secret/shop/\\u{1b}[2J\\u{a}db";
        assert_eq!(words, ["7", "-", "read", "service/shop", "secrets:read", resource, "allow", "ok", "-"]);
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn an_entry_stands_below_the_head() {
        let entry = AuditEntry {
            sequence: 7,
            kind: "read".into(),
            decision: "allow".into(),
            peer: "::1".into(),
            ..AuditEntry::default()
        };
        let (head, line) = (head(), line(&entry));
        for (column, cell) in [
            ("SEQUENCE", "7"),
            ("KIND", "read"),
            ("DECISION", "allow"),
            ("OUTCOME", "-"),
            ("DETAIL", "from=::1"),
        ] {
            let at = head.find(column).unwrap();
            assert!(line[at..].starts_with(cell), "{column}: {line}");
        }
    }
}
