//! Nobody shuts themself out by a slip: the last administrator could not be let in again by anybody.

use keystead_domain::policy::{Action, Resource, Verdict};
use keystead_domain::principal::{PrincipalName, PrincipalRecord};

use crate::error::VaultError;
use crate::request::Caller;
use crate::unsealed::UnsealedVault;

/// A caller that changes its own record stays enabled, keeps one of its certificate identities, and could change it back.
pub(super) fn check_own(
    vault: &UnsealedVault,
    caller: &Caller,
    record: &PrincipalRecord,
) -> Result<(), VaultError> {
    if record.name != *caller.principal() {
        return Ok(());
    }
    let before = &caller.record().matchers;
    let known = before.is_empty() || before.iter().any(|identity| record.matchers.contains(identity));
    let resource = Resource::Principal(record.name.clone());
    let after = caller.with_record(record.clone());
    let verdict = vault.decide(&after, Action::PrincipalsWrite, &resource).verdict;
    if known && !record.disabled && verdict == Verdict::Allow {
        return Ok(());
    }
    Err(would_lock_out(&record.name))
}

/// A caller does not delete itself.
pub(super) fn check_not_own(caller: &Caller, name: &PrincipalName) -> Result<(), VaultError> {
    if name == caller.principal() { Err(would_lock_out(name)) } else { Ok(()) }
}

fn would_lock_out(name: &PrincipalName) -> VaultError {
    VaultError::WouldLockOut { what: format!("principal {name}") }
}
