//! `/metrics` on a listener of its own. Invariant: loopback only (the configuration refuses else), few connections at
//! a time, and one path.
//!
//! Absent on purpose: TLS and authentication; what is shown holds no secret and no name of anybody's data.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ServerMetrics;

/// Why metrics cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// The address cannot be bound.
    #[error("cannot listen on {address} (metrics.listen)")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// The bound listener.
#[derive(Debug)]
pub struct MetricsListener {
    listener: TcpListener,
    address: SocketAddr,
}

const CONNECTIONS: usize = 8;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
// Samples wait in memory until they are drained.
const DRAIN_EVERY: Duration = Duration::from_secs(5);
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

impl MetricsListener {
    /// Binds the address; port 0 takes a free one.
    pub async fn bind(address: SocketAddr) -> Result<Self, ScrapeError> {
        let failed = |source| ScrapeError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// The address that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`.
    pub async fn serve(self, metrics: Arc<ServerMetrics>, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut drain = tokio::time::interval(DRAIN_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = drain.tick() => metrics.drain(),
                accepted = self.listener.accept() => {
                    let Ok((stream, _)) = accepted else {
                        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                        continue;
                    };
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                    let metrics = Arc::clone(&metrics);
                    let stop = stop.clone();
                    tasks.spawn(async move {
                        let answer = service_fn(|request| std::future::ready(answer(&metrics, &request)));
                        let connection = http1::Builder::new()
                            .timer(TokioTimer::new())
                            .header_read_timeout(HEADER_TIMEOUT)
                            .serve_connection(TokioIo::new(stream), answer);
                        // A scraper that breaks off is its own business.
                        tokio::select! {
                            () = stop.cancelled() => {}
                            _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection) => {}
                        }
                        drop(place);
                    });
                }
            }
        }
    }
}

fn answer(metrics: &ServerMetrics, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, metrics.render()),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        _ => (StatusCode::NOT_FOUND, String::new()),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let text = header::HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn fetch(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn shows_metrics_on_one_path_and_stops() {
        let listener = MetricsListener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr();
        let metrics = Arc::new(ServerMetrics::new(["/a.B/C".to_owned()]).unwrap());
        metrics.sealed.set(1.0);
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener.serve(metrics, stop.clone()));
        let rest = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert!(fetch(address, &format!("GET /metrics {rest}")).await.contains("keystead_sealed 1"));
        assert!(fetch(address, &format!("GET / {rest}")).await.starts_with("HTTP/1.1 404"));
        assert!(fetch(address, &format!("DELETE /metrics {rest}")).await.starts_with("HTTP/1.1 405"));
        stop.cancel();
        serving.await.unwrap();
    }
}
