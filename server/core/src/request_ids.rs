//! Repeating a change is harmless: what it came to is kept, sealed, for 24 hours under principal and request id.

use keystead_domain::id::{RecordId, RequestId};
use keystead_domain::principal::PrincipalName;
use keystead_domain::time::UnixMillis;
use keystead_storage::{Batch, Keyspace, Precondition, Range, Snapshot, keyspace};
use serde::{Deserialize, Serialize};

use crate::error::VaultError;
use crate::keys::corrupt;
use crate::records;
use crate::request::SystemPermit;
use crate::unsealed::UnsealedVault;

const KEPT_MILLIS: u64 = 24 * 60 * 60 * 1000;

/// Records looked at in one step of tidying, and removed in one batch.
const TIDY_LOOKED_AT: usize = 256;
const TIDY_REMOVED: usize = 24;

/// The job that removes answers older than 24 hours.
pub(crate) enum TidyRequestIds {}

/// What a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// This version of a secret.
    Version(u64),
    /// This lease.
    Lease(RecordId),
}

#[derive(Serialize, Deserialize)]
struct Answered {
    /// A keyed hash of the request: the same id with another request is refused.
    digest: Vec<u8>,
    answer: Answer,
    expires: UnixMillis,
}

/// What is known of a request id.
pub(crate) enum Seen {
    /// Nothing: remember the answer under this key, demanded to be in this state.
    New(Unanswered),
    /// The same request was answered with this.
    Answered(Answer, Unanswered),
}

/// Where an answer will be kept.
pub(crate) struct Unanswered {
    key: Vec<u8>,
    digest: Vec<u8>,
    unchanged: Precondition,
}

/// Looks a request id up. `request` tells requests of one id apart, under a keyed hash.
pub(crate) async fn look_up(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    principal: &PrincipalName,
    id: &RequestId,
    request: &[&[u8]],
) -> Result<Seen, VaultError> {
    let name = principal.to_string();
    let lookup = &vault.keys.lookup;
    let key = keyspace::request(&lookup.tag("request-id", &[name.as_bytes(), id.as_str().as_bytes()]));
    let digest = lookup.tag("request-digest", request).to_vec();
    let Some(stored) = snapshot.get(Keyspace::Requests, &key).await? else {
        return Ok(Seen::New(Unanswered { key, digest, unchanged: Precondition::Absent }));
    };
    let plain = vault.keys.open_record(Keyspace::Requests, &key, &stored.value)?;
    let answered: Answered =
        records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Requests, &key))?;
    let unanswered = Unanswered { key, digest, unchanged: Precondition::Revision(stored.revision) };
    if answered.expires <= vault.clock.now() {
        return Ok(Seen::New(unanswered));
    }
    if answered.digest != unanswered.digest {
        return Err(VaultError::RequestIdReused { id: id.as_str().to_owned() });
    }
    Ok(Seen::Answered(answered.answer, unanswered))
}

/// Adds the answer to the batch that makes it true.
pub(crate) fn remember(
    vault: &UnsealedVault,
    batch: &mut Batch,
    unanswered: Unanswered,
    answer: Answer,
) -> Result<(), VaultError> {
    let Unanswered { key, digest, unchanged } = unanswered;
    let expires = UnixMillis(vault.clock.now().0.saturating_add(KEPT_MILLIS));
    let plain = records::encode(&Answered { digest, answer, expires })
        .map_err(|_| corrupt(Keyspace::Requests, &key))?;
    let sealed = vault.keys.seal_record(Keyspace::Requests, &key, &plain)?;
    batch.require(Keyspace::Requests, key.clone(), unchanged);
    batch.put(Keyspace::Requests, key, sealed);
    Ok(())
}

/// One step of tidying, from the key `after` on: what has expired, and where to go on (nothing at the end).
pub(crate) async fn expired(
    vault: &UnsealedVault,
    after: Option<&[u8]>,
) -> Result<(Batch, Option<Vec<u8>>), VaultError> {
    let snapshot = vault.storage.snapshot().await?;
    let page = snapshot.range(Keyspace::Requests, Range::all(after), TIDY_LOOKED_AT).await?;
    let full = page.len() == TIDY_LOOKED_AT;
    let now = vault.clock.now();
    let mut batch = Batch::new();
    let mut last = None;
    for (key, stored) in page {
        if batch.operations().len() == TIDY_REMOVED {
            return Ok((batch, last));
        }
        let plain = vault.keys.open_record(Keyspace::Requests, &key, &stored.value)?;
        let answered: Answered =
            records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Requests, &key))?;
        last = Some(key.to_vec());
        if answered.expires <= now {
            batch.require(Keyspace::Requests, key.clone(), Precondition::Revision(stored.revision));
            batch.delete(Keyspace::Requests, key);
        }
    }
    Ok((batch, last.filter(|_| full)))
}

/// Removes what [`expired`] found. Nothing goes if one of them was renewed meanwhile.
pub(crate) async fn remove(
    vault: &UnsealedVault,
    permit: SystemPermit<TidyRequestIds>,
    batch: Batch,
) -> Result<(), VaultError> {
    vault.commit(Some(permit.intent()), batch).await.map(drop)
}
