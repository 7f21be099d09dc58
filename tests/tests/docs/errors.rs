//! The page of errors and the code name the same reasons.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::page;

#[test]
fn the_page_of_errors_has_every_reason_once_and_no_other() {
    let mut code = literals(&after(&source("server/core/src/error.rs"), "pub fn reason("));
    code.extend(literals(&after(&source("server/core/src/credentials/error.rs"), "pub fn reason(")));
    code.extend(literals(&after(&source("server/crypto/src/share.rs"), "pub fn reason(")));
    for file in rust_in(&page::root().join("server/src/grpc")) {
        code.extend(literals(&std::fs::read_to_string(file).unwrap()));
    }
    let page = page::text("docs/reference/errors.md");
    let mut listed = BTreeSet::new();
    for line in page.lines() {
        let Some((reason, _)) = line.strip_prefix("| `").and_then(|row| row.split_once('`')) else {
            continue;
        };
        assert!(listed.insert(reason.to_owned()), "{reason} is on the page twice");
    }
    assert!(code.len() > 50, "{code:?}");
    let missing: Vec<_> = code.difference(&listed).collect();
    let unknown: Vec<_> = listed.difference(&code).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "not on the page: {missing:?}; not in code: {unknown:?}"
    );
}

fn source(path: &str) -> String {
    page::text(path)
}

fn after(text: &str, mark: &str) -> String {
    text.split_once(mark).unwrap_or_else(|| panic!("there is no {mark} any more")).1.to_owned()
}

/// Texts in capitals and underscores, outside of tests and of what the compiler's environment says.
fn literals(text: &str) -> BTreeSet<String> {
    let code = text.split_once("#[cfg(test)]\nmod tests {").map_or(text, |(code, _)| code);
    code.lines()
        .filter(|line| !line.contains("env!("))
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .filter(|text| text.len() > 3 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
        .map(str::to_owned)
        .collect()
}

fn rust_in(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(rust_in(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    found
}
