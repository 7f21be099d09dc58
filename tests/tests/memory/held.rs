//! A read whose answer is not taken: the server has to hold the value.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use keystead_proto::v1;
use keystead_proto::v1::secrets_service_client::SecretsServiceClient;
use keystead_tests::{Identity, PATIENCE, Site, raw};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt;

/// Of each answer, as many bytes are taken.
const WINDOW: u32 = 16;

/// An answer that waits in the server until this is dropped; the connection closes with it.
pub(crate) struct HeldRead {
    call: JoinHandle<()>,
    _answer: http::Response<Body>,
}

impl HeldRead {
    /// Reads a secret as far as the head of the answer.
    pub(crate) async fn begin(site: &Site, identity: &Identity, path: &str) -> Self {
        let stream = raw::handshake(site, Some(identity)).await.unwrap();
        let stream = Mutex::new(Some(TokioIo::new(stream)));
        let channel = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(WINDOW)
            .timeout(PATIENCE)
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let stream = stream.lock().unwrap().take();
                async move { stream.ok_or(io::Error::from(io::ErrorKind::NotConnected)) }
            }));
        let (hand_over, handed) = oneshot::channel();
        let hand_over = Arc::new(Mutex::new(Some(hand_over)));
        let parked = tower::service_fn(move |request| park(channel.clone(), request, Arc::clone(&hand_over)));
        let request = v1::GetSecretRequest { path: path.to_owned(), version: 0 };
        let call = tokio::spawn(async move {
            drop(SecretsServiceClient::new(parked).get_secret(request).await);
        });
        let answer = tokio::time::timeout(PATIENCE, handed).await.unwrap().unwrap();
        assert_eq!(answer.headers().get("grpc-status"), None, "the read was refused");
        Self { call, _answer: answer }
    }
}

impl Drop for HeldRead {
    fn drop(&mut self) {
        self.call.abort();
    }
}

type HandOver = Arc<Mutex<Option<oneshot::Sender<http::Response<Body>>>>>;

/// Hands the answer over and never gives it to the client.
async fn park(
    channel: Channel,
    request: http::Request<Body>,
    hand_over: HandOver,
) -> Result<http::Response<Body>, Infallible> {
    let answer = channel.oneshot(request).await.unwrap();
    let hand_over = hand_over.lock().unwrap().take();
    hand_over.unwrap().send(answer).unwrap();
    pending().await
}
