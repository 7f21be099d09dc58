//! Requests as such: paths that are none, request ids, refusals that tell nothing.

use std::sync::Arc;
use std::time::Duration;

use keystead_client::{Code, PutOptions, SecretValue};
use keystead_core::clock::ManualClock;
use keystead_domain::time::UnixMillis;
use keystead_proto::v1;
use keystead_proto::v1::secrets_service_client::SecretsServiceClient;
use keystead_storage::{Keyspace, Range, Storage};
use keystead_storage_rocksdb::{Options, RocksStorage};
use keystead_tests::{TestVault, pki, raw};
use tonic_types::StatusExt;

use crate::{SHOP, get, put, reason};

pub(crate) fn manual_clock() -> Arc<ManualClock> {
    let now = pki::now().as_millis();
    Arc::new(ManualClock::new(UnixMillis(u64::try_from(now).unwrap())))
}

#[tokio::test]
async fn a_path_that_is_none_is_refused_with_its_place() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    put(&operator, "a/b", "x").await;
    let seventeen = vec!["s"; 17].join("/");
    let long =
        format!("{}/x", ["s".repeat(127), "s".repeat(127), "s".repeat(127), "s".repeat(127)].join("/"));
    assert_eq!(long.len(), 513);
    let bad = [
        "",
        "/",
        ".",
        "..",
        "a/.",
        "a/..",
        "a/../b",
        "./a/b",
        "a//b",
        "/a/b",
        "a/b/",
        "a%2fb",
        "%2e%2e/b",
        "a/%2e",
        "a\\b",
        "a b",
        "a/b\0",
        "a\0/b",
        "ä/b",
        "a/ｂ",
        "a/b\u{200b}",
        "a/b\n",
        "a/*",
        "a/-b",
        "a/b.",
        &seventeen,
        &long,
    ];
    let secrets = operator.secrets();
    for path in bad {
        let error = secrets.get(path).await.unwrap_err();
        let refusal = error.refusal().unwrap();
        assert_eq!((refusal.code, error.reason()), (Code::InvalidArgument, "INVALID_ARGUMENT"), "{path:?}");
        assert_eq!(refusal.fields[0].field, "path", "{path:?}");
        assert!(refusal.message.starts_with("path: "), "{path:?}: {}", refusal.message);
        assert_eq!(refusal.message.matches("path: ").count(), 1, "{path:?}: {}", refusal.message);
        assert_eq!(reason(secrets.put(path, SecretValue::data("x")).await), "INVALID_ARGUMENT", "{path:?}");
        assert_eq!(reason(secrets.history(path).await), "INVALID_ARGUMENT", "{path:?}");
    }
    let nothing_new = secrets.list("").collect().await.unwrap();
    assert_eq!(nothing_new.len(), 1);

    let sixteen = vec!["s"; 16].join("/");
    let longest = format!("{}/{}", vec!["s".repeat(126); 4].join("/"), "xxxx");
    assert_eq!(longest.len(), 512);
    for path in [sixteen.as_str(), longest.as_str(), "_", "A", "a@b:c=d-e._f"] {
        put(&operator, path, "good").await;
        assert_eq!(get(&operator, path).await, "good");
    }
    assert_eq!(reason(secrets.get("A/b").await), "NOT_FOUND", "case counts");
}

#[tokio::test]
async fn a_service_reads_its_own_and_learns_nothing_of_others() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    vault.policy("shop", SHOP).await;
    let shop = vault.service("shop").await;
    put(&operator, "shop/db", "mine").await;
    put(&operator, "bank/db", "theirs").await;
    assert_eq!(get(&shop, "shop/db").await, "mine");
    assert_eq!(reason(shop.secrets().get("shop/absent").await), "NOT_FOUND");

    let refusal = async |path: &str| {
        let error = shop.secrets().get(path).await.unwrap_err();
        let mut refusal = error.refusal().unwrap().clone();
        let id = refusal.metadata.remove("reason_id").unwrap();
        refusal.message = refusal.message.replace(&id, "<id>");
        (refusal, id)
    };
    let (existing, first) = refusal("bank/db").await;
    let (absent, second) = refusal("bank/absent").await;
    assert_eq!(existing, absent);
    assert_eq!((existing.code, existing.reason.as_str()), (Code::PermissionDenied, "DENIED"));
    assert_ne!(first, second);
    assert!(!existing.message.contains("bank"), "{}", existing.message);
    let value = || SecretValue::data("x");
    assert_eq!(reason(shop.secrets().put("bank/db", value()).await), "DENIED");
    assert_eq!(reason(shop.secrets().list("bank").collect().await), "DENIED");
    assert_eq!(reason(shop.secrets().list("").collect().await), "DENIED");
    assert_eq!(reason(shop.secrets().destroy("bank/db", &[1]).await), "DENIED");
    assert_eq!(reason(shop.secrets().get("shopping/db").await), "DENIED", "a prefix of letters is no folder");

    let by_id: Vec<_> = vault.audit().await.into_iter().filter(|entry| entry.request_id == first).collect();
    assert_eq!((by_id.len(), by_id[0].resource.as_str()), (1, "secret/bank/db"));
}

#[tokio::test]
async fn a_repeated_request_id_answers_the_first_answer() {
    let clock = manual_clock();
    let vault = TestVault::builder().clock(clock.clone()).start().await;
    vault.policy("shop", SHOP).await;
    let (operator, shop) = (vault.operator(), vault.service("shop").await);
    let with = |id: &str| PutOptions { request_id: Some(id.to_owned()), ..PutOptions::default() };
    let secrets = operator.secrets();
    let first = secrets.put_with("shop/a", SecretValue::data("one"), with("id-1")).await.unwrap();
    let again = secrets.put_with("shop/a", SecretValue::data("one"), with("id-1")).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(secrets.history("shop/a").await.unwrap().current_version, 1);

    for other in [
        secrets.put_with("shop/a", SecretValue::data("two"), with("id-1")).await,
        secrets.put_with("shop/b", SecretValue::data("one"), with("id-1")).await,
        secrets
            .put_with(
                "shop/a",
                SecretValue::data("one"),
                PutOptions { expected_version: Some(1), ..with("id-1") },
            )
            .await,
    ] {
        assert_eq!(reason(other), "REQUEST_ID_REUSED");
    }
    let other_caller = shop.secrets().put_with("shop/a", SecretValue::data("two"), with("id-1")).await;
    assert_eq!(other_caller.unwrap().version, 2, "ids belong to their caller");

    let race = (0..6).map(|_| secrets.put_with("shop/c", SecretValue::data("x"), with("id-2")));
    for answer in futures::future::join_all(race).await {
        assert_eq!(answer.unwrap().version, 1);
    }

    clock.advance(Duration::from_secs(24 * 3600 + 1));
    let late = secrets.put_with("shop/a", SecretValue::data("one"), with("id-1")).await.unwrap();
    assert_eq!(late.version, 3, "after a day the id is forgotten");
}

#[tokio::test]
async fn answers_kept_for_repeats_are_removed_after_a_day_and_not_before() {
    let clock = manual_clock();
    let mut vault = TestVault::builder().clock(clock.clone()).start().await;
    let secrets = vault.operator().secrets();
    let put = |path: &'static str| {
        let options = PutOptions { request_id: Some(path.replace('/', "-")), ..PutOptions::default() };
        secrets.put_with(path, SecretValue::data("x"), options)
    };
    for path in ["old/a", "old/b", "old/c"] {
        put(path).await.unwrap();
    }
    clock.advance(Duration::from_secs(3600));
    put("new/a").await.unwrap();
    let tidy = async || vault.vault().unsealed().unwrap().upkeep().await.unwrap();
    clock.advance(Duration::from_secs(23 * 3600 - 1));
    tidy().await;
    let jobs = async || {
        let entries = vault.audit().await;
        let done =
            entries.into_iter().filter(|entry| entry.action == "tidy-request-ids" && entry.outcome == "ok");
        done.map(|entry| (entry.kind, entry.principal)).collect::<Vec<_>>()
    };
    assert!(jobs().await.is_empty(), "nothing is a day old");
    clock.advance(Duration::from_secs(1));
    tidy().await;
    assert_eq!(jobs().await, [("outcome".to_owned(), "system/tidy-request-ids".to_owned())]);
    assert_eq!(put("new/a").await.unwrap().version, 1, "the younger answer is still there");
    assert_eq!(put("old/a").await.unwrap().version, 2, "the old one is gone");

    vault.stop().await;
    let store = RocksStorage::open(&vault.data_dir().join("store"), Options::default()).unwrap();
    let kept = store.snapshot().await.unwrap().range(Keyspace::Requests, Range::all(None), 10).await.unwrap();
    assert_eq!(kept.len(), 2, "of new/a, and of the second put of old/a");
}

#[tokio::test]
async fn refusals_carry_reason_domain_and_field() {
    let vault = TestVault::builder().sealed().start().await;
    let mut rpc = SecretsServiceClient::new(raw::channel(&vault, Some(vault.admin())));
    let read = |path: &str| v1::GetSecretRequest { path: path.to_owned(), version: 0 };
    let sealed = rpc.get_secret(read("a")).await.unwrap_err().get_error_details();
    let info = sealed.error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.domain.as_str()), ("SEALED", "keystead"));
    assert_eq!(sealed.precondition_failure().unwrap().violations[0].r#type, "SEALED");

    vault.unseal().await;
    let status = rpc.get_secret(read("a//b")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().domain, "keystead");
    assert_eq!(details.bad_request().unwrap().field_violations[0].field, "path");
    let mut nobody = SecretsServiceClient::new(raw::channel(&vault, None));
    let status = nobody.get_secret(read("a")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "UNAUTHENTICATED");
}
