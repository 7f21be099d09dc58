//! The admin login: what is demanded of it, what a thief of it can do, and how its password changes.

use keystead_core::engine::EngineError;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::rights::postgres::{Objects, PostgresRole, TableGrant, TablePrivilege};

use crate::site::{
    ADMIN, ADMIN_PASSWORD, DATABASE, LONG, SCHEMA, Site, VAULT, catalog, fields, link, name, orders, tables,
};

#[tokio::test]
async fn adding_a_target_proves_the_admin_and_leaves_nothing() {
    let site = Site::start().await;
    let roles = "SELECT string_agg(rolname::text, ',' ORDER BY rolname) FROM pg_roles";
    let before = site.ask(roles).await;
    let probe = site.link.probe().await.unwrap();
    assert!(probe.version.starts_with("PostgreSQL 1"), "{}", probe.version);
    assert_eq!((probe.admin_excess, probe.baseline), (vec![], vec![]));
    assert_eq!(site.ask(roles).await, before);
}

#[tokio::test]
async fn the_set_up_can_be_pasted_again_and_a_changed_one_is_found() {
    let site = Site::start().await;
    let script = keystead_engines::postgres::setup_script(VAULT, &name(DATABASE), &name(ADMIN));
    let role = site.defined(orders()).await;
    site.run(&script).await;
    site.link.probe().await.unwrap();
    site.issue(&role).await.1.unwrap();
    for (change, named) in [
        (
            format!(
                "CREATE OR REPLACE FUNCTION {SCHEMA}.forbid(login text) RETURNS boolean LANGUAGE sql AS 'SELECT true'"
            ),
            "forbid is another one",
        ),
        (format!("ALTER FUNCTION {SCHEMA}.forbid(text) SECURITY INVOKER"), "forbid is another one"),
        (format!("ALTER FUNCTION {SCHEMA}.forbid(text) RESET search_path"), "forbid is another one"),
        (format!("ALTER FUNCTION {SCHEMA}.forbid(text) OWNER TO postgres"), "forbid is another one"),
        (format!("DROP FUNCTION {SCHEMA}.renew"), "renew is missing"),
        (
            format!("CREATE FUNCTION {SCHEMA}.more() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
            "more is not ours",
        ),
        (format!("GRANT EXECUTE ON FUNCTION {SCHEMA}.forbid TO PUBLIC"), "nobody else's"),
        (format!("REVOKE EXECUTE ON FUNCTION {SCHEMA}.forbid FROM {ADMIN}"), "the admin login's to call"),
        ("ALTER ROLE keystead_f1caf775_owner SUPERUSER".to_owned(), "more than CREATEROLE"),
        ("ALTER ROLE keystead_f1caf775_owner NOCREATEROLE".to_owned(), "lacks CREATEROLE"),
        ("REVOKE pg_signal_backend FROM keystead_f1caf775_owner".to_owned(), "lacks CREATEROLE"),
    ] {
        site.run(&change).await;
        let error = site.link.probe().await.err().unwrap_or_else(|| panic!("{change}: good"));
        assert!(
            matches!(&error, EngineError::Admin { what, .. } if what.contains(named)),
            "{change}: {error}"
        );
        site.run("ALTER ROLE keystead_f1caf775_owner NOSUPERUSER CREATEROLE").await;
        site.run(&script).await;
        site.link.probe().await.unwrap_or_else(|error| panic!("after {change}: {error}"));
    }
    site.run(&format!("DROP SCHEMA {SCHEMA} CASCADE")).await;
    let (_, issued) = site.issue(&role).await;
    assert!(matches!(issued.err().unwrap(), EngineError::Admin { .. }));
    // Whoever named a superuser is told that first.
    site.run(&format!("ALTER ROLE {ADMIN} SUPERUSER")).await;
    let error = site.new_link().probe().await.err().unwrap();
    assert!(
        matches!(&error, EngineError::Admin { what, .. } if what.starts_with("the admin login is a superuser")),
        "{error}"
    );
}

#[tokio::test]
async fn an_admin_login_that_can_do_more_than_it_needs_is_told() {
    let site = Site::start().await;
    for (give, take, told) in [
        ("ALTER ROLE vault CREATEROLE", "ALTER ROLE vault NOCREATEROLE", "CREATEROLE on role \"vault\""),
        ("ALTER ROLE vault SUPERUSER", "ALTER ROLE vault NOSUPERUSER", "SUPERUSER on role \"vault\""),
        ("GRANT app TO vault", "REVOKE app FROM vault", "MEMBER on role \"app\""),
        (
            "GRANT SELECT ON shop.orders TO vault",
            "REVOKE SELECT ON shop.orders FROM vault",
            "SELECT on table \"shop\".\"orders\"",
        ),
    ] {
        site.run(give).await;
        let told_of: Vec<String> =
            site.new_link().probe().await.unwrap().admin_excess.iter().map(ToString::to_string).collect();
        assert_eq!(told_of, [told], "{give}");
        site.run(take).await;
    }
    let script = keystead_engines::postgres::setup_script(VAULT, &name(DATABASE), &name("postgres"));
    let error = site.root.batch_execute(&script).await.err().unwrap();
    assert!(error.as_db_error().unwrap().message().contains("choose a login"), "{error:?}");
}

#[tokio::test]
async fn a_stolen_admin_login_can_do_no_more_than_the_vault() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (plan, _session) = site.session(&role).await;
    let thief = site.server.login(ADMIN, ADMIN_PASSWORD.as_bytes(), DATABASE).await.unwrap();
    let group = site
        .ask("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, 'ks_f1caf775_g__')")
        .await;
    site.run(&format!(
        "CREATE ROLE boss LOGIN SUPERUSER; CREATE ROLE \"{}\" SUPERUSER LOGIN",
        "ks_f1caf775_x_00000000000000000000000000000001"
    ))
    .await;
    let verifier = "SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let before = site.ask("SELECT string_agg(r::text, ',' ORDER BY rolname) FROM pg_roles r").await;
    let issue = |login: &str, group: &str, verifier: &str| {
        format!("SELECT {SCHEMA}.issue('{login}', '{group}', '{verifier}', 60000, 1, '{{}}', NULL)")
    };
    let mut refused = vec![
        "SELECT * FROM shop.orders".to_owned(),
        "SELECT rolpassword FROM pg_authid".to_owned(),
        "CREATE ROLE x".to_owned(),
        "CREATE TABLE shop.x (id int)".to_owned(),
        format!("CREATE FUNCTION {SCHEMA}.x() RETURNS int LANGUAGE sql AS 'SELECT 1'"),
        format!(
            "CREATE OR REPLACE FUNCTION {SCHEMA}.forbid(login text) RETURNS boolean LANGUAGE sql AS 'SELECT true'"
        ),
        "ALTER ROLE app PASSWORD 'x'".to_owned(),
        "SET ROLE keystead_f1caf775_owner".to_owned(),
        "GRANT keystead_f1caf775_owner TO vault".to_owned(),
        format!("GRANT \"{group}\" TO vault"),
        format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'",
            plan.handle.name
        ),
        issue("vault", &group, verifier),
        issue("boss", &group, verifier),
        issue("ks_cdcdcdcd_x_00000000000000000000000000000000", &group, verifier),
        issue("ks_f1caf775_x_00000000000000000000000000000001", &group, verifier),
        issue(&group, &group, verifier),
        issue("ks_f1caf775_x_00000000000000000000000000000000", "app", verifier),
        issue("ks_f1caf775_x_00000000000000000000000000000000", "pg_read_all_data", verifier),
        issue("ks_f1caf775_x_00000000000000000000000000000000", &plan.handle.name, verifier),
        issue("ks_f1caf775_x_00000000000000000000000000000000", &group, "clear"),
        format!("SELECT {SCHEMA}.issue(NULL, NULL, NULL, NULL, NULL, NULL, NULL)"),
        format!("SELECT {SCHEMA}.define('app')"),
        format!("SELECT {SCHEMA}.define(NULL)"),
        format!("SELECT {SCHEMA}.undefine('app')"),
        format!("SELECT {SCHEMA}.renew('app', 60000)"),
        format!("SELECT {SCHEMA}.set_password(NULL)"),
        format!("SELECT {SCHEMA}.set_password('clear')"),
    ];
    for login in ["app", "postgres", "boss", "vault", "keystead_f1caf775_owner", "pg_signal_backend", &group]
    {
        refused.push(format!("SELECT {SCHEMA}.forbid('{login}')"));
        refused.push(format!("SELECT {SCHEMA}.remove('{login}', '{group}', false)"));
    }
    for (kind, schema, object, parts, privileges) in [
        ("table", "shop", "orders", "{}", "{SELECT,ALL}"),
        ("table", "shop", "orders", "{}", "{}"),
        ("table", "shop", "orders", "{}", "{NULL}"),
        ("table", "shop", "orders", "{}", "{\"SELECT ON shop.payments TO PUBLIC; --\"}"),
        ("table", "shop", "payments", "{}", "{SELECT}"),
        ("table", "shop", "numbers", "{}", "{SELECT}"),
        ("table", "pg_catalog", "pg_authid", "{}", "{SELECT}"),
        ("column", "shop", "payments", "{card}", "{SELECT}"),
        ("schema", "shop", "", "{}", "{CREATE}"),
        ("database", "", "", "{}", "{CREATE}"),
        ("future", "shop", "app", "{}", "{SELECT}"),
        ("role", "shop", "app", "{}", "{SELECT}"),
    ] {
        refused.push(format!("SELECT {SCHEMA}.give('{group}', false, '{kind}', '{schema}', '{object}', '{parts}', '{privileges}')"));
    }
    refused.push(format!(
        "SELECT {SCHEMA}.give('vault', false, 'table', 'shop', 'orders', '{{}}', '{{SELECT}}')"
    ));
    for statement in refused {
        let error =
            thief.batch_execute(&statement).await.err().unwrap_or_else(|| panic!("{statement}: done"));
        let code = error.code().unwrap().code().to_owned();
        assert!(["42501", "KS001", "KS002", "KS004"].contains(&code.as_str()), "{statement}: {error:?}");
    }
    assert_eq!(site.ask("SELECT string_agg(r::text, ',' ORDER BY rolname) FROM pg_roles r").await, before);
    // The functions themselves are nobody's to pass on: refused by them, before PostgreSQL is asked.
    for (kind, object, parts, word) in
        [("schema", "", "{}", "USAGE"), ("routine", "forbid", "{text}", "EXECUTE")]
    {
        let give = format!(
            "SELECT {SCHEMA}.give('{group}', false, '{kind}', '{SCHEMA}', '{object}', '{parts}', '{{{word}}}')"
        );
        assert_eq!(thief.batch_execute(&give).await.err().unwrap().code().unwrap().code(), "KS001", "{give}");
    }
    // PostgreSQL only warns where the role of the functions has some rights, but not these to pass on.
    let acl = "SELECT relacl::text FROM pg_class WHERE relname = 'orders'";
    let granted = site.ask(acl).await;
    let delete =
        format!("SELECT {SCHEMA}.give('{group}', false, 'table', 'shop', 'orders', '{{}}', '{{DELETE}}')");
    let _ = thief.batch_execute(&delete).await;
    assert_eq!(site.ask(acl).await, granted);
    // A table of the thief's own in the way of what the functions look up.
    let _ = thief.batch_execute("CREATE TEMP TABLE pg_roles (rolname name)").await;
    site.login(&plan).await.unwrap();
}

#[tokio::test]
async fn tables_to_come_give_a_thief_nothing_beyond_the_ceiling() {
    let site = Site::start().await;
    let all = TableGrant {
        tables: Objects::Matching("*".to_owned()),
        future_of: Some(name("app")),
        ..tables(&[], &[TablePrivilege::Insert])
    };
    let role = PostgresRole { schemas: vec![name("shop")], tables: vec![all], ..PostgresRole::default() };
    site.defined(role).await;
    let thief = site.server.login(ADMIN, ADMIN_PASSWORD.as_bytes(), DATABASE).await.unwrap();
    let group = site
        .ask("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, 'ks_f1caf775_g__')")
        .await;
    let before = catalog(&site).await;
    for (kind, object, parts, privileges) in [
        ("table", "payments", "{}", "{SELECT}"),
        ("table", "orders", "{}", "{DELETE,TRUNCATE,TRIGGER}"),
        ("column", "payments", "{card}", "{SELECT}"),
        ("sequence", "numbers", "{}", "{USAGE}"),
        ("routine", "total", "{text}", "{EXECUTE}"),
        ("future", "app", "{}", "{SELECT}"),
        ("future", "app", "{}", "{INSERT}"),
    ] {
        let give = format!(
            "SELECT {SCHEMA}.give('{group}', false, '{kind}', 'shop', '{object}', '{parts}', '{privileges}')"
        );
        // Refused, or nothing but a warning; what counts is what is there after.
        let _ = thief.batch_execute(&give).await;
        assert_eq!(catalog(&site).await, before, "{give}");
    }
    assert_eq!(
        site.ask("SELECT pg_has_role('keystead_f1caf775_owner', 'app', 'MEMBER')::text").await,
        "false"
    );
}

#[tokio::test]
async fn a_schema_that_somebody_made_before_is_taken_from_them() {
    let site = Site::start().await;
    let script = keystead_engines::postgres::setup_script(VAULT, &name(DATABASE), &name(ADMIN));
    let own = format!("ALTER SCHEMA {SCHEMA} OWNER TO app");
    for (change, named) in [
        (own.clone(), "the schema is app's"),
        (format!("GRANT CREATE ON SCHEMA {SCHEMA} TO app"), "the schema gives CREATE to app"),
        (format!("GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC"), "the schema gives USAGE to PUBLIC"),
        (
            format!("GRANT USAGE ON SCHEMA {SCHEMA} TO {ADMIN} WITH GRANT OPTION"),
            "the schema gives USAGE to vault",
        ),
        ("GRANT keystead_f1caf775_owner TO app".to_owned(), "app is a member of keystead_f1caf775_owner"),
        ("GRANT app TO keystead_f1caf775_owner".to_owned(), "keystead_f1caf775_owner is a member of app"),
        (format!("DROP TABLE {SCHEMA}.turn"), "turn is missing"),
        (format!("ALTER TABLE {SCHEMA}.turn OWNER TO app"), "turn is missing, or another one"),
        (format!("GRANT SELECT ON {SCHEMA}.turn TO app"), "turn is missing, or another one"),
    ] {
        site.run(&change).await;
        let error = site.link.probe().await.err().unwrap_or_else(|| panic!("{change}: good"));
        assert!(
            matches!(&error, EngineError::Admin { what, .. } if what.contains(named)),
            "{change}: {error}"
        );
        site.run(&script).await;
        site.link.probe().await.unwrap_or_else(|error| panic!("after {change}: {error}"));
    }
    // Before anything of the vault is there.
    site.run(&format!("DROP SCHEMA {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA} AUTHORIZATION app")).await;
    site.run(&format!("GRANT ALL ON SCHEMA {SCHEMA} TO PUBLIC")).await;
    site.run(&script).await;
    site.link.probe().await.unwrap();
    let replace = format!(
        "SET ROLE app; CREATE OR REPLACE FUNCTION {SCHEMA}.set_password(verifier text) RETURNS void LANGUAGE sql AS 'SELECT'"
    );
    assert_eq!(site.root.batch_execute(&replace).await.err().unwrap().code().unwrap().code(), "42501");
}

#[tokio::test]
async fn a_stolen_admin_login_of_one_database_has_nothing_of_another() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (plan, _session) = site.session(&role).await;
    let other = name("other");
    site.run("CREATE DATABASE other").await;
    site.run("REVOKE ALL ON DATABASE other FROM PUBLIC").await;
    let script = keystead_engines::postgres::setup_script(VAULT, &other, &name("other-admin"));
    let wrong = site.root.batch_execute(&script).await.err().unwrap();
    assert!(wrong.as_db_error().unwrap().message().contains("another database"), "{wrong:?}");
    site.run("ROLLBACK").await;
    let root = site.server.superuser("other").await.unwrap();
    root.batch_execute(&script).await.unwrap();
    root.batch_execute(&format!("ALTER ROLE \"other-admin\" PASSWORD '{ADMIN_PASSWORD}'")).await.unwrap();
    // Both targets are the same vault's, and work beside each other.
    let there = link(site.server.settings("other", "other-admin").unwrap());
    there.probe().await.unwrap();
    let elsewhere = crate::site::role(PostgresRole::default());
    there.define(&elsewhere, &[]).await.unwrap();
    site.issue_by(&*there, &elsewhere).await.1.unwrap();
    assert_eq!(site.link.list(None, 10).await.unwrap().unwrap().len(), 1, "a target lists its own logins");

    let thief = site.server.login("other-admin", ADMIN_PASSWORD.as_bytes(), "other").await.unwrap();
    let schema = keystead_engines::postgres::owner_role(VAULT, &other).replace("_owner", "");
    let mark = keystead_engines::postgres::mark(VAULT, &other);
    let verifier = "SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let group = site.ask("SELECT rolname::text FROM pg_roles WHERE rolname ~ '^ks_f1caf775_g__'").await;
    let issue = |login: &str, group: &str| {
        format!("SELECT {schema}.issue('{login}', '{group}', '{verifier}', 60000, 1, '{{}}', NULL)")
    };
    let mine = format!("{mark}x_00000000000000000000000000000000");
    for statement in [
        issue(&mine, &group),
        issue(&plan.handle.name, &group),
        issue(&plan.handle.name, &format!("{mark}g__{}", elsewhere.id)),
        format!("SELECT {schema}.forbid('{}')", plan.handle.name),
        format!("SELECT {schema}.remove('{}', '{group}', false)", plan.handle.name),
        format!("SELECT {schema}.renew('{}', 60000)", plan.handle.name),
        format!("SELECT {schema}.give('{group}', false, 'database', '', '', '{{}}', '{{CONNECT}}')"),
        format!("SELECT {schema}.undefine('{group}')"),
        format!("SELECT {SCHEMA}.forbid('{}')", plan.handle.name),
    ] {
        let error =
            thief.batch_execute(&statement).await.err().unwrap_or_else(|| panic!("{statement}: done"));
        let code = error.code().unwrap().code().to_owned();
        assert!(["KS001", "3F000"].contains(&code.as_str()), "{statement}: {error:?}");
    }
    site.login(&plan).await.unwrap();
}

#[tokio::test]
async fn a_login_cannot_hold_up_who_defines_roles() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (_, session) = site.session(&role).await;
    session
        .batch_execute(&format!("SELECT pg_advisory_lock(hashtextextended('{SCHEMA}', 0))"))
        .await
        .unwrap();
    let error = session.batch_execute(&format!("BEGIN; LOCK TABLE {SCHEMA}.turn")).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "42501");
    site.link.define(&role, &[]).await.unwrap();
    site.link.probe().await.unwrap();
}

#[tokio::test]
async fn what_a_probe_left_is_no_orphan_and_the_next_probe_removes_it() {
    let site = Site::start().await;
    let roles = "SELECT string_agg(rolname::text, ',' ORDER BY rolname) FROM pg_roles";
    let before = site.ask(roles).await;
    let mark = keystead_engines::postgres::mark(VAULT, &name(DATABASE));
    let make = |seconds: u32, random: &str| {
        format!(
            "DO $$ DECLARE id text := lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - {seconds} * 1000), 24, '0') || '{random}'; \
             BEGIN \
               PERFORM {SCHEMA}.define('{mark}g__' || id); \
               PERFORM {SCHEMA}.give('{mark}g__' || id, false, 'database', '', '', '{{}}', ARRAY['CONNECT']); \
               PERFORM {SCHEMA}.issue('{mark}-probe_' || id, '{mark}g__' || id, \
                 'SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=', \
                 0, 1, '{{}}', NULL); \
             END $$"
        )
    };
    // As the admin login, as a probe does: one that runs, and one that was cut off.
    let admin = site.server.login(ADMIN, ADMIN_PASSWORD.as_bytes(), DATABASE).await.unwrap();
    admin.batch_execute(&make(5, "00000001")).await.unwrap();
    let running = site.ask(roles).await;
    admin.batch_execute(&make(300, "00000002")).await.unwrap();
    assert_eq!(site.link.list(None, 10).await.unwrap().unwrap(), [], "no lease is looked for");
    site.link.probe().await.unwrap();
    assert_eq!(site.ask(roles).await, running, "another's probe goes on");
    assert_ne!(running, before);
}

#[tokio::test]
async fn the_admins_password_changes_without_being_seen_and_the_link_goes_on() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let secret = |text: &str| SecretBytes::copy_from(text.as_bytes());
    assert!(site.link.admin_secret_works(&secret(ADMIN_PASSWORD)).await.unwrap());
    let new = "canary-of-the-new-admin-password";
    assert!(!site.link.admin_secret_works(&secret(new)).await.unwrap());
    site.link.change_admin_secret(&secret(new)).await.unwrap();
    assert!(site.link.admin_secret_works(&secret(new)).await.unwrap());
    assert!(!site.link.admin_secret_works(&secret(ADMIN_PASSWORD)).await.unwrap());
    assert!(!site.server.log().contains(new), "the server was told a verifier");
    // All of the link's connections are ended: it makes new ones, by the new password.
    site.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'vault'").await;
    let mut issued = site.issue(&role).await.1;
    for _ in 0..8 {
        if issued.is_ok() {
            break;
        }
        issued = site.issue(&role).await.1;
    }
    let _ = issued.unwrap();
    let error = site.new_link().probe().await.err().unwrap();
    assert!(matches!(error, EngineError::Admin { .. }), "{error}");
}

#[tokio::test]
async fn no_error_holds_a_secret() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (plan, issued) = site.issue(&role).await;
    let password = fields(&issued.unwrap())[1].1.clone();
    let mut errors = Vec::new();
    site.run("ALTER ROLE vault PASSWORD 'other'").await;
    errors.push(site.new_link().probe().await.err().unwrap());
    // A server that quotes what it was sent.
    site.run(&format!(
        "CREATE OR REPLACE FUNCTION {SCHEMA}.issue(login text, grp text, verifier text, lasts_ms bigint, connections integer, \
         path text[], timeout_s integer) RETURNS void LANGUAGE plpgsql AS \
         $$BEGIN RAISE EXCEPTION 'no: %, %', login, verifier USING DETAIL = verifier, HINT = verifier; END$$"
    ))
    .await;
    errors.push(site.issue_planned(&role, &plan).await.err().unwrap());
    site.run(&format!(
        "CREATE OR REPLACE FUNCTION {SCHEMA}.renew(login text, lasts_ms bigint) RETURNS void LANGUAGE plpgsql AS \
         $$BEGIN EXECUTE 'ALTER ROLE x PASSWORD canary-verifier'; END$$"
    ))
    .await;
    errors.push(site.link.renew(&plan.handle, LONG).await.err().unwrap());
    for error in errors {
        let text = format!("{error} {error:?}");
        for canary in [password.as_str(), ADMIN_PASSWORD, "SCRAM-SHA-256", "canary", "host="] {
            assert!(!text.contains(canary), "{text}");
        }
    }
}
