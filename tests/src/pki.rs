//! A private certificate authority, with good certificates and flawed ones. Invariant: keys live in the test's own
//! directory, 0600. Dates are taken from the machine's clock, as the TLS library's are.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls_pki_types::UnixTime;

const HOUR: Duration = Duration::from_secs(3600);
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// A CA and what it issues.
pub struct Pki {
    dir: PathBuf,
    params: CertificateParams,
    key: KeyPair,
    issued: AtomicU32,
}

impl Pki {
    /// A CA whose files lie in `dir`, with a server certificate for localhost.
    pub fn create(dir: &Path) -> Self {
        Self::named("test CA", dir)
    }

    fn named(name: &str, dir: &Path) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut params = params(name, Vec::new(), None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pki = Self {
            dir: dir.to_owned(),
            params,
            key: KeyPair::generate().unwrap(),
            issued: AtomicU32::new(0),
        };
        write(&pki.ca(), &pki.params.self_signed(&pki.key).unwrap().pem());
        pki.renew_server();
        pki
    }

    /// The CA's certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The server's certificate and key.
    pub fn server(&self) -> Identity {
        Identity { cert: self.dir.join("server.pem"), key: self.dir.join("server.key") }
    }

    /// Writes a new certificate and key for the server over the old ones, and says the certificate's DER.
    pub fn renew_server(&self) -> Vec<u8> {
        let names = vec![
            SanType::DnsName(ia5("localhost")),
            SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
        ];
        let params = params("test server", names, Some(ExtendedKeyUsagePurpose::ServerAuth));
        self.issue(&self.server(), &params)
    }

    /// A client's certificate with this SPIFFE id.
    pub fn client(&self, spiffe: &str) -> Identity {
        self.client_with(spiffe, |_| ())
    }

    /// A client's certificate with anything changed.
    pub fn client_with(&self, spiffe: &str, edit: impl FnOnce(&mut CertificateParams)) -> Identity {
        let names = vec![SanType::URI(ia5(spiffe))];
        let mut params = params("test client", names, Some(ExtendedKeyUsagePurpose::ClientAuth));
        edit(&mut params);
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let file = |extension: &str| self.dir.join(format!("client-{number}.{extension}"));
        let identity = Identity { cert: file("pem"), key: file("key") };
        self.issue(&identity, &params);
        identity
    }

    /// A client's certificate that ended an hour ago.
    pub fn expired(&self, spiffe: &str) -> Identity {
        self.client_with(spiffe, |params| dates(params, now() - 2 * HOUR, now() - HOUR))
    }

    /// A client's certificate for servers only.
    pub fn server_only(&self, spiffe: &str) -> Identity {
        self.client_with(spiffe, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// Writes `ca.crl`: what the CA has revoked, by serial.
    pub fn revoke(&self, serials: &[u64]) {
        let epoch = date_time_ymd(1970, 1, 1);
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: epoch + (now() - HOUR),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: epoch + (now() - HOUR),
            next_update: epoch + (now() + LIFE),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&Issuer::from_params(&self.params, &self.key)).unwrap();
        write(&self.dir.join("ca.crl"), &list.pem().unwrap());
    }

    /// A client's certificate with this SPIFFE id, issued by a CA that nobody knows.
    pub fn stranger(&self, spiffe: &str) -> Identity {
        Self::named("another CA", &self.beside()).client(spiffe)
    }

    /// The same, issued by a CA that took over the name of this one.
    pub fn impostor(&self, spiffe: &str) -> Identity {
        Self::create(&self.beside()).client(spiffe)
    }

    fn beside(&self) -> PathBuf {
        self.dir.join(format!("ca-{}", self.issued.fetch_add(1, Ordering::Relaxed)))
    }

    fn issue(&self, identity: &Identity, params: &CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key)).unwrap();
        write(&identity.cert, &certificate.pem());
        write(&identity.key, &key.serialize_pem());
        certificate.der().to_vec()
    }
}

/// Sets from when until when a certificate holds, since 1970.
pub fn dates(params: &mut CertificateParams, from: Duration, until: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + from;
    params.not_after = epoch + until;
}

/// The machine's time since 1970, as TLS sees it.
pub fn now() -> Duration {
    Duration::from_secs(UnixTime::now().as_secs())
}

fn params(name: &str, names: Vec<SanType>, usage: Option<ExtendedKeyUsagePurpose>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usage.into_iter().collect();
    dates(&mut params, now() - HOUR, now() + LIFE);
    params
}

fn ia5(text: &str) -> Ia5String {
    Ia5String::try_from(text).unwrap()
}

fn write(path: &Path, text: &str) {
    // Written beside and renamed, so that a server that reloads sees whole files.
    let fresh = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    std::fs::rename(&fresh, path).unwrap();
}
