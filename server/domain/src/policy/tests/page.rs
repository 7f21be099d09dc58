//! The page `docs/reference/policies.md` says what the code says: the same actions with the same resources and
//! groups, the same entities and attributes; its rpcs exist, and its examples are valid and decide as it says.
//! Absent: the prose, and whether a command is the one that calls the rpc beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::*;

fn source(path: &str) -> String {
    // Asked for at run time, since the tests may run from a copy.
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let path = here.join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text below a heading, up to the next.
fn section(heading: &str) -> String {
    let page = source("docs/reference/policies.md");
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).expect(heading);
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The cells of a section's table that begin with a word in backquotes, without the quotes around whole cells.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = section(heading);
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let cells = |row: &str| row.trim_matches('|').split(" | ").map(bare).collect();
    rows.map(cells).collect()
}

fn bare(cell: &str) -> String {
    cell.trim().trim_matches('`').to_owned()
}

/// What stands in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_action_is_listed_once_with_its_resource_and_group() {
    let listed: Vec<_> = rows("Actions").into_iter().map(|row| row[..3].to_vec()).collect();
    let group = |action: &Action| action.group().map_or("–", ActionGroup::as_str);
    let ours = Action::ALL.iter().map(|action| {
        [action.as_str(), action.resource_kind().entity_type(), group(action)].map(str::to_owned).to_vec()
    });
    let known: BTreeSet<_> = ours.collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), known);
    assert_eq!(listed.len(), known.len(), "an action is listed twice");
}

#[test]
fn every_rpc_of_an_action_exists() {
    let proto: String =
        ["secrets", "auth", "policies", "audit", "system", "keys", "credentials", "static_roles", "leases"]
            .map(|file| source(&format!("proto/keystead/v1/{file}.proto")))
            .concat();
    for row in &rows("Actions") {
        let cell = format!("`{}`", row[3]);
        let rpcs: Vec<_> = quoted(&cell).filter(|word| !word.is_empty() && !word.contains(' ')).collect();
        assert!(!rpcs.is_empty(), "{row:?}");
        for rpc in rpcs {
            assert!(proto.contains(&format!("  rpc {rpc}(")), "{row:?}: there is no rpc {rpc}");
        }
    }
}

#[test]
fn every_group_lists_its_actions() {
    let mut known: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for action in Action::ALL {
        if let Some(group) = action.group() {
            known.entry(group.as_str()).or_default().insert(action.as_str());
        }
    }
    let text = section("Action groups");
    let (_, list) = text.split_once("\n* ").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let listed: BTreeMap<_, BTreeSet<_>> = list
        .split("\n* ")
        .map(|item| (quoted(item).next().unwrap(), quoted(item).skip(1).collect()))
        .collect();
    assert_eq!(listed, known);
}

#[test]
fn entities_and_attributes_are_those_of_the_schema() {
    let first = |heading: &str| rows(heading).into_iter().map(|row| row[0].clone()).collect::<BTreeSet<_>>();
    let words = |line: &str| line.split([' ', ';', '?', ':']).map(str::to_owned).collect::<Vec<_>>();
    let lines = SCHEMA.lines().map(str::trim);
    let entities =
        lines.clone().filter_map(|line| line.strip_prefix("entity ")).map(|line| words(line)[0].clone());
    assert_eq!(first("Entities"), entities.collect());

    let (_, circumstances) = SCHEMA.split_once("type Circumstances = {").unwrap();
    let (circumstances, _) = circumstances.split_once("};").unwrap();
    let attributes =
        circumstances.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    assert_eq!(first("Context"), attributes.map(|line| words(line)[0].clone()).collect());
}

#[test]
fn the_limits_are_those_of_the_code() {
    let rules = section("What a written policy must obey");
    for limit in [
        format!("At most {} KiB and {MAX_STATEMENTS} statements", MAX_POLICY_BYTES / 1024),
        format!("nests at most {MAX_DEPTH} deep"),
        format!("at most {MAX_OPERATORS} operators"),
    ] {
        assert!(rules.contains(&limit), "{limit}");
    }
}

/// Each example by the name after its fence.
fn examples() -> BTreeMap<String, String> {
    let text = section("Examples");
    let blocks = text.split("```cedar ").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    blocks
        .map(|block| block.split_once('\n').unwrap())
        .map(|(name, text)| (name.into(), text.into()))
        .collect()
}

#[test]
fn every_example_would_be_stored() {
    let whole = source("docs/reference/policies.md");
    let examples = examples();
    assert_eq!(
        examples.len(),
        whole.matches("```cedar").count(),
        "an example has no name or the wrong place"
    );
    for (example, text) in examples {
        assert_eq!(Policies::validate_one(&name(&example), &text), Ok(()), "{example}");
    }
}

#[test]
fn every_example_decides_as_the_page_says() {
    let examples = examples();
    let mut asked = BTreeSet::new();
    for (example, principal, groups, action, resource, verdict) in [
        (
            "read-below-a-folder",
            "service/shop",
            "",
            Action::SecretsRead,
            "secret/shop/db/main",
            Verdict::Allow,
        ),
        ("read-below-a-folder", "service/shop", "", Action::SecretsRead, "secret/shopping", Verdict::Deny),
        ("read-below-a-folder", "service/shop", "", Action::SecretsList, "folder/shop", Verdict::Deny),
        ("list-the-root", "operator/ann", "support", Action::SecretsList, "folder/", Verdict::Allow),
        ("list-the-root", "operator/ann", "support", Action::SecretsList, "folder/shop", Verdict::Deny),
        ("list-the-root", "operator/ann", "support", Action::SecretsRead, "secret/shop", Verdict::Deny),
        (
            "write-without-reading",
            "service/deploy",
            "",
            Action::SecretsWrite,
            "secret/shop/db",
            Verdict::Allow,
        ),
        ("write-without-reading", "service/deploy", "", Action::SecretsRead, "secret/shop/db", Verdict::Deny),
        ("forbid-for-a-group", "service/shop", "apps", Action::SecretsRead, "secret/shop/db", Verdict::Allow),
        (
            "forbid-for-a-group",
            "service/shop",
            "apps",
            Action::SecretsRead,
            "secret/root-ca/key",
            Verdict::Deny,
        ),
        ("forbid-for-a-group", "service/shop", "apps", Action::SecretsList, "folder/root-ca", Verdict::Deny),
        (
            "forbid-for-a-group",
            "service/shop",
            "apps",
            Action::SecretsDestroy,
            "secret/a",
            Verdict::NeedsApproval,
        ),
    ] {
        let policies = compile(&[(example, &examples[example])]);
        let groups: Vec<_> = groups.split_whitespace().collect();
        let decision = ask(&policies, principal, &groups, action, resource);
        assert_eq!(decision.verdict, verdict, "{example}: {principal} {action} {resource}");
        asked.insert(example.to_owned());
    }
    assert_eq!(asked, examples.into_keys().collect());
}
