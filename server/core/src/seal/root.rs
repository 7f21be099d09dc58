//! A new administrator, for a vault that nobody may administer any more. The policy `admins` of init is put back with it:
//! whoever broke it may have broken all that could mend it.

use keystead_storage::Batch;

use super::outcome::{ByQuorum, Outcome};
use crate::error::VaultError;
use crate::init::{admins_policy, put_bootstrap};
use crate::policies;
use crate::request::SystemPermit;
use crate::unsealed::UnsealedVault;

/// Registers `operator/bootstrap` anew, and makes its only token.
pub(super) async fn recover(
    vault: &UnsealedVault,
    permit: &SystemPermit<ByQuorum>,
) -> Result<Outcome, VaultError> {
    let now = vault.clock.now();
    let mut batch = Batch::new();
    let (token, expires) = put_bootstrap(&vault.keys, &mut batch, now)?;
    policies::restore(vault, permit.intent(), admins_policy(now)?, batch).await?;
    Ok(Outcome::Root(token, expires))
}
