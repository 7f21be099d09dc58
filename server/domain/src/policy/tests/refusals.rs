//! Tests of which policy documents are refused, and how the refusal names its place.
//! Each is a document that would otherwise fail to bite, or would exhaust the stack.

use super::*;

fn refused(text: &str) -> PolicyError {
    Policies::validate_one(&name("shop"), text).unwrap_err()
}

#[track_caller]
fn refused_at(text: &str, line: usize, column: usize) -> PolicyProblem {
    let error = refused(text);
    assert_eq!(error.position, Some(Position { line, column }), "{error}");
    error.problem
}

#[test]
fn a_syntax_error_names_policy_line_and_column() {
    let text = "permit (\n  principal == Keystead::Service::\"api\",\n  action resource);";
    let problem = refused_at(text, 3, 10);
    assert!(matches!(problem, PolicyProblem::Syntax { .. }), "{problem}");
    let shown = refused(text).to_string();
    assert!(
        shown.starts_with("policy shop, line 3, column 10: syntax: unexpected token `resource`"),
        "{shown}"
    );
}

#[test]
fn a_name_the_schema_does_not_know_is_refused_where_it_stands() {
    let text = "// who\npermit (principal == Keystead::Servce::\"api\", action, resource);";
    assert!(matches!(refused_at(text, 2, 22), PolicyProblem::Invalid { .. }));
    let text = "permit (principal == Keystead::Service::\"api\", action == Keystead::Action::\"secrets:raed\", resource);";
    assert!(matches!(refused_at(text, 1, 58), PolicyProblem::Invalid { .. }));
    for (action, hint) in [
        (r#"Keystead::Action::"secrets:raed""#, "did you mean secrets:read?"),
        (r#"Keystead::Action::"secrets:*""#, "docs/reference/policies.md lists them"),
        (r#"Keystead::Action::"system:init""#, "no policy can grant it"),
        (r#"Action::"secrets:read""#, r#"an action is written Keystead::Action::"secrets:read""#),
    ] {
        let text =
            format!(r#"permit (principal == Keystead::Service::"api", action == {action}, resource);"#);
        let shown = refused(&text).to_string();
        let told = format!("policy shop, line 1, column 58: unrecognized action `{action}` ({hint})");
        assert_eq!(shown, told);
    }
    for text in [
        r#"permit (principal == Keystead::Service::"api", action == Keystead::Action::"system:init", resource);"#,
        r#"permit (principal == Keystead::Service::"api", action, resource) when { context.pier == ip("::1") };"#,
        r#"permit (principal == Keystead::Service::"api", action, resource) when { context.peer == ip("::1") };"#,
        r#"permit (principal == Keystead::Service::"api", action, resource) when { context.method == "token" };"#,
        r#"permit (principal == Keystead::Service::"api", action, resource) when { context.method == Keystead::Method::"tokn" };"#,
        r#"permit (principal == Keystead::Service::"api", action, resource) when { context.now > 5 };"#,
        r#"permit (principal == Keystead::Service::"api", action, resource) when { principal.admin };"#,
        r#"permit (principal == Keystead::Service::"api", action, resource == Keystead::System::"vualt");"#,
        r#"permit (principal == Keystead::Service::"api", action == Keystead::Action::"secrets:read", resource in Keystead::Role::"app");"#,
        r#"forbid (principal, action == Keystead::Action::"secrets:read", resource is Keystead::Role);"#,
        r#"permit (principal in Keystead::Folder::"shop", action, resource);"#,
        r#"permit (principal == Keystead::Service::"api", action, resource) when { ip("1.2.3.400").isIpv4() };"#,
    ] {
        let problem = refused(text).problem;
        assert!(matches!(problem, PolicyProblem::Invalid { .. }), "{text}: {problem}");
    }
}

#[test]
fn a_permit_says_for_whom() {
    let text = "forbid (principal, action, resource);\n\n  permit (principal, action, resource);";
    assert_eq!(refused_at(text, 3, 3), PolicyProblem::UnscopedPermit);
    let text = r#"permit (principal, action, resource) when { principal == Keystead::Service::"api" };"#;
    assert_eq!(refused_at(text, 1, 1), PolicyProblem::UnscopedPermit);
}

#[test]
fn an_id_in_another_spelling_is_refused_because_it_would_never_match() {
    let text = "forbid (\n  principal,\n  action,\n  resource in Keystead::Folder::\"shop/\"\n);";
    assert_eq!(
        refused_at(text, 4, 33),
        PolicyProblem::Reference {
            entity: "Keystead::Folder::\"shop/\"".into(),
            reason: "path: empty segment at byte 5 (a slash may only stand between two segments)".into(),
        }
    );
    for entity in [
        r#"Keystead::Folder::"./shop""#,
        r#"Keystead::Folder::"/""#,
        r#"Keystead::Secret::"""#,
        r#"Keystead::Secret::"a//b""#,
        r#"Keystead::Secret::"a/../b""#,
        r#"Keystead::Secret::"a/\u{62}.""#,
        r#"Keystead::Role::"App""#,
        r#"Keystead::Lease::"1""#,
        r#"Keystead::Principal::"api""#,
        r#"Keystead::Policy::"root""#,
        r#"Keystead::Target::"db ""#,
    ] {
        let text = format!("forbid (principal, action, resource) unless {{ resource == {entity} }};");
        let problem = refused(&text).problem;
        assert!(matches!(problem, PolicyProblem::Reference { .. }), "{entity}: {problem}");
    }
    for principal in [
        r#"== Keystead::Service::"Api""#,
        r#"== Keystead::Operator::"root""#,
        r#"in Keystead::Group::"system""#,
        r#"is Keystead::Service in Keystead::Group::"ops ""#,
        r#"== Keystead::Operator::"bootstrap""#,
    ] {
        let text = format!("permit (principal {principal}, action, resource);");
        let problem = refused(&text).problem;
        assert!(matches!(problem, PolicyProblem::Reference { .. }), "{principal}: {problem}");
    }
}

#[test]
fn an_annotation_with_a_slip_of_the_pen_is_refused() {
    let permit = r#"permit (principal == Keystead::Service::"api", action, resource);"#;
    for annotation in
        [r#"@aproval("two-person")"#, r#"@approval("two person")"#, "@approval", r#"@Approval("two-person")"#]
    {
        let problem = refused(&format!("{permit}\n{annotation} {permit}")).problem;
        assert!(matches!(problem, PolicyProblem::Annotation { .. }), "{annotation}: {problem}");
    }
    let problem = refused(r#"@approval("two-person") forbid (principal, action, resource);"#).problem;
    assert_eq!(problem, PolicyProblem::Annotation { annotation: "approval".into() });
    let fine = format!(r#"@id("x") @description("reads; (all)") @approval("two-person") {permit}"#);
    assert_eq!(Policies::validate_one(&name("shop"), &fine), Ok(()));
}

#[test]
fn what_is_empty_a_template_too_long_or_listed_twice_is_refused() {
    assert_eq!(refused("").problem, PolicyProblem::Empty);
    assert_eq!(refused("// permit (principal, action, resource);\n").problem, PolicyProblem::Empty);
    let problem = refused_at("\npermit (principal == ?principal, action, resource);", 2, 1);
    assert_eq!(problem, PolicyProblem::Template);
    let length = MAX_POLICY_BYTES + 1;
    assert_eq!(
        refused(&" ".repeat(length)).problem,
        PolicyProblem::TooLong { length, limit: MAX_POLICY_BYTES }
    );
    let many = "forbid (principal, action, resource);".repeat(257);
    assert_eq!(refused(&many).problem, PolicyProblem::TooManyStatements { count: 257, limit: 256 });
    let document = || (name("shop"), "forbid (principal, action, resource);".to_owned());
    let error = Policies::compile(vec![document(), document()]).unwrap_err();
    assert_eq!(error.to_string(), "policy shop: is listed twice");
}

#[test]
fn text_that_shows_as_something_else_is_refused() {
    let text = "forbid (principal, action, resource);\n// \u{202e}tsrif";
    assert_eq!(refused_at(text, 2, 4), PolicyProblem::Character { found: '\u{202e}' });
    assert!(matches!(refused("forbid\u{1b}[2J").problem, PolicyProblem::Character { found: '\u{1b}' }));
    assert!(matches!(refused("\u{200b}forbid").problem, PolicyProblem::Character { found: '\u{200b}' }));
}

#[test]
fn a_stored_document_is_not_refused_for_a_warning() {
    let never = r#"forbid (principal, action, resource) when { resource == Keystead::Role::"a" && false };"#;
    assert!(Policies::validate_one(&name("shop"), never).is_err());
    assert!(Policies::compile(vec![(name("shop"), never.to_owned())]).is_ok());
}

#[test]
fn deep_and_long_expressions_never_exhaust_the_stack() {
    let wrap = |condition: String| format!("forbid (principal, action, resource) when {{ {condition} }};");
    let nested = move |depth: usize| {
        [
            wrap(format!("{}true{}", "(".repeat(depth), ")".repeat(depth))),
            wrap(format!("{}true", "true && ".repeat(depth))),
            wrap(format!("{}true", "false || ".repeat(depth))),
            wrap(format!("{}true", "if true then false else ".repeat(depth))),
            wrap(format!("{}1{} == []", "[".repeat(depth), "]".repeat(depth))),
            wrap(format!("{}true{} == {{}}", "{a:".repeat(depth), "}".repeat(depth))),
            wrap(format!("1{} == 2", " + 1".repeat(depth))),
            wrap(format!("{}true", "!".repeat(depth))),
            wrap(format!("context{}", ".a".repeat(depth))),
            wrap("(".repeat(depth)),
            wrap(format!("ip(\"::1\"){}", ".isIpv4()".repeat(depth))),
            wrap(format!("{}true{}", "[true].contains(".repeat(depth / 2), ")".repeat(depth / 2))),
        ]
    };
    let too_complex = PolicyProblem::TooComplex { depth: MAX_DEPTH, operators: MAX_OPERATORS };
    let check = move || {
        // The statement itself has two brackets open where these begin.
        for text in nested(MAX_DEPTH - 2) {
            drop(Policies::validate_one(&name("deep"), &text));
        }
        for text in nested(300).iter().chain(&nested(2_500)) {
            assert_eq!(refused(text).problem, too_complex, "{}", &text[..60]);
        }
        // Cedar's validator would pass these unchecked on a small stack.
        for chain in [".a", ".isIpv4()"] {
            let text = wrap(format!("context{}", chain.repeat(240 / chain.matches(['.', '(']).count())));
            let problem = refused(&text).problem;
            assert!(matches!(problem, PolicyProblem::Invalid { .. }), "{chain}: {problem}");
        }
        for chain in ["true && ", "false || ", "1 == 1 && "] {
            let text = wrap(format!("{}principal", chain.repeat(80)));
            let problem = refused(&text).problem;
            assert!(matches!(problem, PolicyProblem::Invalid { .. }), "{chain}: {problem}");
        }
    };
    std::thread::Builder::new().stack_size(256 * 1024).spawn(check).unwrap().join().unwrap();
}
