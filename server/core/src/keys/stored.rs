//! The ledger in the store: read when the vault opens, written before anything that it counts.

use keystead_domain::time::UnixMillis;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, Storage, StorageError, keyspace};
use serde::{Deserialize, Serialize};

use super::ledger::{Counts, Ledger, MAX_WRAPS_A_VERSION, NotReserved};
use super::systems::SystemUse;
use super::{CreateError, Keys, NewDataKey, corrupt};
use crate::error::VaultError;
use crate::records;
use keystead_domain::id::RecordId;

/// Wraps reserved at a time: a crash loses the count of at most as many.
const WRAPS_A_BLOCK: u64 = 65_536;
/// Records of a system key reserved at a time.
pub(crate) const RECORDS_A_BLOCK: u64 = 1 << 18;

/// Records that a system key may seal at most, whatever keeps another from taking its place.
const MAX_RECORDS_A_SYSTEM_KEY: u64 = 1 << 32;

/// What is kept of keys and their use.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct KeyLedger {
    /// Master keys.
    pub(crate) masters: Ledger,
    /// System keys.
    pub(crate) systems: Vec<SystemUse>,
}

/// The ledger as stored.
#[derive(Default)]
pub(crate) struct LedgerState {
    revision: Option<Revision>,
    content: KeyLedger,
    /// A write of this gave no answer, and nobody could look since: it may be what is stored.
    perhaps: Option<KeyLedger>,
}

impl LedgerState {
    /// Finds out what became of a write that gave no answer, if there was one.
    async fn look(&mut self, storage: &dyn Storage) -> Result<(), StorageError> {
        if self.perhaps.is_none() {
            return Ok(());
        }
        let stored = storage.snapshot().await?.get(Keyspace::Meta, &keyspace::meta_key_ledger()).await?;
        let revision = stored.map(|stored| stored.revision);
        if let Some(content) = self.perhaps.take()
            && revision != self.revision
        {
            (self.revision, self.content) = (revision, content);
        }
        Ok(())
    }
}

impl Keys {
    /// The ledger as it is.
    pub(crate) async fn ledger(&self) -> KeyLedger {
        self.ledger.lock().await.content.clone()
    }

    /// Reads the ledger, brings it in line with the seal record, and reserves a first block of system records.
    pub(crate) async fn load_ledger(&self, storage: &dyn Storage, now: UnixMillis) -> Result<(), VaultError> {
        let at = keyspace::meta_key_ledger();
        if let Some(stored) = storage.snapshot().await?.get(Keyspace::Meta, &at).await? {
            let plain = self.open_record(Keyspace::Meta, &at, &stored.value)?;
            let content: KeyLedger =
                records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Meta, &at))?;
            self.counts.replace(&Counts::start(&content.masters));
            let systems = self.systems();
            let current = content.systems.iter().find(|system| system.id == systems.current);
            systems.counted(current.map_or(0, |system| system.reserved));
            *self.ledger.lock().await =
                LedgerState { revision: Some(stored.revision), content, perhaps: None };
        }
        self.follow_ledger(storage, now).await
    }

    /// The first ledger of a new vault, with the first blocks of wraps and records.
    pub(crate) async fn begin_ledger(&self, now: UnixMillis) {
        let (ways, systems) = (self.ways(), self.systems());
        let mut state = self.ledger.lock().await;
        state.content.masters.follow(&ways.header, now);
        for key in &mut state.content.masters.0 {
            key.reserved = WRAPS_A_BLOCK;
            self.counts.reserved(&key.way, key.version, key.reserved);
        }
        let (id, reserved) = (systems.current, RECORDS_A_BLOCK);
        state.content.systems.push(SystemUse { id, since: now, superseded: None, reserved });
        systems.reserved(reserved);
    }

    /// Puts the ledger of a new vault.
    pub(crate) async fn put_ledger(&self, batch: &mut Batch) -> Result<(), VaultError> {
        let at = keyspace::meta_key_ledger();
        let plain =
            records::encode(&self.ledger.lock().await.content).map_err(|_| corrupt(Keyspace::Meta, &at))?;
        batch.put(Keyspace::Meta, at.clone(), self.seal_record(Keyspace::Meta, &at, &plain)?);
        Ok(())
    }

    /// Brings the ledger in line with ways and system keys, with a block of system records to use.
    pub(crate) async fn follow_ledger(
        &self,
        storage: &dyn Storage,
        now: UnixMillis,
    ) -> Result<(), VaultError> {
        let (ways, systems) = (self.ways(), self.systems());
        let reserved = systems.used().saturating_add(RECORDS_A_BLOCK).min(MAX_RECORDS_A_SYSTEM_KEY);
        // At the bound nothing more is sealed before another key takes its place.
        let wants_block = systems.wants_block(RECORDS_A_BLOCK) && systems.used() < reserved;
        self.update_ledger(storage, Batch::new(), |ledger| {
            let mut changed = ledger.masters.follow(&ways.header, now);
            let before = ledger.systems.len();
            ledger.systems.retain(|system| systems.keys.contains_key(&system.id));
            changed |= ledger.systems.len() != before;
            for system in &mut ledger.systems {
                if system.id != systems.current && system.superseded.is_none() {
                    system.superseded = Some(now);
                    changed = true;
                }
            }
            match ledger.systems.iter_mut().find(|system| system.id == systems.current) {
                Some(system) if wants_block => system.reserved = system.reserved.max(reserved),
                Some(_) => return changed,
                None => ledger.systems.push(SystemUse {
                    id: systems.current,
                    since: now,
                    superseded: None,
                    reserved,
                }),
            }
            true
        })
        .await?;
        if wants_block {
            systems.reserved(reserved);
        }
        Ok(())
    }

    /// Changes the ledger, durably, together with what is in `batch`; nothing is written where `change` says that
    /// nothing changed and the batch is empty.
    pub(crate) async fn update_ledger(
        &self,
        storage: &dyn Storage,
        mut batch: Batch,
        change: impl FnOnce(&mut KeyLedger) -> bool,
    ) -> Result<(), VaultError> {
        let mut state = self.ledger.lock().await;
        state.look(storage).await?;
        let mut content = state.content.clone();
        if !change(&mut content) && batch.operations().is_empty() {
            return Ok(());
        }
        let at = keyspace::meta_key_ledger();
        let plain = records::encode(&content).map_err(|_| corrupt(Keyspace::Meta, &at))?;
        let systems = self.systems();
        let sealed = self.seal_under(&systems, Keyspace::Meta, &at, &plain)?;
        self.guard(&mut batch)?;
        let unchanged = state.revision.map_or(Precondition::Absent, Precondition::Revision);
        batch.require(Keyspace::Meta, at.clone(), unchanged);
        batch.put(Keyspace::Meta, at.clone(), sealed);
        match storage.commit(batch).await {
            Ok(revision) => {
                *state = LedgerState { revision: Some(revision), content, perhaps: None };
                Ok(())
            }
            // It may be there or not, and the next change has to know which. That nobody can look says nothing of it: the
            // caller hears of the commit and of nothing else.
            Err(error @ StorageError::UnknownOutcome { .. }) => {
                state.perhaps = Some(content);
                if let Err(error) = state.look(storage).await {
                    tracing::warn!(%error, "whether the key ledger was written cannot be looked up; the next change looks again");
                }
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A fresh data key, with blocks of wraps reserved as needed.
    ///
    /// # Errors
    /// `MasterKeyUsedUp` at the bound; those of HSM and store.
    pub(crate) async fn counted_data_key(
        &self,
        storage: &dyn Storage,
        id: RecordId,
    ) -> Result<NewDataKey, VaultError> {
        loop {
            match self.create_data_key(id).await {
                Ok(created) => return Ok(created),
                Err(CreateError::Vault(error)) => return Err(error),
                Err(CreateError::NotReserved(wanted)) => self.reserve_wraps(storage, &wanted).await?,
            }
        }
    }

    /// Reserves a block of wraps for one version of M on one token.
    ///
    /// # Errors
    /// `MasterKeyUsedUp` at the bound; those of the store.
    pub(crate) async fn reserve_wraps(
        &self,
        storage: &dyn Storage,
        wanted: &NotReserved,
    ) -> Result<(), VaultError> {
        let used_up = || VaultError::MasterKeyUsedUp { way: wanted.way.clone(), version: wanted.version };
        let mut reserved = None;
        self.update_ledger(storage, Batch::new(), |ledger| {
            let Some(key) = ledger.masters.find_mut(&wanted.way, wanted.version) else { return false };
            // Somebody else may have reserved meanwhile.
            if self.counts.used(&wanted.way, wanted.version) >= key.reserved {
                let next = key.reserved.saturating_add(WRAPS_A_BLOCK).min(MAX_WRAPS_A_VERSION);
                if next == key.reserved {
                    return false;
                }
                key.reserved = next;
            }
            reserved = Some(key.reserved);
            true
        })
        .await?;
        self.counts.reserved(&wanted.way, wanted.version, reserved.ok_or_else(used_up)?);
        Ok(())
    }
}
