//! `ceremony`: what a quorum of holders does with an open vault. One person begins it, each holder looks and approves by
//! entering a share, from wherever they are.

mod approve;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keystead_client::System;
use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_client::v1::{self, CeremonyProgress, CeremonyPurpose};
use serde_json::json;

use super::{Connect, progress};
use crate::args::values::Recipient;
use crate::error::CliError;
use crate::output::Output;
use crate::prompt;

const EXAMPLES: &str = "\
One person begins, and says the ceremony's id to the holders:
  keystead ceremony rekey --shares 5 --threshold 3
Each holder looks at it, and approves it by entering a share:
  keystead ceremony show
  keystead ceremony approve
In a script, the ceremony is named instead of asked about:
  keystead ceremony approve --ceremony ID --share-file share-2.txt --out-dir new-shares";

const REKEY_EXAMPLES: &str = "\
Examples:
  keystead ceremony rekey --shares 5 --threshold 3
  keystead ceremony rekey --shares 2 --threshold 2 --recipient age1... --recipient age1...

Recipients are in the order of the shares' numbers; each opens the share with `age -d`. The old \
shares are good until as many of the new ones as are needed were entered.";

const PIN_EXAMPLES: &str = "\
Examples:
  keystead ceremony change-pin                     asks for the new PIN, twice
  keystead ceremony change-pin --pin-file new-pin.txt";

const TOKEN_EXAMPLES: &str = "\
The token stands in a [[hsm.further]] of the server's configuration:
  keystead ceremony add-token --serial 0123456789abcdef
Afterwards data keys are wrapped for it in the background:
  keystead keys rotation";

const RECOVERY_EXAMPLES: &str = "\
On a machine that is never on a network, `age-keygen -o recovery.txt` makes the key and prints the recipient:
  keystead ceremony add-recovery --recipient age1...";

const ROOT_EXAMPLES: &str = "\
Only over the server's local socket, or with a certificate of [[operators]]:
  keystead --addr unix:///run/keystead/local.sock ceremony recover-root";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum CeremonyCommand {
    /// Begin to make new shares, for other holders or another quorum
    #[command(after_help = REKEY_EXAMPLES)]
    Rekey(RekeyArgs),
    /// Begin to change the PIN of the HSM token
    #[command(after_help = PIN_EXAMPLES)]
    ChangePin(ChangePinArgs),
    /// Begin to let the vault open by itself, or with shares only
    #[command(subcommand)]
    AutoUnseal(AutoUnsealCommand),
    /// Begin to make a new administrator, when nobody may administer the vault any more
    #[command(after_help = ROOT_EXAMPLES)]
    RecoverRoot,
    /// Begin to have a further HSM token of the server's configuration open the vault's data
    #[command(after_help = TOKEN_EXAMPLES)]
    AddToken(AddTokenArgs),
    /// Begin to have a key that is kept offline open the vault's data, for when every token is lost
    #[command(after_help = RECOVERY_EXAMPLES)]
    AddRecovery(AddRecoveryArgs),
    /// Show the ceremony under way
    Show,
    /// Enter a share for the ceremony under way; the last one needed has it done
    #[command(after_help = approve::EXAMPLES)]
    Approve(approve::ApproveArgs),
    /// End the ceremony under way; nothing is changed
    Cancel(CancelArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RekeyArgs {
    /// Shares to make, one a holder
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=255))]
    shares: u32,
    /// Shares needed from then on
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=255))]
    threshold: u32,
    /// The age recipient of a holder, age1..., that one share is sealed for; once a share, in the order of their numbers
    #[arg(long = "recipient", value_name = "RECIPIENT", value_parser = Recipient)]
    recipients: Vec<String>,
    /// Replace Q too, and have every data key sealed anew: if the server's memory may have been read
    #[arg(long)]
    new_q: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AddTokenArgs {
    /// Its serial; `keystead-server hsm check` shows it
    #[arg(long)]
    serial: String,
    /// File with its PIN; "-" is standard input. Without it, the PIN is asked for
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AddRecoveryArgs {
    /// The age recipient, age1..., as `age-keygen` prints it; its private half stays offline
    #[arg(long, value_parser = Recipient)]
    recipient: String,
}

#[derive(Debug, Args)]
pub(crate) struct ChangePinArgs {
    /// The serial of the token, where the vault has several
    #[arg(long)]
    serial: Option<String>,
    /// File with the new PIN; "-" is standard input. Without it, the PIN is asked for, twice
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum AutoUnsealCommand {
    /// From then on the HSM and its PIN, which the server reads where its configuration says, are enough to open the vault
    Enable,
    /// From then on only shares open it
    Disable,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// Only if it is this one
    #[arg(long, value_name = "ID")]
    ceremony: Option<String>,
}

pub(crate) async fn run(
    command: CeremonyCommand,
    connect: Connect<'_>,
    output: &Output,
) -> Result<(), CliError> {
    let purpose = match command {
        CeremonyCommand::Rekey(args) => Purpose::Rekey(rekey(args)?),
        CeremonyCommand::ChangePin(args) => {
            let system = connect.connect().await?.system();
            let pin =
                prompt::new_secret("the new PIN of the HSM token", "--pin-file", args.pin_file.as_deref())?;
            return begin(
                &system,
                Purpose::ChangePin(v1::ChangePin {
                    new_pin: pin.expose().to_vec(),
                    serial: args.serial.unwrap_or_default(),
                }),
                output,
            )
            .await;
        }
        CeremonyCommand::AutoUnseal(AutoUnsealCommand::Enable) => {
            Purpose::EnableAutoUnseal(v1::EnableAutoUnseal {})
        }
        CeremonyCommand::AutoUnseal(AutoUnsealCommand::Disable) => {
            Purpose::DisableAutoUnseal(v1::DisableAutoUnseal {})
        }
        CeremonyCommand::AddToken(args) => {
            let system = connect.connect().await?.system();
            let pin = prompt::short_secret("the PIN of that token", "--pin-file", args.pin_file.as_deref())?;
            let add = v1::AddToken { serial: args.serial, pin: pin.expose().to_vec() };
            return begin(&system, Purpose::AddToken(add), output).await;
        }
        CeremonyCommand::AddRecovery(args) => {
            Purpose::AddRecovery(v1::AddRecovery { recipient: args.recipient })
        }
        CeremonyCommand::RecoverRoot => Purpose::RecoverRoot(v1::RecoverRoot {}),
        CeremonyCommand::Show => return show(&connect.connect().await?.system(), output).await,
        CeremonyCommand::Approve(args) => return approve::run(args, connect, output).await,
        CeremonyCommand::Cancel(args) => {
            return cancel(args.ceremony, &connect.connect().await?.system(), output).await;
        }
    };
    begin(&connect.connect().await?.system(), purpose, output).await
}

fn rekey(args: RekeyArgs) -> Result<v1::Rekey, CliError> {
    let RekeyArgs { shares, threshold, recipients, new_q } = args;
    if threshold > shares {
        return Err(CliError::Quorum);
    }
    if !recipients.is_empty() && u32::try_from(recipients.len()) != Ok(shares) {
        return Err(CliError::Recipients { recipients: recipients.len(), shares });
    }
    Ok(v1::Rekey { shares, threshold, recipients, new_q })
}

async fn begin(system: &System, purpose: Purpose, output: &Output) -> Result<(), CliError> {
    let begun = system.start_ceremony(purpose).await?;
    show_facts(&begun, output)?;
    next(&begun, output);
    Ok(())
}

async fn show(system: &System, output: &Output) -> Result<(), CliError> {
    match system.status().await?.ceremony {
        Some(under_way) => show_facts(&under_way, output),
        None => output.sentence("No ceremony is under way.", &json!({ "ceremony_id": null })),
    }
}

fn show_facts(under_way: &CeremonyProgress, output: &Output) -> Result<(), CliError> {
    let facts = progress::facts(under_way);
    let facts: Vec<_> = facts.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    output.facts(&facts, &progress::as_json(under_way))
}

/// What the holders do now.
fn next(under_way: &CeremonyProgress, output: &Output) {
    if !output.is_json() {
        let confirms = under_way.purpose() == CeremonyPurpose::ConfirmRekey;
        let who = if confirms { "Each new holder" } else { "Each holder" };
        output.remark(&format!("{who} looks at it and enters a share, from any machine:"));
        output.remark(&format!("  keystead ceremony approve --ceremony {}", under_way.ceremony_id));
    }
}

async fn cancel(asked: Option<String>, system: &System, output: &Output) -> Result<(), CliError> {
    let ceremony = match asked {
        Some(asked) => asked,
        None => system.status().await?.ceremony.ok_or(CliError::NoCeremony)?.ceremony_id,
    };
    system.cancel_ceremony(&ceremony).await?;
    output.sentence(
        &format!("Ceremony {ceremony} is over; nothing was changed."),
        &json!({ "cancelled": ceremony }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rekey_that_cannot_be_is_not_asked_for() {
        let args = |shares, threshold, recipients: usize| RekeyArgs {
            shares,
            threshold,
            recipients: vec!["age1".to_owned(); recipients],
            new_q: false,
        };
        assert!(rekey(args(3, 2, 0)).is_ok() && rekey(args(3, 3, 3)).is_ok());
        assert!(matches!(rekey(args(2, 3, 0)), Err(CliError::Quorum)));
        assert!(matches!(rekey(args(3, 2, 2)), Err(CliError::Recipients { recipients: 2, shares: 3 })));
    }
}
