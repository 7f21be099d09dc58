//! The bare server: the rpc of a read with the same messages, TLS settings and client certificates, answered with a
//! constant 1 KiB. What it reaches is the limit for any vault over gRPC on this machine.
//!
//! Invariant: it ends when its standard input does, so that it never outlives the program that started it.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use keystead_proto::v1::secrets_service_server::{SecretsService, SecretsServiceServer};
use keystead_proto::v1::{
    BatchGetSecretsRequest, BatchGetSecretsResponse, DeleteSecretVersionsRequest,
    DeleteSecretVersionsResponse, DestroySecretVersionsRequest, DestroySecretVersionsResponse,
    GetSecretHistoryRequest, GetSecretHistoryResponse, GetSecretRequest, GetSecretResponse,
    ListSecretsRequest, ListSecretsResponse, PutSecretRequest, PutSecretResponse, SecretValue, SecretVersion,
    UndeleteSecretVersionsRequest, UndeleteSecretVersionsResponse, secret_value,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use crate::load::VALUE_BYTES;

/// Serves until standard input ends; the first line of standard output is its address.
pub(crate) async fn serve(tls: &Path) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(config(tls)?));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    let (sender, incoming) = mpsc::channel(64);
    let accepting = tokio::spawn(accept(listener, acceptor, sender));
    let (told, end) = oneshot::channel();
    std::thread::spawn(move || {
        // An error is an end too, and so is a server that ended before.
        drop(io::stdin().read(&mut [0]));
        let _ = told.send(());
    });
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .add_service(SecretsServiceServer::new(Bare))
        .serve_with_incoming_shutdown(ReceiverStream::new(incoming), async {
            drop(end.await);
            accepting.abort();
        })
        .await?;
    Ok(())
}

type Incoming = io::Result<Stream>;

/// A connection as tonic takes it.
struct Stream(TlsStream<TcpStream>);

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, sender: mpsc::Sender<Incoming>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            if stream.set_nodelay(true).is_ok()
                && let Ok(stream) = acceptor.accept(stream).await
            {
                // A server that takes no more connections is ending.
                drop(sender.send(Ok(Stream(stream))).await);
            }
        });
    }
}

fn config(tls: &Path) -> Result<ServerConfig> {
    let file = |name: &str| tls.join(name);
    let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>> {
        let path = file(name);
        CertificateDer::pem_file_iter(&path)
            .and_then(Iterator::collect)
            .with_context(|| format!("cannot read {}", path.display()))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("ca.pem")? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let callers =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(callers)
        .with_single_cert(certificates("server.pem")?, PrivateKeyDer::from_pem_file(file("server.key"))?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Answers reads, and nothing else.
struct Bare;

type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("the bare server only reads"))
}

#[tonic::async_trait]
impl SecretsService for Bare {
    async fn get_secret(&self, _: Request<GetSecretRequest>) -> Answer<GetSecretResponse> {
        let version = SecretVersion {
            version: 1,
            state: 1,
            created_by: "operator/bench".to_owned(),
            size_bytes: u32::try_from(VALUE_BYTES).unwrap_or(u32::MAX),
            ..SecretVersion::default()
        };
        let value = SecretValue { value: Some(secret_value::Value::Data(vec![b'x'; VALUE_BYTES])) };
        Ok(Response::new(GetSecretResponse { version: Some(version), value: Some(value) }))
    }

    async fn put_secret(&self, _: Request<PutSecretRequest>) -> Answer<PutSecretResponse> {
        not_here()
    }

    async fn batch_get_secrets(&self, _: Request<BatchGetSecretsRequest>) -> Answer<BatchGetSecretsResponse> {
        not_here()
    }

    async fn list_secrets(&self, _: Request<ListSecretsRequest>) -> Answer<ListSecretsResponse> {
        not_here()
    }

    async fn get_secret_history(
        &self,
        _: Request<GetSecretHistoryRequest>,
    ) -> Answer<GetSecretHistoryResponse> {
        not_here()
    }

    async fn delete_secret_versions(
        &self,
        _: Request<DeleteSecretVersionsRequest>,
    ) -> Answer<DeleteSecretVersionsResponse> {
        not_here()
    }

    async fn undelete_secret_versions(
        &self,
        _: Request<UndeleteSecretVersionsRequest>,
    ) -> Answer<UndeleteSecretVersionsResponse> {
        not_here()
    }

    async fn destroy_secret_versions(
        &self,
        _: Request<DestroySecretVersionsRequest>,
    ) -> Answer<DestroySecretVersionsResponse> {
        not_here()
    }
}
