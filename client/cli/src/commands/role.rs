//! `role`: what one service needs in a target, declared in a file.

mod file;
mod words;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keystead_client::DefinedRole;
use keystead_client::v1::{PostgresRole, Role, RoleDefinition};
use serde::Serialize;
use serde_json::{Value, json};

use self::file::RoleFile;
use super::{Connect, rights, timestamp};
use crate::args::named::{DeleteArgs, NameArgs};
use crate::args::span::Span;
use crate::error::CliError;
use crate::output::{Output, escaped};
use crate::prompt;

const PUT: &str = r#"A role file, in TOML or as JSON with the same names:
  target = "shop-db"
  default_ttl = "15m"              # a period of a lease, if nobody says
  max_ttl = "1d"                   # a lease lives no longer, renewed or not
  max_live = 1000                  # leases at a time
  on_excess = "refuse"             # or "warn": what happens if the target gives more than this file

  [postgres]
  schemas = ["shop"]               # may be looked into
  search_path = ["shop"]
  statement_timeout = "30s"
  connection_limit = 10            # sessions of one login
  owned = "drop"                   # or "reassign-to-group": objects that a login made

  [[postgres.tables]]
  schema = "shop"
  tables = ["orders", "customers"] # or a pattern such as "order_*", then without columns
  columns = ["id", "note"]         # without it, whole tables
  privileges = ["SELECT", "INSERT"]

  [[postgres.tables]]
  schema = "log"
  tables = "*"
  privileges = ["INSERT"]
  future_of = "log_owner"          # and what this owner makes later; only for all of a schema

  [[postgres.sequences]]
  schema = "shop"
  sequences = ["orders_id_seq"]
  privileges = ["USAGE"]

  [[postgres.routines]]
  schema = "shop"
  name = "order_total"
  arguments = "integer"            # as \df shows their types

Examples:
  keystead role put shop --file shop.toml
  keystead role get shop > shop.toml"#;

#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// Define a role from a file, in its target too
    #[command(after_help = PUT)]
    Put(PutArgs),
    /// Print a role as the file that `role put` takes
    Get(NameArgs),
    /// List roles
    List,
    /// Remove a role that has no live lease, from its target too
    Delete(DeleteArgs),
    /// Show a role's statements and what its logins can do; leaves nothing behind
    #[command(after_help = "Example:\n  keystead role verify shop")]
    Verify(NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// Its name
    name: String,
    /// File with the role, TOML or JSON; "-" is standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Only if the role's etag is this one
    #[arg(long)]
    etag: Option<String>,
}

pub(crate) async fn run(command: RoleCommand, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    match command {
        RoleCommand::Put(args) => put(args, connect, output).await,
        RoleCommand::Get(args) => {
            let role = connect.connect().await?.credentials().role(&args.name).await?;
            if output.is_json() {
                return output.json(&Shown::of(&role)?);
            }
            let written = timestamp(role.update_time.as_ref());
            output.text(&format!(
                "# {}, written {written}, etag {}\n",
                escaped(&role.name),
                escaped(&role.etag)
            ))?;
            let text = RoleFile::from_wire(&role)?.to_toml()?;
            text.lines().try_for_each(|line| output.text(&format!("{}\n", escaped(line))))
        }
        RoleCommand::List => list(connect, output).await,
        RoleCommand::Delete(args) => {
            prompt::confirm(&format!("Remove role {}?", args.name), args.yes)?;
            connect.connect().await?.credentials().delete_role(&args.name).await?;
            output.sentence(&format!("Role {} is removed.", args.name), &json!({ "deleted": args.name }))
        }
        RoleCommand::Verify(args) => {
            verify(&connect.connect().await?.credentials().verify_role(&args.name).await?, output)
        }
    }
}

/// What a role file declares for PostgreSQL.
pub(super) fn declared(file: &Path) -> Result<PostgresRole, CliError> {
    RoleFile::read(file).map(RoleFile::into_declared)
}

async fn put(args: PutArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let role = RoleFile::read(&args.file)?.into_wire(args.name, args.etag.unwrap_or_default());
    let stored = connect.connect().await?.credentials().put_role(role).await?;
    let definition = stored.definition.unwrap_or_default();
    let json = json!({ "role": Shown::of(&stored.role)?, "definition": definition_json(&definition) });
    output.sentence(&format!("Role {} is defined.", stored.role.name), &json)?;
    if !output.is_json() {
        for right in &definition.excess {
            output.remark(&format!("It gives more than declared: {}.", rights::shown(right)));
        }
        for right in &definition.missing {
            output.remark(&format!("Declared, but not there: {}.", rights::shown(right)));
        }
    }
    Ok(())
}

async fn list(connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let mut roles = connect.connect().await?.credentials().roles().collect().await?;
    roles.sort_by(|a, b| a.name.cmp(&b.name));
    if output.is_json() {
        return output.json(&roles.iter().map(listed).collect::<Vec<_>>());
    }
    let row = |role: &Role| {
        vec![
            role.name.clone(),
            kind(role).to_owned(),
            role.target.clone(),
            Span::from_wire(role.default_ttl.as_ref()).to_string(),
            Span::from_wire(role.max_ttl.as_ref()).to_string(),
            timestamp(role.update_time.as_ref()),
        ]
    };
    let rows: Vec<_> = roles.iter().map(row).collect();
    output.table(&["NAME", "KIND", "TARGET", "TTL", "MAX TTL", "WRITTEN"], &rows, &())
}

fn kind(role: &Role) -> &'static str {
    if RoleFile::from_wire(role).is_ok() { "postgres" } else { "unknown" }
}

/// The whole role, or what is known of it, so that one of a newer kind hides no other.
fn listed(role: &Role) -> Listed<'_> {
    match Shown::of(role) {
        Ok(shown) => Listed::Known(Box::new(shown)),
        Err(_) => Listed::Unknown(json!({
            "name": role.name,
            "target": role.target,
            "default_ttl": Span::from_wire(role.default_ttl.as_ref()),
            "max_ttl": Span::from_wire(role.max_ttl.as_ref()),
            "max_live": role.max_live,
            "postgres": null,
            "create_time": timestamp(role.create_time.as_ref()),
            "update_time": timestamp(role.update_time.as_ref()),
            "etag": role.etag,
        })),
    }
}

/// One of a list.
#[derive(Serialize)]
#[serde(untagged)]
enum Listed<'a> {
    Known(Box<Shown<'a>>),
    /// Of a kind, or with words, that this program does not know.
    Unknown(Value),
}

fn verify(role: &DefinedRole, output: &Output) -> Result<(), CliError> {
    let definition = role.definition.clone().unwrap_or_default();
    if output.is_json() {
        return output
            .json(&json!({ "role": Shown::of(&role.role)?, "definition": definition_json(&definition) }));
    }
    for statement in &definition.statements {
        output.text(&format!("{};\n", escaped(statement.trim_end_matches(';'))))?;
    }
    let mut rows = rights::rows(&definition.excess, "excess");
    rows.extend(rights::rows(&definition.missing, "missing"));
    let others = definition.rights.iter().filter(|right| !definition.excess.contains(right));
    rows.extend(rights::rows(&others.cloned().collect::<Vec<_>>(), "declared"));
    output.table(&["", "PRIVILEGE", "OBJECT", "THROUGH"], &rows, &())
}

fn definition_json(definition: &RoleDefinition) -> Value {
    json!({
        "statements": definition.statements,
        "rights": rights::as_json(&definition.rights),
        "excess": rights::as_json(&definition.excess),
        "missing": rights::as_json(&definition.missing),
    })
}

/// What a file says, and what the server knows beside.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    #[serde(flatten)]
    file: RoleFile,
    create_time: String,
    update_time: String,
    etag: &'a str,
}

impl<'a> Shown<'a> {
    fn of(role: &'a Role) -> Result<Self, CliError> {
        Ok(Self {
            name: &role.name,
            file: RoleFile::from_wire(role)?,
            create_time: timestamp(role.create_time.as_ref()),
            update_time: timestamp(role.update_time.as_ref()),
            etag: &role.etag,
        })
    }
}

#[cfg(test)]
mod tests {
    use keystead_client::v1::PostgresOwnedObjects;
    use keystead_client::v1::role::Declaration;

    use super::*;

    #[test]
    fn a_role_of_a_newer_kind_is_listed_as_unknown() {
        let known = Role {
            name: "shop".into(),
            target: "shop-db".into(),
            declaration: Some(Declaration::Postgres(PostgresRole {
                owned: PostgresOwnedObjects::Drop.into(),
                ..PostgresRole::default()
            })),
            ..Role::default()
        };
        let newer = Role { name: "queue".into(), declaration: None, ..known.clone() };
        let of = |role: &Role| (serde_json::to_value(listed(role)).unwrap(), kind(role));
        let (json, word) = of(&known);
        assert!(json["postgres"].is_object() && word == "postgres", "{json}");
        let (json, word) = of(&newer);
        assert_eq!((&json["name"], &json["target"], word), (&"queue".into(), &"shop-db".into(), "unknown"));
        assert!(json["postgres"].is_null() && json.get("etag").is_some(), "{json}");
    }
}
