//! Serves connections, each in a task of its own, and ends them. Invariant: no connection outlives for long the sealing of
//! the vault, or a call that brought a share or a PIN: what passed through it lies in the buffers of TLS and HTTP/2 until
//! they are freed, and wiped.
//!
//! A connection ends as HTTP/2 has it: its caller is told to make new calls elsewhere, and calls under way get their
//! answers. What does not end so is cut off.

use std::convert::Infallible;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use super::{Connection, Incoming};
use crate::config::Limits;

/// How long answers have to leave once nothing works on them any more: a caller who takes none by then is away, or
/// follows a stream that has no end.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Who enters several shares in a row does so over one connection: a call that is made at the very moment at which one ends
/// may be lost on the way.
const AFTER_LAST_CALL: Duration = Duration::from_secs(1);

/// Ends connections.
pub struct Ends {
    stopping: CancellationToken,
    cut: CancellationToken,
    term: ArcSwap<Term>,
}

/// Connections that end together.
struct Term {
    /// Answers are given, and no more calls taken.
    over: CancellationToken,
    /// No more answers are given.
    cut: CancellationToken,
}

impl Ends {
    /// All connections begin to end with `stopping`.
    pub fn new(stopping: CancellationToken) -> Self {
        let cut = CancellationToken::new();
        let term = ArcSwap::from_pointee(Term::within(&stopping, &cut));
        Self { stopping, cut, term }
    }

    /// Begins to end the connections that there are. What is returned cuts off those of them that are left.
    pub fn end(&self) -> CancellationToken {
        let ended = self.term.swap(Arc::new(Term::within(&self.stopping, &self.cut)));
        ended.over.cancel();
        ended.cut.clone()
    }

    /// Cuts all connections off.
    pub fn cut_off(&self) {
        self.cut.cancel();
    }
}

impl Term {
    fn within(stopping: &CancellationToken, cut: &CancellationToken) -> Self {
        Self { over: stopping.child_token(), cut: cut.child_token() }
    }
}

/// Serves what comes in, until it ends and no connection is left. Soon after a call of a path that `is_last` says so of,
/// its connection ends.
pub async fn serve<S, B>(
    mut incoming: Incoming,
    service: S,
    is_last: fn(&str) -> bool,
    limits: &Limits,
    ends: &Ends,
) where
    S: Service<Request<hyper::body::Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let http2 = http2(limits);
    // Whatever else is under way on a connection is answered by then, but streams.
    let patience = limits.request_timeout;
    let tasks = TaskTracker::new();
    while let Some(connection) = incoming.next().await {
        let Ok(connection) = connection else { continue };
        let term = ends.term.load_full();
        tasks.spawn(serve_one(connection, service.clone(), is_last, http2.clone(), term, patience));
    }
    tasks.close();
    tasks.wait().await;
}

async fn serve_one<S, B>(
    connection: Connection,
    service: S,
    is_last: fn(&str) -> bool,
    http2: http2::Builder<TokioExecutor>,
    term: Arc<Term>,
    patience: Duration,
) where
    S: Service<Request<hyper::body::Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (over, was_last) = (term.over.child_token(), CancellationToken::new());
    let (peer, last) = (connection.peer.clone(), was_last.clone());
    let answer = service_fn(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer.clone());
        // Dropped with the answer, or without one.
        let last = is_last(request.uri().path()).then(|| last.clone().drop_guard());
        let answer = service.clone().oneshot(request);
        async move {
            let answer = answer.await;
            drop(last);
            answer
        }
    });
    let mut serving = pin!(http2.serve_connection(TokioIo::new(connection), answer));
    let soon_after = async {
        was_last.cancelled().await;
        tokio::time::sleep(AFTER_LAST_CALL).await;
    };
    let ended = tokio::select! {
        () = over.cancelled() => None,
        () = soon_after => None,
        ended = &mut serving => Some(ended),
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            tokio::select! {
                ended = &mut serving => ended,
                () = term.cut.cancelled() => return,
                () = tokio::time::sleep(patience), if !term.over.is_cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        let error: &(dyn Error + 'static) = &error;
        tracing::debug!(error, "a connection broke off");
    }
}

/// HTTP/2 within the limits.
fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(limits.max_header_bytes)
        // A peer that resets streams faster than they are taken up loses its connection (CVE-2023-44487).
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(64)
        // A peer that is gone gives its place back within half a minute.
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    http2
}

#[cfg(test)]
mod tests;
