//! cargo-deny with deny.toml: licences, banned crates, sources, advisories.
//!
//! Invariant: the advisory database is fetched only when asked for. Where no advisory database is on the machine the check of
//! advisories says NOT CHECKED and the rest counts; it never passes silently.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{command, console, setup, workspace::Workspace};

/// Runs the checks; with `fetch`, gets the advisory database first.
pub(crate) fn check(workspace: &Workspace, fetch: bool) -> Result<()> {
    if fetch {
        command::run(deny(workspace)?.args(["fetch", "db"]))?;
    }
    let database = database_is_there();
    // For every target, not only this machine's; after that the checks need no network.
    command::run(workspace.cargo().args(["fetch", "--locked", "--quiet"]))?;
    let mut checks = deny(workspace)?;
    checks.args(["--frozen", "check", "--hide-inclusion-graph"]);
    checks.args(["bans", "licenses", "sources"]);
    if database {
        checks.arg("advisories");
    }
    command::run(&mut checks)?;
    if !database {
        console::say(
            "advisories: NOT CHECKED, no database on this machine (`cargo xtask deny --fetch` gets it)",
        );
    }
    Ok(())
}

fn deny(workspace: &Workspace) -> Result<Command> {
    let mut command = Command::new(setup::DENY.path()?);
    command.current_dir(workspace.root());
    command::without_cargo_run(&mut command);
    Ok(command)
}

/// cargo-deny keeps its databases under cargo's home; a directory without advisories is none.
fn database_is_there() -> bool {
    cargo_home().is_ok_and(|home| {
        fs::read_dir(home.join("advisory-dbs")).is_ok_and(|entries| {
            entries.filter_map(Result::ok).any(|entry| entry.path().join("crates").is_dir())
        })
    })
}

fn cargo_home() -> Result<PathBuf> {
    let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let usual = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    named.or_else(usual).context("neither CARGO_HOME nor HOME is set")
}
