//! Writes that belong together leave together. Invariant: what was written leaves in order, and whole with the next flush but
//! one; what waits here is wiped when it has left.
//!
//! HTTP/2's implementation writes a data frame of 256 bytes or more with its head by one vectored write, flushes, and writes what
//! follows it, at least the trailers of an answer, by itself: two TLS records, two writes to the socket, and often two wakings of
//! the caller. So the flush right behind such a write waits for the next one, which comes in the same turn, or in another that is
//! asked for.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroize;

/// Larger writes go as they are: what is spared is little beside them.
const MOST: usize = 8 * 1024;

/// A stream whose writes are joined.
pub(super) struct Joined<Io> {
    io: Io,
    /// Nothing before the first write, then [`MOST`] bytes.
    room: Vec<u8>,
    /// What waits: from here,
    start: usize,
    /// to here.
    end: usize,
    /// A flush may wait for the next one.
    more_follows: bool,
}

impl<Io> Joined<Io> {
    pub(super) fn over(io: Io) -> Self {
        Self { io, room: Vec::new(), start: 0, end: 0, more_follows: false }
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.end.saturating_add(bytes) <= MOST
    }

    fn add(&mut self, bytes: &[u8]) {
        self.room.resize(MOST, 0);
        let end = self.end.saturating_add(bytes.len());
        if let Some(place) = self.room.get_mut(self.end..end) {
            place.copy_from_slice(bytes);
            self.end = end;
        }
    }
}

impl<Io: AsyncWrite + Unpin> Joined<Io> {
    /// Lets go of what waits.
    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.room.get(self.start..self.end).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start = self.start.saturating_add(written);
        }
        self.room.get_mut(..self.end).unwrap_or_default().zeroize();
        (self.start, self.end) = (0, 0);
        self.more_follows = false;
        Poll::Ready(Ok(()))
    }
}

impl<Io> Drop for Joined<Io> {
    fn drop(&mut self) {
        self.room.zeroize();
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Joined<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Joined<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.has_room(buf.len()) {
            ready!(this.poll_leave(cx))?;
            if !this.has_room(buf.len()) {
                return Pin::new(&mut this.io).poll_write(cx, buf);
            }
        }
        this.add(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let bytes = bufs.iter().fold(0_usize, |bytes, buf| bytes.saturating_add(buf.len()));
        if !this.has_room(bytes) {
            ready!(this.poll_leave(cx))?;
            if !this.has_room(bytes) {
                return Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
            }
        }
        bufs.iter().for_each(|buf| this.add(buf));
        this.more_follows = bufs.len() > 1;
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.more_follows) {
            // Should nothing follow in this turn, there is another.
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_leave(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_leave(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    /// What a socket was given, write by write; it takes so many bytes at a time.
    struct Socket {
        writes: Vec<Vec<u8>>,
        takes: usize,
        shut: bool,
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            // Every other time it is full.
            if self.takes < usize::MAX && self.writes.last().is_none_or(|last| !last.is_empty()) {
                self.writes.push(Vec::new());
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = buf.get(..self.takes.min(buf.len())).unwrap();
            self.writes.retain(|write| !write.is_empty());
            self.writes.push(taken.to_vec());
            Poll::Ready(Ok(taken.len()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.shut = true;
            Poll::Ready(Ok(()))
        }
    }

    fn joined(takes: usize) -> Joined<Socket> {
        Joined::over(Socket { writes: Vec::new(), takes, shut: false })
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Polls until it is ready; how often it asked to be woken.
    fn done<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>) -> (T, usize) {
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        for _ in 0..100_000 {
            let before = woken.0.load(Ordering::Relaxed);
            match poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => return (result.unwrap(), woken.0.load(Ordering::Relaxed)),
                Poll::Pending => assert!(woken.0.load(Ordering::Relaxed) > before, "nobody would wake it"),
            }
        }
        panic!("it never ends");
    }

    fn write(joined: &mut Joined<Socket>, bytes: &[u8]) {
        let (written, _) = done(|cx| Pin::new(&mut *joined).poll_write(cx, bytes));
        assert_eq!(written, bytes.len());
    }

    fn write_vectored(joined: &mut Joined<Socket>, head: &[u8], data: &[u8]) {
        let bufs = [IoSlice::new(head), IoSlice::new(data)];
        let (written, _) = done(|cx| Pin::new(&mut *joined).poll_write_vectored(cx, &bufs));
        assert_eq!(written, head.len() + data.len());
    }

    fn flush(joined: &mut Joined<Socket>) -> usize {
        done(|cx| Pin::new(&mut *joined).poll_flush(cx)).1
    }

    #[test]
    fn head_data_and_trailers_leave_in_one_write() {
        let mut joined = joined(usize::MAX);
        write_vectored(&mut joined, b"head", b"data");
        assert_eq!(flush(&mut joined), 1, "another turn is asked for, should nothing follow");
        assert!(joined.io.writes.is_empty());
        write(&mut joined, b"trailers");
        flush(&mut joined);
        assert_eq!(joined.io.writes, [b"headdatatrailers"]);
    }

    #[test]
    fn what_nothing_follows_leaves_in_the_next_turn_and_a_small_answer_at_once() {
        let mut joined = joined(usize::MAX);
        write_vectored(&mut joined, b"head", b"data");
        flush(&mut joined);
        flush(&mut joined);
        assert_eq!(joined.io.writes, [b"headdata"]);
        write(&mut joined, b"small");
        assert_eq!(flush(&mut joined), 0);
        assert_eq!(joined.io.writes, [b"headdata".as_slice(), b"small"]);
    }

    #[test]
    fn order_is_kept_whatever_the_sizes_and_however_little_the_socket_takes() {
        for takes in [1, 1000, usize::MAX] {
            let mut joined = joined(takes);
            let mut expected = Vec::new();
            for (number, bytes) in [1, 300, MOST - 1, 2, MOST, 7000, 2000].into_iter().enumerate() {
                let data = vec![u8::try_from(number).unwrap(); bytes];
                // Vectored writes of large frames go to the socket as they are, as far as it takes them.
                if bytes < MOST - 1 {
                    write_vectored(&mut joined, b"h", &data);
                    expected.push(b'h');
                } else {
                    write(&mut joined, &data);
                }
                expected.extend_from_slice(&data);
                flush(&mut joined);
            }
            done(|cx| Pin::new(&mut joined).poll_shutdown(cx));
            assert!(joined.io.shut && joined.io.writes.concat() == expected, "{takes} bytes at a time");
        }
    }

    #[test]
    fn what_has_left_is_wiped() {
        let mut joined = joined(1000);
        write_vectored(&mut joined, b"head", &[0x5a; 6000]);
        flush(&mut joined);
        assert_eq!(joined.room.iter().filter(|byte| **byte == 0x5a).count(), 6000);
        write(&mut joined, b"trailers");
        flush(&mut joined);
        assert!(joined.room.len() == MOST && joined.room.iter().all(|byte| *byte == 0));
    }
}
