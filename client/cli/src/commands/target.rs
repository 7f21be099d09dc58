//! `target`: the databases in which the vault makes logins.
//!
//! Invariant: a target that exists keeps what a `put` does not name, its admin login and what was accepted among it, unless
//! --replace is given; the etag of what was looked at goes along.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keystead_client::v1::target::Settings;
use keystead_client::v1::{PostgresSetup, PostgresTarget, Target, TargetProbe};
use keystead_client::{Error, ProbedTarget};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::{Connect, rights, role, timestamp, yes_or_no};
use crate::args::named::{DeleteArgs, NameArgs, Needed};
use crate::args::span::Span;
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

/// As the server's limit.
const MAX_CA_BYTES: usize = 64 << 10;
const PASSWORD: &str = "the password of the admin login";

const PUT: &str = "\
Examples:
  keystead target put shop-db --host db.internal --database shop \\
      --admin keystead --ca-file db-ca.pem --max-ttl 1d
  keystead target put shop-db --max-ttl 12h                     the rest stays as it is
  keystead target put shop-db --accept 9f2c81b07d1e4a66         a finding that the server named
  keystead target put shop-db --unaccept 9f2c81b07d1e4a66       it is closed by now
  keystead target put shop-db --password-file new-password

Of a new target the password of the admin login is asked for, or read from --password-file; so it is where host, port, server \
name, CA or admin login change, since it is sent there. Adding proves the login by making \
one of its own and removing it, and shows what everybody may do in the database: each finding is closed there, or accepted here.";

const SETUP: &str = "\
Examples:
  keystead target setup-sql shop-db --database shop --admin keystead > setup.sql
  keystead target setup-sql shop-db --database shop --admin keystead \\
      --role-file shop.toml | psql -d shop

The admin login gets no password by it: `\\password keystead` in psql sets one, which `keystead target put` asks for. What roles are to \
give must be granted to the vault as well: --role-file adds the statements.";

#[derive(Debug, Subcommand)]
pub(crate) enum TargetCommand {
    /// Add a target, or change it
    #[command(after_help = PUT)]
    Put(Box<PutArgs>),
    /// Show a target, never its admin login
    Get(NameArgs),
    /// List targets
    List,
    /// Remove a target that no role and no live lease needs
    Delete(DeleteArgs),
    /// Give the admin login a password that nobody knows
    #[command(after_help = "Example:\n  keystead target rotate shop-db")]
    Rotate(NameArgs),
    /// Print the statements that an administrator of the database runs once, before the target is added
    #[command(after_help = SETUP)]
    SetupSql(SetupArgs),
    /// Prove the admin login again, and show what everybody may do there
    #[command(after_help = "Example:\n  keystead target check shop-db")]
    Check(NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Its name
    name: String,
    /// The host of the database: a name or an address
    #[arg(long)]
    host: Option<String>,
    /// Its port; without it, 5432
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The database
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The name of the admin login
    #[arg(long, value_name = "NAME")]
    admin: Option<String>,
    /// PEM file with the CA that signs the database's certificate
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The name in the database's certificate, if it is not the host
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Connections that the vault opens to it at most
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: Option<u32>,
    /// No lease on it lives longer, as in 1d or 12h
    #[arg(long, value_name = "SPAN")]
    max_ttl: Option<Span>,
    /// File with the password of the admin login; "-" is standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Let something be that everybody may do there: its digest, as a refused `target put` and `target check` print it; may
    /// be repeated
    #[arg(long = "accept", value_name = "DIGEST")]
    accept: Vec<String>,
    /// Accept something no longer: its digest, as `target get` prints it; may be repeated
    #[arg(long = "unaccept", value_name = "DIGEST", conflicts_with = "replace")]
    unaccept: Vec<String>,
    /// Take nothing over from the target as it is
    #[arg(long)]
    replace: bool,
    /// Only if the target's etag is this one
    #[arg(long)]
    etag: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// The name that the target is to have
    name: String,
    /// The database
    #[arg(long, value_name = "NAME")]
    database: String,
    /// The name of the admin login, which is made if it is not there
    #[arg(long, value_name = "NAME")]
    admin: String,
    /// Grant what a role file declares; may be repeated
    #[arg(long = "role-file", value_name = "FILE")]
    role_files: Vec<PathBuf>,
}

pub(crate) async fn run(
    command: TargetCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    match command {
        TargetCommand::Put(args) => put(*args, connect, output).await,
        TargetCommand::Get(args) => get(&args.name, connect, output).await,
        TargetCommand::List => list(connect, output).await,
        TargetCommand::Delete(args) => {
            prompt::confirm(&format!("Remove target {}?", args.name), args.yes)?;
            connect.connect().await?.credentials().delete_target(&args.name).await?;
            output.sentence(&format!("Target {} is removed.", args.name), &json!({ "deleted": args.name }))
        }
        TargetCommand::Rotate(args) => {
            let target = connect.connect().await?.credentials().rotate_target_login(&args.name).await?;
            let sentence = format!("The admin login of {} has a password that nobody knows.", target.name);
            output.sentence(&sentence, &as_json(&target))
        }
        TargetCommand::SetupSql(args) => setup_sql(args, connect, output).await,
        TargetCommand::Check(args) => {
            check(&connect.connect().await?.credentials().check_target(&args.name).await?, output)
        }
    }
}

async fn put(args: PutArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let ca_pem = args.ca_file.as_deref().map(pem).transpose()?;
    let credentials = connect.connect().await?.credentials();
    let old = if args.replace {
        None
    } else {
        match credentials.target(&args.name).await {
            Ok(old) => Some(old),
            // A new one, or one that the caller may not see: the server knows.
            Err(Error::NotFoundOrDenied(_)) => None,
            Err(error) => return Err(error.into()),
        }
    };
    let password_file = args.password_file.clone();
    let target = record(args, ca_pem, old.as_ref())?;
    let kept = old.as_ref().is_some_and(|old| keeps_password(old, &target));
    let password = match &password_file {
        None if kept => None,
        file => Some(prompt::short_secret(PASSWORD, "--password-file", file.as_deref())?),
    };
    let stored = credentials.put_target(target, password).await?;
    let version = stored.probe.as_ref().map(|probe| format!(": {}", probe.version)).unwrap_or_default();
    let sentence = format!("Target {} is stored{version}.", stored.target.name);
    output.sentence(&sentence, &probed_json(&stored))?;
    if !output.is_json() {
        for right in stored.probe.iter().flat_map(|probe| &probe.admin_excess) {
            output.remark(&format!("Its admin login can do more than it needs: {}.", rights::shown(right)));
        }
    }
    Ok(())
}

async fn setup_sql(args: SetupArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let roles = args.role_files.iter().map(|file| role::declared(file)).collect::<Result<_, _>>()?;
    let setup = PostgresSetup { database: args.database, admin: args.admin, roles };
    let script = connect.connect().await?.credentials().postgres_setup(&args.name, setup).await?;
    if output.is_json() {
        return output.json(&json!({ "script": script }));
    }
    output.secret_text(&script)
}

/// Whether the password goes where it went before, as the server has it.
fn keeps_password(old: &Target, new: &Target) -> bool {
    let (Some(Settings::Postgres(was)), Some(Settings::Postgres(is))) = (&old.settings, &new.settings) else {
        return false;
    };
    let of = |at: &PostgresTarget| PostgresTarget { database: String::new(), connections: 0, ..at.clone() };
    of(was) == of(is)
}

fn pem(file: &Path) -> Result<String, CliError> {
    let bytes = prompt::bytes("the CA certificates", file, MAX_CA_BYTES)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match str::from_utf8(&bytes) {
        Ok(text) if certificates.is_ok_and(|found| !found.is_empty()) => Ok(text.to_owned()),
        _ => Err(CliError::NoCertificate { path: file.to_owned() }),
    }
}

/// What is given, and else what the target has.
fn record(args: PutArgs, ca_pem: Option<String>, old: Option<&Target>) -> Result<Target, CliError> {
    let settings = match old.map(|old| old.settings.as_ref()) {
        None => None,
        Some(Some(Settings::Postgres(settings))) => Some(settings),
        Some(None) => return Err(CliError::UnknownKind { what: "target", name: args.name }),
    };
    let mut needed = Needed::default();
    let mut text = |given: Option<String>, had: fn(&PostgresTarget) -> &String, option: &'static str| {
        needed.of(given.or_else(|| settings.map(had).cloned()), option)
    };
    let had = settings.cloned().unwrap_or_default();
    let postgres = PostgresTarget {
        host: text(args.host, |had| &had.host, "--host"),
        port: args.port.map_or(had.port, u32::from),
        database: text(args.database, |had| &had.database, "--database"),
        ca_pem: text(ca_pem, |had| &had.ca_pem, "--ca-file"),
        server_name: args.server_name.unwrap_or(had.server_name),
        admin: text(args.admin, |had| &had.admin, "--admin"),
        connections: args.connections.unwrap_or(had.connections),
    };
    let max_ttl = args.max_ttl.map(Span::to_wire).or_else(|| old.and_then(|old| old.max_ttl));
    let max_ttl = needed.of(max_ttl, "--max-ttl");
    needed.none_is_missing()?;
    let mut accepted = old.map(|old| old.accepted.clone()).unwrap_or_default();
    for digest in &args.unaccept {
        let known = accepted.iter().position(|known| known == digest);
        let place = known.ok_or_else(|| CliError::NotAccepted { digest: digest.clone() })?;
        accepted.remove(place);
    }
    accepted.extend(args.accept);
    accepted.sort();
    accepted.dedup();
    Ok(Target {
        name: args.name,
        settings: Some(Settings::Postgres(postgres)),
        max_ttl: Some(max_ttl),
        accepted,
        create_time: None,
        rotate_time: None,
        etag: args.etag.or_else(|| old.map(|old| old.etag.clone())).unwrap_or_default(),
    })
}

async fn get(name: &str, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let target = connect.connect().await?.credentials().target(name).await?;
    let json = as_json(&target);
    let Some(Settings::Postgres(at)) = &target.settings else {
        return Err(CliError::UnknownKind { what: "target", name: target.name });
    };
    output.facts(
        &[
            ("Name", target.name.clone()),
            ("Kind", "postgres".to_owned()),
            ("Host", at.host.clone()),
            ("Port", at.port.to_string()),
            ("Server name", at.server_name.clone()),
            ("Database", at.database.clone()),
            ("Admin login", at.admin.clone()),
            ("Password changed", timestamp(target.rotate_time.as_ref())),
            ("Connections", at.connections.to_string()),
            ("Max TTL", Span::from_wire(target.max_ttl.as_ref()).to_string()),
            ("Accepted", target.accepted.join(", ")),
            ("Added", timestamp(target.create_time.as_ref())),
            ("Etag", target.etag.clone()),
        ],
        &json,
    )
}

async fn list(connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let mut targets = connect.connect().await?.credentials().targets().collect().await?;
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    let row = |target: &Target| {
        let (kind, at) = match &target.settings {
            Some(Settings::Postgres(at)) => ("postgres", format!("{}:{}/{}", at.host, at.port, at.database)),
            None => ("unknown", String::new()),
        };
        let max_ttl = Span::from_wire(target.max_ttl.as_ref()).to_string();
        vec![target.name.clone(), kind.to_owned(), at, max_ttl]
    };
    let rows: Vec<_> = targets.iter().map(row).collect();
    let json: Vec<_> = targets.iter().map(as_json).collect();
    output.table(&["NAME", "KIND", "WHERE", "MAX TTL"], &rows, &json)
}

fn check(checked: &ProbedTarget, output: &Output) -> Result<(), CliError> {
    let probe = checked.probe.clone().unwrap_or_default();
    if output.is_json() {
        return output.json(&probed_json(checked));
    }
    output.sentence(
        &format!("{} answers: {}. Its admin login works.", checked.target.name, probe.version),
        &(),
    )?;
    if !probe.baseline.is_empty() {
        let row = |finding: &keystead_client::v1::TargetFinding| {
            let right = finding.right.as_ref().map(rights::shown).unwrap_or_default();
            vec![finding.digest.clone(), yes_or_no(finding.accepted), right, finding.closed_by.clone()]
        };
        let rows: Vec<_> = probe.baseline.iter().map(row).collect();
        output.table(&["DIGEST", "ACCEPTED", "EVERYBODY MAY", "CLOSED BY"], &rows, &())?;
    }
    for right in &probe.admin_excess {
        output.remark(&format!("Its admin login can do more than it needs: {}.", rights::shown(right)));
    }
    Ok(())
}

fn probed_json(probed: &ProbedTarget) -> Value {
    json!({ "target": as_json(&probed.target), "probe": probed.probe.as_ref().map(probe_json) })
}

fn probe_json(probe: &TargetProbe) -> Value {
    let finding = |finding: &keystead_client::v1::TargetFinding| {
        json!({
            "digest": finding.digest,
            "right": rights::as_json(finding.right.as_slice()).pop(),
            "closed_by": finding.closed_by,
            "accepted": finding.accepted,
        })
    };
    json!({
        "version": probe.version,
        "baseline": probe.baseline.iter().map(finding).collect::<Vec<_>>(),
        "admin_excess": rights::as_json(&probe.admin_excess),
    })
}

fn as_json(target: &Target) -> Value {
    let postgres = target.settings.as_ref().map(|Settings::Postgres(at)| {
        json!({
            "host": at.host,
            "port": at.port,
            "database": at.database,
            "ca_pem": at.ca_pem,
            "server_name": at.server_name,
            "admin": at.admin,
            "connections": at.connections,
        })
    });
    json!({
        "name": target.name,
        "postgres": postgres,
        "max_ttl": Span::from_wire(target.max_ttl.as_ref()),
        "accepted": target.accepted,
        "create_time": timestamp(target.create_time.as_ref()),
        "rotate_time": timestamp(target.rotate_time.as_ref()),
        "etag": target.etag,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(change: impl FnOnce(&mut PutArgs)) -> PutArgs {
        let mut args = PutArgs {
            name: "shop-db".into(),
            host: None,
            port: None,
            database: None,
            admin: None,
            ca_file: None,
            server_name: None,
            connections: None,
            max_ttl: None,
            password_file: None,
            accept: Vec::new(),
            unaccept: Vec::new(),
            replace: false,
            etag: None,
        };
        change(&mut args);
        args
    }

    fn all() -> PutArgs {
        args(|args| {
            args.host = Some("db".into());
            args.database = Some("shop".into());
            args.admin = Some("keystead".into());
            args.max_ttl = Some("1d".parse().unwrap());
        })
    }

    #[test]
    fn a_ca_is_a_certificate_in_pem_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let written = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            pem(&path)
        };
        let certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert_eq!(written(certificate.as_bytes()).unwrap(), certificate);
        let key = certificate.replace("CERTIFICATE", "PRIVATE KEY");
        for other in [&b"canary"[..], b"", b"\x30\x82\xff", key.as_bytes(), &certificate.as_bytes()[..40]] {
            let error = written(other).unwrap_err();
            assert!(matches!(&error, CliError::NoCertificate { path: named } if *named == path), "{error}");
        }
    }

    #[test]
    fn a_new_target_needs_what_cannot_be_guessed() {
        for (option, without) in [
            ("--host", PutArgs { host: None, ..all() }),
            ("--database", PutArgs { database: None, ..all() }),
            ("--admin", PutArgs { admin: None, ..all() }),
            ("--max-ttl", PutArgs { max_ttl: None, ..all() }),
        ] {
            let error = record(without, Some("PEM".into()), None).unwrap_err();
            assert_eq!(error.to_string(), format!("a new one needs {option}"));
        }
        let without_all = record(args(|_| ()), None, None).unwrap_err();
        assert_eq!(
            without_all.to_string(),
            "a new one needs --host, --database, --ca-file, --admin, --max-ttl"
        );
        let target = record(all(), Some("PEM".into()), None).unwrap();
        assert_eq!((target.max_ttl.unwrap().seconds, target.etag.as_str()), (86_400, ""));
    }

    #[test]
    fn the_password_is_asked_for_where_it_goes_somewhere_else() {
        let old = record(all(), Some("PEM".into()), None).unwrap();
        let put = |change: &dyn Fn(&mut PutArgs)| record(args(change), None, Some(&old)).unwrap();
        assert!(keeps_password(&old, &put(&|_| ())));
        assert!(keeps_password(&old, &put(&|args| args.connections = Some(9))));
        assert!(keeps_password(&old, &put(&|args| args.database = Some("other".into()))));
        assert!(!keeps_password(&old, &put(&|args| args.host = Some("other".into()))));
        assert!(!keeps_password(&old, &put(&|args| args.port = Some(5433))));
        assert!(!keeps_password(&old, &put(&|args| args.admin = Some("other".into()))));
        assert!(!keeps_password(&old, &put(&|args| args.server_name = Some("other".into()))));
        assert!(!keeps_password(&old, &record(args(|_| ()), Some("CA".into()), Some(&old)).unwrap()));
    }

    #[test]
    fn a_target_keeps_what_is_not_named() {
        let mut old = record(all(), Some("PEM".into()), None).unwrap();
        old.accepted = vec!["b".into()];
        old.etag = "e1".into();
        let changed = args(|args| {
            args.port = Some(5433);
            args.accept = vec!["a".into(), "b".into()];
        });
        let new = record(changed, None, Some(&old)).unwrap();
        let (Some(Settings::Postgres(was)), Some(Settings::Postgres(is))) = (&old.settings, &new.settings)
        else {
            panic!("{new:?}")
        };
        assert_eq!(*is, PostgresTarget { port: 5433, ..was.clone() });
        assert_eq!(
            (new.accepted, new.etag, new.max_ttl),
            (vec!["a".into(), "b".into()], "e1".into(), old.max_ttl)
        );
        let withdrawn = args(|args| args.unaccept = vec!["b".into()]);
        assert_eq!(record(withdrawn, None, Some(&old)).unwrap().accepted, [""; 0]);
        let unknown = record(args(|args| args.unaccept = vec!["z".into()]), None, Some(&old)).unwrap_err();
        assert!(matches!(&unknown, CliError::NotAccepted { digest } if digest == "z"), "{unknown}");
        old.settings = None;
        assert!(matches!(record(all(), None, Some(&old)), Err(CliError::UnknownKind { .. })));
    }
}
