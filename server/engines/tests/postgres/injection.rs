//! Names of all bytes that PostgreSQL takes, wherever a declaration or a setting has one: each means itself, and nothing else
//! changes.

use keystead_domain::rights::postgres::{
    Objects, PgName, PostgresRole, RoutineGrant, SequenceGrant, SequencePrivilege, TableGrant, TablePrivilege,
};
use keystead_domain::role::{Declaration, RoleRecord};

use crate::site::{ADMIN_PASSWORD, Site, VAULT, catalog, link, name, role};

fn odd_names() -> Vec<PgName> {
    let texts = [
        "\"".to_owned(),
        "\"; DROP TABLE shop.orders; --".to_owned(),
        "a\"\"b\"".to_owned(),
        "'; DROP TABLE shop.orders; --".to_owned(),
        "a'b''c".to_owned(),
        "\\'; DROP TABLE shop.orders; --".to_owned(),
        "\\".to_owned(),
        "$$; DROP TABLE shop.orders; $$".to_owned(),
        "$keystead$".to_owned(),
        "%I %L %s %1$I %%".to_owned(),
        "{0} {name} @prefix@ @schema@".to_owned(),
        "PUBLIC".to_owned(),
        "public, pg_catalog".to_owned(),
        "SELECT".to_owned(),
        " lead and trail ".to_owned(),
        "line\nbreak\ttab\r\u{1}\u{7f}".to_owned(),
        "/* open".to_owned(),
        "a.b.c(d)[e]{f},\"g\"".to_owned(),
        "{\"a\",NULL}".to_owned(),
        "ünïcödé ☃ 𝄞 \u{202e}".to_owned(),
        "é".repeat(31) + "x",
        "\"".repeat(63),
        "'".repeat(63),
        "x".repeat(63),
        "E'\\x27'".to_owned(),
    ];
    texts.iter().map(|text| name(text)).collect()
}

/// A schema with a table, a sequence, a type and a routine, all of this name, and who makes tables in it.
async fn make(site: &Site, odd: &PgName) {
    let odd = odd.quoted();
    for statement in [
        format!("CREATE ROLE {odd}"),
        format!("CREATE SCHEMA {odd} AUTHORIZATION {odd}"),
        format!("CREATE TABLE {odd}.{odd} ({odd} int, other int)"),
        format!("INSERT INTO {odd}.{odd} VALUES (1, 2)"),
        format!("CREATE SEQUENCE {odd}.\"a sequence\""),
        format!("CREATE TYPE {odd}.\"a\"\"type\" AS ENUM ('x')"),
        format!(
            "CREATE FUNCTION {odd}.{odd}({odd} {odd}.\"a\"\"type\") RETURNS int LANGUAGE sql AS 'SELECT 7'"
        ),
        format!("REVOKE EXECUTE ON FUNCTION {odd}.{odd} FROM PUBLIC"),
    ] {
        site.run(&statement).await;
    }
}

fn declared(odd: &PgName) -> PostgresRole {
    let table = TableGrant {
        schema: odd.clone(),
        tables: Objects::Named(vec![odd.clone()]),
        columns: vec![odd.clone()],
        privileges: vec![TablePrivilege::Select],
        future_of: None,
    };
    let sequence = SequenceGrant {
        schema: odd.clone(),
        sequences: Objects::Matching("a *".to_owned()),
        privileges: vec![SequencePrivilege::Usage],
    };
    // As PostgreSQL writes it: some names need no quotes.
    let routine = RoutineGrant {
        schema: odd.clone(),
        name: odd.clone(),
        arguments: format!("{}.\"a\"\"type\"", written(odd)),
    };
    PostgresRole {
        schemas: vec![odd.clone()],
        tables: vec![table],
        sequences: vec![sequence],
        routines: vec![routine],
        search_path: vec![odd.clone()],
        ..PostgresRole::default()
    }
}

fn written(odd: &PgName) -> String {
    let plain = odd.as_str().bytes().all(|byte| byte.is_ascii_lowercase());
    if plain { odd.as_str().to_owned() } else { odd.quoted() }
}

#[tokio::test]
async fn a_name_of_any_bytes_means_itself_and_nothing_else_changes() {
    let site = Site::start().await;
    for odd in odd_names() {
        make(&site, &odd).await;
        let before = catalog(&site).await;
        let role = role(declared(&odd));
        let controls = odd.as_str().chars().any(char::is_control);
        let checked = PostgresRole::check(match &role.declaration {
            Declaration::Postgres(declared) => declared,
        });
        assert_eq!(
            checked.is_err(),
            controls,
            "{odd:?}: types to be shown to people have no control characters"
        );
        if !controls {
            round_trip(&site, &odd, &role).await;
            let quoted = odd.quoted();
            for statement in [
                format!("REVOKE ALL ON SCHEMA {quoted} FROM keystead_f1caf775_owner"),
                format!("REVOKE ALL ON ALL TABLES IN SCHEMA {quoted} FROM keystead_f1caf775_owner"),
                format!("REVOKE ALL ({quoted}) ON TABLE {quoted}.{quoted} FROM keystead_f1caf775_owner"),
                format!("REVOKE ALL ON ALL SEQUENCES IN SCHEMA {quoted} FROM keystead_f1caf775_owner"),
                format!("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {quoted} FROM keystead_f1caf775_owner"),
            ] {
                site.run(&statement).await;
            }
        }
        assert_eq!(catalog(&site).await, before, "{odd:?}");
    }
}

async fn round_trip(site: &Site, odd: &PgName, role: &RoleRecord) {
    site.allow(role).await;
    let shown = site.link.verify(role, &[]).await.unwrap_or_else(|error| panic!("{odd:?}: {error}"));
    let defined = site.link.define(role, &[]).await.unwrap_or_else(|error| panic!("{odd:?}: {error}"));
    assert_eq!(shown, defined);
    assert_eq!((&defined.excess, &defined.missing), (&vec![], &vec![]), "{odd:?}");
    let (plan, session) = site.session(role).await;
    let row = session
        .query_one(&format!("SELECT {0}, nextval('\"a sequence\"'), {0}('x') FROM {0}", odd.quoted()), &[])
        .await
        .unwrap_or_else(|error| panic!("{odd:?}: {error:?}"));
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i64>(1), row.get::<_, i32>(2)), (1, 1, 7));
    assert!(session.batch_execute(&format!("SELECT other FROM {}", odd.quoted())).await.is_err());
    site.link.revoke(&plan.handle).await.unwrap();
    site.link.undefine(role.id).await.unwrap();
}

#[tokio::test]
async fn tables_to_come_of_a_maker_of_any_name() {
    let site = Site::start().await;
    for odd in odd_names() {
        make(&site, &odd).await;
        let all = TableGrant {
            schema: odd.clone(),
            tables: Objects::Matching("*".to_owned()),
            columns: Vec::new(),
            privileges: vec![TablePrivilege::Select],
            future_of: Some(odd.clone()),
        };
        let schemas = vec![odd.clone()];
        let role = role(PostgresRole { schemas, tables: vec![all], ..PostgresRole::default() });
        // PUBLIC is a key word without its quotes; in them it is no name that PostgreSQL lets a role have.
        site.allow(&role).await;
        let defined = site.link.define(&role, &[]).await.unwrap_or_else(|error| panic!("{odd:?}: {error}"));
        assert!(defined.excess.is_empty() && defined.missing.is_empty(), "{odd:?}: {defined:?}");
        let quoted = odd.quoted();
        site.run(&format!(
            "GRANT USAGE, CREATE ON SCHEMA {quoted} TO {quoted}; SET ROLE {quoted}; CREATE TABLE {quoted}.later (id int); RESET ROLE"
        ))
        .await;
        let (plan, session) = site.session(&role).await;
        session.batch_execute(&format!("SELECT * FROM {quoted}.later")).await.unwrap();
        site.link.revoke(&plan.handle).await.unwrap();
        site.link.undefine(role.id).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_and_an_admin_login_of_any_name() {
    let site = Site::start().await;
    for odd in odd_names() {
        let quoted = odd.quoted();
        site.run(&format!("CREATE DATABASE {quoted}")).await;
        site.run(&format!("REVOKE ALL ON DATABASE {quoted} FROM PUBLIC")).await;
        let root = site.server.superuser(odd.as_str()).await.unwrap();
        let before = catalog(&site).await;
        let script = keystead_engines::postgres::setup_script(VAULT, &odd, &odd);
        root.batch_execute(&script).await.unwrap_or_else(|error| panic!("{odd:?}: {error:?}"));
        root.batch_execute(&format!("ALTER ROLE {quoted} PASSWORD '{ADMIN_PASSWORD}'")).await.unwrap();
        let linked = link(site.server.settings(odd.as_str(), odd.as_str()).unwrap());
        let probe = linked.probe().await.unwrap_or_else(|error| panic!("{odd:?}: {error}"));
        assert_eq!((probe.baseline, probe.admin_excess), (vec![], vec![]), "{odd:?}");
        drop(linked);
        let owner = keystead_engines::postgres::owner_role(VAULT, &odd);
        root.batch_execute(&format!("DROP OWNED BY {owner}, {quoted} CASCADE")).await.unwrap();
        site.run(&format!("DROP ROLE {owner}, {quoted}")).await;
        assert_eq!(catalog(&site).await, before, "{odd:?}");
    }
}
