//! `static-role`: logins that somebody else made, whose passwords the vault keeps and changes.
//!
//! Invariant: a static role that exists keeps what a `put` does not name; the etag of what was looked at goes along. Passwords
//! come from a terminal, a file or standard input.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keystead_client::v1::static_role::Logins;
use keystead_client::v1::{
    ExcessHandling, PostgresStaticLogins, StaticRole, StaticRotation, StaticRotationStep,
};
use keystead_client::{Error, StaticPasswords};
use serde_json::{Value, json};

use super::{Connect, timestamp, yes_or_no};
use crate::args::named::{DeleteArgs, NameArgs, Needed};
use crate::args::span::Span;
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

const FIRST: &str = "the password that the login has now";
const SECOND: &str = "the password that the second login has now";

const PUT: &str = "\
Examples:
  keystead static-role put ledger --target shop-db --login ledger --every 30d
  keystead static-role put ledger --target shop-db --every 7d \\
      --login ledger_a --second-login ledger_b
  keystead static-role put ledger --every 14d                    the rest stays as it is
  keystead static-role put ledger --password-file new-password   changed in the database

Of a new static role the password that each login has now is asked for, or read from --password-file. It is tried, and handed out \
until it is changed: on schedule, or by `keystead static-role rotate` once its holders ask the vault. The two logins of one static \
role take turns, so that what was handed out before a rotation works until the next; give both the same rights.";

#[derive(Debug, Subcommand)]
pub(crate) enum StaticRoleCommand {
    /// Define a static role, or change it
    #[command(after_help = PUT)]
    Put(Box<PutArgs>),
    /// Show a static role, never a password
    Get(NameArgs),
    /// List static roles
    List,
    /// Forget a static role; its logins stay, with passwords that nobody has then
    Delete(DeleteArgs),
    /// Change the password now
    #[command(after_help = "Example:\n  keystead static-role rotate ledger")]
    Rotate(NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Its name
    name: String,
    /// The target that the logins are in
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// The login
    #[arg(long, value_name = "NAME")]
    login: Option<String>,
    /// Another login with the same rights, to take turns with the first
    #[arg(long, value_name = "NAME", requires = "login")]
    second_login: Option<String>,
    /// How long a password stays, as in 30d; from 1m to 400d. Without it, until somebody asks
    #[arg(long, value_name = "SPAN")]
    every: Option<Span>,
    /// Change the password only when somebody asks
    #[arg(long, conflicts_with = "every")]
    by_hand: bool,
    /// Take a login that can do more than a service needs, such as SUPERUSER
    #[arg(long)]
    allow_excess: bool,
    /// Refuse such a login again, from the next password that is given
    #[arg(long, conflicts_with = "allow_excess")]
    refuse_excess: bool,
    /// File with the password that the login has now; "-" is standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The same of the second login
    #[arg(long, value_name = "FILE")]
    second_password_file: Option<PathBuf>,
    /// Only if the static role's etag is this one
    #[arg(long)]
    etag: Option<String>,
}

pub(crate) async fn run(
    command: StaticRoleCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    match command {
        StaticRoleCommand::Put(args) => put(*args, connect, output).await,
        StaticRoleCommand::Get(args) => {
            show(&connect.connect().await?.static_roles().get(&args.name).await?, output)
        }
        StaticRoleCommand::List => list(connect, output).await,
        StaticRoleCommand::Delete(args) => {
            let question = format!(
                "Forget static role {}? Its logins stay, with passwords that only the vault had.",
                args.name
            );
            prompt::confirm(&question, args.yes)?;
            connect.connect().await?.static_roles().delete(&args.name).await?;
            let sentence = format!(
                "Static role {} is forgotten. Its logins are still there: give them other passwords, since nobody has theirs.",
                args.name
            );
            output.sentence(&sentence, &json!({ "deleted": args.name }))
        }
        StaticRoleCommand::Rotate(args) => {
            let role = connect.connect().await?.static_roles().rotate(&args.name).await?;
            let rotation = role.rotation.clone().unwrap_or_default();
            let sentence = format!(
                "Static role {} hands out login {} with password number {}.",
                role.name, rotation.login, rotation.version
            );
            output.sentence(&sentence, &as_json(&role))
        }
    }
}

async fn put(args: PutArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let roles = connect.connect().await?.static_roles();
    let old = match roles.get(&args.name).await {
        Ok(old) => Some(old),
        // A new one, or one that the caller may not see: the server knows.
        Err(Error::NotFoundOrDenied(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let files = [args.password_file.clone(), args.second_password_file.clone()];
    let role = record(args, old.as_ref())?;
    let second = matches!(&role.logins, Some(Logins::Postgres(logins)) if !logins.second.is_empty());
    let [first_file, second_file] = files;
    let given = |what, option, file: Option<PathBuf>, wanted: bool| match (&file, &old) {
        (None, Some(_)) => Ok(None),
        (None, None) if !wanted => Ok(None),
        _ => prompt::short_secret(what, option, file.as_deref()).map(Some),
    };
    let passwords = StaticPasswords {
        first: given(FIRST, "--password-file", first_file, true)?,
        second: given(SECOND, "--second-password-file", second_file, second)?,
    };
    let stored = roles.put(role, passwords).await?;
    output.sentence(&format!("Static role {} is stored.", stored.name), &as_json(&stored))?;
    let rotation = stored.rotation.clone().unwrap_or_default();
    if rotation.version == 0 && !output.is_json() {
        let until = match timestamp(rotation.next_rotate_time.as_ref()) {
            none if none.is_empty() => String::new(),
            due => format!(" at {due}, or"),
        };
        output.remark(&format!(
            "Login {} keeps the password that it has. It is changed{until} by `keystead static-role rotate {}`.",
            rotation.login, stored.name
        ));
    }
    Ok(())
}

/// What is given, and else what the static role has.
fn record(args: PutArgs, old: Option<&StaticRole>) -> Result<StaticRole, CliError> {
    let had = match old.map(|old| old.logins.as_ref()) {
        None => None,
        Some(Some(Logins::Postgres(logins))) => Some(logins),
        Some(None) => return Err(CliError::UnknownKind { what: "static role", name: args.name }),
    };
    let mut needed = Needed::default();
    let named = args.login.is_some();
    let target = needed.of(args.target.or_else(|| old.map(|old| old.target.clone())), "--target");
    let first = needed.of(args.login.or_else(|| had.map(|had| had.first.clone())), "--login");
    needed.none_is_missing()?;
    let logins = PostgresStaticLogins {
        first,
        second: match (args.second_login, had) {
            (Some(second), _) => second,
            (None, Some(had)) if !named => had.second.clone(),
            (None, _) => String::new(),
        },
    };
    let every = args.every.map(Span::to_wire);
    let on_excess = match (args.allow_excess, args.refuse_excess) {
        (true, _) => ExcessHandling::Warn.into(),
        (false, true) => ExcessHandling::Refuse.into(),
        (false, false) => old.map_or(ExcessHandling::Refuse.into(), |old| old.on_excess),
    };
    Ok(StaticRole {
        name: args.name,
        target,
        logins: Some(Logins::Postgres(logins)),
        rotation_period: every.or_else(|| old.and_then(|old| old.rotation_period)).filter(|_| !args.by_hand),
        on_excess,
        etag: args.etag.or_else(|| old.map(|old| old.etag.clone())).unwrap_or_default(),
        ..StaticRole::default()
    })
}

fn show(role: &StaticRole, output: &Output) -> Result<(), CliError> {
    let Some(Logins::Postgres(logins)) = &role.logins else {
        return Err(CliError::UnknownKind { what: "static role", name: role.name.clone() });
    };
    let rotation = role.rotation.clone().unwrap_or_default();
    output.facts(
        &[
            ("Name", role.name.clone()),
            ("Target", role.target.clone()),
            ("Login", logins.first.clone()),
            ("Second login", logins.second.clone()),
            ("Hands out", rotation.login.clone()),
            ("Version", rotation.version.to_string()),
            ("Changes", every(role)),
            ("May do too much", yes_or_no(role.on_excess == i32::from(ExcessHandling::Warn))),
            ("Changed", timestamp(rotation.rotate_time.as_ref())),
            ("Next change", timestamp(rotation.next_rotate_time.as_ref())),
            ("Under way", under_way(&rotation)),
            ("Last error", rotation.last_error.clone()),
            ("Defined", timestamp(role.create_time.as_ref())),
            ("Etag", role.etag.clone()),
        ],
        &as_json(role),
    )
}

fn every(role: &StaticRole) -> String {
    match &role.rotation_period {
        Some(period) => format!("every {}", Span::from_wire(Some(period))),
        None => "by hand".to_owned(),
    }
}

fn step(rotation: &StaticRotation) -> &'static str {
    match StaticRotationStep::try_from(rotation.step) {
        Ok(StaticRotationStep::Unspecified) => "",
        Ok(StaticRotationStep::Created) => "created",
        Ok(StaticRotationStep::Set) => "set",
        Ok(StaticRotationStep::Tested) => "tested",
        Err(_) => "unknown",
    }
}

fn under_way(rotation: &StaticRotation) -> String {
    match (step(rotation), rotation.failures) {
        ("", _) => String::new(),
        (step, 0) => step.to_owned(),
        (step, failures) => {
            format!("{step}; {failures} failed, next try {}", timestamp(rotation.next_try_time.as_ref()))
        }
    }
}

async fn list(connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let mut roles = connect.connect().await?.static_roles().list().collect().await?;
    roles.sort_by(|a, b| a.name.cmp(&b.name));
    let row = |role: &StaticRole| {
        let rotation = role.rotation.clone().unwrap_or_default();
        vec![
            role.name.clone(),
            role.target.clone(),
            rotation.login.clone(),
            rotation.version.to_string(),
            every(role),
            timestamp(rotation.next_rotate_time.as_ref()),
            under_way(&rotation),
        ]
    };
    let rows: Vec<_> = roles.iter().map(row).collect();
    output.table(
        &["NAME", "TARGET", "LOGIN", "VERSION", "CHANGES", "NEXT CHANGE", "UNDER WAY"],
        &rows,
        &roles.iter().map(as_json).collect::<Vec<_>>(),
    )
}

fn as_json(role: &StaticRole) -> Value {
    let rotation = role.rotation.clone().unwrap_or_default();
    let postgres = role
        .logins
        .as_ref()
        .map(|Logins::Postgres(logins)| json!({ "first": logins.first, "second": logins.second }));
    let warn = role.on_excess == i32::from(ExcessHandling::Warn);
    json!({
        "name": role.name,
        "target": role.target,
        "postgres": postgres,
        "rotation_period": role.rotation_period.as_ref().map(|period| Span::from_wire(Some(period))),
        "on_excess": if warn { "warn" } else { "refuse" },
        "rotation": {
            "login": rotation.login,
            "version": rotation.version,
            "rotate_time": timestamp(rotation.rotate_time.as_ref()),
            "next_rotate_time": timestamp(rotation.next_rotate_time.as_ref()),
            "step": step(&rotation),
            "failures": rotation.failures,
            "next_try_time": timestamp(rotation.next_try_time.as_ref()),
            "last_error": rotation.last_error,
        },
        "create_time": timestamp(role.create_time.as_ref()),
        "update_time": timestamp(role.update_time.as_ref()),
        "etag": role.etag,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> PutArgs {
        PutArgs {
            name: "ledger".into(),
            target: None,
            login: None,
            second_login: None,
            every: None,
            by_hand: false,
            allow_excess: false,
            refuse_excess: false,
            password_file: None,
            second_password_file: None,
            etag: None,
        }
    }

    fn new() -> StaticRole {
        let args = PutArgs {
            target: Some("shop-db".into()),
            login: Some("a".into()),
            second_login: Some("b".into()),
            every: Some("7d".parse().unwrap()),
            ..args()
        };
        record(args, None).unwrap()
    }

    #[test]
    fn a_new_static_role_needs_its_target_and_its_login() {
        for (given, lacking) in [
            (PutArgs { login: Some("a".into()), ..args() }, "--target"),
            (PutArgs { target: Some("t".into()), ..args() }, "--login"),
            (args(), "--target, --login"),
        ] {
            let error = record(given, None).unwrap_err();
            assert_eq!(error.to_string(), format!("a new one needs {lacking}"));
        }
    }

    #[test]
    fn a_static_role_keeps_what_is_not_named() {
        let old = StaticRole { etag: "e1".into(), on_excess: ExcessHandling::Warn.into(), ..new() };
        let same = record(args(), Some(&old)).unwrap();
        assert_eq!(same, old);
        let other = record(PutArgs { every: Some("1d".parse().unwrap()), ..args() }, Some(&old)).unwrap();
        assert_eq!(other.rotation_period.unwrap().seconds, 86_400);
        assert_eq!((other.logins, other.etag), (old.logins.clone(), old.etag.clone()));
        let by_hand = record(PutArgs { by_hand: true, ..args() }, Some(&old)).unwrap();
        assert_eq!(by_hand.rotation_period, None);
        // The server says no to another login; a second one is not carried over to it.
        let login = record(PutArgs { login: Some("c".into()), ..args() }, Some(&old)).unwrap();
        let logins = PostgresStaticLogins { first: "c".into(), second: String::new() };
        assert_eq!(login.logins, Some(Logins::Postgres(logins)));
    }
}
