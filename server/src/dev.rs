//! Certificates for `--dev`: a CA made on the spot, a server, an operator and a service. Invariant: the CA's key is
//! never written; every file is 0600 in a directory of mode 0700; each start makes all of them anew.
//!
//! Absent on purpose: any use in production; the names are under `dev.keystead`.

mod run;

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::env::{CLIENT_ADDR, CLIENT_CACERT, CLIENT_CERT, CLIENT_KEY};

pub use run::serve;

/// The name in the operator's certificate.
pub const OPERATOR_SPIFFE: &str = "spiffe://dev.keystead/operator/dev";
/// The name in the service's certificate.
pub const SERVICE_SPIFFE: &str = "spiffe://dev.keystead/service/dev";

const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
// Clocks of a developer's containers differ a little.
const BACKDATED: Duration = Duration::from_secs(300);

/// Why the certificates cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A file or directory cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
}

/// A certificate and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// Where the certificates are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevFiles {
    /// The CA's certificate, PEM.
    pub ca: PathBuf,
    /// For localhost, 127.0.0.1 and ::1.
    pub server: CertificateFiles,
    /// Named [`OPERATOR_SPIFFE`].
    pub operator: CertificateFiles,
    /// Named [`SERVICE_SPIFFE`].
    pub service: CertificateFiles,
}

impl DevFiles {
    /// Makes all of them in `dir`, where [`crate::config::Config::dev`] looks for them under `tls`.
    pub fn create(dir: &Path, now: Duration) -> Result<Self, DevError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| DevError::Write { path: dir.to_owned(), source })?;
        let ca_key = KeyPair::generate()?;
        let ca_params = ca_params(now);
        let ca = dir.join("ca.pem");
        write(&ca, &ca_params.self_signed(&ca_key)?.pem())?;
        let issuer = Issuer::from_params(&ca_params, &ca_key);

        let localhost = SanType::DnsName(Ia5String::try_from("localhost")?);
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let mut names = vec![localhost];
        names.extend(addresses.map(SanType::IpAddress));
        let server = params("server", names, ExtendedKeyUsagePurpose::ServerAuth, now);
        let client = |name: &str, spiffe: &str| {
            let names = vec![SanType::URI(Ia5String::try_from(spiffe)?)];
            Ok::<_, rcgen::Error>(params(name, names, ExtendedKeyUsagePurpose::ClientAuth, now))
        };
        Ok(Self {
            ca,
            server: issue(dir, "server", &server, &issuer)?,
            operator: issue(dir, "operator", &client("operator", OPERATOR_SPIFFE)?, &issuer)?,
            service: issue(dir, "service", &client("service", SERVICE_SPIFFE)?, &issuer)?,
        })
    }

    /// The environment for the CLI and the client, as lines to paste into a shell.
    pub fn environment(&self, address: SocketAddr, caller: &CertificateFiles) -> String {
        let line = |name: &str, value: &str| format!("export {name}={}\n", quoted(value));
        let path = |name: &str, path: &Path| line(name, &path.display().to_string());
        [
            line(CLIENT_ADDR, &format!("https://localhost:{}", address.port())),
            path(CLIENT_CACERT, &self.ca),
            path(CLIENT_CERT, &caller.cert),
            path(CLIENT_KEY, &caller.key),
        ]
        .concat()
    }
}

fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._:-".contains(&byte);
    if text.bytes().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn ca_params(now: Duration) -> CertificateParams {
    let mut params = params("development CA", Vec::new(), ExtendedKeyUsagePurpose::Any, now);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = Vec::new();
    params
}

fn params(
    name: &str,
    names: Vec<SanType>,
    usage: ExtendedKeyUsagePurpose,
    now: Duration,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("keystead {name}"));
    params.subject_alt_names = names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now.saturating_add(LIFE);
    params
}

fn issue(
    dir: &Path,
    name: &str,
    params: &CertificateParams,
    issuer: &Issuer<'_, &KeyPair>,
) -> Result<CertificateFiles, DevError> {
    let key = KeyPair::generate()?;
    let files =
        CertificateFiles { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
    write(&files.cert, &params.signed_by(&key, issuer)?.pem())?;
    write(&files.key, &zeroize::Zeroizing::new(key.serialize_pem()))?;
    Ok(files)
}

fn write(path: &Path, text: &str) -> Result<(), DevError> {
    let failed = |source| DevError::Write { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Config;
    use crate::tls::TlsReloader;
    use crate::tls::testing::now;

    #[test]
    fn certificates_are_private_and_fit_the_dev_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        DevFiles::create(&tls, now()).unwrap();
        let files = DevFiles::create(&tls, now()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&tls), 0o700);
        for path in [&files.ca, &files.server.key, &files.operator.key, &files.service.cert] {
            assert_eq!(mode(path), 0o600);
        }
        let config = Config::dev(dir.path()).unwrap();
        assert_eq!(config.operators[0].identity.value(), OPERATOR_SPIFFE);
        TlsReloader::load(config.tls).unwrap();
    }

    #[test]
    fn environment_can_be_pasted() {
        let dir = tempfile::tempdir().unwrap();
        let files = DevFiles::create(&dir.path().join("it's"), now()).unwrap();
        let text = files.environment("127.0.0.1:8200".parse().unwrap(), &files.operator);
        assert!(text.starts_with("export KEYSTEAD_ADDR=https://localhost:8200\n"), "{text}");
        assert!(text.contains(r"/it'\''s/operator.pem'"), "{text}");
        assert_eq!(text.lines().count(), 4);
    }
}
