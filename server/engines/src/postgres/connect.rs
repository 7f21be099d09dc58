//! Connections to one server: always TLS with its certificate verified, the password only ever proven (SCRAM, bound to the
//! TLS channel), and a bound on how many there are.
//!
//! Invariant: without verified TLS nothing but the request for it is sent. The password is taken out only while a connection
//! is made. Absent: asking again; whoever calls decides that.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::target::PostgresSettings;
use rustix::net::sockopt;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::{ChannelBinding, SslMode, SslNegotiation};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::Failure;

/// From the first packet to a session.
const CONNECT: Duration = Duration::from_secs(10);
/// A dead peer is found after this long and a few probes.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What every session of ours begins with: names are looked up in the catalogs only, and nothing waits for ever.
const OPTIONS: &str = "-c search_path=pg_catalog -c statement_timeout=15s -c lock_timeout=5s \
                       -c idle_in_transaction_session_timeout=30s -c client_min_messages=error";
/// `SSLRequest` (PostgreSQL 55.7).
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// How connections are made; also what the pool makes them with.
pub(super) struct Connector {
    settings: PostgresSettings,
    tls: MakeRustlsConnect,
    secret: RwLock<Arc<SecretBytes>>,
}

impl Connector {
    pub(super) fn new(settings: PostgresSettings, secret: SecretBytes) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(settings.ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|error| Failure::Ca(error.to_string()))?;
            roots.add(certificate).map_err(|error| Failure::Ca(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(Failure::Ca("it holds no certificate in PEM form".to_owned()));
        }
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| Failure::Identity(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { settings, tls: MakeRustlsConnect::new(config), secret: RwLock::new(Arc::new(secret)) })
    }

    pub(super) fn settings(&self) -> &PostgresSettings {
        &self.settings
    }

    /// New connections use this password from now on.
    pub(super) fn use_secret(&self, secret: SecretBytes) {
        *self.secret.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(secret);
    }

    /// A connection of the admin login with this password, within the time for one.
    pub(super) async fn connect_with(&self, secret: &SecretBytes) -> Result<ClientWrapper, Failure> {
        self.connect_as(self.settings.admin.as_str(), secret).await
    }

    /// A connection of any login.
    pub(super) async fn connect_as(
        &self,
        login: &str,
        secret: &SecretBytes,
    ) -> Result<ClientWrapper, Failure> {
        tokio::time::timeout(CONNECT, self.open(login, secret))
            .await
            .map_err(|_| Failure::Unavailable("no session within 10 s".to_owned()))?
    }

    async fn open(&self, login: &str, secret: &SecretBytes) -> Result<ClientWrapper, Failure> {
        let stream = self.offered_tls().await?;
        let mut config = tokio_postgres::Config::new();
        config
            .user(login)
            .dbname(self.settings.database.as_str())
            .password(secret.expose())
            .application_name("keystead")
            .options(OPTIONS)
            .ssl_mode(SslMode::Require)
            // The request for TLS is behind us.
            .ssl_negotiation(SslNegotiation::Direct)
            // So a server that is not the one, or a clear-text method, never sees the password.
            .channel_binding(ChannelBinding::Require);
        let name = self.settings.server_name.as_ref().unwrap_or(&self.settings.host);
        let Ok(tls) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut self.tls.clone(), name.as_str());
        let (client, connection) = config.connect_raw(stream, tls).await.map_err(Failure::from_connecting)?;
        let task = tokio::spawn(async move {
            // What ended it shows in the call that was waiting.
            let _ = connection.await;
        });
        Ok(ClientWrapper::new(client, task))
    }

    /// A stream whose other end has agreed to TLS.
    async fn offered_tls(&self) -> Result<TcpStream, Failure> {
        let unavailable = |error: std::io::Error| Failure::Unavailable(error.to_string());
        let address = (self.settings.host.as_str(), self.settings.port.get());
        let mut stream = TcpStream::connect(address).await.map_err(unavailable)?;
        stream.set_nodelay(true).map_err(unavailable)?;
        sockopt::set_socket_keepalive(&stream, true).map_err(|error| unavailable(error.into()))?;
        sockopt::set_tcp_keepidle(&stream, KEEPALIVE).map_err(|error| unavailable(error.into()))?;
        sockopt::set_tcp_keepintvl(&stream, KEEPALIVE).map_err(|error| unavailable(error.into()))?;
        sockopt::set_tcp_keepcnt(&stream, 3).map_err(|error| unavailable(error.into()))?;
        stream.write_all(&SSL_REQUEST).await.map_err(unavailable)?;
        match stream.read_u8().await.map_err(unavailable)? {
            b'S' => Ok(stream),
            // An error instead of an answer: too many connections, or starting.
            b'E' => Err(Failure::Unavailable("it answers the request for TLS with an error".to_owned())),
            _ => Err(Failure::Identity("it offers no TLS; set ssl = on there".to_owned())),
        }
    }
}

impl deadpool::managed::Manager for Connector {
    type Type = ClientWrapper;
    type Error = Failure;

    async fn create(&self) -> Result<ClientWrapper, Failure> {
        let secret = self.secret.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.connect_with(&secret).await
    }

    async fn recycle(
        &self,
        client: &mut ClientWrapper,
        _: &deadpool::managed::Metrics,
    ) -> deadpool::managed::RecycleResult<Failure> {
        if client.is_closed() {
            return Err(deadpool::managed::RecycleError::message("closed"));
        }
        Ok(())
    }
}
