//! Where things are: the clone, its target directory, the user's cache.
//!
//! Invariant: the cache directory is the user's own and is shared by all clones; the clone holds nothing that takes
//! long to make except `target`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    command,
    metadata::{self, Metadata},
};

/// A clone of Keystead.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The clone that this xtask was started in, not the one it was compiled in: target directories are shared.
    pub(crate) fn locate() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask lies in no workspace")?.to_path_buf();
        if !root.join("Cargo.lock").is_file() {
            bail!("{} is no clone of Keystead: it has no Cargo.lock", root.display());
        }
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What cargo knows of the workspace, for this machine's target.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        metadata::load(&self.root)
    }

    /// The binary of one of our packages, as the profile's directory has it.
    pub(crate) fn binary(&self, profile: Profile, name: &str) -> Result<PathBuf> {
        let path = self.metadata()?.target_directory.join(profile.directory()).join(name);
        if !path.is_file() {
            bail!("no package builds a program `{name}`: expected {}", path.display());
        }
        Ok(path)
    }

    /// A cargo in the clone.
    pub(crate) fn cargo(&self) -> std::process::Command {
        command::cargo(&self.root)
    }
}

/// The two profiles: one for the demo, the tests and the CLI, one for figures.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// The cache of this user: `$XDG_CACHE_HOME/keystead`, or `~/.cache/keystead`.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("keystead"))
        .context("neither XDG_CACHE_HOME nor HOME names a directory for what is built once")
}
