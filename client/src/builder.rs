//! Says where the vault is and who calls, and connects. Invariant: everything is checked before the first byte is sent.
//!
//! The environment variables of the client have their one home here.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use zeroize::Zeroizing;

use crate::Client;
use crate::address::Address;
use crate::call::Caller;
use crate::connect::{self, LastAlert, Target};
use crate::error::{ConfigError, Error};
use crate::retry::RetryPolicy;
use crate::tls::{PemSource, TlsSources};
use crate::value::SecretBytes;

const ADDR: &str = "KEYSTEAD_ADDR";
const CACERT: &str = "KEYSTEAD_CACERT";
const CERT: &str = "KEYSTEAD_CERT";
const KEY: &str = "KEYSTEAD_KEY";
const TOKEN: &str = "KEYSTEAD_TOKEN";

const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Makes a [`Client`].
#[derive(Clone, Default)]
pub struct Builder {
    addr: Option<String>,
    ca: Option<PemSource>,
    cert: Option<PemSource>,
    key: Option<PemSource>,
    token: Option<SecretBytes>,
    deadline: Option<Duration>,
    retry: RetryPolicy,
}

impl Builder {
    /// The environment variables that [`Self::from_env`] reads. A program that is started with secrets is better off without
    /// them: whoever has them has all that their owner may read.
    pub const VARIABLES: [&str; 5] = [ADDR, CACERT, CERT, KEY, TOKEN];

    /// Takes what the environment says: `KEYSTEAD_ADDR` (`https://host:port` or `unix:///path`), `KEYSTEAD_CACERT`,
    /// `KEYSTEAD_CERT` and `KEYSTEAD_KEY` (PEM files), and `KEYSTEAD_TOKEN`. What is unset or empty stays open.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(std::env::var_os)
    }

    fn from_variables(variable: impl Fn(&'static str) -> Option<std::ffi::OsString>) -> Result<Self, Error> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        let text = |name| -> Result<Option<String>, ConfigError> {
            set(name)
                .map(|value| value.into_string().map_err(|_| ConfigError::Environment { name }))
                .transpose()
        };
        let file = |name| set(name).map(|path| PemSource::File(PathBuf::from(path)));
        Ok(Self {
            addr: text(ADDR)?,
            ca: file(CACERT),
            cert: file(CERT),
            key: file(KEY),
            token: text(TOKEN)?.map(SecretBytes::from),
            ..Self::default()
        })
    }

    /// Where the vault listens: `https://host:port`, or `unix:///path` for the server's local socket.
    #[must_use]
    pub fn addr(mut self, addr: impl Into<String>) -> Self {
        self.addr = Some(addr.into());
        self
    }

    /// A PEM file with the CA that signs the server's certificate. No other CA is trusted.
    #[must_use]
    pub fn ca_cert_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(PemSource::File(path.into()));
        self
    }

    /// The CA as PEM text.
    #[must_use]
    pub fn ca_cert_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(PemSource::Text(Arc::new(Zeroizing::new(pem.into()))));
        self
    }

    /// PEM files with the client's certificate chain and its key, read again for each new connection.
    #[must_use]
    pub fn identity_files(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.cert = Some(PemSource::File(cert.into()));
        self.key = Some(PemSource::File(key.into()));
        self
    }

    /// The client's certificate chain and key as PEM text.
    #[must_use]
    pub fn identity_pem(mut self, cert: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.cert = Some(PemSource::Text(Arc::new(Zeroizing::new(cert.into()))));
        self.key = Some(PemSource::Text(Arc::new(Zeroizing::new(key.into()))));
        self
    }

    /// A session or bootstrap token, sent with every call.
    #[must_use]
    pub fn token(mut self, token: impl Into<SecretBytes>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// How long a call may take in all, repeats included: 10 seconds if nothing else is said.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How often and how patiently safe calls are repeated.
    #[must_use]
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Whether a call would show neither a certificate nor a token; a local socket takes no certificate.
    pub fn is_anonymous(&self) -> bool {
        let local = || self.addr.as_ref().is_some_and(|addr| addr.starts_with("unix:"));
        self.token.is_none() && (self.cert.is_none() || local())
    }

    /// Checks everything and connects.
    pub async fn build(self) -> Result<Client, Error> {
        let (caller, endpoint, dial) = self.prepare()?;
        let channel =
            endpoint.connect_with_connector(dial).await.map_err(|error| caller.unconnected(error))?;
        Ok(Client { caller: caller.over(channel) })
    }

    /// Checks everything and connects with the first call. Must run inside a Tokio runtime.
    pub fn build_lazy(self) -> Result<Client, Error> {
        let (caller, endpoint, dial) = self.prepare()?;
        Ok(Client { caller: caller.over(endpoint.connect_with_connector_lazy(dial)) })
    }

    fn prepare(self) -> Result<(Unconnected, Endpoint, impl Dial), Error> {
        let text = self.addr.ok_or(ConfigError::MissingAddress)?;
        let address: Address =
            text.parse().map_err(|source| ConfigError::Address { text: text.clone(), source })?;
        let identity = match (self.cert, self.key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(ConfigError::HalfIdentity.into()),
        };
        let (target, authority) = match &address {
            Address::Unix(path) => (Target::Unix(path.clone()), "localhost".to_owned()),
            Address::Tls { host, .. } => {
                let sources = TlsSources { ca: self.ca.ok_or(ConfigError::MissingCa)?, identity };
                sources.config()?;
                let name = ServerName::try_from(host.clone())
                    .map_err(|_| ConfigError::Host { host: host.clone() })?;
                let authority = address.authority().unwrap_or_default();
                (Target::Tls { authority: authority.clone(), name, sources }, authority)
            }
        };
        let token = self.token.as_ref().map(bearer).transpose()?;
        let last_alert = LastAlert::default();
        let deadline = self.deadline.unwrap_or(DEFAULT_DEADLINE);
        // The scheme is plain because tonic is not to add TLS of its own: `dial` does that.
        let endpoint = Endpoint::from_shared(format!("http://{authority}"))
            .map_err(|_| ConfigError::Host { host: authority })?
            .connect_timeout(CONNECT_TIMEOUT.min(deadline))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let dial = {
            let last_alert = last_alert.clone();
            tower::service_fn(move |_| connect::connect(target.clone(), last_alert.clone()))
        };
        let caller = Unconnected { address, token, deadline, retry: self.retry, last_alert };
        Ok((caller, endpoint, dial))
    }
}

/// What tonic takes for a connector.
trait Dial:
    tower::Service<tonic::transport::Uri, Response = Connection, Error = std::io::Error, Future: Send>
    + Send
    + 'static
{
}
impl<D> Dial for D where
    D: tower::Service<tonic::transport::Uri, Response = Connection, Error = std::io::Error, Future: Send>
        + Send
        + 'static
{
}
type Connection = hyper_util::rt::TokioIo<Box<dyn connect::Stream>>;

/// A caller that lacks only its channel.
struct Unconnected {
    address: Address,
    token: Option<MetadataValue<Ascii>>,
    deadline: Duration,
    retry: RetryPolicy,
    last_alert: LastAlert,
}

impl Unconnected {
    fn over(self, channel: Channel) -> Caller {
        Caller::new(channel, self.address, self.token, self.deadline, self.retry, self.last_alert)
    }

    fn unconnected(&self, error: tonic::transport::Error) -> Error {
        let cause = connect::cause(&error, &self.last_alert);
        Error::Connect { address: self.address.clone(), cause, source: Box::new(error) }
    }
}

fn bearer(token: &SecretBytes) -> Result<MetadataValue<Ascii>, ConfigError> {
    let text = token.expose_str().filter(|text| !text.is_empty()).ok_or(ConfigError::Token)?;
    let header = Zeroizing::new(format!("Bearer {text}"));
    let mut value: MetadataValue<Ascii> = header.parse().map_err(|_| ConfigError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("addr", &self.addr)
            .field("deadline", &self.deadline)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &'static [(&'static str, &'static str)]) -> Builder {
        Builder::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, v)| v.into())
        })
        .unwrap()
    }

    fn refused(builder: Builder) -> ConfigError {
        match builder.prepare() {
            Err(Error::Config(error)) => error,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("the builder took it"),
        }
    }

    #[test]
    fn every_variable_that_is_read_is_named() {
        let read = std::cell::RefCell::new(Vec::new());
        Builder::from_variables(|name| {
            read.borrow_mut().push(name);
            None
        })
        .unwrap();
        let mut read = read.into_inner();
        read.sort_unstable();
        assert_eq!(read, Builder::VARIABLES);
    }

    #[test]
    fn the_environment_is_read_and_empty_means_unset() {
        let builder = from(&[(ADDR, "unix:///run/x"), (CACERT, ""), (TOKEN, "kst_canary")]);
        assert_eq!(builder.addr.as_deref(), Some("unix:///run/x"));
        assert!(builder.ca.is_none());
        assert!(builder.token.is_some());
        assert!(!format!("{builder:?}").contains("canary"));
    }

    #[test]
    fn a_setup_that_cannot_work_is_refused_before_connecting() {
        assert!(matches!(refused(Builder::default()), ConfigError::MissingAddress));
        assert!(matches!(refused(Builder::default().addr("http://x:1")), ConfigError::Address { .. }));
        assert!(matches!(refused(Builder::default().addr("https://x:1")), ConfigError::MissingCa));
        assert!(matches!(
            refused(Builder::default().addr("https://x:1").ca_cert_file("/nonexistent/ca.pem")),
            ConfigError::Unreadable { what: "CA certificate", .. }
        ));
        assert!(matches!(
            refused(Builder::default().addr("https://x:1").ca_cert_pem("nothing")),
            ConfigError::NotPem { .. }
        ));
        assert!(matches!(
            refused(from(&[(ADDR, "unix:///x"), (CERT, "/cert.pem")])),
            ConfigError::HalfIdentity
        ));
        assert!(matches!(refused(Builder::default().addr("unix:///x").token("a\nb")), ConfigError::Token));
    }

    #[test]
    fn pem_text_in_the_place_of_a_files_name_is_not_repeated() {
        let key = "-----BEGIN PRIVATE KEY-----\ncanary";
        let error = refused(Builder::default().addr("https://x:1").ca_cert_file(key));
        assert!(matches!(error, ConfigError::PemForFile { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }

    #[test]
    fn a_certificate_counts_only_where_it_is_shown() {
        let known = from(&[(ADDR, "https://x:1"), (CERT, "c"), (KEY, "k")]);
        assert!(!known.is_anonymous());
        assert!(known.addr("unix:///x").is_anonymous());
        assert!(from(&[(ADDR, "https://x:1")]).is_anonymous());
        assert!(!from(&[(ADDR, "unix:///x"), (TOKEN, "kst_x")]).is_anonymous());
    }

    #[test]
    fn the_token_is_marked_sensitive() {
        let value = bearer(&SecretBytes::from("kst_canary")).unwrap();
        assert!(value.is_sensitive());
        assert!(!format!("{value:?}").contains("canary"));
    }
}
