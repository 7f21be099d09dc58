//! Tests of what policies decide: one behaviour each, over documents as somebody would write them. Which
//! documents are refused is in `refusals`, the comparison with an evaluator without index or cache in
//! `model`, the page of the vocabulary in `page`.

use std::net::IpAddr;

use super::*;
use crate::id::RecordId;
use crate::time::UnixMillis;

mod model;
mod page;
mod refusals;

pub(super) fn name(text: &str) -> PolicyName {
    PolicyName::parse(text).unwrap()
}

pub(super) fn compile(documents: &[(&str, &str)]) -> Policies {
    let documents = documents.iter().map(|(policy, text)| (name(policy), (*text).to_owned()));
    Policies::compile(documents.collect()).unwrap()
}

/// 2026-11-22T10:30:00Z, by certificate, from 10.1.2.3.
pub(super) fn context() -> AccessContext {
    AccessContext {
        method: Method::Certificate,
        now: UnixMillis(1_795_343_400_000),
        peer: Some("10.1.2.3".parse().unwrap()),
        on_behalf_of: None,
        mfa_age_secs: None,
    }
}

pub(super) fn ask(
    policies: &Policies,
    principal: &str,
    groups: &[&str],
    action: Action,
    resource: &str,
) -> Decision {
    ask_in(policies, principal, groups, action, resource, &context())
}

pub(super) fn ask_in(
    policies: &Policies,
    principal: &str,
    groups: &[&str],
    action: Action,
    resource: &str,
    context: &AccessContext,
) -> Decision {
    let groups: Vec<_> = groups.iter().map(|group| GroupName::parse(group).unwrap()).collect();
    let request = AccessRequest {
        principal: &PrincipalName::parse_stored(principal).unwrap(),
        groups: &groups,
        action,
        resource: &Resource::parse(resource).unwrap(),
        context,
    };
    let first = policies.decide(&request);
    assert_eq!(policies.decide(&request), first, "a kept answer is the answer");
    first
}

const SHOP: &str = r#"
permit (
    principal == Keystead::Service::"api",
    action in [Keystead::Action::"secrets:read", Keystead::Action::"secrets:list"],
    resource in Keystead::Folder::"shop"
);
permit (principal in Keystead::Group::"ops", action in Keystead::Action::"write", resource in Keystead::Folder::"");
"#;

#[test]
fn nothing_is_allowed_by_default() {
    let decision = ask(&compile(&[]), "service/api", &["ops"], Action::SecretsRead, "secret/shop/db");
    assert_eq!(decision, Decision::nothing_permits());
    assert!(compile(&[]).is_empty());
}

#[test]
fn a_service_reads_its_own_tree_and_no_namesake() {
    let policies = compile(&[("shop", SHOP)]);
    let allowed = ask(&policies, "service/api", &[], Action::SecretsRead, "secret/shop/db/password");
    assert_eq!(allowed.verdict, Verdict::Allow);
    assert_eq!(allowed.determining, ["shop#0"]);
    assert_eq!(allowed.errors, [""; 0]);
    assert!(allowed.cacheable);
    assert_eq!(
        ask(&policies, "service/api", &[], Action::SecretsList, "folder/shop").verdict,
        Verdict::Allow
    );
    assert_eq!(
        ask(&policies, "service/api", &[], Action::SecretsList, "folder/shop/db").verdict,
        Verdict::Allow
    );
    for (principal, action, resource) in [
        ("service/api", Action::SecretsRead, "secret/shopping/db"),
        ("service/api", Action::SecretsRead, "secret/shop"),
        ("service/api", Action::SecretsRead, "secret/Shop/db"),
        ("service/api", Action::SecretsWrite, "secret/shop/db"),
        ("service/api", Action::SecretsList, "folder/"),
        ("service/api2", Action::SecretsRead, "secret/shop/db"),
        ("operator/api", Action::SecretsRead, "secret/shop/db"),
    ] {
        let decision = ask(&policies, principal, &[], action, resource);
        assert_eq!(decision, Decision::nothing_permits(), "{principal} {action} {resource}");
    }
}

/// The same statements are selected for every path below; who asked first must not decide for who asks next.
#[test]
fn a_condition_on_the_resource_is_asked_for_each() {
    for (condition, others) in [
        (r#"resource in Keystead::Folder::"shop/eu""#, Verdict::Deny),
        (r#"Keystead::Secret::"shop/eu/db" in Keystead::Folder::"shop""#, Verdict::Deny),
        (r#"Keystead::Secret::"shop/us/db" in Keystead::Folder::"shop" || true"#, Verdict::Allow),
    ] {
        let permit = format!(
            r#"permit (principal == Keystead::Service::"api", action, resource in Keystead::Folder::"shop")
            when {{ {condition} }};"#
        );
        for paths in [["secret/shop/eu/db", "secret/shop/us/db"], ["secret/shop/us/db", "secret/shop/eu/db"]]
        {
            let policies = compile(&[("shop", &permit)]);
            for path in paths {
                let expected = if path.contains("/eu/") { Verdict::Allow } else { others };
                let decision = ask(&policies, "service/api", &[], Action::SecretsRead, path);
                assert_eq!(decision.verdict, expected, "{condition}: {path}");
            }
        }
    }
}

#[test]
fn groups_of_callers_and_of_actions_count() {
    let policies = compile(&[("shop", SHOP)]);
    let decision = ask(&policies, "operator/ada", &["dev", "ops"], Action::SecretsWrite, "secret/any/thing");
    assert_eq!((decision.verdict, decision.determining), (Verdict::Allow, vec!["shop#1".to_owned()]));
    assert_eq!(
        ask(&policies, "operator/ada", &["dev"], Action::SecretsWrite, "secret/any/thing").verdict,
        Verdict::Deny
    );
    assert_eq!(
        ask(&policies, "operator/ada", &["ops"], Action::SecretsDestroy, "secret/any/thing").verdict,
        Verdict::Deny
    );
}

#[test]
fn a_forbid_wins() {
    let forbid = r#"forbid (principal, action, resource in Keystead::Folder::"shop/keys");"#;
    let policies = compile(&[("shop", SHOP), ("never", forbid)]);
    let decision = ask(&policies, "service/api", &[], Action::SecretsRead, "secret/shop/keys/a");
    assert_eq!((decision.verdict, decision.determining), (Verdict::Deny, vec!["never#0".to_owned()]));
    assert_eq!(
        ask(&policies, "service/api", &[], Action::SecretsRead, "secret/shop/keysize").verdict,
        Verdict::Allow
    );
}

const OVERFLOWS: &str =
    r#"when { context has mfa_age_secs && context.mfa_age_secs * 9223372036854775807 > 0 }"#;

#[test]
fn a_forbid_that_fails_denies_and_a_permit_that_fails_grants_nothing() {
    let failing_forbid = format!("forbid (principal, action, resource) {OVERFLOWS};");
    let failing_permit = format!(r#"permit (principal is Keystead::Service, action, resource) {OVERFLOWS};"#);
    let context = AccessContext { mfa_age_secs: Some(7), ..context() };
    let read = |policies: &Policies| {
        ask_in(policies, "service/api", &[], Action::SecretsRead, "secret/shop/db", &context)
    };

    let denied = read(&compile(&[("shop", SHOP), ("broken", &failing_forbid)]));
    assert_eq!((denied.verdict, &denied.determining[..]), (Verdict::Deny, &["broken#0".to_owned()][..]));
    assert_eq!(denied.errors.len(), 1);
    assert!(denied.errors[0].starts_with("broken#0: integer overflow"), "{:?}", denied.errors);

    let not_granted = read(&compile(&[("broken", &failing_permit)]));
    assert_eq!((not_granted.verdict, not_granted.errors.len()), (Verdict::Deny, 1));

    let still_granted = read(&compile(&[("shop", SHOP), ("broken", &failing_permit)]));
    assert_eq!((still_granted.verdict, still_granted.errors.len()), (Verdict::Allow, 1));
    assert_eq!(still_granted.determining, ["shop#0"]);
}

#[test]
fn an_approval_is_asked_for_unless_a_plain_permit_allows() {
    let two_person = r#"@approval("two-person")
        permit (principal in Keystead::Group::"ops", action == Keystead::Action::"secrets:destroy", resource);"#;
    let plain = r#"permit (principal == Keystead::Operator::"root-ca", action == Keystead::Action::"secrets:destroy", resource);"#;
    let policies = compile(&[("careful", two_person), ("plain", plain)]);
    let destroy = |principal: &str| ask(&policies, principal, &["ops"], Action::SecretsDestroy, "secret/a");
    let asked = destroy("operator/ada");
    assert_eq!((asked.verdict, asked.determining), (Verdict::NeedsApproval, vec!["careful#0".to_owned()]));
    let allowed = destroy("operator/root-ca");
    assert_eq!((allowed.verdict, allowed.determining), (Verdict::Allow, vec!["plain#0".to_owned()]));

    let forbid = "forbid (principal, action == Keystead::Action::\"secrets:destroy\", resource);";
    let policies = compile(&[("careful", two_person), ("never", forbid)]);
    assert_eq!(
        ask(&policies, "operator/ada", &["ops"], Action::SecretsDestroy, "secret/a").verdict,
        Verdict::Deny
    );
}

#[test]
fn circumstances_are_read_at_each_request() {
    let text = r#"
        permit (principal is Keystead::Operator, action == Keystead::Action::"secrets:read", resource) when {
            context.method == Keystead::Method::"certificate"
            && context.now < datetime("2026-12-01")
            && context.now.toTime() >= duration("8h") && context.now.toTime() < duration("18h")
            && context has peer && context.peer.isInRange(ip("10.0.0.0/8"))
            && !(context has on_behalf_of)
        };
        permit (principal is Keystead::Service, action == Keystead::Action::"secrets:read", resource) when {
            context has on_behalf_of && context.on_behalf_of like "*@example.org"
            && context has mfa_age_secs && context.mfa_age_secs <= 300
        };"#;
    let policies = compile(&[("hours", text)]);
    let read = |principal: &str, context: &AccessContext| {
        let decision = ask_in(&policies, principal, &[], Action::SecretsRead, "secret/a", context);
        assert!(!decision.cacheable);
        decision.verdict
    };
    let day = context();
    assert_eq!(read("operator/ada", &day), Verdict::Allow);
    for other in [
        AccessContext { method: Method::Token, ..day.clone() },
        AccessContext { method: Method::LocalSocket, peer: None, ..day.clone() },
        AccessContext { now: UnixMillis(day.now.0 + 12 * 3_600_000), ..day.clone() },
        AccessContext { now: UnixMillis(day.now.0 + 30 * 86_400_000), ..day.clone() },
        AccessContext { now: UnixMillis(u64::MAX), ..day.clone() },
        AccessContext { peer: Some("192.168.0.1".parse().unwrap()), ..day.clone() },
        AccessContext { peer: None, ..day.clone() },
        AccessContext { on_behalf_of: Some("x".into()), ..day.clone() },
    ] {
        assert_eq!(read("operator/ada", &other), Verdict::Deny, "{other:?}");
    }
    let hidden = r#"permit (principal is Keystead::Operator, action, resource) when { context["n\u{6f}w"] < datetime("2026-12-01") };"#;
    let late = AccessContext { now: UnixMillis(day.now.0 + 30 * 86_400_000), ..day.clone() };
    let hidden = compile(&[("hidden", hidden)]);
    let read_hidden =
        |context| ask_in(&hidden, "operator/ada", &[], Action::SecretsRead, "secret/a", context);
    assert_eq!(read_hidden(&day).verdict, Verdict::Allow);
    assert_eq!((read_hidden(&late).verdict, read_hidden(&late).errors.len()), (Verdict::Deny, 0));

    let mapped: IpAddr = "::ffff:10.1.2.3".parse().unwrap();
    assert_eq!(read("operator/ada", &AccessContext { peer: Some(mapped), ..day.clone() }), Verdict::Allow);

    let user = AccessContext {
        on_behalf_of: Some("eve@example.org".into()),
        mfa_age_secs: Some(300),
        peer: Some("fe80::1".parse().unwrap()),
        ..day
    };
    assert_eq!(read("service/api", &user), Verdict::Allow);
    assert_eq!(
        read("service/api", &AccessContext { mfa_age_secs: Some(u64::MAX), ..user.clone() }),
        Verdict::Deny
    );
    assert_eq!(read("service/api", &AccessContext { mfa_age_secs: None, ..user }), Verdict::Deny);
}

#[test]
fn reading_a_role_and_issuing_from_it_are_different_rights() {
    let text = r#"permit (principal == Keystead::Service::"api", action in Keystead::Action::"read", resource);
                  permit (principal == Keystead::Service::"api", action in Keystead::Action::"admin", resource);"#;
    let policies = compile(&[("wide", text)]);
    assert_eq!(ask(&policies, "service/api", &[], Action::RolesRead, "role/app").verdict, Verdict::Allow);
    assert_eq!(ask(&policies, "service/api", &[], Action::RolesIssue, "role/app").verdict, Verdict::Deny);
    assert_eq!(ask(&policies, "service/api", &[], Action::SystemSeal, "system").verdict, Verdict::Allow);
    assert_eq!(ask(&policies, "service/api", &[], Action::AuditRead, "audit").verdict, Verdict::Allow);
}

#[test]
fn every_action_can_be_granted_by_name_except_initializing() {
    for action in Action::ALL {
        let text = format!(
            r#"permit (principal == Keystead::Operator::"ada", action == Keystead::Action::"{action}", resource);"#
        );
        let resource = match action.resource_kind() {
            ResourceKind::Secret => "secret/a/b".to_owned(),
            ResourceKind::Folder => "folder/".to_owned(),
            ResourceKind::Role => "role/app".to_owned(),
            ResourceKind::StaticRole => "static-role/app".to_owned(),
            ResourceKind::Target => "target/db".to_owned(),
            ResourceKind::Lease => format!("lease/{}", RecordId([1; 16])),
            ResourceKind::Principal => "principal/service/api".to_owned(),
            ResourceKind::Policy => "policy/shop".to_owned(),
            ResourceKind::Audit => "audit".to_owned(),
            ResourceKind::System => "system".to_owned(),
        };
        if action.is_for_policies() {
            Policies::validate_one(&name("one"), &text).unwrap();
            let policies = compile(&[("one", &text)]);
            assert_eq!(
                ask(&policies, "operator/ada", &[], *action, &resource).verdict,
                Verdict::Allow,
                "{action}"
            );
            let other = ask(&policies, "operator/bob", &[], *action, &resource);
            assert_eq!(other.verdict, Verdict::Deny, "{action}");
        } else {
            assert!(Policies::validate_one(&name("one"), &text).is_err(), "{action}");
        }
    }
}

#[test]
fn what_no_policy_speaks_about_is_denied_with_a_reason() {
    let all = r#"permit (principal is Keystead::Operator, action, resource);
                 permit (principal is Keystead::Service, action, resource);"#;
    let policies = compile(&[("wide", all)]);
    for (principal, action, resource) in [
        ("system/rewrap", Action::SecretsRead, "secret/a"),
        ("operator/ada", Action::SystemInit, "system"),
        ("operator/ada", Action::SecretsRead, "folder/a"),
        ("operator/ada", Action::SecretsList, "secret/a"),
    ] {
        let decision = ask(&policies, principal, &[], action, resource);
        assert_eq!(
            (decision.verdict, decision.errors.len()),
            (Verdict::Deny, 1),
            "{principal} {action} {resource}"
        );
    }
}

#[test]
fn answers_of_different_questions_are_never_mixed() {
    let text = r#"permit (principal == Keystead::Service::"a", action == Keystead::Action::"secrets:read",
                          resource == Keystead::Secret::"b/c");"#;
    let policies = compile(&[("one", text)]);
    for (principal, groups, resource, verdict) in [
        ("service/a", vec![], "secret/b/c", Verdict::Allow),
        ("service/a", vec!["b"], "secret/b/c", Verdict::Allow),
        ("operator/a", vec![], "secret/b/c", Verdict::Deny),
        ("service/a-b", vec![], "secret/c", Verdict::Deny),
        ("service/b", vec!["a"], "secret/b/c", Verdict::Deny),
        ("service/a", vec![], "secret/b/c/d", Verdict::Deny),
        ("service/a", vec![], "secret/b", Verdict::Deny),
    ] {
        let decision = ask(&policies, principal, &groups, Action::SecretsRead, resource);
        assert_eq!(decision.verdict, verdict, "{principal} {groups:?} {resource}");
    }
}

#[test]
fn an_explanation_says_what_each_statement_contributed() {
    let text = r#"
        permit (principal == Keystead::Service::"api", action == Keystead::Action::"secrets:read", resource in Keystead::Folder::"shop");
        permit (principal in Keystead::Group::"web", action == Keystead::Action::"secrets:write", resource);
        @approval("two-person")
        permit (principal is Keystead::Service, action == Keystead::Action::"secrets:read", resource) when { context.method == Keystead::Method::"token" };
        forbid (principal, action, resource in Keystead::Folder::"shop/keys");
        permit (principal == Keystead::Service::"other", action, resource);"#;
    let policies = compile(&[("doc", text)]);
    assert_eq!(policies.len(), 5);
    let explain = |path: &str| {
        policies.explain(&AccessRequest {
            principal: &PrincipalName::parse("service/api").unwrap(),
            groups: &[GroupName::parse("web").unwrap()],
            action: Action::SecretsRead,
            resource: &Resource::parse(path).unwrap(),
            context: &context(),
        })
    };
    let Explanation { decision, statements } = explain("secret/shop/keys/a");
    assert_eq!(decision.verdict, Verdict::Deny);
    let seen: Vec<_> =
        statements.iter().map(|s| (s.id.as_str(), s.forbids, s.needs_approval, &s.outcome)).collect();
    assert_eq!(
        seen,
        [
            ("doc#0", false, false, &Outcome::Satisfied),
            ("doc#1", false, false, &Outcome::OutOfScope),
            ("doc#2", false, true, &Outcome::NotSatisfied),
            ("doc#3", true, false, &Outcome::Satisfied),
        ]
    );
    assert_eq!(explain("secret/shop/db").decision.verdict, Verdict::Allow);
}
