//! The future of a request behind the front. Invariant: it ends by its deadline, and a panic inside becomes INTERNAL;
//! nothing of a handler is polled after either.
//!
//! Absent on purpose: a deadline on the bodies of streams, which follow for as long as their caller listens.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderValue, Response};
use http_body::Body;
use metrics::Counter;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tonic::{Code, Status};
use tracing::Span;

use super::body::{Count, CountedBody};
use super::metadata::REQUEST_ID;
use crate::grpc::status::{ErrorParts, log_failure, status};

/// What surrounds a running request.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) deadline: Instant,
    pub(super) span: Span,
    pub(super) request_id: Option<HeaderValue>,
    pub(super) panics: Counter,
}

pin_project! {
    /// Resolves to the answer.
    pub struct FrontFuture<F> {
        #[pin]
        state: State<F>,
        count: Option<Count>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F> {
        Running { #[pin] future: F, #[pin] sleep: Sleep, frame: Frame },
        Refused { status: Option<Status> },
    }
}

impl<F> FrontFuture<F> {
    pub(super) fn running(future: F, frame: Frame, count: Count) -> Self {
        let sleep = tokio::time::sleep_until(frame.deadline);
        Self { state: State::Running { future, sleep, frame }, count: Some(count) }
    }

    pub(super) fn refused(status: Status, count: Count) -> Self {
        Self { state: State::Refused { status: Some(status) }, count: Some(count) }
    }
}

impl<F, R, E> Future for FrontFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body + Default,
{
    type Output = Result<Response<CountedBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (response, request_id) = match this.state.as_mut().project() {
            StateProjection::Refused { status } => (status.take().unwrap_or_else(panicked).into_http(), None),
            StateProjection::Running { future, sleep, frame } => {
                let entered = frame.span.enter();
                let response = match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
                    Ok(Poll::Ready(Ok(response))) => response,
                    Ok(Poll::Ready(Err(error))) => return Poll::Ready(Err(error)),
                    Ok(Poll::Pending) => match sleep.poll(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(()) => too_late().into_http(),
                    },
                    Err(_) => {
                        frame.panics.increment(1);
                        tracing::error!(request_id = text(&frame.request_id), "a request panicked");
                        panicked().into_http()
                    }
                };
                if let Some(status) = response.extensions().get() {
                    log_failure(status, text(&frame.request_id));
                }
                drop(entered);
                (response, frame.request_id.take())
            }
        };
        // Drops the handler's future: after its end, a panic or the deadline it is not polled again.
        this.state.set(State::Refused { status: None });
        let Some(mut count) = this.count.take() else { return Poll::Pending };
        let mut response: Response<R> = response;
        count.look(response.headers());
        if let Some(value) = request_id {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        Poll::Ready(Ok(response.map(|body| CountedBody::new(body, count))))
    }
}

fn text(request_id: &Option<HeaderValue>) -> &str {
    request_id.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn too_late() -> Status {
    ErrorParts::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the request's time is up")
        .with("outcome", "unknown")
        .into_status()
}

pub(super) fn panicked() -> Status {
    status(Code::Internal, "INTERNAL", "the server failed on this request; its log says where")
}
