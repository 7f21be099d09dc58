//! The check of client certificates inside the handshake. Invariant: size, key and names are bounded before any
//! signature is checked; the chain itself is checked by rustls against the configured CAs only.
//!
//! Absent on purpose: a way to go on with a certificate that was refused.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use x509_parser::prelude::X509Certificate;
use x509_parser::public_key::PublicKey;

use super::anchor::Anchor;
use super::error::CertificateRefused;
use super::identity::{parse, sans};

// A leaf with three intermediates; real chains have one or two.
const MOST_CERTIFICATES: usize = 4;
const MOST_BYTES: usize = 16 * 1024;
const LEAST_RSA_BITS: usize = 2048;
const MOST_RSA_BITS: usize = 4096;

/// rustls' verifiers behind the bounds.
#[derive(Debug)]
pub(super) struct BoundedVerifier {
    pub(super) anchors: Arc<[Anchor]>,
    /// Trusts all anchors; asked for everything but the verdict.
    pub(super) all: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for BoundedVerifier {
    fn offer_client_auth(&self) -> bool {
        self.all.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.all.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.all.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check_chain(end_entity, intermediates).map_err(|refused| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
        })?;
        let mut refused = CertificateError::UnknownIssuer.into();
        for anchor in self.anchors.iter() {
            match anchor.verify(end_entity, intermediates, now) {
                Ok(()) => return Ok(ClientCertVerified::assertion()),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.all.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.all.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.all.supported_verify_schemes()
    }
}

fn check_chain(leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), CertificateRefused> {
    let certificates = others.len() + 1;
    if certificates > MOST_CERTIFICATES {
        return Err(CertificateRefused::ChainTooLong { certificates, most: MOST_CERTIFICATES });
    }
    for der in others {
        check_key(&bounded(der)?)?;
    }
    let leaf = bounded(leaf)?;
    check_key(&leaf)?;
    sans(&leaf)?;
    let usage = leaf.key_usage().map_err(|_| CertificateRefused::Malformed)?;
    if usage.is_some_and(|usage| !usage.value.digital_signature()) {
        return Err(CertificateRefused::KeyUsage);
    }
    Ok(())
}

/// Checks a certificate that is to become a trust anchor.
pub(super) fn check_ca(der: &CertificateDer<'_>) -> Result<(), CertificateRefused> {
    let certificate = bounded(der)?;
    check_key(&certificate)?;
    let constraints = certificate.basic_constraints().map_err(|_| CertificateRefused::Malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        Ok(())
    } else {
        Err(CertificateRefused::NotCa)
    }
}

fn bounded<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateRefused> {
    if der.len() > MOST_BYTES {
        return Err(CertificateRefused::TooBig { bytes: der.len(), most: MOST_BYTES });
    }
    parse(der)
}

fn check_key(certificate: &X509Certificate<'_>) -> Result<(), CertificateRefused> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if !(LEAST_RSA_BITS..=MOST_RSA_BITS).contains(&key.key_size()) => {
            Err(CertificateRefused::RsaBits {
                bits: key.key_size(),
                least: LEAST_RSA_BITS,
                most: MOST_RSA_BITS,
            })
        }
        Ok(_) => Ok(()),
        Err(_) => Err(CertificateRefused::Malformed),
    }
}
