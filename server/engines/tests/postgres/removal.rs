//! What stands in the way of removing a login leaves it pending; nothing but its absence is success.

use std::convert::Infallible;

use keystead_core::engine::EngineError;
use keystead_domain::rights::postgres::{Owned, PostgresRole};

use crate::site::{DATABASE, LONG, Site, orders};

async fn may_create(site: &Site, declared: PostgresRole) -> keystead_domain::role::RoleRecord {
    let role = site.defined(declared).await;
    let group = site
        .ask("SELECT '\"' || rolname || '\"' FROM pg_roles WHERE starts_with(rolname::text, 'ks_f1caf775_g__')")
        .await;
    // Behind the vault's back, after it looked.
    site.run(&format!("GRANT CREATE ON SCHEMA shop TO {group}")).await;
    role
}

#[tokio::test]
async fn what_a_login_made_is_dropped_with_it() {
    let site = Site::start().await;
    let role = may_create(&site, orders()).await;
    let (plan, session) = site.session(&role).await;
    session
        .batch_execute("CREATE TABLE shop.mine (id int); CREATE FUNCTION shop.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT lo_create(0)")
        .await
        .unwrap();
    site.link.revoke(&plan.handle).await.unwrap();
    let left = "SELECT (SELECT count(*) FROM pg_class WHERE relname = 'mine') || ' ' || (SELECT count(*) FROM pg_largeobject_metadata)";
    assert_eq!(site.ask(left).await, "0 0");
}

#[tokio::test]
async fn what_a_login_made_goes_to_its_group_where_the_role_says_so() {
    let site = Site::start().await;
    let declared = PostgresRole { owned: Owned::ReassignToGroup, ..orders() };
    let role = may_create(&site, declared).await;
    let (plan, session) = site.session(&role).await;
    session.batch_execute("CREATE TABLE shop.mine AS SELECT 7 AS id").await.unwrap();
    site.link.revoke(&plan.handle).await.unwrap();
    let owner = site.ask("SELECT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname = 'mine'").await;
    assert!(owner.starts_with("ks_f1caf775_g__"), "{owner}");
    // What the group owns is its logins' to use.
    let (_, next) = site.session(&role).await;
    assert_eq!(next.query("SELECT id FROM shop.mine", &[]).await.unwrap().len(), 1);
    let inherits = "SELECT string_agg(pg_has_role('keystead_f1caf775_owner', oid, 'USAGE')::text, ',') FROM pg_roles \
                    WHERE starts_with(rolname::text, 'ks_f1caf775_')";
    assert_eq!(site.ask(inherits).await, "false,false", "who makes logins has none of their rights");
}

#[tokio::test]
async fn a_login_that_owns_something_in_another_database_stays_pending() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    site.run("CREATE DATABASE other").await;
    site.run("ALTER DATABASE other CONNECTION LIMIT 10").await;
    let elsewhere = site.server.superuser("other").await.unwrap();
    elsewhere.batch_execute("GRANT CREATE ON SCHEMA public TO PUBLIC").await.unwrap();
    let (plan, _session) = site.session(&role).await;
    let there = site.server.login(&plan.handle.name, plan.secret.expose(), "other").await.unwrap();
    there.batch_execute("CREATE TABLE public.left_behind (id int)").await.unwrap();
    for _ in 0..2 {
        let error = site.link.revoke(&plan.handle).await.err().unwrap();
        assert!(
            matches!(&error, EngineError::Refused { what, .. } if what.contains("database other")),
            "{error}"
        );
        assert!(site.login(&plan).await.is_err(), "it is forbidden all the same");
        assert!(there.batch_execute("SELECT 1").await.is_err(), "and its sessions are ended");
    }
    assert_eq!(site.link.list(None, 10).await.unwrap().unwrap().len(), 1);
    elsewhere.batch_execute("DROP TABLE public.left_behind").await.unwrap();
    site.link.revoke(&plan.handle).await.unwrap();
    assert_eq!(site.link.list(None, 10).await.unwrap().unwrap(), []);
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable_and_the_login_goes_when_it_is_back() {
    let mut site = Site::start().await;
    let role = site.defined(orders()).await;
    let (plan, issued) = site.issue(&role).await;
    issued.unwrap();
    site.server.stop();
    for _ in 0..2 {
        let error = site.link.revoke(&plan.handle).await.err().unwrap();
        assert!(matches!(error, EngineError::Unavailable { .. }), "{error}");
        let (_, issued) = site.issue(&role).await;
        let error = issued.err().unwrap();
        assert!(
            matches!((&error, error.cause()), (EngineError::NotAsked(_), EngineError::Unavailable { .. })),
            "{error}"
        );
    }
    site.server.start_again().await.unwrap();
    site.link.revoke(&plan.handle).await.unwrap();
    let root = site.server.superuser(DATABASE).await.unwrap();
    let left = root.query("SELECT FROM pg_roles WHERE rolname = $1", &[&plan.handle.name]).await.unwrap();
    assert!(left.is_empty());
}

#[tokio::test]
async fn a_password_that_is_not_taken_leaves_nothing_of_an_issue() {
    let mut site = Site::start().await;
    let role = site.defined(orders()).await;
    site.run("ALTER ROLE vault PASSWORD 'another'").await;
    // Connections that are open already go on.
    site.link = site.new_link();
    let (_, issued) = site.issue(&role).await;
    let error = issued.err().unwrap();
    assert!(
        matches!((&error, error.cause()), (EngineError::NotAsked(_), EngineError::Admin { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_login_that_another_object_hangs_on_stays_pending() {
    let site = Site::start().await;
    let role = may_create(&site, orders()).await;
    let (plan, session) = site.session(&role).await;
    session.batch_execute("CREATE TABLE shop.mine (id int)").await.unwrap();
    site.run("CREATE VIEW shop.theirs AS SELECT * FROM shop.mine").await;
    let error = site.link.revoke(&plan.handle).await.err().unwrap();
    assert!(matches!(&error, EngineError::Refused { what, .. } if what.starts_with("2BP01")), "{error}");
    site.run("DROP VIEW shop.theirs").await;
    site.link.revoke(&plan.handle).await.unwrap();
}

#[tokio::test]
async fn a_handle_of_another_form_is_refused() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (plan, issued) = site.issue(&role).await;
    issued.unwrap();
    for (login, detail) in [
        (plan.handle.name.clone(), vec![]),
        (plan.handle.name.clone(), vec![2, 0, 0]),
        (plan.handle.name.clone(), [plan.handle.detail.clone(), vec![0]].concat()),
        ("postgres".to_owned(), plan.handle.detail.clone()),
        ("app".to_owned(), plan.handle.detail.clone()),
    ] {
        let handle = keystead_domain::lease::Handle { name: login.clone(), detail };
        let error = site.link.revoke(&handle).await.err().unwrap_or_else(|| panic!("{login} was revoked"));
        assert!(matches!(error, EngineError::Refused { .. }), "{error}");
    }
    site.login(&plan).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_and_the_same_twice_at_once_get_in_nobodys_way() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let plans = futures::future::join_all((0..24).map(|_| async {
        let (plan, issued) = site.issue(&role).await;
        issued.unwrap();
        plan
    }));
    let (plans, defined) = futures::future::join(plans, site.link.define(&role, &[])).await;
    defined.unwrap();
    let other = site.new_link();
    let removals = plans.iter().flat_map(|plan| [(&site.link, plan), (&other, plan)]);
    let done = futures::future::join_all(removals.map(|(link, plan)| link.revoke(&plan.handle))).await;
    for error in done.into_iter().filter_map(Result::err) {
        // Whoever came second may have met the first at work; never is it told that the login is gone before it is.
        assert!(matches!(error, EngineError::Unavailable { .. } | EngineError::Refused { .. }), "{error}");
    }
    for plan in &plans {
        site.link.revoke(&plan.handle).await.unwrap();
    }
    assert_eq!(site.link.list(None, 100).await.unwrap().unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_cannot_keep_itself_from_being_removed_by_locking_its_own_entry() {
    let site = Site::start().await;
    let role = site.defined(orders()).await;
    let (plan, session) = site.session(&role).await;
    let other = site.login(&plan).await.unwrap();
    session.batch_execute("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'x'").await.unwrap();
    // Another one waits for the lock, and whoever is thrown out comes again.
    let waiting =
        tokio::spawn(async move { other.batch_execute("ALTER ROLE CURRENT_USER PASSWORD 'y'").await });
    let error = site.link.renew(&plan.handle, LONG).await.err().unwrap();
    assert!(matches!(error, EngineError::Refused { .. }), "the target answers: {error}");
    let again = async {
        while let Ok(session) = site.login(&plan).await {
            // One that nobody ends is not to wait for ever for the others.
            let _ = session.batch_execute("SET lock_timeout = '5s'").await;
            let _ = session.batch_execute("BEGIN; ALTER ROLE CURRENT_USER CONNECTION LIMIT -1").await;
            let _ = session.batch_execute("ROLLBACK; BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'z'").await;
            while !session.is_closed() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        removed = site.link.revoke(&plan.handle) => removed.unwrap(),
        never = again => match never {},
    }
    assert!(session.batch_execute("SELECT 1").await.is_err());
    // It may have had its turn when the first one ended; it is ended all the same.
    let _ = waiting.await.unwrap();
    assert_eq!(site.link.list(None, 10).await.unwrap().unwrap(), []);
}

#[tokio::test]
async fn a_login_that_prepared_a_transaction_is_told_of_and_such_servers_are_found() {
    let mut site = Site::start().await;
    site.run("ALTER SYSTEM SET max_prepared_transactions = 2").await;
    site.server.stop();
    site.server.start_again().await.unwrap();
    let root = site.server.superuser(DATABASE).await.unwrap();
    let mut found = site.new_link().probe().await.unwrap().baseline;
    assert_eq!(found.len(), 1);
    let found = found.remove(0);
    assert_eq!(
        found.right.to_string(),
        "PREPARE TRANSACTION on setting \"max_prepared_transactions\" (through PUBLIC)"
    );
    site.root = root;
    let mut role = crate::site::role(orders());
    role.on_excess = keystead_domain::role::OnExcess::Warn;
    site.allow(&role).await;
    site.link.define(&role, &[]).await.unwrap();
    let (plan, session) = site.session(&role).await;
    session
        .batch_execute("BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'x'; PREPARE TRANSACTION 'it''s there'")
        .await
        .unwrap();
    let error = site.link.revoke(&plan.handle).await.err().unwrap();
    let mend = "ROLLBACK PREPARED 'it''s there'";
    assert!(matches!(&error, EngineError::Refused { what, .. } if what.contains(mend)), "{error}");
    assert!(session.batch_execute("SELECT 1").await.is_err(), "its sessions are ended");
    site.run(mend).await;
    site.link.revoke(&plan.handle).await.unwrap();
    site.run(&found.closed_by).await;
    // The server is stopped as by a crash: what was prepared is not to be replayed.
    site.run("CHECKPOINT").await;
    site.server.stop();
    site.server.start_again().await.unwrap();
    assert_eq!(site.new_link().probe().await.unwrap().baseline, []);
}

#[tokio::test]
async fn a_login_whose_object_another_session_uses_is_refused_and_the_target_is_not_away() {
    let site = Site::start().await;
    let role = may_create(&site, orders()).await;
    let (plan, session) = site.session(&role).await;
    session.batch_execute("CREATE TABLE shop.mine (id int); GRANT SELECT ON shop.mine TO app").await.unwrap();
    site.run("BEGIN; SELECT * FROM shop.mine").await;
    let error = site.link.revoke(&plan.handle).await.err().unwrap();
    assert!(matches!(&error, EngineError::Refused { what, .. } if what.starts_with("55P03")), "{error}");
    site.run("ROLLBACK").await;
    site.link.revoke(&plan.handle).await.unwrap();
}
