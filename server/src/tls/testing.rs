//! Certificates for tests: a CA, leaves with any flaw, revocation lists, and a client to show them.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};

use crate::config::TlsConfig;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn now() -> Duration {
    Duration::from_secs(UnixTime::now().as_secs())
}

/// The serial of every intermediate.
pub(crate) const INTERMEDIATE: u64 = 77;

pub(crate) struct TestCa {
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
}

pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

impl TestCa {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    pub(crate) fn with(name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        dates(&mut params, now() - HOUR, now() + HOUR);
        edit(&mut params);
        Self { params, key: KeyPair::generate().unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.params.self_signed(&self.key).unwrap().pem()
    }

    pub(crate) fn leaf(&self, serial: u64, edit: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![uri("spiffe://test/service/shop")];
        dates(&mut params, now() - HOUR, now() + HOUR);
        edit(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Leaf { chain: vec![certificate.der().clone()], key }
    }

    /// A CA under this one, and its certificate.
    pub(crate) fn intermediate(&self, name: &str) -> (Self, CertificateDer<'static>) {
        let below = Self::with(name, |params| params.serial_number = Some(SerialNumber::from(INTERMEDIATE)));
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = below.params.signed_by(&below.key, &issuer).unwrap();
        (below, certificate.der().clone())
    }

    pub(crate) fn crl(&self, revoked: &[u64], until: Duration) -> String {
        let epoch = date_time_ymd(1970, 1, 1);
        let entry = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: epoch + (now() - HOUR),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: epoch + (now() - 2 * HOUR),
            next_update: epoch + until,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(&issuer).unwrap().pem().unwrap()
    }
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

pub(crate) fn dates(params: &mut CertificateParams, from: Duration, until: Duration) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + from;
    params.not_after = epoch + until;
}

/// The files of a server whose own certificate comes from `server_ca`.
pub(crate) fn files(dir: &Path, server_ca: &TestCa, client_cas: &[&TestCa], crls: &[String]) -> TlsConfig {
    let server = server_ca.leaf(1, |params| {
        params.subject_alt_names = vec![SanType::DnsName(Ia5String::try_from("localhost").unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let config = TlsConfig {
        cert_file: dir.join("server.pem"),
        key_file: dir.join("server.key"),
        client_ca_file: dir.join("ca.pem"),
        crl_files: crls.iter().enumerate().map(|(index, _)| dir.join(format!("{index}.crl"))).collect(),
    };
    write(&config.cert_file, &pem("CERTIFICATE", &server.chain[0]));
    write(&config.key_file, &server.key.serialize_pem());
    write(&config.client_ca_file, &client_cas.iter().map(|ca| ca.pem()).collect::<String>());
    for (file, crl) in config.crl_files.iter().zip(crls) {
        write(file, crl);
    }
    config
}

pub(crate) fn write(path: &Path, text: &str) {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    io::Write::write_all(&mut file, text.as_bytes()).unwrap();
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// A client that trusts `server_ca` and shows `leaf`.
pub(crate) fn client(server_ca: &TestCa, leaf: Option<&Leaf>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server_ca.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(Arc::new(roots));
    let mut config = match leaf {
        None => builder.with_no_client_auth(),
        Some(leaf) => {
            let key = PrivateKeyDer::try_from(leaf.key.serialize_der()).unwrap();
            builder.with_client_auth_cert(leaf.chain.clone(), key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

pub(crate) fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}
