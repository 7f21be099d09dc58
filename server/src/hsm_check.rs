//! `keystead-server hsm check`: looks at the token that the configuration names, and says whether a vault could use it.
//! Invariant: changes nothing on the token; one PIN is sent once; nothing secret is printed. Absent: the looking itself,
//! which `keystead_hsm` does in the module's process.

mod table;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use keystead_crypto::ports::HsmError;
use keystead_hsm::HsmHandle;
use keystead_hsm::report::Report;
use serde::Serialize;

use crate::config::Config;
use crate::output::Output;
use crate::secret_input::{self, Wanted};

const PIN: Wanted = Wanted {
    what: "PIN",
    prompt: "PIN of the token",
    hint: "name --pin-file, or look without it by --no-login",
};

/// What to look at, and how to say it.
#[derive(Debug, clap::Args)]
pub struct CheckArguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Reads the PIN from this file, or from standard input for `-`; without it, it is asked for.
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
    /// Looks without the PIN: sees mechanisms and counters, tries nothing.
    #[arg(long, conflicts_with = "pin_file")]
    no_login: bool,
    /// How to print what was found.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// As JSON shows it.
#[derive(Serialize)]
struct Checked<'a> {
    usable: bool,
    problems: &'a [String],
    not_looked_at: Option<&'a str>,
    #[serde(flatten)]
    report: &'a Report,
}

impl CheckArguments {
    /// The configuration file.
    pub fn config(&self) -> &std::path::Path {
        &self.config
    }

    /// Looks, prints, and says whether the token is usable.
    ///
    /// # Errors
    /// No token was reached, or there is no PIN to read.
    pub async fn run(&self, config: &Config, worker: PathBuf) -> anyhow::Result<bool> {
        let hsm = HsmHandle::spawn(config.hsm.for_worker(worker))?;
        let seen = hsm.inspect(None).await.context("no token was reached")?;
        // Nobody is asked for a PIN that the token would not take.
        let closed = seen.token.pin_locked || !seen.token.pin_set;
        let login = if self.no_login || closed {
            None
        } else {
            if seen.token.pin_final_try {
                writeln!(io::stderr(), "the next wrong PIN locks the token {:?}", seen.token.label)?;
            }
            Some(secret_input::read(PIN, self.pin_file.as_deref())?)
        };
        let Some(login) = login else { return self.print(&seen, seen.problems()) };
        match hsm.inspect(Some(login)).await {
            Ok(report) => self.print(&report, report.problems()),
            Err(error) => {
                let mut problems = seen.problems();
                problems.push(match &error {
                    HsmError::PinRefused => {
                        format!("{error}. Find the right one before the next try; the counter above was read before this one")
                    }
                    HsmError::PinLocked => error.to_string(),
                    _ => format!("with a login, the token was not looked at: {error}"),
                });
                self.print(&seen, problems)
            }
        }
    }

    /// Prints, and says whether there is no problem.
    fn print(&self, report: &Report, problems: Vec<String>) -> anyhow::Result<bool> {
        let mut out = io::stdout().lock();
        match self.output {
            Output::Table => write!(out, "{}", table::Table { report, problems: &problems })?,
            Output::Json => {
                let checked = Checked {
                    usable: problems.is_empty(),
                    problems: &problems,
                    not_looked_at: report.unseen(),
                    report,
                };
                serde_json::to_writer_pretty(&mut out, &checked)?;
                writeln!(out)?;
            }
        }
        Ok(problems.is_empty())
    }
}
