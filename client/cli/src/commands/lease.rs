//! `lease`: who holds which login, for how long; one's own without further rights.

use clap::{Args, Subcommand};
use keystead_client::{EndReason, Lease, LeaseClock, LeaseEnding, LeaseSelector, LeaseState};
use serde_json::{Value, json};

use super::{Connect, creds, time};
use crate::args::span::Span;
use crate::error::CliError;
use crate::output::{Output, escaped};
use crate::prompt;

const LIST: &str = "\
Examples:
  keystead lease list                    your own
  keystead lease list --target shop-db
  keystead lease list --due -n 20        of all, the 20 soonest to end";
const WATCH: &str = "\
Examples:
  keystead lease watch 0f1e2d3c4b5a69788796a5b4c3d2e1f0
  keystead lease watch 0f1e2d3c4b5a69788796a5b4c3d2e1f0 -o json | jq --unbuffered -r .state

It ends well when the login is gone, and fails if it could not follow for so long. What comes too fast to be read is one change.";
const RENEW: &str = "\
Examples:
  keystead lease renew 0f1e2d3c4b5a69788796a5b4c3d2e1f0 --ttl 1h
  keystead lease renew 0f1e2d3c4b5a69788796a5b4c3d2e1f0             as long as the first period

The period begins now. It is cut to what role, target and configuration allow today, and ends with the lease's longest life.";
const REVOKE: &str = "\
Examples:
  keystead lease revoke 0f1e2d3c4b5a69788796a5b4c3d2e1f0
  keystead lease revoke --role shop
  keystead lease revoke --principal service/shop --yes

The target is asked in the background, until it confirms that the login is gone; the lease is `revoking` until then. --force closes \
it at once, although the login may still be there: the last resort, recorded with who did it. It also removes a lease whose record \
cannot be read. A login that is left goes when its target answers and is compared with the leases.";

/// Leases that are printed together.
const AT_A_TIME: usize = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// List leases
    #[command(after_help = LIST)]
    List(ListArgs),
    /// Show a lease
    Get(IdArgs),
    /// Print a lease, and a line for each change, until its login is gone
    #[command(after_help = WATCH)]
    Watch(IdArgs),
    /// Begin another period
    #[command(after_help = RENEW)]
    Renew(RenewArgs),
    /// Remove the login of a lease, or of many
    #[command(after_help = REVOKE)]
    Revoke(RevokeArgs),
    /// Say that the server's clock is right, after a warning that it is in doubt
    AcceptClock(AcceptClockArgs),
}

/// Which leases; at most one of these.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Which {
    /// Of this principal: service/NAME or operator/NAME
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// Issued from this role
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// Issued from roles whose names begin so
    #[arg(long, value_name = "PREFIX")]
    role_prefix: Option<String>,
    /// In this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Of the session whose token you use
    #[arg(long)]
    session: bool,
}

impl Which {
    fn selector(self) -> Option<LeaseSelector> {
        self.principal
            .map(LeaseSelector::Principal)
            .or(self.role.map(LeaseSelector::Role))
            .or(self.role_prefix.map(LeaseSelector::RolePrefix))
            .or(self.target.map(LeaseSelector::Target))
            .or(self.session.then_some(LeaseSelector::Session))
    }
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// All, the soonest to end first
    #[arg(long, conflicts_with = "Which")]
    due: bool,
    /// At most this many
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct IdArgs {
    /// Its id, as `keystead lease list` shows it
    id: String,
}

#[derive(Debug, Args)]
pub(crate) struct RenewArgs {
    /// Its id, as `keystead lease list` shows it
    id: String,
    /// How long this period is to be, as in 15m; without it, as long as the first one, whatever was asked for since
    #[arg(long, value_name = "SPAN")]
    ttl: Option<Span>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Its id, as `keystead lease list` shows it
    #[arg(required_unless_present_any = ["Which", "own"], conflicts_with_all = ["Which", "own"])]
    id: Option<String>,
    #[command(flatten)]
    which: Which,
    /// All of your own
    #[arg(long, conflicts_with = "Which")]
    own: bool,
    /// Close the lease although its target does not confirm it: the last resort
    #[arg(long, conflicts_with_all = ["Which", "own"])]
    force: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptClockArgs {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(crate) async fn run(
    command: LeaseCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    match command {
        LeaseCommand::List(args) => list(args, connect, output).await,
        LeaseCommand::Get(args) => {
            let lease = connect.connect().await?.leases().get(&args.id).await?;
            output.facts(&facts(&lease), &as_json(&lease))
        }
        LeaseCommand::Watch(args) => watch(args, connect, output).await,
        LeaseCommand::Renew(args) => renew(args, connect, output).await,
        LeaseCommand::Revoke(args) => revoke(args, connect, output).await,
        LeaseCommand::AcceptClock(args) => accept_clock(args, connect, output).await,
    }
}

async fn list(args: ListArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let or = if args.due { LeaseSelector::Due } else { LeaseSelector::Own };
    let selector = args.which.selector().unwrap_or(or);
    let mut found = connect.connect().await?.leases().list(&selector);
    let limit = args.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let mut table = output.growing(&["LEASE", "OWNER", "ROLE", "TARGET", "STATE", "ENDS", "LOGIN"]);
    let row = |lease: &Lease| {
        vec![
            lease.id.clone(),
            lease.owner.clone(),
            lease.role.clone(),
            lease.target.clone(),
            state_shown(lease),
            time(lease.expires),
            lease.login.clone(),
        ]
    };
    // There may be more than fit here: what came is printed before more is asked for.
    let mut left = limit;
    let mut some = Vec::new();
    while left > 0
        && let Some(lease) = found.next().await?
    {
        some.push((row(&lease), as_json(&lease)));
        left -= 1;
        if some.len() == AT_A_TIME {
            table.rows(std::mem::take(&mut some))?;
        }
    }
    table.rows(some)?;
    table.end()
}

async fn watch(args: IdArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let mut changes = connect.connect().await?.leases().watch(&args.id).await?;
    let mut first = true;
    while let Some(lease) = changes.next().await? {
        if output.is_json() {
            output.json(&as_json(&lease))?;
            continue;
        }
        // Only now: what is refused has no table.
        if std::mem::take(&mut first) {
            output.text(&change("STATE", "ENDS", "DETAIL"))?;
        }
        output.text(&change(&state_shown(&lease), &time(lease.expires), &described_change(&lease)))?;
    }
    Ok(())
}

/// A line of a lease's changes: they come one by one, so that no width is known beforehand.
fn change(state: &str, ends: &str, detail: &str) -> String {
    let detail = if detail.is_empty() { "-".to_owned() } else { escaped(detail) };
    format!("{:20}  {:24}  {detail}\n", escaped(state), escaped(ends))
}

/// What is to be said of a lease beside its state and its end.
fn described_change(lease: &Lease) -> String {
    let mut words = Vec::new();
    let mut say = |name: &str, value: String| {
        if !value.is_empty() {
            words.push(format!("{name}={value}"));
        }
    };
    say("renewed", counted(lease.renewals));
    say("set_anew", counted(lease.reissues));
    if let Some(ending) = &lease.ending {
        say("because", reason(ending.reason).to_owned());
        say("next_try", time(ending.next_try));
        say("last_error", ending.last_error.clone().unwrap_or_default());
        say("forced_by", ending.forced_by.clone().unwrap_or_default());
    }
    words.join("  ")
}

async fn renew(args: RenewArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let ttl = args.ttl.map(Span::duration);
    let renewed = connect.connect().await?.leases().renew(&args.id, ttl).await?;
    let lease = &renewed.lease;
    if let Some(credential) = &renewed.credential {
        return creds::show(lease, credential, &[], output);
    }
    let ends = time(lease.expires);
    let sentence = if lease.expires == lease.max_expires {
        format!("The lease ends at {ends}, which is the latest: issue a new one before.")
    } else {
        format!("The lease ends at {ends} unless renewed.")
    };
    output.sentence(&sentence, &json!({ "lease": as_json(lease) }))
}

async fn revoke(args: RevokeArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let Some(id) = &args.id else {
        let selector = args.which.selector().unwrap_or(LeaseSelector::Own);
        prompt::confirm(&format!("Revoke all leases {}?", described(&selector)), args.yes)?;
        let marked = connect.connect().await?.leases().revoke_all(&selector).await?;
        let sentence = match marked {
            1 => "1 lease is marked; its login is being removed.".to_owned(),
            _ => format!("{marked} leases are marked; their logins are being removed."),
        };
        return output.sentence(&sentence, &json!({ "leases": marked }));
    };
    if args.force {
        let question = format!("Close lease {id} although its login may still be there?");
        prompt::confirm(&question, args.yes)?;
    }
    let leases = connect.connect().await?.leases();
    let lease = if args.force { leases.force(id).await? } else { Some(leases.revoke(id).await?) };
    let Some(lease) = lease else {
        let sentence = format!(
            "The record of lease {id} could not be read and is removed. Its login goes when its target is next compared with the leases."
        );
        return output.sentence(&sentence, &json!({ "lease": null }));
    };
    let sentence = match (lease.state, lease.ending.as_ref().and_then(|ending| ending.forced_by.as_ref())) {
        (LeaseState::Revoked, None) => format!("Lease {id} is revoked: its login is gone."),
        (LeaseState::Revoked, Some(by)) => {
            format!("Lease {id} was closed by {by}; its login may still be there.")
        }
        _ => format!("Lease {id} is being revoked: its login in target {} is being removed.", lease.target),
    };
    output.sentence(&sentence, &json!({ "lease": as_json(&lease) }))
}

async fn accept_clock(args: AcceptClockArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let question = "Did you look at the server's clock? Leases that are over by it are revoked at once.";
    prompt::confirm(question, args.yes)?;
    let clock = connect.connect().await?.leases().accept_clock().await?;
    let (state, sentence) = match clock {
        LeaseClock::Agreed => ("agreed", "The clock is accepted: leases end again.".to_owned()),
        LeaseClock::Stepped { by } => {
            let by = Span::of(by);
            ("stepped", format!("The clock was stepped by {by}; leases go by the time that passed."))
        }
        LeaseClock::Doubted { .. } => ("doubted", "The clock is still in doubt.".to_owned()),
        _ => ("unknown", "The clock is in a state that this program does not know.".to_owned()),
    };
    output.sentence(&sentence, &json!({ "clock": state }))
}

fn described(selector: &LeaseSelector) -> String {
    match selector {
        LeaseSelector::Own => "of your own".to_owned(),
        LeaseSelector::Principal(name) => format!("of {name}"),
        LeaseSelector::Role(name) => format!("of role {name}"),
        LeaseSelector::RolePrefix(prefix) => format!("of roles that begin with {prefix}"),
        LeaseSelector::Target(name) => format!("in target {name}"),
        LeaseSelector::Session => "of your session".to_owned(),
        _ => "there are".to_owned(),
    }
}

/// What is said of a lease.
pub(super) fn facts(lease: &Lease) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Lease", lease.id.clone()),
        ("Owner", lease.owner.clone()),
        ("Role", lease.role.clone()),
        ("Target", lease.target.clone()),
        ("Login", lease.login.clone()),
        ("State", state(lease.state).to_owned()),
        ("Issued", time(lease.issued)),
        ("Ends", time(lease.expires)),
        ("At the latest", time(lease.max_expires)),
        ("Period", Span::of(lease.period).to_string()),
        ("Renewed", counted(lease.renewals)),
        ("Set anew", counted(lease.reissues)),
    ];
    if let Some(ending) = &lease.ending {
        facts.extend([
            ("Because", reason(ending.reason).to_owned()),
            ("Revoking since", time(ending.since)),
            ("Failures", counted(ending.failures)),
            ("Next try", time(ending.next_try)),
            ("Last error", ending.last_error.clone().unwrap_or_default()),
            ("Closed", time(ending.closed)),
            ("Forced by", ending.forced_by.clone().unwrap_or_default()),
        ]);
    }
    facts
}

fn counted(times: u32) -> String {
    if times == 0 { String::new() } else { times.to_string() }
}

/// The state, and what stands in the way of the next.
fn state_shown(lease: &Lease) -> String {
    let failures = lease.ending.as_ref().map_or(0, |ending| ending.failures);
    match lease.state {
        LeaseState::Revoking if failures > 0 => format!("revoking ({failures} failed)"),
        other => state(other).to_owned(),
    }
}

fn state(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Issuing => "issuing",
        LeaseState::Active => "active",
        LeaseState::Revoking => "revoking",
        LeaseState::Revoked => "revoked",
        _ => "unknown",
    }
}

fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Expired => "expired",
        EndReason::Asked => "asked",
        EndReason::NotIssued => "not-issued",
        EndReason::SessionEnded => "session-ended",
        EndReason::OwnerGone => "owner-gone",
        EndReason::LoginGone => "login-gone",
        _ => "unknown",
    }
}

/// A lease as JSON.
pub(super) fn as_json(lease: &Lease) -> Value {
    let ending = |ending: &LeaseEnding| {
        json!({
            "reason": reason(ending.reason),
            "start_time": time(ending.since),
            "failures": ending.failures,
            "next_try_time": time(ending.next_try),
            "last_error": ending.last_error.as_deref().unwrap_or_default(),
            "close_time": time(ending.closed),
            "forced_by": ending.forced_by.as_deref().unwrap_or_default(),
        })
    };
    json!({
        "id": lease.id,
        "owner": lease.owner,
        "role": lease.role,
        "target": lease.target,
        "state": state(lease.state),
        "login": lease.login,
        "create_time": time(lease.issued),
        "period": Span::of(lease.period),
        "expire_time": time(lease.expires),
        "max_expire_time": time(lease.max_expires),
        "renewals": lease.renewals,
        "reissues": lease.reissues,
        "ending": lease.ending.as_ref().map(ending),
    })
}
