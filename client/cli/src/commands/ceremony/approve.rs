//! `ceremony approve`: shows what a quorum is asked for, checks the share, enters it, and keeps what comes of it.
//!
//! Invariants: nothing is sent before its holder saw what it is for, or named it; a share is checked as far as the server's
//! signed header goes; places for what may come exist before the share is sent.

use std::path::PathBuf;

use clap::Args;
use keystead_client::v1::{CeremonyProgress, CeremonyPurpose, GetStatusResponse, SealState};
use keystead_client::{SecretBytes, Submitted, System};
use keystead_crypto::seal_record::SealHeader;
use keystead_crypto::share::{Share, ShareError};
use serde_json::{Value, json};

use super::next;
use crate::commands::handed::{Expected, Made, Places};
use crate::commands::share::{checked, read_shares, verified_header};
use crate::commands::{Connect, progress, timestamp};
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

pub(super) const EXAMPLES: &str = "\
Shows what is approved, asks, and takes the share without echo:
  keystead ceremony approve
In a script, the ceremony is named beforehand:
  keystead ceremony approve --ceremony ID --share-file share-2.txt

Whoever enters the last share gets what comes of it. New shares and an administrator's token go \
into new files of mode 0600 with --out-dir, and are printed once without it; a new seal record \
goes to --seal-record, or else into --out-dir too.";

#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// The ceremony that you looked at; any other one is refused. Without it, you are asked
    #[arg(long, value_name = "ID")]
    ceremony: Option<String>,
    /// File with a share; "-" is standard input. May be given for several shares. Without it, the share is asked for
    #[arg(long, value_name = "FILE")]
    share_file: Vec<PathBuf>,
    /// Directory for new shares, one new file each, or an administrator's token
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
    /// New file for a new seal record; without it, the record goes into the directory
    #[arg(long, value_name = "FILE")]
    seal_record: Option<PathBuf>,
}

pub(super) async fn run(args: ApproveArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let system = connect.connect().await?.system();
    let status = system.status().await?;
    let (header, ceremony) = looked_at(&args, &status)?;
    let expected = expected(ceremony)?;
    if (expected.shares > 0 || expected.token) && args.out_dir.is_none() && !output.is_json() {
        output.remark("What the last share brings is printed here, once: --out-dir DIR puts it into files.");
    }
    consent(args.ceremony.is_some(), &status, ceremony, output)?;
    let shares = read_shares(&args.share_file)?;
    for (origin, text) in &shares {
        check(&header, ceremony, text, origin)?;
    }
    let places = Places::make(args.out_dir.as_deref(), args.seal_record.as_deref(), expected)?;
    match enter(&system, ceremony, &shares, output).await {
        Ok(Some(done)) => finish(&status, ceremony, &done, places, output),
        Ok(None) => {
            places.remove();
            Ok(())
        }
        Err(error) => {
            places.remove();
            if matches!(&error, CliError::Client(error) if error.refusal().is_none()) {
                output.remark(
                    "Whether the share was entered is not known: look with `keystead ceremony show`.",
                );
            }
            Err(error)
        }
    }
}

/// The ceremony under way, if it is the one that was asked for, and the header that its shares are checked against.
fn looked_at<'a>(
    args: &ApproveArgs,
    status: &'a GetStatusResponse,
) -> Result<(SealHeader, &'a CeremonyProgress), CliError> {
    let header = verified_header(status)?;
    let ceremony = match (&status.ceremony, status.state()) {
        (Some(under_way), _) => under_way,
        (None, SealState::Sealed) => return Err(CliError::NothingButUnsealing),
        (None, _) => return Err(CliError::NoCeremony),
    };
    match &args.ceremony {
        Some(asked) if *asked != ceremony.ceremony_id => {
            Err(CliError::OtherCeremony { asked: asked.clone(), current: ceremony.ceremony_id.clone() })
        }
        _ => Ok((header, ceremony)),
    }
}

/// What the last share brings.
fn expected(ceremony: &CeremonyProgress) -> Result<Expected, CliError> {
    let nothing = Expected::default();
    Ok(match ceremony.purpose() {
        CeremonyPurpose::Unspecified => return Err(CliError::UnknownCeremony),
        CeremonyPurpose::Rekey => Expected {
            shares: u32::from(number::<u8>(ceremony, "shares")?),
            sealed: progress::parameter(ceremony, "recipient").is_some(),
            ..nothing
        },
        CeremonyPurpose::ConfirmRekey
        | CeremonyPurpose::ChangePin
        | CeremonyPurpose::AddToken
        | CeremonyPurpose::AddRecovery => Expected { seal_record: true, ..nothing },
        CeremonyPurpose::RecoverRoot => Expected { token: true, ..nothing },
        CeremonyPurpose::Unseal | CeremonyPurpose::EnableAutoUnseal | CeremonyPurpose::DisableAutoUnseal => {
            nothing
        }
    })
}

fn number<N: std::str::FromStr>(ceremony: &CeremonyProgress, name: &str) -> Result<N, CliError> {
    let value = progress::parameter(ceremony, name).and_then(|value| value.parse().ok());
    value.ok_or(CliError::CeremonyParameters)
}

/// Shows what a share would approve, and asks, unless the holder has named it.
fn consent(
    named: bool,
    status: &GetStatusResponse,
    ceremony: &CeremonyProgress,
    output: &Output,
) -> Result<(), CliError> {
    if !named && !prompt::can_ask() {
        return Err(CliError::CeremonyNeeded);
    }
    if !named || !output.is_json() {
        output.remark(&format!("Vault {}", status.vault_id));
        for (name, value) in progress::facts(ceremony) {
            output.remark(&format!("{name}: {value}"));
        }
        if ceremony.purpose() == CeremonyPurpose::ConfirmRekey {
            output.remark(
                "The header of the new shares is not public yet: the text of a share, its vault, epoch and threshold are \
                 checked here, and by the server whether it is the one that was handed out.",
            );
        }
    }
    prompt::confirm("Enter a share for this?", named)
}

/// Whether a share may be sent for this ceremony.
fn check(
    header: &SealHeader,
    ceremony: &CeremonyProgress,
    text: &SecretBytes,
    origin: &str,
) -> Result<(), CliError> {
    if ceremony.purpose() != CeremonyPurpose::ConfirmRekey {
        return checked(header, text, origin).map(drop);
    }
    let epoch = number(ceremony, "epoch")?;
    Share::parse(text.expose())
        .and_then(|share| check_new(&share, header.vault, epoch, ceremony.threshold))
        .map_err(|source| CliError::Share { origin: origin.to_owned(), source })
}

fn check_new(share: &Share, vault: [u8; 16], epoch: u32, threshold: u32) -> Result<(), ShareError> {
    if share.vault() != vault {
        return Err(ShareError::OtherVault { share: share.vault(), expected: vault });
    }
    if share.epoch() != epoch {
        return Err(ShareError::OtherEpoch { share: share.epoch(), expected: epoch });
    }
    if u32::from(share.threshold()) != threshold {
        let expected = u8::try_from(threshold).unwrap_or(u8::MAX);
        return Err(ShareError::OtherThreshold { share: share.threshold(), expected });
    }
    Ok(())
}

/// Enters shares until the ceremony has done what it is for; nothing if more are needed.
async fn enter(
    system: &System,
    ceremony: &CeremonyProgress,
    shares: &[(String, SecretBytes)],
    output: &Output,
) -> Result<Option<Submitted>, CliError> {
    for (_, text) in shares {
        let answer = system.submit_share(text, &ceremony.ceremony_id).await?;
        match &answer.ceremony {
            Some(more) if more.ceremony_id == ceremony.ceremony_id => {
                output.sentence(
                    &progress::line(more),
                    &json!({ "done": false, "ceremony": progress::as_json(more) }),
                )?;
            }
            _ => return Ok(Some(answer)),
        }
    }
    Ok(None)
}

/// Says what came of it, and keeps it.
fn finish(
    status: &GetStatusResponse,
    ceremony: &CeremonyProgress,
    done: &Submitted,
    places: Places,
    output: &Output,
) -> Result<(), CliError> {
    let made = Made {
        shares: &done.shares,
        token: done.bootstrap_token.as_ref(),
        token_expires: done.bootstrap_expires.as_ref(),
        seal_record: done.seal_record.as_deref(),
    };
    let json = json!({
        "done": true,
        "purpose": progress::purpose_word(ceremony.purpose()),
        "ceremony": done.ceremony.as_ref().map_or(Value::Null, progress::as_json),
    });
    let filled = places.fill(made, &outcome(ceremony, done), &json, output);
    if let Some(remark) = &done.remark {
        output.remark(remark);
    }
    if !output.is_json() {
        for remark in advice(status, ceremony) {
            output.remark(remark);
        }
        if let Some(confirm) = &done.ceremony {
            output.remark(&format!(
                "They count once {} of them were entered, until {}. Until then the old shares do.",
                confirm.threshold,
                timestamp(confirm.expire_time.as_ref())
            ));
            next(confirm, output);
        }
    }
    filled
}

fn outcome(ceremony: &CeremonyProgress, done: &Submitted) -> String {
    match ceremony.purpose() {
        CeremonyPurpose::Unspecified => "It is done.".to_owned(),
        CeremonyPurpose::Unseal => "The vault is unsealed.".to_owned(),
        CeremonyPurpose::Rekey => format!("{} new shares are made.", done.shares.len()),
        CeremonyPurpose::ConfirmRekey => "The new shares are the vault's, and the old ones are not any more.".to_owned(),
        CeremonyPurpose::ChangePin => "The HSM token has its new PIN.".to_owned(),
        CeremonyPurpose::EnableAutoUnseal => {
            "The vault opens by itself from now on: its HSM and the PIN are enough.".to_owned()
        }
        CeremonyPurpose::DisableAutoUnseal => "The vault opens with shares only.".to_owned(),
        CeremonyPurpose::AddToken => {
            "The token is one of the vault's; data keys are wrapped for it in the background.".to_owned()
        }
        CeremonyPurpose::AddRecovery => {
            "The recovery key counts; data keys are wrapped for it in the background.".to_owned()
        }
        CeremonyPurpose::RecoverRoot => {
            "operator/bootstrap may do everything with its new token, and the policy admins is as init made it.".to_owned()
        }
    }
}

/// What is to be done beside it.
fn advice(status: &GetStatusResponse, ceremony: &CeremonyProgress) -> Vec<&'static str> {
    match ceremony.purpose() {
        CeremonyPurpose::Rekey => {
            vec!["Give each share to one holder and delete it here: there is no other copy."]
        }
        CeremonyPurpose::ConfirmRekey => {
            vec![
                "Seal records from before open nothing any more: keep this one beside your backups, and make a new backup.",
            ]
        }
        CeremonyPurpose::ChangePin if status.powers == 1 => {
            vec![
                "The vault opens by itself: put the new PIN where seal.auto_pin_* of its configuration says, before the next start.",
            ]
        }
        CeremonyPurpose::AddToken | CeremonyPurpose::AddRecovery => vec![
            "Nothing is safe by it yet: wait until `keystead keys rotation` says that it is complete.",
            "Keep this seal record beside your backups.",
        ],
        CeremonyPurpose::RecoverRoot => vec!["Register operators with it, and let it die."],
        _ => Vec::new(),
    }
}
