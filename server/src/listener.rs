//! Where callers come in: TCP with TLS, and a Unix socket for local administration; and how they are served until their
//! connection ends. Invariant: a connection that is served has finished its handshake and carries who is at its other end;
//! no peer can stop the accepting of others.
//!
//! Absent on purpose: the PROXY protocol and any trust in headers; a plain-text TCP port.

mod accept;
mod connection;
mod joined;
mod serve;
mod unix;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Limits, ServerConfig};
use crate::telemetry::ServerMetrics;
use crate::tls::TlsReloader;
use accept::{Acceptor, local, tcp};
use unix::LocalSocket;

pub use connection::{Connection, Peer};
pub(crate) use serve::LAST_ANSWERS;
pub use serve::{Ends, serve};

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The TCP address cannot be bound.
    #[error("cannot listen on {address} (server.listen)")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The Unix socket cannot be made.
    #[error("cannot listen on {} (server.unix_socket)", path.display())]
    Unix {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process listens on the Unix socket.
    #[error("another server listens on {} (server.unix_socket)", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something that is not a socket has the path.
    #[error("{} is not a socket (server.unix_socket); it is left alone", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

/// Bound sockets, before they accept.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    local: LocalSocket,
}

/// What [`serve`] takes.
pub type Incoming = ReceiverStream<io::Result<Connection>>;

// Local administration must find a place when the network has taken every other.
const LOCAL_CONNECTIONS: usize = 16;
// Finished handshakes that wait to be served.
const WAITING: usize = 64;

impl Listener {
    /// Binds both sockets. Port 0 takes a free one.
    pub async fn bind(config: &ServerConfig) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Tcp { address: config.listen, source };
        let tcp = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let local = LocalSocket::bind(&config.unix_socket).await?;
        Ok(Self { tcp, address, local })
    }

    /// The TCP address that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `stop`; then the sockets are closed and the stream ends.
    pub fn accept(
        self,
        limits: &Limits,
        tls: Arc<TlsReloader>,
        metrics: Arc<ServerMetrics>,
        stop: CancellationToken,
    ) -> Incoming {
        let (sender, receiver) = mpsc::channel(WAITING);
        let acceptor = Acceptor {
            tls,
            metrics,
            handshakes: Arc::new(Semaphore::new(limits.handshake_concurrency)),
            handshake_timeout: limits.handshake_timeout,
            connections: Arc::new(Semaphore::new(limits.max_connections)),
            sender: sender.clone(),
            stop: stop.clone(),
        };
        let tasks = TaskTracker::new();
        tasks.spawn(tcp(acceptor, self.tcp));
        tasks.spawn(local(self.local, Arc::new(Semaphore::new(LOCAL_CONNECTIONS)), sender, stop));
        ReceiverStream::new(receiver)
    }
}
