//! What a role holds in the server: everything that names it, and what everybody has, in one query over all catalogs that
//! keep access lists.
//!
//! Invariant: nothing that the server records as naming the role is left out but what anybody can make without a right (large
//! objects, default privileges, temporary tables): ownership and rights in other databases are taken from the catalog that
//! `DROP ROLE` itself relies on. What every PostgreSQL gives to everybody (`pg_init_privs`,
//! `USAGE` on languages and types, `EXECUTE` on functions that run as their caller) is left out.

use data_encoding::HEXLOWER;
use keystead_core::engine::Finding;
use keystead_domain::rights::Right;
use sha2::{Digest, Sha256};
use tokio_postgres::{GenericClient, Row};

use super::error::Failure;
use super::names::Names;
use crate::statements::{identifier, literal};

const QUERY: &str = include_str!("held.sql");
/// How a right that came with the right to pass it on is told.
const PASSED_ON: &str = " WITH GRANT OPTION";

/// One entry of an access list, or the like of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) kind: String,
    pub(super) schema: String,
    pub(super) name: String,
    /// A column, or the types of a routine's arguments.
    pub(super) detail: String,
    pub(super) privilege: String,
    pub(super) grantable: bool,
    pub(super) everybody: bool,
    /// Whether the role of the set-up functions can take it away.
    pub(super) ours: bool,
}

/// All that `group` and everybody hold.
pub(super) async fn read(
    client: &impl GenericClient,
    group: &str,
    names: &Names,
) -> Result<Vec<Held>, Failure> {
    let rows = client.query(QUERY, &[&group, &names.owner(), &names.prefix()]).await?;
    rows.iter().map(Held::from_row).collect()
}

impl Held {
    fn from_row(row: &Row) -> Result<Self, Failure> {
        Ok(Self {
            kind: row.try_get("kind")?,
            schema: row.try_get("schema")?,
            name: row.try_get("name")?,
            detail: row.try_get("detail")?,
            privilege: row.try_get("privilege")?,
            grantable: row.try_get("grantable")?,
            everybody: row.try_get("everybody")?,
            ours: row.try_get("ours")?,
        })
    }

    /// As it is compared and shown.
    pub(super) fn right(&self) -> Right {
        let passed_on = if self.grantable { PASSED_ON } else { "" };
        Right {
            object: object(&self.kind, &self.schema, &self.name, &self.detail),
            privilege: format!("{}{passed_on}", self.privilege),
            through: self.everybody.then(|| "PUBLIC".to_owned()),
        }
    }

    /// As a finding of the baseline: what everybody may do.
    pub(super) fn finding(&self) -> Finding {
        let right = self.right();
        let closed_by = self.closed_by("").unwrap_or_default();
        Finding { digest: digest(&right), right, closed_by }
    }

    /// The statement that takes it from everybody, or from `group`, whose own it is; nothing where it takes more than one.
    pub(super) fn closed_by(&self, group: &str) -> Option<String> {
        let (schema, name) = (identifier(&self.schema), identifier(&self.name));
        let from = if self.everybody { "PUBLIC".to_owned() } else { identifier(group) };
        let what = &self.privilege;
        let on = match self.kind.as_str() {
            "table" => format!("{what} ON TABLE {schema}.{name}"),
            "column" => format!("{what} ({}) ON TABLE {schema}.{name}", identifier(&self.detail)),
            "sequence" => format!("{what} ON SEQUENCE {schema}.{name}"),
            "routine" => format!("{what} ON ROUTINE {schema}.{name}({})", self.detail),
            "schema" => format!("{what} ON SCHEMA {schema}"),
            "type" => format!("{what} ON TYPE {schema}.{name}"),
            "setting" => {
                return Some(format!("ALTER SYSTEM SET {} = 0; -- and restart the server", self.name));
            }
            "large object" => format!("{what} ON LARGE OBJECT {}", self.name),
            // A parameter's name may have a dot between two identifiers.
            "parameter" => format!(
                "{what} ON PARAMETER {}",
                self.name.split('.').map(identifier).collect::<Vec<_>>().join(".")
            ),
            "role" if what == "MEMBER" => name,
            "role" => return Some(format!("ALTER ROLE {name} NO{what};")),
            // Who shall own it, or what is to go there, is not for a statement to say.
            "object" | "elsewhere" => return None,
            kind => match kind.strip_prefix("future ") {
                Some(objects) => {
                    let place =
                        if self.schema.is_empty() { String::new() } else { format!(" IN SCHEMA {schema}") };
                    return Some(format!(
                        "ALTER DEFAULT PRIVILEGES FOR ROLE {name}{place} REVOKE {what} ON {} FROM {from};",
                        objects.to_uppercase()
                    ));
                }
                None => format!("{what} ON {} {name}", kind.to_uppercase()),
            },
        };
        Some(format!("REVOKE {on} FROM {from};"))
    }
}

/// The spelling of an object: the same for what is declared and what is found.
pub(super) fn object(kind: &str, schema: &str, name: &str, detail: &str) -> String {
    let (in_schema, named) = (identifier(schema), identifier(name));
    match kind {
        "table" | "sequence" | "type" => format!("{kind} {in_schema}.{named}"),
        "column" => format!("column {in_schema}.{named}.{}", identifier(detail)),
        "routine" => format!("routine {in_schema}.{named}({detail})"),
        "schema" => format!("schema {in_schema}"),
        "object" => name.to_owned(),
        "elsewhere" => format!("objects in database {named}"),
        kind => match kind.strip_prefix("future ") {
            Some(objects) if schema.is_empty() => format!("{objects} that {named} makes later"),
            Some(objects) => format!("{objects} that {named} makes later in schema {in_schema}"),
            None => format!("{kind} {named}"),
        },
    }
}

/// What a finding is accepted by: the same for the same right on the same object, in any run and version.
fn digest(right: &Right) -> String {
    let text = format!("{}\0{}", literal(&right.object), right.privilege);
    let hash = <[u8; 32]>::from(Sha256::digest(text.as_bytes()));
    HEXLOWER.encode(hash.first_chunk::<8>().unwrap_or(&[0; 8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(kind: &str, detail: &str, privilege: &str) -> Held {
        Held {
            kind: kind.to_owned(),
            schema: "a\"b".to_owned(),
            name: "t".to_owned(),
            detail: detail.to_owned(),
            privilege: privilege.to_owned(),
            grantable: false,
            everybody: true,
            ours: false,
        }
    }

    #[test]
    fn a_finding_has_its_own_digest_and_a_statement_that_closes_it() {
        let table = held("table", "", "SELECT").finding();
        assert_eq!(table.closed_by, r#"REVOKE SELECT ON TABLE "a""b"."t" FROM PUBLIC;"#);
        let column = held("column", "c", "SELECT").finding();
        assert_eq!(column.closed_by, r#"REVOKE SELECT ("c") ON TABLE "a""b"."t" FROM PUBLIC;"#);
        assert_eq!(
            held("future tables", "", "SELECT").finding().closed_by,
            r#"ALTER DEFAULT PRIVILEGES FOR ROLE "t" IN SCHEMA "a""b" REVOKE SELECT ON TABLES FROM PUBLIC;"#
        );
        assert_ne!(table.digest, column.digest);
        assert_ne!(table.digest, held("table", "", "INSERT").finding().digest);
        assert_eq!(table.digest, held("table", "", "SELECT").finding().digest);
    }
}
