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
use super::joined::Joined;
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
            drop(
                acceptor
                    .sender
                    .send(Ok(Connection { io: Joined::over(io), peer, greeting, _place: place }))
                    .await,
            );
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
        let connection =
            Connection { io: Joined::over(Io::Local(stream)), peer, greeting: None, _place: place };
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

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use rustix::process::Uid;

    use super::*;

    /// Connects as another user, as far as this one can; the kernel keeps who a thread is, and not a process.
    fn connect_as(path: &Path, uid: Option<u32>) -> std::thread::JoinHandle<usize> {
        let path = path.to_owned();
        std::thread::spawn(move || {
            if let Some(uid) = uid {
                let uid = Uid::from_raw(uid);
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            }
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            // An end means that the server hung up; else it waits for the first word.
            stream.read(&mut [0]).map_or(1, |read| read)
        })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_users_connection_is_refused_even_where_the_file_lets_it_through() {
        const OTHER: u32 = 65_534;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = LocalSocket::bind(&path).await.unwrap();
        for (path, mode) in [(dir.path(), 0o755), (path.as_path(), 0o666)] {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        let (sender, mut came) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let accepting = tokio::spawn(local(socket, Arc::new(Semaphore::new(4)), sender, stop.clone()));
        let own = connect_as(&path, None);
        let connection = came.recv().await.unwrap().unwrap();
        let me = rustix::process::geteuid().as_raw();
        assert!(matches!(connection.peer, Peer::Local { uid } if uid == me));
        assert_eq!(own.join().unwrap(), 1, "it was not hung up on");
        drop(connection);
        if me == 0 {
            assert_eq!(connect_as(&path, Some(OTHER)).join().unwrap(), 0, "it was hung up on");
        } else {
            // Nobody but root can be somebody else: then this server is.
            let (ours, _theirs) = UnixStream::pair().unwrap();
            assert_eq!(allowed_uid(&ours, me.wrapping_add(1)), None);
        }
        assert!(came.try_recv().is_err());
        stop.cancel();
        accepting.await.unwrap();
    }
}
