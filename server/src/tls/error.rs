//! What can be wrong with certificates. Invariant: every variant names the file or the property; no key material.

use std::path::PathBuf;

/// Why the certificate files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A private key that others may read.
    #[error("{} may be read by every user (mode {mode:04o}); run chmod 600 on it", path.display())]
    KeyNotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that is not PEM of the kind expected.
    #[error("{} does not hold {what} in PEM", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
        /// What the parser says.
        source: rustls::pki_types::pem::Error,
    },
    /// A file without any entry.
    #[error("{} holds no {what}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// A certificate in a file that must not be used.
    #[error("{} entry {entry} cannot be used", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Counts from 1.
        entry: usize,
        /// Why not.
        source: CertificateRefused,
    },
    /// A revocation list that cannot be parsed.
    #[error("{} entry {entry} is not a certificate revocation list", path.display())]
    Crl {
        /// The file.
        path: PathBuf,
        /// Counts from 1.
        entry: usize,
    },
    /// Key and certificate do not fit, or are of a kind that is not supported.
    #[error("the certificate in {} and the key in {} cannot be used", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The verifier of client certificates cannot be made.
    #[error("the client CAs in {} and the revocation lists cannot be used", path.display())]
    Verifier {
        /// The file of CAs.
        path: PathBuf,
        /// What rustls says.
        source: rustls::server::VerifierBuilderError,
    },
}

/// Why a certificate is refused before or beside the check of its chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefused {
    /// Not X.509, or with trailing bytes, or an extension twice.
    #[error("not a well-formed X.509 certificate")]
    Malformed,
    /// Too big to be looked at.
    #[error("a certificate of {bytes} bytes; at most {most} are looked at")]
    TooBig {
        /// Its size.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// A chain too long to be looked at.
    #[error("a chain of {certificates} certificates; at most {most} are looked at")]
    ChainTooLong {
        /// Its length.
        certificates: usize,
        /// The bound.
        most: usize,
    },
    /// An RSA key whose size is out of bounds.
    #[error("an RSA key of {bits} bits; allowed are {least} to {most}")]
    RsaBits {
        /// Its size.
        bits: usize,
        /// The least allowed.
        least: usize,
        /// The most allowed.
        most: usize,
    },
    /// A certificate that names more than one workload.
    #[error("{found} SPIFFE URIs in one certificate; a workload has one")]
    SeveralSpiffeUris {
        /// How many.
        found: usize,
    },
    /// A name that cannot be compared byte by byte.
    #[error("a subject alternative name that is not in its canonical form")]
    BadName,
    /// A key usage that does not include signing.
    #[error("the key usage does not allow digital signatures")]
    KeyUsage,
    /// The server's certificate before its first date.
    #[error("it is not valid before {begins}")]
    NotYetValid {
        /// Its first moment.
        begins: String,
    },
    /// The server's certificate after its last date.
    #[error("it ended at {ended}")]
    Expired {
        /// Its last moment.
        ended: String,
    },
    /// A trust anchor that is not a CA.
    #[error("not a CA certificate; pinning a leaf would let its holder name itself")]
    NotCa,
}
