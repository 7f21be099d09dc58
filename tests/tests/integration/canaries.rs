//! Canaries in every secret field, looked for wherever the server leaves something. The same search finds a marker that
//! was planted, in the clear and through the store's own files.

use keystead_client::{Client, InitRequest, PutOptions, SecretBytes, SecretValue, v1};
use keystead_storage::{Batch, Keyspace, Storage};
use keystead_storage_rocksdb::{Options, RocksStorage};
use keystead_tests::canary::{Canaries, files_below};
use keystead_tests::{ADMIN_SPIFFE, ServerProcess, children_of, spiffe_matcher, until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::services::http_get;

const VALUE: &str = "canary-value-7f3a9c51";
const FIELD: &str = "canary-field-0b44de82";
const REFUSED: &str = "canary-refused-91c2ab37";
const WRONG_PIN: &str = "canary-pin-55e0d1f6";
const TOKEN: &str = "kst_canarytoken4c7d2e19";
const SHARE: &str = "ks1-share-canary-3f9e-8b1c";
const MARKER: &str = "marker-d2b7c4a08e";

/// Every message that a caller could get to see.
#[derive(Default)]
struct Errors(String);

impl Errors {
    fn note<T>(&mut self, answer: Result<T, keystead_client::Error>) {
        let error = answer.err().expect("this had to be refused");
        self.0.push_str(&format!("{error}\n{error:?}\n"));
    }
}

async fn provoke(server: &ServerProcess, operator: &Client, errors: &mut Errors) {
    let value = || SecretValue::fields([("password", REFUSED)]);
    let secrets = operator.secrets();
    errors.note(secrets.put("a//b", value()).await);
    errors.note(secrets.put_expecting("app/fields", value(), 7).await);
    errors.note(secrets.put("app/big", SecretValue::data(REFUSED.repeat(60_000))).await);
    errors.note(secrets.put("app/x", SecretValue::fields([("bad name", REFUSED)])).await);
    let id = || PutOptions { request_id: Some("once".to_owned()), ..PutOptions::default() };
    secrets.put_with("app/once", SecretValue::data(VALUE), id()).await.unwrap();
    errors.note(secrets.put_with("app/once", value(), id()).await);
    let nobody = server.client(&server.pki().client("spiffe://test/service/nobody"));
    errors.note(nobody.secrets().put("app/x", value()).await);
    errors.note(server.anonymous().secrets().put("app/x", value()).await);
    errors.note(server.bearer(TOKEN).auth().who_am_i().await);
    errors.note(server.bearer(&TOKEN[4..]).auth().who_am_i().await);
    errors.note(server.local().system().submit_share(&SHARE.into(), "").await);
    server.signal(Signal::HUP);

    // A caller that pastes a token where TLS is spoken, and a token that goes away: both are logged.
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(TOKEN.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        errors.0.push_str(&String::from_utf8_lossy(&answer));
    }
    let (tokens, aside) = (&server.token().tokens, server.dir().join("aside"));
    std::fs::rename(tokens, &aside).unwrap();
    for id in children_of(server.id()).unwrap() {
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), Signal::KILL).unwrap();
    }
    let value = || SecretValue::data(REFUSED);
    let refused = until("a write is refused", || async { secrets.put("app/y", value()).await.err() }).await;
    errors.note(Err::<(), _>(refused));
    std::fs::rename(&aside, tokens).unwrap();
    until("writes work again", || async { secrets.put("app/y", value()).await.ok() }).await;
}

#[tokio::test]
async fn no_secret_is_found_in_what_the_server_leaves_behind() {
    let mut server = ServerProcess::start_with(&[
        ("log.level", "trace"),
        ("audit.json_file", "data/audit.json"),
        ("audit.durability", "os"),
        ("audit.reserve_mib", "1"),
    ])
    .await;
    let mut canaries = Canaries::new();
    let mut errors = Errors::default();
    let local = server.local();

    let wrong = InitRequest { hsm_pin: WRONG_PIN.into(), operators: Vec::new(), ..server.init_request() };
    errors.note(local.system().initialize(wrong).await);
    let request = InitRequest { operators: Vec::new(), ..server.init_request() };
    let made = local.system().initialize(request).await.unwrap();
    server.keep_shares(&made);
    errors.note(local.system().submit_share(&SHARE.into(), "").await);
    server.unseal().await;
    let token = made.bootstrap_token.as_ref().unwrap().expose_str().unwrap().to_owned();
    let bootstrap = server.bearer(&token);
    let admin = v1::Principal {
        name: "operator/admin".to_owned(),
        groups: vec!["admins".to_owned()],
        certificates: vec![spiffe_matcher(ADMIN_SPIFFE)],
        ..v1::Principal::default()
    };
    bootstrap.auth().put_principal(admin).await.unwrap();
    errors.note(bootstrap.secrets().put("a//b", SecretValue::data(REFUSED)).await);

    let operator = server.operator();
    let secrets = operator.secrets();
    let bytes: Vec<u8> = (0..64_u8).map(|number| number.wrapping_mul(91).wrapping_add(17)).collect();
    secrets.put("app/data", SecretValue::data(VALUE)).await.unwrap();
    secrets.put("app/bytes", SecretValue::data(bytes.clone())).await.unwrap();
    secrets.put("app/fields", SecretValue::fields([("user", "plain"), ("password", FIELD)])).await.unwrap();
    // Far beyond one write buffer's comfort, so that values reach table files too.
    for number in 0..8 {
        let path = format!("app/long-name-of-a-secret-{number}");
        secrets.put(&path, SecretValue::data(VALUE.repeat(20_000))).await.unwrap();
    }
    secrets.batch_get(&["app/data", "app/bytes", "app/fields"]).await.unwrap();
    secrets.delete("app/data", &[1]).await.unwrap();
    errors.note(secrets.get("app/data").await);
    secrets.destroy("app/data", &[1]).await.unwrap();
    provoke(&server, &operator, &mut errors).await;
    server
        .policy(
            "about",
            &format!("// {MARKER}\npermit (principal == Keystead::Service::\"{MARKER}\", action, resource);"),
        )
        .await;

    for (name, value) in [
        ("value", VALUE),
        ("field", FIELD),
        ("refused value", REFUSED),
        ("wrong PIN", WRONG_PIN),
        ("PIN", server.token().pin.as_str()),
        ("security officer's PIN", server.token().so_pin.as_str()),
        ("made-up token", &TOKEN[4..]),
        ("bootstrap token", &token[4..]),
        ("made-up share", &SHARE[10..]),
    ] {
        canaries.plant(name, value);
    }
    canaries.plant("bytes", &bytes);
    for (number, share) in server.shares().iter().enumerate() {
        canaries.plant(&format!("share {}", number + 1), share);
        // The digits that are this holder's alone, with and without the dashes.
        let tail = &share[share.len() - 70..];
        canaries.plant(&format!("end of share {}", number + 1), tail);
        canaries.plant(&format!("undashed share {}", number + 1), tail.replace('-', ""));
    }
    let mut names_in_store = Canaries::new();
    names_in_store.plant("path", "app/fields");
    names_in_store.plant("segment", "long-name-of-a-secret");

    canaries.absent_from("the errors", &errors.0);
    let metrics = http_get(server.metrics_address(), "/metrics").await;
    assert!(metrics.contains("keystead_requests_total"));
    canaries.absent_from("the metrics", metrics);
    let entries = format!("{:?}", server.audit().await);
    assert!(entries.contains("secret/app/fields"));
    canaries.absent_from("the audit trail", entries);
    let running = canaries.found_below(&server.data_dir());
    assert!(running.is_empty(), "files of the running server: {running:?}");

    server.seal().await;
    let sealed = canaries.found_below(&server.data_dir());
    assert!(sealed.is_empty(), "files of the sealed server: {sealed:?}");
    assert_eq!(server.terminate().await.code(), Some(0));
    let ended = canaries.found_below(&server.data_dir());
    assert!(ended.is_empty(), "files of the ended server: {ended:?}");
    canaries.absent_from("the log", server.stderr());
    let said = server.stderr().lines().count();
    assert!(said > 8, "the log says too little to be searched: {}", server.stderr());
    let names = names_in_store.found_below(&server.data_dir().join("store"));
    assert!(names.is_empty(), "names of secrets in the store: {names:?}");

    the_search_finds_what_is_there(&server).await;
}

/// The marker went in as a policy's text, which is sealed: it is in the audit's JSON only, where names are shown. Then
/// it is planted in the store, as a value that nobody sealed.
async fn the_search_finds_what_is_there(server: &ServerProcess) {
    let mut marker = Canaries::new();
    marker.plant("marker", MARKER);
    let store = server.data_dir().join("store");
    assert!(marker.found_below(&store).is_empty(), "a policy's text lies open in the store");
    let mut shown = Canaries::new();
    shown.plant("audited path", "secret/app/fields");
    assert!(
        !shown.found_below(&server.data_dir()).is_empty(),
        "the JSON file is not among the files searched"
    );
    assert!(files_below(&server.data_dir()).len() > 5);
    let mut logged = Canaries::new();
    logged.plant("logged", "the vault is sealed");
    assert!(!logged.found_in(server.stderr()).is_empty());

    let opened = RocksStorage::open(&store, Options::default()).unwrap();
    let mut batch = Batch::new();
    batch.put(Keyspace::Secrets, vec![1; 24], format!("{}{MARKER}", "a".repeat(4096)).into_bytes());
    opened.commit(batch).await.unwrap();
    let in_log: Vec<_> = marker.found_below(&store);
    assert!(!in_log.is_empty(), "the search does not see into the write-ahead log");
    opened.flush().await.unwrap();
    let tables = marker.found_below(&store).into_iter();
    let tables = tables.filter(|(path, _)| path.extension().is_some_and(|kind| kind == "sst")).count();
    assert!(tables > 0, "the search does not see into table files");
    opened.close().await.unwrap();

    let mut token = Canaries::new();
    let secret = SecretBytes::from("printed-by-debug-1");
    token.plant("printed", secret.expose());
    for text in [
        format!("{:?}", secret.expose()),
        data_encoding::HEXLOWER.encode(secret.expose()),
        data_encoding::BASE64.encode(format!("xy{}", "printed-by-debug-1").as_bytes()),
        "… printed-by-debug-1 …".to_owned(),
    ] {
        assert!(!token.found_in(&text).is_empty(), "the search does not know the form {text}");
    }
}
