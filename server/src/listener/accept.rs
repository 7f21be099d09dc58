//! The two accept loops. Invariant: an error of one peer, or of accepting itself, ends no loop; handshakes are
//! bounded in number and time, the waiting for a turn included.
//!
//! Absent on purpose: logging of each failed handshake at a level that is on: a flood of them must not fill a disk.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{Connection, Greeting, Io, Peer};
use super::unix::LocalSocket;
use crate::telemetry::ServerMetrics;
use crate::tls::TlsReloader;

pub(super) type Sender = mpsc::Sender<io::Result<Connection>>;

// Long enough for descriptors to be given back, short enough that nobody notices.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);

/// What one TCP connection needs on its way in.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) tls: Arc<TlsReloader>,
    pub(super) metrics: Arc<ServerMetrics>,
    pub(super) handshakes: Arc<Semaphore>,
    pub(super) handshake_timeout: Duration,
    pub(super) connections: Arc<Semaphore>,
    pub(super) sender: Sender,
    pub(super) stop: CancellationToken,
}

/// Why a connection did not come in.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("no handshake within its time")]
    TimedOut,
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the peer does not speak HTTP/2")]
    NotHttp2,
    #[error("the client certificate holds no usable identity")]
    NoIdentity,
}

/// Accepts TCP connections until the stop.
pub(super) async fn tcp(acceptor: Acceptor, listener: TcpListener) {
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = acceptor.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&acceptor.connections).try_acquire_owned() else {
            acceptor.metrics.connections_refused.increment(1);
            continue;
        };
        tasks.spawn(bring_in(acceptor.clone(), stream, address, place));
    }
}

async fn bring_in(acceptor: Acceptor, stream: TcpStream, address: SocketAddr, place: OwnedSemaphorePermit) {
    let handshake = tokio::time::timeout(acceptor.handshake_timeout, handshake(&acceptor, stream, address));
    let outcome = tokio::select! {
        () = acceptor.stop.cancelled() => return,
        outcome = handshake => outcome.unwrap_or(Err(Refused::TimedOut)),
    };
    match outcome {
        Ok((io, peer)) => {
            // An error says that the server has stopped taking connections.
            let greeting = Some(Greeting::within(acceptor.handshake_timeout));
            drop(acceptor.sender.send(Ok(Connection { io, peer, greeting, _place: place })).await);
        }
        Err(refused) => {
            acceptor.metrics.handshakes_failed.increment(1);
            let error: &(dyn std::error::Error + 'static) = &refused;
            tracing::debug!(%address, error, "connection refused");
        }
    }
}

async fn handshake(
    acceptor: &Acceptor,
    stream: TcpStream,
    address: SocketAddr,
) -> Result<(Io, Peer), Refused> {
    let Ok(_turn) = acceptor.handshakes.acquire().await else { return Err(Refused::TimedOut) };
    stream.set_nodelay(true).map_err(Refused::Handshake)?;
    // One generation for handshake and identity: a reload in between must not mix them.
    let state = acceptor.tls.current();
    let stream = TlsAcceptor::from(state.server_config()).accept(stream).await.map_err(Refused::Handshake)?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(b"h2") {
        return Err(Refused::NotHttp2);
    }
    let identity = match session.peer_certificates() {
        None => None,
        Some(chain) => Some(Arc::new(state.identify(chain).ok_or(Refused::NoIdentity)?)),
    };
    Ok((Io::Tls(Box::new(stream)), Peer::Tls { identity, address }))
}

/// Accepts local connections until the stop.
pub(super) async fn local(
    socket: LocalSocket,
    places: Arc<Semaphore>,
    sender: Sender,
    stop: CancellationToken,
) {
    let own = rustix::process::geteuid().as_raw();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = socket.listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let Some(uid) = allowed_uid(&stream, own) else { continue };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let peer = Peer::Local { uid };
        let connection = Connection { io: Io::Local(stream), peer, greeting: None, _place: place };
        if sender.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

// The mode of the socket keeps others out; the kernel's word on the peer is the second control.
fn allowed_uid(stream: &UnixStream, own: u32) -> Option<u32> {
    let uid = stream.peer_cred().ok()?.uid();
    let allowed = uid == own || uid == 0;
    if !allowed {
        tracing::warn!(uid, "another user's connection to the Unix socket was refused");
    }
    allowed.then_some(uid)
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "accepting a connection failed; going on");
    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
}
