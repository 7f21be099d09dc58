//! The life of a secret: versions, compare-and-set, lists, history, deletion, limits.

use std::collections::BTreeSet;

use keystead_client::{Code, PutOptions, SecretValue, VersionState, v1};
use keystead_proto::v1::secrets_service_client::SecretsServiceClient;
use keystead_tests::{TestVault, raw};

use crate::{SHOP, fields, get, put, reason};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn fields_and_bytes_come_back_as_they_were_put() {
    let mut vault = TestVault::start().await;
    let secrets = vault.operator().secrets();
    let value = SecretValue::fields([("user", "shop"), ("password", "p"), ("empty", "")]);
    let version = secrets.put("shop/db", value).await.unwrap();
    assert_eq!((version.version, version.created_by.as_str()), (1, "operator/admin"));
    let secret = secrets.get("shop/db").await.unwrap();
    assert_eq!(secret.value.field_names().collect::<Vec<_>>(), ["user", "password", "empty"]);
    assert_eq!(secret.field("password").unwrap().expose(), b"p");
    assert!(secret.field("empty").unwrap().is_empty());
    assert!(secret.field("other").is_err());

    let bytes: Vec<u8> = (0..=255).collect();
    secrets.put("shop/bytes", SecretValue::data(bytes.clone())).await.unwrap();
    let SecretValue::Data(read) = secrets.get("shop/bytes").await.unwrap().value else { panic!() };
    assert_eq!(read.expose(), bytes);

    vault.restart().await;
    vault.unseal().await;
    assert_eq!(
        vault.operator().secrets().get("shop/db").await.unwrap().field("user").unwrap().expose(),
        b"shop"
    );
    vault.stop().await;
}

#[tokio::test]
async fn compare_and_set_lets_one_writer_win() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let secrets = operator.secrets();
    let value = || SecretValue::data("x");
    assert_eq!(secrets.put_expecting("a/b", value(), 0).await.unwrap().version, 1);
    let error = secrets.put_expecting("a/b", value(), 0).await.unwrap_err();
    assert_eq!(error.reason(), "VERSION_MISMATCH");
    assert_eq!(error.refusal().unwrap().metadata["current_version"], "1");
    assert_eq!(reason(secrets.put_expecting("a/b", value(), 2).await), "VERSION_MISMATCH");

    let race = (0..8).map(|_| secrets.put_expecting("a/b", value(), 1));
    let results = futures::future::join_all(race).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for lost in results.into_iter().filter(Result::is_err) {
        assert_eq!(reason(lost), "VERSION_MISMATCH");
    }

    let all = (0..8).map(|_| put(&operator, "a/b", "y"));
    let versions: BTreeSet<u64> = futures::future::join_all(all).await.into_iter().collect();
    assert_eq!(versions, (3..=10).collect());
}

#[tokio::test]
async fn old_versions_stay_readable_and_history_is_newest_first() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    for value in ["one", "two", "three"] {
        put(&operator, "a", value).await;
    }
    let secrets = operator.secrets();
    let SecretValue::Data(first) = secrets.get_version("a", 1).await.unwrap().value else { panic!() };
    assert_eq!(first.expose(), b"one");
    assert_eq!(get(&operator, "a").await, "three");
    assert_eq!(reason(secrets.get_version("a", 4).await), "VERSION_NOT_FOUND");
    let history = secrets.history("a").await.unwrap();
    assert_eq!(history.versions.iter().map(|version| version.version).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!((history.current_version, history.versions[0].size_bytes), (3, 5));
    assert_eq!(reason(secrets.history("b").await), "NOT_FOUND");
}

#[tokio::test]
async fn delete_hides_undelete_brings_back_destroy_is_for_good() {
    let mut vault = TestVault::start().await;
    let operator = vault.operator();
    put(&operator, "a", "one").await;
    put(&operator, "a", "two").await;
    let secrets = operator.secrets();

    assert_eq!(secrets.delete("a", &[]).await.unwrap()[0].version, 2);
    assert_eq!(reason(secrets.get("a").await), "VERSION_DELETED", "never an older value instead");
    assert_eq!(secrets.get_version("a", 1).await.unwrap().version.version, 1);
    let back = secrets.undelete("a", &[2]).await.unwrap();
    assert_eq!((back[0].version, back[0].state), (2, VersionState::Active));
    assert_eq!(get(&operator, "a").await, "two");

    let destroyed = secrets.destroy("a", &[1]).await.unwrap();
    assert_eq!(destroyed.versions[0].state, VersionState::Destroyed);
    let key = &destroyed.unrecoverable_after[0];
    assert_eq!((destroyed.unrecoverable_after.len(), key.master_version, key.destroy_time), (1, 1, None));
    assert!(!destroyed.unrecoverable, "backups open while the master key is there");
    assert_eq!(reason(secrets.get_version("a", 1).await), "VERSION_DESTROYED");
    assert_eq!(reason(secrets.undelete("a", &[1]).await), "VERSION_DESTROYED");
    assert_eq!(reason(secrets.delete("a", &[9]).await), "VERSION_NOT_FOUND");
    assert_eq!(fields(secrets.undelete("a", &[]).await), ["versions"]);
    assert_eq!(fields(secrets.destroy("a", &[]).await), ["versions"]);

    vault.restart().await;
    vault.unseal().await;
    let secrets = vault.operator().secrets();
    assert_eq!(reason(secrets.get_version("a", 1).await), "VERSION_DESTROYED");
    assert_eq!(
        put(&vault.operator(), "a", "three").await,
        3,
        "a destroyed version's number never comes back"
    );
}

#[tokio::test]
async fn changes_of_one_version_list_do_not_undo_each_other() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    for _ in 0..8 {
        put(&operator, "a", "x").await;
    }
    let secrets = operator.secrets();
    let deletions = futures::future::join_all((1..=8).map(|version| {
        let secrets = secrets.clone();
        async move { secrets.delete("a", &[version]).await }
    }));
    for answer in deletions.await {
        answer.unwrap();
    }
    let history = secrets.history("a").await.unwrap();
    let states: Vec<_> = history.versions.into_iter().map(|version| version.state).collect();
    assert_eq!(states, [VersionState::Deleted; 8]);
}

#[tokio::test]
async fn batches_answer_in_order_or_not_at_all() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    vault.policy("shop", SHOP).await;
    let shop = vault.service("shop").await;
    for (path, value) in [("shop/a", "1"), ("shop/b", "2"), ("other/c", "3")] {
        put(&operator, path, value).await;
    }
    let secrets = operator.secrets();
    let batch = secrets.batch_get(&["other/c", "shop/a", "shop/b", "shop/a"]).await.unwrap();
    let sizes: Vec<_> = batch
        .iter()
        .map(|secret| match &secret.value {
            SecretValue::Data(bytes) => bytes.expose().to_vec(),
            _ => panic!(),
        })
        .collect();
    assert_eq!(sizes, [b"3", b"1", b"2", b"1"]);
    assert_eq!(reason(shop.secrets().batch_get(&["shop/a", "other/c"]).await), "DENIED");
    assert_eq!(shop.secrets().batch_get(&["shop/a", "shop/b"]).await.unwrap().len(), 2);
    assert_eq!(fields(secrets.batch_get([""; 0]).await), ["requests"]);
    assert_eq!(fields(secrets.batch_get(["shop/a"; 101]).await), ["requests"]);
}

#[tokio::test]
async fn lists_page_through_every_child_once() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    for path in ["f/a", "f/b", "f/c", "f/d", "f/d/e", "f/only/below"] {
        put(&operator, path, "x").await;
    }
    let mut rpc = SecretsServiceClient::new(raw::channel(&vault, Some(vault.admin())));
    let (mut seen, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request =
            v1::ListSecretsRequest { folder: "f".to_owned(), page_size: 2, page_token: token.clone() };
        let page = rpc.list_secrets(request).await.unwrap().into_inner();
        assert!(page.entries.len() <= 2);
        seen.extend(page.entries.into_iter().map(|entry| (entry.name, entry.is_secret, entry.is_folder)));
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((pages, seen.len()), (3, 5));
    let seen: BTreeSet<_> =
        seen.iter().map(|(name, secret, folder)| (name.as_str(), *secret, *folder)).collect();
    let expected = [
        ("a", true, false),
        ("b", true, false),
        ("c", true, false),
        ("d", true, true),
        ("only", false, true),
    ];
    assert_eq!(seen, expected.into_iter().collect());

    let secrets = operator.secrets();
    let root = secrets.list("").collect().await.unwrap();
    assert_eq!(root.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["f"]);
    assert!(secrets.list("nothing/here").collect().await.unwrap().is_empty());
    let request = v1::ListSecretsRequest { page_size: 1001, ..Default::default() };
    assert_eq!(rpc.list_secrets(request).await.unwrap_err().code(), Code::InvalidArgument);
    let request = v1::ListSecretsRequest { page_token: "no token".to_owned(), ..Default::default() };
    assert_eq!(rpc.list_secrets(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_value_has_at_most_one_mebibyte() {
    let vault = TestVault::start().await;
    let secrets = vault.operator().secrets();
    let version = secrets.put("big", SecretValue::data(vec![7; MIB])).await.unwrap();
    assert_eq!(usize::try_from(version.size_bytes).unwrap(), MIB);
    let SecretValue::Data(read) = secrets.get("big").await.unwrap().value else { panic!() };
    assert_eq!(read.expose(), vec![7; MIB]);

    assert_eq!(reason(secrets.put("big", SecretValue::data(vec![7; MIB + 1])).await), "INVALID_ARGUMENT");
    let halves = SecretValue::fields([("a", vec![1; MIB / 2]), ("b", vec![2; MIB / 2 + 1])]);
    assert_eq!(reason(secrets.put("big", halves).await), "INVALID_ARGUMENT");
    let beyond_messages = secrets.put("big", SecretValue::data(vec![7; 5 * MIB])).await;
    assert!(beyond_messages.is_err());
    assert_eq!(secrets.history("big").await.unwrap().current_version, 1, "refused writes changed nothing");
}

#[tokio::test]
async fn a_batch_has_at_most_what_one_message_takes() {
    let vault = TestVault::start().await;
    let secrets = vault.operator().secrets();
    secrets.put("big", SecretValue::data(vec![7; MIB])).await.unwrap();
    secrets.put("rest", SecretValue::data(vec![7; MIB - 8192])).await.unwrap();
    assert_eq!(secrets.batch_get(["big", "big", "big", "rest"]).await.unwrap().len(), 4);
    let error = secrets.batch_get(["big"; 4]).await.unwrap_err();
    assert!(error.to_string().contains("read fewer at a time"), "{error}");
    assert_eq!(fields::<()>(Err(error)), ["requests"]);
}

#[tokio::test]
async fn values_that_break_a_rule_name_the_field() {
    let vault = TestVault::start().await;
    let secrets = vault.operator().secrets();
    let twice = SecretValue::fields([("a", "1"), ("a", "2")]);
    assert!(fields(secrets.put("x", twice).await)[0].starts_with("value"));
    let name = SecretValue::fields([("bad name", "1")]);
    assert_eq!(fields(secrets.put("x", name).await), ["value.fields.name"]);
    let none = SecretValue::fields(Vec::<(&str, &str)>::new());
    assert!(fields(secrets.put("x", none).await)[0].starts_with("value"));
    let many = SecretValue::fields((0..257).map(|number| (format!("f{number}"), "x")));
    assert!(fields(secrets.put("x", many).await)[0].starts_with("value"));
    let mut rpc = SecretsServiceClient::new(raw::channel(&vault, Some(vault.admin())));
    let request = v1::PutSecretRequest { path: "x".to_owned(), ..Default::default() };
    assert_eq!(rpc.put_secret(request).await.unwrap_err().code(), Code::InvalidArgument);
    let options = PutOptions { request_id: Some("has space".to_owned()), ..PutOptions::default() };
    assert_eq!(fields(secrets.put_with("x", SecretValue::data("1"), options).await), ["request_id"]);
    assert_eq!(reason(secrets.get("x").await), "NOT_FOUND");
}
