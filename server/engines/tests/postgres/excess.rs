//! What a target gives beyond a declaration is found, each kind planted alone.

use keystead_core::engine::EngineError;
use keystead_domain::rights::Right;
use keystead_domain::rights::postgres::{
    Objects, PostgresRole, RoutineGrant, SequenceGrant, SequencePrivilege, TableGrant, TablePrivilege,
};
use keystead_domain::role::{Declaration, OnExcess, RoleRecord};

use crate::site::{Site, catalog, name, orders, role, tables};

/// What is planted, how it is taken out, and what the error must name. `{g}` is the group.
const PLANTED: &[(&str, &str, &str)] = &[
    (
        "GRANT SELECT ON shop.payments TO PUBLIC",
        "REVOKE SELECT ON shop.payments FROM PUBLIC",
        "SELECT on table \"shop\".\"payments\" (through PUBLIC)",
    ),
    (
        "GRANT UPDATE (note) ON shop.orders TO PUBLIC",
        "REVOKE UPDATE (note) ON shop.orders FROM PUBLIC",
        "UPDATE on column \"shop\".\"orders\".\"note\" (through PUBLIC)",
    ),
    (
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        "CREATE on schema \"public\" (through PUBLIC)",
    ),
    (
        "GRANT TEMPORARY ON DATABASE shop TO PUBLIC",
        "REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC",
        "TEMPORARY on database \"shop\" (through PUBLIC)",
    ),
    (
        "GRANT CONNECT ON DATABASE postgres TO PUBLIC",
        "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC",
        "CONNECT on database \"postgres\" (through PUBLIC)",
    ),
    (
        "GRANT SELECT ON pg_catalog.pg_authid TO PUBLIC",
        "REVOKE SELECT ON pg_catalog.pg_authid FROM PUBLIC",
        "SELECT on table \"pg_catalog\".\"pg_authid\" (through PUBLIC)",
    ),
    (
        "GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO PUBLIC",
        "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) FROM PUBLIC",
        "EXECUTE on routine \"pg_catalog\".\"pg_read_file\"(text) (through PUBLIC)",
    ),
    (
        "GRANT INSERT ON information_schema.sql_features TO PUBLIC",
        "REVOKE INSERT ON information_schema.sql_features FROM PUBLIC",
        "INSERT on table \"information_schema\".\"sql_features\" (through PUBLIC)",
    ),
    (
        "CREATE FUNCTION shop.open() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "DROP FUNCTION shop.open()",
        "EXECUTE on routine \"shop\".\"open\"() (through PUBLIC)",
    ),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT SELECT ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE SELECT ON TABLES FROM PUBLIC",
        "SELECT on tables that \"app\" makes later (through PUBLIC)",
    ),
    (
        "GRANT SELECT ON shop.payments TO {g}",
        "REVOKE SELECT ON shop.payments FROM {g}",
        "SELECT on table \"shop\".\"payments\"",
    ),
    (
        "GRANT DELETE ON shop.orders TO {g}",
        "REVOKE DELETE ON shop.orders FROM {g}",
        "DELETE on table \"shop\".\"orders\"",
    ),
    (
        "GRANT SELECT ON shop.orders TO {g} WITH GRANT OPTION",
        "REVOKE GRANT OPTION FOR SELECT ON shop.orders FROM {g}",
        "SELECT WITH GRANT OPTION on table \"shop\".\"orders\"",
    ),
    (
        "GRANT SELECT (card) ON shop.payments TO {g}",
        "REVOKE SELECT (card) ON shop.payments FROM {g}",
        "SELECT on column \"shop\".\"payments\".\"card\"",
    ),
    (
        "GRANT USAGE ON SEQUENCE shop.numbers TO {g}",
        "REVOKE USAGE ON SEQUENCE shop.numbers FROM {g}",
        "USAGE on sequence \"shop\".\"numbers\"",
    ),
    (
        "GRANT EXECUTE ON FUNCTION shop.total(integer, integer) TO {g}",
        "REVOKE EXECUTE ON FUNCTION shop.total(integer, integer) FROM {g}",
        "EXECUTE on routine \"shop\".\"total\"(integer, integer)",
    ),
    (
        "GRANT CREATE ON SCHEMA shop TO {g}",
        "REVOKE CREATE ON SCHEMA shop FROM {g}",
        "CREATE on schema \"shop\"",
    ),
    (
        "GRANT CREATE ON DATABASE shop TO {g}",
        "REVOKE CREATE ON DATABASE shop FROM {g}",
        "CREATE on database \"shop\"",
    ),
    (
        "GRANT CONNECT ON DATABASE postgres TO {g}",
        "REVOKE CONNECT ON DATABASE postgres FROM {g}",
        "CONNECT on database \"postgres\"",
    ),
    (
        "GRANT USAGE ON LANGUAGE plpgsql TO {g}",
        "REVOKE USAGE ON LANGUAGE plpgsql FROM {g}",
        "USAGE on language \"plpgsql\"",
    ),
    (
        "GRANT SET ON PARAMETER log_statement TO {g}",
        "REVOKE SET ON PARAMETER log_statement FROM {g}",
        "SET on parameter \"log_statement\"",
    ),
    (
        "GRANT CREATE ON TABLESPACE pg_default TO {g}",
        "REVOKE CREATE ON TABLESPACE pg_default FROM {g}",
        "CREATE on tablespace \"pg_default\"",
    ),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA shop GRANT SELECT ON TABLES TO {g}",
        "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA shop REVOKE SELECT ON TABLES FROM {g}",
        "SELECT on tables that \"app\" makes later in schema \"shop\"",
    ),
    ("GRANT app TO {g}", "REVOKE app FROM {g}", "MEMBER on role \"app\""),
    (
        "GRANT pg_read_all_data TO {g}",
        "REVOKE pg_read_all_data FROM {g}",
        "MEMBER on role \"pg_read_all_data\"",
    ),
    (
        "ALTER TABLE shop.payments OWNER TO {g}",
        "ALTER TABLE shop.payments OWNER TO app",
        "OWNER on table shop.payments",
    ),
    ("ALTER ROLE {g} BYPASSRLS", "ALTER ROLE {g} NOBYPASSRLS", "BYPASSRLS on role {g}"),
    ("ALTER ROLE {g} SUPERUSER", "ALTER ROLE {g} NOSUPERUSER", "SUPERUSER on role {g}"),
];

fn excess(error: EngineError) -> Vec<String> {
    match error {
        EngineError::Excess { excess, .. } => excess.iter().map(|excess| excess.right.to_string()).collect(),
        other => panic!("{other}"),
    }
}

/// What is said to close each.
fn remedies(error: &EngineError) -> Vec<Option<String>> {
    match error {
        EngineError::Excess { excess, .. } => excess.iter().map(|excess| excess.closed_by.clone()).collect(),
        other => panic!("{other}"),
    }
}

async fn group(site: &Site) -> String {
    let query =
        "SELECT '\"' || rolname || '\"' FROM pg_roles WHERE starts_with(rolname::text, 'ks_f1caf775_g__')";
    site.ask(query).await
}

#[tokio::test]
async fn each_kind_of_excess_planted_alone_refuses_the_issue_and_the_definition() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let group = group(&site).await;
    for (plant, take_out, named) in PLANTED {
        let [plant, take_out, named] = [plant, take_out, named].map(|text| text.replace("{g}", &group));
        site.run(&plant).await;
        // A link that has not read the group back yet.
        let (_, issued) = site.issue_by(&*site.new_link(), &role).await;
        let found = excess(issued.err().unwrap_or_else(|| panic!("{plant}: issued")));
        // Whoever owns a table has all rights on it besides.
        assert!(
            found.contains(&named) && (found.len() == 1 || plant.contains("OWNER")),
            "{plant}: {found:?}"
        );
        let refused = site.link.define(&role, &[]).await.err().unwrap();
        let closing = remedies(&refused);
        assert_eq!(excess(refused), found, "{plant}");
        let verified = site.link.verify(&role, &[]).await.unwrap();
        assert_eq!(verified.excess.iter().map(Right::to_string).collect::<Vec<_>>(), found);
        // An owner has no statement: somebody else has to be named.
        assert_eq!(closing.contains(&None), plant.contains("OWNER"), "{plant}");
        let closing = closing.into_iter().collect::<Option<Vec<_>>>().map(|closing| closing.join("\n"));
        let take_out = closing.unwrap_or(take_out);
        site.run(&take_out).await;
        site.link.define(&role, &[]).await.unwrap_or_else(|error| panic!("{take_out}: {error}"));
    }
    site.issue(&role).await.1.unwrap();
}

#[tokio::test]
async fn what_is_planted_on_a_login_refuses_that_login() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    for (plant, named) in [
        ("GRANT app TO {l}", "MEMBER of \"app\""),
        ("GRANT SELECT ON shop.payments TO {l}", "OWNER, or rights of its own"),
        ("ALTER ROLE {l} CREATEDB", "CREATEDB"),
        ("ALTER ROLE {l} SUPERUSER", "SUPERUSER"),
        ("ALTER ROLE {l} IN DATABASE shop SET role = 'app'", ":role"),
    ] {
        let (plan, issued) = site.issue(&role).await;
        issued.unwrap();
        site.run(&plant.replace("{l}", &format!("\"{}\"", plan.handle.name))).await;
        // The same request again: the login is there already.
        let error = site.issue_planned(&role, &plan).await.err().unwrap_or_else(|| panic!("{plant}: issued"));
        match error {
            EngineError::Excess { .. } => {
                let found = excess(error);
                assert!(found.len() == 1 && found[0].contains(named), "{plant}: {found:?}");
            }
            // A superuser's password is nobody's to change.
            EngineError::Admin { .. } | EngineError::Refused { .. } => assert!(plant.contains("SUPERUSER")),
            other => panic!("{plant}: {other}"),
        }
        site.run(&format!("ALTER ROLE \"{}\" NOSUPERUSER", plan.handle.name)).await;
        if plant.contains("payments") {
            // Others gave it: others have to take it away. Until then the login is forbidden, and pending.
            let error = site.link.revoke(&plan.handle).await.err().unwrap().to_string();
            assert!(error.contains("table shop.payments") && error.contains("DROP OWNED BY"), "{error}");
            assert!(site.login(&plan).await.is_err());
            site.run(&format!("DROP OWNED BY \"{}\"", plan.handle.name)).await;
        }
        site.link.revoke(&plan.handle).await.unwrap();
    }
}

#[tokio::test]
async fn a_role_that_only_warns_is_issued_with_the_excess_told() {
    let site = Site::start().await;
    let mut role = role(orders());
    role.on_excess = OnExcess::Warn;
    site.allow(&role).await;
    site.run("GRANT SELECT ON shop.payments TO PUBLIC").await;
    let defined = site.link.define(&role, &[]).await.unwrap();
    assert_eq!(defined.excess.len(), 1);
    for _ in 0..2 {
        assert_eq!(site.issue(&role).await.1.unwrap().excess, defined.excess);
    }
}

#[tokio::test]
async fn findings_that_were_accepted_are_no_excess_and_their_statements_close_them() {
    let site = Site::start().await;
    for open in [
        "GRANT CONNECT, TEMPORARY ON DATABASE postgres TO PUBLIC",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "GRANT SELECT (note) ON shop.orders TO PUBLIC",
        "GRANT SET ON PARAMETER \"app.x\" TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA shop GRANT USAGE ON SEQUENCES TO PUBLIC",
        "CREATE FUNCTION shop.open(\"a\" text) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "SELECT lo_create(4711)",
        "GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC",
        "CREATE FOREIGN DATA WRAPPER fdw; GRANT USAGE ON FOREIGN DATA WRAPPER fdw TO PUBLIC",
        "CREATE SERVER remote FOREIGN DATA WRAPPER fdw; GRANT USAGE ON FOREIGN SERVER remote TO PUBLIC",
    ] {
        site.run(open).await;
    }
    let found = site.link.probe().await.unwrap().baseline;
    assert_eq!(found.len(), 10, "{found:#?}");
    assert_eq!(found, site.new_link().probe().await.unwrap().baseline, "findings are stable");
    let accepted: Vec<String> = found.iter().map(|finding| finding.digest.clone()).collect();
    let role = role(orders());
    site.allow(&role).await;
    assert_eq!(excess(site.link.define(&role, &[]).await.err().unwrap()).len(), 10);
    assert_eq!(excess(site.link.define(&role, &accepted[1..]).await.err().unwrap()).len(), 1);
    site.link.define(&role, &accepted).await.unwrap();
    for finding in found {
        site.run(&finding.closed_by).await;
    }
    assert_eq!(site.link.probe().await.unwrap().baseline, []);
    site.link.define(&role, &[]).await.unwrap();
}

#[tokio::test]
async fn a_definition_gives_all_kinds_and_takes_away_what_is_declared_no_more() {
    let site = Site::start().await;
    let columns = TableGrant {
        columns: vec![name("id"), name("note")],
        ..tables(&["orders"], &[TablePrivilege::Select, TablePrivilege::Update])
    };
    let wide = PostgresRole {
        schemas: vec![name("shop")],
        tables: vec![columns, tables(&["payments"], &[TablePrivilege::Delete])],
        sequences: vec![SequenceGrant {
            schema: name("shop"),
            sequences: Objects::Matching("num*".to_owned()),
            privileges: vec![SequencePrivilege::Usage],
        }],
        routines: vec![RoutineGrant {
            schema: name("shop"),
            name: name("total"),
            arguments: "a integer, b integer".to_owned(),
        }],
        ..PostgresRole::default()
    };
    let mut role = site.defined(wide).await;
    let (_, session) = site.session(&role).await;
    session
        .batch_execute("UPDATE shop.orders SET note = 'x' WHERE id > 0; SELECT nextval('shop.numbers'), shop.total(1, 2)")
        .await
        .unwrap();
    assert!(session.batch_execute("SELECT price FROM shop.orders").await.is_err());
    assert!(session.batch_execute("SELECT shop.total('a')").await.is_err());
    assert_eq!(site.link.define(&role, &[]).await.unwrap().statements, Vec::<String>::new(), "nothing to do");

    role.declaration = Declaration::Postgres(orders());
    site.allow(&role).await;
    let verified = site.link.verify(&role, &[]).await.unwrap();
    session.batch_execute("UPDATE shop.orders SET note = 'y' WHERE id > 0").await.unwrap();
    let defined = site.link.define(&role, &[]).await.unwrap();
    assert_eq!(verified, defined, "what was shown is what was done");
    assert_eq!(defined.excess, []);
    for refused in
        ["UPDATE shop.orders SET note = 'z'", "SELECT nextval('shop.numbers')", "SELECT shop.total(1, 2)"]
    {
        assert!(session.batch_execute(refused).await.is_err(), "{refused}");
    }
}

#[tokio::test]
async fn a_column_that_stays_declared_outlives_the_right_to_its_whole_table() {
    let site = Site::start().await;
    let columns = TableGrant {
        columns: vec![name("id"), name("note")],
        ..tables(&["orders"], &[TablePrivilege::Select, TablePrivilege::Update])
    };
    let narrow = PostgresRole { tables: vec![columns.clone()], ..orders() };
    let wide =
        PostgresRole { tables: vec![columns, tables(&["orders"], &[TablePrivilege::Select])], ..orders() };
    let mut role = site.defined(wide).await;
    let (_, session) = site.session(&role).await;
    session.batch_execute("SELECT price FROM shop.orders").await.unwrap();
    role.declaration = Declaration::Postgres(narrow);
    let defined = site.link.define(&role, &[]).await.unwrap();
    assert_eq!((defined.missing, defined.excess), (vec![], vec![]));
    assert!(session.batch_execute("SELECT price FROM shop.orders").await.is_err());
    session.batch_execute("UPDATE shop.orders SET note = 'x' WHERE id > 0").await.unwrap();
    session.batch_execute("SELECT note FROM shop.orders").await.unwrap();
    assert_eq!(site.link.define(&role, &[]).await.unwrap().statements, Vec::<String>::new(), "nothing to do");
}

#[tokio::test]
async fn verifying_leaves_nothing() {
    let site = Site::start().await;
    let role = role(orders());
    site.allow(&role).await;
    let before = catalog(&site).await;
    let verified = site.link.verify(&role, &[]).await.unwrap();
    assert!(
        verified
            .statements
            .iter()
            .any(|statement| statement.starts_with("GRANT SELECT, INSERT ON TABLE shop.orders")
                || statement.contains("ON TABLE shop.orders")),
        "{:?}",
        verified.statements
    );
    assert!(verified.rights.iter().any(|right| right.to_string() == "INSERT on table \"shop\".\"orders\""));
    assert_eq!(catalog(&site).await, before);
    let (_, issued) = site.issue(&role).await;
    assert!(matches!(issued.err().unwrap(), EngineError::Definition { .. }));
}

#[tokio::test]
async fn a_pattern_is_looked_up_and_tables_to_come_are_given() {
    let site = Site::start().await;
    let all = TableGrant {
        tables: Objects::Matching("*".to_owned()),
        future_of: Some(name("app")),
        ..tables(&[], &[TablePrivilege::Select])
    };
    let declared = PostgresRole { schemas: vec![name("shop")], tables: vec![all], ..PostgresRole::default() };
    let role = site.defined(declared).await;
    let (_, session) = site.session(&role).await;
    session.batch_execute("SELECT * FROM shop.payments").await.unwrap();
    site.run("SET ROLE app; CREATE TABLE shop.later (id int); RESET ROLE").await;
    // The next login has it, and so have all others then, since rights are the group's.
    let (_, next) = site.session(&role).await;
    for session in [&session, &next] {
        session.batch_execute("SELECT * FROM shop.later").await.unwrap();
        assert!(session.batch_execute("DELETE FROM shop.later").await.is_err());
    }
    assert_eq!(site.link.define(&role, &[]).await.unwrap().statements, Vec::<String>::new());
    // Somebody else's table is not meant, and keeps no login from being made.
    site.run("CREATE TABLE shop.secret (id int)").await;
    let (_, next) = site.session(&role).await;
    assert!(next.batch_execute("SELECT * FROM shop.secret").await.is_err());
    site.run("DROP TABLE shop.secret").await;
    // Who wants a table's rights at once gives the group what the role declares.
    let group = group(&site).await;
    site.run(&format!(
        "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA shop GRANT SELECT ON TABLES TO {group}"
    ))
    .await;
    site.run("SET ROLE app; CREATE TABLE shop.at_once (id int); RESET ROLE").await;
    session.batch_execute("SELECT * FROM shop.at_once").await.unwrap();
    assert_eq!(site.new_link().define(&role, &[]).await.unwrap().excess, []);
}

#[tokio::test]
async fn what_the_vault_may_not_give_is_an_error_that_says_how() {
    let site = Site::start().await;
    let mut role = role(orders());
    let before = catalog(&site).await;
    // Nothing was given with the right to pass it on.
    let error = site.link.define(&role, &[]).await.err().unwrap().to_string();
    assert!(error.contains("shop") && error.contains("permission denied"), "{error}");
    // Some was: PostgreSQL only warns.
    site.run("GRANT USAGE ON SCHEMA shop TO keystead_f1caf775_owner WITH GRANT OPTION").await;
    site.run("GRANT SELECT ON shop.orders TO keystead_f1caf775_owner WITH GRANT OPTION").await;
    let error = site.link.define(&role, &[]).await.err().unwrap().to_string();
    assert!(
        error.contains("INSERT on table \"shop\".\"orders\"") && error.contains("WITH GRANT OPTION"),
        "{error}"
    );
    site.run("REVOKE ALL ON SCHEMA shop FROM keystead_f1caf775_owner CASCADE; REVOKE ALL ON shop.orders FROM keystead_f1caf775_owner").await;
    assert_eq!(catalog(&site).await, before, "an error leaves nothing");
    for (declared, named) in [
        (tables(&["gone"], &[TablePrivilege::Select]), "\"shop\".\"gone\""),
        (TableGrant { schema: name("nowhere"), ..tables(&["t"], &[TablePrivilege::Select]) }, "\"nowhere\""),
    ] {
        let declared = PostgresRole { tables: vec![declared], ..PostgresRole::default() };
        role.declaration = Declaration::Postgres(declared);
        let error = site.link.define(&role, &[]).await.err().unwrap();
        assert!(matches!(&error, EngineError::Definition { what, .. } if what.contains(named)), "{error}");
    }
}

#[tokio::test]
async fn undefining_takes_the_group_out_and_does_so_again() {
    let site = Site::start().await;
    let before = catalog(&site).await;
    let role: RoleRecord = site.defined(orders()).await;
    let (plan, _session) = site.session(&role).await;
    let error = site.link.undefine(role.id).await.err().unwrap();
    assert!(matches!(error, EngineError::Refused { .. }), "a login is left: {error}");
    site.link.revoke(&plan.handle).await.unwrap();
    site.link.undefine(role.id).await.unwrap();
    site.link.undefine(role.id).await.unwrap();
    site.run("REVOKE ALL ON SCHEMA shop FROM keystead_f1caf775_owner; REVOKE ALL ON shop.orders FROM keystead_f1caf775_owner").await;
    assert_eq!(catalog(&site).await, before);
}
