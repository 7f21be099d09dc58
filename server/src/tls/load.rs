//! Reads certificate files. Invariant: a private key that every user may read is refused, a trust anchor is a CA,
//! and a file with no entry is an error.
//!
//! Absent on purpose: system roots and any place but the configured files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::error::TlsError;
use super::identity::SerialOfIssuer;
use super::verify::check_ca;

pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::NotPem { path: path.to_owned(), what: "certificates", source })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), what: "certificate" });
    }
    Ok(certificates)
}

pub(super) fn trust_anchors(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let anchors = certificates(path)?;
    for (index, anchor) in anchors.iter().enumerate() {
        let entry = index + 1;
        check_ca(anchor).map_err(|source| TlsError::Certificate { path: path.to_owned(), entry, source })?;
    }
    Ok(anchors)
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let io = |source| TlsError::Read { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(io)?.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(TlsError::KeyNotPrivate { path: path.to_owned(), mode });
    }
    let bytes = zeroize::Zeroizing::new(read(path)?);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|source| TlsError::NotPem {
        path: path.to_owned(),
        what: "a private key",
        source,
    })
}

/// The lists, and every certificate that they revoke.
pub(super) type Crls = (Vec<CertificateRevocationListDer<'static>>, Vec<SerialOfIssuer>);

pub(super) fn crls(paths: &[impl AsRef<Path>]) -> Result<Crls, TlsError> {
    let (mut lists, mut revoked) = (Vec::new(), Vec::new());
    for path in paths {
        let path = path.as_ref();
        for (index, der) in crl_entries(path)?.into_iter().enumerate() {
            let bad = || TlsError::Crl { path: path.to_owned(), entry: index + 1 };
            let Ok(([], list)) = CertificateRevocationList::from_der(&der) else { return Err(bad()) };
            let issuer = list.issuer().as_raw();
            revoked.extend(
                list.iter_revoked_certificates().map(|it| (issuer.to_vec(), it.raw_serial().to_vec())),
            );
            lists.push(der.clone());
        }
    }
    Ok((lists, revoked))
}

fn crl_entries(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let bytes = read(path)?;
    // DER begins with a SEQUENCE, PEM with text.
    if bytes.first() == Some(&0x30) {
        return Ok(vec![CertificateRevocationListDer::from(bytes)]);
    }
    let what = "certificate revocation lists";
    let lists = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::NotPem { path: path.to_owned(), what, source })?;
    if lists.is_empty() {
        return Err(TlsError::Empty { path: path.to_owned(), what: "certificate revocation list" });
    }
    Ok(lists)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}
