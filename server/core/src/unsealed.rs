//! An open vault: what exists only between unsealing and sealing. Methods that need keys exist only here.

mod intents;
pub(crate) mod upkeep;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;
use keystead_audit::AuditLog;
use keystead_domain::id::RecordId;
use keystead_domain::path::{FolderPath, SecretPath};
use keystead_domain::policy::{AccessContext, AccessRequest, Action, Decision, Policies, Resource};
use keystead_domain::secret_version::SecretMeta;
use keystead_storage::{Batch, Keyspace, MAX_OPERATIONS, Revision, Storage, keyspace};
use quick_cache::sync::Cache;

pub(crate) use self::intents::Floor;
use self::intents::Intents;
use crate::anchor::AnchorKeeper;
use crate::audit_trail::ReadDurability;
use crate::audit_trail::sealer::{AuditOpener, AuditSealer};
use crate::auth::PrincipalCache;
use crate::clock::Clock;
use crate::credentials::Links;
use crate::error::VaultError;
use crate::keys::{Keys, NewDataKey};
use crate::leases::{Leases, watchers};
use crate::refusals::Refusals;
use crate::request::{Caller, Peer};
use crate::rotation::{Rotation, RotationOptions};
use crate::seal::refused_pins::AutoPinWatch;

/// Paths whose ids are kept at hand.
const PATHS_KEPT: usize = 65_536;
/// Folders whose ids are kept at hand.
const FOLDERS_KEPT: usize = 16_384;
/// Secrets whose version lists are kept at hand.
const METAS_KEPT: usize = 65_536;

/// The open vault.
pub struct UnsealedVault {
    pub(crate) keys: Keys,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) read_durability: ReadDurability,
    pub(crate) rotation: Rotation,
    pub(crate) policies: ArcSwap<Policies>,
    /// Whoever takes several places in the audit log.
    pub(crate) reserving: Arc<tokio::sync::Mutex<()>>,
    /// One writer of policies at a time: each compiles the whole set.
    pub(crate) policy_writes: tokio::sync::Mutex<()>,
    pub(crate) path_ids: Cache<SecretPath, RecordId>,
    pub(crate) folder_ids: Cache<FolderPath, RecordId>,
    pub(crate) metas: Cache<RecordId, (Revision, Arc<SecretMeta>)>,
    pub(crate) principals: PrincipalCache,
    pub(crate) refusals: Refusals,
    pub(crate) opener: Arc<AuditOpener>,
    pub(crate) anchor: Arc<AnchorKeeper>,
    pub(crate) links: Links,
    pub(crate) leases: Leases,
    /// The PIN that the server should read to open it by itself.
    pub(crate) auto_pin: AutoPinWatch,
    sealer: ArcSwap<AuditSealer>,
    intents: Intents,
    /// The outcomes that a crash left out are recorded.
    settled: AtomicBool,
    /// The tokens may hold keys that nothing needs any more.
    token_leftovers: AtomicBool,
    /// How far the answers kept for repeated requests were tidied.
    tidied_to: std::sync::Mutex<Option<Vec<u8>>>,
    /// Where the audit log stood when the vault opened: intents before it are of an earlier run.
    pub(crate) opened_at: u64,
}

/// What an [`UnsealedVault`] is made of.
pub(crate) struct Parts {
    pub(crate) keys: Keys,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) audit: Arc<AuditLog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) read_durability: ReadDurability,
    pub(crate) rotation: RotationOptions,
    pub(crate) policies: Policies,
    pub(crate) opener: Arc<AuditOpener>,
    pub(crate) sealer: AuditSealer,
    pub(crate) anchor: AnchorKeeper,
    pub(crate) links: Links,
    pub(crate) leases: Leases,
}

impl UnsealedVault {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            opened_at: parts.audit.size(),
            keys: parts.keys,
            storage: parts.storage,
            audit: parts.audit,
            clock: parts.clock,
            read_durability: parts.read_durability,
            rotation: Rotation::new(parts.rotation),
            policies: ArcSwap::from_pointee(parts.policies),
            reserving: Arc::default(),
            policy_writes: tokio::sync::Mutex::new(()),
            path_ids: Cache::new(PATHS_KEPT),
            folder_ids: Cache::new(FOLDERS_KEPT),
            metas: Cache::new(METAS_KEPT),
            principals: PrincipalCache::default(),
            refusals: Refusals::default(),
            opener: parts.opener,
            anchor: Arc::new(parts.anchor),
            links: parts.links,
            leases: parts.leases,
            auto_pin: AutoPinWatch::default(),
            sealer: ArcSwap::from_pointee(parts.sealer),
            intents: Intents::default(),
            settled: AtomicBool::new(false),
            // A crash may have come between the seal record and the destruction of what it needs no more.
            token_leftovers: AtomicBool::new(true),
            tidied_to: std::sync::Mutex::new(None),
        }
    }

    /// The sealer of audit bodies for today.
    pub(crate) fn sealer(&self) -> Arc<AuditSealer> {
        self.sealer.load_full()
    }

    pub(crate) fn decide(&self, caller: &Caller, action: Action, resource: &Resource) -> Decision {
        self.decide_by(&self.policies.load(), caller, action, resource)
    }

    /// As `decide`, by other policies than those in force.
    pub(crate) fn decide_by(
        &self,
        policies: &Policies,
        caller: &Caller,
        action: Action,
        resource: &Resource,
    ) -> Decision {
        let context = AccessContext {
            method: caller.method(),
            now: self.clock.now(),
            peer: match caller.peer() {
                Peer::Remote(address) => Some(address),
                Peer::Local { .. } => None,
            },
            on_behalf_of: None,
            mfa_age_secs: None,
        };
        policies.decide(&AccessRequest {
            principal: caller.principal(),
            groups: caller.groups(),
            action,
            resource,
            context: &context,
        })
    }

    /// A fresh data key, counted.
    pub(crate) async fn create_data_key(&self, id: RecordId) -> Result<NewDataKey, VaultError> {
        self.keys.counted_data_key(self.storage.as_ref(), id).await
    }

    /// Commits a change: its intent's marker goes with it, markers of settled intents leave. System records in it count
    /// only while the key that sealed them is the current one.
    pub(crate) async fn commit(&self, intent: Option<u64>, mut batch: Batch) -> Result<Revision, VaultError> {
        self.keys.guard(&mut batch)?;
        self.commit_unguarded(intent, batch).await
    }

    /// The same for the batch that makes another system key the current one.
    pub(crate) async fn commit_unguarded(
        &self,
        intent: Option<u64>,
        mut batch: Batch,
    ) -> Result<Revision, VaultError> {
        if let Some(intent) = intent {
            batch.put(Keyspace::Intents, keyspace::intent(intent), Vec::new());
            self.intents.marked(intent);
        }
        // As many as there is room for beside the change itself.
        let used = batch.operations().len().saturating_add(batch.requirements().len());
        let settled = self.intents.take_settled(MAX_OPERATIONS.saturating_sub(used));
        for intent in &settled {
            batch.delete(Keyspace::Intents, keyspace::intent(*intent));
        }
        let changed = watchers::changed_by(&batch);
        let result = self.storage.commit(batch).await;
        // Also after an error: the batch may have been written all the same.
        self.leases.watchers.wake(&changed);
        if result.is_err() {
            self.intents.put_back(settled);
        }
        Ok(result?)
    }

    /// To be held while an intent is recorded.
    pub(crate) fn intent_floor(&self) -> Floor<'_> {
        self.intents.floor(self.audit.size())
    }

    /// The outcome of an intent is durable.
    pub(crate) fn intent_settled(&self, intent: u64) {
        self.intents.settled(intent);
    }
}
