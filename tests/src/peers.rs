//! Real databases beside a vault: private, unprivileged, on free ports, gone with the test.

use keystead_client::{Client, SecretBytes, v1};
use keystead_domain::VaultId;
use keystead_domain::rights::postgres::PgName;
use keystead_engines::postgres::{mark, owner_role, setup_script};
use keystead_engines::testing::postgres::PostgresServer;
use tokio_postgres::Client as Session;

use crate::site::Site;

/// The database of a shop.
pub const DATABASE: &str = "shop";
/// The admin login of the vault.
pub const ADMIN: &str = "vault";
/// Its first password; searched for where it must not be.
pub const ADMIN_PASSWORD: &str = "canary-admin-5d1c0a7e";

const TABLES: &str = "\
    CREATE ROLE app;
    CREATE SCHEMA shop AUTHORIZATION app;
    SET ROLE app;
    CREATE TABLE shop.orders (id bigint GENERATED ALWAYS AS IDENTITY, note text);
    CREATE TABLE shop.payments (id bigint, card text);
    INSERT INTO shop.orders (note) VALUES ('first');
    RESET ROLE;
    REVOKE ALL ON DATABASE shop, postgres, template1 FROM PUBLIC;
    REVOKE ALL ON SCHEMA public FROM PUBLIC;";

/// A PostgreSQL server with a shop in it, set up for one vault.
pub struct Shop {
    /// The server.
    pub server: PostgresServer,
    /// Its superuser, in the database.
    pub root: Session,
    vault: VaultId,
}

impl Shop {
    /// Starts it, as a database administrator would who read the guide.
    pub async fn start(operator: &Client) -> Self {
        let vault = operator.system().status().await.unwrap().vault_id.parse().unwrap();
        let server = PostgresServer::start().await.unwrap();
        let first = server.superuser("postgres").await.unwrap();
        first.batch_execute("CREATE DATABASE shop").await.unwrap();
        let root = server.superuser(DATABASE).await.unwrap();
        root.batch_execute(TABLES).await.unwrap();
        root.batch_execute(&setup_script(vault, &name(DATABASE), &name(ADMIN))).await.unwrap();
        root.batch_execute(&format!("ALTER ROLE {ADMIN} PASSWORD '{ADMIN_PASSWORD}'")).await.unwrap();
        let shop = Self { server, root, vault };
        shop.run(&format!(
            "GRANT USAGE ON SCHEMA shop TO {0} WITH GRANT OPTION; \
             GRANT SELECT, INSERT ON shop.orders TO {0} WITH GRANT OPTION",
            shop.owner()
        ))
        .await;
        shop
    }

    /// The role that owns the set-up functions.
    pub fn owner(&self) -> String {
        owner_role(self.vault, &name(DATABASE))
    }

    /// The same server, after it was stopped and started again.
    pub async fn start_again(&mut self) {
        self.server.start_again().await.unwrap();
        self.root = self.server.superuser(DATABASE).await.unwrap();
    }

    /// Runs statements as the superuser.
    pub async fn run(&self, statements: &str) {
        self.root.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// The logins that the vault made.
    pub async fn logins(&self) -> Vec<String> {
        let query =
            "SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND starts_with(rolname, $1) ORDER BY 1";
        let rows = self.root.query(query, &[&mark(self.vault, &name(DATABASE))]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The target, as an operator adds it.
    pub fn target(&self, name: &str) -> v1::Target {
        let settings = self.server.settings(DATABASE, ADMIN).unwrap();
        let postgres = v1::PostgresTarget {
            host: settings.host.as_str().to_owned(),
            port: settings.port.get().into(),
            database: DATABASE.to_owned(),
            ca_pem: settings.ca_pem,
            server_name: String::new(),
            admin: ADMIN.to_owned(),
            connections: 8,
        };
        v1::Target {
            name: name.to_owned(),
            settings: Some(v1::target::Settings::Postgres(postgres)),
            max_ttl: Some(seconds(7_200)),
            ..v1::Target::default()
        }
    }

    /// Adds the target, and a role that reads and adds orders.
    pub async fn add_to(&self, operator: &Client) {
        let password = SecretBytes::from(ADMIN_PASSWORD.as_bytes().to_vec());
        let credentials = operator.credentials();
        credentials.put_target(self.target("shop-db"), Some(password)).await.unwrap();
        let defined = credentials.put_role(orders_role("orders-rw")).await.unwrap().definition.unwrap();
        assert_eq!((defined.excess, defined.missing), (Vec::new(), Vec::new()));
    }

    /// A session of a login, as a service opens it.
    pub async fn login(&self, issued: &keystead_client::Issued) -> Result<Session, String> {
        let keystead_client::Credential::Postgres(login) = &issued.credential else { panic!("another kind") };
        let session = self.server.login(&login.username, login.password.expose(), &login.database).await;
        session.map_err(|error| format!("{error:?}"))
    }
}

impl Site {
    /// Lets a service issue from a role.
    pub async fn may_issue(&self, service: &str, role: &str) {
        let text = format!(
            "permit(principal == Keystead::Service::\"{service}\", action == Keystead::Action::\"roles:issue\", \
             resource == Keystead::Role::\"{role}\");"
        );
        self.policy(&format!("{service}-{role}"), &text).await;
    }
}

fn name(text: &str) -> PgName {
    PgName::parse(text).unwrap()
}

/// A span on the wire.
pub fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

/// A role that reads and adds orders, and nothing else.
pub fn orders_role(name: &str) -> v1::Role {
    let table = v1::PostgresTableGrant {
        schema: "shop".to_owned(),
        tables: Some(v1::postgres_table_grant::Tables::Named(v1::PostgresNames {
            names: vec!["orders".to_owned()],
        })),
        privileges: vec![
            v1::PostgresTablePrivilege::Select.into(),
            v1::PostgresTablePrivilege::Insert.into(),
        ],
        ..v1::PostgresTableGrant::default()
    };
    let declared = v1::PostgresRole {
        schemas: vec!["shop".to_owned()],
        tables: vec![table],
        connection_limit: 4,
        ..v1::PostgresRole::default()
    };
    v1::Role {
        name: name.to_owned(),
        target: "shop-db".to_owned(),
        declaration: Some(v1::role::Declaration::Postgres(declared)),
        default_ttl: Some(seconds(900)),
        max_ttl: Some(seconds(3_600)),
        max_live: 500,
        ..v1::Role::default()
    }
}
