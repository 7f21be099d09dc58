//! `make demo`: Keystead's main job once, told step by step, with real parts: a SoftHSM token, a server process, shares,
//! an operator, services with certificates, refusals, the audit trail.
//!
//! Invariant: every step checks what it claims, and the exit code says whether all claims held. Whatever happens, no
//! process and no directory is left. No secret is printed but the one made-up value that is read back.

mod forgery;
mod stage;
mod story;
mod teller;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::stage::Stage;
use crate::teller::Teller;

fn main() -> ExitCode {
    let told = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run()));
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed standard error is no reason for another exit code.
            drop(writeln!(std::io::stderr(), "\nThe demo did not go as told: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    if let Some(argument) = std::env::args_os().nth(1) {
        bail!("it takes no arguments, not even {}", argument.display());
    }
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (mut stage, mut teller) = (Stage::set()?, Teller::new());
    let told = tokio::select! {
        told = story::tell(&mut stage, &mut teller) => told,
        _ = interrupted.recv() => bail!("interrupted; everything is removed"),
        _ = terminated.recv() => bail!("terminated; everything is removed"),
    };
    match told {
        Ok(()) => Ok(()),
        Err(error) => {
            let said = stage.server_log();
            if said.is_empty() { Err(error) } else { Err(error.context(format!("the server said:\n{said}"))) }
        }
    }
}
