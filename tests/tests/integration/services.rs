//! What every gRPC tool expects: health, reflection; and the metrics.

use std::net::SocketAddr;

use keystead_client::Code;
use keystead_tests::{TestVault, raw, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::{put, reason};

const OWN: [&str; 9] = [
    "SystemService",
    "SecretsService",
    "AuthService",
    "PoliciesService",
    "AuditService",
    "KeysService",
    "CredentialsService",
    "StaticRolesService",
    "LeasesService",
];

#[tokio::test]
async fn health_tells_each_service_by_itself() {
    let vault = TestVault::builder().sealed().start().await;
    let health = HealthClient::new(raw::channel(&vault, None));
    let status = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        health.clone().check(request).await.map(|answer| answer.into_inner().status())
    };
    let all_of_them = async |open: ServingStatus| {
        for service in OWN {
            let expected = if service == "SystemService" { ServingStatus::Serving } else { open };
            let name = format!("keystead.v1.{service}");
            until("health follows the seal", || async {
                (status(&name).await.unwrap() == expected).then_some(())
            })
            .await;
        }
        assert_eq!(status("").await.unwrap(), ServingStatus::Serving);
    };
    all_of_them(ServingStatus::NotServing).await;
    vault.unseal().await;
    all_of_them(ServingStatus::Serving).await;
    vault.seal().await;
    all_of_them(ServingStatus::NotServing).await;
    assert_eq!(status("keystead.v1.NoSuchService").await.unwrap_err().code(), Code::NotFound);
}

/// Asks one version of reflection for its services and for one symbol.
macro_rules! reflected {
    ($version:ident, $vault:expr) => {{
        use tonic_reflection::pb::$version::ServerReflectionRequest;
        use tonic_reflection::pb::$version::server_reflection_client::ServerReflectionClient;
        use tonic_reflection::pb::$version::server_reflection_request::MessageRequest;
        use tonic_reflection::pb::$version::server_reflection_response::MessageResponse;

        let mut rpc = ServerReflectionClient::new(raw::channel($vault, None));
        let ask = |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let questions = tokio_stream::iter([
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol("keystead.v1.SecretsService".to_owned())),
        ]);
        let mut answers = rpc.server_reflection_info(questions).await.unwrap().into_inner();
        let services = match answers.message().await.unwrap().unwrap().message_response.unwrap() {
            MessageResponse::ListServicesResponse(list) => list.service,
            other => panic!("{other:?}"),
        };
        let names: Vec<String> = services.into_iter().map(|service| service.name).collect();
        match answers.message().await.unwrap().unwrap().message_response.unwrap() {
            MessageResponse::FileDescriptorResponse(file) => assert!(!file.file_descriptor_proto.is_empty()),
            other => panic!("{other:?}"),
        }
        names
    }};
}

#[tokio::test]
async fn reflection_speaks_both_versions() {
    let vault = TestVault::builder().sealed().start().await;
    for names in [reflected!(v1, &vault), reflected!(v1alpha, &vault)] {
        for service in OWN {
            assert!(names.contains(&format!("keystead.v1.{service}")), "{names:?}");
        }
        assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
    }
}

pub(crate) async fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn metrics_count_and_name_nobody() {
    let vault = TestVault::start().await;
    put(&vault.operator(), "hidden/name", "x").await;
    assert_eq!(reason(vault.anonymous().secrets().get("hidden/name").await), "UNAUTHENTICATED");
    let text = http_get(vault.metrics_address(), "/metrics").await;
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    has("keystead_sealed 0");
    has("keystead_requests_total{method=\"/keystead.v1.SecretsService/PutSecret\",code=\"OK\"} 1");
    has(
        "keystead_requests_total{method=\"/keystead.v1.SecretsService/GetSecret\",code=\"UNAUTHENTICATED\"} 1",
    );
    for name in ["hidden", "admin", "127.0.0.1"] {
        assert!(!text.contains(name), "the metrics tell {name}");
    }
    assert!(http_get(vault.metrics_address(), "/").await.starts_with("HTTP/1.1 404"));
    vault.seal().await;
    until("the metrics see the seal", || async {
        http_get(vault.metrics_address(), "/metrics").await.contains("keystead_sealed 1").then_some(())
    })
    .await;
}
