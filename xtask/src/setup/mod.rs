//! Set-up: finds what this machine lacks, lists it with the reason, asks once, and installs it.
//!
//! Invariant: safe to run twice and from several clones at once; starts no service of the system; everything built
//! here lies in the user's cache under a name that holds its version, and is put there whole or not at all.
//! A tool that happens to be on PATH is not used: it would hide a missing step.

mod cargo_config;
mod packages;
mod rocksdb;
mod tools;

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use crate::{console, workspace::Workspace};

pub(crate) use packages::is_root;
pub(crate) use tools::{DENY, NEXTEST};

/// What a chore needs from the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Compiling and running the workspace: system packages and the RocksDB library.
    Build,
    /// The test runner.
    Nextest,
    /// The dependency checker.
    Deny,
}

/// Whether set-up had anything to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything was there.
    Warm,
    /// Something was installed or built.
    Cold,
}

enum Missing {
    Packages(Vec<&'static packages::Package>),
    Rocksdb,
    Tool(&'static tools::Tool),
}

impl Missing {
    fn describe(&self) -> String {
        match self {
            Self::Packages(missing) => {
                let lines = missing.iter().map(|package| format!("  {:14} {}", package.name, package.reason));
                format!("packages of the system:\n{}", lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Rocksdb => {
                "the RocksDB library: built once for this user, about 20 minutes on two cores".to_owned()
            }
            Self::Tool(tool) => {
                format!("{} {}: built once for this user, {}", tool.name, tool.version, tool.cost)
            }
        }
    }

    fn install(&self, workspace: &Workspace) -> Result<()> {
        match self {
            Self::Packages(missing) => packages::install(missing),
            Self::Rocksdb => rocksdb::Library::describe(workspace)?.build(workspace),
            Self::Tool(tool) => tool.install(),
        }
    }
}

/// Makes sure that everything is there, or says why not.
pub(crate) fn ensure(workspace: &Workspace, needs: &[Need]) -> Result<Outcome> {
    let missing = find_missing(workspace, needs)?;
    if !missing.is_empty() {
        announce(&missing);
        if console::somebody_answers() && !console::confirmed("Install all of this?")? {
            bail!("nothing was installed; `cargo run -p xtask -- setup` asks again");
        }
        for part in &missing {
            part.install(workspace)?;
        }
    }
    if needs.contains(&Need::Build) {
        cargo_config::write(workspace, &rocksdb::Library::describe(workspace)?)?;
    }
    Ok(if missing.is_empty() { Outcome::Warm } else { Outcome::Cold })
}

/// Only tells what is missing.
pub(crate) fn list(workspace: &Workspace) -> Result<ExitCode> {
    let missing = find_missing(workspace, &[Need::Build, Need::Nextest, Need::Deny])?;
    if missing.is_empty() {
        console::say("Nothing is missing.");
        return Ok(ExitCode::SUCCESS);
    }
    announce(&missing);
    Ok(ExitCode::FAILURE)
}

fn announce(missing: &[Missing]) {
    console::say("Missing on this machine:");
    for part in missing {
        console::say(&format!("- {}", part.describe()));
    }
}

/// In the order in which they have to be installed: building needs the packages.
fn find_missing(workspace: &Workspace, needs: &[Need]) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    let packages = packages::missing()?;
    let compiler_is_there = packages.is_empty();
    if !compiler_is_there {
        missing.push(Missing::Packages(packages));
    }
    for (need, tool) in [(Need::Nextest, &NEXTEST), (Need::Deny, &DENY)] {
        if needs.contains(&need) && !tool.is_installed()? {
            missing.push(Missing::Tool(tool));
        }
    }
    if needs.contains(&Need::Build) {
        // Without its compiler the library's name is not known, and without the packages it cannot have been built.
        let built = compiler_is_there && rocksdb::Library::describe(workspace)?.is_built();
        if !built {
            missing.push(Missing::Rocksdb);
        }
    }
    Ok(missing)
}

/// Holds a lock on `<path>.lock` while something is built at `path`; other clones and users of the cache wait.
fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    if let Some(parent) = name.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let file = File::create(&name).with_context(|| format!("cannot write {}", name.display()))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            console::say(&format!("    another xtask is at it; waiting for {}", name.display()));
            file.lock().with_context(|| format!("cannot lock {}", name.display()))?;
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", name.display()));
        }
    }
    Ok(file)
}
