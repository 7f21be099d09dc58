//! The vectors of docs/storage-format.md for targets, roles and static roles.

use std::num::NonZeroU16;

use keystead_domain::id::RecordId;
use keystead_domain::name::Name;
use keystead_domain::rights::postgres::{
    Objects, Owned, PgName, PostgresRole, RoutineGrant, SequenceGrant, SequencePrivilege, TableGrant,
    TablePrivilege,
};
use keystead_domain::role::{Declaration, OnExcess, RoleRecord};
use keystead_domain::static_role::{Schedule, StaticLogins, StaticRoleRecord, Step, Which};
use keystead_domain::target::{Host, PostgresSettings, TargetRecord, TargetSettings};
use keystead_domain::time::{Ttl, UnixMillis};

use super::links::StoredLogin;
use super::roles::StoredRole;
use super::static_roles::StoredStaticRole;
use super::targets::StoredTarget;
use crate::records;
use crate::records::vectors::check;

const MADE: UnixMillis = UnixMillis(1_700_000_000_000);

fn pg(text: &str) -> PgName {
    PgName::parse(text).unwrap()
}

#[test]
fn target() {
    let settings = PostgresSettings {
        host: Host::parse("db.example.org").unwrap(),
        port: NonZeroU16::new(5432).unwrap(),
        database: pg("shop"),
        ca_pem: "PEM".to_owned(),
        server_name: None,
        admin: pg("keystead"),
        connections: 8,
    };
    let record = TargetRecord {
        id: RecordId([0xc1; 16]),
        name: Name::parse("shop-db").unwrap(),
        settings: TargetSettings::Postgres(settings),
        max_ttl: Ttl::from_secs(86_400).unwrap(),
        accepted: vec!["0f1e".to_owned()],
        created: MADE,
        rotated: Some(UnixMillis(MADE.0 + 1)),
    };
    let login = StoredLogin { data_key: RecordId([0xd1; 16]), sealed: vec![0xee; 3] };
    let stored = StoredTarget { record, login, pending: None };
    check("record.target", &records::encode(&stored).unwrap());
}

#[test]
fn role() {
    let declared = PostgresRole {
        schemas: vec![pg("shop")],
        tables: vec![TableGrant {
            schema: pg("shop"),
            tables: Objects::Named(vec![pg("orders")]),
            columns: vec![pg("id")],
            privileges: vec![TablePrivilege::Select, TablePrivilege::Insert],
            future_of: None,
        }],
        sequences: vec![SequenceGrant {
            schema: pg("shop"),
            sequences: Objects::Matching("*_seq".to_owned()),
            privileges: vec![SequencePrivilege::Usage],
        }],
        routines: vec![RoutineGrant {
            schema: pg("shop"),
            name: pg("total"),
            arguments: "integer".to_owned(),
        }],
        search_path: vec![pg("shop")],
        statement_timeout: Some(30),
        connection_limit: NonZeroU16::new(4),
        owned: Owned::Drop,
    };
    let record = RoleRecord {
        id: RecordId([0xc2; 16]),
        name: Name::parse("orders-rw").unwrap(),
        target: Name::parse("shop-db").unwrap(),
        target_id: RecordId([0xc1; 16]),
        declaration: Declaration::Postgres(declared),
        default_ttl: Ttl::from_secs(900).unwrap(),
        max_ttl: Ttl::from_secs(3_600).unwrap(),
        max_live: 50,
        on_excess: OnExcess::Refuse,
        created: MADE,
        changed: UnixMillis(MADE.0 + 1),
    };
    check("record.role", &records::encode(&StoredRole { record, leaving: false }).unwrap());
}

#[test]
fn static_role() {
    let logins = StaticLogins::Postgres { first: pg("ledger_a"), second: Some(pg("ledger_b")) };
    let period = Some(Ttl::from_secs(86_400).unwrap());
    let mut schedule = Schedule::new(period, MADE);
    assert_eq!(schedule.begin(&logins, UnixMillis(MADE.0 + 1)), Which::Second);
    schedule.advance(Step::Set);
    schedule.failed("away".to_owned(), true, UnixMillis(MADE.0 + 2), 0);
    let record = StaticRoleRecord {
        id: RecordId([0xc4; 16]),
        name: Name::parse("ledger").unwrap(),
        target: Name::parse("shop-db").unwrap(),
        target_id: RecordId([0xc1; 16]),
        logins,
        period,
        on_excess: OnExcess::Refuse,
        created: MADE,
        changed: UnixMillis(MADE.0 + 1),
        schedule,
    };
    let login = |key| StoredLogin { data_key: RecordId([key; 16]), sealed: vec![0xee; 3] };
    let stored = StoredStaticRole {
        record,
        place: "postgres db.example.org 5432".to_owned(),
        first: login(0xd1),
        second: Some(login(0xd2)),
        pending: Some(login(0xd3)),
    };
    check("record.static-role", &records::encode(&stored).unwrap());
}
