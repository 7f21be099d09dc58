//! A role's group: brought in line with its declaration, and read back whole.
//!
//! Invariant: everything happens in one transaction; an error leaves the group as it was. What was given by others and is not
//! declared cannot be taken away from here, and is excess.

use std::collections::BTreeSet;

use deadpool_postgres::ClientWrapper;
use keystead_core::engine::Definition;
use keystead_domain::rights::postgres::{Owned, PgName, PostgresRole};
use keystead_domain::rights::{Right, compare};
use tokio_postgres::GenericClient;

use super::declared::{self, Wanted};
use super::error::Failure;
use super::held::{self, Held};
use super::names::Names;
use crate::statements::identifier;

/// A role in a database.
pub(super) struct Place<'a> {
    pub(super) names: &'a Names,
    pub(super) database: &'a PgName,
    pub(super) group: &'a str,
    pub(super) role: &'a PostgresRole,
    pub(super) accepted: &'a [String],
}

/// Gives what is declared, takes away what was given by us and is not, and reads the result. The caller commits or rolls back.
pub(super) async fn bring_in_line(
    client: &impl GenericClient,
    place: &Place<'_>,
) -> Result<Definition, Failure> {
    place.role.check().map_err(|error| Failure::Definition(error.to_string()))?;
    let mut statements = Vec::new();
    let schema = identifier(place.names.schema());
    let made = client.query_one(&format!("SELECT {schema}.define($1)"), &[&place.group]).await?;
    if made.try_get(0)? {
        statements.push(format!("CREATE ROLE {} WITH NOLOGIN", identifier(place.group)));
    }
    let wanted = declared::expand(client, place.database, place.role).await?;
    change(client, place.names, place.group, &wanted, &mut statements).await?;
    let there = held::read(client, place.group, place.names).await?;
    Ok(Definition { statements, ..weigh(place, &wanted, &there) })
}

/// Takes a role out: first all that was given by us, so that what is left to say no is others' doing.
pub(super) async fn take_out(client: &impl GenericClient, names: &Names, group: &str) -> Result<(), Failure> {
    change(client, names, group, &BTreeSet::new(), &mut Vec::new()).await?;
    client.query(&format!("SELECT {}.undefine($1)", identifier(names.schema())), &[&group]).await?;
    Ok(())
}

/// Gives what a group lacks, and takes away what was given by us and is not wanted.
async fn change(
    client: &impl GenericClient,
    names: &Names,
    group: &str,
    wanted: &BTreeSet<Wanted>,
    statements: &mut Vec<String>,
) -> Result<(), Failure> {
    let there = held::read(client, group, names).await?;
    let ours = |grantable| {
        let these =
            there.iter().filter(move |held| held.ours && !held.everybody && held.grantable == grantable);
        these.filter_map(Wanted::of).collect::<BTreeSet<_>>()
    };
    let (given, passed_on) = (ours(false), ours(true));
    let taken: BTreeSet<&Wanted> = given.difference(wanted).chain(&passed_on).collect();
    // What is taken from a whole table, the server takes from its columns too.
    let kept = |right: &&Wanted| !taken.contains(right) && !taken.iter().any(|table| right.is_part_of(table));
    let kept: BTreeSet<&Wanted> = given.iter().filter(kept).collect();
    for (take_away, changes) in [
        (true, declared::grouped(taken.iter().copied())),
        (false, declared::grouped(wanted.iter().filter(|right| !kept.contains(right)))),
    ] {
        statements.extend(give(client, names, group, take_away, changes).await?);
    }
    Ok(())
}

/// Gives, or takes away, and tells the statements.
async fn give(
    client: &impl GenericClient,
    names: &Names,
    group: &str,
    take_away: bool,
    changes: declared::Grouped,
) -> Result<Vec<String>, Failure> {
    let mut statements = Vec::new();
    if changes.is_empty() {
        return Ok(statements);
    }
    let give = format!("SELECT {}.give($1, $2, $3, $4, $5, $6, $7)", identifier(names.schema()));
    let give = client.prepare(&give).await?;
    for ((kind, schema, name, detail), privileges) in changes {
        let parts = [&detail];
        let spelled = held::object(kind, &schema, &name, &detail);
        let done = client
            .query_one(&give, &[&group, &take_away, &kind, &schema, &name, &parts.as_slice(), &privileges])
            .await
            .map_err(|error| Failure::from(error).in_definition(&spelled))?;
        statements.push(done.try_get(0)?);
    }
    Ok(statements)
}

/// Gives the group tables that were made since it was defined, where the role declares tables to come.
pub(super) async fn catch_up(client: &ClientWrapper, place: &Place<'_>) -> Result<(), Failure> {
    let wanted = declared::to_come(client, place.names, place.group, place.role).await?;
    give(&**client, place.names, place.group, false, declared::grouped(&wanted)).await?;
    Ok(())
}

/// Reads a group back and compares it; changes nothing.
pub(super) async fn look(client: &impl GenericClient, place: &Place<'_>) -> Result<Definition, Failure> {
    let wanted = declared::expand(client, place.database, place.role).await?;
    let there = held::read(client, place.group, place.names).await?;
    Ok(weigh(place, &wanted, &there))
}

fn weigh(place: &Place<'_>, wanted: &BTreeSet<Wanted>, there: &[Held]) -> Definition {
    let mut declared: BTreeSet<Right> = wanted.iter().map(Wanted::right).collect();
    if place.role.owned == Owned::ReassignToGroup {
        // What its logins made is the group's by declaration.
        declared.extend(there.iter().filter(|held| held.kind == "object").map(Held::right));
    }
    let wished: BTreeSet<Right> = declared.iter().cloned().chain(declared::future(place.role)).collect();
    let accepted = |held: &&Held| !(held.everybody && place.accepted.contains(&held.finding().digest));
    let given: BTreeSet<Right> = there.iter().filter(accepted).map(Held::right).collect();
    let excess = compare(&wished, &given).excess;
    let closed_by = there.iter().map(|held| (held.right(), held)).filter(|(right, _)| excess.contains(right));
    let direct: BTreeSet<Right> = given.iter().filter(|right| right.through.is_none()).cloned().collect();
    Definition {
        statements: Vec::new(),
        closed_by: closed_by
            .filter_map(|(right, held)| Some((right, held.closed_by(place.group)?)))
            .collect(),
        excess,
        // What everybody has may be closed any day: it must be the group's own.
        missing: compare(&declared, &direct).missing,
        rights: given.into_iter().collect(),
    }
}
