//! The keys of an open vault and what is done with them.
//!
//! Invariant: every long-lived key lies in the locked arena and is wiped when the vault seals. The cache holds inner
//! blobs, which are useless without Q. A fresh data key, and a fresh system record, goes into the store only while the seal
//! record and the keyring that it was made by are in force: what a rotation has passed by cannot come back.

pub(crate) mod ledger;
pub(crate) mod link;
mod stored;
pub(crate) mod systems;
pub(crate) mod ways;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use getrandom::SysRng;
use keystead_crypto::CryptoError;
use keystead_crypto::aad::{Aad, label};
use keystead_crypto::envelope::{DataKey, Gap, InnerBlob, Opened, OpeningKey, Q, TokenWay, WrappedDataKey};
use keystead_crypto::mac::LookupKey;
use keystead_crypto::names::NameKey;
use keystead_crypto::ports::Hsm;
use keystead_crypto::record;
use keystead_crypto::seal_record::SealRecord;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::{RecordId, VaultId};
use keystead_storage::{Batch, Keyspace, Precondition, Revision, Snapshot, Storage, keyspace};
use quick_cache::sync::Cache;
use rand_core::{Rng, UnwrapErr};

use self::ledger::Counts;
pub use self::ledger::{MAX_WRAPS_A_VERSION, MasterKey};
use self::link::Link;
pub use self::link::LinkStatus;
pub(crate) use self::stored::{KeyLedger, LedgerState, RECORDS_A_BLOCK};
pub use self::systems::SystemUse;
use self::systems::Systems;
use self::ways::{Reached, Ways};
use crate::error::VaultError;

/// The one tenant there is; every key, AAD and resource name has its place.
pub(crate) const TENANT: &str = "default";

/// Inner blobs kept: 64 KiB of them a thousand.
const INNER_BLOBS_KEPT: usize = 65_536;

/// The host's random source. A failing one aborts the process: nothing good can follow.
pub(crate) fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// A fresh random id.
pub(crate) fn fresh_id() -> RecordId {
    let mut id = [0; 16];
    rng().fill_bytes(&mut id);
    RecordId(id)
}

/// The keys of an open vault.
pub struct Keys {
    pub(crate) vault: VaultId,
    /// The token that opened the vault: it signs, and gives randomness.
    pub(crate) hsm: Arc<dyn Hsm>,
    ways: ArcSwap<Ways>,
    /// Every version of Q at hand.
    qs: Mutex<Vec<Arc<Q>>>,
    systems: ArcSwap<Systems>,
    pub(crate) names: NameKey,
    pub(crate) lookup: LookupKey,
    pub(crate) inner_blobs: Cache<RecordId, Arc<InnerBlob>>,
    counts: Counts,
    /// Whoever takes up another seal record.
    following: tokio::sync::Mutex<()>,
    ledger: tokio::sync::Mutex<LedgerState>,
}

/// What [`Keys`] are made of.
pub(crate) struct KeyParts {
    pub(crate) vault: VaultId,
    pub(crate) hsm: Arc<dyn Hsm>,
    pub(crate) ways: Ways,
    pub(crate) systems: Systems,
    pub(crate) names: NameKey,
    pub(crate) lookup: LookupKey,
}

/// A fresh data key with its `data_keys` record.
pub(crate) struct NewDataKey {
    pub(crate) key: DataKey,
    pub(crate) record: NewRecord,
}

/// The record of a fresh data key, on its way into the store.
pub(crate) struct NewRecord {
    id: RecordId,
    bytes: Vec<u8>,
    /// The version of M under which the first way wrapped it.
    pub(crate) master_version: u32,
    /// A token was away.
    lacks_a_way: bool,
    seal: Option<Revision>,
}

impl NewRecord {
    /// Joins a batch, which is refused once another seal record is in force: it may name other keys. What lacks a way
    /// marks the store in the same batch, so that no pass can end between the two.
    pub(crate) fn put(self, batch: &mut Batch) {
        if let Some(seal) = self.seal {
            batch.require(Keyspace::Seal, keyspace::seal_record(), Precondition::Revision(seal));
        }
        if self.lacks_a_way {
            batch.put(Keyspace::Meta, keyspace::meta_gaps(), Vec::new());
        }
        batch.put(Keyspace::DataKeys, keyspace::data_key(self.id.as_bytes()), self.bytes);
    }
}

impl Keys {
    pub(crate) fn new(parts: KeyParts) -> Self {
        let mut qs = vec![Arc::clone(&parts.ways.q)];
        qs.extend(parts.ways.former.iter().map(Arc::clone));
        Self {
            vault: parts.vault,
            hsm: parts.hsm,
            ways: ArcSwap::from_pointee(parts.ways),
            qs: Mutex::new(qs),
            systems: ArcSwap::from_pointee(parts.systems),
            names: parts.names,
            lookup: parts.lookup,
            inner_blobs: Cache::new(INNER_BLOBS_KEPT),
            counts: Counts::default(),
            following: tokio::sync::Mutex::default(),
            ledger: tokio::sync::Mutex::new(LedgerState::default()),
        }
    }

    /// The ways in force.
    pub(crate) fn ways(&self) -> Arc<Ways> {
        self.ways.load_full()
    }

    /// Other ways, for whoever moves a vault to another token.
    pub(crate) fn set_ways(&self, ways: Ways) {
        self.ways.store(Arc::new(ways));
    }

    /// The system keys in force.
    pub(crate) fn systems(&self) -> Arc<Systems> {
        self.systems.load_full()
    }

    pub(crate) fn set_systems(&self, systems: Systems) {
        self.systems.store(Arc::new(systems));
    }

    /// Every version of Q that a seal record names, the newest first.
    pub(crate) fn live_qs(&self) -> Vec<Arc<Q>> {
        let ways = self.ways();
        std::iter::once(&ways.q).chain(&ways.former).map(Arc::clone).collect()
    }

    /// A token that answers, by its serial: that one and no clone.
    ///
    /// # Errors
    /// `TokenAway`, `OnlyItsClone`.
    pub(crate) fn token(&self, serial: &str) -> Result<Arc<dyn Hsm>, VaultError> {
        self.ways().original(serial).map(|link| Arc::clone(&link.hsm))
    }

    /// Every token that answers for a way: the one of this serial, and clones of it.
    ///
    /// # Errors
    /// `TokenAway` if there is none.
    pub(crate) fn answering(&self, serial: &str) -> Result<Vec<Arc<Link>>, VaultError> {
        let ways = self.ways();
        let ready = ways.links.iter().filter(|link| link.ready_way().as_deref() == Some(serial));
        let ready: Vec<_> = ready.map(Arc::clone).collect();
        if ready.is_empty() {
            return Err(VaultError::TokenAway { token: serial.to_owned() });
        }
        Ok(ready)
    }

    /// The same, without their links.
    ///
    /// # Errors
    /// `TokenAway` if there is none.
    pub(crate) fn tokens(&self, serial: &str) -> Result<Vec<Arc<dyn Hsm>>, VaultError> {
        Ok(self.answering(serial)?.iter().map(|link| Arc::clone(&link.hsm)).collect())
    }

    /// A version of Q to come, before a seal record names it. One of this version that came to nothing is forgotten: no
    /// record holds it.
    pub(crate) fn learn_q(&self, q: Arc<Q>) {
        let mut qs = self.qs.lock().unwrap_or_else(PoisonError::into_inner);
        qs.retain(|known| known.version() != q.version());
        qs.push(q);
    }

    /// Takes up the seal record in the store, if a snapshot shows another than the one in force. What it may say is bound
    /// to the audit key that the shares named.
    ///
    /// # Errors
    /// `SealRecord` for one that is not this vault's, or names what is not at hand.
    pub(crate) async fn follow_seal(
        &self,
        snapshot: &dyn Snapshot,
        storage: &dyn Storage,
    ) -> Result<(), VaultError> {
        let at = keyspace::seal_record();
        let seen = snapshot.get(Keyspace::Seal, &at).await?.map(|stored| stored.revision);
        if seen == self.ways().seal {
            return Ok(());
        }
        // The snapshot may be the older one: one at a time looks at what is there now, and nobody goes back.
        let _one_at_a_time = self.following.lock().await;
        let in_force = self.ways();
        let stored = storage.snapshot().await?.get(Keyspace::Seal, &at).await?;
        let Some(stored) = stored.filter(|stored| in_force.seal != Some(stored.revision)) else {
            return Ok(());
        };
        let untrusted = |what: String| VaultError::SealRecord { what };
        let record = SealRecord::decode(&stored.value).map_err(|_| corrupt(Keyspace::Seal, &at))?;
        let header = record.verify().map_err(|error| untrusted(error.to_string()))?;
        let trusted = &in_force.header;
        // A rekey puts the audit key of a token that is there in the place of one that was retired.
        let known = trusted.audit_key == header.audit_key
            || trusted.endorsed_keys.iter().any(|endorsed| endorsed.key == header.audit_key);
        if header.vault != trusted.vault || !known {
            return Err(untrusted("it is another vault's".to_owned()));
        }
        let qs = self.qs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ways = Ways::new(header, Some(stored.revision), in_force.links.clone(), &qs)?;
        // Versions of Q that it no longer names are wiped with the last view of them.
        let named: Vec<u32> = ways.qs().iter().map(|q| q.version()).collect();
        let newest = named.iter().copied().max().unwrap_or(0);
        self.qs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|q| named.contains(&q.version()) || q.version() > newest);
        self.ways.store(Arc::new(ways));
        Ok(())
    }

    /// What binds a stored record to its place.
    pub(crate) fn aad<'a>(
        &self,
        label: &'static str,
        keyspace: Keyspace,
        record: &'a [u8],
        version: u64,
    ) -> Aad<'a> {
        Aad {
            label,
            vault: *self.vault.as_bytes(),
            tenant: TENANT,
            keyspace: keyspace.name(),
            record,
            version,
        }
    }

    /// A fresh data key for one plaintext, and its `data_keys` record. Wraps are counted before they are made.
    pub(crate) async fn create_data_key(&self, id: RecordId) -> Result<NewDataKey, CreateError> {
        let ways = self.ways();
        let reached = ways.reached();
        self.count_wraps(&reached)?;
        let key = DataKey::generate(&mut rng());
        let creating = {
            let aad = self.aad(label::DATA_KEY, Keyspace::DataKeys, id.as_bytes(), 0);
            WrappedDataKey::create(ways.of(&reached), &ways.q, &aad, &key, &mut rng())
        };
        let created = creating.await.map_err(|error| {
            if let (Some(first), CryptoError::Hsm(error)) = (reached.first(), &error) {
                first.link.failed(error);
            }
            data_key_error(error, id)
        })?;
        note_gaps(&reached, &created.gaps);
        let lacks_a_way = created.wrapped.wraps().len() < ways.wanted();
        self.inner_blobs.insert(id, Arc::new(created.inner));
        let record = NewRecord {
            id,
            bytes: created.wrapped.encode(),
            master_version: ways.master_version(),
            lacks_a_way,
            seal: ways.seal,
        };
        Ok(NewDataKey { key, record })
    }

    /// Counts a wrap by each of these tokens.
    pub(crate) fn count_wraps(&self, reached: &[Reached<'_>]) -> Result<(), ledger::NotReserved> {
        self.counts.take(reached.iter().map(|reached| (reached.token.serial.as_str(), reached.token.master)))
    }

    /// Wraps counted for a version of M.
    pub(crate) fn wraps_used(&self, way: &str, version: u32) -> u64 {
        self.counts.used(way, version)
    }

    /// The data key, when its inner blob is at hand: no HSM, no store.
    pub(crate) fn cached_data_key(&self, id: RecordId) -> Option<Result<OpeningKey, VaultError>> {
        let inner = self.inner_blobs.get(&id)?;
        let ways = self.ways.load();
        // A blob under a Q that is gone is read again from its record.
        let q = ways.q(inner.q_version())?;
        let aad = self.aad(label::DATA_KEY, Keyspace::DataKeys, id.as_bytes(), 0);
        Some(inner.open(q, &aad).map_err(|error| data_key_error(error, id)))
    }

    /// Opens a `data_keys` record through the first token that can.
    pub(crate) async fn open_data_key(&self, id: RecordId, stored: &[u8]) -> Result<OpeningKey, VaultError> {
        let wrapped = WrappedDataKey::decode(stored).map_err(|error| data_key_error(error, id))?;
        let opened = self.open_wrapped(id, &wrapped).await?;
        self.inner_blobs.insert(id, Arc::new(opened.inner));
        Ok(opened.key)
    }

    /// The same of a decoded record.
    pub(crate) async fn open_wrapped(
        &self,
        id: RecordId,
        wrapped: &WrappedDataKey,
    ) -> Result<Opened, VaultError> {
        let ways = self.ways();
        let reached = ways.reached();
        let mut tokens: Vec<_> = reached.iter().map(Reached::way).collect();
        let retired = ways.retired();
        tokens.extend(retired.iter().map(|(name, link)| TokenWay {
            hsm: link.hsm.as_ref(),
            name,
            master_version: 0,
        }));
        let aad = self.aad(label::DATA_KEY, Keyspace::DataKeys, id.as_bytes(), 0);
        match wrapped.open(&tokens, &ways.qs(), &aad).await {
            Ok(opened) => {
                note_gaps(&reached, &opened.failed);
                Ok(opened)
            }
            Err(error) => {
                if let (Some(first), CryptoError::Hsm(error)) = (reached.first(), &error) {
                    first.link.failed(error);
                }
                Err(data_key_error(error, id))
            }
        }
    }

    /// Forgets a destroyed data key.
    pub(crate) fn forget_data_key(&self, id: RecordId) {
        self.inner_blobs.remove(&id);
    }

    /// Seals a system record under the current system data key.
    pub(crate) fn seal_record(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        let systems = self.systems.load();
        if !systems.take() {
            return Err(VaultError::Contention { what: "the counted use of the system key".to_owned() });
        }
        self.seal_uncounted(&systems, keyspace, key, plain)
    }

    /// The same under the key of another value, counted there.
    pub(crate) fn seal_under(
        &self,
        systems: &Systems,
        keyspace: Keyspace,
        key: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        systems.take_beyond();
        self.seal_uncounted(systems, keyspace, key, plain)
    }

    fn seal_uncounted(
        &self,
        systems: &Systems,
        keyspace: Keyspace,
        key: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        let failed = || corrupt(Keyspace::SystemKeys, &systems.current);
        let system = systems.keys.get(&systems.current).ok_or_else(failed)?;
        let aad = self.aad(label_of(keyspace), keyspace, key, 0);
        record::seal_many(system, systems.current, &aad, plain, &mut rng())
            .map_err(|_| corrupt(keyspace, key))
    }

    /// Opens a system record.
    pub(crate) fn open_record(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        stored: &[u8],
    ) -> Result<SecretBytes, VaultError> {
        let failed = || corrupt(keyspace, key);
        let id = record::peek_key_id(stored).map_err(|_| failed())?;
        let systems = self.systems.load();
        let system = systems.keys.get(&id).ok_or_else(failed)?;
        let aad = self.aad(label_of(keyspace), keyspace, key, 0);
        record::open_many(system, id, &aad, stored).map_err(|_| failed())
    }
}

/// The domain label of a keyspace's system records.
fn label_of(keyspace: Keyspace) -> &'static str {
    match keyspace {
        Keyspace::SecretMeta => label::SECRET_META,
        Keyspace::Directory => label::DIRECTORY,
        Keyspace::Principals => label::PRINCIPAL,
        Keyspace::PrincipalIndex => label::PRINCIPAL_INDEX,
        Keyspace::Policies => label::POLICY,
        Keyspace::Sessions => label::SESSION,
        Keyspace::Requests => label::REQUEST,
        Keyspace::AuditKeys => label::AUDIT_KEY,
        Keyspace::Meta => label::KEYRING,
        Keyspace::Targets => label::TARGET,
        Keyspace::Roles => label::ROLE,
        Keyspace::StaticRoles => label::STATIC_ROLE,
        Keyspace::Leases => label::LEASE,
        Keyspace::LeaseIndex => label::LEASE_JOB,
        _ => label::OTHER_RECORD,
    }
}

/// Why no data key was made.
pub(crate) enum CreateError {
    /// Wraps have to be reserved first.
    NotReserved(ledger::NotReserved),
    /// Anything else.
    Vault(VaultError),
}

impl From<ledger::NotReserved> for CreateError {
    fn from(error: ledger::NotReserved) -> Self {
        Self::NotReserved(error)
    }
}

impl From<VaultError> for CreateError {
    fn from(error: VaultError) -> Self {
        Self::Vault(error)
    }
}

/// Ways that failed beside one that did not.
fn note_gaps(reached: &[Reached<'_>], gaps: &[Gap]) {
    for gap in gaps {
        let link = reached.iter().find(|reached| reached.token.serial == gap.way).map(|reached| reached.link);
        match (&gap.error, link) {
            (CryptoError::Hsm(error), Some(link)) if link.failed(error) => {}
            (error, _) => {
                tracing::error!(way = %gap.way, %error, "a way to a data key failed; another stood in")
            }
        }
    }
}

pub(crate) fn data_key_error(error: CryptoError, id: RecordId) -> VaultError {
    match error {
        CryptoError::Hsm(error) => VaultError::Hsm(error),
        _ => corrupt(Keyspace::DataKeys, id.as_bytes()),
    }
}

/// A record that does not open, named by its place.
pub(crate) fn corrupt(keyspace: Keyspace, key: &[u8]) -> VaultError {
    VaultError::CorruptRecord { keyspace: keyspace.name(), key: data_encoding::HEXLOWER.encode(key) }
}
