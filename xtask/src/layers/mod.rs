//! The direction of imports: which of our packages may use which, and what each must never reach.
//!
//! Invariant: the table of ARCHITECTURE.md, checked against `cargo metadata`; a package without a row is a violation.
//! Development dependencies are left out: tests may start anything. `deny.toml` bans foreign crates from their side
//! (RocksDB only under storage-rocksdb, and so on).

mod graph;

use anyhow::{Result, bail};

use self::graph::Graph;
use crate::{console, workspace::Workspace};

/// One package's row of the table.
struct Rule {
    package: &'static str,
    /// Which of ours it may name in its manifest.
    may_use: Ours,
    /// What it must not reach, over any number of steps.
    never: &'static [&'static str],
    /// What of that a foreign crate may reach for itself: the crate, and what it reaches.
    but: &'static [(&'static str, &'static str)],
}

enum Ours {
    Only(&'static [&'static str]),
    Any,
}

use Ours::{Any, Only};

const RULES: &[Rule] = &[
    Rule { package: "keystead-proto", may_use: Only(&[]), never: &[], but: &[] },
    Rule {
        package: "keystead-domain",
        may_use: Only(&[]),
        never: &["tokio", "mio", "socket2", "hyper", "rustix", "getrandom", "rand", "rand_core", "reqwest"],
        but: &[],
    },
    Rule {
        package: "keystead-crypto",
        may_use: Only(&[]),
        never: &["tokio", "mio", "socket2", "hyper", "tempfile", "getrandom", "rocksdb", "keystead-storage"],
        // age draws the randomness of its files by itself.
        but: &[("age", "getrandom")],
    },
    Rule {
        package: "keystead-audit",
        may_use: Only(&["keystead-domain"]),
        never: &["tokio", "tonic", "keystead-storage", "rocksdb"],
        but: &[],
    },
    Rule {
        package: "keystead-storage",
        may_use: Only(&["keystead-domain"]),
        never: &["rocksdb", "tonic", "keystead-crypto"],
        but: &[],
    },
    Rule {
        package: "keystead-storage-rocksdb",
        may_use: Only(&["keystead-storage", "keystead-domain"]),
        never: &["tonic", "keystead-core", "keystead-crypto"],
        but: &[],
    },
    Rule {
        package: "keystead-core",
        may_use: Only(&["keystead-domain", "keystead-crypto", "keystead-storage", "keystead-audit"]),
        never: &[
            "tonic",
            "prost",
            "rocksdb",
            "cryptoki",
            "tokio-postgres",
            "mysql_async",
            "lapin",
            "async-nats",
            "redis",
        ],
        but: &[],
    },
    Rule {
        package: "keystead-engines",
        may_use: Only(&["keystead-core", "keystead-domain", "keystead-crypto"]),
        never: &["tonic", "rocksdb", "cryptoki", "keystead-hsm"],
        but: &[],
    },
    Rule {
        package: "keystead-hsm",
        may_use: Only(&["keystead-crypto"]),
        never: &["tonic", "rocksdb", "keystead-core", "keystead-storage"],
        but: &[],
    },
    Rule {
        package: "keystead-server",
        may_use: Only(&[
            "keystead-audit",
            "keystead-core",
            "keystead-crypto",
            "keystead-domain",
            "keystead-engines",
            "keystead-hsm",
            "keystead-proto",
            "keystead-storage",
            "keystead-storage-rocksdb",
        ]),
        never: &["keystead-client"],
        but: &[],
    },
    Rule { package: "keystead-client", may_use: Only(&["keystead-proto"]), never: CLIENT_NEVER, but: &[] },
    Rule {
        package: "keystead-cli",
        may_use: Only(&["keystead-client", "keystead-proto", "keystead-audit", "keystead-crypto"]),
        never: CLIENT_NEVER,
        but: &[],
    },
    Rule { package: "keystead-tests", may_use: Any, never: &[], but: &[] },
    Rule {
        package: "keystead-pkcs11-shim",
        may_use: Only(&[]),
        never: &["tokio", "rocksdb", "tonic"],
        but: &[],
    },
    Rule { package: "keystead-benches", may_use: Any, never: &[], but: &[] },
    Rule {
        package: "xtask",
        may_use: Only(&[]),
        never: &["tokio", "rocksdb", "cryptoki", "tonic"],
        but: &[],
    },
];

const CLIENT_NEVER: &[&str] =
    &["keystead-server", "keystead-core", "keystead-storage", "keystead-hsm", "rocksdb", "cryptoki"];

/// Checks the workspace and names every violation.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let graph = Graph::of(&workspace.metadata()?);
    let violations = violations(&graph, RULES);
    if !violations.is_empty() {
        bail!("the direction of imports is violated:\n- {}", violations.join("\n- "));
    }
    console::say(&format!("layers: {} packages, no violation", graph.ours().count()));
    Ok(())
}

fn violations(graph: &Graph, rules: &[Rule]) -> Vec<String> {
    let mut found = Vec::new();
    for package in graph.ours() {
        let Some(rule) = rules.iter().find(|rule| rule.package == package) else {
            found.push(format!("{package} has no row in xtask/src/layers/mod.rs and ARCHITECTURE.md"));
            continue;
        };
        if let Only(allowed) = rule.may_use {
            let against = graph.uses_of_ours(package).filter(|used| !allowed.contains(used));
            found.extend(against.map(|used| format!("{package} may not use {used}")));
        }
        for banned in rule.never {
            let around: Vec<&str> =
                rule.but.iter().filter(|(_, reached)| reached == banned).map(|(crate_, _)| *crate_).collect();
            if let Some(path) = graph.path(package, banned, &around) {
                found.push(format!("{package} must never reach {banned}: {}", path.join(" → ")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{graph::tests::example, *};

    const TABLE: &[Rule] = &[
        Rule { package: "low", may_use: Only(&[]), never: &["socket"], but: &[] },
        Rule { package: "high", may_use: Only(&["low"]), never: &["driver"], but: &[] },
    ];

    fn found(ours: &[&str], edges: &[(&str, &str)]) -> Vec<String> {
        let edges: Vec<_> = edges.iter().map(|(from, to)| (*from, *to, None)).collect();
        violations(&example(ours, &edges), TABLE)
    }

    #[test]
    fn a_tree_that_keeps_the_direction_passes() {
        let edges = [("high", "low"), ("high", "socket"), ("low", "text")];
        assert_eq!(found(&["low", "high"], &edges), Vec::<String>::new());
    }

    #[test]
    fn an_import_against_the_direction_is_named() {
        assert_eq!(found(&["low", "high"], &[("low", "high")]), ["low may not use high"]);
    }

    #[test]
    fn something_banned_is_found_over_any_number_of_steps() {
        let edges = [("low", "text"), ("text", "net"), ("net", "socket")];
        let expected = ["low must never reach socket: low → text → net → socket"];
        assert_eq!(found(&["low", "high"], &edges), expected);
    }

    #[test]
    fn a_foreign_crate_may_reach_for_itself_what_is_lent_to_it_and_nothing_else() {
        let lent = [Rule {
            package: "low",
            may_use: Only(&[]),
            never: &["random", "socket"],
            but: &[("cipher", "random")],
        }];
        let found = |edges: &[(&'static str, &'static str)]| {
            let edges: Vec<_> = edges.iter().map(|(from, to)| (*from, *to, None)).collect();
            violations(&example(&["low"], &edges), &lent)
        };
        assert_eq!(found(&[("low", "cipher"), ("cipher", "random")]), Vec::<String>::new());
        let socket = found(&[("low", "cipher"), ("cipher", "random"), ("cipher", "socket")]);
        assert_eq!(socket, ["low must never reach socket: low → cipher → socket"]);
        let own = found(&[("low", "cipher"), ("cipher", "random"), ("low", "random")]);
        assert_eq!(own, ["low must never reach random: low → random"]);
    }

    #[test]
    fn a_package_without_a_row_is_a_violation() {
        let expected = ["stranger has no row in xtask/src/layers/mod.rs and ARCHITECTURE.md"];
        assert_eq!(found(&["low", "stranger"], &[]), expected);
    }

    #[test]
    fn every_name_in_the_table_has_a_row_of_its_own() {
        for rule in RULES {
            if let Only(allowed) = rule.may_use {
                for name in allowed {
                    assert!(RULES.iter().any(|other| other.package == *name), "{}: {name}", rule.package);
                }
            }
        }
    }
}
