//! A login's life: made, used, renewed, removed.

use std::time::Duration;

use keystead_core::engine::{EngineError, Renewal};
use keystead_domain::rights::postgres::PostgresRole;

use crate::site::{DATABASE, LONG, Site, fields, name, new_id, orders};

#[tokio::test]
async fn a_login_does_what_its_role_declares_and_nothing_else() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (plan, issued) = site.issue(&role).await;
    let issued = issued.unwrap();
    assert_eq!(issued.excess, []);
    let fields = fields(&issued);
    assert_eq!(fields[0], ("username", plan.handle.name.clone()));
    assert_eq!((fields[2].1.as_str(), fields[4].1.as_str()), ("localhost", DATABASE));

    let session = site.login(&plan).await.unwrap();
    session.batch_execute("INSERT INTO shop.orders (note) VALUES ('mine')").await.unwrap();
    assert_eq!(session.query("SELECT note FROM shop.orders", &[]).await.unwrap().len(), 2);
    for statement in
        ["CREATE ROLE stranger", "CREATE DATABASE other", "REVOKE ALL ON DATABASE other FROM PUBLIC"]
    {
        site.run(statement).await;
    }
    let group = site.ask("SELECT rolname::text FROM pg_roles WHERE rolname LIKE 'ks\\_%\\_g\\_\\_%'").await;
    for refused in [
        "UPDATE shop.orders SET note = 'x'".to_owned(),
        "DELETE FROM shop.orders".to_owned(),
        "TRUNCATE shop.orders".to_owned(),
        "SELECT * FROM shop.payments".to_owned(),
        "INSERT INTO shop.payments VALUES (1, 'x')".to_owned(),
        "SELECT nextval('shop.numbers')".to_owned(),
        "SELECT shop.total(1, 2)".to_owned(),
        "CREATE TABLE shop.mine (id int)".to_owned(),
        "CREATE TABLE public.mine (id int)".to_owned(),
        "CREATE TEMPORARY TABLE mine (id int)".to_owned(),
        "CREATE SCHEMA mine".to_owned(),
        "CREATE DATABASE mine".to_owned(),
        "CREATE ROLE mine".to_owned(),
        "ALTER TABLE shop.orders ADD COLUMN x int".to_owned(),
        "CREATE INDEX ON shop.orders (id)".to_owned(),
        "SET ROLE stranger".to_owned(),
        "SET ROLE app".to_owned(),
        "SET ROLE vault".to_owned(),
        "SET SESSION AUTHORIZATION app".to_owned(),
        format!("GRANT {group} TO stranger"),
        format!("ALTER ROLE \"{}\" VALID UNTIL 'infinity'", plan.handle.name),
        "SELECT keystead_f1caf775.forbid('x')".to_owned(),
        "SELECT pg_read_file('postgresql.conf')".to_owned(),
        "SELECT rolpassword FROM pg_authid".to_owned(),
        "COPY shop.orders TO PROGRAM 'true'".to_owned(),
    ] {
        let error =
            session.batch_execute(&refused).await.err().unwrap_or_else(|| panic!("{refused} was done"));
        let code = error.code().unwrap().code();
        assert!(["42501", "22023"].contains(&code), "{refused}: {error:?}");
    }
    // A grant of what one may not pass on does nothing, and PostgreSQL only warns.
    let before = site.ask("SELECT relacl::text FROM pg_class WHERE relname = 'orders'").await;
    let _ = session.batch_execute("GRANT SELECT ON shop.orders TO stranger").await;
    assert_eq!(site.ask("SELECT relacl::text FROM pg_class WHERE relname = 'orders'").await, before);
    for other in ["postgres", "other", "template1"] {
        let refused = site.server.login(&plan.handle.name, plan.secret.expose(), other).await;
        assert!(refused.is_err(), "{other} let it in");
    }
}

#[tokio::test]
async fn a_session_opened_before_revocation_is_dead_after_it_and_revoking_again_is_success() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (plan, session) = site.session(&role).await;
    let second = site.login(&plan).await.unwrap();
    // Busy, too: a statement does not hold it up.
    let busy = tokio::spawn(async move { second.batch_execute("SELECT pg_sleep(60)").await });
    session.batch_execute("BEGIN; INSERT INTO shop.orders (note) VALUES ('open')").await.unwrap();
    site.link.revoke(&plan.handle).await.unwrap();
    assert!(session.batch_execute("SELECT 1").await.is_err());
    assert!(busy.await.unwrap().is_err());
    let error = site.login(&plan).await.err().unwrap();
    assert!(error.contains("28P01") || error.contains("InvalidPassword"), "{error}");
    let left = format!("SELECT count(*)::text FROM pg_roles WHERE rolname = '{}'", plan.handle.name);
    assert_eq!(site.ask(&left).await, "0");
    site.link.revoke(&plan.handle).await.unwrap();
    assert_eq!(site.ask("SELECT count(*)::text FROM shop.orders WHERE note = 'open'").await, "0");
}

#[tokio::test]
async fn the_server_never_sees_a_password() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (plan, _session) = site.session(&role).await;
    let log = site.server.log();
    assert!(log.contains(&plan.handle.name), "the log has every statement: {log}");
    let password = String::from_utf8(plan.secret.expose().to_vec()).unwrap();
    assert!(!log.contains(&password));
}

#[tokio::test]
async fn issuing_again_gives_the_same_login_a_new_password() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (first, _session) = site.session(&role).await;
    let mut again = site.link.plan(&role, new_id(), &mut rand_core::UnwrapErr(getrandom::SysRng));
    again.handle = first.handle.clone();
    site.issue_planned(&role, &again).await.unwrap();
    site.login(&again).await.unwrap();
    assert!(site.login(&first).await.is_err(), "the old password is taken");
    assert_eq!(site.link.list(None, 10).await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_login_has_the_limits_and_settings_of_its_role() {
    let site = Site::start().await;
    let declared = PostgresRole {
        search_path: vec![name("shop"), name("od\"d, schema")],
        statement_timeout: Some(1),
        connection_limit: std::num::NonZeroU16::new(1),
        ..orders()
    };
    let role = site.defined(declared).await;
    let (plan, session) = site.session(&role).await;
    let path: String = session.query_one("SHOW search_path", &[]).await.unwrap().get(0);
    assert_eq!(path, r#"shop, "od""d, schema""#);
    session.batch_execute("SELECT * FROM orders").await.unwrap();
    let error = session.batch_execute("SELECT pg_sleep(5)").await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "57014");
    let error = site.login(&plan).await.err().unwrap();
    assert!(error.contains("too many connections for role"), "{error}");
}

#[tokio::test]
async fn a_login_ends_by_itself_and_renewing_moves_the_end() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (plan, _session) = site.session(&role).await;
    assert!(matches!(site.link.renew(&plan.handle, Duration::ZERO).await.unwrap(), Renewal::Renewed));
    assert!(site.login(&plan).await.is_err(), "its time was over");
    site.link.renew(&plan.handle, LONG).await.unwrap();
    site.login(&plan).await.unwrap();
    // The span is counted by the server's clock, whatever the vault's says.
    let left = "SELECT round(extract(epoch FROM rolvaliduntil - now()) / 60)::text FROM pg_roles WHERE rolname LIKE 'ks\\_%\\_orders%'";
    assert_eq!(site.ask(left).await, "1440");
    site.issue_planned(&role, &plan).await.unwrap();
    assert_eq!(site.ask(left).await, "1440");
    site.link.revoke(&plan.handle).await.unwrap();
    let error = site.link.renew(&plan.handle, LONG).await.err().unwrap();
    assert!(matches!(error, EngineError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn logins_are_listed_in_pages_with_what_removes_them() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    for _ in 0..5 {
        site.issue(&role).await.1.unwrap();
    }
    site.run("CREATE ROLE ks_f1caf775_stranger LOGIN; CREATE ROLE ks_ffffffff_a_00000000000000000000000000000000 LOGIN").await;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = site.link.list(after.as_deref(), 2).await.unwrap().unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.handle.name.clone());
        found.extend(page);
    }
    assert_eq!(found.len(), 5);
    for login in found {
        site.link.revoke(&login.handle).await.unwrap();
    }
    assert_eq!(site.link.list(None, 10).await.unwrap().unwrap(), []);
}

#[tokio::test]
async fn three_hundred_logins_leave_the_tables_access_list_as_it_was() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let acl = "SELECT relacl::text || (SELECT count(*) FROM pg_roles) FROM pg_class WHERE relname = 'orders'";
    let before = site.ask(acl).await;
    for _ in 0..300 {
        let (plan, issued) = site.issue(&role).await;
        issued.unwrap();
        site.link.revoke(&plan.handle).await.unwrap();
    }
    assert_eq!(site.ask(acl).await, before);
}

#[tokio::test]
async fn the_clock_is_the_servers() {
    let site = Site::start().await;
    let theirs = site.link.now().await.unwrap().unwrap();
    let ours: i64 = site
        .root
        .query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[])
        .await
        .unwrap()
        .get(0);
    assert!(u64::try_from(ours).unwrap().abs_diff(theirs.0) < 60_000);
}
