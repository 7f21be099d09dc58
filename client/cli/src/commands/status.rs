//! `status` and `seal`: whether the vault serves, and making it stop.

use data_encoding::HEXLOWER;
use keystead_client::Error;
use keystead_client::v1::{CeremonyProgress, GetStatusResponse, SealState};
use serde_json::json;

use super::{Connect, progress, yes_or_no};
use crate::error::CliError;
use crate::output::Output;

const ONE_POWER: &str = "powers: 1: the HSM and its PIN alone open this vault, without shares; \
                         `keystead ceremony auto-unseal disable` begins to end that";

pub(crate) async fn run(connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let status = connect.connect().await?.system().status().await?;
    let mut warnings = status.warnings.clone();
    if status.powers == 1 {
        warnings.push(ONE_POWER.to_owned());
    }
    show(&status, &warnings, output)?;
    if !output.is_json() {
        for warning in &warnings {
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

fn show(status: &GetStatusResponse, warnings: &[String], output: &Output) -> Result<(), CliError> {
    let initialized = status.state() != SealState::Uninitialized;
    let number = |number: u32| if initialized { number.to_string() } else { String::new() };
    let quorum = format!("{} of {}", status.threshold, status.shares);
    let approved = status.ceremony.as_ref().map(progress::parameters).unwrap_or_default();
    let mut facts = vec![
        ("State", state(status.state()).to_owned()),
        ("Vault", status.vault_id.clone()),
        ("Shares needed", if initialized { quorum } else { String::new() }),
        ("Share epoch", number(status.epoch)),
        ("Powers", number(status.powers)),
        ("Ceremony", status.ceremony.as_ref().map(ceremony).unwrap_or_default()),
    ];
    facts.extend(approved.iter().map(|(name, value)| (name.as_str(), value.clone())));
    facts.push(("Memory locked", yes_or_no(status.memory_locked)));
    facts.push(("Server version", status.server_version.clone()));
    output.facts(
        &facts,
        &json!({
            "state": state(status.state()),
            "vault_id": status.vault_id,
            "epoch": status.epoch,
            "threshold": status.threshold,
            "shares": status.shares,
            "powers": status.powers,
            "ceremony": status.ceremony.as_ref().map(progress::as_json),
            "seal_header": HEXLOWER.encode(&status.seal_header),
            "server_version": status.server_version,
            "memory_locked": status.memory_locked,
            "warnings": warnings,
        }),
    )
}

fn ceremony(under_way: &CeremonyProgress) -> String {
    format!("{}: {}", progress::purpose(under_way.purpose()), progress::line(under_way))
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
