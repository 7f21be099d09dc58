//! `make bench`: what a read and a durable write cost beside a bare TLS echo, in alternating rounds of one run.
//!
//! Invariant: what is compared ran minutes apart on the same machine, through the same client, with the machine's
//! other load and stolen time written beside it. Absent: any verdict; ratios are printed, people judge.

mod cycles;
mod echo;
mod load;
mod logins;
mod machine;
mod plan;
mod report;
mod rotation;
mod startup;
mod vault;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::plan::{Plan, Subject};

/// Measures Keystead beside a bare TLS echo.
#[derive(Debug, Parser)]
#[command(name = "keystead-benches")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// A run of a few seconds that shows only that everything works
    #[arg(long)]
    quick: bool,
    /// How often each figure is taken; the rounds alternate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Seconds of each measurement
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// Requests in flight, separated by commas
    #[arg(long, value_name = "N,..", value_delimiter = ',')]
    in_flight: Vec<usize>,
    /// Only these, separated by commas
    #[arg(long, value_name = "WHAT,..", value_delimiter = ',', value_enum)]
    only: Vec<Subject>,
    /// All requests over one connection, instead of a connection for each in flight
    #[arg(long)]
    one_connection: bool,
    /// Where the summary goes: target/bench of the current directory if nothing else is said
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The bare server; started by this program itself
    #[command(hide = true)]
    Echo {
        /// Certificates.
        #[arg(long)]
        tls: PathBuf,
    },
    /// A rotation of the master key under reads
    Rotation {
        /// Secrets to store first
        #[arg(long, default_value_t = 100_000)]
        keys: usize,
        /// Seconds of each measurement without rotation
        #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
        seconds: u32,
        /// Reads in flight
        #[arg(long, value_name = "N", default_value_t = 4)]
        in_flight: usize,
        /// `rotation.max_rewraps_per_second` of the server
        #[arg(long, value_name = "N", default_value_t = 500)]
        max_rewraps_per_second: u32,
    },
    /// Logins in a real PostgreSQL
    Logins {
        /// Logins of a round
        #[arg(long, default_value_t = 300)]
        logins: usize,
        /// How often each figure is taken; by hand and through the vault alternate
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
        rounds: u8,
        /// Live leases that are revoked by one call
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        many: usize,
        /// Instead: so many logins are issued and revoked, and have to leave the database as it was
        #[arg(long, value_name = "N", conflicts_with_all = ["logins", "rounds", "many"])]
        cycles: Option<usize>,
    },
    /// From unsealing to the first answer, and memory, with many live leases
    Startup {
        /// Leases in the store, separated by commas
        #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [0, 100_000, 1_000_000])]
        leases: Vec<usize>,
        /// Starts of each
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
        starts: u8,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "keystead-benches: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(Command::Echo { tls }) = arguments.command {
        return runtime.block_on(echo::serve(&tls));
    }
    if let Some(Command::Rotation { keys, seconds, in_flight, max_rewraps_per_second }) = arguments.command {
        let plan = rotation::Plan { keys, seconds, in_flight, max_rewraps_per_second };
        let said = runtime.block_on(rotation::run(&plan, progress))?;
        return Ok(std::io::stdout().lock().write_all(said.as_bytes())?);
    }
    if let Some(Command::Logins { logins, rounds, many, cycles }) = arguments.command {
        let plan = logins::Plan { logins, rounds: rounds.into(), many };
        let said = runtime.block_on(async {
            match cycles {
                Some(cycles) => cycles::run(cycles, progress).await,
                None => logins::run(&plan, progress).await,
            }
        })?;
        return Ok(std::io::stdout().lock().write_all(said.as_bytes())?);
    }
    if let Some(Command::Startup { leases, starts }) = arguments.command {
        let said = runtime.block_on(startup::run(&leases, starts, progress))?;
        return Ok(std::io::stdout().lock().write_all(said.as_bytes())?);
    }
    let plan = Plan::of(&arguments)?;
    let out_dir = arguments.out_dir.unwrap_or_else(|| PathBuf::from("target/bench"));
    let summary = runtime.block_on(plan::run(&plan, progress))?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", report::table(&summary))?;
    std::fs::create_dir_all(&out_dir).with_context(|| format!("cannot make {}", out_dir.display()))?;
    let path = out_dir.join("summary.json");
    let text = serde_json::to_string_pretty(&summary)?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(out, "\nAll figures: {}", path.display())?;
    Ok(())
}

/// One line on standard error, written over on a terminal.
fn progress(line: &str) {
    let mut err = std::io::stderr().lock();
    let written = if err.is_terminal() { write!(err, "\r\x1b[K{line}") } else { writeln!(err, "{line}") };
    // Progress that nobody can read is no failure.
    drop(written.and_then(|()| err.flush()));
}
