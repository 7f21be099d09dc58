//! The client against a scripted server: connections, certificates, deadlines, repeats.
//!
//! The server is real gRPC over real TLS 1.3 or a real socket; only its answers are made up.

#![expect(clippy::unwrap_used, reason = "an integration test has functions beside its tests")]

mod server;

use std::time::Duration;

use keystead_client::{Builder, Client, ConnectCause, Error, RetryPolicy, SecretValue};
use server::{Ca, Script, serve_tls, serve_unix};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

fn quick() -> RetryPolicy {
    RetryPolicy { attempts: 4, first_delay: Duration::from_millis(5), max_delay: Duration::from_millis(20) }
}

fn unavailable(after: Option<Duration>) -> Status {
    let mut details = ErrorDetails::new();
    details.set_retry_info(after);
    Status::with_error_details(Code::Unavailable, "the HSM is away", details)
}

async fn over_socket(script: Script, change: impl FnOnce(Builder) -> Builder) -> (Client, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local.sock");
    serve_unix(&path, script);
    let builder = Client::builder().addr(format!("unix://{}", path.display())).retry(quick());
    (change(builder).build().await.unwrap(), dir)
}

fn to(port: u16, trusted: &Ca, known: &Ca) -> Builder {
    let (certificate, key) = known.issue("shop");
    Client::builder()
        .addr(format!("https://localhost:{port}"))
        .ca_cert_pem(trusted.pem())
        .identity_pem(certificate, key)
        .retry(RetryPolicy { attempts: 1, ..quick() })
}

#[tokio::test]
async fn a_secret_is_read_over_tls_with_a_client_certificate() {
    let ca = Ca::new();
    let port = serve_tls(&ca, "localhost", b"h2", Script::default()).await;
    let client = to(port, &ca, &ca).build().await.unwrap();
    let secret = client.secrets().get("shop/db").await.unwrap();
    assert_eq!(secret.field("password").unwrap().expose(), b"hunter2");
    assert!(secret.field("user").is_err());
    assert!(!format!("{secret:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_server_of_another_ca_or_name_is_not_trusted() {
    let (ca, other) = (Ca::new(), Ca::new());
    let port = serve_tls(&ca, "localhost", b"h2", Script::default()).await;
    let error = to(port, &other, &ca).build().await.unwrap_err();
    assert!(
        matches!(error, Error::Connect { cause: ConnectCause::ServerCertificate { .. }, .. }),
        "{error:?}"
    );

    let port = serve_tls(&ca, "elsewhere.example", b"h2", Script::default()).await;
    let error = to(port, &ca, &ca).build().await.unwrap_err();
    assert!(
        matches!(error, Error::Connect { cause: ConnectCause::ServerCertificate { .. }, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_refused_client_certificate_is_named_as_the_cause() {
    let (ca, other) = (Ca::new(), Ca::new());
    let port = serve_tls(&ca, "localhost", b"h2", Script::default()).await;
    for builder in [
        to(port, &ca, &other),
        Client::builder().addr(format!("https://localhost:{port}")).ca_cert_pem(ca.pem()),
    ] {
        let error = match builder.build().await {
            Ok(client) => client.secrets().get("shop/db").await.unwrap_err(),
            Err(error) => error,
        };
        assert!(
            matches!(error, Error::Connect { cause: ConnectCause::ClientCertificate { .. }, .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_waited_for_no_longer_than_a_call_may_take() {
    let ca = Ca::new();
    let silent = std::net::TcpListener::bind("localhost:0").unwrap();
    let builder = to(silent.local_addr().unwrap().port(), &ca, &ca);
    let built = builder.deadline(Duration::from_millis(100)).build();
    // Less than what a connection may take where calls may take longer.
    let error = tokio::time::timeout(Duration::from_secs(4), built).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_without_http2_is_named_as_such() {
    let ca = Ca::new();
    let port = serve_tls(&ca, "localhost", b"http/1.1", Script::default()).await;
    let error = to(port, &ca, &ca).build().await.unwrap_err();
    assert!(matches!(error, Error::Connect { cause: ConnectCause::Protocol { .. }, .. }), "{error:?}");
}

#[tokio::test]
async fn nobody_listening_is_no_refusal() {
    let ca = Ca::new();
    let error = to(1, &ca, &ca).build().await.unwrap_err();
    assert!(matches!(error, Error::Connect { cause: ConnectCause::NoConnection, .. }), "{error:?}");
    assert!(error.refusal().is_none());
    let causes: Vec<_> = error.causes().iter().map(ToString::to_string).collect();
    assert!(causes.iter().all(|cause| cause.starts_with("Connection refused")), "{causes:?}");
    assert!(!causes.is_empty());
}

#[tokio::test]
async fn reads_and_puts_are_repeated_and_a_put_keeps_its_request_id() {
    let script = Script::failing([unavailable(None), unavailable(None)]);
    let (client, _dir) = over_socket(script.clone(), |builder| builder).await;
    client.secrets().get("shop/db").await.unwrap();
    assert_eq!(script.headers.lock().unwrap().len(), 3);

    script.answers.lock().unwrap().extend([unavailable(None), unavailable(None)]);
    client.secrets().put("shop/db", SecretValue::data("x")).await.unwrap();
    client.secrets().put("shop/db", SecretValue::data("x")).await.unwrap();
    let ids = script.request_ids.lock().unwrap().clone();
    assert_eq!(ids.len(), 4);
    assert!(ids[0].len() == 32 && ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    assert_ne!(ids[2], ids[3]);
}

#[tokio::test]
async fn what_might_happen_twice_is_not_repeated() {
    let script = Script::failing([unavailable(None)]);
    let (client, _dir) = over_socket(script.clone(), |builder| builder).await;
    let error = client.secrets().delete("shop/db", &[1]).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { retry_after: None, .. }), "{error:?}");
    assert_eq!(script.headers.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_time_beyond_the_deadline_is_not_waited_for() {
    let script = Script::failing([unavailable(Some(Duration::from_secs(60)))]);
    let (client, _dir) =
        over_socket(script.clone(), |builder| builder.deadline(Duration::from_secs(2))).await;
    let error = client.secrets().get("shop/db").await.unwrap_err();
    let asked = Duration::from_secs(60);
    assert!(
        matches!(error, Error::Unavailable { retry_after: Some(after), .. } if after == asked),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_the_server_knows_it() {
    let script = Script { hang: true, ..Script::default() };
    let deadline = Duration::from_millis(200);
    let (client, _dir) =
        over_socket(script.clone(), |builder| builder.deadline(deadline).token("kst_abc")).await;
    let error = client.secrets().get("shop/db").await.unwrap_err();
    assert!(matches!(error, Error::DeadlineExceeded { after } if after == deadline), "{error:?}");
    let (authorization, timeout) = script.headers.lock().unwrap()[0].clone();
    assert_eq!(authorization, "Bearer kst_abc");
    assert!(!timeout.is_empty());
}
