//! `policy`: Cedar policies. A change takes effect on the next request.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keystead_client::v1::{Policy, PolicyDecision, PrincipalStanding};
use serde_json::{Value, json};

use super::{Connect, timestamp};
use crate::args::named::{DeleteArgs, NameArgs};
use crate::error::CliError;
use crate::output::{Output, escaped};
use crate::prompt;

/// As the server's limit.
const MAX_TEXT_BYTES: usize = 64 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Store a policy; the server checks it strictly
    #[command(
        after_help = "Examples:\n  keystead policy put shop --file shop.cedar\n  cat shop.cedar | keystead policy put shop --file -"
    )]
    Put(PutArgs),
    /// Print a policy's text
    Get(NameArgs),
    /// List policies
    List,
    /// Remove a policy
    Delete(DeleteArgs),
    /// Say how a request would be decided, and why; nothing is done
    ///
    /// As if by certificate, now and from no address. Statements with conditions on these are named: they may decide otherwise.
    #[command(after_help = "Example:\n  keystead policy explain service/shop secrets:read secret/shop/db")]
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Its name
    name: String,
    /// File with the Cedar text; "-" is standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Only if the policy's etag is this one
    #[arg(long)]
    etag: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Who, such as service/shop
    principal: String,
    /// What, such as secrets:read
    action: String,
    /// Of what, such as secret/shop/db, folder/shop, policy/shop, audit or system
    resource: String,
}

pub(crate) async fn run(
    command: PolicyCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    match command {
        PolicyCommand::Put(args) => put(args, connect, output).await,
        PolicyCommand::Get(args) => {
            let policy = connect.connect().await?.policies().get(&args.name).await?;
            if output.is_json() {
                return output.json(&as_json(&policy));
            }
            policy.text.lines().try_for_each(|line| output.text(&format!("{}\n", escaped(line))))
        }
        PolicyCommand::List => list(connect, output).await,
        PolicyCommand::Delete(args) => {
            prompt::confirm(&format!("Remove policy {}?", args.name), args.yes)?;
            connect.connect().await?.policies().delete(&args.name).await?;
            output.sentence(&format!("Policy {} is removed.", args.name), &json!({ "deleted": args.name }))
        }
        PolicyCommand::Explain(args) => explain(args, connect, output).await,
    }
}

async fn put(args: PutArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let bytes = prompt::bytes("the policy", &args.file, MAX_TEXT_BYTES)?;
    let text = str::from_utf8(&bytes).map_err(|_| CliError::NotText { what: "the policy" })?.to_owned();
    let policy = Policy { name: args.name, text, update_time: None, etag: args.etag.unwrap_or_default() };
    let stored = connect.connect().await?.policies().put(policy).await?;
    output.sentence(&format!("Policy {} is stored.", stored.name), &as_json(&stored))
}

async fn list(connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let mut policies = connect.connect().await?.policies().list().collect().await?;
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    let row = |policy: &Policy| {
        vec![policy.name.clone(), timestamp(policy.update_time.as_ref()), policy.text.len().to_string()]
    };
    let rows: Vec<_> = policies.iter().map(row).collect();
    let json: Vec<_> = policies.iter().map(as_json).collect();
    output.table(&["NAME", "WRITTEN", "BYTES"], &rows, &json)
}

async fn explain(args: ExplainArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let policies = connect.connect().await?.policies();
    let answer = policies.explain(&args.principal, &args.action, &args.resource).await?;
    let decision = match answer.decision() {
        PolicyDecision::Allow => "allow",
        PolicyDecision::Deny => "deny",
        PolicyDecision::NeedsApproval => "needs approval",
        PolicyDecision::Unspecified => "unknown",
    };
    let because = match answer.determining.as_slice() {
        [] => "no statement allows it".to_owned(),
        statements => statements.join(", "),
    };
    let (standing, beside) = standing(answer.principal_standing());
    output.facts(
        &[
            ("Decision", decision.to_owned()),
            ("Because of", because),
            ("Depends on", depends_on(&answer.circumstantial)),
            ("Errors", answer.errors.join("; ")),
            ("Principal", beside.to_owned()),
        ],
        &json!({
            "decision": decision,
            "determining": answer.determining,
            "circumstantial": answer.circumstantial,
            "errors": answer.errors,
            "principal_standing": standing,
        }),
    )
}

/// What is told where the same request may be decided otherwise.
fn depends_on(statements: &[String]) -> String {
    match statements {
        [] => String::new(),
        statements => format!(
            "{}: with a condition on address, time or login; this is the answer by certificate, now, from no address",
            statements.join(", ")
        ),
    }
}

/// Whether the principal is let in at all: the word for programs, and what people are told where it is not.
fn standing(standing: PrincipalStanding) -> (&'static str, &'static str) {
    match standing {
        PrincipalStanding::Unspecified => ("unknown", ""),
        PrincipalStanding::Registered => ("registered", ""),
        PrincipalStanding::Disabled => ("disabled", "disabled: refused whatever the policies say"),
        PrincipalStanding::NotRegistered => (
            "not registered",
            "not registered: nobody is let in under this name, and it has no groups (`keystead principal put`)",
        ),
    }
}

fn as_json(policy: &Policy) -> Value {
    json!({
        "name": policy.name,
        "text": policy.text,
        "update_time": timestamp(policy.update_time.as_ref()),
        "etag": policy.etag,
    })
}
