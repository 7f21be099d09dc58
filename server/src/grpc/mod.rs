//! gRPC: one adapter a proto file. Invariant: an adapter converts, calls one use case, and converts back; it decides
//! nothing. [`convert`] is the only place where wire and domain meet, [`status`] the only one where errors leave.

pub mod audit;
pub mod auth;
pub mod convert;
pub mod credentials;
pub mod keys;
pub mod layers;
pub mod leases;
pub mod policies;
pub mod secrets;
pub mod static_roles;
pub mod status;
pub mod system;

use std::sync::Arc;

use keystead_core::request::{self, PresentedCertificate, RequestContext};
use keystead_core::rotation::Alarm;
use keystead_core::vault::{OpenVault, Vault};
use keystead_crypto::token::Token;
use keystead_domain::CertificateMatcher;
use keystead_domain::id::RequestId;
use keystead_domain::time::UnixMillis;
use quick_cache::sync::Cache;
use tonic::{Code, Request, Status};

use self::layers::{PresentedToken, RequestMeta};
use crate::listener::Peer;
use crate::tls::{PeerIdentity, San, TlsReloader};

/// Certificates whose identities are kept at hand.
const CERTIFICATES_KEPT: usize = 4096;

/// What every adapter holds.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    vault: Arc<Vault>,
    tls: Arc<TlsReloader>,
    certificates: Cache<[u8; 32], Arc<PresentedCertificate>>,
    warnings: Vec<String>,
    memory_locked: bool,
}

impl Api {
    /// The adapters of a vault. `warnings` are shown with its status.
    pub fn new(vault: Arc<Vault>, tls: Arc<TlsReloader>, warnings: Vec<String>, memory_locked: bool) -> Self {
        let certificates = Cache::new(CERTIFICATES_KEPT);
        Self(Arc::new(Shared { vault, tls, certificates, warnings, memory_locked }))
    }

    fn vault(&self) -> &Arc<Vault> {
        &self.0.vault
    }

    /// What was found at the start, and what the open vault finds wrong with its keys.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.0.warnings.clone();
        if let Ok(vault) = self.vault().unsealed() {
            warnings.extend(vault.key_alarms().iter().map(Alarm::text));
        }
        warnings
    }

    async fn unsealed(&self) -> Result<OpenVault, Status> {
        self.vault().opened().await.map_err(status::refuse)
    }

    /// Takes a request apart: its message, and who sent it as far as the edge knows.
    fn open<T>(&self, request: Request<T>) -> Result<(RequestContext, T), Status> {
        let (_, mut extensions, message) = request.into_parts();
        let RequestMeta { request_id, trace_id, .. } = extensions.remove().ok_or_else(misbuilt)?;
        let peer = extensions.get::<Peer>().ok_or_else(misbuilt)?;
        // What does not count is for the gate to refuse and record, like any unknown caller.
        let mut refused = false;
        let token = extensions.get::<PresentedToken>().and_then(|token| {
            let token = Token::parse(token.expose()).ok();
            refused |= token.is_none();
            token.map(Arc::new)
        });
        let clock = self.vault().clock();
        let (peer, certificate) = match peer {
            Peer::Local { uid } => (request::Peer::Local { uid: *uid }, None),
            Peer::Tls { identity, address } => {
                let certificate = identity.as_ref().and_then(|identity| {
                    let presented = self.presented(identity, clock.now(), &request_id);
                    refused |= presented.is_none();
                    presented
                });
                (request::Peer::Remote(address.ip()), certificate)
            }
        };
        let context = RequestContext {
            request_id,
            trace_id,
            peer,
            certificate,
            token,
            refused,
            arrived: clock.monotonic(),
        };
        Ok((context, message))
    }

    /// Takes the request of a stream apart, with what says whether its certificate still counts.
    fn open_stream<T>(
        &self,
        request: Request<T>,
    ) -> Result<(RequestContext, impl Fn() -> bool + Send + 'static, T), Status> {
        let identity = request.extensions().get::<Peer>().and_then(Peer::identity).cloned();
        let (context, message) = self.open(request)?;
        let shared = Arc::clone(&self.0);
        let counts = move || {
            let now = shared.vault.clock().now();
            identity.as_ref().is_none_or(|identity| shared.tls.check(identity, now.0).is_ok())
        };
        Ok((context, counts, message))
    }

    /// Takes a batch apart: each item is a request of its own to the gate and the log.
    fn open_many<T, I>(
        &self,
        request: Request<T>,
        limit: usize,
        items: impl FnOnce(T) -> Vec<I>,
    ) -> Result<Vec<(RequestContext, I)>, Status> {
        let (context, message) = self.open(request)?;
        let items = items(message);
        if items.is_empty() || items.len() > limit {
            let rule = format!("1 to {limit} requests a batch, got {}", items.len());
            return Err(status::refuse(convert::invalid("requests", rule)));
        }
        Ok(items.into_iter().map(|item| (context.again(), item)).collect())
    }

    /// The certificate of a connection, if it still counts: connections outlive certificates.
    fn presented(
        &self,
        identity: &PeerIdentity,
        now: UnixMillis,
        request_id: &RequestId,
    ) -> Option<Arc<PresentedCertificate>> {
        if let Err(refused) = self.0.tls.check(identity, now.0) {
            tracing::info!(%request_id, %refused, "a connection's certificate no longer counts");
            return None;
        }
        if let Some(known) = self.0.certificates.get(identity.fingerprint()) {
            return Some(known);
        }
        let presented = Arc::new(PresentedCertificate {
            identities: identity.sans().iter().filter_map(matcher).collect(),
            fingerprint: *identity.fingerprint(),
            ca_fingerprint: *identity.ca_fingerprint(),
            not_after: UnixMillis(identity.not_after_ms()),
        });
        self.0.certificates.insert(*identity.fingerprint(), Arc::clone(&presented));
        Some(presented)
    }
}

/// A SAN as policies and principals name it; one in another spelling identifies nobody.
fn matcher(san: &San) -> Option<CertificateMatcher> {
    match san {
        San::SpiffeUri(uri) => CertificateMatcher::spiffe(uri),
        San::Dns(name) => CertificateMatcher::dns(name),
        San::Email(address) => CertificateMatcher::email(address),
    }
    .ok()
}

/// A request that did not pass the layers: a mistake in the wiring, refused.
fn misbuilt() -> Status {
    status::status(Code::Internal, "INTERNAL", "the request did not pass the server's layers")
}
