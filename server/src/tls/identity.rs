//! Who a verified client certificate says that it is. Invariant: names are taken byte by byte from the certificate
//! that was verified, never trimmed, folded or decoded; nothing else about the caller comes from the connection.
//!
//! Absent on purpose: the subject's common name, which is no identity.

use std::fmt;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::error::CertificateRefused;

/// A subject alternative name that can identify a caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum San {
    /// A URI that begins with `spiffe://`.
    SpiffeUri(String),
    /// A DNS name.
    Dns(String),
    /// An e-mail address.
    Email(String),
}

impl San {
    /// `spiffe`, `dns` or `email`: also the key in the configuration.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::SpiffeUri(_) => "spiffe",
            Self::Dns(_) => "dns",
            Self::Email(_) => "email",
        }
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        match self {
            Self::SpiffeUri(text) | Self::Dns(text) | Self::Email(text) => text,
        }
    }

    /// Whether the name is in the one spelling that is compared.
    pub fn is_well_formed(&self) -> bool {
        let text = self.as_str();
        let printable = text.len() <= 2048 && text.bytes().all(|byte| byte.is_ascii_graphic());
        printable
            && match self {
                Self::SpiffeUri(text) => is_spiffe(text),
                Self::Dns(text) => is_dns(text),
                Self::Email(text) => {
                    text.len() <= 254
                        && text.split_once('@').is_some_and(|(local, host)| !local.is_empty() && is_dns(host))
                }
            }
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), self.as_str())
    }
}

const SPIFFE: &str = "spiffe://";

// The alphabet and shape of the SPIFFE ID standard, section 2.
fn is_spiffe(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(SPIFFE) else { return false };
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or_default();
    let domain_byte = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    let path_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=255).contains(&domain.len())
        && domain.bytes().all(domain_byte)
        && parts.all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(path_byte))
}

fn is_dns(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Which certificate a revocation list names: its issuer's name and its serial, both as encoded.
pub(super) type SerialOfIssuer = (Vec<u8>, Vec<u8>);

/// A verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    sans: Vec<San>,
    fingerprint: [u8; 32],
    ca_fingerprint: [u8; 32],
    not_before_ms: u64,
    not_after_ms: u64,
    pub(super) serials: Vec<SerialOfIssuer>,
}

impl PeerIdentity {
    /// Reads a chain that was verified up to the CA of this fingerprint and last date.
    pub(super) fn of_verified(
        chain: &[CertificateDer<'_>],
        ca_fingerprint: [u8; 32],
        ca_not_after_ms: u64,
    ) -> Result<Self, CertificateRefused> {
        let leaf = chain.first().ok_or(CertificateRefused::Malformed)?;
        let certificate = parse(leaf)?;
        let (not_before_ms, not_after_ms) = dates_ms(&certificate);
        Ok(Self {
            sans: sans(&certificate)?,
            fingerprint: sha256(leaf),
            ca_fingerprint,
            not_before_ms,
            not_after_ms: not_after_ms.min(ca_not_after_ms),
            serials: chain.iter().map(|der| parse(der).map(|it| serial(&it))).collect::<Result<_, _>>()?,
        })
    }

    /// Every name of the certificate that can identify a caller, as it stands there.
    pub fn sans(&self) -> &[San] {
        &self.sans
    }

    /// The SHA-256 of the certificate.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// The SHA-256 of the configured CA certificate that it was verified against.
    pub fn ca_fingerprint(&self) -> &[u8; 32] {
        &self.ca_fingerprint
    }

    /// The last millisecond at which it and its CA are valid, since 1970.
    pub fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }

    /// Whether a time, in milliseconds since 1970, is within its dates.
    pub fn valid_at(&self, now_ms: u64) -> bool {
        (self.not_before_ms..=self.not_after_ms).contains(&now_ms)
    }

    pub(super) fn begins_after(&self, now_ms: u64) -> bool {
        now_ms < self.not_before_ms
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// First and last millisecond of a certificate, since 1970; its last second counts whole.
pub(super) fn dates_ms(certificate: &X509Certificate<'_>) -> (u64, u64) {
    let millis = |seconds: i64| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
    let validity = certificate.validity();
    (millis(validity.not_before.timestamp()), millis(validity.not_after.timestamp()).saturating_add(999))
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateRefused> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateRefused::Malformed),
    }
}

fn serial(certificate: &X509Certificate<'_>) -> SerialOfIssuer {
    (certificate.issuer().as_raw().to_vec(), certificate.raw_serial().to_vec())
}

/// The names of a certificate. Other URIs and kinds of names identify nobody and are left out.
pub(super) fn sans(certificate: &X509Certificate<'_>) -> Result<Vec<San>, CertificateRefused> {
    let extension = certificate.subject_alternative_name().map_err(|_| CertificateRefused::Malformed)?;
    let Some(extension) = extension else { return Ok(Vec::new()) };
    let mut sans = Vec::new();
    let mut spiffe = 0;
    for name in &extension.value.general_names {
        let san = match name {
            // The scheme in another case would be a second spelling of the same workload.
            GeneralName::URI(uri) if uri.to_ascii_lowercase().starts_with("spiffe:") => {
                spiffe += 1;
                San::SpiffeUri((*uri).to_owned())
            }
            GeneralName::DNSName(dns) => San::Dns((*dns).to_owned()),
            GeneralName::RFC822Name(email) => San::Email((*email).to_owned()),
            GeneralName::Invalid(..) => return Err(CertificateRefused::BadName),
            _ => continue,
        };
        match san {
            San::SpiffeUri(_) if !san.is_well_formed() => return Err(CertificateRefused::BadName),
            // A wildcard or upper-case host is common in certificates and matches no principal.
            _ if san.is_well_formed() => sans.push(san),
            _ => {}
        }
    }
    if spiffe > 1 {
        return Err(CertificateRefused::SeveralSpiffeUris { found: spiffe });
    }
    Ok(sans)
}

#[cfg(test)]
mod tests {
    use super::San;

    #[test]
    fn one_spelling_of_each_name() {
        let good = [
            San::SpiffeUri("spiffe://example.org/service/Shop_1".into()),
            San::SpiffeUri("spiffe://example.org".into()),
            San::Dns("shop.example.org".into()),
            San::Email("Jo@example.org".into()),
        ];
        assert!(good.iter().all(San::is_well_formed));
        let bad = [
            "spiffe://Example.org/a",
            "spiffe://example.org/",
            "spiffe://example.org/a//b",
            "spiffe://example.org/../a",
            "spiffe://example.org/%61",
            "spiffe://example.org:1/a",
            "spiffe:///a",
            "SPIFFE://example.org/a",
            "spiffe://example.org/a ",
            "https://example.org",
        ];
        assert!(bad.iter().all(|text| !San::SpiffeUri((*text).into()).is_well_formed()));
        let bad = ["*.example.org", "Example.org", "example.org.", "", "a..b", "-a", "a\u{e9}", "a b"];
        assert!(bad.iter().all(|text| !San::Dns((*text).into()).is_well_formed()));
        let bad = ["@example.org", "jo", "jo@", "jo@a@b", "jo@Example.org"];
        assert!(bad.iter().all(|text| !San::Email((*text).into()).is_well_formed()));
    }
}
