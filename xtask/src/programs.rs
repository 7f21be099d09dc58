//! Demo, development server and benchmarks: set up, build, and hand the terminal over.
//!
//! Invariant: the demo, the development server and the tests are built by the same profile, so that a newcomer
//! compiles once; only figures are taken from the release profile.

use std::{fs, os::unix::process::CommandExt, path::PathBuf, process::Command};

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
    /// What only tests need, where they are run.
    pub(crate) for_tests: Option<TestPrograms>,
}

/// The programs that nobody but a test starts.
pub(crate) struct TestPrograms {
    /// The PKCS#11 module that injects faults.
    pub(crate) pkcs11_shim: PathBuf,
    /// The server with fail points.
    pub(crate) failpoints_server: PathBuf,
}

impl Programs {
    /// Builds them.
    pub(crate) fn build(workspace: &Workspace, profile: Profile, also: &[&str]) -> Result<Self> {
        let mut cargo = cargo_build(workspace, also);
        cargo.arg("--bins");
        if let Profile::Release = profile {
            cargo.arg("--release");
        }
        command::run(&mut cargo)?;
        Ok(Self {
            server: workspace.binary(profile, "keystead-server")?,
            cli: workspace.binary(profile, "keystead")?,
            for_tests: None,
        })
    }

    /// Builds what only tests need, too.
    pub(crate) fn for_tests(workspace: &Workspace) -> Result<Self> {
        let also = ["keystead-tests"];
        // First, since both builds leave their server in the same place: what stays there is the usual one.
        let failpoints_server = with_fail_points(workspace, &also)?;
        let programs = Self::build(workspace, Profile::Dev, &also)?;
        command::run(workspace.cargo().args(["build", "--locked", "--package=keystead-pkcs11-shim"]))?;
        let pkcs11_shim = workspace.binary(Profile::Dev, "libkeystead_pkcs11_shim.so")?;
        Ok(Self { for_tests: Some(TestPrograms { pkcs11_shim, failpoints_server }), ..programs })
    }

    /// Tells a child where they are.
    pub(crate) fn export(&self, command: &mut Command) {
        command.env("KEYSTEAD_TEST_SERVER", &self.server).env("KEYSTEAD_TEST_CLI", &self.cli);
        if let Some(programs) = &self.for_tests {
            command.env("KEYSTEAD_TEST_PKCS11_SHIM", &programs.pkcs11_shim);
            command.env("KEYSTEAD_TEST_SERVER_FAILPOINTS", &programs.failpoints_server);
        }
    }
}

/// Of the same packages each time, so that what they depend on is built once.
fn cargo_build(workspace: &Workspace, also: &[&str]) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--locked", "--package=keystead-server", "--package=keystead-cli"]);
    cargo.args(also.iter().map(|package| format!("--package={package}")));
    cargo
}

/// The server with fail points, put aside.
fn with_fail_points(workspace: &Workspace, also: &[&str]) -> Result<PathBuf> {
    let mut cargo = cargo_build(workspace, also);
    cargo.args(["--bin=keystead-server", "--features=keystead-server/failpoints"]);
    command::run(&mut cargo)?;
    let built = workspace.binary(Profile::Dev, "keystead-server")?;
    let aside = built.with_file_name("keystead-server-failpoints");
    fs::copy(&built, &aside).with_context(|| format!("cannot copy {}", built.display()))?;
    Ok(aside)
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
