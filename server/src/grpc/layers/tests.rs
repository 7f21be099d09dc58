//! The front, driven as the listener drives it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use keystead_core::error::VaultError;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::{Layer, Service, service_fn};

use super::{FrontLayer, PresentedToken, RequestMeta};
use crate::grpc::status::refuse;
use crate::telemetry::ServerMetrics;

const METHOD: &str = "/keystead.v1.SecretsService/GetSecret";

fn layer() -> FrontLayer {
    FrontLayer::new(Duration::from_millis(500), Arc::new(ServerMetrics::off([METHOD.to_owned()])))
}

fn request(headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::builder().uri(METHOD);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

async fn call<F, T>(request: Request<Body>, handler: F) -> Response<super::CountedBody<Body>>
where
    F: FnMut(Request<Body>) -> T,
    T: Future<Output = Result<Response<Body>, Infallible>>,
{
    layer().layer(service_fn(handler)).call(request).await.unwrap()
}

async fn ok(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::empty()))
}

fn status_of(headers: &HeaderMap) -> Status {
    Status::from_header_map(headers).unwrap()
}

#[tokio::test]
async fn handlers_get_extensions_and_no_headers() {
    let seen = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&seen);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("authorization", "Bearer kst_token"),
        ("x-request-id", "abc"),
        ("traceparent", trace),
        ("x-forwarded-client-cert", "evil"),
        ("grpc-timeout", "100m"),
    ];
    let response = call(request(&headers), move |request| {
        *keep.lock().unwrap() = Some(request);
        async { Ok(Response::new(Body::empty())) }
    })
    .await;
    assert_eq!(response.headers()["x-request-id"], "abc");
    assert!(
        response.headers()["x-request-id"].is_sensitive(),
        "else each id is kept in a table, for nothing"
    );
    let request = seen.lock().unwrap().take().unwrap();
    assert!(request.headers().is_empty());
    let meta = request.extensions().get::<RequestMeta>().unwrap();
    assert_eq!(meta.request_id.as_str(), "abc");
    assert_eq!(meta.trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    let left = meta.deadline - meta.arrived;
    assert!(left < Duration::from_millis(100) && left > Duration::from_millis(50));
    assert_eq!(request.extensions().get::<PresentedToken>().unwrap().expose(), b"kst_token");
    assert!(!format!("{request:?}").contains("kst_token"));
}

#[tokio::test]
async fn ids_are_made_where_none_came() {
    let first = call(request(&[]), ok).await.headers()["x-request-id"].clone();
    let second = call(request(&[("x-request-id", "a b")]), ok).await.headers()["x-request-id"].clone();
    assert_eq!((first.len(), second.len()), (32, 32));
    assert_ne!(first, second);
}

#[tokio::test]
async fn deadlines_end_requests() {
    for (headers, expected) in
        [(&[][..], 500), (&[("grpc-timeout", "100m")][..], 95), (&[("grpc-timeout", "9H")], 500)]
    {
        let begin = tokio::time::Instant::now();
        let response = call(request(headers), |_| std::future::pending()).await;
        assert!(begin.elapsed() >= Duration::from_millis(expected), "not before its time");
        let status = status_of(response.headers());
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "DEADLINE_EXCEEDED");
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error_without_its_message() {
    let panics = |_| async { panic!("canary") };
    let response = call(request(&[]), panics).await;
    let status = status_of(response.headers());
    assert_eq!(status.code(), Code::Internal);
    assert!(!format!("{response:?}").contains("canary"));
    assert!(response.headers().contains_key("x-request-id"));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn failures_and_panics_are_logged_under_the_id_and_refusals_are_not() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let ids = |id: &'static str| request(&[("x-request-id", id)]);
    let failed = |_| async { Ok(refuse(VaultError::Interrupted { what: "a test" }).into_http()) };
    call(ids("failed"), failed).await;
    call(ids("refused"), |_| async { Ok(refuse(VaultError::Unauthenticated).into_http()) }).await;
    call(ids("sealed"), |_| async { Ok(refuse(VaultError::Sealed).into_http()) }).await;
    call(ids("panicked"), |_| async { panic!("canary") }).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [failed, panicked] = lines[..] else { panic!("{text}") };
    assert!(failed.contains("request_id=\"failed\"") && failed.contains("a test"), "{failed}");
    assert!(panicked.contains("request_id=\"panicked\"") && !panicked.contains("canary"), "{panicked}");
}

struct PanickingBody;

impl http_body::Body for PanickingBody {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Status>>> {
        panic!("canary")
    }
}

#[tokio::test]
async fn a_panic_in_a_stream_ends_it_with_internal() {
    let response = call(request(&[]), |_| async { Ok(Response::new(Body::new(PanickingBody))) }).await;
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(status_of(collected.trailers().unwrap()).code(), Code::Internal);
}

#[tokio::test]
async fn malformed_credentials_and_timeouts_never_reach_the_handler() {
    for (header, code) in [
        (("authorization", "Bearer canary"), Code::Unauthenticated),
        (("grpc-timeout", "soon"), Code::InvalidArgument),
    ] {
        let unreachable = |_| async { panic!("called") };
        let response = call(request(&[header]), unreachable).await;
        assert_eq!(status_of(response.headers()).code(), code);
        assert!(!format!("{response:?}").contains("canary"));
    }
}

#[tokio::test]
async fn every_request_is_counted_once() {
    let metrics = Arc::new(ServerMetrics::new([METHOD.to_owned()]).unwrap());
    let layer = FrontLayer::new(Duration::from_millis(500), Arc::clone(&metrics));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let good = move |_| {
        let body = http_body_util::Empty::new().with_trailers(std::future::ready(Some(Ok(trailers.clone()))));
        async { Ok::<_, Infallible>(Response::new(Body::new(body))) }
    };
    let response = layer.layer(service_fn(good)).call(request(&[])).await.unwrap();
    response.into_body().collect().await.unwrap();
    let refused = |_| async { Ok::<_, Infallible>(Status::not_found("x").into_http::<Body>()) };
    layer.layer(service_fn(refused)).call(request(&[])).await.unwrap();
    let abandoned = |_| std::future::pending::<Result<Response<Body>, Infallible>>();
    drop(layer.layer(service_fn(abandoned)).call(request(&[])));
    let text = metrics.render();
    for (code, times) in [("OK", 1), ("NOT_FOUND", 1), ("CANCELLED", 1), ("INTERNAL", 0)] {
        let line = format!("keystead_requests_total{{method=\"{METHOD}\",code=\"{code}\"}} {times}\n");
        assert!(text.contains(&line), "{line} not in {text}");
    }
}

#[test]
fn no_id_is_made_twice() {
    let draw = || (0..200).map(|_| super::fresh_id().unwrap().to_string()).collect::<Vec<_>>();
    let (here, there) = (draw(), std::thread::spawn(draw).join().unwrap());
    let all: std::collections::HashSet<_> = here.iter().chain(&there).collect();
    assert_eq!(all.len(), 400);
    assert!(all.iter().all(|id| id.len() == 32));
}
