//! The process: SIGTERM, SIGHUP, `kill -9`.

use std::path::Path;

use keystead_client::{ConnectCause, Error, v1};
use keystead_tests::{PATIENCE, ServerProcess, children_of, raw, until};
use rcgen::SerialNumber;
use rustix::process::Signal;

use crate::{get, put, reason};

async fn gone(processes: Vec<u32>) {
    assert!(!processes.is_empty(), "an HSM process runs while the server does");
    until("the HSM's process is gone", || async {
        processes.iter().all(|id| !Path::new(&format!("/proc/{id}")).exists()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn sigterm_drains_seals_and_ends_well() {
    // Longer than this test waits: a stream that is not ended would hold the server up.
    let mut server = ServerProcess::start_with(&[("limits.drain_timeout_ms", "600000")]).await;
    server.init().await;
    server.unseal().await;
    let operator = server.operator();
    put(&operator, "a", "x").await;
    let mut follower = operator.audit().tail(0, true).await.unwrap();
    let workers = children_of(server.id()).unwrap();
    let status = server.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
    gone(workers).await;
    // Whoever follows is told, and does not take it for the end.
    let over = loop {
        match follower.next().await {
            Ok(Some(_)) => {}
            over => break over,
        }
    };
    assert_eq!(reason(over), "INTERRUPTED");
    let said = server.stderr();
    assert!(said.contains("draining, then sealing") && said.contains("sealed and stopped"), "{said}");
    assert!(!server.socket().exists());

    server.start_again().await;
    server.unseal().await;
    assert_eq!(get(&server.operator(), "a").await, "x");
    let entries = server.audit().await;
    let seal = entries.iter().find(|entry| entry.action == "system:seal").unwrap();
    assert_eq!((seal.kind.as_str(), seal.detail["why"].as_str()), ("system", "SIGTERM"));
}

#[tokio::test]
async fn sighup_takes_new_certificates_and_keeps_the_old_when_they_are_bad() {
    let server = ServerProcess::start().await;
    let shown = async || {
        let stream = raw::handshake(&server, None).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown().await;
    let renewed = server.pki().renew_server();
    assert_eq!(shown().await, first, "nothing changes before the signal");
    server.signal(Signal::HUP);
    until("the new certificate is shown", || async { (shown().await == renewed).then_some(()) }).await;

    std::fs::write(server.pki().server().cert, "no certificate").unwrap();
    server.signal(Signal::HUP);
    until("the server says no", || async {
        server.stderr().contains("certificates not reloaded").then_some(())
    })
    .await;
    assert_eq!(shown().await, renewed);
}

#[tokio::test]
async fn sighup_takes_a_new_client_ca() {
    let server = ServerProcess::start().await;
    server.init().await;
    server.unseal().await;
    let operator = server.operator();
    operator.auth().who_am_i().await.unwrap();
    let stranger = server.pki().stranger(keystead_tests::ADMIN_SPIFFE);
    assert!(server.client(&stranger).auth().who_am_i().await.is_err());
    let other_ca = stranger.cert.parent().unwrap().join("ca.pem");
    let own_ca = server.pki().ca();
    let kept = std::fs::read(&own_ca).unwrap();
    std::fs::write(server.dir().join("kept.pem"), &kept).unwrap();
    std::fs::copy(other_ca, &own_ca).unwrap();
    server.signal(Signal::HUP);
    let builder = || {
        keystead_client::Client::builder()
            .addr(format!("https://localhost:{}", server.address().port()))
            .ca_cert_file(server.dir().join("kept.pem"))
    };
    let newcomer = builder().identity_files(&stranger.cert, &stranger.key).build_lazy().unwrap();
    until("the other CA counts", || async { newcomer.auth().who_am_i().await.ok() }).await;
    // The CA that vouched for the open connection is trusted no more.
    assert!(operator.auth().who_am_i().await.is_err(), "an open connection outlives its CA");
}

#[tokio::test]
async fn sighup_takes_a_new_revocation_list() {
    const SERIAL: u64 = 4711;
    let mut server = ServerProcess::prepare(&[("tls.crl_files", "tls/ca.crl")]);
    server.pki().revoke(&[]);
    server.start_again().await;
    server.init().await;
    server.unseal().await;
    let operator = server.operator();
    server.register_service("shop").await;
    let numbered = |serial: u64| {
        server.pki().client_with("spiffe://test/service/shop", |params| {
            params.serial_number = Some(SerialNumber::from(serial));
        })
    };
    let (lost, kept) = (server.client(&numbered(SERIAL)), server.client(&numbered(SERIAL + 1)));
    for caller in [&lost, &kept, &operator] {
        caller.auth().who_am_i().await.unwrap();
    }
    let follow = "permit (principal == Keystead::Service::\"shop\", action == Keystead::Action::\"audit:read\", resource);";
    server.policy("follow", follow).await;
    let mut followers =
        [lost.audit().tail(1, true).await.unwrap(), kept.audit().tail(1, true).await.unwrap()];
    for follower in &mut followers {
        follower.next().await.unwrap().unwrap();
    }
    server.pki().revoke(&[SERIAL]);
    lost.auth().who_am_i().await.expect("nothing changes before the signal");
    server.signal(Signal::HUP);
    until("the server has the list", || async {
        server.stderr().contains("certificates reloaded").then_some(())
    })
    .await;
    assert_eq!(reason(lost.secrets().get("seen").await), "UNAUTHENTICATED", "on its open connection");
    let [mut cut_off, mut goes_on] = followers;
    let end = async {
        loop {
            if let Err(error) = cut_off.next().await {
                return error;
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, end).await.expect("a stream outlives its certificate");
    assert_eq!(end.reason(), "UNAUTHENTICATED");
    while goes_on.next().await.unwrap().unwrap().resource != "secret/seen" {}
    for caller in [&kept, &operator] {
        caller.auth().who_am_i().await.unwrap();
    }
    let anew = server.client(&numbered(SERIAL)).auth().who_am_i().await.unwrap_err();
    assert!(
        matches!(anew, Error::Connect { cause: ConnectCause::ClientCertificate { .. }, .. }),
        "a new connection is refused in its handshake: {anew:?}"
    );
    let refused = |entry: &v1::AuditEntry| entry.kind == "refused" && entry.resource == "secret/seen";
    let entry = server.audit().await.into_iter().find(refused).expect("the refusal is recorded");
    assert_eq!((entry.principal.as_str(), entry.outcome.as_str()), ("", "UNAUTHENTICATED"));
}

#[tokio::test]
async fn a_killed_server_comes_back_with_what_it_promised() {
    let mut server = ServerProcess::start().await;
    server.init().await;
    server.unseal().await;
    let workers = children_of(server.id()).unwrap();
    for number in 0..10 {
        put(&server.operator(), &format!("k/{number}"), "x").await;
    }
    server.kill().await;
    gone(workers).await;
    server.start_again().await;
    server.unseal().await;
    for number in 0..10 {
        assert_eq!(get(&server.operator(), &format!("k/{number}")).await, "x");
    }
    assert_eq!(server.terminate().await.code(), Some(0));
}
