//! Passwords of static roles are changed in four durable steps: create, set, test, finish.
//!
//! Invariant: the new password is in the store before the target hears of it, and the old one until the new one was let in.
//! What was cut off goes forward from the step that was written last: which password the target takes is tried, not assumed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{self, StreamExt};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::RecordId;
use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::static_role::{StaticRoleRecord, Step};
use keystead_storage::{Batch, Keyspace, Precondition, Range, Revision, StorageError, keyspace};

use super::super::links::Whose;
use super::super::{CredentialError, ONE_CALL, TRIES, in_time, jitter, page_of, seal};
use super::{PAGE, StaticRole, StoredStaticRole, described, find, role_at, target_of};
use crate::engine::Link;
use crate::error::VaultError;
use crate::keys::{corrupt, rng};
use crate::operation::{self, Detail, Effect, Operation};
use crate::request::{Permit, SystemPermit};
use crate::rotation::Beside;
use crate::unsealed::UnsealedVault;
use crate::vault::OpenVault;

/// Targets that are asked at a time: one that does not answer keeps none of the others waiting.
const TARGETS_AT_ONCE: usize = 8;

/// The job that changes passwords which are due.
enum RotateStatic {}

/// Who wants a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Somebody, now.
    ByHand,
    /// Nobody, unless it is due.
    BySchedule,
}

/// Changes the password of a static role now; of two logins, the one that is not handed out.
pub struct RotateStaticRole {
    /// Which.
    pub name: Name,
}

impl OpenVault {
    /// Changes passwords that are due. It waits for targets, so it is called beside what must not. A target that fails is left
    /// alone for a while, and longer each time.
    ///
    /// # Errors
    /// Those of log and store; what a target refuses is tried again later.
    pub async fn look_after_static_roles(&self) -> Result<(), VaultError> {
        let now = self.leases.clock.now();
        if self.links.static_roles_due.load(Ordering::Acquire) > now.0 {
            return Ok(());
        }
        // Put up first: what becomes due meanwhile lowers it again.
        self.links.static_roles_due.store(u64::MAX, Ordering::Release);
        let looked = self.rotate_what_is_due().await;
        if !matches!(looked, Ok(false)) {
            self.links.static_roles_due.store(0, Ordering::Release);
        }
        looked.map(drop)
    }

    /// Says whether there was something to do.
    async fn rotate_what_is_due(&self) -> Result<bool, VaultError> {
        let now = self.leases.clock.now();
        let mut due: BTreeMap<RecordId, Vec<StaticRoleRecord>> = BTreeMap::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let snapshot = self.storage.snapshot().await?;
            let range = Range::prefix(keyspace::STATIC_ROLES, after.as_deref());
            let (roles, next) =
                page_of::<StoredStaticRole>(self, snapshot.as_ref(), Keyspace::StaticRoles, range, PAGE)
                    .await?;
            for (role, _) in roles {
                if role.record.schedule.due().is_some_and(|due| due.has_come(now)) {
                    due.entry(role.record.target_id).or_default().push(role.record);
                } else {
                    self.static_role_is_due(&role.record);
                }
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let found = !due.is_empty();
        let rounds = stream::iter(due).map(|(target, roles)| self.rotate_each(target, roles));
        let rounds: Vec<Result<(), VaultError>> = rounds.buffer_unordered(TARGETS_AT_ONCE).collect().await;
        rounds.into_iter().collect::<Result<(), _>>()?;
        Ok(found)
    }

    /// Those of one target, one after another, as long as it answers.
    async fn rotate_each(&self, target: RecordId, roles: Vec<StaticRoleRecord>) -> Result<(), VaultError> {
        let pauses = &self.links.static_pauses;
        for role in roles {
            if self.closing() || pauses.holds(target, self.clock.monotonic()) {
                return Ok(());
            }
            let name = &role.name;
            let vault: &UnsealedVault = self;
            let go_on = || !self.closing();
            let work = |permit: SystemPermit<RotateStatic>| {
                vault.rotate_static(Some(permit.intent()), name, Asked::BySchedule, go_on)
            };
            let resource = Resource::StaticRole(name.clone());
            match operation::run_job(self, "rotate-static-role", resource, described(&role), work).await {
                Ok(_) => pauses.end(target),
                Err(error @ VaultError::Audit(_)) => return Err(error),
                Err(error) => {
                    let of_target =
                        matches!(&error, VaultError::Credential(credential) if credential.is_of_target());
                    tracing::warn!(static_role = %name, %error, "a password could not be changed; it is tried again");
                    if of_target {
                        pauses.failed(target, self.clock.monotonic());
                    }
                }
            }
        }
        Ok(())
    }
}

impl UnsealedVault {
    /// A static role may be due sooner than any other.
    pub(super) fn static_role_is_due(&self, role: &StaticRoleRecord) {
        if let Some(due) = role.schedule.due() {
            self.links.static_roles_due.fetch_min(due.0, Ordering::AcqRel);
        }
    }

    /// All steps from where it is. What failed is noted, with when it is tried again.
    async fn rotate_static(
        &self,
        intent: Option<u64>,
        name: &Name,
        asked: Asked,
        go_on: impl Fn() -> bool + Send,
    ) -> Result<StaticRole, VaultError> {
        // Whoever changes or deletes it meanwhile would forget what the target was told.
        let _turn = self.links.static_turn(name).await;
        let begun = match self.begin_static(intent, name, asked).await {
            Ok(begun) => begun,
            Err(error) => {
                self.note_failure(intent, name, &error).await;
                return Err(error);
            }
        };
        let mut conflicts = 0_usize;
        while go_on() {
            match self.step(intent, name).await {
                Ok(None) => {}
                Ok(Some(role)) if begun.is_none_or(|before| role.record.schedule.version > before) => {
                    return Ok(role);
                }
                // Another process took it out of the way.
                Ok(Some(_)) => return Err(VaultError::Contention { what: format!("static role {name}") }),
                Err(VaultError::Storage(StorageError::Conflict { .. })) if conflicts < TRIES => {
                    conflicts = conflicts.saturating_add(1);
                }
                Err(error) => {
                    self.note_failure(intent, name, &error).await;
                    return Err(error);
                }
            }
        }
        Err(VaultError::Interrupted { what: "the change of a password" })
    }

    /// Create: the new password is kept. Tells the version before, if a rotation is under way then.
    async fn begin_static(
        &self,
        intent: Option<u64>,
        name: &Name,
        asked: Asked,
    ) -> Result<Option<u64>, VaultError> {
        for _ in 0..TRIES {
            let snapshot = self.storage.snapshot().await?;
            self.keys.follow_seal(snapshot.as_ref(), self.storage.as_ref()).await?;
            let (mut stored, revision) = find(self, snapshot.as_ref(), name).await?;
            let schedule = &stored.record.schedule;
            let version = schedule.version;
            if schedule.under_way.is_some() {
                return Ok(Some(version));
            }
            let due = schedule.due().is_some_and(|due| due.has_come(self.leases.clock.now()));
            if asked == Asked::BySchedule && !due {
                // Somebody else did it since the list was made.
                return Ok(None);
            }
            let target = target_of(self, snapshot.as_ref(), &stored.record).await?;
            let link = self.link(snapshot.as_ref(), &target).await?;
            drop(snapshot);
            let mut batch = Batch::new();
            let new = link.new_secret(&mut rng());
            let pending = self.seal_login(&mut batch, Whose::of_static_role(stored.record.id), &new).await?;
            let data_key = pending.data_key;
            stored.record.schedule.begin(&stored.record.logins, self.leases.clock.now());
            stored.pending = Some(pending);
            match self.keep_static(intent, batch, &stored, revision).await {
                Ok(_) => return Ok(Some(version)),
                Err(VaultError::Storage(StorageError::Conflict { .. })) => {
                    self.keys.forget_data_key(data_key)
                }
                Err(error) => return Err(error),
            }
        }
        Err(VaultError::Contention { what: format!("static role {name}") })
    }

    /// The next step; what it came to once there is none left.
    async fn step(&self, intent: Option<u64>, name: &Name) -> Result<Option<StaticRole>, VaultError> {
        let snapshot = self.storage.snapshot().await?;
        let (mut stored, revision) = find(self, snapshot.as_ref(), name).await?;
        let Some(rotation) = stored.record.schedule.under_way.clone() else {
            return Ok(Some(StaticRole::of(stored, revision)));
        };
        let broken = || corrupt(Keyspace::StaticRoles, stored.record.id.as_bytes());
        let (has, gets) = (stored.password(rotation.which), stored.pending.as_ref());
        let (has, gets) = (has.ok_or_else(broken)?, gets.ok_or_else(broken)?);
        let whose = Whose::of_static_role(stored.record.id);
        let new = self.open_login(snapshot.as_ref(), whose, gets).await?;
        match rotation.step {
            Step::Created => {
                let old = self.open_login(snapshot.as_ref(), whose, has).await?;
                drop(snapshot);
                self.set(&stored, &old, &new).await?;
                stored.record.schedule.advance(Step::Set);
            }
            Step::Set => {
                let old = self.open_login(snapshot.as_ref(), whose, has).await?;
                drop(snapshot);
                // A target that came back from a copy may have forgotten it.
                if !self.let_in(&stored, &new).await? {
                    self.set(&stored, &old, &new).await?;
                    if !self.let_in(&stored, &new).await? {
                        return Err(refused(&stored).into());
                    }
                }
                stored.record.schedule.advance(Step::Tested);
            }
            Step::Tested => {
                drop(snapshot);
                return self.finish_static(intent, stored, revision).await.map(Some);
            }
        }
        self.keep_static(intent, Batch::new(), &stored, revision).await?;
        Ok(None)
    }

    /// Set: the target takes the new password, unless it has done so already. The old one is tried first, so that a rotation that
    /// goes well has no password refused, which targets count.
    async fn set(
        &self,
        stored: &StoredStaticRole,
        old: &SecretBytes,
        new: &SecretBytes,
    ) -> Result<(), VaultError> {
        if !self.let_in(stored, old).await? {
            return if self.let_in(stored, new).await? { Ok(()) } else { Err(refused(stored).into()) };
        }
        let (target, login) = (&stored.record.target, turn(stored));
        let link = self.static_link(stored).await?;
        match in_time(target, ONE_CALL, link.change_login_secret(&login, old, new)).await {
            Ok(()) => Ok(()),
            // An answer that was lost may still come true: what counts is whether it is taken.
            Err(_) if self.let_in(stored, new).await? => Ok(()),
            Err(error) => Err(error.then("the rotation goes on by itself").into()),
        }
    }

    async fn let_in(&self, stored: &StoredStaticRole, secret: &SecretBytes) -> Result<bool, VaultError> {
        let link = self.static_link(stored).await?;
        let login = turn(stored);
        Ok(in_time(&stored.record.target, ONE_CALL, link.try_login(&login, secret)).await?.is_some())
    }

    async fn static_link(&self, stored: &StoredStaticRole) -> Result<Arc<dyn Link>, VaultError> {
        let snapshot = self.storage.snapshot().await?;
        let target = target_of(self, snapshot.as_ref(), &stored.record).await?;
        self.link(snapshot.as_ref(), &target).await
    }

    /// Finish: the new password is the one that counts, and the old one is forgotten.
    async fn finish_static(
        &self,
        intent: Option<u64>,
        mut stored: StoredStaticRole,
        revision: Revision,
    ) -> Result<StaticRole, VaultError> {
        let broken = || corrupt(Keyspace::StaticRoles, stored.record.id.as_bytes());
        let which = stored.record.schedule.under_way.as_ref().map(|rotation| rotation.which);
        let (Some(which), Some(pending)) = (which, stored.pending.clone()) else { return Err(broken()) };
        stored.pending = None;
        let old = stored.replace(which, pending);
        stored.record.schedule.finish(stored.record.period, self.leases.clock.now());
        let mut batch = Batch::new();
        if let Some(old) = &old {
            batch.delete(Keyspace::DataKeys, keyspace::data_key(old.data_key.as_bytes()));
        }
        let revision = self.keep_static(intent, batch, &stored, revision).await?;
        if let Some(old) = &old {
            self.forget_login(old).await;
        }
        Ok(StaticRole::of(stored, revision))
    }

    async fn keep_static(
        &self,
        intent: Option<u64>,
        mut batch: Batch,
        stored: &StoredStaticRole,
        revision: Revision,
    ) -> Result<Revision, VaultError> {
        let at = role_at(&self.keys, &stored.record.name);
        batch.require(Keyspace::StaticRoles, at.clone(), Precondition::Revision(revision));
        batch.put(Keyspace::StaticRoles, at.clone(), seal(&self.keys, Keyspace::StaticRoles, &at, stored)?);
        let revision = self.commit(intent, batch).await?;
        self.static_role_is_due(&stored.record);
        Ok(revision)
    }

    async fn note_failure(&self, intent: Option<u64>, name: &Name, error: &VaultError) {
        if matches!(error, VaultError::NotFound { .. }) {
            return;
        }
        let noted = async {
            let snapshot = self.storage.snapshot().await?;
            let (mut stored, revision) = find(self, snapshot.as_ref(), name).await?;
            drop(snapshot);
            let passing = !matches!(error, VaultError::Credential(CredentialError::StaticLogin { .. }));
            let now = self.leases.clock.now();
            stored.record.schedule.failed(error.to_string(), passing, now, jitter());
            self.keep_static(intent, Batch::new(), &stored, revision).await
        };
        if let Err(error) = noted.await {
            tracing::warn!(static_role = %name, %error, "that a password could not be changed was not noted");
        }
    }
}

/// The login whose turn it is.
fn turn(stored: &StoredStaticRole) -> String {
    let which =
        stored.record.schedule.under_way.as_ref().map_or(stored.record.schedule.current, |it| it.which);
    stored.login(which).to_owned()
}

fn refused(stored: &StoredStaticRole) -> CredentialError {
    let (role, target) = (stored.record.name.to_string(), stored.record.target.to_string());
    CredentialError::StaticLogin { role, target, login: turn(stored) }
}

impl Operation for RotateStaticRole {
    type Output = StaticRole;
    const ACTION: Action = Action::StaticRolesRotate;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::StaticRole(self.name.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<StaticRole, VaultError> {
        vault.rotate_static(permit.intent(), &self.name, Asked::ByHand, || true).await
    }

    fn detail(output: &StaticRole) -> Detail {
        described(&output.record)
    }
}
