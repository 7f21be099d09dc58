//! The audit trail as an operator reads it: complete, in order, and in the way of what it cannot record.

use std::collections::BTreeMap;

use keystead_client::{Code, Error, v1};
use keystead_proto::v1::secrets_service_client::SecretsServiceClient;
use keystead_tests::{PATIENCE, TestVault, raw, until};

use crate::{SHOP, get, put, reason};

const AUDITOR: &str = "permit (principal == Keystead::Service::\"auditor\", action == Keystead::Action::\"audit:read\", resource);";

fn of<'a>(entries: &'a [v1::AuditEntry], action: &str, resource: &str) -> Vec<&'a v1::AuditEntry> {
    entries.iter().filter(|entry| entry.action == action && entry.resource == resource).collect()
}

#[tokio::test]
async fn the_trail_says_who_did_what_in_order() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    vault.policy("shop", SHOP).await;
    let shop = vault.service("shop").await;
    put(&operator, "shop/a", "x").await;
    get(&shop, "shop/a").await;
    let denied = shop.secrets().get("bank/a").await.unwrap_err();
    let _ = shop.secrets().get("shop/absent").await.unwrap_err();
    let _ = vault.anonymous().secrets().get("shop/a").await.unwrap_err();
    vault.seal().await;
    vault.unseal().await;

    let entries = vault.audit().await;
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(usize::try_from(entry.sequence).unwrap(), index);
        assert_eq!(entry.node, "test");
        assert!(entry.time.is_some());
    }
    let init: Vec<_> =
        of(&entries, "system:init", "system").iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(init, ["intent", "outcome"]);
    assert_eq!((entries[0].kind.as_str(), entries[0].detail["threshold"].as_str()), ("intent", "2"));
    assert!(entries[0].peer.starts_with("local:uid="), "{}", entries[0].peer);

    let put = of(&entries, "secrets:write", "secret/shop/a");
    let [intent, outcome] = put.as_slice() else { panic!("{put:?}") };
    assert_eq!((intent.kind.as_str(), intent.decision.as_str()), ("intent", "allow"));
    assert_eq!((outcome.kind.as_str(), outcome.outcome.as_str()), ("outcome", "ok"));
    assert_eq!((outcome.intent, intent.intent), (Some(intent.sequence), None));
    assert_eq!((outcome.principal.as_str(), outcome.method.as_str()), ("operator/admin", "certificate"));
    assert_eq!((outcome.peer.as_str(), outcome.detail["version"].as_str()), ("127.0.0.1", "1"));
    assert_eq!(outcome.policies, ["admins#0"]);
    assert!(!outcome.request_id.is_empty() && outcome.request_id == intent.request_id);

    let reads = of(&entries, "secrets:read", "secret/shop/a");
    let by_shop = reads.iter().find(|entry| entry.principal == "service/shop").unwrap();
    assert_eq!((by_shop.kind.as_str(), by_shop.outcome.as_str()), ("read", "ok"));
    assert_eq!(by_shop.policies, ["shop#0"]);
    assert!(by_shop.sequence > outcome.sequence);
    let nobody = reads.iter().find(|entry| entry.principal.is_empty()).unwrap();
    assert_eq!((nobody.kind.as_str(), nobody.outcome.as_str()), ("refused", "UNAUTHENTICATED"));
    let absent = of(&entries, "secrets:read", "secret/shop/absent");
    assert_eq!((absent[0].kind.as_str(), absent[0].outcome.as_str()), ("read", "NOT_FOUND"));
    let refused = of(&entries, "secrets:read", "secret/bank/a");
    assert_eq!((refused.len(), refused[0].kind.as_str()), (1, "refused"));
    assert_eq!((refused[0].decision.as_str(), refused[0].outcome.as_str()), ("deny", "DENIED"));
    assert_eq!(denied.refusal().unwrap().metadata["reason_id"], refused[0].request_id);

    let seals: Vec<_> =
        of(&entries, "system:seal", "system").iter().map(|entry| entry.kind.as_str()).collect();
    assert_eq!(seals, ["intent", "outcome"]);
    let unseals = entries.iter().filter(|entry| entry.action == "system:unseal" && entry.outcome == "ok");
    assert_eq!(unseals.count(), 4, "two shares, twice");
}

#[tokio::test]
async fn ids_of_request_and_trace_reach_the_trail() {
    let vault = TestVault::start().await;
    let mut rpc = SecretsServiceClient::new(raw::channel(&vault, Some(vault.admin())));
    let mut request = tonic::Request::new(v1::GetSecretRequest { path: "a".to_owned(), version: 0 });
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let headers: BTreeMap<&str, String> = BTreeMap::from([
        ("x-request-id", "my-request.1".to_owned()),
        ("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")),
        // Claims of a proxy that nobody asked for.
        ("x-forwarded-for", "6.6.6.6".to_owned()),
        ("x-forwarded-client-cert", "spiffe://test/operator/root".to_owned()),
    ]);
    for (name, value) in headers {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    assert_eq!(rpc.get_secret(request).await.unwrap_err().code(), Code::NotFound);
    let entries = vault.audit().await;
    let entry = entries.iter().find(|entry| entry.request_id == "my-request.1").unwrap();
    assert_eq!((entry.trace_id.as_str(), entry.peer.as_str()), (trace, "127.0.0.1"));
    assert_eq!(entry.principal, "operator/admin");
}

#[tokio::test]
async fn tail_shows_the_newest_and_bounds_what_is_asked() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    for number in 0..6 {
        put(&operator, &format!("t/{number}"), "x").await;
    }
    let mut tail = operator.audit().tail(3, false).await.unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = tail.next().await.unwrap() {
        entries.push(entry);
    }
    assert_eq!(entries.len(), 3);
    assert_eq!(entries[2].resource, "secret/t/5", "the stream's own opening comes after what it shows");
    assert_eq!(reason(operator.audit().tail(10_001, false).await.map(|_| ())), "INVALID_ARGUMENT");
    let shop = vault.service("shop").await;
    assert_eq!(stream_end("no right", shop.audit().tail(1, false).await).await.reason(), "DENIED");
}

/// How a stream ends, wherever that becomes known.
async fn stream_end(what: &str, stream: Result<keystead_client::AuditEntries, Error>) -> Error {
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(error) => return error,
    };
    loop {
        match tokio::time::timeout(PATIENCE, stream.next())
            .await
            .unwrap_or_else(|_| panic!("{what}: the stream goes on for ever"))
        {
            Ok(Some(_)) => {}
            Ok(None) => panic!("{what}: the stream ended in peace"),
            Err(error) => return error,
        }
    }
}

#[tokio::test]
async fn a_follower_is_cut_off_when_its_right_goes() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let auditor = vault.service("auditor").await;
    type Undo = fn(keystead_client::Client) -> futures::future::BoxFuture<'static, ()>;
    let cases: [(&str, Undo, &str); 3] = [
        (
            "the policy goes",
            |operator| Box::pin(async move { operator.policies().delete("auditor").await.unwrap() }),
            "DENIED",
        ),
        (
            "the principal goes",
            |operator| {
                Box::pin(async move { operator.auth().delete_principal("service/auditor").await.unwrap() })
            },
            "UNAUTHENTICATED",
        ),
        (
            "the vault is sealed",
            |operator| Box::pin(async move { operator.system().seal().await.unwrap() }),
            "SEALED",
        ),
    ];
    for (what, undo, expected) in cases {
        vault.policy("auditor", AUDITOR).await;
        vault.register_service("auditor").await;
        let mut stream = auditor.audit().tail(0, true).await.unwrap();
        put(&operator, "followed", "x").await;
        let seen = async {
            loop {
                let entry = stream.next().await.unwrap().unwrap();
                if entry.resource == "secret/followed" && entry.kind == "outcome" {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.expect("the follower sees the write");
        undo(operator.clone()).await;
        assert_eq!(stream_end(what, Ok(stream)).await.reason(), expected, "{what}");
    }
    vault.unseal().await;
    let entries = vault.audit().await;
    let cut = entries.iter().find(|entry| entry.action == "audit:read" && entry.kind == "refused").unwrap();
    assert_eq!((cut.principal.as_str(), cut.outcome.as_str()), ("service/auditor", "DENIED"));
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_done() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    put(&operator, "a", "before").await;
    vault.vault().audit().close();
    assert_eq!(reason(operator.secrets().get("a").await), "AUDIT_UNAVAILABLE");
    let value = keystead_client::SecretValue::data("after");
    assert_eq!(reason(operator.secrets().put("a", value).await), "AUDIT_UNAVAILABLE");
    assert_eq!(reason(operator.secrets().destroy("a", &[1]).await), "AUDIT_UNAVAILABLE");
    assert_eq!(reason(operator.policies().delete("admins").await), "AUDIT_UNAVAILABLE");
    let shop = vault.client(&vault.pki().client("spiffe://test/service/shop"));
    let answer = reason(shop.secrets().get("a").await);
    assert!(matches!(answer.as_str(), "AUDIT_UNAVAILABLE" | "UNAUTHENTICATED"), "{answer}");

    let mut vault = vault;
    vault.restart().await;
    vault.unseal().await;
    let operator = vault.operator();
    assert_eq!(get(&operator, "a").await, "before");
    assert_eq!(operator.secrets().history("a").await.unwrap().current_version, 1);
}

#[tokio::test]
async fn the_json_file_has_every_entry_in_the_clear() {
    let vault = TestVault::builder()
        .config(|config| config.audit.json_file = Some(config.server.data_dir.join("audit.json")))
        .start()
        .await;
    put(&vault.operator(), "a", "x").await;
    let path = vault.data_dir().join("audit.json");
    let lines = until("the JSON file has the write", || async {
        let text = std::fs::read_to_string(&path).ok()?;
        let lines: Vec<serde_json::Value> =
            text.lines().map(serde_json::from_str).collect::<Result<_, _>>().ok()?;
        let outcome =
            |line: &serde_json::Value| line["kind"] == "outcome" && line["body"]["action"] == "secrets:write";
        lines.iter().any(outcome).then_some(lines)
    })
    .await;
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["seq"], index);
        assert!(line["unreadable"].is_null(), "{line}");
    }
    let write = lines.iter().find(|line| line["body"]["action"] == "secrets:write").unwrap();
    assert_eq!(write["body"]["principal"], "operator/admin");
    assert_eq!(write["body"]["resource"], "secret/a");
}
