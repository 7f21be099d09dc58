//! Roles: declarations that mirror the domain's. Invariant: what a newer client may say and this server does not know is refused,
//! never left out.

use std::num::NonZeroU16;

use keystead_core::credentials::roles::{PutRole, Role};
use keystead_core::engine::Definition;
use keystead_core::error::VaultError;
use keystead_domain::rights::postgres::{
    Objects, Owned, PgName, PostgresRole, RoutineGrant, SequenceGrant, SequencePrivilege, TableGrant,
    TablePrivilege,
};
use keystead_domain::role::{Declaration, OnExcess};
use keystead_proto::v1;
use keystead_proto::v1::postgres_sequence_grant::Sequences;
use keystead_proto::v1::postgres_table_grant::Tables;

use super::target::right;
use super::{Converted, etag, invalid, name, pg_name, span, timestamp, ttl};

const FIELD: &str = "role.postgres";
/// Live leases of a role if nobody says.
const MAX_LIVE: u32 = 1_000;

/// A role that is to be defined.
pub fn put(request: v1::PutRoleRequest) -> Converted<PutRole> {
    let role = request.role.ok_or_else(|| invalid("role", "is missing"))?;
    let on_excess = on_excess(role.on_excess)?;
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

/// What happens on excess.
pub fn on_excess(word: i32) -> Converted<OnExcess> {
    match v1::ExcessHandling::try_from(word) {
        Ok(v1::ExcessHandling::Warn) => Ok(OnExcess::Warn),
        Ok(v1::ExcessHandling::Refuse | v1::ExcessHandling::Unspecified) => Ok(OnExcess::Refuse),
        Err(_) => Err(invalid("role.on_excess", "is none that this server knows")),
    }
}

/// The same to the wire.
pub const fn on_excess_out(on_excess: OnExcess) -> v1::ExcessHandling {
    match on_excess {
        OnExcess::Refuse => v1::ExcessHandling::Refuse,
        OnExcess::Warn => v1::ExcessHandling::Warn,
    }
}

fn wrong(place: &str, rule: impl std::fmt::Display) -> VaultError {
    invalid(FIELD, format!("{place} {rule}"))
}

/// What a role declares, checked as far as that goes without the database.
pub fn postgres(role: v1::PostgresRole) -> Converted<PostgresRole> {
    let owned = match v1::PostgresOwnedObjects::try_from(role.owned) {
        Ok(v1::PostgresOwnedObjects::ReassignToGroup) => Owned::ReassignToGroup,
        Ok(v1::PostgresOwnedObjects::Drop | v1::PostgresOwnedObjects::Unspecified) => Owned::Drop,
        Err(_) => return Err(wrong("owned", "is none that this server knows")),
    };
    let connection_limit = u16::try_from(role.connection_limit);
    let statement_timeout = ttl("role.postgres.statement_timeout", role.statement_timeout)?;
    let declared = PostgresRole {
        schemas: names("schemas", &role.schemas)?,
        tables: numbered(role.tables, "tables", table)?,
        sequences: numbered(role.sequences, "sequences", sequence)?,
        routines: numbered(role.routines, "routines", routine)?,
        search_path: names("search_path", &role.search_path)?,
        statement_timeout: statement_timeout.map(|span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX)),
        connection_limit: NonZeroU16::new(
            connection_limit.map_err(|_| wrong("connection_limit", "is at most 65535"))?,
        ),
        owned,
    };
    declared.check().map_err(|error| invalid(FIELD, error))?;
    Ok(declared)
}

/// Each with its place, for errors.
fn numbered<A, B>(from: Vec<A>, what: &str, to: impl Fn(&str, A) -> Converted<B>) -> Converted<Vec<B>> {
    from.into_iter().enumerate().map(|(number, grant)| to(&format!("{what}[{number}]"), grant)).collect()
}

fn names(place: &str, names: &[String]) -> Converted<Vec<PgName>> {
    let named = |(number, name): (usize, &String)| pg_name(FIELD, &format!("{place}[{number}] "), name);
    names.iter().enumerate().map(named).collect()
}

fn named(place: &str, objects: &v1::PostgresNames) -> Converted<Objects> {
    names(&format!("{place}.names"), &objects.names).map(Objects::Named)
}

/// From the numbers on the wire: the generated accessor would leave out what this server does not know.
fn privileges<P>(place: &str, numbers: &[i32], known: impl Fn(i32) -> Option<P>) -> Converted<Vec<P>> {
    let unknown = || wrong(place, "has a privilege that this server does not know");
    numbers.iter().map(|number| known(*number).ok_or_else(unknown)).collect()
}

fn table(place: &str, grant: v1::PostgresTableGrant) -> Converted<TableGrant> {
    let known = |number| v1::PostgresTablePrivilege::try_from(number).ok().and_then(table_privilege);
    Ok(TableGrant {
        schema: pg_name(FIELD, &format!("{place}.schema "), &grant.schema)?,
        tables: match grant.tables {
            Some(Tables::Named(objects)) => named(place, &objects)?,
            Some(Tables::Matching(pattern)) => Objects::Matching(pattern),
            None => return Err(wrong(place, "needs tables: set named or matching")),
        },
        columns: names(&format!("{place}.columns"), &grant.columns)?,
        privileges: privileges(place, &grant.privileges, known)?,
        future_of: match grant.future_of.as_str() {
            "" => None,
            owner => Some(pg_name(FIELD, &format!("{place}.future_of "), owner)?),
        },
    })
}

fn sequence(place: &str, grant: v1::PostgresSequenceGrant) -> Converted<SequenceGrant> {
    let known = |number| v1::PostgresSequencePrivilege::try_from(number).ok().and_then(sequence_privilege);
    Ok(SequenceGrant {
        schema: pg_name(FIELD, &format!("{place}.schema "), &grant.schema)?,
        sequences: match grant.sequences {
            Some(Sequences::Named(objects)) => named(place, &objects)?,
            Some(Sequences::Matching(pattern)) => Objects::Matching(pattern),
            None => return Err(wrong(place, "needs sequences: set named or matching")),
        },
        privileges: privileges(place, &grant.privileges, known)?,
    })
}

fn routine(place: &str, grant: v1::PostgresRoutineGrant) -> Converted<RoutineGrant> {
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
        on_excess: on_excess_out(record.on_excess).into(),
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
