//! Who is calling: principals by certificate, sessions by token.
//!
//! Invariant: one error for every failure; the principal comes only from the SAN of the certificate that was verified, or
//! from a live session; expiry is checked at use.

mod lockout;
mod principals;
mod sessions;

use std::sync::Arc;

use keystead_domain::CertificateMatcher;
use keystead_domain::policy::Method;
use keystead_domain::principal::{PrincipalName, PrincipalRecord};
use keystead_domain::session::{SessionBinding, SessionRecord};
use keystead_domain::time::UnixMillis;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, Snapshot, keyspace};
use quick_cache::sync::Cache;

pub use self::principals::{
    DeletePrincipal, ListPrincipals, Principal, PrincipalPage, PutPrincipal, ReadPrincipal, WhoAmI,
    WhoAmIAnswer,
};
pub(crate) use self::principals::{index_tag, name_tag, seal_principal};
pub use self::sessions::RevokeSelf;
pub(crate) use self::sessions::{BOOTSTRAP_LIFE_MILLIS, seal_session, token_tag};
use crate::error::VaultError;
use crate::keys::corrupt;
use crate::records;
use crate::request::{Caller, Peer, PresentedCertificate, RequestContext};
use crate::unsealed::UnsealedVault;

/// Identities and principals kept at hand.
const PRINCIPALS_KEPT: usize = 16_384;

/// What was read before. A record counts only while the store has the same revision of it.
pub(crate) struct PrincipalCache {
    names: Cache<CertificateMatcher, Arc<[u8]>>,
    records: Cache<Arc<[u8]>, (Revision, Arc<PrincipalRecord>)>,
}

impl Default for PrincipalCache {
    fn default() -> Self {
        Self { names: Cache::new(PRINCIPALS_KEPT), records: Cache::new(PRINCIPALS_KEPT) }
    }
}

/// Finds out who sent a request, and hands on the view of the store in which that is so.
///
/// # Errors
/// `Unauthenticated` whatever the cause; those of the store.
pub async fn identify(
    vault: &UnsealedVault,
    ctx: &RequestContext,
) -> Result<(Caller, Box<dyn Snapshot>), VaultError> {
    if ctx.refused {
        return Err(VaultError::Unauthenticated);
    }
    let snapshot = vault.storage.snapshot().await?;
    let caller = match (&ctx.token, &ctx.certificate) {
        (Some(token), certificate) => {
            by_token(vault, snapshot.as_ref(), ctx.peer, token, certificate.as_deref()).await?
        }
        (None, Some(certificate)) => by_certificate(vault, snapshot.as_ref(), ctx.peer, certificate).await?,
        (None, None) => return Err(VaultError::Unauthenticated),
    };
    Ok((caller, snapshot))
}

async fn by_certificate(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    peer: Peer,
    certificate: &PresentedCertificate,
) -> Result<Caller, VaultError> {
    if certificate.not_after <= vault.clock.now() {
        return Err(VaultError::Unauthenticated);
    }
    let mut found: Option<Arc<PrincipalRecord>> = None;
    for identity in &certificate.identities {
        let Some(record) = by_identity(vault, snapshot, identity).await? else { continue };
        // A certificate that names two principals is nobody's.
        if found.as_ref().is_some_and(|other| other.name != record.name) {
            return Err(VaultError::Unauthenticated);
        }
        found = Some(record);
    }
    let record = found.filter(|record| !record.disabled).ok_or(VaultError::Unauthenticated)?;
    Ok(Caller::proven(record, Method::Certificate, certificate.not_after, None, peer))
}

/// The principal of one certificate identity. The index may be stale in the cache, so the record has the last word.
async fn by_identity(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    identity: &CertificateMatcher,
) -> Result<Option<Arc<PrincipalRecord>>, VaultError> {
    if let Some(key) = vault.principals.names.get(identity)
        && let Some(record) = load(vault, snapshot, &key).await?
        && record.matchers.contains(identity)
    {
        return Ok(Some(record));
    }
    let at = keyspace::principal_index(&index_tag(&vault.keys, identity));
    let Some(stored) = snapshot.get(Keyspace::PrincipalIndex, &at).await? else { return Ok(None) };
    let plain = vault.keys.open_record(Keyspace::PrincipalIndex, &at, &stored.value)?;
    let name: PrincipalName =
        records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::PrincipalIndex, &at))?;
    let key: Arc<[u8]> = keyspace::principal(&name_tag(&vault.keys, &name)).into();
    let record = load(vault, snapshot, &key).await?.filter(|record| record.matchers.contains(identity));
    if record.is_some() {
        vault.principals.names.insert(identity.clone(), key);
    }
    Ok(record)
}

async fn by_token(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    peer: Peer,
    token: &keystead_crypto::token::Token,
    certificate: Option<&PresentedCertificate>,
) -> Result<Caller, VaultError> {
    let key = keyspace::session(&token_tag(&vault.keys, token));
    let session = sessions::load(vault, snapshot, &key).await?.ok_or(VaultError::Unauthenticated)?;
    let at = keyspace::principal(&name_tag(&vault.keys, &session.principal));
    let record = load(vault, snapshot, &at.into()).await?.ok_or(VaultError::Unauthenticated)?;
    if !counts(&session, &record, vault.clock.now(), peer, certificate) {
        return Err(VaultError::Unauthenticated);
    }
    let expires = session.expires.min(session.max_expires);
    Ok(Caller::proven(record, Method::Token, expires, Some(key), peer))
}

/// Whether a session counts here and now, for this registration of its principal.
fn counts(
    session: &SessionRecord,
    record: &PrincipalRecord,
    now: UnixMillis,
    peer: Peer,
    certificate: Option<&PresentedCertificate>,
) -> bool {
    let bound = match &session.binding {
        SessionBinding::None => true,
        SessionBinding::Identity { ca_fingerprint } => certificate.is_some_and(|certificate| {
            certificate.ca_fingerprint == *ca_fingerprint
                && certificate.identities.iter().any(|identity| record.matchers.contains(identity))
        }),
        SessionBinding::Certificate { fingerprint } => {
            certificate.is_some_and(|certificate| certificate.fingerprint == *fingerprint)
        }
    };
    let admitted = match peer {
        Peer::Remote(address) => session.admits(address),
        Peer::Local { .. } => session.cidrs.is_empty(),
    };
    // A session under another counts only once its parent can be looked up.
    let own = session.parent.is_none();
    own && bound && admitted && !session.has_expired(now) && session.belongs_to(record) && !record.disabled
}

/// Has a batch go in only while a caller's principal and session are there, as they are now: what ends them ends what hangs
/// on them, and must find it.
///
/// # Errors
/// `Unauthenticated` if they are not there any more.
pub(crate) async fn require_still(
    vault: &UnsealedVault,
    batch: &mut Batch,
    caller: &Caller,
) -> Result<(), VaultError> {
    let snapshot = vault.storage.snapshot().await?;
    let key: Arc<[u8]> = keyspace::principal(&name_tag(&vault.keys, caller.principal())).into();
    let stored = snapshot.get(Keyspace::Principals, &key).await?.ok_or(VaultError::Unauthenticated)?;
    let record = load(vault, snapshot.as_ref(), &key).await?.ok_or(VaultError::Unauthenticated)?;
    if record.disabled || record.generation() != caller.record().generation() {
        return Err(VaultError::Unauthenticated);
    }
    batch.require(Keyspace::Principals, key.to_vec(), Precondition::Revision(stored.revision));
    if let Some(session) = caller.session() {
        if snapshot.get(Keyspace::Sessions, session).await?.is_none() {
            return Err(VaultError::Unauthenticated);
        }
        batch.require(Keyspace::Sessions, session.to_vec(), Precondition::Exists);
    }
    Ok(())
}

async fn load(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    key: &Arc<[u8]>,
) -> Result<Option<Arc<PrincipalRecord>>, VaultError> {
    let Some(stored) = snapshot.get(Keyspace::Principals, key).await? else { return Ok(None) };
    if let Some((revision, record)) = vault.principals.records.get(key)
        && revision == stored.revision
    {
        return Ok(Some(record));
    }
    let plain = vault.keys.open_record(Keyspace::Principals, key, &stored.value)?;
    let record: PrincipalRecord =
        records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Principals, key))?;
    let record = Arc::new(record);
    vault.principals.records.insert(Arc::clone(key), (stored.revision, Arc::clone(&record)));
    Ok(Some(record))
}

/// The record of a principal, if it is registered.
pub(crate) async fn record_of(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    name: &PrincipalName,
) -> Result<Option<Arc<PrincipalRecord>>, VaultError> {
    let at = keyspace::principal(&name_tag(&vault.keys, name));
    load(vault, snapshot, &at.into()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use keystead_domain::id::RecordId;
    use keystead_domain::name::{GroupName, TenantName};
    use keystead_domain::session::{AuthMethod, Cidr};

    fn record() -> PrincipalRecord {
        PrincipalRecord {
            name: PrincipalName::service("shop").unwrap(),
            groups: vec![GroupName::parse("shops").unwrap()],
            matchers: vec![CertificateMatcher::dns("shop.example.org").unwrap()],
            disabled: false,
            created: UnixMillis(1_000),
        }
    }

    fn session() -> SessionRecord {
        SessionRecord {
            principal: PrincipalName::service("shop").unwrap(),
            tenant: TenantName::default(),
            method: AuthMethod::Certificate,
            binding: SessionBinding::Identity { ca_fingerprint: [1; 32] },
            created: UnixMillis(2_000),
            expires: UnixMillis(9_000),
            max_expires: UnixMillis(8_000),
            renewable: true,
            parent: None,
            on_behalf_of: None,
            cidrs: vec![Cidr::parse("10.0.0.0/8").unwrap()],
            bootstrap: false,
            generation: record().generation(),
        }
    }

    fn certificate(identity: &str, ca: u8) -> PresentedCertificate {
        PresentedCertificate {
            identities: vec![CertificateMatcher::dns(identity).unwrap()],
            fingerprint: [3; 32],
            ca_fingerprint: [ca; 32],
            not_after: UnixMillis(u64::MAX),
        }
    }

    #[test]
    fn a_session_counts_only_where_when_and_for_whom_it_was_made() {
        let (inside, outside) = ([10, 0, 0, 7].into(), [192, 0, 2, 7].into());
        let good = certificate("shop.example.org", 1);
        let at = |session: &SessionRecord, record: &PrincipalRecord, now, peer, certificate| {
            counts(session, record, UnixMillis(now), peer, certificate)
        };
        let inside = Peer::Remote(inside);
        assert!(at(&session(), &record(), 7_999, inside, Some(&good)));
        assert!(!at(&session(), &record(), 8_000, inside, Some(&good)), "past the maximum");
        assert!(!at(&session(), &record(), 7_999, Peer::Remote(outside), Some(&good)), "another address");
        assert!(!at(&session(), &record(), 7_999, Peer::Local { uid: 0 }, Some(&good)), "no address at all");
        assert!(!at(&session(), &record(), 7_999, inside, None), "no certificate");
        let other_ca = certificate("shop.example.org", 2);
        assert!(!at(&session(), &record(), 7_999, inside, Some(&other_ca)), "another CA");
        let sibling = certificate("till.example.org", 1);
        assert!(!at(&session(), &record(), 7_999, inside, Some(&sibling)), "a sibling's certificate");
        let anew = PrincipalRecord { created: UnixMillis(3_000), ..record() };
        assert!(!at(&session(), &anew, 7_999, inside, Some(&good)), "registered anew");
        let disabled = PrincipalRecord { disabled: true, ..record() };
        assert!(!at(&session(), &disabled, 7_999, inside, Some(&good)), "disabled");
        let below = SessionRecord { parent: Some(RecordId([5; 16])), ..session() };
        assert!(!at(&below, &record(), 7_999, inside, Some(&good)), "under a session that nobody looked up");
    }
}
