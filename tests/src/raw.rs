//! Channels without the client: for generated gRPC clients, and to send what the client would not.

use std::io;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::pki::Identity;
use crate::site::Site;

/// A channel over TLS 1.3 that connects with the first call.
pub fn channel(site: &Site, identity: Option<&Identity>) -> Channel {
    connecting(endpoint(), site, identity)
}

/// The same for a caller who takes so many bytes of an answer and then waits until they are read.
pub fn narrow_channel(site: &Site, identity: &Identity, window: u32) -> Channel {
    connecting(endpoint().initial_stream_window_size(window), site, Some(identity))
}

fn connecting(endpoint: Endpoint, site: &Site, identity: Option<&Identity>) -> Channel {
    let config = Arc::new(tls_config(site, identity));
    let address = site.address();
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let config = Arc::clone(&config);
        async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            TlsConnector::from(config).connect(name, tcp).await.map(TokioIo::new)
        }
    }))
}

/// A channel over the local socket that connects with the first call.
pub fn local_channel(site: &Site) -> Channel {
    let socket = site.socket();
    endpoint().connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }))
}

/// One TLS 1.3 handshake.
pub async fn handshake(site: &Site, identity: Option<&Identity>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(site.address()).await?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    TlsConnector::from(Arc::new(tls_config(site, identity))).connect(name, tcp).await
}

fn tls_config(site: &Site, identity: Option<&Identity>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.pki().ca()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = vec![CertificateDer::from_pem_file(&identity.cert).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&identity.key).unwrap())
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn endpoint() -> Endpoint {
    // The scheme is plain because tonic is not to add TLS of its own.
    Endpoint::from_static("http://localhost").timeout(crate::PATIENCE)
}
