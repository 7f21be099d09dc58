//! Cargo's own tools, pinned: the test runner and the dependency checker, each under a directory of its version.
//!
//! Invariant: only that copy is used. They are compiled with little optimization, since they are run a few times
//! for each time they are built.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{command, workspace};

/// A tool, by the name and version that cargo installs.
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) cost: &'static str,
    features: &'static [&'static str],
}

/// The test runner, without the part that would replace itself.
pub(crate) const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    version: "0.9.151",
    cost: "about 4 minutes on two cores",
    features: &["--no-default-features", "--features=default-no-update"],
};

/// The dependency checker.
pub(crate) const DENY: Tool =
    Tool { name: "cargo-deny", version: "0.20.2", cost: "about 5 minutes on two cores", features: &[] };

impl Tool {
    /// Where our copy is.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        Ok(self.root()?.join("bin").join(self.name))
    }

    /// Whether our copy is there and says that it is this version.
    pub(crate) fn is_installed(&self) -> Result<bool> {
        let output = Command::new(self.path()?).arg("--version").output();
        Ok(output.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split_whitespace().any(|word| word == self.version)
        }))
    }

    /// Compiles and installs our copy, showing how many crates are done.
    pub(crate) fn install(&self) -> Result<()> {
        let root = self.root()?;
        let _lock = super::lock(&root)?;
        if self.is_installed()? {
            return Ok(());
        }
        let parent = root.parent().context("the cache has no directory for tools")?;
        let log = root.with_extension("log");
        let mut cargo = command::cargo(parent);
        cargo
            .args(["install", "--locked", "--force", "--version", self.version, "--root"])
            .arg(&root)
            .args(self.features)
            .arg(self.name)
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS");
        let label = format!("Compiling {} {}", self.name, self.version);
        command::watched(&mut cargo, &label, &log, || {
            let written = std::fs::read_to_string(&log).unwrap_or_default();
            let compiled = written.lines().filter(|line| line.trim_start().starts_with("Compiling")).count();
            format!("{compiled} crates begun")
        })
    }

    fn root(&self) -> Result<PathBuf> {
        Ok(workspace::cache_directory()?.join("tools").join(format!("{}-{}", self.name, self.version)))
    }
}
