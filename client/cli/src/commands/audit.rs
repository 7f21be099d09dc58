//! `audit tail`: entries of the audit log, one a line, as they come.

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
    while let Some(entry) = entries.next().await? {
        if output.is_json() {
            output.json(&as_json(&entry))?;
        } else {
            output.text(&line(&entry))?;
        }
    }
    Ok(())
}

/// What matters to a person, in one line; what is empty is left out.
fn line(entry: &AuditEntry) -> String {
    let mut words = vec![
        entry.sequence.to_string(),
        timestamp(entry.time.as_ref()),
        entry.kind.clone(),
        entry.principal.clone(),
        entry.action.clone(),
        entry.resource.clone(),
        entry.decision.clone(),
    ];
    let named =
        |name: &str, value: &str| if value.is_empty() { String::new() } else { format!("{name}={value}") };
    words.push(named("outcome", &entry.outcome));
    words.push(named("by", &entry.policies.join(",")));
    words.push(named("from", &entry.peer));
    words.push(named("request", &entry.request_id));
    words.push(entry.intent.map(|intent| format!("intent={intent}")).unwrap_or_default());
    words.extend(detail(entry).into_iter().map(|(name, value)| format!("{name}={value}")));
    words.retain(|word| !word.is_empty());
    format!("{}\n", escaped(&words.join("  ")))
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
        assert_eq!(
            line,
            "7  read  service/shop  secrets:read  secret/shop/\\u{1b}[2J\\u{a}db  allow  outcome=ok\n"
        );
    }
}
