//! The `keystead` command for operators and scripts: arguments, one command, exit code.
//!
//! Exit codes: 0 good, 1 wrong use or a local failure, 2 the server said no; `exec` and
//! `creds issue --exec` end as their command ends.
//! Invariants: secrets come from prompts, files or standard input and never from arguments; what comes from the server
//! reaches a terminal only with its control characters escaped. Absent: anything the server decides.

mod args;
mod commands;
mod error;
mod files;
mod output;
mod prompt;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Format, usage};
use crate::error::CliError;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_use(usage::discreet(error)),
    };
    let Cli { global, command } = cli;
    let output = Output::new(global.output);
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)
        .and_then(|runtime| runtime.block_on(commands::run(&global, command, &output)));
    match ended {
        Ok(code) => code,
        Err(error) if error.reader_left() => ExitCode::SUCCESS,
        Err(error) => {
            output.failure(&error, commands::hint(&error, &global));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Help and version are no errors, and are text whatever is asked for.
fn wrong_use(error: clap::Error) -> ExitCode {
    if error.use_stderr() && usage::wants_json(std::env::args_os()) {
        let (said, usage) = usage::parted(&error);
        let error = CliError::Usage { said };
        Output::new(Format::Json).failure(&error, Some(usage.as_str()).filter(|usage| !usage.is_empty()));
        return ExitCode::from(error.exit_code());
    }
    // When even this cannot be printed, the exit code has to do.
    let _printed = error.print();
    if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
