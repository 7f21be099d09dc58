//! What CI runs: set-up, then every check. A failing check does not stop the others, so that one run tells all.
//!
//! Invariant: the last line is the tests' tally; the two durations that matter (what a new machine costs, and what
//! every run costs) are printed apart.

use std::process::ExitCode;

use anyhow::Result;

use crate::{
    checks,
    console::{self, Elapsed, Stopwatch},
    deny, layers,
    setup::{self, Need, Outcome},
    test_run::{self, Tally},
    workspace::Workspace,
};

struct Part {
    name: &'static str,
    elapsed: Elapsed,
    error: Option<anyhow::Error>,
}

/// Runs everything.
pub(crate) fn run(workspace: &Workspace) -> Result<ExitCode> {
    let set_up_watch = Stopwatch::start();
    let outcome = setup::ensure(workspace, &[Need::Build, Need::Nextest, Need::Deny])?;
    let set_up = set_up_watch.elapsed();

    let checks_watch = Stopwatch::start();
    let mut tally = Tally::default();
    // The quick ones first: whoever watches sees them within a minute.
    let parts = [
        part("format", || checks::format(workspace, false)),
        part("layers", || layers::check(workspace)),
        part("deny", || deny::check(workspace, false)),
        part("tests", || {
            tally = test_run::run(workspace, &[])?;
            anyhow::ensure!(tally.good(), "{}", tally.closing_line());
            Ok(())
        }),
        part("clippy", || checks::clippy(workspace)),
    ];
    let checks = checks_watch.elapsed();

    console::say("");
    let state = match outcome {
        Outcome::Warm => "warm: nothing was missing",
        Outcome::Cold => "cold: see above for what was installed and built",
    };
    console::say(&format!("set-up     {set_up:>12}  ({state})"));
    console::say(&format!("checks     {checks:>12}"));
    for Part { name, elapsed, error } in &parts {
        let result = error.as_ref().map_or_else(|| "ok".to_owned(), |error| format!("FAILED: {error:#}"));
        console::say(&format!("  {name:8} {elapsed:>12}  {result}"));
    }
    console::say(&tally.closing_line());
    Ok(if parts.iter().all(|part| part.error.is_none()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn part(name: &'static str, check: impl FnOnce() -> Result<()>) -> Part {
    console::step(name);
    let watch = Stopwatch::start();
    let error = check().err();
    if let Some(error) = &error {
        console::failure(error);
    }
    Part { name, elapsed: watch.elapsed(), error }
}
