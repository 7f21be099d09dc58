//! The body of an answer, watched for its status. Invariant: every request is counted once, when its answer has ended
//! or was given up; a panic while a stream is made ends that stream with INTERNAL.
//!
//! Absent on purpose: buffering; frames pass as they come.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::future::panicked;
use crate::telemetry::MethodMetrics;

/// Counts one request when dropped.
#[derive(Debug)]
pub(super) struct Count {
    method: Arc<MethodMetrics>,
    arrived: Instant,
    code: Option<Code>,
}

impl Count {
    pub(super) fn new(method: Arc<MethodMetrics>, arrived: Instant) -> Self {
        Self { method, arrived, code: None }
    }

    pub(super) fn method(&self) -> &MethodMetrics {
        &self.method
    }

    pub(super) fn set(&mut self, code: Code) {
        self.code = Some(code);
    }

    /// Looks for a status in headers or trailers.
    pub(super) fn look(&mut self, headers: &HeaderMap) {
        if let Some(value) = headers.get(Status::GRPC_STATUS) {
            self.code = Some(Code::from_bytes(value.as_bytes()));
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        // No status was sent: the caller has gone.
        let code = self.code.unwrap_or(Code::Cancelled);
        self.method.finished(code, self.arrived.elapsed());
    }
}

pin_project! {
    /// A body that is counted.
    #[derive(Debug)]
    pub struct CountedBody<B> {
        #[pin]
        inner: B,
        broken: bool,
        count: Count,
    }
}

impl<B> CountedBody<B> {
    pub(super) fn new(inner: B, count: Count) -> Self {
        Self { inner, broken: false, count }
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if *this.broken {
            return Poll::Ready(None);
        }
        let polled = catch_unwind(AssertUnwindSafe(|| this.inner.poll_frame(cx)));
        let Ok(polled) = polled else {
            *this.broken = true;
            this.count.set(Code::Internal);
            let mut trailers = HeaderMap::new();
            return match panicked().add_header(&mut trailers) {
                Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Err(_) => Poll::Ready(None),
            };
        };
        let frame = ready!(polled);
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            this.count.look(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.broken || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
