//! `principal`: registered services and operators.
//!
//! Invariant: a record that exists loses nothing by a `put` that does not name it, unless that is asked for; the etag of
//! what was looked at goes along, so that nobody's change in between is lost.

use clap::{Args, Subcommand};
use keystead_client::Error;
use keystead_client::v1::certificate_matcher::San;
use keystead_client::v1::{CertificateMatcher, Principal};
use serde_json::{Value, json};

use super::{Connect, timestamp, yes_or_no};
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

const EXAMPLES: &str = "\
Examples:
  keystead principal put service/shop --group apps --spiffe spiffe://example.org/shop
  keystead principal put operator/bob --email bob@example.org
  keystead principal put service/shop --spiffe spiffe://example.org/shop2 --replace

A record is replaced as a whole. What it would lose is named and refused, unless --replace is given.

To lock a principal out and leave its record alone: keystead principal disable service/shop";

#[derive(Debug, Subcommand)]
pub(crate) enum PrincipalCommand {
    /// Register a principal, or replace its record
    #[command(after_help = EXAMPLES)]
    Put(PutArgs),
    /// Show a principal
    Get(NameArgs),
    /// List principals
    List,
    /// Refuse a principal from its next request on; the rest of its record stays
    Disable(NameArgs),
    /// Let a disabled principal in again
    Enable(NameArgs),
    /// Remove a principal: its next request is refused
    Delete(DeleteArgs),
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
    /// Replace a record that has more than is given here
    #[arg(long)]
    replace: bool,
    /// Only if the record's etag is this one
    #[arg(long)]
    etag: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// service/NAME or operator/NAME
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// service/NAME or operator/NAME
    name: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(crate) async fn run(
    command: PrincipalCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    match command {
        PrincipalCommand::Put(args) => put(args, connect, output).await,
        PrincipalCommand::Disable(args) => set_disabled(&args.name, true, connect, output).await,
        PrincipalCommand::Enable(args) => set_disabled(&args.name, false, connect, output).await,
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
            prompt::confirm(&format!("Remove {}?", args.name), args.yes)?;
            connect.connect().await?.auth().delete_principal(&args.name).await?;
            output.sentence(&format!("{} is removed.", args.name), &json!({ "deleted": args.name }))
        }
    }
}

async fn put(args: PutArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let replace = args.replace;
    let mut new = record(args);
    let auth = connect.connect().await?.auth();
    if !replace {
        match auth.principal(&new.name).await {
            Ok(old) => {
                let lost = lost(&old, &new);
                if !lost.is_empty() {
                    return Err(CliError::WouldDrop { name: new.name, lost: lost.join(", ") });
                }
                if new.etag.is_empty() {
                    new.etag = old.etag;
                }
            }
            // A new one, or one that the caller may not see: the server knows.
            Err(Error::NotFoundOrDenied(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let stored = auth.put_principal(new).await?;
    let state = if stored.disabled { "is disabled" } else { "is registered" };
    output.sentence(&format!("{} {state}.", stored.name), &as_json(&stored))
}

async fn set_disabled(
    name: &str,
    disabled: bool,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    let auth = connect.connect().await?.auth();
    let found = auth.principal(name).await?;
    let stored = auth.put_principal(Principal { disabled, ..found }).await?;
    let state = if stored.disabled { "disabled" } else { "enabled" };
    output.sentence(&format!("{} is {state}.", stored.name), &as_json(&stored))
}

/// What the old record has and the new one would not.
fn lost(old: &Principal, new: &Principal) -> Vec<String> {
    let groups = old.groups.iter().filter(|group| !new.groups.contains(group));
    let kept = certificates(new);
    groups
        .map(|group| format!("group {group}"))
        .chain(certificates(old).into_iter().filter(|certificate| !kept.contains(certificate)))
        .chain((old.disabled && !new.disabled).then(|| "its lock (--disabled)".to_owned()))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_would_lose_is_named() {
        let record = |groups: &[&str], dns: &[&str]| {
            record(PutArgs {
                name: "service/shop".into(),
                groups: groups.iter().map(|&group| group.into()).collect(),
                spiffe: vec!["spiffe://example.org/shop".into()],
                dns: dns.iter().map(|&name| name.into()).collect(),
                email: Vec::new(),
                disabled: false,
                replace: false,
                etag: None,
            })
        };
        let old = record(&["apps", "web"], &["shop.internal"]);
        assert_eq!(lost(&old, &record(&["web"], &[])), ["group apps", "dns:shop.internal"]);
        let locked = Principal { disabled: true, ..old.clone() };
        assert_eq!(lost(&locked, &old), ["its lock (--disabled)"]);
        assert!(lost(&old, &locked).is_empty());
        assert!(lost(&old, &record(&["new", "web", "apps"], &["a.internal", "shop.internal"])).is_empty());
    }
}
