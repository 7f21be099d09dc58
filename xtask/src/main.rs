//! Keystead's chores: one entry for people, `make` and CI. What each command needs on the machine is set up first.
//!
//! Invariant: needs nothing but Rust to build (no RocksDB, no HSM, none of our crates), starts no service of the
//! system, and every command is safe to run twice. Absent on purpose: anything that the programs need at run time.

mod checks;
mod ci;
mod command;
mod console;
mod deny;
mod layers;
mod metadata;
mod programs;
mod setup;
mod test_run;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{setup::Need, workspace::Workspace};

/// Keystead's chores.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Lists what this machine lacks, asks, and installs it
    Setup {
        /// Only list; exit code 1 when something is missing
        #[arg(long)]
        list: bool,
    },
    /// Runs the whole story once: a token, a vault, shares, a service, a refusal, the audit trail
    Demo {
        /// Handed to the demo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Starts a development server, unsealed, and prints the environment to paste
    Dev {
        /// Handed to keystead-server
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs all tests, as an unprivileged user when called by root
    Test {
        /// Handed to nextest, such as a part of a test's name; documentation tests are left out then
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        filters: Vec<String>,
    },
    /// Measures reads and writes beside a bare TLS echo
    Bench {
        /// Handed to the load generator
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Checks the formatting
    Fmt {
        /// Format instead of checking
        #[arg(long)]
        fix: bool,
    },
    /// Runs clippy on every target, with warnings denied
    Clippy,
    /// Checks which package depends on which
    Layers,
    /// Checks licences, banned crates, sources, and advisories where a database is on this machine
    Deny {
        /// Fetch the advisory database first
        #[arg(long)]
        fetch: bool,
    },
    /// Sets up and runs every check, and prints how long each part took
    Ci,
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(code) => code,
        Err(error) => {
            console::failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::locate()?;
    match chore {
        Chore::Setup { list: true } => return setup::list(&workspace),
        Chore::Setup { list: false } => {
            setup::ensure(&workspace, &[Need::Build, Need::Nextest, Need::Deny])?;
            console::say("Set up. Next: `make demo`, or `make test`.");
        }
        Chore::Demo { arguments } => programs::demo(&workspace, &arguments)?,
        Chore::Dev { arguments } => programs::dev(&workspace, &arguments)?,
        Chore::Bench { arguments } => programs::bench(&workspace, &arguments)?,
        Chore::Test { filters } => {
            setup::ensure(&workspace, &[Need::Build, Need::Nextest])?;
            let tally = test_run::run(&workspace, &filters)?;
            console::say(&tally.closing_line());
            return Ok(if tally.good() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Chore::Fmt { fix } => checks::format(&workspace, fix)?,
        Chore::Clippy => {
            setup::ensure(&workspace, &[Need::Build])?;
            checks::clippy(&workspace)?;
        }
        Chore::Layers => layers::check(&workspace)?,
        Chore::Deny { fetch } => {
            setup::ensure(&workspace, &[Need::Deny])?;
            deny::check(&workspace, fetch)?;
        }
        Chore::Ci => return ci::run(&workspace),
    }
    Ok(ExitCode::SUCCESS)
}
