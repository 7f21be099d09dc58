//! The TLS side of a connection: TLS 1.3 and aws-lc-rs only, one pinned CA, a client certificate if there is one.
//!
//! Files are read again for each new connection, so that a renewed certificate is used without a restart. Invariant:
//! the server's certificate is always verified; there is no switch.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use crate::error::ConfigError;

/// Where PEM text comes from.
#[derive(Clone)]
pub(crate) enum PemSource {
    File(PathBuf),
    Text(Arc<Zeroizing<Vec<u8>>>),
}

impl PemSource {
    fn read(&self, what: &'static str) -> Result<Zeroizing<Vec<u8>>, ConfigError> {
        match self {
            Self::Text(text) => Ok(Zeroizing::clone(text)),
            Self::File(path) => std::fs::read(path).map(Zeroizing::new).map_err(|source| {
                if path.to_string_lossy().contains("-----BEGIN ") {
                    ConfigError::PemForFile { what }
                } else {
                    ConfigError::Unreadable { what, path: path.clone(), source }
                }
            }),
        }
    }

    fn not_pem(&self, what: &'static str) -> ConfigError {
        let origin = match self {
            Self::File(path) => path.display().to_string(),
            Self::Text(_) => "the text given".to_owned(),
        };
        ConfigError::NotPem { what, origin }
    }

    fn certificates(&self, what: &'static str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
        let text = self.read(what)?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text)
            .collect::<Result<_, _>>()
            .map_err(|_| self.not_pem(what))?;
        if certificates.is_empty() { Err(self.not_pem(what)) } else { Ok(certificates) }
    }

    fn private_key(&self, what: &'static str) -> Result<PrivateKeyDer<'static>, ConfigError> {
        PrivateKeyDer::from_pem_slice(&self.read(what)?).map_err(|_| self.not_pem(what))
    }
}

/// Everything that TLS needs.
#[derive(Clone)]
pub(crate) struct TlsSources {
    pub(crate) ca: PemSource,
    /// Certificate chain and key.
    pub(crate) identity: Option<(PemSource, PemSource)>,
}

impl TlsSources {
    /// Reads all files and makes the configuration of one connection.
    pub(crate) fn config(&self) -> Result<ClientConfig, ConfigError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.ca.certificates("CA certificate")? {
            roots.add(certificate).map_err(ConfigError::Ca)?;
        }
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(ConfigError::Tls)?
                .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(
                    chain.certificates("client certificate")?,
                    key.private_key("key of the client certificate")?,
                )
                .map_err(ConfigError::Identity)?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}
