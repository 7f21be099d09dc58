//! How connections end: with the vault's sealing, after their last call, and with the server.

use futures::stream;
use http::StatusCode;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2 as client;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::config::Config;
use crate::listener::Peer;
use crate::listener::connection::Io;
use crate::listener::joined::Joined;

const PATIENCE: Duration = Duration::from_secs(10);
const A_WHILE: Duration = Duration::from_millis(50);
const PLACES: usize = 8;

struct Served {
    sender: mpsc::Sender<std::io::Result<Connection>>,
    places: Arc<Semaphore>,
    ends: Arc<Ends>,
    stop: CancellationToken,
    /// `/slow` has begun,
    begun: Arc<Notify>,
    /// and may answer.
    go: Arc<Notify>,
    serving: JoinHandle<()>,
}

struct Caller {
    sender: client::SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

fn serve_calls() -> Served {
    let mut limits = Config::dev(std::path::Path::new("/nowhere")).unwrap().limits;
    limits.request_timeout = 10 * A_WHILE;
    let stop = CancellationToken::new();
    let ends = Arc::new(Ends::new(stop.clone()));
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (began, may) = (Arc::clone(&begun), Arc::clone(&go));
    let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
        assert!(matches!(request.extensions().get(), Some(Peer::Local { uid: 7 })));
        let (began, may) = (Arc::clone(&began), Arc::clone(&may));
        async move {
            let body: BoxBody<Bytes, Infallible> = match request.uri().path() {
                "/slow" => {
                    began.notify_one();
                    may.notified().await;
                    Empty::new().boxed()
                }
                "/endless" => StreamBody::new(stream::pending::<Result<Frame<Bytes>, _>>()).boxed(),
                _ => Empty::new().boxed(),
            };
            Ok(Response::new(body))
        }
    });
    let (sender, receiver) = mpsc::channel(PLACES);
    let shared = Arc::clone(&ends);
    let serving = tokio::spawn(async move {
        serve(ReceiverStream::new(receiver), service, |path| path == "/last", &limits, &shared).await;
    });
    Served { sender, places: Arc::new(Semaphore::new(PLACES)), ends, stop, begun, go, serving }
}

impl Served {
    async fn accept(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let place = Arc::clone(&self.places).try_acquire_owned().unwrap();
        let io = Joined::over(Io::Local(theirs));
        let connection = Connection { io, peer: Peer::Local { uid: 7 }, greeting: None, _place: place };
        self.sender.send(Ok(connection)).await.unwrap();
        ours
    }

    async fn connect(&self) -> Caller {
        let io = TokioIo::new(self.accept().await);
        let (sender, connection) = client::handshake(TokioExecutor::new(), io).await.unwrap();
        Caller { sender, connection: tokio::spawn(connection) }
    }
}

impl Caller {
    fn call(&mut self, path: &str) -> impl Future<Output = Response<hyper::body::Incoming>> + use<> {
        let uri = format!("http://localhost{path}");
        let answer = self.sender.send_request(Request::get(uri).body(Empty::new()).unwrap());
        async move {
            let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
            answer
        }
    }

    async fn is_open(&mut self) -> bool {
        tokio::time::timeout(A_WHILE, &mut self.connection).await.is_err()
    }

    /// However it ended.
    async fn ended(self) {
        drop(tokio::time::timeout(PATIENCE, self.connection).await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn who_is_idle_is_hung_up_on_at_once_and_who_comes_next_is_not() {
    let served = serve_calls();
    let (mut used, unused) = (served.connect().await, served.connect().await);
    used.call("/").await;
    assert!(used.is_open().await);
    served.ends.end();
    used.ended().await;
    unused.ended().await;
    let mut next = served.connect().await;
    next.call("/").await;
    assert!(next.is_open().await);
    assert_eq!(served.places.available_permits(), PLACES - 1, "places are given back");
}

#[tokio::test]
async fn a_call_under_way_gets_its_answer() {
    let served = serve_calls();
    let mut caller = served.connect().await;
    let answer = tokio::spawn(caller.call("/slow"));
    served.begun.notified().await;
    served.ends.end();
    assert!(caller.is_open().await);
    served.go.notify_one();
    answer.await.unwrap();
    caller.ended().await;
}

#[tokio::test]
async fn who_follows_without_end_and_who_does_not_answer_are_cut_off() {
    let served = serve_calls();
    let mut following = served.connect().await;
    let endless = following.call("/endless").await;
    // The preface, with empty settings.
    let mut silent = served.accept().await;
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    silent.read_u8().await.unwrap();
    let cut = served.ends.end();
    let mut next = served.connect().await;
    assert!(following.is_open().await);
    cut.cancel();
    assert!(endless.into_body().collect().await.is_err());
    following.ended().await;
    tokio::time::timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    next.call("/").await;
    assert!(next.is_open().await, "who came later is not cut off");
}

#[tokio::test]
async fn a_connection_ends_soon_after_its_last_call_and_no_other_with_it() {
    let served = serve_calls();
    let (mut last, mut other) = (served.connect().await, served.connect().await);
    other.call("/").await;
    last.call("/last").await;
    last.call("/last").await;
    last.call("/").await;
    last.ended().await;
    assert!(other.is_open().await);
    other.call("/").await;
}

#[tokio::test]
async fn a_stream_keeps_no_connection_after_its_last_call() {
    let served = serve_calls();
    let mut caller = served.connect().await;
    let endless = caller.call("/endless").await;
    caller.call("/last").await;
    assert!(caller.is_open().await);
    caller.ended().await;
    assert!(endless.into_body().collect().await.is_err());
}

#[tokio::test]
async fn the_server_ends_once_all_are_answered_or_cut_off() {
    let mut served = serve_calls();
    let (idle, mut slow, mut following) =
        (served.connect().await, served.connect().await, served.connect().await);
    let answer = tokio::spawn(slow.call("/slow"));
    served.begun.notified().await;
    let _endless = following.call("/endless").await;
    served.stop.cancel();
    idle.ended().await;
    served.go.notify_one();
    answer.await.unwrap();
    slow.ended().await;
    drop(served.sender);
    assert!(tokio::time::timeout(A_WHILE, &mut served.serving).await.is_err());
    served.ends.cut_off();
    following.ended().await;
    tokio::time::timeout(PATIENCE, served.serving).await.unwrap().unwrap();
}
