//! Whom the handshake lets in, and what a reload changes for those who are in already.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::dates::LastDate;
use super::testing::{HOUR, INTERMEDIATE, Leaf, TestCa, client, dates, files, localhost, now, uri, write};
use super::{CertificateRefused, PeerIdentity, PeerRefused, San, TlsError, TlsReloader, verify};

async fn shake(reloader: &TlsReloader, ca: &TestCa, leaf: Option<&Leaf>) -> io::Result<Option<PeerIdentity>> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::new(client(ca, leaf)));
    let state = reloader.current();
    let acceptor = TlsAcceptor::from(state.server_config());
    let (accepted, _connected) = tokio::join!(acceptor.accept(near), connector.connect(localhost(), far));
    let stream = accepted?;
    let chain = stream.get_ref().1.peer_certificates();
    Ok(chain.map(|chain| state.identify(chain).unwrap()))
}

async fn shake_under(
    client_cas: &[&TestCa],
    crls: &[String],
    leaf: &Leaf,
) -> io::Result<Option<PeerIdentity>> {
    let dir = tempfile::tempdir().unwrap();
    let server_ca = TestCa::new("server CA");
    let reloader = TlsReloader::load(files(dir.path(), &server_ca, client_cas, crls)).unwrap();
    shake(&reloader, &server_ca, Some(leaf)).await
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

#[tokio::test]
async fn no_certificate_is_let_in_without_identity() {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new("ca");
    let reloader = TlsReloader::load(files(dir.path(), &ca, &[&ca], &[])).unwrap();
    assert_eq!(shake(&reloader, &ca, None).await.unwrap(), None);
}

#[tokio::test]
async fn good_certificate_gives_its_names_and_its_ca() {
    let (one, two) = (TestCa::new("one"), TestCa::new("two"));
    let leaf = two.leaf(7, |params| {
        params.subject_alt_names.push(uri("https://example.org"));
        params.subject_alt_names.push(rcgen::SanType::DnsName("shop.test".try_into().unwrap()));
        params.subject_alt_names.push(rcgen::SanType::Rfc822Name("jo@shop.test".try_into().unwrap()));
    });
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path(), &one, &[&one, &two], &[]);
    let reloader = TlsReloader::load(files.clone()).unwrap();
    let identity = shake(&reloader, &one, Some(&leaf)).await.unwrap().unwrap();
    let expected = [
        San::SpiffeUri("spiffe://test/service/shop".into()),
        San::Dns("shop.test".into()),
        San::Email("jo@shop.test".into()),
    ];
    assert_eq!(identity.sans(), expected);
    let pem = std::fs::read(&files.client_ca_file).unwrap();
    let anchors: Vec<_> = CertificateDer::pem_slice_iter(&pem).map(Result::unwrap).collect();
    assert_eq!(identity.ca_fingerprint(), &super::identity::sha256(&anchors[1]));
    assert_eq!(identity.fingerprint(), &super::identity::sha256(&leaf.chain[0]));
    assert!(identity.valid_at(millis(now())));
    assert!(!identity.valid_at(millis(now() + 2 * HOUR)));
    assert!(!identity.valid_at(millis(now() - 2 * HOUR)));
}

#[tokio::test]
async fn bad_certificates_fail_the_handshake() {
    let ca = TestCa::new("ca");
    let leaf = |edit: fn(&mut rcgen::CertificateParams)| ca.leaf(7, edit);
    let constrained = TestCa::with("ca", |params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("other.test".into())];
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    let short = TestCa::with("short", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    });
    let (below, below_certificate) = short.intermediate("below");
    let mut too_deep = below.leaf(7, |_| {});
    too_deep.chain.push(below_certificate);
    let old = TestCa::with("old", |params| dates(params, now() - 2 * HOUR, now() - HOUR));
    let mut long = ca.leaf(7, |_| {});
    let filler = long.chain[0].clone();
    long.chain.extend(vec![filler; 4]);
    let dns = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("shop.test".try_into().unwrap())];
    };
    let cases: Vec<(&str, &TestCa, Leaf)> = vec![
        ("unknown CA", &ca, TestCa::new("stranger").leaf(7, |_| {})),
        ("another CA of the same name", &ca, TestCa::new("ca").leaf(7, |_| {})),
        ("expired", &ca, leaf(|params| dates(params, now() - 2 * HOUR, now() - HOUR))),
        ("not yet valid", &ca, leaf(|params| dates(params, now() + HOUR, now() + 2 * HOUR))),
        (
            "for servers only",
            &ca,
            leaf(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        (
            "key usage without signatures",
            &ca,
            leaf(|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        ),
        ("two SPIFFE IDs", &ca, leaf(|params| params.subject_alt_names.push(uri("spiffe://test/service/b")))),
        (
            "a SPIFFE ID misspelled",
            &ca,
            leaf(|params| params.subject_alt_names = vec![uri("SPIFFE://test/a")]),
        ),
        ("a CA as a leaf", &ca, leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("name constraints", &constrained, constrained.leaf(7, dns)),
        ("path length", &short, too_deep),
        ("chain too long", &ca, long),
        ("a CA past its date", &old, old.leaf(7, |_| {})),
    ];
    for (what, anchor, leaf) in cases {
        assert!(shake_under(&[anchor], &[], &leaf).await.is_err(), "{what} was let in");
    }
    assert!(shake_under(&[&ca], &[], &ca.leaf(7, |_| {})).await.is_ok());
    let (allowed, certificate) = ca.intermediate("allowed");
    let mut deep = allowed.leaf(7, |_| {});
    deep.chain.push(certificate);
    assert!(shake_under(&[&ca], &[], &deep).await.is_ok());
}

#[tokio::test]
async fn revocation_lists_fail_closed() {
    let ca = TestCa::new("ca");
    let leaf = ca.leaf(7, |_| {});
    let until = now() + HOUR;
    assert!(shake_under(&[&ca], &[ca.crl(&[8], until)], &leaf).await.is_ok());
    assert!(shake_under(&[&ca], &[ca.crl(&[8, 7], until)], &leaf).await.is_err());
    // Signed by another key, of another CA, or out of date: the status is unknown.
    assert!(shake_under(&[&ca], &[TestCa::new("ca").crl(&[8], until)], &leaf).await.is_err());
    assert!(shake_under(&[&ca], &[TestCa::new("other").crl(&[8], until)], &leaf).await.is_err());
    assert!(shake_under(&[&ca], &[ca.crl(&[8], now() - HOUR)], &leaf).await.is_err());
}

#[tokio::test]
async fn a_reload_judges_open_connections_too() {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new("ca");
    let reloader = TlsReloader::load(files(dir.path(), &ca, &[&ca], &[ca.crl(&[8], now() + HOUR)])).unwrap();
    let leaf = ca.leaf(7, |_| {});
    let identity = shake(&reloader, &ca, Some(&leaf)).await.unwrap().unwrap();
    let at = millis(now());
    assert_eq!(reloader.check(&identity, at), Ok(()));
    assert_eq!(reloader.check(&identity, identity.not_after_ms()), Ok(()));
    assert_eq!(reloader.check(&identity, identity.not_after_ms() + 1), Err(PeerRefused::Expired));
    assert_eq!(reloader.check(&identity, 0), Err(PeerRefused::NotYetValid));

    write(&dir.path().join("0.crl"), "rubbish");
    assert!(reloader.reload().is_err());
    assert!(!reloader.is_revoked(&identity));
    assert!(shake(&reloader, &ca, Some(&leaf)).await.is_ok());

    write(&dir.path().join("0.crl"), &ca.crl(&[7], now() + HOUR));
    reloader.reload().unwrap();
    assert!(reloader.is_revoked(&identity));
    assert_eq!(reloader.check(&identity, at), Err(PeerRefused::Revoked));
    assert!(shake(&reloader, &ca, Some(&leaf)).await.is_err());

    write(&dir.path().join("0.crl"), &ca.crl(&[], now() + HOUR));
    write(&dir.path().join("ca.pem"), &TestCa::new("successor").pem());
    reloader.reload().unwrap();
    assert_eq!(reloader.check(&identity, at), Err(PeerRefused::UnknownCa));
}

#[tokio::test]
async fn a_revoked_intermediate_ends_what_it_issued() {
    let root = TestCa::new("root");
    let (below, certificate) = root.intermediate("below");
    let mut leaf = below.leaf(7, |_| {});
    leaf.chain.push(certificate);
    let dir = tempfile::tempdir().unwrap();
    let server_ca = TestCa::new("server CA");
    let lists = [root.crl(&[1], now() + HOUR), below.crl(&[1], now() + HOUR)];
    let reloader = TlsReloader::load(files(dir.path(), &server_ca, &[&root], &lists)).unwrap();
    let identity = shake(&reloader, &server_ca, Some(&leaf)).await.unwrap().unwrap();
    assert!(!reloader.is_revoked(&identity));
    write(&dir.path().join("0.crl"), &root.crl(&[INTERMEDIATE], now() + HOUR));
    reloader.reload().unwrap();
    assert!(reloader.is_revoked(&identity));
}

/// Puts a certificate of these dates, with its key, in the place of the server's.
fn replace_server(files: &crate::config::TlsConfig, from: Duration, until: Duration) {
    let leaf = TestCa::new("ca").leaf(1, |params| dates(params, from, until));
    write(&files.cert_file, &super::testing::pem("CERTIFICATE", &leaf.chain[0]));
    write(&files.key_file, &leaf.key.serialize_pem());
}

#[test]
fn a_server_certificate_out_of_its_dates_never_comes_into_force() {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new("ca");
    let files = files(dir.path(), &ca, &[&ca], &[]);
    let reloader = TlsReloader::load(files.clone()).unwrap();
    let first = reloader.current();

    replace_server(&files, now() - 2 * HOUR, now() - HOUR);
    for refused in [reloader.reload(), TlsReloader::load(files.clone()).map(drop)] {
        let Err(TlsError::Certificate { path, entry: 1, source: CertificateRefused::Expired { .. } }) =
            refused
        else {
            panic!("{refused:?}")
        };
        assert_eq!(path, files.cert_file);
    }
    replace_server(&files, now() + HOUR, now() + 2 * HOUR);
    for refused in [reloader.reload(), TlsReloader::load(files.clone()).map(drop)] {
        assert!(matches!(
            refused,
            Err(TlsError::Certificate { entry: 1, source: CertificateRefused::NotYetValid { .. }, .. })
        ));
    }
    assert!(Arc::ptr_eq(&first, &reloader.current()), "the old one stays");

    replace_server(&files, now() - HOUR, now() + HOUR);
    reloader.reload().unwrap();
    assert!(!Arc::ptr_eq(&first, &reloader.current()));
}

#[test]
fn a_server_certificate_counts_to_its_last_second_and_is_warned_of_before() {
    let day = 24 * HOUR;
    let leaf = TestCa::new("ca").leaf(1, |params| dates(params, 100 * day, 130 * day));
    let at = |time: Duration| LastDate::of(Path::new("server.pem"), &leaf.chain, millis(time));
    let message = |time| {
        let TlsError::Certificate { source, .. } = at(time).unwrap_err() else { panic!("another error") };
        source.to_string()
    };
    assert_eq!(
        message(100 * day - Duration::from_millis(1)),
        "it is not valid before 1970-04-11T00:00:00.000Z"
    );
    assert_eq!(message(130 * day + Duration::from_secs(1)), "it ended at 1970-05-11T00:00:00.999Z");
    let last = at(100 * day).unwrap();
    assert_eq!(at(130 * day + Duration::from_millis(999)).unwrap(), last);
    for (time, left) in [(100, None), (116, None), (117, Some(13)), (130, Some(0)), (131, Some(0))] {
        assert_eq!(last.few_days_left(millis(time * day)), left, "day {time}");
    }
}

#[test]
fn bad_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let ca = TestCa::new("ca");
    let good = files(dir.path(), &ca, &[&ca], &[]);
    let load = || TlsReloader::load(good.clone()).map(drop);

    std::fs::set_permissions(&good.key_file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(load(), Err(TlsError::KeyNotPrivate { mode: 0o644, .. })));
    std::fs::set_permissions(&good.key_file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(load().is_ok());

    let leaf = ca.leaf(7, |_| {});
    write(&good.client_ca_file, &super::testing::pem("CERTIFICATE", &leaf.chain[0]));
    let refused = load();
    assert!(matches!(
        refused,
        Err(TlsError::Certificate { entry: 1, source: CertificateRefused::NotCa, .. })
    ));
    write(&good.client_ca_file, "");
    assert!(matches!(load(), Err(TlsError::Empty { .. })));
    write(&good.client_ca_file, &ca.pem());
    write(&good.key_file, &leaf.key.serialize_pem());
    assert!(matches!(load(), Err(TlsError::Pair { .. })));
    std::fs::remove_file(&good.key_file).unwrap();
    assert!(matches!(load(), Err(TlsError::Read { .. })));
}

#[test]
fn huge_keys_are_refused_before_any_signature_is_checked() {
    let der = CertificateDer::from_pem_slice(include_bytes!("testdata/rsa-8192.pem")).unwrap();
    let refused = verify::check_ca(&der);
    assert_eq!(refused, Err(CertificateRefused::RsaBits { bits: 8192, least: 2048, most: 4096 }));
    let big = CertificateDer::from(vec![0x30; 20_000]);
    assert!(matches!(verify::check_ca(&big), Err(CertificateRefused::TooBig { .. })));
    assert_eq!(verify::check_ca(&CertificateDer::from(vec![1, 2])), Err(CertificateRefused::Malformed));
}
