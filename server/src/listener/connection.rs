//! A connection and who is at its other end. Invariant: [`Peer`] comes from the handshake or the kernel, never from
//! bytes that the peer sends afterwards.
//!
//! Absent on purpose: `Debug` of what is read or written.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use super::joined::Joined;
use crate::tls::PeerIdentity;

/// Who is at the other end; in the extensions of every request.
#[derive(Debug, Clone)]
pub enum Peer {
    /// Over TLS.
    Tls {
        /// The verified client certificate, if one was shown.
        identity: Option<Arc<PeerIdentity>>,
        /// The address.
        address: SocketAddr,
    },
    /// Over the Unix socket: the server's own user, or root.
    Local {
        /// The user id, as the kernel says.
        uid: u32,
    },
}

impl Peer {
    /// The verified client certificate, if one was shown.
    pub fn identity(&self) -> Option<&Arc<PeerIdentity>> {
        match self {
            Self::Tls { identity, .. } => identity.as_ref(),
            Self::Local { .. } => None,
        }
    }

    /// The address, if it came over the network.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tls { address, .. } => Some(address.ip()),
            Self::Local { .. } => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls { address, .. } => write!(f, "{address}"),
            Self::Local { uid } => write!(f, "uid:{uid}"),
        }
    }
}

/// A connection after its handshake. Its place among `limits.max_connections` is free again when it is dropped.
pub struct Connection {
    pub(super) io: Joined<Io>,
    pub(super) peer: Peer,
    pub(super) greeting: Option<Greeting>,
    pub(super) _place: OwnedSemaphorePermit,
}

// PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n
const PREFACE_BYTES: usize = 24;

/// The HTTP/2 preface that must come in time: hyper waits for it without end.
pub(super) struct Greeting {
    missing: usize,
    until: Pin<Box<Sleep>>,
}

impl Greeting {
    pub(super) fn within(time: Duration) -> Self {
        Self { missing: PREFACE_BYTES, until: Box::pin(tokio::time::sleep(time)) }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.until.as_mut().poll(cx).is_ready()
    }
}

pub(super) enum Io {
    Tls(Box<TlsStream<TcpStream>>),
    Local(UnixStream),
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Local(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Local(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Local(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Local(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Local(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Local(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if let Some(greeting) = &mut this.greeting {
            greeting.missing = greeting.missing.saturating_sub(buf.filled().len() - before);
            if greeting.missing == 0 {
                this.greeting = None;
            } else if polled.is_pending() && greeting.is_late(cx) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
