//! Opens one connection, over TLS or to a local socket, and remembers why TLS failed.
//!
//! With TLS 1.3 a server refuses a client certificate only after the client's handshake is done, so the alert arrives
//! while HTTP/2 starts, where its cause would be lost: [`LastAlert`] keeps it for the error message.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::error::ConnectCause;
use crate::tls::TlsSources;

/// Where and how to connect.
#[derive(Clone)]
pub(crate) enum Target {
    Tls { authority: String, name: ServerName<'static>, sources: TlsSources },
    Unix(PathBuf),
}

/// The alert that ended the newest connection, if one did.
#[derive(Clone, Default)]
pub(crate) struct LastAlert(Arc<Mutex<Option<AlertDescription>>>);

impl LastAlert {
    fn set(&self, alert: Option<AlertDescription>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = alert;
    }

    fn read(&self) -> Option<AlertDescription> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream to the server.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Opens a connection.
pub(crate) async fn connect(target: Target, last_alert: LastAlert) -> io::Result<TokioIo<Box<dyn Stream>>> {
    last_alert.set(None);
    let stream: Box<dyn Stream> = match target {
        Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Target::Tls { authority, name, sources } => {
            let config = sources.config().map_err(io::Error::other)?;
            let tcp = TcpStream::connect(authority).await?;
            tcp.set_nodelay(true)?;
            let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
            if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(io::Error::other(NoHttp2));
            }
            Box::new(Watched { inner: tls, last_alert, failed: None })
        }
    };
    Ok(TokioIo::new(stream))
}

#[derive(Debug, thiserror::Error)]
#[error("it did not choose h2")]
struct NoHttp2;

/// Finds what stands behind a failed connection.
pub(crate) fn cause(error: &(dyn std::error::Error + 'static), last_alert: &LastAlert) -> ConnectCause {
    let mut next = Some(error);
    while let Some(error) = next {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner: &(dyn std::error::Error + 'static) = match wrapped {
            Some(wrapped) => wrapped,
            None => error,
        };
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(why) => {
                    ConnectCause::ServerCertificate { why: words(&why.to_string()) }
                }
                rustls::Error::AlertReceived(alert) => of_alert(*alert),
                other => ConnectCause::Protocol { why: other.to_string() },
            };
        }
        if inner.is::<NoHttp2>() {
            return ConnectCause::Protocol { why: inner.to_string() };
        }
        next = inner.source();
    }
    last_alert.read().map_or(ConnectCause::NoConnection, of_alert)
}

/// The name of a variant as words, and any other text as it is: rustls has prose for a few errors only.
fn words(text: &str) -> String {
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return text.to_owned();
    }
    let mut words = String::new();
    for c in text.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

fn of_alert(alert: AlertDescription) -> ConnectCause {
    match alert {
        AlertDescription::ProtocolVersion
        | AlertDescription::HandshakeFailure
        | AlertDescription::NoApplicationProtocol => ConnectCause::Protocol { why: format!("{alert:?}") },
        AlertDescription::CloseNotify | AlertDescription::InternalError => ConnectCause::NoConnection,
        other => ConnectCause::ClientCertificate { alert: format!("{other:?}") },
    }
}

struct Watched<S> {
    inner: S,
    last_alert: LastAlert,
    /// A write that failed, kept until the server's last words were read.
    failed: Option<io::Error>,
}

impl<S: AsyncRead + Unpin> Watched<S> {
    fn note(&self, error: &io::Error) {
        if let Some(rustls::Error::AlertReceived(alert)) =
            error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            self.last_alert.set(Some(*alert));
        }
    }

    /// A write fails when the server has closed, maybe before its alert was read: it is read first. The end of what a
    /// closed connection holds always comes, so that this waits for nobody.
    fn last_words(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Error> {
        let mut words = [0; 1024];
        loop {
            let mut words = ReadBuf::new(&mut words);
            match Pin::new(&mut self.inner).poll_read(cx, &mut words) {
                Poll::Pending => {
                    self.failed = Some(error);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) if !words.filled().is_empty() => {}
                Poll::Ready(Ok(())) => return Poll::Ready(error),
                Poll::Ready(Err(last)) => {
                    self.note(&last);
                    return Poll::Ready(error);
                }
            }
        }
    }

    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let error = match self.failed.take() {
            Some(error) => error,
            None => match ready!(write(Pin::new(&mut self.inner), cx)) {
                Ok(written) => return Poll::Ready(Ok(written)),
                Err(error) => error,
            },
        };
        self.note(&error);
        self.last_words(cx, error).map(Err)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        if let Err(error) = &read {
            self.note(error);
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written(cx, |inner, cx| inner.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.written(cx, |inner, cx| inner.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.written(cx, |inner, cx| inner.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_variant_becomes_words() {
        assert_eq!(words("UnknownIssuer"), "unknown issuer");
        assert_eq!(words("certificate expired: 3 seconds ago"), "certificate expired: 3 seconds ago");
    }
}
