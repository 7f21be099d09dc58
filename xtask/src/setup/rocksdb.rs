//! RocksDB's static library: compiled once for a user, linked by every clone, profile and target directory.
//!
//! Invariant: the directory's name holds everything that the library depends on (sources, features, compiler, target,
//! and how we compile it), and it appears whole, by a rename. See docs/decisions/0001-rocksdb-prebuilt.md.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    command,
    metadata::{Metadata, Node},
    workspace::{self, Workspace},
};

/// Counts how we compile it: another number for other flags.
const RECIPE: u32 = 1;
const CRATE: &str = "librocksdb-sys";
const FILE: &str = "librocksdb.a";

/// One build of the library.
pub(crate) struct Library {
    version: String,
    features: Vec<String>,
    directory: PathBuf,
}

impl Library {
    /// The build that this clone needs on this machine.
    pub(crate) fn describe(workspace: &Workspace) -> Result<Self> {
        let metadata = workspace.metadata()?;
        let (version, node) = sources(&metadata)?;
        let mut features = node.features.clone();
        features.sort();
        let compiler = command::output(Command::new("g++").arg("-dumpfullversion"))?;
        let target = command::output(Command::new("g++").arg("-dumpmachine"))?;
        let key = key(&version, &features, compiler.trim(), target.trim());
        let directory = workspace::cache_directory()?.join("rocksdb").join(key);
        Ok(Self { version, features, directory })
    }

    /// The directory to hand to the linker.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn is_built(&self) -> bool {
        self.directory.join(FILE).is_file()
    }

    /// Compiles it in a package of its own, with the clone's versions of everything.
    pub(crate) fn build(&self, workspace: &Workspace) -> Result<()> {
        let _lock = super::lock(&self.directory)?;
        if self.is_built() {
            return Ok(());
        }
        let build = self.beside("build");
        remove(&build)?;
        fs::create_dir_all(build.join("src"))?;
        fs::write(build.join("Cargo.toml"), self.manifest())?;
        fs::write(build.join("src/lib.rs"), "")?;
        fs::copy(workspace.root().join("Cargo.lock"), build.join("Cargo.lock"))?;

        let mut cargo = command::cargo(&build);
        cargo.args(["build", "--release"]).env("CARGO_TARGET_DIR", build.join("target")).env("CXX", "g++");
        for flag in ["CXXFLAGS", "CFLAGS", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            cargo.env_remove(flag);
        }
        let label = format!("Compiling RocksDB ({CRATE} {}), once for this user", self.version);
        command::watched(&mut cargo, &label, &self.beside("log"), || {
            let objects = output_directory(&build).map_or(0, |output| count_objects(&output));
            format!("{objects} of about 345 files")
        })?;

        let output = output_directory(&build).context("cargo left no output of RocksDB's build script")?;
        let staged = self.beside("staged");
        remove(&staged)?;
        fs::create_dir_all(&staged)?;
        fs::copy(output.join(FILE), staged.join(FILE))
            .with_context(|| format!("RocksDB's build left no {FILE} in {}", output.display()))?;
        fs::rename(&staged, &self.directory)
            .with_context(|| format!("cannot put {} in place", self.directory.display()))?;
        remove(&build)
    }

    fn manifest(&self) -> String {
        let features =
            self.features.iter().map(|feature| format!("\"{feature}\"")).collect::<Vec<_>>().join(", ");
        format!(
            "[package]\nname = \"keystead-rocksdb-prebuild\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
             [dependencies]\n{CRATE} = {{ version = \"={}\", default-features = false, features = [{features}] }}\n\n\
             [profile.release]\ndebug = false\n",
            without_build(&self.version)
        )
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.directory.as_os_str().to_owned();
        name.push(".");
        name.push(what);
        PathBuf::from(name)
    }
}

fn sources(metadata: &Metadata) -> Result<(String, &Node)> {
    let package = metadata.packages.iter().find(|package| package.name == CRATE);
    let package = package.with_context(|| format!("Cargo.lock has no {CRATE}"))?;
    let node = metadata.resolve.nodes.iter().find(|node| node.id == package.id);
    Ok((package.version.clone(), node.with_context(|| format!("nothing uses {CRATE}"))?))
}

fn key(version: &str, features: &[String], compiler: &str, target: &str) -> String {
    format!("{version}-{}-g++{compiler}-{target}-{RECIPE}", features.join("."))
}

/// `0.19.0+11.8.1` without what a version requirement may not hold.
fn without_build(version: &str) -> &str {
    version.split_once('+').map_or(version, |(number, _)| number)
}

/// The build script's output directory: of the two with the crate's name, the one that has it.
fn output_directory(build: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(build.join("target/release/build")).ok()?;
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(CRATE))
        .map(|entry| entry.path().join("out"))
        .find(|output| output.is_dir())
}

fn count_objects(output: &Path) -> usize {
    let Ok(entries) = fs::read_dir(output) else { return 0 };
    let is_object = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "o");
    entries.filter_map(Result::ok).filter(is_object).count()
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("cannot remove {}: {error}", directory.display())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_library_depends_on_is_in_its_name() {
        let features = ["bindgen-runtime".to_owned(), "static".to_owned()];
        let name = key("0.19.0+11.8.1", &features, "12.2.0", "x86_64-linux-gnu");
        assert_eq!(name, "0.19.0+11.8.1-bindgen-runtime.static-g++12.2.0-x86_64-linux-gnu-1");
        assert_ne!(name, key("0.19.0+11.8.1", &features, "13.2.0", "x86_64-linux-gnu"));
    }

    #[test]
    fn the_package_asks_for_exactly_the_clones_version() {
        let library = Library {
            version: "0.19.0+11.8.1".to_owned(),
            features: vec!["static".to_owned()],
            directory: PathBuf::from("/nowhere"),
        };
        assert!(
            library
                .manifest()
                .contains("version = \"=0.19.0\", default-features = false, features = [\"static\"]")
        );
    }
}
