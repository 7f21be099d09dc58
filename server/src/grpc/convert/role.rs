//! Roles: declarations that mirror the domain's. Invariant: what leaves here towards the core names only identifiers that
//! PostgreSQL keeps, and privileges that exist on what they are given for.

use std::num::NonZeroU16;

use keystead_core::credentials::roles::{PutRole, Role};
use keystead_core::engine::Definition;
use keystead_core::error::VaultError;
use keystead_domain::rights::postgres::{
    MAX_GRANTS, MAX_STATEMENT_TIMEOUT, Objects, Owned, PgName, PostgresRole, RoutineGrant, SequenceGrant,
    SequencePrivilege, TableGrant, TablePrivilege,
};
use keystead_domain::role::{Declaration, OnExcess};
use keystead_domain::time::Ttl;
use keystead_proto::v1;
use keystead_proto::v1::postgres_sequence_grant::Sequences;
use keystead_proto::v1::postgres_table_grant::Tables;

use super::target::right;
use super::{Converted, etag, invalid, name, pg_name, span, timestamp, ttl};

const FIELD: &str = "role.postgres";
/// Live leases of a role if nobody says.
const MAX_LIVE: u32 = 1_000;
/// Names in one list.
const MAX_NAMES: usize = 256;
/// Bytes of a routine's argument types.
const MAX_ARGUMENTS: usize = 1024;

/// A role that is to be defined.
pub fn put(request: v1::PutRoleRequest) -> Converted<PutRole> {
    let role = request.role.ok_or_else(|| invalid("role", "is missing"))?;
    let on_excess = match v1::ExcessHandling::try_from(role.on_excess) {
        Ok(v1::ExcessHandling::Warn) => OnExcess::Warn,
        Ok(v1::ExcessHandling::Refuse | v1::ExcessHandling::Unspecified) => OnExcess::Refuse,
        Err(_) => return Err(invalid("role.on_excess", "is none that this server knows")),
    };
    let needed = |field, span| ttl(field, span)?.ok_or_else(|| invalid(field, "is missing"));
    let Some(v1::role::Declaration::Postgres(declared)) = role.declaration else {
        return Err(invalid("role.declaration", "set postgres"));
    };
    Ok(PutRole {
        name: name("role.name", &role.name)?,
        target: name("role.target", &role.target)?,
        declaration: Declaration::Postgres(postgres(declared)?),
        default_ttl: needed("role.default_ttl", role.default_ttl)?,
        max_ttl: needed("role.max_ttl", role.max_ttl)?,
        max_live: if role.max_live == 0 { MAX_LIVE } else { role.max_live },
        on_excess,
        etag: etag(role.etag),
    })
}

fn wrong(place: &str, rule: impl std::fmt::Display) -> VaultError {
    invalid(FIELD, format!("{place} {rule}"))
}

fn postgres(role: v1::PostgresRole) -> Converted<PostgresRole> {
    let grants = role.tables.len().saturating_add(role.sequences.len()).saturating_add(role.routines.len());
    if grants > MAX_GRANTS {
        return Err(wrong("has", format!("{grants} grants; at most {MAX_GRANTS} are taken")));
    }
    let owned = match v1::PostgresOwnedObjects::try_from(role.owned) {
        Ok(v1::PostgresOwnedObjects::ReassignToGroup) => Owned::ReassignToGroup,
        Ok(v1::PostgresOwnedObjects::Drop | v1::PostgresOwnedObjects::Unspecified) => Owned::Drop,
        Err(_) => return Err(wrong("owned", "is none that this server knows")),
    };
    let connection_limit = u16::try_from(role.connection_limit);
    let statement_timeout = ttl("role.postgres.statement_timeout", role.statement_timeout)?.map(Ttl::as_secs);
    Ok(PostgresRole {
        schemas: names("schemas", &role.schemas)?,
        tables: numbered(role.tables, "tables", table)?,
        sequences: numbered(role.sequences, "sequences", sequence)?,
        routines: numbered(role.routines, "routines", routine)?,
        search_path: names("search_path", &role.search_path)?,
        statement_timeout: statement_timeout
            .map(|seconds| u32::try_from(seconds).ok().filter(|seconds| *seconds <= MAX_STATEMENT_TIMEOUT))
            .map(|seconds| seconds.ok_or_else(|| wrong("statement_timeout", "is longer than a day")))
            .transpose()?,
        connection_limit: NonZeroU16::new(
            connection_limit.map_err(|_| wrong("connection_limit", "is at most 65535"))?,
        ),
        owned,
    })
}

/// Each with its place, for errors.
fn numbered<A, B>(from: Vec<A>, what: &str, to: impl Fn(&str, A) -> Converted<B>) -> Converted<Vec<B>> {
    from.into_iter().enumerate().map(|(number, grant)| to(&format!("{what}[{number}]"), grant)).collect()
}

fn names(place: &str, names: &[String]) -> Converted<Vec<PgName>> {
    if names.len() > MAX_NAMES {
        return Err(wrong(place, format!("has {} names; at most {MAX_NAMES} are taken", names.len())));
    }
    let named = |(number, name): (usize, &String)| pg_name(FIELD, &format!("{place}[{number}] "), name);
    names.iter().enumerate().map(named).collect()
}

fn named(place: &str, objects: &v1::PostgresNames) -> Converted<Objects> {
    if objects.names.is_empty() {
        return Err(wrong(place, "names nothing; an empty list is nothing, never everything"));
    }
    names(&format!("{place}.names"), &objects.names).map(Objects::Named)
}

/// A pattern has the bytes of a name: a longer one matches nothing.
fn matching(place: &str, pattern: &str) -> Converted<Objects> {
    pg_name(FIELD, &format!("{place}.matching "), pattern)?;
    Ok(Objects::Matching(pattern.to_owned()))
}

/// From the numbers on the wire: the generated accessor would leave out what this server does not know.
fn privileges<P: Copy + PartialEq>(
    place: &str,
    numbers: &[i32],
    known: impl Fn(i32) -> Option<P>,
) -> Converted<Vec<P>> {
    let mut all: Vec<P> = Vec::with_capacity(numbers.len());
    for number in numbers {
        let privilege =
            known(*number).ok_or_else(|| wrong(place, "has a privilege that this server does not know"))?;
        if !all.contains(&privilege) {
            all.push(privilege);
        }
    }
    if all.is_empty() { Err(wrong(place, "gives no privilege")) } else { Ok(all) }
}

fn table(place: &str, grant: v1::PostgresTableGrant) -> Converted<TableGrant> {
    use TablePrivilege::{Insert, References, Select, Update};
    let given = privileges(place, &grant.privileges, |number| {
        v1::PostgresTablePrivilege::try_from(number).ok().and_then(table_privilege)
    })?;
    let columns = names(&format!("{place}.columns"), &grant.columns)?;
    let of_columns = |privilege: &TablePrivilege| matches!(privilege, Select | Insert | Update | References);
    if let (false, Some(whole)) = (columns.is_empty(), given.iter().find(|given| !of_columns(given))) {
        let rule = format!("gives {} on columns; PostgreSQL has that on whole tables only", whole.as_str());
        return Err(wrong(place, rule));
    }
    Ok(TableGrant {
        schema: pg_name(FIELD, &format!("{place}.schema "), &grant.schema)?,
        tables: match &grant.tables {
            Some(Tables::Named(objects)) => named(place, objects)?,
            Some(Tables::Matching(pattern)) => matching(place, pattern)?,
            None => return Err(wrong(place, "needs tables: set named or matching")),
        },
        columns,
        privileges: given,
        future_of: match grant.future_of.as_str() {
            "" => None,
            owner => Some(pg_name(FIELD, &format!("{place}.future_of "), owner)?),
        },
    })
}

fn sequence(place: &str, grant: v1::PostgresSequenceGrant) -> Converted<SequenceGrant> {
    Ok(SequenceGrant {
        schema: pg_name(FIELD, &format!("{place}.schema "), &grant.schema)?,
        sequences: match &grant.sequences {
            Some(Sequences::Named(objects)) => named(place, objects)?,
            Some(Sequences::Matching(pattern)) => matching(place, pattern)?,
            None => return Err(wrong(place, "needs sequences: set named or matching")),
        },
        privileges: privileges(place, &grant.privileges, |number| {
            v1::PostgresSequencePrivilege::try_from(number).ok().and_then(sequence_privilege)
        })?,
    })
}

fn routine(place: &str, grant: v1::PostgresRoutineGrant) -> Converted<RoutineGrant> {
    if grant.arguments.len() > MAX_ARGUMENTS || grant.arguments.contains('\0') {
        return Err(wrong(
            place,
            format!("has arguments of more than {MAX_ARGUMENTS} bytes, or with a NUL byte"),
        ));
    }
    Ok(RoutineGrant {
        schema: pg_name(FIELD, &format!("{place}.schema "), &grant.schema)?,
        name: pg_name(FIELD, &format!("{place}.name "), &grant.name)?,
        arguments: grant.arguments,
    })
}

const fn table_privilege(privilege: v1::PostgresTablePrivilege) -> Option<TablePrivilege> {
    use v1::PostgresTablePrivilege as Wire;
    Some(match privilege {
        Wire::Select => TablePrivilege::Select,
        Wire::Insert => TablePrivilege::Insert,
        Wire::Update => TablePrivilege::Update,
        Wire::Delete => TablePrivilege::Delete,
        Wire::Truncate => TablePrivilege::Truncate,
        Wire::References => TablePrivilege::References,
        Wire::Trigger => TablePrivilege::Trigger,
        Wire::Unspecified => return None,
    })
}

const fn sequence_privilege(privilege: v1::PostgresSequencePrivilege) -> Option<SequencePrivilege> {
    use v1::PostgresSequencePrivilege as Wire;
    Some(match privilege {
        Wire::Usage => SequencePrivilege::Usage,
        Wire::Select => SequencePrivilege::Select,
        Wire::Update => SequencePrivilege::Update,
        Wire::Unspecified => return None,
    })
}

/// A role to the wire.
pub fn out(role: &Role) -> v1::Role {
    let record = &role.record;
    let Declaration::Postgres(declared) = &record.declaration;
    v1::Role {
        name: record.name.to_string(),
        target: record.target.to_string(),
        declaration: Some(v1::role::Declaration::Postgres(postgres_out(declared))),
        default_ttl: Some(span(record.default_ttl)),
        max_ttl: Some(span(record.max_ttl)),
        max_live: record.max_live,
        on_excess: match record.on_excess {
            OnExcess::Refuse => v1::ExcessHandling::Refuse,
            OnExcess::Warn => v1::ExcessHandling::Warn,
        }
        .into(),
        create_time: Some(timestamp(record.created)),
        update_time: Some(timestamp(record.changed)),
        etag: role.etag.clone(),
    }
}

fn texts(names: &[PgName]) -> Vec<String> {
    names.iter().map(|name| name.as_str().to_owned()).collect()
}

fn postgres_out(role: &PostgresRole) -> v1::PostgresRole {
    let names = |names: &[PgName]| v1::PostgresNames { names: texts(names) };
    let table = |grant: &TableGrant| v1::PostgresTableGrant {
        schema: grant.schema.as_str().to_owned(),
        tables: Some(match &grant.tables {
            Objects::Named(tables) => Tables::Named(names(tables)),
            Objects::Matching(pattern) => Tables::Matching(pattern.clone()),
        }),
        columns: texts(&grant.columns),
        privileges: grant.privileges.iter().map(|privilege| table_out(*privilege).into()).collect(),
        future_of: grant.future_of.as_ref().map(|owner| owner.as_str().to_owned()).unwrap_or_default(),
    };
    let sequence = |grant: &SequenceGrant| v1::PostgresSequenceGrant {
        schema: grant.schema.as_str().to_owned(),
        sequences: Some(match &grant.sequences {
            Objects::Named(sequences) => Sequences::Named(names(sequences)),
            Objects::Matching(pattern) => Sequences::Matching(pattern.clone()),
        }),
        privileges: grant.privileges.iter().map(|privilege| sequence_out(*privilege).into()).collect(),
    };
    let routine = |grant: &RoutineGrant| v1::PostgresRoutineGrant {
        schema: grant.schema.as_str().to_owned(),
        name: grant.name.as_str().to_owned(),
        arguments: grant.arguments.clone(),
    };
    v1::PostgresRole {
        schemas: texts(&role.schemas),
        tables: role.tables.iter().map(table).collect(),
        sequences: role.sequences.iter().map(sequence).collect(),
        routines: role.routines.iter().map(routine).collect(),
        search_path: texts(&role.search_path),
        statement_timeout: role
            .statement_timeout
            .map(|seconds| prost_types::Duration { seconds: seconds.into(), nanos: 0 }),
        connection_limit: role.connection_limit.map_or(0, |limit| limit.get().into()),
        owned: match role.owned {
            Owned::Drop => v1::PostgresOwnedObjects::Drop,
            Owned::ReassignToGroup => v1::PostgresOwnedObjects::ReassignToGroup,
        }
        .into(),
    }
}

const fn table_out(privilege: TablePrivilege) -> v1::PostgresTablePrivilege {
    use v1::PostgresTablePrivilege as Wire;
    match privilege {
        TablePrivilege::Select => Wire::Select,
        TablePrivilege::Insert => Wire::Insert,
        TablePrivilege::Update => Wire::Update,
        TablePrivilege::Delete => Wire::Delete,
        TablePrivilege::Truncate => Wire::Truncate,
        TablePrivilege::References => Wire::References,
        TablePrivilege::Trigger => Wire::Trigger,
    }
}

const fn sequence_out(privilege: SequencePrivilege) -> v1::PostgresSequencePrivilege {
    use v1::PostgresSequencePrivilege as Wire;
    match privilege {
        SequencePrivilege::Usage => Wire::Usage,
        SequencePrivilege::Select => Wire::Select,
        SequencePrivilege::Update => Wire::Update,
    }
}

/// What came of a role in its target.
pub fn definition(definition: &Definition) -> v1::RoleDefinition {
    let rights = |rights: &[keystead_domain::rights::Right]| rights.iter().map(right).collect();
    v1::RoleDefinition {
        statements: definition.statements.clone(),
        rights: rights(&definition.rights),
        excess: rights(&definition.excess),
        missing: rights(&definition.missing),
    }
}

#[cfg(test)]
mod tests;
