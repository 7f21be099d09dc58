//! Property tests: the index and the caches never change what the policies say.
//! The model evaluates every statement alone, in order, and applies the rules by hand.

use cedar_policy::Authorizer;
use proptest::prelude::*;

use super::super::statement::Strictness;
use super::super::vocabulary::{Reads, VOCABULARY};
use super::*;

const PRINCIPALS: [&str; 4] = ["service/a", "service/b", "operator/a", "operator/c"];
const GROUPS: [&str; 3] = ["g", "h", "i"];
const RESOURCES: [&str; 8] =
    ["secret/x", "secret/x/y", "secret/xx", "secret/x/y/z", "folder/", "folder/x", "folder/x/y", "role/x"];
const ACTIONS: [Action; 5] = [
    Action::SecretsRead,
    Action::SecretsWrite,
    Action::SecretsDestroy,
    Action::SecretsList,
    Action::RolesRead,
];

fn statement() -> impl Strategy<Value = String> {
    let head = prop_oneof![
        4 => Just("permit"),
        2 => Just("forbid"),
        1 => Just("@approval(\"two-person\") permit"),
    ];
    let principal = prop_oneof![
        Just(r#"== Keystead::Service::"a""#),
        Just(r#"== Keystead::Operator::"a""#),
        Just(r#"in Keystead::Service::"b""#),
        Just(r#"in Keystead::Group::"g""#),
        Just(r#"is Keystead::Operator"#),
        Just(r#"is Keystead::Service in Keystead::Group::"h""#),
        Just(""),
    ];
    let action = prop_oneof![
        Just(""),
        Just(r#"== Keystead::Action::"secrets:read""#),
        Just(r#"in Keystead::Action::"write""#),
        Just(r#"in [Keystead::Action::"read", Keystead::Action::"secrets:destroy"]"#),
    ];
    let resource = prop_oneof![
        Just(""),
        Just(r#"== Keystead::Secret::"x/y""#),
        Just(r#"in Keystead::Folder::"x""#),
        Just(r#"in Keystead::Folder::"""#),
        Just(r#"is Keystead::Secret"#),
        Just(r#"is Keystead::Secret in Keystead::Folder::"x""#),
        Just(r#"in Keystead::Secret::"x""#),
        Just(r#"is Keystead::Role"#),
    ];
    let condition = prop_oneof![
        6 => Just(""),
        1 => Just(r#"when { resource in Keystead::Folder::"x/y" }"#),
        1 => Just(r#"unless { Keystead::Secret::"x/y" in Keystead::Folder::"x" }"#),
        1 => Just(r#"when { context.method == Keystead::Method::"token" }"#),
        1 => Just(r#"unless { context has mfa_age_secs && context.mfa_age_secs < 60 }"#),
        1 => Just(r#"when { context has mfa_age_secs && context.mfa_age_secs * 9223372036854775807 > 0 }"#),
    ];
    (head, principal, action, resource, condition).prop_map(
        |(head, principal, action, resource, condition)| {
            format!("{head} (principal {principal}, action {action}, resource {resource}) {condition};")
        },
    )
}

fn question() -> impl Strategy<Value = (usize, u8, usize, usize, bool, Option<u64>)> {
    (
        0..PRINCIPALS.len(),
        0u8..8,
        0..ACTIONS.len(),
        0..RESOURCES.len(),
        any::<bool>(),
        prop_oneof![Just(None), Just(Some(7)), Just(Some(700))],
    )
}

/// All statements, no index, no cache: Cedar's answer and Keystead's rules on top.
fn by_the_book(policies: &Policies, request: &AccessRequest<'_>) -> Verdict {
    if request.action.resource_kind() != request.resource.kind() {
        return Verdict::Deny;
    }
    let (put, entities) = VOCABULARY.put(request, Reads::of_source("context now peer")).unwrap();
    let mut verdict = Verdict::Deny;
    for position in 0..policies.len() {
        let statement = policies.index.statement(position).unwrap();
        let set = cedar_policy::PolicySet::from_policies([statement.policy.clone()]).unwrap();
        let response = Authorizer::new().is_authorized(&put, &set, &entities);
        let failed = response.diagnostics().errors().next().is_some();
        let holds = response.diagnostics().reason().next().is_some();
        match (statement.forbids, statement.needs_approval) {
            (true, _) if holds || failed => return Verdict::Deny,
            (false, false) if holds => verdict = Verdict::Allow,
            (false, true) if holds && verdict == Verdict::Deny => verdict = Verdict::NeedsApproval,
            _ => {}
        }
    }
    verdict
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_index_and_the_caches_change_no_answer(
        statements in prop::collection::vec(statement(), 1..8),
        questions in prop::collection::vec(question(), 1..24),
    ) {
        let valid = |text: &String| statement::compile(&name("one"), text, Strictness::Loaded).is_ok();
        let documents = statements.into_iter().filter(valid).enumerate();
        let documents = documents.map(|(index, text)| (name(&format!("doc-{index}")), text)).collect();
        let policies = Policies::compile(documents).unwrap();
        for (principal, members, action, resource, token, mfa_age_secs) in questions {
            let groups: Vec<_> = (0..3)
                .filter(|bit| members & (1 << bit) != 0)
                .map(|bit| GroupName::parse(GROUPS[bit]).unwrap())
                .collect();
            let method = if token { Method::Token } else { Method::Certificate };
            let context = AccessContext { method, mfa_age_secs, ..context() };
            let request = AccessRequest {
                principal: &PrincipalName::parse(PRINCIPALS[principal]).unwrap(),
                groups: &groups,
                action: ACTIONS[action],
                resource: &Resource::parse(RESOURCES[resource]).unwrap(),
                context: &context,
            };
            let expected = by_the_book(&policies, &request);
            prop_assert_eq!(policies.decide(&request).verdict, expected);
            prop_assert_eq!(policies.decide(&request).verdict, expected);
            prop_assert_eq!(policies.explain(&request).decision.verdict, expected);
        }
    }

    #[test]
    fn no_text_makes_the_compiler_panic(text in "\\PC{0,200}|(permit|forbid|[(){};,@\"\\\\. =&|!]|principal|action|resource|when|Keystead::){0,60}") {
        drop(Policies::validate_one(&name("text"), &text));
    }
}
