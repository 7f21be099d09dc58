//! Whoever the server is not who it should be, nothing is sent to it.

use keystead_core::engine::EngineError;
use keystead_domain::target::{Host, PostgresSettings};
use keystead_engines::testing::postgres::{Certificate, PostgresServer};

use crate::site::{ADMIN, DATABASE, Site, link};

fn refused(error: EngineError, why: &str) {
    assert!(matches!(&error, EngineError::Identity { what, .. } if what.contains(why)), "{why}: {error}");
}

#[tokio::test]
async fn a_server_that_is_not_the_one_is_refused() {
    for (certificate, why) in [
        (Certificate::OtherName, "not valid for name"),
        (Certificate::Expired, "xpired"),
        (Certificate::OtherAuthority, "UnknownIssuer"),
        (Certificate::None, "offers no TLS"),
    ] {
        let server = PostgresServer::start_with(certificate).await.unwrap();
        let error = link(server.settings("postgres", ADMIN).unwrap()).probe().await.err().unwrap();
        refused(error, why);
        assert!(!server.log().contains("user=vault"), "no session was begun");
    }
}

#[tokio::test]
async fn another_name_in_the_certificate_can_be_configured_and_is_demanded_then() {
    let server = PostgresServer::start_with(Certificate::OtherName).await.unwrap();
    let settings = server.settings("postgres", ADMIN).unwrap();
    let with =
        |name: &str| PostgresSettings { server_name: Some(Host::parse(name).unwrap()), ..settings.clone() };
    let error = link(with("db.example.com")).probe().await.err().unwrap();
    assert!(matches!(error, EngineError::Admin { .. }), "TLS was good, the login is not there: {error}");
    refused(link(with("localhost")).probe().await.err().unwrap(), "not valid for name");
}

#[tokio::test]
async fn a_password_is_proven_by_scram_bound_to_tls_or_not_at_all() {
    let site = Site::start().await;
    for method in ["password", "md5", "trust"] {
        site.server.take_passwords_by(method).await.unwrap();
        // A SCRAM verifier makes md5 mean SCRAM.
        let error = site.new_link().probe().await.err();
        assert_eq!(error.is_none(), method == "md5", "{method}: {error:?}");
        if let Some(error) = error {
            let bound = matches!(&error, EngineError::Admin { what, .. } if what.contains("channel binding"));
            assert!(bound, "{method}: {error}");
        }
    }
}

#[test]
fn ca_certificates_that_are_none_are_refused_at_once() {
    use keystead_core::engine::{AdminLogin, Engine};
    let settings = PostgresSettings {
        host: Host::parse("localhost").unwrap(),
        port: std::num::NonZeroU16::MIN,
        database: crate::site::name(DATABASE),
        ca_pem: String::new(),
        server_name: None,
        admin: crate::site::name(ADMIN),
        connections: 1,
    };
    for ca_pem in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let settings = PostgresSettings { ca_pem: ca_pem.to_owned(), ..settings.clone() };
        let settings = keystead_domain::target::TargetSettings::Postgres(settings);
        let login = AdminLogin { secret: keystead_crypto::secret::SecretBytes::copy_from(b"x") };
        let linked =
            keystead_engines::postgres::PostgresEngine.link(crate::site::VAULT, "shopdb", &settings, login);
        assert!(matches!(linked.err().unwrap(), EngineError::Ca { .. }), "{ca_pem}");
    }
}
