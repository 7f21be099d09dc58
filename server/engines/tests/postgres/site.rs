//! A database with a few tables, the set-up functions, and a link to it.

use std::sync::Arc;
use std::time::Duration;

use getrandom::SysRng;
use keystead_core::engine::{AdminLogin, Engine, EngineError, Field, Issued, Link, Order, Plan};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::RecordId;
use keystead_domain::rights::postgres::{Objects, PgName, PostgresRole, TableGrant, TablePrivilege};
use keystead_domain::role::{Declaration, OnExcess, RoleRecord};
use keystead_domain::target::{PostgresSettings, TargetSettings};
use keystead_domain::time::UnixMillis;
use keystead_domain::{Name, Ttl, VaultId};
use keystead_engines::postgres::{PostgresEngine, ceiling_statements, setup_script};
use keystead_engines::testing::postgres::PostgresServer;
use rand_core::{Rng, UnwrapErr};
use tokio_postgres::Client;

pub(crate) const VAULT: VaultId = VaultId([0xab; 16]);
pub(crate) const SCHEMA: &str = "keystead_f1caf775";
pub(crate) const DATABASE: &str = "shop";
pub(crate) const ADMIN: &str = "vault";
pub(crate) const ADMIN_PASSWORD: &str = "canary-admin-password";
/// Logins of tests do not end by themselves.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 3600);

const TABLES: &str = "\
    CREATE ROLE app LOGIN PASSWORD 'app-password';
    CREATE SCHEMA shop AUTHORIZATION app;
    SET ROLE app;
    CREATE TABLE shop.orders (id bigint GENERATED ALWAYS AS IDENTITY, note text, price numeric);
    CREATE TABLE shop.payments (id bigint, card text);
    CREATE SEQUENCE shop.numbers;
    CREATE FUNCTION shop.total(a integer, b integer) RETURNS integer LANGUAGE sql AS 'SELECT a + b';
    CREATE FUNCTION shop.total(a text) RETURNS text LANGUAGE sql AS 'SELECT a';
    REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA shop FROM PUBLIC;
    INSERT INTO shop.orders (note) VALUES ('first');
    RESET ROLE;
    REVOKE ALL ON DATABASE shop, postgres, template1 FROM PUBLIC;";

const CATALOG: &str = "\
    SELECT concat_ws(E'\\n',
      (SELECT string_agg(rolname || ' ' || rolcanlogin || rolsuper || rolcreaterole, ',' ORDER BY rolname) FROM pg_roles),
      (SELECT string_agg(roleid::regrole || ' to ' || member::regrole, ',' ORDER BY roleid, member) FROM pg_auth_members),
      (SELECT string_agg(nspname || ' ' || coalesce(nspacl, acldefault('n', nspowner))::text, ',' ORDER BY oid)
        FROM pg_namespace WHERE nspname !~ '^(keystead_|pg_t)'),
      (SELECT string_agg(c.oid::regclass || ' ' || coalesce(relacl, acldefault((CASE relkind WHEN 'S' THEN 's' ELSE 'r' END)::\"char\", relowner))::text,
         ',' ORDER BY c.oid) FROM pg_class c WHERE relkind IN ('r', 'v', 'S') AND c.oid >= 16384),
      (SELECT string_agg(attrelid::regclass || '.' || attname || ' ' || attacl::text, ',' ORDER BY attrelid, attnum) FROM pg_attribute WHERE attacl <> '{}'),
      (SELECT string_agg(p.oid::regprocedure || ' ' || coalesce(proacl, acldefault('f', proowner))::text, ',' ORDER BY p.oid)
         FROM pg_proc p WHERE p.oid >= 16384 AND pronamespace::regnamespace::text !~ '^keystead_'),
      (SELECT string_agg(datname || coalesce(datacl, acldefault('d', datdba))::text, ',' ORDER BY oid) FROM pg_database),
      (SELECT string_agg(d::text, ',' ORDER BY oid) FROM pg_default_acl d),
      (SELECT string_agg(s::text, ',' ORDER BY setrole) FROM pg_db_role_setting s),
      (SELECT count(*) FROM shop.orders))";

pub(crate) struct Site {
    pub(crate) server: PostgresServer,
    /// The superuser, in the database.
    pub(crate) root: Client,
    pub(crate) link: Arc<dyn Link>,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let server = PostgresServer::start().await.unwrap();
        let first = server.superuser("postgres").await.unwrap();
        first.batch_execute("CREATE DATABASE shop").await.unwrap();
        let root = server.superuser(DATABASE).await.unwrap();
        root.batch_execute(TABLES).await.unwrap();
        root.batch_execute(&setup_script(VAULT, &name(DATABASE), &name(ADMIN))).await.unwrap();
        root.batch_execute(&format!("ALTER ROLE {ADMIN} PASSWORD '{ADMIN_PASSWORD}'")).await.unwrap();
        let link = link(server.settings(DATABASE, ADMIN).unwrap());
        Self { server, root, link }
    }

    /// A link that knows nothing of what the other one saw.
    pub(crate) fn new_link(&self) -> Arc<dyn Link> {
        link(self.server.settings(DATABASE, ADMIN).unwrap())
    }

    /// Runs statements as the superuser.
    pub(crate) async fn run(&self, statements: &str) {
        self.root.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// What the superuser sees, as text.
    pub(crate) async fn ask(&self, query: &str) -> String {
        let row = self.root.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
        row.get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// Gives the vault what a role needs, as a database administrator would.
    pub(crate) async fn allow(&self, role: &RoleRecord) {
        let Declaration::Postgres(declared) = &role.declaration;
        for statement in ceiling_statements(VAULT, &name(DATABASE), declared) {
            self.run(&statement).await;
        }
    }

    /// A role that is allowed and defined.
    pub(crate) async fn defined(&self, declared: PostgresRole) -> RoleRecord {
        let role = role(declared);
        self.allow(&role).await;
        self.link.define(&role, &[]).await.unwrap();
        role
    }

    pub(crate) async fn issue(&self, role: &RoleRecord) -> (Plan, Result<Issued, EngineError>) {
        self.issue_by(&*self.link, role).await
    }

    pub(crate) async fn issue_by(
        &self,
        link: &dyn Link,
        role: &RoleRecord,
    ) -> (Plan, Result<Issued, EngineError>) {
        let plan = link.plan(role, new_id(), &mut UnwrapErr(SysRng));
        let issued = link.issue(Order { role, accepted: &[], plan: &plan, lasts: LONG }).await;
        (plan, issued)
    }

    pub(crate) async fn issue_planned(&self, role: &RoleRecord, plan: &Plan) -> Result<Issued, EngineError> {
        self.link.issue(Order { role, accepted: &[], plan, lasts: LONG }).await
    }

    /// A session of a fresh login.
    pub(crate) async fn session(&self, role: &RoleRecord) -> (Plan, Client) {
        let (plan, issued) = self.issue(role).await;
        issued.unwrap();
        let client = self.login(&plan).await.unwrap();
        (plan, client)
    }

    pub(crate) async fn login(&self, plan: &Plan) -> Result<Client, String> {
        let name = &plan.handle.name;
        self.server.login(name, plan.secret.expose(), DATABASE).await.map_err(|error| format!("{error:?}"))
    }
}

/// Roles, memberships and access lists, but for the vault's own schema, as text.
pub(crate) async fn catalog(site: &Site) -> String {
    site.ask(CATALOG).await
}

pub(crate) fn link(settings: PostgresSettings) -> Arc<dyn Link> {
    let login = AdminLogin { secret: SecretBytes::copy_from(ADMIN_PASSWORD.as_bytes()) };
    PostgresEngine.link(VAULT, "shopdb", &TargetSettings::Postgres(settings), login).unwrap()
}

pub(crate) fn name(text: &str) -> PgName {
    PgName::parse(text).unwrap()
}

pub(crate) fn new_id() -> RecordId {
    let mut id = [0; 16];
    UnwrapErr(SysRng).fill_bytes(&mut id);
    RecordId(id)
}

pub(crate) fn role(declared: PostgresRole) -> RoleRecord {
    RoleRecord {
        id: new_id(),
        name: Name::parse("orders-writer-of-the-shop").unwrap(),
        target: Name::parse("shopdb").unwrap(),
        target_id: RecordId([1; 16]),
        declaration: Declaration::Postgres(declared),
        default_ttl: Ttl::from_secs(60).unwrap(),
        max_ttl: Ttl::from_secs(3600).unwrap(),
        max_live: 100,
        on_excess: OnExcess::Refuse,
        created: UnixMillis(1),
        changed: UnixMillis(1),
    }
}

pub(crate) fn tables(tables: &[&str], privileges: &[TablePrivilege]) -> TableGrant {
    TableGrant {
        schema: name("shop"),
        tables: Objects::Named(tables.iter().map(|table| name(table)).collect()),
        columns: Vec::new(),
        privileges: privileges.to_vec(),
        future_of: None,
    }
}

/// `SELECT` and `INSERT` on one table.
pub(crate) fn orders() -> PostgresRole {
    PostgresRole {
        schemas: vec![name("shop")],
        tables: vec![tables(&["orders"], &[TablePrivilege::Select, TablePrivilege::Insert])],
        ..PostgresRole::default()
    }
}

pub(crate) fn fields(issued: &Issued) -> Vec<(&'static str, String)> {
    let text = |field: &Field| match field {
        Field::Plain(text) => text.clone(),
        Field::Secret(secret) => String::from_utf8(secret.expose().to_vec()).unwrap(),
    };
    issued.credential.0.iter().map(|(name, field)| (*name, text(field))).collect()
}
