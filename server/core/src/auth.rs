//! Who is calling: principals by certificate, sessions by token.
//!
//! Invariant: one error for every failure; the principal comes only from the SAN of the certificate that was verified, or
//! from a live session; expiry is checked at use.

mod principals;
mod sessions;

use std::sync::Arc;

use keystead_domain::CertificateMatcher;
use keystead_domain::policy::Method;
use keystead_domain::principal::{PrincipalName, PrincipalRecord};
use keystead_domain::session::SessionBinding;
use keystead_storage::{Keyspace, Revision, Snapshot, keyspace};
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
use crate::request::{Caller, PresentedCertificate, RequestContext};
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

/// Finds out who sent a request.
///
/// # Errors
/// `Unauthenticated` whatever the cause; those of the store.
pub async fn identify(vault: &UnsealedVault, ctx: &RequestContext) -> Result<Caller, VaultError> {
    let snapshot = vault.storage.snapshot().await?;
    match (&ctx.token, &ctx.certificate) {
        (Some(token), certificate) => by_token(vault, snapshot.as_ref(), token, certificate.as_deref()).await,
        (None, Some(certificate)) => by_certificate(vault, snapshot.as_ref(), certificate).await,
        (None, None) => Err(VaultError::Unauthenticated),
    }
}

async fn by_certificate(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
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
    Ok(caller(&record, Method::Certificate, certificate.not_after, None))
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
    token: &keystead_crypto::token::Token,
    certificate: Option<&PresentedCertificate>,
) -> Result<Caller, VaultError> {
    let key = keyspace::session(&token_tag(&vault.keys, token));
    let session = sessions::load(vault, snapshot, &key).await?.ok_or(VaultError::Unauthenticated)?;
    let bound = match &session.binding {
        SessionBinding::None => true,
        SessionBinding::Identity { ca_fingerprint } => {
            certificate.is_some_and(|certificate| certificate.ca_fingerprint == *ca_fingerprint)
        }
        SessionBinding::Certificate { fingerprint } => {
            certificate.is_some_and(|certificate| certificate.fingerprint == *fingerprint)
        }
    };
    if !bound || session.expires <= vault.clock.now() {
        return Err(VaultError::Unauthenticated);
    }
    let at = keyspace::principal(&name_tag(&vault.keys, &session.principal));
    let record = load(vault, snapshot, &at.into()).await?.filter(|record| !record.disabled);
    let record = record.ok_or(VaultError::Unauthenticated)?;
    Ok(caller(&record, Method::Token, session.expires, Some(key)))
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

fn caller(
    record: &PrincipalRecord,
    method: Method,
    expires: keystead_domain::time::UnixMillis,
    session: Option<Vec<u8>>,
) -> Caller {
    Caller::proven(record.name.clone(), record.groups.clone().into(), method, expires, session)
}

/// The groups of a principal; none if it is not registered.
pub(crate) async fn groups_of(
    vault: &UnsealedVault,
    name: &PrincipalName,
) -> Result<Vec<keystead_domain::GroupName>, VaultError> {
    let snapshot = vault.storage.snapshot().await?;
    let at = keyspace::principal(&name_tag(&vault.keys, name));
    let record = load(vault, snapshot.as_ref(), &at.into()).await?;
    Ok(record.map(|record| record.groups.clone()).unwrap_or_default())
}
