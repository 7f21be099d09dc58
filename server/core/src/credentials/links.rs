//! Links to targets, made when first needed and kept while the target's record is the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keystead_crypto::aad::label;
use keystead_crypto::record;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::RecordId;
use keystead_domain::name::Name;
use keystead_domain::target::{TargetKind, TargetSettings};
use keystead_storage::{Batch, Keyspace, Snapshot, keyspace};
use serde::{Deserialize, Serialize};
use tokio::sync::RwLock;

use super::CredentialError;
use super::pauses::Pauses;
use super::targets::StoredTarget;
use crate::engine::{AdminLogin, Engine, Engines, Link};
use crate::error::VaultError;
use crate::keys::{NewDataKey, corrupt, fresh_id};
use crate::unsealed::UnsealedVault;

/// By target: the data key of its admin login and its settings, and the link made from both.
type Kept = HashMap<RecordId, (RecordId, TargetSettings, Arc<dyn Link>)>;

/// The links of an open vault.
pub(crate) struct Links {
    engines: Engines,
    kept: Mutex<Kept>,
    /// A rotation of an admin login may have been cut off.
    pub(super) logins_unsettled: AtomicBool,
    /// When a static role is due next, by the time of leases in milliseconds.
    pub(super) static_roles_due: AtomicU64,
    /// Targets on which no static role got on.
    pub(super) static_pauses: Pauses,
    /// Who changes a static role: one at a time, since what the target was told must not be forgotten meanwhile.
    static_turns: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<()>>>>,
    /// Targets on which such a rotation did not get on.
    pub(super) settling: Pauses,
    /// Read while a lease is begun, written while a target moves or goes: that no lease is on it is still so when it does.
    /// A lease that comes after that finds the target's record changed. One process works on a store.
    pub(super) begun: RwLock<()>,
}

/// Whose password it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whose {
    label: &'static str,
    keyspace: Keyspace,
    id: RecordId,
}

impl Whose {
    /// The admin login's of a target.
    pub(super) const fn admin(target: RecordId) -> Self {
        Self { label: label::TARGET_LOGIN, keyspace: Keyspace::Targets, id: target }
    }

    /// A login's of a static role.
    pub(super) const fn of_static_role(role: RecordId) -> Self {
        Self { label: label::STATIC_LOGIN, keyspace: Keyspace::StaticRoles, id: role }
    }

    fn corrupt(self) -> VaultError {
        corrupt(self.keyspace, self.id.as_bytes())
    }
}

/// A password as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredLogin {
    /// Its data key.
    pub(super) data_key: RecordId,
    /// The password, sealed under it.
    pub(super) sealed: Vec<u8>,
}

impl Links {
    pub(crate) fn new(engines: Engines) -> Self {
        Self {
            engines,
            kept: Mutex::default(),
            logins_unsettled: AtomicBool::new(true),
            static_roles_due: AtomicU64::new(0),
            static_pauses: Pauses::default(),
            static_turns: Mutex::default(),
            settling: Pauses::default(),
            begun: RwLock::default(),
        }
    }

    /// The engine of a kind of target.
    pub(super) fn engine(&self, kind: TargetKind) -> Result<&Arc<dyn Engine>, CredentialError> {
        self.engines.of(kind).ok_or(CredentialError::NoEngine { kind: kind.as_str() })
    }

    /// The turn to change a static role: in its target and in the store.
    pub(super) async fn static_turn(&self, role: &Name) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.static_turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(role.clone()).or_default())
        };
        turn.lock_owned().await
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link to a target from now on.
    pub(super) fn keep(&self, target: &StoredTarget, link: Arc<dyn Link>) {
        let made_from = (target.login.data_key, target.record.settings.clone(), link);
        self.kept().insert(target.record.id, made_from);
    }

    /// A target is gone.
    pub(super) fn forget(&self, target: RecordId) {
        self.kept().remove(&target);
    }
}

impl UnsealedVault {
    /// A new link by this login; no I/O.
    pub(super) fn new_link(
        &self,
        target: &StoredTarget,
        secret: SecretBytes,
    ) -> Result<Arc<dyn Link>, VaultError> {
        let settings = &target.record.settings;
        let engine = self.links.engine(settings.kind())?;
        let link = engine.link(self.keys.vault, target.record.name.as_str(), settings, AdminLogin { secret });
        Ok(link.map_err(CredentialError::from)?)
    }

    /// The link to a target.
    pub(crate) async fn link(
        &self,
        snapshot: &dyn Snapshot,
        target: &StoredTarget,
    ) -> Result<Arc<dyn Link>, VaultError> {
        let id = target.record.id;
        if let Some((login, settings, link)) = self.links.kept().get(&id)
            && *login == target.login.data_key
            && *settings == target.record.settings
        {
            return Ok(Arc::clone(link));
        }
        let secret = self.open_login(snapshot, Whose::admin(id), &target.login).await?;
        let link = self.new_link(target, secret)?;
        self.links.keep(target, Arc::clone(&link));
        Ok(link)
    }

    /// Seals a password under a data key of its own.
    pub(super) async fn seal_login(
        &self,
        batch: &mut Batch,
        whose: Whose,
        secret: &SecretBytes,
    ) -> Result<StoredLogin, VaultError> {
        let id = fresh_id();
        let NewDataKey { key, record: wrapped } = self.create_data_key(id).await?;
        let aad = self.keys.aad(whose.label, whose.keyspace, whose.id.as_bytes(), 0);
        let sealed =
            record::seal_single(key, *id.as_bytes(), &aad, secret.expose()).map_err(|_| whose.corrupt())?;
        wrapped.put(batch);
        Ok(StoredLogin { data_key: id, sealed })
    }

    pub(super) async fn open_login(
        &self,
        snapshot: &dyn Snapshot,
        whose: Whose,
        login: &StoredLogin,
    ) -> Result<SecretBytes, VaultError> {
        let id = login.data_key;
        let at = keyspace::data_key(id.as_bytes());
        let key = match self.keys.cached_data_key(id) {
            Some(key) => key?,
            None => {
                let stored = snapshot.get(Keyspace::DataKeys, &at).await?;
                let stored = stored.ok_or_else(|| corrupt(Keyspace::DataKeys, &at))?;
                self.keys.open_data_key(id, &stored.value).await?
            }
        };
        let aad = self.keys.aad(whose.label, whose.keyspace, whose.id.as_bytes(), 0);
        record::open_single(&key, *id.as_bytes(), &aad, &login.sealed).map_err(|_| whose.corrupt())
    }

    /// Removes the key of a login that is not used any more, from the store's files too. Its record has left already, and
    /// what was asked for is done: nobody waits long for a file that cannot go now, which goes with a later compaction.
    pub(super) async fn forget_login(&self, login: &StoredLogin) {
        const WAITED_FOR: Duration = Duration::from_secs(1);
        self.keys.forget_data_key(login.data_key);
        let (storage, at) = (Arc::clone(&self.storage), keyspace::data_key(login.data_key.as_bytes()));
        let purging = tokio::spawn(async move {
            if let Err(error) = storage.purge(Keyspace::DataKeys, &at).await {
                tracing::warn!(%error, "the key of a former password stays in the store's files until their next compaction");
            }
        });
        // One that takes longer, or failed and said so, goes on by itself.
        let _done = tokio::time::timeout(WAITED_FOR, purging).await;
        self.keys.forget_data_key(login.data_key);
    }
}
