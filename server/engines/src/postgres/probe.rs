//! What a target is before anything is made in it: its version, whether the set-up is this one, what the admin login could do
//! beyond it, and what everybody may do.

use std::collections::BTreeSet;

use deadpool_postgres::ClientWrapper;
use keystead_core::engine::Finding;
use keystead_domain::rights::Right;
use keystead_domain::rights::postgres::PgName;

use super::error::Failure;
use super::held::{self, Held};
use super::names::Names;
use super::setup::FUNCTIONS;

/// PostgreSQL 15: the first whose schema `public` is closed, and what all this was tried with.
const OLDEST: i32 = 150_000;

const VERSION: &str =
    "SELECT current_setting('server_version'), current_setting('server_version_num')::integer";
const SET_UP: &str = "SELECT p.proname::text AS name, pg_get_function_arguments(p.oid) AS arguments, p.prosrc AS source, \
      p.prosecdef AS definer, coalesce(p.proconfig, '{}') AS settings, pg_get_userbyid(p.proowner)::text AS owner, \
      has_function_privilege(p.oid, 'EXECUTE') AS callable, \
      EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0) AS open \
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1";
/// The schema, and who reaches what is in it around the access lists of the functions.
const PLACE: &str = "SELECT pg_get_userbyid(n.nspowner)::text AS owner, \
      ARRAY(SELECT a.privilege_type || ' to ' || coalesce(g.rolname::text, 'PUBLIC') \
        FROM aclexplode(n.nspacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee \
        WHERE a.grantee <> n.nspowner AND (g.rolname = session_user AND a.privilege_type = 'USAGE' AND NOT a.is_grantable) IS NOT TRUE) AS others, \
      EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'turn' AND c.relkind = 'r' \
        AND pg_get_userbyid(c.relowner)::text = $2 AND c.relacl IS NULL) AS turn, \
      ARRAY(SELECT l.rolname || ' is a member of ' || g.rolname FROM pg_auth_members m \
        JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles l ON l.oid = m.member \
        WHERE g.rolname::text IN ($2, session_user) \
          OR l.rolname::text = $2 AND g.rolname <> 'pg_signal_backend' AND NOT starts_with(g.rolname::text, $3)) AS members \
    FROM pg_namespace n WHERE n.nspname::text = $1";
const OWNER: &str = "SELECT r.rolcreaterole AND pg_has_role(r.oid, 'pg_signal_backend', 'USAGE') AS able, \
      r.rolsuper OR r.rolcanlogin OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls AS strong \
    FROM pg_roles r WHERE r.rolname = $1";
/// Then a set-up that lacks is not the first thing to say.
const SUPERUSER: &str = "SELECT rolsuper FROM pg_roles WHERE rolname = session_user";

/// What the server says it is; older ones are refused.
pub(super) async fn version(client: &ClientWrapper) -> Result<String, Failure> {
    let row = client.query_one(VERSION, &[]).await?;
    let version: String = row.try_get(0)?;
    if row.try_get::<_, i32>(1)? < OLDEST {
        return Err(Failure::Refused(format!("it is PostgreSQL {version}; 15 or later is needed")));
    }
    Ok(format!("PostgreSQL {version}"))
}

/// Compares the set-up functions with ours, byte by byte.
pub(super) async fn set_up(client: &ClientWrapper, names: &Names) -> Result<(), Failure> {
    let is_superuser: bool = client.query_one(SUPERUSER, &[]).await?.try_get(0)?;
    let wrong = |what: &str| {
        let what = format!("set-up in schema {}: {what}", names.schema());
        Err(Failure::Admin(if is_superuser {
            format!(
                "the admin login is a superuser, and must not be: name one that the vault has to itself, and run what \
                 `keystead target setup-sql` prints for it ({what})"
            )
        } else {
            format!("{what}; run the set-up statements again, as a superuser")
        }))
    };
    let rows = client.query(SET_UP, &[&names.schema()]).await?;
    let mut missing: BTreeSet<&str> = FUNCTIONS.iter().map(|function| function.name).collect();
    for row in &rows {
        let name: String = row.try_get("name")?;
        let Some(function) = FUNCTIONS.iter().find(|function| function.name == name) else {
            return wrong(&format!("function {name} is not ours"));
        };
        let same = row.try_get::<_, String>("source")? == function.source(names)
            && row.try_get::<_, String>("arguments")? == function.arguments
            && row.try_get::<_, bool>("definer")? == function.definer
            && row.try_get::<_, Vec<String>>("settings")? == ["search_path=pg_catalog, pg_temp"]
            && row.try_get::<_, String>("owner")? == names.owner();
        if !same {
            return wrong(&format!("function {name} is another one"));
        }
        if row.try_get::<_, bool>("open")? || !row.try_get::<_, bool>("callable")? {
            return wrong(&format!("function {name} must be the admin login's to call, and nobody else's"));
        }
        missing.remove(name.as_str());
    }
    if let Some(name) = missing.first() {
        return wrong(&format!("function {name} is missing"));
    }
    if let Some(row) = client.query_opt(PLACE, &[&names.schema(), &names.owner(), &names.prefix()]).await? {
        let owner: String = row.try_get("owner")?;
        if owner != names.owner() {
            return wrong(&format!("the schema is {owner}'s, who could change what is in it"));
        }
        if let Some(other) = row.try_get::<_, Vec<String>>("others")?.first() {
            return wrong(&format!("the schema gives {other}"));
        }
        if let Some(member) = row.try_get::<_, Vec<String>>("members")?.first() {
            return wrong(&format!("role {member}: revoke that"));
        }
        if !row.try_get::<_, bool>("turn")? {
            return wrong("table turn is missing, or another one");
        }
    }
    match client.query_opt(OWNER, &[&names.owner()]).await? {
        Some(row) if row.try_get::<_, bool>("strong")? => {
            wrong(&format!("role {} has more than CREATEROLE", names.owner()))
        }
        Some(row) if row.try_get::<_, bool>("able")? => Ok(()),
        _ => wrong(&format!("role {} lacks CREATEROLE or pg_signal_backend", names.owner())),
    }
}

/// What the admin login could do beyond calling the functions.
pub(super) async fn admin_excess(
    client: &ClientWrapper,
    names: &Names,
    database: &PgName,
    admin: &PgName,
) -> Result<Vec<Right>, Failure> {
    let needed = |held: &Held| {
        held.kind == "role" && held.privilege == "LOGIN"
            || held.schema == names.schema() && !held.grantable
            || held.kind == "database"
                && held.name == database.as_str()
                && held.privilege == "CONNECT"
                && !held.grantable
    };
    let there = held::read(&**client, admin.as_str(), names).await?;
    let excess: BTreeSet<Right> =
        there.iter().filter(|held| !held.everybody && !needed(held)).map(Held::right).collect();
    Ok(excess.into_iter().collect())
}

/// What everybody may do in this database, and which others everybody may enter.
pub(super) async fn baseline(client: &ClientWrapper, names: &Names) -> Result<Vec<Finding>, Failure> {
    let there = held::read(&**client, names.owner(), names).await?;
    let mut findings: Vec<Finding> = there.iter().filter(|held| held.everybody).map(Held::finding).collect();
    findings.sort_by(|a, b| a.right.cmp(&b.right));
    Ok(findings)
}
