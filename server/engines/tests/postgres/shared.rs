//! What a login makes without any right, and shares: nobody else's logins are kept from being made by it.

use keystead_core::engine::Order;
use keystead_domain::role::RoleRecord;

use crate::site::{DATABASE, LONG, Site, VAULT, name, new_id, orders};

#[tokio::test]
async fn a_login_cannot_keep_others_from_being_issued_by_what_it_makes_and_shares() {
    let site = Site::start().await;
    site.run("GRANT TEMPORARY ON DATABASE shop TO PUBLIC").await;
    let accepted: Vec<String> =
        site.link.probe().await.unwrap().baseline.iter().map(|finding| finding.digest.clone()).collect();
    site.run("REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC").await;
    let (role, other) = (site.defined(orders()).await, site.defined(orders()).await);
    let (plan, session) = site.session(&role).await;
    site.run("GRANT TEMPORARY ON DATABASE shop TO PUBLIC").await;
    let group = |role: &RoleRecord| {
        let mark = keystead_engines::postgres::mark(VAULT, &name(DATABASE));
        format!("\"{mark}g__{}\"", role.id)
    };
    let (own, others) = (group(&role), group(&other));
    // On 15 a login can become its group.
    let older =
        site.ask("SELECT (current_setting('server_version_num')::int < 160000)::text").await == "true";
    let mut tricks = vec![
        "SELECT lo_create(4711); GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC".to_owned(),
        format!("GRANT SELECT ON LARGE OBJECT 4711 TO {own}, {others}"),
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC".to_owned(),
        format!("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {own}, {others}"),
        format!(
            "CREATE TEMPORARY TABLE t (id int); GRANT SELECT ON t TO PUBLIC; GRANT SELECT (id) ON t TO {others}"
        ),
    ];
    if older {
        tricks.push(format!(
            "SET ROLE {own}; SELECT lo_create(4712); CREATE TEMPORARY TABLE u (id int); RESET ROLE"
        ));
        tricks.push(format!(
            "SET ROLE {own}; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {others}; RESET ROLE"
        ));
    }
    for trick in tricks {
        session.batch_execute(&trick).await.unwrap_or_else(|error| panic!("{trick}: {error:?}"));
        for role in [&role, &other] {
            let link = site.new_link();
            let plan = link.plan(role, new_id(), &mut rand_core::UnwrapErr(getrandom::SysRng));
            let order = Order { role, accepted: &accepted, plan: &plan, lasts: LONG };
            let issued = link.issue(order).await;
            issued.unwrap_or_else(|error| panic!("{trick}: {error}"));
            link.revoke(&plan.handle).await.unwrap();
        }
    }
    site.link.revoke(&plan.handle).await.unwrap();
    for role in [&role, &other] {
        site.link.undefine(role.id).await.unwrap();
    }
    let left = "SELECT (SELECT count(*) FROM pg_largeobject_metadata) || ' ' || (SELECT count(*) FROM pg_default_acl)";
    assert_eq!(site.ask(left).await, "0 0");
}
