//! The admin login of a target gets a password that nobody knows.
//!
//! Invariant: the new password is in the store before the target hears of it, the old one until the new was taken and tried. A
//! rotation that was cut off goes forward: whichever of the two the target takes, the new one is what it comes to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::RecordId;
use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource};
use keystead_storage::{Batch, Keyspace, Precondition, Revision, StorageError, keyspace};

use super::links::Whose;
use super::targets::{self, StoredTarget, Target};
use super::{CredentialError, ONE_CALL, TRIES, in_time, page, seal, target_at};
use crate::engine::{EngineError, Link};
use crate::error::VaultError;
use crate::fail_points::{self, Step};
use crate::keys::rng;
use crate::operation::{self, Detail, Effect, Operation};
use crate::request::{Permit, SystemPermit};
use crate::rotation::Beside;
use crate::unsealed::UnsealedVault;
use crate::vault::OpenVault;

const PAGE: usize = 64;
/// What becomes of a rotation that did not come to its end.
const GOES_ON: &str =
    "the rotation goes on by itself: `keystead target get` shows when the password was changed";

/// The job that ends a rotation that was cut off.
enum SettleLogin {}

/// Gives the admin login of a target a password that nobody knows.
pub struct RotateTargetLogin {
    /// Which.
    pub name: Name,
}

impl OpenVault {
    /// Ends rotations of admin logins that were cut off. It waits for targets, so it is called beside what must not. A
    /// target that fails is left alone for a while, and longer each time.
    ///
    /// # Errors
    /// Those of log and store; a target that is away is looked at the next time.
    pub async fn settle_target_logins(&self) -> Result<(), VaultError> {
        // Taken down first: a rotation that begins meanwhile puts it up again.
        if !self.links.logins_unsettled.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let settled = self.settle_each_login().await;
        if !matches!(settled, Ok(true)) {
            self.links.logins_unsettled.store(true, Ordering::Release);
        }
        settled.map(drop)
    }

    /// Says whether none is left.
    async fn settle_each_login(&self) -> Result<bool, VaultError> {
        let mut left = false;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let snapshot = self.storage.snapshot().await?;
            let (found, next) =
                page::<StoredTarget>(self, snapshot.as_ref(), Keyspace::Targets, after.as_deref(), PAGE)
                    .await?;
            drop(snapshot);
            for (target, _) in found.into_iter().filter(|(target, _)| target.pending.is_some()) {
                if self.closing() {
                    return Ok(false);
                }
                left |= !self.settle_login(target.record.id, &target.record.name).await?;
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(!left),
            }
        }
    }

    /// Says whether it is settled.
    async fn settle_login(&self, id: RecordId, name: &Name) -> Result<bool, VaultError> {
        let pauses = &self.links.settling;
        if pauses.holds(id, self.clock.monotonic()) {
            return Ok(false);
        }
        let vault: &UnsealedVault = self;
        let work = |permit: SystemPermit<SettleLogin>| vault.finish(Some(permit.intent()), name);
        let resource = Resource::Target(name.clone());
        match operation::run_job(self, "settle-target-login", resource, Detail::new(), work).await {
            Ok(_) => Ok(true),
            Err(error @ VaultError::Audit(_)) => Err(error),
            // One that does not open keeps no other from being settled.
            Err(error) => {
                let again_in_s = pauses.failed(id, self.clock.monotonic()).as_secs();
                tracing::warn!(target = %name, %error, again_in_s, "the rotation of an admin login goes on later");
                Ok(false)
            }
        }
    }
}

impl UnsealedVault {
    /// Has the target take the pending password, tries it, and forgets the old one.
    async fn finish(&self, intent: Option<u64>, name: &Name) -> Result<Target, VaultError> {
        for _ in 0..TRIES {
            match self.finish_once(intent, name).await {
                // The target was changed meanwhile, or somebody else finished it.
                Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
                Err(VaultError::Credential(error)) => {
                    return Err(error.all_the_same(GOES_ON).into());
                }
                done => return done,
            }
        }
        Err(VaultError::Contention { what: format!("target {name}") })
    }

    async fn finish_once(&self, intent: Option<u64>, name: &Name) -> Result<Target, VaultError> {
        let snapshot = self.storage.snapshot().await?;
        let (target, revision) = targets::find(self, snapshot.as_ref(), name).await?;
        let Some(pending) = &target.pending else {
            return Ok(Target { record: target.record, etag: revision.to_string(), probe: None });
        };
        let new = self.open_login(snapshot.as_ref(), Whose::admin(target.record.id), pending).await?;
        let link = self.link(snapshot.as_ref(), &target).await?;
        drop(snapshot);
        if !in_time(name, ONE_CALL, link.admin_secret_works(&new)).await? {
            // An answer that was lost may still come true: what counts is whether it is taken.
            let changed = in_time(name, ONE_CALL, link.change_admin_secret(&new)).await;
            if !in_time(name, ONE_CALL, link.admin_secret_works(&new)).await? {
                changed?;
                let (target, what) = (name.to_string(), "the new password is not taken".to_owned());
                return Err(CredentialError::from(EngineError::Admin { target, what }).into());
            }
        }
        fail_points::after(Step::RotateTaken);
        self.adopt(intent, target, revision, new).await
    }

    async fn adopt(
        &self,
        intent: Option<u64>,
        mut target: StoredTarget,
        revision: Revision,
        new: SecretBytes,
    ) -> Result<Target, VaultError> {
        let Some(pending) = target.pending.take() else {
            return Ok(Target { record: target.record, etag: revision.to_string(), probe: None });
        };
        let old = std::mem::replace(&mut target.login, pending);
        target.record.rotated = Some(self.clock.now());
        let at = target_at(&self.keys, &target.record.name);
        let mut batch = Batch::new();
        batch.require(Keyspace::Targets, at.clone(), Precondition::Revision(revision));
        batch.put(Keyspace::Targets, at.clone(), seal(&self.keys, Keyspace::Targets, &at, &target)?);
        batch.delete(Keyspace::DataKeys, keyspace::data_key(old.data_key.as_bytes()));
        let revision = self.commit(intent, batch).await?;
        fail_points::after(Step::RotateAdopted);
        self.links.settling.end(target.record.id);
        let link: Arc<dyn Link> = self.new_link(&target, new)?;
        self.links.keep(&target, link);
        self.forget_login(&old).await;
        Ok(Target { record: target.record, etag: revision.to_string(), probe: None })
    }
}

async fn begin(
    vault: &UnsealedVault,
    permit: &Permit<RotateTargetLogin>,
    name: &Name,
) -> Result<(), VaultError> {
    for _ in 0..TRIES {
        let snapshot = vault.storage.snapshot().await?;
        vault.keys.follow_seal(snapshot.as_ref(), vault.storage.as_ref()).await?;
        let (mut target, revision) = targets::find(vault, snapshot.as_ref(), name).await?;
        if target.pending.is_some() {
            return Ok(());
        }
        let link = vault.link(snapshot.as_ref(), &target).await?;
        drop(snapshot);
        let mut batch = Batch::new();
        let new = link.new_secret(&mut rng());
        let pending = vault.seal_login(&mut batch, Whose::admin(target.record.id), &new).await?;
        let data_key = pending.data_key;
        target.pending = Some(pending);
        let at = target_at(&vault.keys, name);
        batch.require(Keyspace::Targets, at.clone(), Precondition::Revision(revision));
        batch.put(Keyspace::Targets, at.clone(), seal(&vault.keys, Keyspace::Targets, &at, &target)?);
        vault.links.logins_unsettled.store(true, Ordering::Release);
        match vault.commit(permit.intent(), batch).await {
            Ok(_) => {
                fail_points::after(Step::RotatePending);
                return Ok(());
            }
            Err(VaultError::Storage(StorageError::Conflict { .. })) => vault.keys.forget_data_key(data_key),
            Err(error) => return Err(error),
        }
    }
    Err(VaultError::Contention { what: format!("target {name}") })
}

impl Operation for RotateTargetLogin {
    type Output = Target;
    const ACTION: Action = Action::TargetsRotate;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Target(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Target, VaultError> {
        begin(vault, &permit, &self.name).await?;
        vault.finish(permit.intent(), &self.name).await
    }

    fn detail(output: &Target) -> Detail {
        vec![("target_id", output.record.id.to_string())]
    }
}
