//! `status` and `seal`: whether the vault serves, and making it stop.

use data_encoding::HEXLOWER;
use keystead_client::Error;
use keystead_client::v1::{CeremonyProgress, GetStatusResponse, SealState};
use serde_json::{Value, json};

use super::{Connect, timestamp, yes_or_no};
use crate::error::CliError;
use crate::output::Output;

pub(crate) async fn run(connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let status = connect.connect().await?.system().status().await?;
    show(&status, output)?;
    if !output.is_json() {
        for warning in &status.warnings {
            output.remark(&format!("warning: {warning}"));
        }
    }
    Ok(())
}

pub(crate) async fn seal(connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let said = match connect.connect().await?.system().seal().await {
        Ok(()) => "The vault is sealed.",
        Err(Error::Sealed(_)) => "The vault is already sealed.",
        Err(error) => return Err(error.into()),
    };
    output.sentence(said, &json!({ "state": "sealed" }))
}

fn show(status: &GetStatusResponse, output: &Output) -> Result<(), CliError> {
    let initialized = status.state() != SealState::Uninitialized;
    let number = |number: u32| if initialized { number.to_string() } else { String::new() };
    let quorum = format!("{} of {}", status.threshold, status.shares);
    output.facts(
        &[
            ("State", state(status.state()).to_owned()),
            ("Vault", status.vault_id.clone()),
            ("Shares needed", if initialized { quorum } else { String::new() }),
            ("Share epoch", number(status.epoch)),
            ("Powers", number(status.powers)),
            ("Ceremony", status.ceremony.as_ref().map(progress).unwrap_or_default()),
            ("Memory locked", yes_or_no(status.memory_locked)),
            ("Server version", status.server_version.clone()),
        ],
        &json!({
            "state": state(status.state()),
            "vault_id": status.vault_id,
            "epoch": status.epoch,
            "threshold": status.threshold,
            "shares": status.shares,
            "powers": status.powers,
            "ceremony": status.ceremony.as_ref().map(progress_json),
            "seal_header": HEXLOWER.encode(&status.seal_header),
            "server_version": status.server_version,
            "memory_locked": status.memory_locked,
            "warnings": status.warnings,
        }),
    )
}

/// A state in a word.
pub(super) fn state(state: SealState) -> &'static str {
    match state {
        SealState::Unspecified => "unknown",
        SealState::Uninitialized => "uninitialized",
        SealState::Sealed => "sealed",
        SealState::Unsealed => "unsealed",
    }
}

/// How far a ceremony is, in a line.
pub(super) fn progress(progress: &CeremonyProgress) -> String {
    let entered: Vec<_> = progress.entered.iter().map(u32::to_string).collect();
    format!(
        "{} of {} shares entered (number {}), until {}; ceremony {}",
        progress.entered.len(),
        progress.threshold,
        entered.join(", "),
        timestamp(progress.expire_time.as_ref()),
        progress.ceremony_id,
    )
}

pub(super) fn progress_json(progress: &CeremonyProgress) -> Value {
    json!({
        "ceremony_id": progress.ceremony_id,
        "threshold": progress.threshold,
        "entered": progress.entered,
        "expire_time": timestamp(progress.expire_time.as_ref()),
    })
}
