//! The checks that need no set-up of their own: formatting and clippy.
//!
//! Invariant: a warning is a failure.

use anyhow::Result;

use crate::{command, workspace::Workspace};

/// Checks the formatting, or mends it.
pub(crate) fn format(workspace: &Workspace, fix: bool) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["fmt", "--all"]);
    if !fix {
        cargo.arg("--check");
    }
    command::run(&mut cargo)
}

/// Clippy on every target of every package.
pub(crate) fn clippy(workspace: &Workspace) -> Result<()> {
    let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
    command::run(workspace.cargo().args(arguments))
}
