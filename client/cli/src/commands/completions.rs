//! `completions`: a completion script for a shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::CliError;
use crate::output::Output;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keystead completions bash > /etc/bash_completion.d/keystead")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, output: &Output) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "keystead", &mut script);
    output.bytes(&script)
}
