//! What `cargo metadata` says, as far as xtask asks: packages, their resolved dependencies, and directories.
//!
//! Invariant: read with `--locked` and for this machine's target only. Features are those of the whole
//! workspace together, so a ban may be stricter than one package alone would need.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command;

#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    pub(crate) resolve: Resolve,
    pub(crate) target_directory: PathBuf,
}

#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
}

#[derive(Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

#[derive(Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) deps: Vec<Dependency>,
    pub(crate) features: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) pkg: String,
    pub(crate) dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
pub(crate) struct DependencyKind {
    pub(crate) kind: Option<String>,
}

impl Dependency {
    /// Whether it ends up in what is built, and does not only help to build or to test it.
    pub(crate) fn is_linked(&self) -> bool {
        self.dep_kinds.iter().any(|kind| kind.kind.is_none())
    }
}

pub(crate) fn load(root: &Path) -> Result<Metadata> {
    let target = host_target(root)?;
    let text = command::output(command::cargo(root).args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        &target,
    ]))?;
    serde_json::from_str(&text).context("cargo metadata printed something else than expected")
}

fn host_target(root: &Path) -> Result<String> {
    let text = command::output(command::cargo(root).args(["version", "--verbose"]))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`cargo version --verbose` names no host")?.to_owned())
}
