//! The certificates in force, replaced without dropping connections. Invariant: a reload that fails changes nothing;
//! a connection that was made before one is judged by what is in force now, at each request.
//!
//! Absent on purpose: watching files. SIGHUP asks for a reload.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::anchor::Anchor;
use super::dates::LastDate;
use super::error::TlsError;
use super::identity::{PeerIdentity, SerialOfIssuer};
use super::verify::BoundedVerifier;
use super::{load, provider};
use crate::config::TlsConfig;

/// Why a request on an open connection is refused for its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// Its first date is still to come.
    #[error("the client certificate is not valid yet")]
    NotYetValid,
    /// Its last date has passed since the connection was made.
    #[error("the client certificate has expired")]
    Expired,
    /// It, or a CA between, is on a revocation list now.
    #[error("the client certificate is revoked")]
    Revoked,
    /// Its CA is no longer configured.
    #[error("the client certificate's CA is no longer trusted")]
    UnknownCa,
}

/// One generation of certificates.
#[derive(Debug)]
pub struct TlsState {
    server: Arc<ServerConfig>,
    /// One verifier a CA, to tell which of them a chain ends at.
    anchors: Arc<[Anchor]>,
    revoked: HashSet<SerialOfIssuer>,
    last_date: LastDate,
}

impl TlsState {
    fn load(files: &TlsConfig, now_ms: u64) -> Result<Self, TlsError> {
        let chain = load::certificates(&files.cert_file)?;
        let last_date = LastDate::of(&files.cert_file, &chain, now_ms)?;
        let key = load::private_key(&files.key_file)?;
        let certificates = load::trust_anchors(&files.client_ca_file)?;
        let (crls, revoked) = load::crls(&files.crl_files)?;
        let bad_verifier = |source| TlsError::Verifier { path: files.client_ca_file.clone(), source };
        let verifier = |certificates: &[CertificateDer<'static>]| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates.iter().cloned());
            let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .allow_unauthenticated();
            if !crls.is_empty() {
                // With lists, a status that none of them tells, or only one out of date, is a refusal.
                builder = builder.with_crls(crls.iter().cloned()).enforce_revocation_expiration();
            }
            builder.build()
        };
        let all = verifier(&certificates).map_err(bad_verifier)?;
        let mut anchors = Vec::with_capacity(certificates.len());
        for (index, certificate) in certificates.iter().enumerate() {
            let verifier = verifier(std::slice::from_ref(certificate)).map_err(bad_verifier)?;
            let entry = index + 1;
            let refused =
                |source| TlsError::Certificate { path: files.client_ca_file.clone(), entry, source };
            anchors.push(Anchor::new(certificate, verifier).map_err(refused)?);
        }
        let anchors: Arc<[Anchor]> = anchors.into();
        let bad_pair =
            |source| TlsError::Pair { cert: files.cert_file.clone(), key: files.key_file.clone(), source };
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(bad_pair)?
            .with_client_cert_verifier(Arc::new(BoundedVerifier { anchors: Arc::clone(&anchors), all }))
            .with_single_cert(chain, key)
            .map_err(bad_pair)?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would skip the check of the certificate against the lists of today.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let revoked = revoked.into_iter().collect();
        Ok(Self { server: Arc::new(server), anchors, revoked, last_date })
    }

    /// What rustls needs for a handshake.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Reads the identity out of the chain that a handshake with [`TlsState::server_config`] has verified.
    pub fn identify(&self, chain: &[CertificateDer<'_>]) -> Option<PeerIdentity> {
        let (leaf, others) = chain.split_first()?;
        let anchor = match self.anchors.as_ref() {
            [only] => only,
            several => several.iter().find(|anchor| anchor.verify(leaf, others, UnixTime::now()).is_ok())?,
        };
        anchor.identify(chain).ok()
    }

    /// Whether the certificate, or a CA between, is on a revocation list.
    pub fn is_revoked(&self, identity: &PeerIdentity) -> bool {
        !self.revoked.is_empty() && identity.serials.iter().any(|serial| self.revoked.contains(serial))
    }

    /// Judges a certificate that was good when its connection was made, at a time in milliseconds since 1970.
    pub fn check(&self, identity: &PeerIdentity, now_ms: u64) -> Result<(), PeerRefused> {
        if identity.begins_after(now_ms) {
            Err(PeerRefused::NotYetValid)
        } else if !identity.valid_at(now_ms) {
            Err(PeerRefused::Expired)
        } else if self.is_revoked(identity) {
            Err(PeerRefused::Revoked)
        } else if !self.anchors.iter().any(|anchor| anchor.fingerprint() == identity.ca_fingerprint()) {
            Err(PeerRefused::UnknownCa)
        } else {
            Ok(())
        }
    }
}

fn load_now(files: &TlsConfig) -> Result<TlsState, TlsError> {
    let now_ms = UnixTime::now().as_secs().saturating_mul(1000);
    let state = TlsState::load(files, now_ms)?;
    state.last_date.log(now_ms);
    Ok(state)
}

/// Holds the generation in force.
#[derive(Debug)]
pub struct TlsReloader {
    files: TlsConfig,
    state: ArcSwap<TlsState>,
}

impl TlsReloader {
    /// Loads the files for the first time.
    pub fn load(files: TlsConfig) -> Result<Self, TlsError> {
        let state = ArcSwap::from_pointee(load_now(&files)?);
        Ok(Self { files, state })
    }

    /// Loads them again; on an error, what was in force stays so.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.state.store(Arc::new(load_now(&self.files)?));
        Ok(())
    }

    /// The generation in force now.
    pub fn current(&self) -> Arc<TlsState> {
        self.state.load_full()
    }

    /// As [`TlsState::is_revoked`], by the lists of now.
    pub fn is_revoked(&self, identity: &PeerIdentity) -> bool {
        self.state.load().is_revoked(identity)
    }

    /// As [`TlsState::check`], by the generation of now.
    pub fn check(&self, identity: &PeerIdentity, now_ms: u64) -> Result<(), PeerRefused> {
        self.state.load().check(identity, now_ms)
    }
}
