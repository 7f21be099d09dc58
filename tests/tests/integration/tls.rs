//! Certificates and TLS as callers meet them.

use std::io::ErrorKind;
use std::time::Duration;

use keystead_client::{Client, ConnectCause, Error};
use keystead_tests::{Identity, TestVault, pki, raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::reason;
use crate::requests::manual_clock;

async fn refused_in_handshake(vault: &TestVault, identity: &Identity) -> String {
    match vault.client(identity).system().status().await.unwrap_err() {
        Error::Connect { cause: ConnectCause::ClientCertificate { alert }, .. } => alert,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_flawed_certificate_ends_the_handshake() {
    let vault = TestVault::start().await;
    let name = keystead_tests::ADMIN_SPIFFE;
    assert_eq!(refused_in_handshake(&vault, &vault.pki().stranger(name)).await, "UnknownCA");
    refused_in_handshake(&vault, &vault.pki().impostor(name)).await;
    assert_eq!(refused_in_handshake(&vault, &vault.pki().expired(name)).await, "CertificateExpired");
    refused_in_handshake(&vault, &vault.pki().server_only(name)).await;
    let future = vault.pki().client_with(name, |params| {
        let hour = Duration::from_secs(3600);
        pki::dates(params, pki::now() + hour, pki::now() + 2 * hour);
    });
    refused_in_handshake(&vault, &future).await;
    vault.operator().auth().who_am_i().await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_nobody_is_like_none() {
    let vault = TestVault::start().await;
    let nobody = vault.client(&vault.pki().client("spiffe://test/service/nobody"));
    nobody.system().status().await.unwrap();
    let texts = [nobody, vault.anonymous(), vault.local()]
        .map(|caller| async move { caller.secrets().get("a").await.unwrap_err() });
    for error in futures::future::join_all(texts).await {
        assert_eq!(error.reason(), "UNAUTHENTICATED");
        assert_eq!(error.to_string(), "the caller could not be authenticated");
    }
    let similar =
        ["spiffe://test/operator/admin/", "spiffe://test/operator/admi", "spiffe://test/operator/admin2"];
    for spiffe in similar {
        let client = vault.client(&vault.pki().client(spiffe));
        assert!(client.auth().who_am_i().await.is_err(), "{spiffe}");
    }
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_certificate() {
    let clock = manual_clock();
    let vault = TestVault::builder().clock(clock.clone()).start().await;
    let hour = Duration::from_secs(3600);
    let short = vault.pki().client_with(keystead_tests::ADMIN_SPIFFE, |params| {
        pki::dates(params, pki::now() - hour, pki::now() + hour);
    });
    let client = vault.client(&short);
    client.auth().who_am_i().await.unwrap();
    clock.advance(2 * hour);
    assert_eq!(reason(client.auth().who_am_i().await), "UNAUTHENTICATED");
    vault.operator().auth().who_am_i().await.unwrap();
}

#[tokio::test]
async fn the_client_trusts_no_other_server() {
    let vault = TestVault::start().await;
    let other = TestVault::builder().uninitialized().start().await;
    let client = Client::builder()
        .addr(format!("https://localhost:{}", vault.address().port()))
        .ca_cert_file(other.pki().ca())
        .build()
        .await;
    assert!(
        matches!(client, Err(Error::Connect { cause: ConnectCause::ServerCertificate { .. }, .. })),
        "{client:?}"
    );
}

/// A ClientHello of TLS 1.2, as a library of 2016 would send it.
fn hello_of_tls_1_2() -> Vec<u8> {
    let mut extensions = Vec::new();
    let mut extension = |kind: u16, body: &[u8]| {
        extensions.extend_from_slice(&kind.to_be_bytes());
        extensions.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        extensions.extend_from_slice(body);
    };
    extension(10, &[0, 4, 0, 29, 0, 23]);
    extension(11, &[1, 0]);
    extension(13, &[0, 6, 4, 3, 8, 4, 4, 1]);
    let mut body = vec![3, 3];
    body.extend_from_slice(&[42; 32]);
    body.push(0);
    body.extend_from_slice(&[0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    body.extend_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&extensions);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&u16::try_from(body.len() + 4).unwrap().to_be_bytes());
    record.push(1);
    record.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    record.extend_from_slice(&body);
    record
}

#[tokio::test]
async fn older_tls_and_plain_text_get_nowhere() {
    let vault = TestVault::builder().uninitialized().start().await;
    raw::handshake(&vault, None).await.unwrap();

    let mut stream = TcpStream::connect(vault.address()).await.unwrap();
    stream.write_all(&hello_of_tls_1_2()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    // A fatal alert (2), protocol_version (70), and nothing before it.
    assert_eq!((answer[0], &answer[5..]), (21, [2, 70].as_slice()), "{answer:?}");

    let mut stream = TcpStream::connect(vault.address()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    assert!(read.is_ok() || read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    assert!(!answer.windows(3).any(|bytes| bytes == [0, 0, 4]), "it speaks HTTP/2 in the clear: {answer:?}");
}
