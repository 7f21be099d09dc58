//! Declarations: each comes back as it went; what breaks a rule is named with its place.

use keystead_domain::id::RecordId;
use keystead_domain::role::RoleRecord;
use keystead_domain::time::UnixMillis;

use super::*;

fn secs(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn declared() -> v1::PostgresRole {
    let named = |name: &str| v1::PostgresNames { names: vec![name.into()] };
    v1::PostgresRole {
        schemas: vec!["shop".into()],
        tables: vec![
            v1::PostgresTableGrant {
                schema: "shop".into(),
                tables: Some(Tables::Named(named("Order Lines"))),
                columns: vec!["id".into()],
                privileges: vec![1, 2],
                future_of: String::new(),
            },
            v1::PostgresTableGrant {
                schema: "shop".into(),
                tables: Some(Tables::Matching("*".into())),
                columns: Vec::new(),
                privileges: (1..8).collect(),
                future_of: "shop_owner".into(),
            },
        ],
        sequences: vec![v1::PostgresSequenceGrant {
            schema: "shop".into(),
            sequences: Some(Sequences::Named(named("ids"))),
            privileges: (1..4).collect(),
        }],
        routines: vec![v1::PostgresRoutineGrant {
            schema: "shop".into(),
            name: "total".into(),
            arguments: "integer".into(),
        }],
        search_path: vec!["shop".into()],
        statement_timeout: secs(30),
        connection_limit: 5,
        owned: v1::PostgresOwnedObjects::ReassignToGroup.into(),
    }
}

fn request(change: impl FnOnce(&mut v1::Role, &mut v1::PostgresRole)) -> v1::PutRoleRequest {
    let mut role = v1::Role {
        name: "shop".into(),
        target: "shop-db".into(),
        default_ttl: secs(900),
        max_ttl: secs(86_400),
        max_live: 7,
        on_excess: v1::ExcessHandling::Warn.into(),
        etag: "e1".into(),
        ..Default::default()
    };
    let mut postgres = declared();
    change(&mut role, &mut postgres);
    role.declaration = Some(v1::role::Declaration::Postgres(postgres));
    v1::PutRoleRequest { role: Some(role) }
}

#[test]
fn a_role_comes_back_as_it_went() {
    let op = put(request(|_, _| ())).unwrap();
    assert_eq!((op.max_live, op.on_excess, op.etag.as_deref()), (7, OnExcess::Warn, Some("e1")));
    let record = RoleRecord {
        id: RecordId([1; 16]),
        name: op.name,
        target: op.target,
        target_id: RecordId([2; 16]),
        declaration: op.declaration,
        default_ttl: op.default_ttl,
        max_ttl: op.max_ttl,
        max_live: op.max_live,
        on_excess: op.on_excess,
        created: UnixMillis(1),
        changed: UnixMillis(2),
    };
    let back = out(&Role { record, etag: "e1".into(), definition: None });
    let sent = request(|_, _| ()).role.unwrap();
    assert_eq!(back.declaration, sent.declaration);
    assert_eq!((back.name, back.target, back.default_ttl), (sent.name, sent.target, sent.default_ttl));
}

#[test]
fn what_is_not_said_is_the_smaller_of_two() {
    let op = put(request(|role, postgres| {
        (role.max_live, role.on_excess) = (0, 0);
        *postgres = v1::PostgresRole::default();
    }))
    .unwrap();
    assert_eq!((op.max_live, op.on_excess), (MAX_LIVE, OnExcess::Refuse));
    assert_eq!(op.declaration, Declaration::Postgres(PostgresRole::default()));
}

#[test]
fn what_breaks_a_rule_is_named_with_its_place() {
    type Change = fn(&mut v1::Role, &mut v1::PostgresRole);
    let rows: [(&str, Change); 12] = [
        ("role.name: ", |role, _| role.name = "Shop".into()),
        ("role.target: ", |role, _| role.target = String::new()),
        ("role.default_ttl: ", |role, _| role.default_ttl = None),
        ("role.max_ttl: ", |role, _| role.max_ttl = secs(-1)),
        ("schemas[0] is empty", |_, postgres| postgres.schemas = vec![String::new()]),
        ("tables[1].schema has 64 bytes", |_, postgres| postgres.tables[1].schema = "a".repeat(64)),
        ("tables[0] needs tables", |_, postgres| postgres.tables[0].tables = None),
        ("sequences[0] needs sequences", |_, postgres| postgres.sequences[0].sequences = None),
        ("connection_limit is at most 65535", |_, postgres| postgres.connection_limit = 65_536),
        // And what the domain says of a declaration.
        ("role.postgres: tables[0]: tables: none", |_, postgres| {
            postgres.tables[0].tables = Some(Tables::Named(v1::PostgresNames::default()));
        }),
        ("tables[0]: privileges: none", |_, postgres| postgres.tables[0].privileges.clear()),
        ("statement_timeout", |_, postgres| postgres.statement_timeout = secs(86_401)),
    ];
    for (said, change) in rows {
        let error = put(request(change)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn what_a_newer_client_knows_is_refused_and_not_left_out() {
    type Change = fn(&mut v1::Role, &mut v1::PostgresRole);
    let rows: [(&str, Change); 4] = [
        ("does not know", |_, postgres| postgres.tables[0].privileges = vec![1, 99]),
        ("does not know", |_, postgres| postgres.sequences[0].privileges = vec![99]),
        ("owned is none", |_, postgres| postgres.owned = 99),
        ("role.on_excess: is none", |role, _| role.on_excess = 99),
    ];
    for (said, change) in rows {
        let error = put(request(change)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}
