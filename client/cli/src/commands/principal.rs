//! `principal`: registered services and operators.

use clap::{Args, Subcommand};
use keystead_client::v1::certificate_matcher::San;
use keystead_client::v1::{CertificateMatcher, Principal};
use serde_json::{Value, json};

use super::{Connect, timestamp, yes_or_no};
use crate::error::CliError;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  keystead principal put service/shop --group apps --spiffe spiffe://example.org/shop
  keystead principal put operator/bob --email bob@example.org
  keystead principal put service/shop --disabled                 refused from its next request on

The whole record is replaced: name every group and certificate again, or pass --etag to notice others' changes.";

#[derive(Debug, Subcommand)]
pub(crate) enum PrincipalCommand {
    /// Register a principal, or replace its record
    #[command(after_help = EXAMPLES)]
    Put(PutArgs),
    /// Show a principal
    Get(NameArgs),
    /// List principals
    List,
    /// Remove a principal: its next request is refused
    Delete(NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// service/NAME or operator/NAME
    name: String,
    /// A group that it belongs to; may be repeated
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// A SPIFFE id in its client certificate; may be repeated
    #[arg(long, value_name = "URI")]
    spiffe: Vec<String>,
    /// An exact DNS name in its client certificate; may be repeated
    #[arg(long, value_name = "HOST")]
    dns: Vec<String>,
    /// An exact e-mail address in its client certificate; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    email: Vec<String>,
    /// Refuse it from now on
    #[arg(long)]
    disabled: bool,
    /// Only if the record's etag is this one
    #[arg(long)]
    etag: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// service/NAME or operator/NAME
    name: String,
}

pub(crate) async fn run(
    command: PrincipalCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    match command {
        PrincipalCommand::Put(args) => {
            let stored = connect.connect().await?.auth().put_principal(record(args)).await?;
            output.sentence(&format!("{} is registered.", stored.name), &as_json(&stored))
        }
        PrincipalCommand::Get(args) => {
            let principal = connect.connect().await?.auth().principal(&args.name).await?;
            output.facts(
                &[
                    ("Name", principal.name.clone()),
                    ("Groups", principal.groups.join(", ")),
                    ("Certificates", certificates(&principal).join(", ")),
                    ("Disabled", yes_or_no(principal.disabled)),
                    ("Registered", timestamp(principal.create_time.as_ref())),
                    ("Etag", principal.etag.clone()),
                ],
                &as_json(&principal),
            )
        }
        PrincipalCommand::List => list(connect, output).await,
        PrincipalCommand::Delete(args) => {
            connect.connect().await?.auth().delete_principal(&args.name).await?;
            output.sentence(&format!("{} is removed.", args.name), &json!({ "deleted": args.name }))
        }
    }
}

async fn list(connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let mut principals = connect.connect().await?.auth().principals().collect().await?;
    principals.sort_by(|a, b| a.name.cmp(&b.name));
    let row = |principal: &Principal| {
        vec![
            principal.name.clone(),
            principal.groups.join(", "),
            certificates(principal).join(", "),
            yes_or_no(principal.disabled),
        ]
    };
    let rows: Vec<_> = principals.iter().map(row).collect();
    let json: Vec<_> = principals.iter().map(as_json).collect();
    output.table(&["NAME", "GROUPS", "CERTIFICATES", "DISABLED"], &rows, &json)
}

fn record(args: PutArgs) -> Principal {
    let sans = args
        .spiffe
        .into_iter()
        .map(San::SpiffeUri)
        .chain(args.dns.into_iter().map(San::Dns))
        .chain(args.email.into_iter().map(San::Email));
    Principal {
        name: args.name,
        groups: args.groups,
        certificates: sans.map(|san| CertificateMatcher { san: Some(san) }).collect(),
        disabled: args.disabled,
        create_time: None,
        etag: args.etag.unwrap_or_default(),
    }
}

fn certificates(principal: &Principal) -> Vec<String> {
    let shown = |san: &San| match san {
        San::SpiffeUri(uri) => uri.clone(),
        San::Dns(name) => format!("dns:{name}"),
        San::Email(address) => format!("email:{address}"),
    };
    principal.certificates.iter().filter_map(|matcher| matcher.san.as_ref()).map(shown).collect()
}

fn as_json(principal: &Principal) -> Value {
    json!({
        "name": principal.name,
        "groups": principal.groups,
        "certificates": certificates(principal),
        "disabled": principal.disabled,
        "create_time": timestamp(principal.create_time.as_ref()),
        "etag": principal.etag,
    })
}
