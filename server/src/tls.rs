//! TLS for callers: an own rustls acceptor. Invariant: TLS 1.3 and HTTP/2 only; a client certificate is optional, but
//! one that is shown must chain to a configured CA, be in date, made for clients and not revoked, or the handshake fails.
//!
//! Absent on purpose: session resumption (it would skip the check of the certificate), system roots, OCSP.

mod anchor;
mod dates;
mod error;
mod identity;
mod load;
mod reload;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use error::{CertificateRefused, TlsError};
pub use identity::{PeerIdentity, San};
pub use reload::{PeerRefused, TlsReloader, TlsState};

/// The one cryptographic provider of the process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Makes [`provider`] the default of libraries that ask for one; a second call changes nothing.
pub fn install_provider() {
    // An error says that a default is set already, by an earlier call.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}
