//! What an open vault does by itself: a new audit key each day, day keys for the sinks, and outcomes that a crash left
//! out.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use keystead_audit::{Body, BodyInput, Durability, EntryKind, UnixMillis as AuditMillis};
use keystead_crypto::arena::LockedKey;
use keystead_crypto::auto_seal::AutoSeal;
use keystead_crypto::ports::{Hsm, HsmKey, HsmKeyPurpose};
use keystead_crypto::seal_record::{SealHeader, TokenWay};
use keystead_domain::policy::Resource;
use keystead_storage::{Batch, Keyspace, Precondition, Range, StorageError, keyspace};

use super::UnsealedVault;
use crate::audit_trail::sealer::{AuditSealer, day_of};
use crate::error::VaultError;
use crate::keys::link::Link;
use crate::keys::{Keys, corrupt, rng};
use crate::operation;
use crate::request::SystemPermit;
use crate::request_ids;
use crate::seal::{TrustedSeal, auto_unseal, keys_of, pin};

/// The right to destroy keys that nothing needs.
enum TidyTokens {}

/// A key that nothing needs, on this token, of this way.
type Outlived = (Arc<dyn Hsm>, String, HsmKey);

/// Entries looked at in one go after a crash.
const ENTRIES_A_STEP: usize = 1024;

impl UnsealedVault {
    /// Called when the vault has opened, and every few seconds while it is open.
    ///
    /// # Errors
    /// Those of the store; the next call tries again. `AuditRolledBack` and `AnchorUntrusted` of a token that is back: the
    /// vault must not stay open.
    pub async fn upkeep(&self) -> Result<(), VaultError> {
        self.look_after_tokens().await?;
        let today = day_of(self.clock.now());
        if self.sealer().day() != today {
            let key = day_key(&self.keys, self.storage.as_ref(), today, true).await?;
            self.sealer.store(Arc::new(AuditSealer::start(today, &key)));
            self.opener.add(today, key);
        }
        for day in self.opener.wanted() {
            self.ensure_day(day).await?;
        }
        if !self.settled.load(Ordering::Acquire) {
            // The low water must not pass an intent that nobody has looked at.
            let settled = self.settle_after_crash().await?;
            if settled > 0 {
                tracing::warn!(settled, "outcomes that a crash left out were derived and recorded");
            }
        }
        pin::settle(self).await?;
        self.keys.follow_ledger(self.storage.as_ref(), self.clock.now()).await?;
        if self.token_leftovers.load(Ordering::Acquire) {
            match self.tidy_tokens().await {
                // It is looked at when it is back; the rest does not wait for it.
                Err(VaultError::TokenAway { .. }) => {}
                tidied => tidied?,
            }
        }
        self.tidy_request_ids().await?;
        self.keep_low_water().await
    }

    /// Has upkeep look for keys that nothing needs any more.
    pub(crate) fn tidy_tokens_soon(&self) {
        self.token_leftovers.store(true, Ordering::Release);
    }

    /// Destroys keys on the tokens that are older than what the seal record names. Newer ones are left alone: this store
    /// may be an old copy, and they another's. A token that is away does not keep the others waiting.
    pub(crate) async fn tidy_tokens(&self) -> Result<(), VaultError> {
        let seal = TrustedSeal::load(self.storage.as_ref()).await?;
        let auto = auto_unseal::load(self.storage.as_ref()).await?;
        let auto = auto.as_ref().map(|(auto, _)| auto);
        let mut missed = Ok(());
        let mut outlived = Vec::new();
        for way in seal.header.tokens() {
            match self.outlived(&seal.header, way, auto).await {
                Ok(keys) => outlived.extend(keys),
                Err(error) => missed = Err(error),
            }
        }
        if !outlived.is_empty() {
            let named = outlived.iter().map(|(_, token, key)| name_key(token, *key)).collect::<Vec<_>>();
            let work = |permit| self.destroy(permit, &outlived);
            operation::run_job(self, "tidy-tokens", Resource::System, vec![("keys", named.join(", "))], work)
                .await?;
        }
        missed?;
        auto_unseal::forget_ended(self).await?;
        self.token_leftovers.store(false, Ordering::Release);
        Ok(())
    }

    /// The keys of a way that nothing needs any more, on each token that answers for it. One that is away is looked at when
    /// it is back.
    async fn outlived(
        &self,
        header: &SealHeader,
        way: &TokenWay,
        auto: Option<&AutoSeal>,
    ) -> Result<Vec<Outlived>, VaultError> {
        let mut all = Vec::new();
        for link in self.keys.answering(&way.serial)? {
            let hsm = Arc::clone(&link.hsm);
            let mut keys = hsm.list_keys(self.keys.vault.tag()).await?;
            let needed = keys_of(header, way);
            if link.clone_of().is_none() && !needed.iter().all(|key| keys.contains(key)) {
                // Whatever took their place is somewhere else: they may be all that opens anything here.
                tracing::error!(token = %way.serial, "a token lacks keys that the seal record names; its older keys are not destroyed");
                continue;
            }
            keys.retain(|key| match key.purpose {
                HsmKeyPurpose::Epoch => key.version < header.epoch,
                HsmKeyPurpose::Master => key.version < way.oldest_master,
                HsmKeyPurpose::Auto => auto.is_some_and(|auto| auto.outlived(key.version)),
                HsmKeyPurpose::Audit => false,
            });
            all.extend(keys.into_iter().map(|key| (Arc::clone(&hsm), way.serial.clone(), key)));
        }
        Ok(all)
    }

    async fn destroy(&self, _: SystemPermit<TidyTokens>, outlived: &[Outlived]) -> Result<(), VaultError> {
        let mut destroyed = Ok(());
        for (hsm, token, key) in outlived {
            let (purpose, version) = (key.purpose.word(), key.version);
            match hsm.destroy_key(self.keys.vault.tag(), *key).await {
                Ok(()) => {
                    tracing::info!(%token, purpose, version, "a key that nothing needs any more was destroyed");
                }
                Err(error) => destroyed = Err(error.into()),
            }
        }
        destroyed
    }

    /// The keys of a token that are to be bound while the vault is open.
    pub(crate) async fn needed_keys(
        &self,
        header: &SealHeader,
        way: &TokenWay,
    ) -> Result<Vec<HsmKey>, VaultError> {
        let mut keys = keys_of(header, way);
        if let Some((auto, _)) = auto_unseal::load(self.storage.as_ref()).await?
            && auto.boxes.iter().any(|boxes| boxes.token == way.serial)
        {
            keys.push(HsmKey { purpose: HsmKeyPurpose::Auto, version: auto.version });
        }
        Ok(keys)
    }

    /// Logs in to tokens that are back, and looks at what they keep of the audit log.
    ///
    /// # Errors
    /// Those of the store; `AuditRolledBack` and `AnchorUntrusted`, at each call while a token keeps a head that the log does
    /// not have.
    pub(crate) async fn look_after_tokens(&self) -> Result<(), VaultError> {
        let missing = |link: &&Arc<Link>| !link.status().ready;
        if self.keys.ways().links.iter().any(|link| missing(&link)) {
            // One that joined without anybody knowing is named by the record in the store.
            let ways = self.ways_now().await?;
            for link in ways.links.iter().filter(missing) {
                link.come_back(&ways.header).await;
                if link.status().ready {
                    self.rotation.set_token_back(true);
                    // It, or the one that it is a clone of, missed what was destroyed meanwhile.
                    self.tidy_tokens_soon();
                }
            }
        }
        self.anchor.look_at_those_back(self.clock.as_ref()).await
    }

    /// One step through the answers kept for repeated requests; the next call goes on where this one ended.
    async fn tidy_request_ids(&self) -> Result<(), VaultError> {
        let after = self.tidied_to.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (batch, next) = request_ids::expired(self, after.as_deref()).await?;
        *self.tidied_to.lock().unwrap_or_else(PoisonError::into_inner) = next;
        if batch.operations().is_empty() {
            return Ok(());
        }
        let removed = operation::run_job(self, "tidy-request-ids", Resource::System, Vec::new(), |permit| {
            request_ids::remove(self, permit, batch)
        });
        match removed.await {
            Err(VaultError::Storage(StorageError::Conflict { .. })) => Ok(()),
            other => other,
        }
    }

    /// Makes a day's audit key known to the opener.
    pub(crate) async fn ensure_day(&self, day: u32) -> Result<(), VaultError> {
        if self.opener.has(day) {
            return Ok(());
        }
        match day_key(&self.keys, self.storage.as_ref(), day, false).await {
            Ok(key) => self.opener.add(day, key),
            // Retention dropped the key: its entries stay sealed for good.
            Err(VaultError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Intents below this need no second look after a crash.
    async fn keep_low_water(&self) -> Result<(), VaultError> {
        let low = self.intents.low_water(self.audit.size());
        let key = keyspace::meta_audit_low_water();
        if let Some(stored) = self.storage.snapshot().await?.get(Keyspace::Meta, &key).await?
            && stored.value.as_ref() == low.to_be_bytes()
        {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, key, low.to_be_bytes().to_vec());
        self.commit(None, batch).await.map(drop)
    }

    /// Writes the outcomes that a crash left out: a marker in the store says that the change took effect. Returns how
    /// many there were.
    async fn settle_after_crash(&self) -> Result<usize, VaultError> {
        let until = self.opened_at;
        let snapshot = self.storage.snapshot().await?;
        let low = match snapshot.get(Keyspace::Meta, &keyspace::meta_audit_low_water()).await? {
            Some(stored) => <[u8; 8]>::try_from(stored.value.as_ref())
                .map(u64::from_be_bytes)
                .map_err(|_| corrupt(Keyspace::Meta, &keyspace::meta_audit_low_water()))?,
            None => 0,
        };
        let mut open = BTreeMap::new();
        let mut next = low;
        // To the end: an earlier attempt may have derived some outcomes.
        let end = self.audit.size();
        while next < end {
            let entries = crate::audit_tail::read_opened(self, next, ENTRIES_A_STEP).await?;
            let Some(last) = entries.last() else { break };
            next = last.seq.saturating_add(1);
            for entry in entries {
                match (entry.kind, entry.body) {
                    (EntryKind::Intent, Some(body)) if entry.seq < until => {
                        drop(open.insert(entry.seq, body));
                    }
                    (EntryKind::Outcome, Some(Body { intent: Some(intent), .. })) => {
                        drop(open.remove(&intent))
                    }
                    _ => {}
                }
            }
        }
        let left = open.len();
        for (intent, body) in open {
            let done = snapshot.get(Keyspace::Intents, &keyspace::intent(intent)).await?.is_some();
            self.record_derived(intent, body, done).await?;
        }
        let markers =
            snapshot.range(Keyspace::Intents, Range::prefix(Vec::new(), None), ENTRIES_A_STEP).await?;
        for (key, _) in markers {
            if let Some(intent) = keyspace::intent_in(&key)
                && intent < until
            {
                self.intents.left_over(intent);
            }
        }
        self.settled.store(true, Ordering::Release);
        Ok(left)
    }

    async fn record_derived(&self, intent: u64, body: Body, done: bool) -> Result<(), VaultError> {
        let slot = self.audit.reserve_wait().await?;
        let body = Body {
            intent: Some(intent),
            outcome: if done { "ok" } else { "NOT_DONE" }.into(),
            detail: vec![("derived_after_crash".to_owned(), "true".to_owned())],
            ..body
        };
        let now = AuditMillis(self.clock.now().0);
        let input = BodyInput::Sealed(body, self.sealer());
        slot.record(EntryKind::Outcome, now, input, Durability::Fsync)
            .await
            .map_err(VaultError::Audit)
            .map(drop)
    }
}

/// A day's audit key, made if asked and not there.
pub(crate) async fn day_key(
    keys: &Keys,
    storage: &dyn keystead_storage::Storage,
    day: u32,
    create: bool,
) -> Result<LockedKey, VaultError> {
    let at = keyspace::audit_key(day);
    loop {
        if let Some(stored) = storage.snapshot().await?.get(Keyspace::AuditKeys, &at).await? {
            let plain = keys.open_record(Keyspace::AuditKeys, &at, &stored.value)?;
            return LockedKey::from_slice(plain.expose()).ok_or_else(|| corrupt(Keyspace::AuditKeys, &at));
        }
        if !create {
            return Err(VaultError::NotFound { what: format!("audit key of day {day}") });
        }
        let key = LockedKey::generate(&mut rng());
        let mut batch = Batch::new();
        batch.require(Keyspace::AuditKeys, at.clone(), Precondition::Absent);
        // Without it the vault does not open, not even to replace a system key that is used up.
        let sealed = keys.seal_under(&keys.systems(), Keyspace::AuditKeys, &at, key.expose())?;
        batch.put(Keyspace::AuditKeys, at.clone(), sealed);
        keys.guard(&mut batch)?;
        match storage.commit(batch).await {
            Ok(_) => return Ok(key),
            Err(StorageError::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A key as the audit log names it.
pub(crate) fn name_key(token: &str, key: HsmKey) -> String {
    format!("{} key {} of token {token}", key.purpose.word(), key.version)
}
