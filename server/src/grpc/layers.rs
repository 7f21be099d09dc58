//! What every request passes before its handler: request id, deadline, span, credentials off the wire, panics kept
//! in, counting. Invariant: no header of the caller's reaches a handler; what is needed of them is in extensions, and
//! the token in a type that cannot be printed.
//!
//! Absent on purpose: authentication and authorization, which are the core's; boxed futures.

mod body;
mod future;
mod metadata;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use keystead_domain::id::RequestId;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::status::status;
use crate::listener::Peer;
use crate::telemetry::ServerMetrics;

pub use body::CountedBody;
pub use future::FrontFuture;
pub use metadata::PresentedToken;

/// What is known of a request besides its message; in its extensions.
#[derive(Debug, Clone)]
pub struct RequestMeta {
    /// The caller's id for it, or one made here. Also in the answer's `x-request-id`.
    pub request_id: RequestId,
    /// The W3C trace id, as 32 lower-case hexadecimal digits, if a well-formed `traceparent` came.
    pub trace_id: Option<String>,
    /// When it arrived.
    pub arrived: Instant,
    /// When its time is up: the caller's `grpc-timeout`, at most the server's.
    pub deadline: Instant,
}

/// Makes [`Front`]s.
#[derive(Debug, Clone)]
pub struct FrontLayer {
    request_timeout: Duration,
    metrics: Arc<ServerMetrics>,
}

impl FrontLayer {
    /// A layer around all services. The timeout bounds every request until its first byte of answer.
    pub fn new(request_timeout: Duration, metrics: Arc<ServerMetrics>) -> Self {
        Self { request_timeout, metrics }
    }
}

impl<S> Layer<S> for FrontLayer {
    type Service = Front<S>;

    fn layer(&self, inner: S) -> Front<S> {
        Front { inner, layer: self.clone() }
    }
}

/// A service behind the front.
#[derive(Debug, Clone)]
pub struct Front<S> {
    inner: S,
    layer: FrontLayer,
}

// The answer that the time is up must reach the caller before its own clock says so.
const MARGIN: Duration = Duration::from_millis(5);

impl<S, B, R> Service<Request<B>> for Front<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: http_body::Body + Default,
{
    type Response = Response<CountedBody<R>>;
    type Error = S::Error;
    type Future = FrontFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let arrived = Instant::now();
        let method = self.layer.metrics.method(request.uri().path());
        let count = body::Count::new(Arc::clone(method), arrived);
        let taken = match metadata::take(request.headers_mut()) {
            Ok(taken) => taken,
            Err(refused) => return FrontFuture::refused(refused, count),
        };
        let request_id = match taken.request_id.or_else(fresh_id) {
            Some(request_id) => request_id,
            None => return FrontFuture::refused(no_random(), count),
        };
        let answered_id = HeaderValue::from_str(request_id.as_str()).ok().map(never_indexed);
        let timeout = match taken.timeout {
            Some(asked) => asked.saturating_sub(MARGIN.min(asked / 4)).min(self.layer.request_timeout),
            None => self.layer.request_timeout,
        };
        // For debugging only, since it costs every request something; what is said above that names the request itself.
        let span = tracing::debug_span!(
            "request",
            method = &*count.method().name,
            request_id = request_id.as_str(),
            peer = tracing::field::Empty
        );
        if let Some(peer) = request.extensions().get::<Peer>() {
            span.record("peer", tracing::field::display(peer));
        }
        let deadline = arrived + timeout;
        let extensions = request.extensions_mut();
        extensions.insert(RequestMeta { request_id, trace_id: taken.trace_id, arrived, deadline });
        if let Some(token) = taken.token {
            extensions.insert(token);
        }
        let panics = self.layer.metrics.panics.clone();
        let future = span.in_scope(|| self.inner.call(request));
        FrontFuture::running(future, future::Frame { deadline, span, request_id: answered_id, panics }, count)
    }
}

/// Keeps a value that never comes again out of the table of header compression: there it would push out those that do,
/// and be compared with each of its kind before it.
fn never_indexed(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// Random bytes of ids to come: drawing them costs as much for 64 ids as for one.
struct Drawn {
    bytes: [u8; 64 * ID_BYTES],
    used: usize,
}

const ID_BYTES: usize = 16;

thread_local! {
    static DRAWN: RefCell<Drawn> = const { RefCell::new(Drawn { bytes: [0; 64 * ID_BYTES], used: 64 * ID_BYTES }) };
}

impl Drawn {
    /// The next ones. None comes twice.
    fn next(&mut self) -> Option<[u8; ID_BYTES]> {
        if self.used >= self.bytes.len() {
            getrandom::fill(&mut self.bytes).ok()?;
            self.used = 0;
        }
        let next = *self.bytes.get(self.used..)?.first_chunk()?;
        self.used = self.used.saturating_add(ID_BYTES);
        Some(next)
    }
}

fn fresh_id() -> Option<RequestId> {
    let bytes = DRAWN.with_borrow_mut(Drawn::next)?;
    let mut digits = [0; 2 * ID_BYTES];
    RequestId::parse(data_encoding::HEXLOWER.encode_mut_str(&bytes, &mut digits)).ok()
}

fn no_random() -> Status {
    status(Code::Internal, "NO_RANDOM", "the system gave no random bytes")
}
