//! System keys: a new one by count or age, old records sealed anew under it, then the old one destroyed.
//!
//! Invariant: a record is committed only while the keyring that names its key is in force, so that no record under an old
//! key can appear behind the pass; a key goes only after a whole pass, begun after its replacement, found none.

use keystead_crypto::aad::label;
use keystead_crypto::record::{self, SystemKey};
use keystead_domain::id::RecordId;
use keystead_domain::policy::Resource;
use keystead_storage::{Batch, Keyspace, Precondition, Range, Revision, StorageError, keyspace};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::error::VaultError;
use crate::keys::systems::Systems;
use crate::keys::{KeyLedger, Keys, NewDataKey, RECORDS_A_BLOCK, SystemUse, corrupt, fresh_id};
use crate::operation;
use crate::records;
use crate::request::SystemPermit;
use crate::unsealed::UnsealedVault;

/// Every keyspace that holds records of system keys, in the order of the pass.
const SPACES: [Keyspace; 14] = [
    Keyspace::Meta,
    Keyspace::SecretMeta,
    Keyspace::Directory,
    Keyspace::Principals,
    Keyspace::PrincipalIndex,
    Keyspace::Policies,
    Keyspace::Sessions,
    Keyspace::Requests,
    Keyspace::AuditKeys,
    Keyspace::Targets,
    Keyspace::Roles,
    Keyspace::Leases,
    Keyspace::LeaseIndex,
    Keyspace::StaticRoles,
];
/// What is kept of the passes and of the keys themselves: written anew by its owner, which knows its revision.
fn has_an_owner(space: Keyspace, key: &[u8]) -> bool {
    let owned = [keyspace::meta_key_ledger(), keyspace::meta_rewrap(), keyspace::meta_reseal()];
    space == Keyspace::Meta && owned.iter().any(|owned| owned.as_slice() == key)
}

/// Records looked at in one go, and changed in one batch.
const PAGE: usize = 256;
const A_BATCH: usize = 20;
/// Pages under one audit entry.
const A_STRETCH: usize = 64;

/// The job that replaces a system key.
enum NewSystemKey {}
/// The job that seals old records anew.
enum Reseal {}

/// The cursor as stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct ResealState {
    /// The key that the pass is for.
    current: [u8; 16],
    /// The keyspace, by its place in the order.
    space: u8,
    after: Option<Vec<u8>>,
    finished: bool,
    resealed: u64,
    /// Records that no key opens.
    broken: u64,
}

/// The cursor with its revision; read when first needed.
#[derive(Default)]
pub(super) struct ResealFile {
    loaded: bool,
    revision: Option<Revision>,
    state: ResealState,
}

impl UnsealedVault {
    /// One step of looking after system keys: reserves a block, replaces a key that is due, or goes on sealing records
    /// anew. Says whether there is more.
    ///
    /// # Errors
    /// Those of log, store and HSM; the next call goes on.
    pub async fn look_after_system_keys(&self) -> Result<bool, VaultError> {
        let now = self.clock.now();
        self.keys.follow_ledger(self.storage.as_ref(), now).await?;
        let systems = self.keys.systems();
        let ledger = self.keys.ledger().await;
        let since = ledger.systems.iter().find(|system| system.id == systems.current);
        let age = since.map_or(0, |system| now.0.saturating_sub(system.since.0));
        let options = &self.rotation.options;
        let due = systems.used() >= options.system_key_records
            || u128::from(age) >= options.system_key_age.as_millis();
        let stuck = self.reseal_is_stuck(&systems).await;
        // A record that no key opens keeps former keys, and is no reason to use this one beyond its time.
        if due && (systems.keys.len() == 1 || stuck) {
            let permit = |permit| self.replace_system_key(permit);
            operation::run_job(self, "new-system-key", Resource::System, Vec::new(), permit).await?;
            return Ok(true);
        }
        if systems.keys.len() > 1 && !stuck {
            return operation::run_job(self, "reseal", Resource::System, Vec::new(), |permit| {
                self.reseal(permit)
            })
            .await;
        }
        Ok(false)
    }

    async fn replace_system_key(&self, permit: SystemPermit<NewSystemKey>) -> Result<(), VaultError> {
        let fresh = SystemKey::new(self.fresh_root().await?);
        let id = fresh_id();
        let at = keyspace::system_key(id.as_bytes());
        let failed = || corrupt(Keyspace::SystemKeys, &at);
        let snapshot = self.storage.snapshot().await?;
        self.keys.follow_seal(snapshot.as_ref(), self.storage.as_ref()).await?;
        let former = self.keys.systems();
        let keyring_at = keyspace::meta_keyring();
        let keyring = snapshot.get(Keyspace::Meta, &keyring_at).await?;
        let keyring = keyring.ok_or_else(|| corrupt(Keyspace::Meta, &keyring_at))?;
        let plain = self.keys.open_record(Keyspace::Meta, &keyring_at, &keyring.value)?;

        let NewDataKey { key: data_key, record: wrapped } = self.create_data_key(id).await?;
        let aad = self.keys.aad(label::SYSTEM_KEY, Keyspace::SystemKeys, &at, 0);
        let sealed =
            record::seal_single(data_key, *id.as_bytes(), &aad, fresh.expose()).map_err(|_| failed())?;
        let mut keys = former.keys.clone();
        keys.insert(*id.as_bytes(), Arc::new(fresh));
        let next = Systems::new(keys, *id.as_bytes(), None);
        let reserved = RECORDS_A_BLOCK;
        let entry = SystemUse { id: *id.as_bytes(), since: self.clock.now(), superseded: None, reserved };
        let note = |ledger: &mut KeyLedger| {
            ledger.systems.push(entry);
            true
        };
        self.keys.update_ledger(self.storage.as_ref(), Batch::new(), note).await?;
        next.reserved(reserved);
        let resealed = self.keys.seal_under(&next, Keyspace::Meta, &keyring_at, plain.expose())?;
        let mut batch = Batch::new();
        wrapped.put(&mut batch);
        batch.put(Keyspace::SystemKeys, at.clone(), sealed);
        batch.require(Keyspace::Meta, keyring_at.clone(), Precondition::Revision(keyring.revision));
        batch.put(Keyspace::Meta, keyring_at, resealed);
        let committed = self.commit_unguarded(Some(permit.intent()), batch).await;
        let revision = match committed {
            Ok(revision) => revision,
            // It may be in force all the same, and whoever sealed under the former key would be refused for good.
            Err(error @ VaultError::Storage(StorageError::UnknownOutcome { .. })) => {
                match self.keyring_revision().await {
                    Ok(Some(now)) if now != keyring.revision => now,
                    _ => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        self.keys.set_systems(next.stored(revision));
        self.keys.follow_ledger(self.storage.as_ref(), self.clock.now()).await?;
        tracing::info!("a new system key seals from now on; older records are sealed anew in the background");
        Ok(())
    }

    async fn keyring_revision(&self) -> Result<Option<Revision>, StorageError> {
        let snapshot = self.storage.snapshot().await?;
        let stored = snapshot.get(Keyspace::Meta, &keyspace::meta_keyring()).await?;
        Ok(stored.map(|stored| stored.revision))
    }

    async fn reseal(&self, permit: SystemPermit<Reseal>) -> Result<bool, VaultError> {
        let mut file = self.rotation.reseal.lock().await;
        let systems = self.keys.systems();
        self.load_reseal(&mut file).await?;
        if file.state.current != systems.current {
            file.state = ResealState { current: systems.current, ..ResealState::default() };
        }
        for _ in 0..A_STRETCH {
            if file.state.finished {
                return self.drop_old_system_keys(&permit, &file.state, &systems).await;
            }
            match self.reseal_page(&permit, &mut file, &systems).await {
                // Somebody changed one of them: look again.
                Ok(()) | Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
                Err(error) => {
                    file.loaded = false;
                    return Err(error);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(true)
    }

    /// Whether a pass found records that no key opens. It is begun again when the vault is opened again.
    async fn reseal_is_stuck(&self, systems: &Systems) -> bool {
        let file = self.rotation.reseal.lock().await;
        let state = &file.state;
        file.loaded && state.current == systems.current && state.finished && state.broken > 0
    }

    /// Records that no key opens.
    pub(super) async fn broken_records(&self) -> u64 {
        self.rotation.reseal.lock().await.state.broken
    }

    async fn load_reseal(&self, file: &mut ResealFile) -> Result<(), VaultError> {
        if file.loaded {
            return Ok(());
        }
        let at = keyspace::meta_reseal();
        if let Some(stored) = self.storage.snapshot().await?.get(Keyspace::Meta, &at).await? {
            let plain = self.keys.open_record(Keyspace::Meta, &at, &stored.value)?;
            file.state = records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Meta, &at))?;
            file.revision = Some(stored.revision);
            if file.state.finished && file.state.broken > 0 {
                // Somebody may have mended them since.
                file.state = ResealState { current: file.state.current, ..ResealState::default() };
            }
        }
        file.loaded = true;
        Ok(())
    }

    async fn reseal_page(
        &self,
        permit: &SystemPermit<Reseal>,
        file: &mut ResealFile,
        systems: &Systems,
    ) -> Result<(), VaultError> {
        let mut next = file.state.clone();
        let mut batch = Batch::new();
        let cursor = keyspace::meta_reseal();
        match SPACES.get(usize::from(next.space)) {
            None => next.finished = true,
            Some(space) => {
                let snapshot = self.storage.snapshot().await?;
                let range = Range::all(next.after.as_deref());
                let page = snapshot.range(*space, range, PAGE).await?;
                let mut whole = page.len() < PAGE;
                let mut changed = 0_usize;
                for (key, stored) in page {
                    if changed == A_BATCH {
                        whole = false;
                        break;
                    }
                    next.after = Some(key.to_vec());
                    // What is no record of a system key stays as it is, and the cursor is written anyhow.
                    let Ok(id) = record::peek_key_id(&stored.value) else { continue };
                    if id == systems.current || has_an_owner(*space, &key) {
                        continue;
                    }
                    match self.keys.open_record(*space, &key, &stored.value) {
                        Ok(plain) => {
                            let sealed = self.keys.seal_record(*space, &key, plain.expose())?;
                            batch.require(*space, key.clone(), Precondition::Revision(stored.revision));
                            batch.put(*space, key, sealed);
                            changed = changed.saturating_add(1);
                            next.resealed = next.resealed.saturating_add(1);
                        }
                        Err(error) => {
                            tracing::error!(%error, "a record is not sealed anew, and keeps the old system key alive");
                            next.broken = next.broken.saturating_add(1);
                        }
                    }
                }
                if whole {
                    next.space = next.space.saturating_add(1);
                    next.after = None;
                }
            }
        }
        let plain = records::encode(&next).map_err(|_| corrupt(Keyspace::Meta, &cursor))?;
        let sealed = self.keys.seal_record(Keyspace::Meta, &cursor, &plain)?;
        let unchanged = file.revision.map_or(Precondition::Absent, Precondition::Revision);
        batch.require(Keyspace::Meta, cursor.clone(), unchanged);
        batch.put(Keyspace::Meta, cursor, sealed);
        file.revision = Some(self.commit(Some(permit.intent()), batch).await?);
        file.state = next;
        Ok(())
    }

    /// Destroys the keys that the pass found no record of. A record that does not open keeps them all.
    async fn drop_old_system_keys(
        &self,
        permit: &SystemPermit<Reseal>,
        state: &ResealState,
        systems: &Systems,
    ) -> Result<bool, VaultError> {
        if state.broken > 0 {
            return Ok(false);
        }
        self.keys.update_ledger(self.storage.as_ref(), Batch::new(), |_| true).await?;
        self.renew_pass(permit.intent()).await?;
        let old: Vec<[u8; 16]> = systems.keys.keys().filter(|id| **id != systems.current).copied().collect();
        for id in old {
            let mut batch = Batch::new();
            batch.delete(Keyspace::SystemKeys, keyspace::system_key(&id));
            batch.delete(Keyspace::DataKeys, keyspace::data_key(&id));
            self.commit(Some(permit.intent()), batch).await?;
            self.keys.set_systems(self.keys.systems().without(&id));
            self.keys.forget_data_key(RecordId(id));
            self.storage.purge(Keyspace::DataKeys, &keyspace::data_key(&id)).await?;
            self.storage.purge(Keyspace::SystemKeys, &keyspace::system_key(&id)).await?;
            let gone = |ledger: &mut KeyLedger| {
                let before = ledger.systems.len();
                ledger.systems.retain(|system| system.id != id);
                ledger.systems.len() != before
            };
            self.keys.update_ledger(self.storage.as_ref(), Batch::new(), gone).await?;
            tracing::info!("an old system key was destroyed");
        }
        Ok(false)
    }
}

impl Keys {
    /// Refuses a batch with system records unless the keyring that names their key is still in force.
    pub(crate) fn guard(&self, batch: &mut Batch) -> Result<(), VaultError> {
        let systems = self.systems();
        let mut sealed = false;
        for operation in batch.operations() {
            let Some(value) = operation.value.as_ref().filter(|_| SPACES.contains(&operation.keyspace))
            else {
                continue;
            };
            let Ok(id) = record::peek_key_id(value) else { continue };
            if id != systems.current {
                let keyspace = Keyspace::Meta;
                return Err(StorageError::Conflict { keyspace, requirement: 0 }.into());
            }
            sealed = true;
        }
        let keyring = keyspace::meta_keyring();
        let named = |requirement: &keystead_storage::Requirement| {
            requirement.keyspace == Keyspace::Meta && requirement.key.as_ref() == keyring.as_slice()
        };
        if let Some(revision) = systems.keyring.filter(|_| sealed)
            && !batch.requirements().iter().any(named)
        {
            batch.require(Keyspace::Meta, keyring, Precondition::Revision(revision));
        }
        Ok(())
    }
}
