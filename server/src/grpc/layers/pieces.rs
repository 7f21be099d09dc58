//! Answers in pieces that go out together. Invariant: the bytes of a body stay the same and in order; only where its frames
//! end changes.
//!
//! HTTP/2's implementation copies a small frame beside those before and after it, and sends what is there in one write; one
//! of [`COPIED`] bytes or more it sends by itself, and what follows it, at least the trailers, in another. A write costs more
//! than everything else that is done for a frame, on both sides.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

/// The smallest frame that h2 sends by itself, on a connection that does not ask for vectored writes.
const COPIED: usize = 1024;
/// What more pieces would cost is more than the write that they spare.
const MOST: usize = 4 * COPIED;

pin_project! {
    /// A body in pieces.
    #[derive(Debug)]
    pub struct Pieces<B> {
        #[pin]
        inner: B,
        rest: Bytes,
    }
}

impl<B> Pieces<B> {
    pub(super) fn of(inner: B) -> Self {
        Self { inner, rest: Bytes::new() }
    }
}

impl<B: Body<Data = Bytes>> Body for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if this.rest.is_empty() {
            let frame = ready!(this.inner.poll_frame(cx));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => *this.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let cut = (COPIED..MOST).contains(&this.rest.len());
        let piece = if cut { this.rest.split_to(COPIED - 1) } else { std::mem::take(this.rest) };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http::HeaderMap;
    use http_body_util::BodyExt;

    use super::*;

    /// A body of these frames; `None` stands for trailers.
    struct Frames(VecDeque<Option<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let frame = self.0.pop_front();
            Poll::Ready(
                frame.map(|data| Ok(data.map_or_else(|| Frame::trailers(HeaderMap::new()), Frame::data))),
            )
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(length(self.0.iter().flatten().map(Bytes::len).sum()))
        }
    }

    fn length(bytes: usize) -> u64 {
        u64::try_from(bytes).unwrap()
    }

    /// The lengths of the pieces of a body of one frame and trailers, if its bytes came through.
    async fn lengths(bytes: usize) -> Vec<usize> {
        let sent: Bytes = (0..=250).cycle().take(bytes).collect();
        let mut body = Pieces::of(Frames([Some(sent.clone()), None].into()));
        let (mut lengths, mut came) = (Vec::new(), Vec::new());
        loop {
            let left = sent.len() - came.len();
            assert_eq!(body.size_hint().exact(), Some(length(left)));
            assert!(!body.is_end_stream(), "trailers are to come");
            match body.frame().await.unwrap().unwrap().into_data() {
                Ok(data) => {
                    lengths.push(data.len());
                    came.extend_from_slice(&data);
                }
                Err(trailers) => {
                    assert!(trailers.is_trailers());
                    break;
                }
            }
        }
        assert!(body.is_end_stream() && body.frame().await.is_none());
        assert_eq!(came, sent);
        lengths
    }

    #[tokio::test]
    async fn middling_frames_are_cut_and_no_others() {
        assert_eq!(lengths(0).await, [0]);
        assert_eq!(lengths(COPIED - 1).await, [COPIED - 1]);
        assert_eq!(lengths(COPIED).await, [COPIED - 1, 1]);
        assert_eq!(lengths(MOST - 1).await, [1023, 1023, 1023, 1023, 3]);
        assert_eq!(lengths(MOST).await, [MOST]);
    }
}
