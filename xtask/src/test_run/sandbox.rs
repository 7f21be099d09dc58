//! A directory that belongs to an unprivileged user, with copies of everything that the tests need.
//!
//! Invariant: root's home, tool chain and clone may be closed to others, so nothing is used in place; the directory
//! is made new, is closed to all but its owner, and is removed at the end, or by the next run after a crash.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    command, console,
    programs::{Programs, TestPrograms},
    setup,
    workspace::Workspace,
};

/// `nobody` of Debian and most others; it needs no entry in /etc/passwd.
const USER: u32 = 65534;
const PREFIX: &str = "keystead-test-";
/// What the tests may see of the caller's environment; everything else is left out.
const PASSED_ON: [&str; 9] =
    ["PATH", "TERM", "LANG", "LC_ALL", "CI", "NO_COLOR", "RUST_BACKTRACE", "RUST_LOG", "PROPTEST_CASES"];
/// What of the clone is no source.
const LEFT_OUT: [&str; 3] = [".git", ".cargo", "target"];

pub(super) struct Sandbox {
    directory: PathBuf,
    programs: Programs,
}

impl Sandbox {
    /// Builds all tests and copies them, the sources, the programs and nextest.
    pub(super) fn create(workspace: &Workspace, programs: &Programs) -> Result<Self> {
        let parent = parent();
        remove_left_over(&parent);
        let directory = parent.join(format!("{PREFIX}{}", std::process::id()));
        let mut builder = fs::DirBuilder::new();
        builder
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let copied = Programs {
            server: directory.join("bin/keystead-server"),
            cli: directory.join("bin/keystead"),
            for_tests: programs.for_tests.as_ref().map(|_| TestPrograms {
                pkcs11_shim: directory.join("bin/libkeystead_pkcs11_shim.so"),
                failpoints_server: directory.join("bin/keystead-server-failpoints"),
            }),
        };
        let sandbox = Self { directory, programs: copied };

        let place = |name: &str| sandbox.directory.join(name);
        for name in ["bin", "home", "tmp", "tests"] {
            fs::create_dir(place(name))?;
        }
        fs::copy(&programs.server, &sandbox.programs.server)?;
        fs::copy(&programs.cli, &sandbox.programs.cli)?;
        if let (Some(from), Some(to)) = (&programs.for_tests, &sandbox.programs.for_tests) {
            fs::copy(&from.pkcs11_shim, &to.pkcs11_shim)?;
            fs::copy(&from.failpoints_server, &to.failpoints_server)?;
        }
        fs::copy(setup::NEXTEST.path()?, place("bin/cargo-nextest"))?;
        copy_tree(workspace.root(), &place("workspace"), &LEFT_OUT)?;
        console::step("building the tests");
        let mut archive = Command::new(setup::NEXTEST.path()?);
        archive
            .current_dir(workspace.root())
            .args(["nextest", "archive", "--workspace", "--locked", "--zstd-level=-3", "--archive-file"])
            .arg(place("tests.tar.zst"));
        command::without_cargo_run(&mut archive);
        command::run(&mut archive)?;
        give(&sandbox.directory)?;
        Ok(sandbox)
    }

    /// The copied sources.
    pub(super) fn workspace(&self) -> PathBuf {
        self.directory.join("workspace")
    }

    /// nextest on the copies, as the unprivileged user, in an environment of its own.
    pub(super) fn nextest(&self) -> Command {
        let place = |name: &str| self.directory.join(name);
        let mut nextest = Command::new(place("bin/cargo-nextest"));
        nextest.env_clear().current_dir(self.workspace()).uid(USER).gid(USER);
        nextest.envs(PASSED_ON.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        nextest.env("HOME", place("home")).env("TMPDIR", place("tmp")).env("USER", "nobody");
        self.programs.export(&mut nextest);
        nextest
            .args(["nextest", "run", "--no-tests=pass", "--archive-file"])
            .arg(place("tests.tar.zst"))
            .arg("--extract-to")
            .arg(place("tests"))
            .arg("--workspace-remap")
            .arg(self.workspace());
        nextest
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            console::say(&format!("cannot remove {}: {error}", self.directory.display()));
        }
    }
}

/// The first directory for temporary files that others can reach.
fn parent() -> PathBuf {
    let reachable = |path: &Path| {
        path.ancestors()
            .all(|part| fs::metadata(part).is_ok_and(|data| data.permissions().mode() & 0o001 != 0))
    };
    let candidates = [std::env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    candidates.into_iter().find(|path| path.is_absolute() && reachable(path)).unwrap_or_else(|| "/tmp".into())
}

/// Removes directories of runs that were killed: named by a process that is no more, and owned by us or our user.
fn remove_left_over(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let ended = process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists();
        let ours = entry.metadata().is_ok_and(|data| data.is_dir() && [0, USER].contains(&data.uid()));
        if ended && ours {
            // What cannot be removed now is in nobody's way, and the next run tries again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Copies files and directories, never following a symbolic link; links are left out.
fn copy_tree(from: &Path, to: &Path, left_out: &[&str]) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        if left_out.iter().any(|skipped| name == *skipped) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&entry.path(), &to.join(&name), &[])?;
        } else if kind.is_file() {
            copy_file(&entry.path(), &to.join(&name))?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    match fs::copy(from, to) {
        // An editor's temporary file may go away while we copy.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map(drop).with_context(|| format!("cannot copy {}", from.display())),
    }
}

/// Makes the unprivileged user the owner of a directory and all that is in it.
fn give(path: &Path) -> Result<()> {
    let data = fs::symlink_metadata(path)?;
    if data.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path())?;
        }
    }
    chown(path, Some(USER), Some(USER)).with_context(|| format!("cannot give {} away", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_leaves_out_what_is_no_source_at_the_top_only() {
        let base = std::env::temp_dir().join(format!("keystead-xtask-copy-{}", std::process::id()));
        let from = base.join("from");
        for directory in ["target", "src/target"] {
            fs::create_dir_all(from.join(directory)).unwrap();
            fs::write(from.join(directory).join("file"), "x").unwrap();
        }
        copy_tree(&from, &base.join("to"), &LEFT_OUT).unwrap();
        let copied = |path: &str| base.join("to").join(path).exists();
        let result = (copied("src/target/file"), copied("target"));
        fs::remove_dir_all(&base).unwrap();
        assert_eq!(result, (true, false));
    }
}
