//! A pool whose connections are all made with the newest login.
//!
//! A login that was replaced still works for the keeper's grace. In that time its connections are retired: idle ones at once,
//! those in use when they come back. So none is there any more when the login is removed, and no query meets its end, as long
//! as nobody keeps a connection for longer than the grace.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{BuildError, Manager, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::tokio_postgres::config::{ChannelBinding, SslMode};
use deadpool_postgres::tokio_postgres::error::SqlState;
use deadpool_postgres::tokio_postgres::tls::MakeTlsConnect;
use deadpool_postgres::{ClientWrapper, Runtime, tokio_postgres};
use keystead_client::{Credential, KeptCredential, NoCredential, PostgresCredential};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tokio::net::TcpStream;
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long anybody waits for a connection, and the database for being connected to.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) type Pool = deadpool::managed::Pool<Logins>;

/// A pool of at most so many connections, no more than the role's `connection_limit`. It needs the keeper, so whoever ends the
/// service shuts the keeper down last.
pub(crate) fn pool(kept: &KeptCredential, connections: usize) -> Result<Pool, BuildError> {
    let pool = Pool::builder(Logins { kept: kept.clone() })
        .max_size(connections)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(PATIENCE))
        .create_timeout(Some(PATIENCE))
        .build()?;
    tokio::spawn(retire_idle(kept.clone(), pool.clone()));
    Ok(pool)
}

/// Closes idle connections of a login as soon as there is another. Ends when the keeper is shut down.
async fn retire_idle(mut kept: KeptCredential, pool: Pool) {
    while kept.changed().await.is_ok() {
        pool.retain(|connection, _| pool.manager().is_newest(&connection.made_with));
    }
}

/// Makes connections with the newest login, and takes none back that was made with an earlier one.
pub(crate) struct Logins {
    kept: KeptCredential,
}

/// A connection, and what it was made with. It is used like a `tokio_postgres::Client`.
pub(crate) struct Connection {
    client: ClientWrapper,
    made_with: Arc<Credential>,
}

impl Logins {
    fn is_newest(&self, made_with: &Arc<Credential>) -> bool {
        self.kept.current().is_ok_and(|newest| Arc::ptr_eq(&newest, made_with))
    }
}

impl Manager for Logins {
    type Type = Connection;
    type Error = NoConnection;

    async fn create(&self) -> Result<Connection, NoConnection> {
        let made_with = self.kept.current()?;
        let Credential::Postgres(login) = &*made_with else { return Err(NoConnection::OtherKind) };
        match connect(login).await {
            Ok(client) => Ok(Connection { client, made_with }),
            Err(error) => {
                if error.refuses_the_login() {
                    // Revoked, perhaps: the keeper looks, and there is another login soon.
                    self.kept.suspect(&made_with);
                }
                Err(error)
            }
        }
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<NoConnection> {
        if connection.client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        if !self.is_newest(&connection.made_with) {
            return Err(RecycleError::message("made with an earlier login"));
        }
        Ok(())
    }
}

/// Over TLS, with the server's certificate verified and the password bound to the channel.
async fn connect(login: &PostgresCredential) -> Result<ClientWrapper, NoConnection> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(login.ca_pem.as_bytes()) {
        roots.add(certificate.map_err(|error| NoConnection::Ca(error.to_string()))?)?;
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = login.server_name.as_ref().unwrap_or(&login.host);
    let Ok(tls) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut MakeRustlsConnect::new(tls), name);
    let stream = TcpStream::connect((login.host.as_str(), login.port)).await?;
    stream.set_nodelay(true)?;
    let (client, connection) = tokio_postgres::Config::new()
        .user(&login.username)
        .password(login.password.expose())
        .dbname(&login.database)
        .ssl_mode(SslMode::Require)
        .channel_binding(ChannelBinding::Require)
        .connect_raw(stream, tls)
        .await?;
    let task = tokio::spawn(async move {
        // What ended it shows in the query that was waiting.
        connection.await.ok();
    });
    Ok(ClientWrapper::new(client, task))
}

impl Deref for Connection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.client
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut ClientWrapper {
        &mut self.client
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConnection {
    #[error(transparent)]
    Login(#[from] NoCredential),
    #[error("the role's logins are not for PostgreSQL")]
    OtherKind,
    #[error("the target's CA certificate: {0}")]
    Ca(String),
    #[error("TLS")]
    Tls(#[from] rustls::Error),
    #[error("the database cannot be reached")]
    Network(#[from] std::io::Error),
    #[error("the database gives no session")]
    Database(#[from] tokio_postgres::Error),
}

impl NoConnection {
    fn refuses_the_login(&self) -> bool {
        let Self::Database(error) = self else { return false };
        let refusals = [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION];
        error.code().is_some_and(|code| refusals.contains(code))
    }
}
