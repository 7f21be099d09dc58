//! `keystead-benches logins --cycles N`: N logins issued and revoked one after the other leave a database as it was.
//!
//! Invariant: it is compared, not judged by eye: an access list that differs, or a shared catalog that has grown, is an error.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt};
use keystead_client::Client;
use keystead_tests::peers::Shop;
use tokio::time::Instant;

use crate::logins::{ROLE, gone};
use crate::vault::Vault;

const IN_FLIGHT: usize = 8;
/// Access lists of all that has one in the database, and what the cluster keeps of roles.
const STATE: &str = "\
    SELECT (SELECT relacl::text FROM pg_class WHERE oid = 'shop.orders'::regclass), \
      (SELECT md5(string_agg(acl, '|' ORDER BY acl)) FROM ( \
        SELECT 'class ' || oid || coalesce(relacl::text, '') AS acl FROM pg_class \
        UNION ALL SELECT 'namespace ' || oid || coalesce(nspacl::text, '') FROM pg_namespace \
        UNION ALL SELECT 'database ' || oid || coalesce(datacl::text, '') FROM pg_database \
        UNION ALL SELECT 'proc ' || oid || coalesce(proacl::text, '') FROM pg_proc) AS lists), \
      (SELECT count(*) FROM pg_shdepend), (SELECT count(*) FROM pg_auth_members), \
      (SELECT count(*) FROM pg_authid), (SELECT count(*) FROM pg_db_role_setting), \
      (SELECT count(*) FROM pg_default_acl)";
const SIZES: &str = "SELECT (pg_relation_size('pg_authid') + pg_relation_size('pg_auth_members') + pg_relation_size('pg_shdepend')) / 1024";

/// What cycles must not change.
#[derive(Debug, PartialEq, Eq)]
struct State {
    table: Option<String>,
    lists: Option<String>,
    dependencies: i64,
    memberships: i64,
    roles: i64,
    settings: i64,
    defaults: i64,
}

impl State {
    async fn of(shop: &Shop) -> Result<Self> {
        let row = shop.root.query_one(STATE, &[]).await?;
        Ok(Self {
            table: row.try_get(0)?,
            lists: row.try_get(1)?,
            dependencies: row.try_get(2)?,
            memberships: row.try_get(3)?,
            roles: row.try_get(4)?,
            settings: row.try_get(5)?,
            defaults: row.try_get(6)?,
        })
    }
}

/// Runs them, compares, and says what came of it.
pub(crate) async fn run(cycles: usize, progress: impl Fn(&str)) -> Result<String> {
    progress("starting a vault and a database");
    let vault = Vault::start_with("fsync", &[]).await?;
    let operator = vault.operator();
    let shop = Shop::start(&operator).await;
    shop.add_to(&operator).await;
    let before = State::of(&shop).await?;
    let began = Instant::now();
    let mut work = stream::iter(0..cycles).map(|_| cycle(&operator)).buffer_unordered(IN_FLIGHT);
    let mut done = 0_usize;
    while let Some(cycle) = work.next().await {
        cycle?;
        done = done.saturating_add(1);
        if done.is_multiple_of(1_000) {
            progress(&format!("{done} cycles"));
        }
    }
    gone(&shop).await?;
    let took = began.elapsed();
    let after = State::of(&shop).await?;
    if before != after {
        bail!("{cycles} cycles left traces: before {before:#?}, after {after:#?}");
    }
    let kib: i64 = shop.root.query_one(SIZES, &[]).await?.try_get(0)?;
    let table = after.table.context("the table has no access list")?;
    Ok(format!(
        "{cycles} logins issued and revoked in {:.0} s, {IN_FLIGHT} in flight; as before:\n  access list of the table  {table}\n  \
         pg_shdepend {}, pg_auth_members {}, pg_authid {}, pg_db_role_setting {}, pg_default_acl {} rows\n\
         files of the first three: {kib} KiB\n",
        Duration::as_secs_f64(&took),
        after.dependencies,
        after.memberships,
        after.roles,
        after.settings,
        after.defaults,
    ))
}

async fn cycle(operator: &Client) -> Result<()> {
    let issued = operator.credentials().issue(ROLE).await.context("a login was not issued")?;
    operator.leases().revoke(&issued.lease.id).await.context("a lease was not revoked")?;
    Ok(())
}
