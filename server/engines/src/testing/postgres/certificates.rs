//! A certificate authority for one server, and good and flawed certificates of it.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use super::ServerError;

/// What the server shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// A good one for `localhost`.
    Good,
    /// One for `db.example.com`.
    OtherName,
    /// One that ended long ago.
    Expired,
    /// One by an authority that nobody was told of.
    OtherAuthority,
    /// None: it does no TLS.
    None,
}

pub(super) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

/// A certificate and its key, PEM.
pub(super) struct Issued {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn create() -> Result<Self, ServerError> {
        Self::named("database CA")
    }

    fn named(name: &str) -> Result<Self, ServerError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { params, key, pem })
    }

    pub(super) fn pem(&self) -> String {
        self.pem.clone()
    }

    pub(super) fn issue(&self, certificate: Certificate) -> Result<Issued, ServerError> {
        if certificate == Certificate::OtherAuthority {
            return Self::named("another CA")?.issue(Certificate::Good);
        }
        let name = if certificate == Certificate::OtherName { "db.example.com" } else { "localhost" };
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, "database");
        if certificate == Certificate::Expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate()?;
        let issued = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key))?;
        Ok(Issued { certificate: issued.pem(), key: key.serialize_pem() })
    }
}
