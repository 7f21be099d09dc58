//! Logins: made, read back, renewed, removed, listed.
//!
//! Invariant: the server never sees a login's password, only its SCRAM verifier; each login is read back before it is handed
//! out, in a time that does not grow with what is there; it is gone when the server lists neither the login nor a session of it.

use std::fmt;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use futures::future;
use keystead_core::engine::Found;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::lease::Handle;
use keystead_domain::rights::Right;
use keystead_domain::rights::postgres::{Owned, PgName, PostgresRole};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked};

use super::error::Failure;
use super::names::Names;
use crate::statements::{identifier, literal};

const CHECK: &str = "SELECT r.rolcanlogin AND r.rolinherit AS usable, r.rolconnlimit, \
      CASE WHEN isfinite(r.rolvaliduntil) \
        THEN floor(extract(epoch FROM r.rolvaliduntil - clock_timestamp()) * 1000)::bigint END AS left_ms, \
      array_remove(ARRAY[CASE WHEN r.rolsuper THEN 'SUPERUSER' END, CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END, \
        CASE WHEN r.rolcreatedb THEN 'CREATEDB' END, CASE WHEN r.rolreplication THEN 'REPLICATION' END, \
        CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END], NULL) AS flags, \
      ARRAY(SELECT g.rolname::text || CASE WHEN m.admin_option THEN ' WITH ADMIN OPTION' ELSE '' END \
        FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid) AS groups, \
      ARRAY(SELECT CASE s.setdatabase WHEN 0 THEN '' ELSE s.setdatabase || ':' END || split_part(entry, '=', 1) \
        FROM pg_db_role_setting s, unnest(s.setconfig) AS entry WHERE s.setrole = r.oid) AS settings, \
      (SELECT count(*) FROM pg_shdepend d WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid) AS named, \
      ARRAY(SELECT h.rolname::text FROM pg_roles g JOIN pg_auth_members m ON m.member = g.oid \
        JOIN pg_roles h ON h.oid = m.roleid WHERE g.rolname = $2) AS above \
    FROM pg_roles r WHERE r.rolname = $1";
/// A login is read back within so many milliseconds after it was made.
const READ_BACK: i64 = 20_000;
const THERE: &str = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)";

/// What removing a login needs beside its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Detail {
    /// Its group; empty for a login that was found without one.
    pub(super) group: String,
    /// Whether its objects go to the group; otherwise they are dropped.
    pub(super) reassign: bool,
}

impl Detail {
    pub(super) fn new(group: String, role: &PostgresRole) -> Self {
        Self { group, reassign: role.owned == Owned::ReassignToGroup }
    }

    /// As a handle keeps it. A change of this form needs a new first byte.
    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(&(1u8, self)).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        match postcard::take_from_bytes::<(u8, Self)>(bytes) {
            Ok(((1, detail), [])) => Ok(detail),
            _ => Err(Failure::Refused("the lease's handle is not one of this engine".to_owned())),
        }
    }
}

/// A SCRAM verifier on its way to the server: the driver prints parameters when it logs.
pub(super) struct Verifier(String);

impl Verifier {
    /// Of a password, off the threads that serve requests: 4,096 rounds, which clients insist on (RFC 7677, 4).
    pub(super) async fn of(password: &SecretBytes) -> Result<Self, Failure> {
        let password = SecretBytes::copy_from(password.expose());
        let making = tokio::task::spawn_blocking(move || {
            postgres_protocol::password::scram_sha_256(password.expose())
        });
        let text = making.await.map_err(|_| Failure::Unavailable("no verifier could be made".to_owned()))?;
        Ok(Self(text))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(..)")
    }
}

impl ToSql for Verifier {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.0.as_str().to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        <&str as ToSql>::accepts(kind)
    }

    to_sql_checked!();
}

/// A login to be made.
pub(super) struct NewLogin<'a> {
    pub(super) login: &'a str,
    pub(super) group: &'a str,
    pub(super) verifier: &'a Verifier,
    pub(super) role: &'a PostgresRole,
    pub(super) lasts: Duration,
}

/// Makes a login, or gives one that is there this password, and tells what it can do that it should not.
pub(super) async fn issue(
    client: &ClientWrapper,
    names: &Names,
    new: &NewLogin<'_>,
) -> Result<Vec<Right>, Failure> {
    let make = format!("SELECT {}.issue($1, $2, $3, $4, $5, $6, $7)", identifier(names.schema()));
    let make = client.prepare_cached(&make).await?;
    let check = client.prepare_cached(CHECK).await?;
    let lasts = millis(new.lasts);
    let limit = new.role.connection_limit.map_or(-1, |limit| i32::from(limit.get()));
    let path: Vec<&str> = new.role.search_path.iter().map(PgName::as_str).collect();
    let timeout = new.role.statement_timeout.and_then(|seconds| i32::try_from(seconds).ok());
    // Both are on their way at once; the server takes them in this order, each in a transaction of its own.
    let make_parameters: [&(dyn ToSql + Sync); 7] =
        [&new.login, &new.group, new.verifier, &lasts, &limit, &path, &timeout];
    let check_parameters: [&(dyn ToSql + Sync); 2] = [&new.login, &new.group];
    let (made, row) =
        future::join(client.query(&make, &make_parameters), client.query_opt(&check, &check_parameters))
            .await;
    made?;
    let Some(row) = row? else {
        return Err(Failure::Refused("the login is not there after it was made".to_owned()));
    };
    let mut excess = Vec::new();
    let mut found = |privilege: String| {
        let object = format!("role {}", identifier(new.login));
        excess.push(Right { object, privilege, through: None });
    };
    if !row.try_get::<_, bool>("usable")? {
        return Err(Failure::Refused("the login cannot log in after it was made".to_owned()));
    }
    row.try_get::<_, Vec<String>>("flags")?.into_iter().for_each(&mut found);
    for group in row.try_get::<_, Vec<String>>("groups")? {
        if group != new.group {
            found(format!("MEMBER of {}", identifier(&group)));
        }
    }
    for group in row.try_get::<_, Vec<String>>("above")? {
        found(format!("MEMBER of {} (through {})", identifier(&group), identifier(new.group)));
    }
    if row.try_get::<_, i64>("named")? != 0 {
        found("OWNER, or rights of its own".to_owned());
    }
    if row.try_get::<_, i32>("rolconnlimit")? != limit {
        found("another CONNECTION LIMIT".to_owned());
    }
    let left: Option<i64> = row.try_get("left_ms")?;
    if !left.is_some_and(|left| (lasts.saturating_sub(READ_BACK)..=lasts).contains(&left)) {
        found("another VALID UNTIL".to_owned());
    }
    let ours = |setting: &String| match setting.as_str() {
        "search_path" => !path.is_empty(),
        "statement_timeout" => timeout.is_some(),
        _ => false,
    };
    for setting in row.try_get::<_, Vec<String>>("settings")?.iter().filter(|setting| !ours(setting)) {
        found(format!("SET {setting}"));
    }
    Ok(excess)
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// Moves a login's own end.
pub(super) async fn renew(
    client: &ClientWrapper,
    names: &Names,
    handle: &Handle,
    lasts: Duration,
) -> Result<(), Failure> {
    let renew = format!("SELECT {}.renew($1, $2)", identifier(names.schema()));
    let renew = client.prepare_cached(&renew).await?;
    let lasts = millis(lasts);
    match client.query(&renew, &[&handle.name, &lasts]).await.map_err(Failure::from) {
        Ok(_) => Ok(()),
        Err(Failure::Definition(what)) => Err(Failure::Refused(what)),
        Err(other) => Err(other.of_one_login()),
    }
}

/// Removes a login. Three statements in one round trip, each committed before the next begins: nobody comes in after the
/// first, sessions end and the login goes in the second, and the third looks.
pub(super) async fn revoke(client: &ClientWrapper, names: &Names, handle: &Handle) -> Result<(), Failure> {
    let detail = Detail::decode(&handle.detail)?;
    let schema = identifier(names.schema());
    let forbid = client.prepare_cached(&format!("SELECT {schema}.forbid($1)")).await?;
    let remove = client.prepare_cached(&format!("SELECT {schema}.remove($1, $2, $3)")).await?;
    let there = client.prepare_cached(THERE).await?;
    let login: [&(dyn ToSql + Sync); 1] = [&handle.name];
    let removal: [&(dyn ToSql + Sync); 3] = [&handle.name, &detail.group, &detail.reassign];
    let (forbidden, removed, left) = future::join3(
        client.query(&forbid, &login),
        client.query(&remove, &removal),
        client.query_one(&there, &login),
    )
    .await;
    // A login that keeps itself from being removed must not pass for a server that is away.
    forbidden.map_err(|error| Failure::from(error).of_one_login())?;
    removed.map_err(|error| Failure::from(error).of_one_login())?;
    if left?.try_get(0)? {
        return Err(Failure::Refused("the login is still there after it was removed".to_owned()));
    }
    Ok(())
}

/// Logins of this vault after `after`, in the order of their names.
pub(super) async fn list(
    client: &ClientWrapper,
    names: &Names,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Found>, Failure> {
    // Bounds for the index on names; the tilde comes after all that a name of ours has.
    let query = format!(
        "SELECT r.rolname::text, coalesce((SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid \
           WHERE m.member = r.oid AND starts_with(g.rolname::text, {group}) LIMIT 1), '') \
         FROM pg_roles r WHERE r.rolname > $1::text::name AND r.rolname < {end}::name \
           AND r.rolname ~ {form} ORDER BY r.rolname LIMIT $2",
        group = literal(&names.group_prefix()),
        end = literal(&format!("{}~", names.prefix())),
        form = literal(&format!("^{}[a-z0-9][a-z0-9-]{{0,17}}_[0-9a-f]{{32}}$", names.prefix())),
    );
    let query = client.prepare_cached(&query).await?;
    let after = after.unwrap_or_default().max(names.prefix());
    let rows = client.query(&query, &[&after, &i64::try_from(limit).unwrap_or(i64::MAX)]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let name: String = row.try_get(0)?;
        let group: String = row.try_get(1)?;
        if let Some(lease) = names.lease(&name) {
            // What it may own is kept where there is somebody to keep it.
            let detail = Detail { reassign: !group.is_empty(), group }.encode();
            found.push(Found { lease, handle: Handle { name, detail } });
        }
    }
    Ok(found)
}
