//! `unseal`: checks each share against the server's signed header, then enters it.
//!
//! Later shares are bound to the ceremony that the first one began or joined, so that nobody can put another in between.

use std::path::PathBuf;

use clap::Args;
use keystead_client::Submitted;
use keystead_client::v1::{CeremonyProgress, CeremonyPurpose, SealState};
use serde_json::json;

use super::share::{checked, read_shares, verified_header};
use super::status::state;
use super::{Connect, progress};
use crate::error::CliError;
use crate::output::Output;

const EXAMPLES: &str = "\
Each holder enters one share, from anywhere:
  keystead unseal                              asks for the share, without echo
  keystead unseal --share-file share-2.txt
  cat share-2.txt | keystead unseal            one share a line";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct UnsealArgs {
    /// File with a share; "-" is standard input. May be given for several shares
    #[arg(long, value_name = "FILE")]
    share_file: Vec<PathBuf>,
    /// End the unseal ceremony that is half done
    #[arg(long, conflicts_with = "share_file")]
    cancel: bool,
}

pub(crate) async fn run(args: UnsealArgs, connect: Connect<'_>, output: &Output) -> Result<(), CliError> {
    let system = connect.connect().await?.system();
    let status = system.status().await?;
    if args.cancel {
        let unsealing = |ceremony: &CeremonyProgress| ceremony.purpose() == CeremonyPurpose::Unseal;
        let ceremony = status.ceremony.filter(unsealing).ok_or(CliError::NoUnsealCeremony)?.ceremony_id;
        system.cancel_ceremony(&ceremony).await?;
        return output.sentence("The unseal ceremony is over.", &json!({ "cancelled": ceremony }));
    }
    let header = verified_header(&status)?;
    if status.state() == SealState::Unsealed {
        return output
            .sentence("The vault is unsealed already.", &json!({ "state": "unsealed", "ceremony": null }));
    }
    if let Some(under_way) = &status.ceremony
        && !output.is_json()
    {
        output.remark(&progress::line(under_way));
    }

    let shares = read_shares(&args.share_file)?;
    for (origin, text) in &shares {
        checked(&header, text, origin)?;
    }
    let mut ceremony = status.ceremony.map(|progress| progress.ceremony_id).unwrap_or_default();
    for (_, text) in &shares {
        let answer = system.submit_share(text, &ceremony).await?;
        show(&answer, output)?;
        if answer.state == SealState::Unsealed {
            break;
        }
        ceremony = answer.ceremony.map(|progress| progress.ceremony_id).unwrap_or_default();
    }
    Ok(())
}

fn show(answer: &Submitted, output: &Output) -> Result<(), CliError> {
    let sentence = match (answer.state, &answer.ceremony) {
        (SealState::Unsealed, _) => "The vault is unsealed.".to_owned(),
        (_, Some(more)) => progress::line(more),
        (other, None) => format!("The vault is {}.", state(other)),
    };
    let json =
        json!({ "state": state(answer.state), "ceremony": answer.ceremony.as_ref().map(progress::as_json) });
    output.sentence(&sentence, &json)
}
