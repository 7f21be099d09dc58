//! The tests: builds the programs, then runs nextest over the workspace and rustdoc's tests.
//!
//! Invariant: root hides permission bugs, so tests that root asked for run as an unprivileged user, from copies that
//! this user can read. Documentation tests call the compiler, which that user may not reach, and run as the caller. The
//! pinned nextest is used, never one on PATH.

mod sandbox;
mod tally;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use self::sandbox::Sandbox;
pub(crate) use self::tally::Tally;
use crate::{
    command,
    console::{self, Stopwatch},
    programs::Programs,
    setup,
    workspace::Workspace,
};

/// Where nextest leaves its report, under the workspace: .config/nextest.toml.
const REPORT: &str = "target/nextest/default/junit.xml";

/// Runs everything, or what the filters of nextest select.
pub(crate) fn run(workspace: &Workspace, filters: &[String]) -> Result<Tally> {
    let watch = Stopwatch::start();
    console::step("building the programs that tests start");
    let programs = Programs::for_tests(workspace)?;
    let mut tally = Tally::default();
    if setup::is_root()? {
        let sandbox = Sandbox::create(workspace, &programs)?;
        console::step("tests, as an unprivileged user");
        let mut nextest = sandbox.nextest();
        nextest.args(filters);
        count(&mut tally, "tests", &mut nextest, &sandbox.workspace().join(REPORT))?;
    } else {
        console::step("tests");
        let mut nextest = nextest_in_place(workspace, &programs)?;
        nextest.args(filters);
        count(&mut tally, "tests", &mut nextest, &workspace.root().join(REPORT))?;
    }
    if filters.is_empty() {
        documentation(workspace, &mut tally)?;
    }
    console::say(&format!("tests took {}", watch.elapsed()));
    Ok(tally)
}

fn nextest_in_place(workspace: &Workspace, programs: &Programs) -> Result<Command> {
    let mut command = Command::new(setup::NEXTEST.path()?);
    command.current_dir(workspace.root()).args([
        "nextest",
        "run",
        "--workspace",
        "--locked",
        "--no-tests=pass",
    ]);
    command::without_cargo_run(&mut command);
    programs.export(&mut command);
    Ok(command)
}

/// Runs nextest and reads its report. Without a report and without an error there was nothing to run.
fn count(tally: &mut Tally, runner: &'static str, nextest: &mut Command, report: &Path) -> Result<()> {
    if report.exists() {
        fs::remove_file(report).with_context(|| format!("cannot remove the old {}", report.display()))?;
    }
    if !command::run_to_status(nextest)? {
        tally.broke(runner);
    }
    if report.exists() {
        let text = fs::read_to_string(report).with_context(|| format!("cannot read {}", report.display()))?;
        tally.add_junit(&text)?;
    }
    Ok(())
}

/// Rustdoc's tests, shown as they run.
fn documentation(workspace: &Workspace, tally: &mut Tally) -> Result<()> {
    console::step("documentation tests");
    let mut child = workspace
        .cargo()
        .args(["test", "--doc", "--workspace", "--locked", "--no-fail-fast"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.context("cargo printed no text")?;
            console::say(&line);
            tally.add_libtest_line(&line);
        }
    }
    if !child.wait()?.success() {
        tally.broke("documentation tests");
    }
    Ok(())
}
