//! A configured CA. Invariant: what rustls takes for granted about a trust anchor (its dates and its path length) is
//! checked here, so that a CA means what its certificate says.
//!
//! Absent on purpose: order of preference; any anchor may have issued a certificate.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error};

use super::error::CertificateRefused;
use super::identity::{PeerIdentity, dates_ms, parse, sha256};

pub(super) struct Anchor {
    fingerprint: [u8; 32],
    not_before_ms: u64,
    not_after_ms: u64,
    most_intermediates: usize,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Anchor {
    /// An anchor of a certificate that was checked to be a CA, with a verifier that trusts it alone.
    pub(super) fn new(
        der: &CertificateDer<'_>,
        verifier: Arc<dyn ClientCertVerifier>,
    ) -> Result<Self, CertificateRefused> {
        let certificate = parse(der)?;
        let constraints = certificate.basic_constraints().map_err(|_| CertificateRefused::Malformed)?;
        let path_length = constraints.and_then(|it| it.value.path_len_constraint);
        let (not_before_ms, not_after_ms) = dates_ms(&certificate);
        Ok(Self {
            fingerprint: sha256(der),
            not_before_ms,
            not_after_ms,
            most_intermediates: path_length
                .map_or(usize::MAX, |it| usize::try_from(it).unwrap_or(usize::MAX)),
            verifier,
        })
    }

    pub(super) fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Checks that a chain ends here.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let now_ms = now.as_secs().saturating_mul(1000);
        if now_ms > self.not_after_ms {
            return Err(CertificateError::Expired.into());
        }
        if now_ms < self.not_before_ms {
            return Err(CertificateError::NotValidYet.into());
        }
        // No path through more of them than this can be good, so further ones are not shown to rustls.
        let others = others.get(..self.most_intermediates).unwrap_or(others);
        self.verifier.verify_client_cert(leaf, others, now).map(|_| ())
    }

    /// The identity of a chain that ends here.
    pub(super) fn identify(&self, chain: &[CertificateDer<'_>]) -> Result<PeerIdentity, CertificateRefused> {
        PeerIdentity::of_verified(chain, self.fingerprint, self.not_after_ms)
    }
}

impl fmt::Debug for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anchor").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}
