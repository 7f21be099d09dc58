//! Rotation of the master key, and retiring a way.
//!
//! Invariant: the seal record names a new key only once it is on every token, and gives up an old one only once no data
//! key needs it; only then is the old one destroyed. What a crash leaves behind is done by the next opening.

use std::sync::Arc;

use keystead_crypto::arena::LockedKey;
use keystead_crypto::ports::{HsmKey, HsmKeyPurpose};
use keystead_crypto::seal_record::{SealHeader, SealRecord, Way};
use keystead_crypto::secret::SecretKey;
use keystead_domain::policy::{Action, Resource};
use keystead_storage::{Batch, Keyspace, Precondition, StorageError, keyspace};

use crate::error::VaultError;
use crate::keys::link::Link;
use crate::keys::ways::Ways;
use crate::keys::{corrupt, rng};
use crate::operation::{self, Detail, Effect, Operation};
use crate::request::{Permit, SystemPermit};
use crate::seal::{keys_of, seal_error};
use crate::unsealed::UnsealedVault;

/// Makes a new master key on every token; data keys are wrapped anew in the background.
pub struct RotateMasterKey;

/// The job that gives up keys that no data key needs.
enum EndRotation {}

impl Operation for RotateMasterKey {
    type Output = Vec<(String, u32)>;
    const ACTION: Action = Action::KeysRotate;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Self::Output, VaultError> {
        vault.begin_rotation(permit.intent()).await
    }

    fn detail(output: &Self::Output) -> Detail {
        output.iter().map(|(token, version)| ("master_key", format!("{token} version {version}"))).collect()
    }
}

/// Takes a way out of the seal record; its wraps go in the background.
pub struct RetireWay {
    /// Its name: a token's serial, or `recovery:…`.
    pub way: String,
}

impl Operation for RetireWay {
    type Output = ();
    const ACTION: Action = Action::KeysRetire;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<(), VaultError> {
        vault.retire_way(&self.way, permit.intent()).await
    }

    fn detail((): &()) -> Detail {
        Detail::new()
    }
}

impl UnsealedVault {
    /// A new key on every token, then a seal record that names them. Answers the versions that wrap now.
    async fn begin_rotation(&self, intent: Option<u64>) -> Result<Vec<(String, u32)>, VaultError> {
        let _one_at_a_time = self.rotation.changing.lock().await;
        let ways = self.ways_now().await?;
        if ways.tokens().any(|token| token.oldest_master != token.master) {
            return Err(VaultError::RotationUnderWay);
        }
        let tag = self.keys.vault.tag();
        let mut made: Vec<(Arc<Link>, String, HsmKey)> = Vec::new();
        let mut header = ways.header.clone();
        let result = async {
            for way in &mut header.ways {
                let Way::Token(token) = way else { continue };
                let link = Arc::clone(ways.original(&token.serial)?);
                // One that a rotation left behind when it was cut off, or another store's, is not touched.
                let known = link.hsm.list_keys(tag).await?;
                let masters = known.iter().filter(|key| key.purpose == HsmKeyPurpose::Master);
                let newest = masters.map(|key| key.version).max().unwrap_or(0).max(token.master);
                let version = newest.checked_add(1).ok_or_else(used_up)?;
                let key = HsmKey { purpose: HsmKeyPurpose::Master, version };
                link.hsm.create_key(tag, key).await?;
                made.push((Arc::clone(&link), token.serial.clone(), key));
                // Between oldest and newest there may be numbers that no key has.
                token.master = version;
            }
            for (link, serial, _) in &made {
                bind(link, &header, serial).await?;
            }
            self.store_header(&ways, header.clone(), intent, |_| {}).await
        };
        if let Err(error) = result.await {
            let unknown = matches!(error, VaultError::Storage(StorageError::UnknownOutcome { .. }));
            for (link, serial, key) in made {
                if unknown {
                    break;
                }
                if let Err(error) = link.hsm.destroy_key(tag, key).await {
                    tracing::warn!(%error, token = %serial, version = key.version, "a master key that was not used stays in a token");
                }
            }
            return Err(error);
        }
        self.keys_changed().await?;
        tracing::info!("new master keys wrap from now on; data keys are wrapped anew in the background");
        Ok(made.into_iter().map(|(_, serial, key)| (serial, key.version)).collect())
    }

    async fn retire_way(&self, name: &str, intent: Option<u64>) -> Result<(), VaultError> {
        let _one_at_a_time = self.rotation.changing.lock().await;
        let ways = self.ways_now().await?;
        let Some(place) = ways.header.ways.iter().position(|way| way.name() == name) else {
            return Err(VaultError::NotFound { what: format!("way {name}") });
        };
        let mut header = ways.header.clone();
        header.ways.remove(place);
        if header.ways.iter().all(|way| way.token().is_none()) {
            let rule = format!("{name} is the only token; add another before it is retired");
            return Err(VaultError::Invalid { field: "way", rule });
        }
        // Every data key must have its other wraps already.
        if !self.pass_is_clean().await? {
            return Err(VaultError::RotationUnderWay);
        }
        self.store_header(&ways, header, intent, |record| drop(record.boxes.remove(place))).await?;
        self.keys_changed().await
    }

    /// Gives up master keys that no data key needs, in the seal record and then on the tokens. Called after each pass
    /// and at each opening; does nothing where there is nothing to do.
    ///
    /// # Errors
    /// Those of log, store and HSM; the next call tries again.
    pub async fn end_rotation(&self) -> Result<(), VaultError> {
        let _one_at_a_time = self.rotation.changing.lock().await;
        let ways = self.ways_now().await?;
        let two_masters = ways.tokens().any(|token| token.oldest_master < token.master);
        let two = two_masters || ways.header.former_q_version.is_some();
        let ended = two && self.pass_is_clean().await?;
        let outlived = self.keys.ledger().await.masters.to_destroy(&ways.header);
        let can_go = outlived.iter().any(|key| self.can_destroy(&ways, key));
        if !ended && !can_go {
            return Ok(());
        }
        operation::run_job(self, "end-rotation", Resource::System, Vec::new(), |permit| {
            self.give_up_keys(permit, &ways, ended)
        })
        .await
    }

    async fn give_up_keys(
        &self,
        permit: SystemPermit<EndRotation>,
        ways: &Ways,
        ended: bool,
    ) -> Result<(), VaultError> {
        if ended {
            let mut header = ways.header.clone();
            for way in &mut header.ways {
                if let Way::Token(token) = way {
                    token.oldest_master = token.master;
                }
            }
            header.former_q_version = None;
            let newest = header.q_version;
            let change = |record: &mut SealRecord| {
                for boxes in &mut record.boxes {
                    boxes.q.retain(|q| q.version == newest);
                }
            };
            self.store_header(ways, header, Some(permit.intent()), change).await?;
            self.keys_changed().await?;
        }
        let ways = self.keys.ways();
        for (way, version) in self.keys.ledger().await.masters.to_destroy(&ways.header) {
            if !self.can_destroy(&ways, &(way.clone(), version)) {
                continue;
            }
            let everywhere = ways.all_answer(&way);
            let key = HsmKey { purpose: HsmKeyPurpose::Master, version };
            for hsm in self.keys.tokens(&way)? {
                hsm.destroy_key(self.keys.vault.tag(), key).await?;
            }
            if !everywhere {
                tracing::warn!(token = %way, version, "a master key that no data key needs was destroyed where it could be; the token or a clone of it is away and has it still");
                self.rotation.half_destroyed().insert((way, version));
                continue;
            }
            let now = self.clock.now();
            self.keys
                .update_ledger(self.storage.as_ref(), Batch::new(), |ledger| {
                    match ledger.masters.find_mut(&way, version) {
                        Some(key) => key.destroyed = Some(now),
                        None => return false,
                    }
                    true
                })
                .await?;
            tracing::info!(token = %way, version, "a master key that no data key needs was destroyed");
        }
        Ok(())
    }

    /// Whether a master key can be destroyed on some token now that has not lost it already.
    fn can_destroy(&self, ways: &Ways, key: &(String, u32)) -> bool {
        let begun = self.rotation.half_destroyed().contains(key);
        ways.all_answer(&key.0) || (!begun && self.keys.tokens(&key.0).is_ok())
    }

    /// The ways of the seal record in the store.
    pub(crate) async fn ways_now(&self) -> Result<Arc<Ways>, VaultError> {
        let snapshot = self.storage.snapshot().await?;
        self.keys.follow_seal(snapshot.as_ref(), self.storage.as_ref()).await?;
        Ok(self.keys.ways())
    }

    /// Signs a header and puts it in the place of the one that `ways` came from.
    pub(super) async fn store_header(
        &self,
        ways: &Ways,
        mut header: SealHeader,
        intent: Option<u64>,
        change: impl FnOnce(&mut SealRecord),
    ) -> Result<(), VaultError> {
        let at = keyspace::seal_record();
        let stored = self.storage.snapshot().await?.get(Keyspace::Seal, &at).await?;
        let stored = stored.ok_or_else(|| corrupt(Keyspace::Seal, &at))?;
        let mut record = SealRecord::decode(&stored.value).map_err(|_| corrupt(Keyspace::Seal, &at))?;
        let reached = ways.reached();
        let staying = |serial: &str| header.ways.iter().any(|way| way.name() == serial);
        let signer = reached.into_iter().find(|reached| staying(&reached.token.serial));
        let signer = signer.ok_or_else(|| VaultError::TokenAway { token: "that could sign".to_owned() })?;
        header.signer = signer.token.audit_key;
        record.header = header.sign(signer.link.hsm.as_ref()).await.map_err(seal_error)?;
        change(&mut record);
        record.verify().map_err(seal_error)?;
        let mut batch = Batch::new();
        let unchanged = ways.seal.map_or(Precondition::Exists, Precondition::Revision);
        batch.require(Keyspace::Seal, at.clone(), unchanged);
        batch.put(Keyspace::Seal, at, record.encode());
        self.commit(intent, batch).await.map(drop)
    }

    /// A fresh long-lived key: the token's randomness and the host's, of which either is enough.
    pub(super) async fn fresh_root(&self) -> Result<LockedKey, VaultError> {
        let host = LockedKey::generate(&mut rng());
        let token = self.keys.hsm.random(32).await?;
        let mixed = SecretKey::build(|out| {
            for ((out, host), token) in out.iter_mut().zip(host.expose()).zip(token.expose()) {
                *out = host ^ token;
            }
        });
        LockedKey::from_slice(mixed.expose()).ok_or(VaultError::Randomness)
    }

    /// Takes up a changed seal record, here and in the ledger, and has the pass look.
    pub(crate) async fn keys_changed(&self) -> Result<(), VaultError> {
        self.ways_now().await?;
        self.keys.follow_ledger(self.storage.as_ref(), self.clock.now()).await
    }
}

/// Binds the keys that a header names for a token.
async fn bind(link: &Link, header: &SealHeader, serial: &str) -> Result<(), VaultError> {
    let token = header.ways.iter().filter_map(Way::token).find(|token| token.serial == serial);
    let Some(token) = token else { return Ok(()) };
    Ok(link.hsm.bind(keystead_domain::id::VaultId(header.vault).tag(), &keys_of(header, token)).await?)
}

fn used_up() -> VaultError {
    VaultError::SealRecord { what: "its versions of the master key are used up".to_owned() }
}
