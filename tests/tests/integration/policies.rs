//! Policies over the wire: errors with places, etags, explanations, effect on the very next request.

use keystead_client::{Error, v1};
use keystead_tests::TestVault;

use crate::{SHOP, fields, get, put, reason};

fn policy(name: &str, text: &str) -> v1::Policy {
    v1::Policy { name: name.to_owned(), text: text.to_owned(), ..v1::Policy::default() }
}

#[tokio::test]
async fn a_change_counts_from_the_next_request_on() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let policies = operator.policies();
    let shop = vault.service("shop").await;
    put(&operator, "shop/a", "x").await;
    assert_eq!(reason(shop.secrets().get("shop/a").await), "DENIED", "without a policy nothing is allowed");
    for _ in 0..3 {
        let stored = policies.put(policy("shop", SHOP)).await.unwrap();
        assert_eq!(get(&shop, "shop/a").await, "x");
        assert_eq!(policies.get("shop").await.unwrap(), stored);
        let forbid = "forbid (principal == Keystead::Service::\"shop\", action, resource);";
        policies.put(policy("shop-stop", forbid)).await.unwrap();
        assert_eq!(reason(shop.secrets().get("shop/a").await), "DENIED", "a forbid wins");
        policies.delete("shop-stop").await.unwrap();
        assert_eq!(get(&shop, "shop/a").await, "x");
        policies.delete("shop").await.unwrap();
        assert_eq!(reason(shop.secrets().get("shop/a").await), "DENIED");
    }
    assert_eq!(reason(policies.get("shop").await), "NOT_FOUND");
    assert_eq!(reason(policies.delete("shop").await), "NOT_FOUND");
}

#[tokio::test]
async fn policies_are_listed_and_survive_a_restart() {
    let mut vault = TestVault::start().await;
    let policies = vault.operator().policies();
    let mut expected = vec!["admins".to_owned()];
    for number in 0..7 {
        let name = format!("p-{number}");
        policies.put(policy(&name, SHOP)).await.unwrap();
        expected.push(name);
    }
    vault.restart().await;
    vault.unseal().await;
    let listed = vault.operator().policies().list().collect().await.unwrap();
    let mut names: Vec<_> = listed.into_iter().map(|policy| policy.name).collect();
    names.sort();
    assert_eq!(names, expected);
}

#[tokio::test]
async fn a_wrong_policy_is_refused_with_line_and_column() {
    let vault = TestVault::start().await;
    let policies = vault.operator().policies();
    let wrong = [
        ("permit (principal == Keystead::Service::\"a\", action, resource)", "line 1"),
        (
            "// a comment\npermit (\n  principal == Keystead::Service::\"a\",\n  action == Keystead::Action::\"secrets:raed\",\n  resource\n);\n",
            "line 4",
        ),
        ("\n\npermit (principal == Keystead::Nobody::\"a\", action, resource);", "line 3"),
        (
            "permit (principal == Keystead::Service::\"a\", action, resource)\nwhen { context.colour == 1 };",
            "line",
        ),
        ("permit (principal, action, resource);", "principal"),
        ("", ""),
    ];
    for (text, expected) in wrong {
        let answer = policies.put(policy("wrong", text)).await;
        let message = answer.as_ref().unwrap_err().to_string();
        assert!(message.contains(expected), "{message} does not say {expected}");
        assert!(expected != "line 4" || message.contains("line 4, column 13"), "{message}");
        assert_eq!(fields_ref(&answer), ["policy.text"], "{message}");
        assert_eq!(reason(answer), "INVALID_POLICY");
    }
    let long = format!("// {}\n{SHOP}", "x".repeat(64 * 1024));
    assert_eq!(reason(policies.put(policy("long", &long)).await), "INVALID_POLICY");
    for name in ["", "Shop", "a/b", "-a", "a b", &"a".repeat(64)] {
        assert!(fields(policies.put(policy(name, SHOP)).await)[0].contains("name"), "{name}");
    }
    assert_eq!(policies.list().collect().await.unwrap().len(), 1, "only what init made");
}

fn fields_ref<T>(answer: &Result<T, Error>) -> Vec<String> {
    let refusal = answer.as_ref().err().unwrap().refusal().unwrap();
    refusal.fields.iter().map(|violation| violation.field.clone()).collect()
}

#[tokio::test]
async fn an_etag_guards_what_was_read() {
    let vault = TestVault::start().await;
    let policies = vault.operator().policies();
    let first = policies.put(policy("shop", SHOP)).await.unwrap();
    let second = policies.put(v1::Policy { text: format!("{SHOP}\n"), ..first.clone() }).await.unwrap();
    assert_ne!(first.etag, second.etag);
    assert_eq!(reason(policies.put(first.clone()).await), "ETAG_MISMATCH");
    assert_eq!(policies.get("shop").await.unwrap(), second);
    let absent = v1::Policy { name: "absent".to_owned(), ..second };
    assert_eq!(reason(policies.put(absent).await), "ETAG_MISMATCH");
}

#[tokio::test]
async fn explain_says_which_statement_decides() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    vault.register_service("shop").await;
    vault.policy("shop", SHOP).await;
    let approved = "@approval(\"two-person\")\npermit (principal == Keystead::Service::\"shop\", action == Keystead::Action::\"secrets:read\", resource in Keystead::Folder::\"bank\");";
    vault.policy("bank", approved).await;
    let explain = async |action: &str, resource: &str| {
        let answer = operator.policies().explain("service/shop", action, resource).await.unwrap();
        (answer.decision(), answer.determining)
    };
    let (decision, determining) = explain("secrets:read", "secret/shop/a").await;
    assert_eq!((decision, determining), (v1::PolicyDecision::Allow, vec!["shop#0".to_owned()]));
    let (decision, determining) = explain("secrets:read", "secret/elsewhere").await;
    assert_eq!((decision, determining.len()), (v1::PolicyDecision::Deny, 0));
    assert_eq!(explain("secrets:read", "secret/bank/a").await.0, v1::PolicyDecision::NeedsApproval);
    assert_eq!(explain("system:seal", "system").await.0, v1::PolicyDecision::Deny);
    let from_here = "permit (principal == Keystead::Service::\"shop\", action == Keystead::Action::\"secrets:read\", resource in Keystead::Folder::\"net\") when { context has peer && context.peer.isInRange(ip(\"127.0.0.0/8\")) };";
    vault.policy("net", from_here).await;
    for (resource, depends_on) in [("secret/net/a", &["net#0"][..]), ("secret/shop/a", &[])] {
        let answer = operator.policies().explain("service/shop", "secrets:read", resource).await.unwrap();
        assert_eq!(answer.circumstantial, depends_on, "{resource}");
    }
    // What the policies say is said of anybody; whether that one is let in, beside it.
    let ask = async |principal: &str| {
        let answer = operator.policies().explain(principal, "secrets:read", "secret/shop/a").await.unwrap();
        (answer.decision(), answer.principal_standing())
    };
    let allow = v1::PolicyDecision::Allow;
    assert_eq!(ask("service/shop").await, (allow, v1::PrincipalStanding::Registered));
    let nobody = (v1::PolicyDecision::Deny, v1::PrincipalStanding::NotRegistered);
    assert_eq!(ask("service/shopp").await, nobody);
    let mut record = operator.auth().principal("service/shop").await.unwrap();
    record.disabled = true;
    operator.auth().put_principal(record).await.unwrap();
    assert_eq!(ask("service/shop").await, (allow, v1::PrincipalStanding::Disabled));
    for (principal, action, resource) in [
        ("shop", "secrets:read", "system"),
        ("service/shop", "secrets:eat", "system"),
        ("service/shop", "secrets:read", "secret/a//b"),
    ] {
        assert_eq!(
            reason(operator.policies().explain(principal, action, resource).await),
            "INVALID_ARGUMENT"
        );
    }
}

#[tokio::test]
async fn the_trail_says_what_was_explained_and_to_whom() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let shop = vault.service("shop").await;
    vault.policy("shop", SHOP).await;
    operator.policies().explain("service/shop", "secrets:read", "secret/shop/a").await.unwrap();
    let refused = shop.policies().explain("operator/admin", "system:seal", "system").await;
    assert_eq!(reason(refused), "DENIED");

    let entries = vault.audit().await;
    let mut explained = entries.iter().filter(|entry| entry.action == "policies:explain");
    let (answered, refused) = (explained.next().unwrap(), explained.next().unwrap());
    let detail = |entry: &v1::AuditEntry, name: &str| entry.detail.get(name).cloned().unwrap_or_default();
    let asked =
        |entry| ["principal", "action", "resource"].map(|what| detail(entry, &format!("explained_{what}")));
    assert_eq!(asked(answered), ["service/shop", "secrets:read", "secret/shop/a"]);
    assert_eq!(detail(answered, "explained_decision"), "allow");
    assert_eq!(detail(answered, "explained_policies"), "shop#0");
    assert_eq!((refused.kind.as_str(), refused.principal.as_str()), ("refused", "service/shop"));
    assert_eq!(asked(refused), ["operator/admin", "system:seal", "system"]);
    assert_eq!(detail(refused, "explained_decision"), "", "nothing was answered");
}

#[tokio::test]
async fn what_needs_approval_is_refused_as_that() {
    let vault = TestVault::start().await;
    let shop = vault.service("shop").await;
    put(&vault.operator(), "bank/a", "x").await;
    let text = "@approval(\"two-person\")\npermit (principal == Keystead::Service::\"shop\", action == Keystead::Action::\"secrets:read\", resource in Keystead::Folder::\"bank\");";
    vault.policy("bank", text).await;
    let error = shop.secrets().get("bank/a").await.unwrap_err();
    assert!(matches!(error, Error::NeedsApproval(_)), "{error:?}");
    assert_eq!(reason(shop.secrets().get("bank/absent").await), "NEEDS_APPROVAL");
}
