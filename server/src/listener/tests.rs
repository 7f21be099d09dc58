//! Who comes in through the sockets, what disturbs them, and how they end.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{Ends, Incoming, ListenError, Listener, Peer, serve};
use crate::config::Config;
use crate::telemetry::ServerMetrics;
use crate::tls::TlsReloader;
use crate::tls::testing::{TestCa, client, files, localhost};

struct Running {
    incoming: Incoming,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    ca: TestCa,
    config: Config,
}

async fn start(dir: &Path, edit: impl FnOnce(&mut Config)) -> Running {
    let ca = TestCa::new("ca");
    let mut config = Config::dev(dir).unwrap();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    config.server.unix_socket = dir.join("socket");
    config.tls = files(dir, &ca, &[&ca], &[]);
    edit(&mut config);
    let listener = Listener::bind(&config.server).await.unwrap();
    let address = listener.local_addr();
    let stop = CancellationToken::new();
    let tls = Arc::new(TlsReloader::load(config.tls.clone()).unwrap());
    let metrics = Arc::new(ServerMetrics::off([]));
    let incoming = listener.accept(&config.limits, tls, metrics, stop.clone());
    Running { incoming, address, stop, ca, config }
}

impl Running {
    async fn connect(&self, name: bool) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let leaf = name.then(|| self.ca.leaf(7, |_| {}));
        let connector = TlsConnector::from(Arc::new(client(&self.ca, leaf.as_ref())));
        connector.connect(localhost(), TcpStream::connect(self.address).await?).await
    }
}

#[tokio::test]
async fn both_sockets_say_who_came() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = start(dir.path(), |_| {}).await;
    assert_ne!(running.address.port(), 0);
    let _named = running.connect(true).await.unwrap();
    let peer = running.incoming.next().await.unwrap().unwrap().peer.clone();
    assert_eq!(peer.identity().unwrap().sans()[0].as_str(), "spiffe://test/service/shop");
    assert!(peer.ip().unwrap().is_loopback());
    let _anonymous = running.connect(false).await.unwrap();
    let peer = running.incoming.next().await.unwrap().unwrap().peer.clone();
    assert!(matches!(peer, Peer::Tls { identity: None, .. }));
    let _local = UnixStream::connect(dir.path().join("socket")).await.unwrap();
    let peer = running.incoming.next().await.unwrap().unwrap().peer.clone();
    assert!(matches!(peer, Peer::Local { uid } if uid == rustix::process::geteuid().as_raw()));
}

#[tokio::test]
async fn rubbish_and_silence_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = start(dir.path(), |config| {
        config.limits.handshake_concurrency = 1;
        config.limits.handshake_timeout = Duration::from_millis(300);
    })
    .await;
    let _silent = TcpStream::connect(running.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for bytes in
        [&b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n"[..], b"\x16\x03\x01\xff\xff", b"GET / HTTP/1.1\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
    }
    // The silent one's time ends, and with it the only place for handshakes is free again.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let _good = running.connect(true).await.unwrap();
    assert!(running.incoming.next().await.unwrap().is_ok());
}

#[tokio::test]
async fn a_peer_without_http2_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), |_| {}).await;
    let mut config = client(&running.ca, None);
    config.alpn_protocols.clear();
    let stream = TcpStream::connect(running.address).await.unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(localhost(), stream).await;
    if let Ok(mut stream) = connected {
        assert_ne!(stream.read(&mut [0; 1]).await.unwrap_or(0), 1);
    }
}

#[tokio::test]
async fn a_peer_that_never_greets_gives_its_place_back() {
    let dir = tempfile::tempdir().unwrap();
    let short = Duration::from_millis(300);
    let mut running = start(dir.path(), |config| config.limits.handshake_timeout = short).await;
    let mut stream = running.connect(false).await.unwrap();
    let mut taken = running.incoming.next().await.unwrap().unwrap();
    stream.write_all(b"PRI * HTTP").await.unwrap();
    let mut buffer = [0; 64];
    assert_eq!(taken.read(&mut buffer).await.unwrap(), 10);
    assert_eq!(taken.read(&mut buffer).await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);

    let mut stream = running.connect(false).await.unwrap();
    let mut taken = running.incoming.next().await.unwrap().unwrap();
    stream.write_all(&[0; 24]).await.unwrap();
    assert_eq!(taken.read(&mut buffer).await.unwrap(), 24);
    assert!(tokio::time::timeout(2 * short, taken.read(&mut buffer)).await.is_err());
}

#[tokio::test]
async fn connections_are_bounded_and_places_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = start(dir.path(), |config| config.limits.max_connections = 1).await;
    let _first = running.connect(true).await.unwrap();
    let held = running.incoming.next().await.unwrap().unwrap();
    assert!(running.connect(true).await.is_err());
    // The local socket has places of its own.
    let _local = UnixStream::connect(dir.path().join("socket")).await.unwrap();
    assert!(running.incoming.next().await.unwrap().is_ok());
    drop(held);
    let _second = running.connect(true).await.unwrap();
    assert!(running.incoming.next().await.unwrap().is_ok());
}

#[tokio::test]
async fn the_unix_socket_is_private_and_only_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let running = start(dir.path(), |_| {}).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = Listener::bind(&running.config.server).await.map(drop);
    assert!(matches!(again, Err(ListenError::InUse { .. })), "{again:?}");
    running.stop.cancel();
    let mut incoming = running.incoming;
    // The look whether somebody listens was a connection too.
    while incoming.next().await.is_some() {}
    assert!(!path.exists());
    assert!(TcpStream::connect(running.address).await.is_err());

    // A dead socket is replaced; anything else is left alone.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(Listener::bind(&running.config.server).await.unwrap());
    std::fs::write(&path, "precious").unwrap();
    let refused = Listener::bind(&running.config.server).await.map(drop);
    assert!(matches!(refused, Err(ListenError::NotASocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn services_are_served_and_drained() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), |_| {}).await;
    let (_reporter, health) = tonic_health::server::health_reporter();
    let stop = running.stop.clone();
    let serving = tokio::spawn(async move {
        let services = tonic::service::Routes::new(health);
        let ends = Ends::new(stop);
        serve(running.incoming, services, |_| false, &running.config.limits, &ends).await;
    });
    let path = dir.path().join("socket");
    let channel = tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        }))
        .await
        .unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    assert!(health.check(request).await.is_ok());
    running.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
}
