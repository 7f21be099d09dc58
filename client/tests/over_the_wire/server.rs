//! A stand-in for a vault: real TLS 1.3 or a real socket, answers from a script, and a record of what was asked.

use std::collections::VecDeque;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use keystead_client::v1;
use keystead_client::v1::secrets_service_server::{SecretsService, SecretsServiceServer};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// What a fake vault answers next; without an answer left, a secret.
#[derive(Clone, Default)]
pub(crate) struct Script {
    pub(crate) answers: Arc<Mutex<VecDeque<Status>>>,
    pub(crate) request_ids: Arc<Mutex<Vec<String>>>,
    pub(crate) headers: Arc<Mutex<Vec<(String, String)>>>,
    pub(crate) hang: bool,
}

impl Script {
    pub(crate) fn failing(answers: impl IntoIterator<Item = Status>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() }
    }

    async fn next<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let header = |name: &str| {
            request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        self.headers.lock().unwrap().push((header("authorization"), header("grpc-timeout")));
        if self.hang {
            std::future::pending::<()>().await;
        }
        self.answers.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }
}

pub(crate) struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Certificate and key as PEM.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        let (certificate, key) = self.sign(name);
        (certificate.pem(), key.serialize_pem())
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// Serves over TLS for clients of `ca`, with a certificate for `name`; returns the port.
pub(crate) async fn serve_tls(ca: &Ca, name: &str, alpn: &[u8], script: Script) -> u16 {
    let (certificate, key) = ca.sign(name);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.issuer.der().clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(tls) = acceptor.accept(tcp).await {
                sender.send(Ok::<_, std::io::Error>(Io(tls))).await.unwrap();
            }
        }
    });
    serve(tokio_stream::wrappers::ReceiverStream::new(receiver), script);
    port
}

/// Serves on a socket.
pub(crate) fn serve_unix(path: &Path, script: Script) {
    let listener = UnixListener::bind(path).unwrap();
    serve(tokio_stream::wrappers::UnixListenerStream::new(listener), script);
}

fn serve<S, I>(incoming: S, script: Script)
where
    S: tokio_stream::Stream<Item = std::io::Result<I>> + Send + 'static,
    I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let server = tonic::transport::Server::builder().add_service(SecretsServiceServer::new(Fake(script)));
    tokio::spawn(server.serve_with_incoming(incoming));
}

struct Io<S>(S);

impl<S> Connected for Io<S> {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

struct Fake(Script);

macro_rules! unimplemented_rpcs {
    ($($rpc:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl SecretsService for Fake {
            async fn get_secret(
                &self,
                request: Request<v1::GetSecretRequest>,
            ) -> Result<Response<v1::GetSecretResponse>, Status> {
                self.0.next(&request).await?;
                Ok(Response::new(v1::GetSecretResponse { version: Some(version()), value: Some(value()) }))
            }

            async fn put_secret(
                &self,
                request: Request<v1::PutSecretRequest>,
            ) -> Result<Response<v1::PutSecretResponse>, Status> {
                self.0.request_ids.lock().unwrap().push(request.get_ref().request_id.clone());
                self.0.next(&request).await?;
                Ok(Response::new(v1::PutSecretResponse { version: Some(version()) }))
            }

            async fn delete_secret_versions(
                &self,
                request: Request<v1::DeleteSecretVersionsRequest>,
            ) -> Result<Response<v1::DeleteSecretVersionsResponse>, Status> {
                self.0.next(&request).await?;
                Ok(Response::new(v1::DeleteSecretVersionsResponse { versions: vec![version()] }))
            }

            $(async fn $rpc(
                &self,
                _: Request<v1::$request>,
            ) -> Result<Response<v1::$response>, Status> {
                Err(Status::unimplemented("not in this test"))
            })*
        }
    };
}

unimplemented_rpcs! {
    batch_get_secrets(BatchGetSecretsRequest) -> BatchGetSecretsResponse;
    list_secrets(ListSecretsRequest) -> ListSecretsResponse;
    get_secret_history(GetSecretHistoryRequest) -> GetSecretHistoryResponse;
    undelete_secret_versions(UndeleteSecretVersionsRequest) -> UndeleteSecretVersionsResponse;
    destroy_secret_versions(DestroySecretVersionsRequest) -> DestroySecretVersionsResponse;
}

fn version() -> v1::SecretVersion {
    v1::SecretVersion { version: 1, state: v1::SecretVersionState::Active.into(), ..Default::default() }
}

fn value() -> v1::SecretValue {
    let fields = vec![v1::SecretField { name: "password".into(), value: b"hunter2".to_vec() }];
    v1::SecretValue { value: Some(v1::secret_value::Value::Fields(v1::SecretFields { fields })) }
}
