//! Sessions by opaque token, stored only under a keyed hash. Only the bootstrap admin's exists so far; the record has its
//! final fields.

use keystead_crypto::token::Token;
use keystead_domain::lease::Why;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::session::SessionRecord;
use keystead_storage::{Batch, Keyspace, Precondition, Snapshot, keyspace};

use crate::error::VaultError;
use crate::keys::{Keys, corrupt};
use crate::leases::many;
use crate::operation::{Detail, Effect, Grant, Operation};
use crate::records;
use crate::request::Permit;
use crate::unsealed::UnsealedVault;

/// The bootstrap admin's token dies after 24 hours.
pub(crate) const BOOTSTRAP_LIFE_MILLIS: u64 = 24 * 60 * 60 * 1000;

/// Where the session of a token lies.
pub(crate) fn token_tag(keys: &Keys, token: &Token) -> [u8; 33] {
    token.tag(&keys.lookup)
}

/// Adds a session to a batch.
pub(crate) fn seal_session(
    keys: &Keys,
    batch: &mut Batch,
    at: Vec<u8>,
    record: &SessionRecord,
) -> Result<(), VaultError> {
    let plain = records::encode(record).map_err(|_| corrupt(Keyspace::Sessions, &at))?;
    let sealed = keys.seal_record(Keyspace::Sessions, &at, &plain)?;
    batch.put(Keyspace::Sessions, at, sealed);
    Ok(())
}

pub(super) async fn load(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    at: &[u8],
) -> Result<Option<SessionRecord>, VaultError> {
    let Some(stored) = snapshot.get(Keyspace::Sessions, at).await? else { return Ok(None) };
    let plain = vault.keys.open_record(Keyspace::Sessions, at, &stored.value)?;
    records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Sessions, at)).map(Some)
}

/// Ends the session whose token authenticates the call.
pub struct RevokeSelf;

impl Operation for RevokeSelf {
    type Output = ();
    const ACTION: Action = Action::SessionsRevokeSelf;
    const EFFECT: Effect = Effect::Change;
    const GRANT: Grant = Grant::Identified;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<(), VaultError> {
        let Some(at) = permit.caller().session() else {
            return Err(VaultError::Invalid {
                field: "authorization",
                rule: "no token authenticates this call, so there is no session to revoke".to_owned(),
            });
        };
        let mut batch = Batch::new();
        batch.require(Keyspace::Sessions, at.to_vec(), Precondition::Exists);
        batch.delete(Keyspace::Sessions, at.to_vec());
        many::begin(&vault.keys, &mut batch, keyspace::leases_of_session(at), Why::SessionEnded)?;
        vault.commit(permit.intent(), batch).await?;
        vault.leases.wake.notify_one();
        Ok(())
    }

    fn detail((): &()) -> Detail {
        Detail::new()
    }
}
