//! What a role declares, spelled out for the database as it is now: patterns become tables, routines get one spelling.
//!
//! Invariant: what is declared and not there is an error that names it; nothing is guessed.

use std::collections::{BTreeMap, BTreeSet};

use deadpool_postgres::ClientWrapper;
use keystead_domain::rights::Right;
use keystead_domain::rights::postgres::{Objects, PgName, PostgresRole, SequencePrivilege, TablePrivilege};
use tokio_postgres::GenericClient;

use super::error::Failure;
use super::held::{Held, object};
use super::names::Names;

const RELATIONS: &str = "SELECT n.nspname::text, c.relname::text, c.relkind = 'S' \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname::text = ANY($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')";
const SCHEMAS: &str = "SELECT nspname::text FROM pg_namespace WHERE nspname::text = ANY($1)";
const LACKING: &str = "SELECT c.relname::text, w.word \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles g ON g.rolname = $1, unnest($5::text[]) AS w (word) \
    WHERE n.nspname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_get_userbyid(c.relowner) = $3 \
      AND has_table_privilege($4::name, c.oid, w.word || ' WITH GRANT OPTION') \
      AND NOT EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = g.oid AND a.privilege_type = w.word)";
const ROUTINE: &str = "SELECT oidvectortypes(p.proargtypes) \
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
    WHERE n.nspname = $1 AND p.proname = $2 \
      AND $3 IN (oidvectortypes(p.proargtypes), pg_get_function_identity_arguments(p.oid))";

/// One right on one object, as the set-up function `give` takes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wanted {
    pub(super) kind: &'static str,
    pub(super) schema: String,
    pub(super) name: String,
    /// A column, or the types of a routine's arguments.
    pub(super) detail: String,
    pub(super) privilege: String,
}

impl Wanted {
    pub(super) fn right(&self) -> Right {
        let object = object(self.kind, &self.schema, &self.name, &self.detail);
        Right { object, privilege: self.privilege.clone(), through: None }
    }

    /// Whether this is of a column, and `table` the same of its whole table.
    pub(super) fn is_part_of(&self, table: &Self) -> bool {
        let place = |right: &Self| (right.schema.clone(), right.name.clone(), right.privilege.clone());
        self.kind == "column" && table.kind == "table" && place(self) == place(table)
    }

    /// The same as the server tells it, if `give` can take it away: then it was we who gave it.
    pub(super) fn of(held: &Held) -> Option<Self> {
        let of_tables = TablePrivilege::parse(&held.privilege);
        let kind = match held.kind.as_str() {
            "table" if of_tables.is_some() => "table",
            "column" if of_tables.is_some_and(TablePrivilege::is_of_columns) => "column",
            "sequence" if SequencePrivilege::parse(&held.privilege).is_some() => "sequence",
            "routine" => "routine",
            "schema" if held.privilege == "USAGE" => "schema",
            "database" if held.privilege == "CONNECT" => "database",
            _ => return None,
        };
        Some(Self {
            kind,
            schema: held.schema.clone(),
            name: held.name.clone(),
            detail: held.detail.clone(),
            privilege: held.privilege.clone(),
        })
    }
}

/// Privileges on one object, which become one statement.
pub(super) type Grouped = BTreeMap<(&'static str, String, String, String), Vec<String>>;

pub(super) fn grouped<'a>(wanted: impl IntoIterator<Item = &'a Wanted>) -> Grouped {
    let mut groups = Grouped::new();
    for one in wanted {
        let place = (one.kind, one.schema.clone(), one.name.clone(), one.detail.clone());
        groups.entry(place).or_default().push(one.privilege.clone());
    }
    groups
}

/// All rights of a role in this database.
pub(super) async fn expand(
    client: &impl GenericClient,
    database: &PgName,
    role: &PostgresRole,
) -> Result<BTreeSet<Wanted>, Failure> {
    let catalog = Catalog::read(client, role).await?;
    let mut wanted = BTreeSet::new();
    let mut want = |kind, schema: &str, name: &str, detail: &str, privilege: &str| {
        wanted.insert(Wanted {
            kind,
            schema: schema.to_owned(),
            name: name.to_owned(),
            detail: detail.to_owned(),
            privilege: privilege.to_owned(),
        });
    };
    // A login that cannot connect is none.
    want("database", "", database.as_str(), "", "CONNECT");
    for schema in &role.schemas {
        want("schema", catalog.schema(schema)?, "", "", "USAGE");
    }
    for grant in &role.tables {
        let schema = catalog.schema(&grant.schema)?;
        for table in catalog.chosen(&grant.schema, &grant.tables, false)? {
            for privilege in &grant.privileges {
                if grant.columns.is_empty() {
                    want("table", schema, table, "", privilege.as_str());
                }
                for column in &grant.columns {
                    want("column", schema, table, column.as_str(), privilege.as_str());
                }
            }
        }
    }
    for grant in &role.sequences {
        let schema = catalog.schema(&grant.schema)?;
        for sequence in catalog.chosen(&grant.schema, &grant.sequences, true)? {
            for privilege in &grant.privileges {
                want("sequence", schema, sequence, "", privilege.as_str());
            }
        }
    }
    for routine in &role.routines {
        let (schema, name) = (routine.schema.as_str(), routine.name.as_str());
        let row = client.query_opt(ROUTINE, &[&schema, &name, &routine.arguments]).await?;
        let Some(row) = row else {
            let spelled = object("routine", schema, name, &routine.arguments);
            return Err(Failure::Definition(format!("there is no {spelled}")));
        };
        let types: String = row.try_get(0)?;
        want("routine", schema, name, &types, "EXECUTE");
    }
    Ok(wanted)
}

/// What a role declares of tables to come. The vault has no right over another role's default privileges: it gives such tables
/// when they are there ([`to_come`]). Who wants them sooner gives the group these, which is no excess then.
pub(super) fn future(role: &PostgresRole) -> impl Iterator<Item = Right> {
    role.tables.iter().flat_map(|grant| {
        grant.future_of.iter().flat_map(move |maker| {
            let object = object("future tables", grant.schema.as_str(), maker.as_str(), "");
            grant.privileges.iter().map(move |privilege| Right {
                object: object.clone(),
                privilege: privilege.as_str().to_owned(),
                through: None,
            })
        })
    })
}

/// Tables that were made since, which the vault may give and the group lacks.
pub(super) async fn to_come(
    client: &ClientWrapper,
    names: &Names,
    group: &str,
    role: &PostgresRole,
) -> Result<BTreeSet<Wanted>, Failure> {
    let mut wanted = BTreeSet::new();
    for grant in &role.tables {
        let Some(maker) = &grant.future_of else { continue };
        let lacking = client.prepare_cached(LACKING).await?;
        let words: Vec<&str> = grant.privileges.iter().map(|privilege| privilege.as_str()).collect();
        let (schema, maker) = (grant.schema.as_str(), maker.as_str());
        for row in client.query(&lacking, &[&group, &schema, &maker, &names.owner(), &words]).await? {
            wanted.insert(Wanted {
                kind: "table",
                schema: schema.to_owned(),
                name: row.try_get(0)?,
                detail: String::new(),
                privilege: row.try_get(1)?,
            });
        }
    }
    Ok(wanted)
}

/// The schemas that a role speaks of, and the tables and sequences in them.
struct Catalog {
    schemas: BTreeSet<String>,
    /// Schema, whether it is a sequence, name.
    relations: BTreeSet<(String, bool, String)>,
}

impl Catalog {
    async fn read(client: &impl GenericClient, role: &PostgresRole) -> Result<Self, Failure> {
        let of_tables = role.tables.iter().map(|grant| &grant.schema);
        let of_sequences = role.sequences.iter().map(|grant| &grant.schema);
        let named = role.schemas.iter().chain(of_tables).chain(of_sequences);
        let named: Vec<&str> = named.map(PgName::as_str).collect();
        let mut schemas = BTreeSet::new();
        for row in client.query(SCHEMAS, &[&named]).await? {
            schemas.insert(row.try_get(0)?);
        }
        let mut relations = BTreeSet::new();
        for row in client.query(RELATIONS, &[&named]).await? {
            relations.insert((row.try_get(0)?, row.try_get(2)?, row.try_get(1)?));
        }
        Ok(Self { schemas, relations })
    }

    fn schema<'a>(&self, name: &'a PgName) -> Result<&'a str, Failure> {
        match self.schemas.contains(name.as_str()) {
            true => Ok(name.as_str()),
            false => Err(Failure::Definition(format!("there is no schema {name}"))),
        }
    }

    fn chosen<'a>(
        &'a self,
        schema: &PgName,
        objects: &'a Objects,
        sequences: bool,
    ) -> Result<Vec<&'a str>, Failure> {
        let kind = if sequences { "sequence" } else { "table" };
        match objects {
            Objects::Named(names) => names
                .iter()
                .map(|name| {
                    let place = (schema.as_str().to_owned(), sequences, name.as_str().to_owned());
                    match self.relations.contains(&place) {
                        true => Ok(name.as_str()),
                        false => Err(Failure::Definition(format!("there is no {kind} {schema}.{name}"))),
                    }
                })
                .collect(),
            Objects::Matching(pattern) => Ok(self
                .relations
                .iter()
                .filter(|(place, kind, name)| {
                    place == schema.as_str() && *kind == sequences && matches(pattern, name)
                })
                .map(|(_, _, name)| name.as_str())
                .collect()),
        }
    }
}

/// Whether a name fits a pattern in which `*` stands for any characters and everything else for itself.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_star_stands_for_any_characters_and_nothing_else_is_special() {
        for (pattern, name, fits) in [
            ("orders", "orders", true),
            ("orders", "orders2", false),
            ("*", "", true),
            ("*", "anything", true),
            ("shop_*", "shop_", true),
            ("shop_*", "shop", false),
            ("*_log", "a_log_log", true),
            ("a*b*c", "a__b__c", true),
            ("a*b*c", "ac", false),
            ("aba*aba", "aba", false),
            ("a.%", "ab%", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_without_a_star_fits_itself_alone(name in "[^*\0]{1,20}", other in "[^*\0]{1,20}") {
            prop_assert!(matches(&name, &name));
            prop_assert_eq!(matches(&name, &other), name == other);
        }

        #[test]
        fn what_is_put_for_the_stars_fits(parts in prop::collection::vec("[ab]{0,3}", 1..4), fill in "[ab]{0,3}") {
            prop_assert!(matches(&parts.join("*"), &parts.join(&fill)));
        }
    }
}
