//! Demo, development server and benchmarks: set up, build, and hand the terminal over.
//!
//! Invariant: the demo, the development server and the tests are built by the same profile, so that a newcomer
//! compiles once; only figures are taken from the release profile.

use std::{os::unix::process::CommandExt, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{
    command,
    setup::{self, Need},
    workspace::{Profile, Workspace},
};

/// The programs that the demo, the tests and the load generator start as child processes.
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) cli: PathBuf,
    /// The PKCS#11 module of the tests that injects faults, where tests are run.
    pub(crate) pkcs11_shim: Option<PathBuf>,
}

impl Programs {
    /// Builds them.
    pub(crate) fn build(workspace: &Workspace, profile: Profile, also: &[&str]) -> Result<Self> {
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--locked", "--bins", "--package=keystead-server", "--package=keystead-cli"]);
        cargo.args(also.iter().map(|package| format!("--package={package}")));
        if let Profile::Release = profile {
            cargo.arg("--release");
        }
        command::run(&mut cargo)?;
        Ok(Self {
            server: workspace.binary(profile, "keystead-server")?,
            cli: workspace.binary(profile, "keystead")?,
            pkcs11_shim: None,
        })
    }

    /// Builds what only tests need, too.
    pub(crate) fn for_tests(workspace: &Workspace) -> Result<Self> {
        let programs = Self::build(workspace, Profile::Dev, &["keystead-tests"])?;
        command::run(workspace.cargo().args(["build", "--locked", "--package=keystead-pkcs11-shim"]))?;
        let shim = workspace.binary(Profile::Dev, "libkeystead_pkcs11_shim.so")?;
        Ok(Self { pkcs11_shim: Some(shim), ..programs })
    }

    /// Tells a child where they are.
    pub(crate) fn export(&self, command: &mut Command) {
        command.env("KEYSTEAD_TEST_SERVER", &self.server).env("KEYSTEAD_TEST_CLI", &self.cli);
        if let Some(shim) = &self.pkcs11_shim {
            command.env("KEYSTEAD_TEST_PKCS11_SHIM", shim);
        }
    }
}

/// Runs the demo.
pub(crate) fn demo(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    setup::ensure(workspace, &[Need::Build])?;
    let programs = Programs::build(workspace, Profile::Dev, &["keystead-tests"])?;
    let mut demo = Command::new(workspace.binary(Profile::Dev, "keystead-demo")?);
    programs.export(&mut demo);
    hand_over(workspace, demo.args(arguments))
}

/// Starts a development server.
pub(crate) fn dev(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    setup::ensure(workspace, &[Need::Build])?;
    let programs = Programs::build(workspace, Profile::Dev, &[])?;
    hand_over(workspace, Command::new(&programs.server).arg("--dev").args(arguments))
}

/// Takes the figures.
pub(crate) fn bench(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    setup::ensure(workspace, &[Need::Build])?;
    let programs = Programs::build(workspace, Profile::Release, &["keystead-benches"])?;
    let mut bench = Command::new(workspace.binary(Profile::Release, "keystead-benches")?);
    programs.export(&mut bench);
    hand_over(workspace, bench.args(arguments))
}

/// Becomes the program, so that its signals and its exit code are the caller's.
fn hand_over(workspace: &Workspace, program: &mut Command) -> Result<()> {
    command::without_cargo_run(program);
    let error = program.current_dir(workspace.root()).exec();
    Err(error).with_context(|| format!("cannot start {}", program.get_program().to_string_lossy()))
}
