//! The pass over all data keys, in the order of their ids, by a cursor in the store.
//!
//! Invariant: the cursor moves in the batch that holds what was done up to it. A pass counts for the state that it began
//! for; another wanted state begins another pass.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use keystead_crypto::envelope::WrappedDataKey;
use keystead_domain::id::RecordId;
use keystead_domain::policy::Resource;
use keystead_domain::time::UnixMillis;
use keystead_storage::{Batch, Keyspace, Precondition, Range, Revision, StorageError, keyspace};
use serde::{Deserialize, Serialize};

use super::pace::Pace;
use super::record::{self, Turned};
use crate::error::VaultError;
use crate::keys::corrupt;
use crate::keys::link::means_away;
use crate::keys::ways::{Reached, Ways};
use crate::operation;
use crate::records;
use crate::request::SystemPermit;
use crate::unsealed::UnsealedVault;

/// Data keys looked at in one go.
const PAGE: usize = 256;
/// Data keys changed in one batch: with a precondition each, and room for cursor, seal record and markers.
const A_BATCH: usize = 20;
/// Data keys under way at a time.
const IN_FLIGHT: usize = 4;
/// Data keys changed under one audit entry.
const A_STRETCH: u64 = 1_000;
/// Malformed records that are named.
const NAMED: usize = 16;
/// Tries of one page against other writers.
const TRIES: usize = 16;

/// The job that wraps data keys anew.
enum Rewrap {}

/// The cursor as stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct PassState {
    /// The wanted state that this pass is for.
    pub(super) goal: [u8; 32],
    /// The last data key that is done.
    after: Option<[u8; 16]>,
    started: UnixMillis,
    /// The pass went to the end.
    pub(super) finished: Option<UnixMillis>,
    looked: u64,
    rewrapped: u64,
    /// Data keys that could not be brought to the wanted state.
    pub(super) lacking: u64,
    /// Records that are none. In a backup they may be whole, and then the old keys open them.
    malformed: u64,
}

/// The cursor with its revision; read when first needed.
#[derive(Default)]
pub(super) struct PassFile {
    loaded: bool,
    revision: Option<Revision>,
    pub(super) state: PassState,
    /// The mark that data keys were made that lack a way: the last of them wrote it.
    gaps: Option<Revision>,
    /// The same when the pass began, in this run.
    gaps_at_start: Option<Revision>,
    pace: Option<Pace>,
    /// A pass that left something behind is not repeated before this, on the monotonic clock,
    not_before: Duration,
    /// and each time after twice as long.
    again: Option<Duration>,
}

/// What a stretch of the pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stretch {
    /// There is nothing to do.
    Idle,
    /// There is more.
    More,
    /// The pass is at its end, and every data key is as it should be.
    Clean,
    /// It is at its end, and something is left to be done later.
    Left,
}

/// What goes on beside the pass.
pub trait Beside: Send + Sync {
    /// The vault is being sealed.
    fn closing(&self) -> bool;
    /// Requests that are being answered.
    fn inside(&self) -> usize;
}

/// When a pass that left something behind is begun again, at first and at last.
const AGAIN: Duration = Duration::from_secs(60);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60 * 60);
/// While it pauses, the pass looks so often whether the vault closes.
const LOOK: Duration = Duration::from_millis(100);

impl UnsealedVault {
    /// Goes on with the pass for a while: until the vault closes, a thousand changes, or the end. Recorded before and after.
    ///
    /// # Errors
    /// Those of log, store and HSM; the next call goes on from the last durable place.
    pub async fn rewrap(&self, beside: &dyn Beside) -> Result<Stretch, VaultError> {
        let snapshot = self.storage.snapshot().await?;
        self.keys.follow_seal(snapshot.as_ref(), self.storage.as_ref()).await?;
        drop(snapshot);
        let mut file = self.rotation.pass.lock().await;
        self.load_pass(&mut file).await?;
        if !self.pass_is_due(&file) {
            // It may have ended in an earlier run, or by a write that gave no answer.
            self.show_pass(&file.state);
            return Ok(Stretch::Idle);
        }
        let ways = self.keys.ways();
        if file.state.goal != ways.goal() || file.state.finished.is_some() {
            self.rotation.progress().forget_names();
            file.state = PassState { goal: ways.goal(), started: self.clock.now(), ..PassState::default() };
            file.gaps_at_start = file.gaps;
            self.rotation.set_token_back(false);
        }
        self.show_pass(&file.state);
        let stretch = operation::run_job(self, "rewrap", Resource::System, Vec::new(), |permit| {
            self.rewrap_stretch(permit, &mut file, &ways, beside)
        });
        let result = stretch.await;
        match &result {
            Ok(_) => self.rotation.progress().last_error = None,
            Err(error) => self.rotation.progress().last_error = Some(error.to_string()),
        }
        self.show_pass(&file.state);
        result
    }

    /// All that is to be done for keys, until there is nothing more or the vault closes: the pass, the end of a rotation, the
    /// system keys. What keeps one of them from going on is no reason to leave the others.
    ///
    /// # Errors
    /// The first of theirs; the next call goes on.
    pub async fn look_after_keys(&self, beside: &dyn Beside) -> Result<(), VaultError> {
        let rewrapped = async {
            while !beside.closing() && self.rewrap(beside).await? == Stretch::More {}
            Ok(())
        };
        let system_keys = async {
            while !beside.closing() && self.look_after_system_keys().await? {}
            Ok(())
        };
        let rewrapped: Result<(), VaultError> = rewrapped.await;
        rewrapped.and(self.end_rotation().await).and(system_keys.await)
    }

    async fn load_pass(&self, file: &mut PassFile) -> Result<(), VaultError> {
        let gaps = self.storage.snapshot().await?.get(Keyspace::Meta, &keyspace::meta_gaps()).await?;
        file.gaps = gaps.map(|stored| stored.revision);
        if file.loaded {
            return Ok(());
        }
        let at = keyspace::meta_rewrap();
        let snapshot = self.storage.snapshot().await?;
        if let Some(stored) = snapshot.get(Keyspace::Meta, &at).await? {
            let plain = self.keys.open_record(Keyspace::Meta, &at, &stored.value)?;
            file.state = records::decode(plain.expose()).ok_or_else(|| corrupt(Keyspace::Meta, &at))?;
            file.revision = Some(stored.revision);
        }
        file.loaded = true;
        Ok(())
    }

    fn pass_is_due(&self, file: &PassFile) -> bool {
        let state = &file.state;
        let wanted = state.goal != self.keys.ways().goal() || state.finished.is_none();
        let left = state.left() || file.gaps.is_some();
        let again = left && (self.rotation.token_is_back() || self.clock.monotonic() >= file.not_before);
        wanted || again
    }

    /// Whether a whole pass for the wanted state of now found every data key in it. Does not wait for one under way.
    pub(super) async fn pass_is_clean(&self) -> Result<bool, VaultError> {
        let Ok(mut file) = self.rotation.pass.try_lock() else { return Ok(false) };
        self.load_pass(&mut file).await?;
        let state = &file.state;
        if file.revision.is_some() {
            // Of an earlier run, until this one goes on with it.
            self.show_pass(state);
        }
        let done = state.goal == self.keys.ways().goal() && state.finished.is_some();
        Ok(done && !state.left() && file.gaps.is_none())
    }

    async fn rewrap_stretch(
        &self,
        permit: SystemPermit<Rewrap>,
        file: &mut PassFile,
        ways: &Ways,
        beside: &dyn Beside,
    ) -> Result<Stretch, VaultError> {
        let until = file.state.rewrapped.saturating_add(A_STRETCH);
        let mut conflicts = 0_usize;
        while file.state.finished.is_none() && file.state.rewrapped < until && !beside.closing() {
            match self.rewrap_page(&permit, file, ways, beside).await {
                Ok(()) => conflicts = 0,
                // Somebody destroyed or wrapped one of them: look again. Another seal record ends the stretch.
                Err(VaultError::Storage(StorageError::Conflict { keyspace: Keyspace::DataKeys, .. }))
                    if conflicts < TRIES =>
                {
                    conflicts = conflicts.saturating_add(1);
                }
                Err(VaultError::Storage(StorageError::Conflict { .. })) => return Ok(Stretch::More),
                Err(error) => return Err(error),
            }
            self.show_pass(&file.state);
        }
        if file.state.finished.is_none() {
            return Ok(Stretch::More);
        }
        self.end_pass(&permit, file).await
    }

    /// Looks at a page, changes what has to be changed, and moves the cursor behind it.
    async fn rewrap_page(
        &self,
        permit: &SystemPermit<Rewrap>,
        file: &mut PassFile,
        ways: &Ways,
        beside: &dyn Beside,
    ) -> Result<(), VaultError> {
        let snapshot = self.storage.snapshot().await?;
        let after = file.state.after.map(|id| id.to_vec());
        let page = snapshot.range(Keyspace::DataKeys, Range::all(after.as_deref()), PAGE).await?;
        let last_page = page.len() < PAGE;
        drop(snapshot);
        let mut next = file.state.clone();
        let mut work = Vec::new();
        let mut whole_page = true;
        for (key, stored) in page {
            if work.len() == A_BATCH {
                whole_page = false;
                break;
            }
            next.looked = next.looked.saturating_add(1);
            let id = <[u8; 16]>::try_from(key.as_ref()).ok();
            next.after = id.or(next.after);
            match (id, WrappedDataKey::decode(&stored.value)) {
                (Some(_), Ok(wrapped)) if ways.satisfied_by(wrapped.wraps()) => {}
                (Some(id), Ok(wrapped)) => work.push((RecordId(id), stored.revision, wrapped)),
                _ => {
                    next.malformed = next.malformed.saturating_add(1);
                    self.name_malformed(&key);
                }
            }
        }
        let mut batch = Batch::new();
        for (id, revision, turned) in self.turn_all(file, ways, work, beside).await? {
            match turned {
                Ok(turned) => {
                    next.lacking = next.lacking.saturating_add(u64::from(!turned.whole));
                    if turned.changed {
                        next.rewrapped = next.rewrapped.saturating_add(1);
                        let at = keyspace::data_key(id.as_bytes());
                        batch.require(Keyspace::DataKeys, at.clone(), Precondition::Revision(revision));
                        batch.put(Keyspace::DataKeys, at, turned.wrapped.encode());
                    }
                }
                // Only this one: it is named, and keeps the old keys alive; the others go on.
                Err(error) if is_of_the_data_key(&error) => {
                    self.name_lacking(id, &error);
                    next.lacking = next.lacking.saturating_add(1);
                }
                Err(error) => return Err(error),
            }
        }
        if whole_page && last_page {
            next.finished = Some(self.clock.now());
        }
        if let Some(seal) = ways.seal {
            batch.require(Keyspace::Seal, keyspace::seal_record(), Precondition::Revision(seal));
        }
        self.store_pass(Some(permit.intent()), file, next, batch).await
    }

    /// Some at a time, with a pause after each that grows while others wait.
    async fn turn_all(
        &self,
        file: &mut PassFile,
        ways: &Ways,
        work: Vec<(RecordId, Revision, WrappedDataKey)>,
        beside: &dyn Beside,
    ) -> Result<Vec<(RecordId, Revision, Result<Turned, VaultError>)>, VaultError> {
        if work.is_empty() {
            return Ok(Vec::new());
        }
        let began = self.clock.monotonic();
        let done = u32::try_from(work.len()).unwrap_or(u32::MAX);
        let turned: Vec<_> = stream::iter(work)
            .map(|(id, revision, wrapped)| async move {
                (id, revision, record::turn(self, ways, id, wrapped).await)
            })
            .buffered(IN_FLIGHT)
            .collect()
            .await;
        let took = self.clock.monotonic().saturating_sub(began) / done.max(1);
        let per_second = self.rotation.options.max_rewraps_per_second;
        let pace = file.pace.get_or_insert_with(|| Pace::new(per_second));
        let pause = pace.after(took, beside.inside()).saturating_mul(done);
        let mut left = pause;
        while !left.is_zero() && !beside.closing() {
            let slice = left.min(LOOK);
            tokio::time::sleep(slice).await;
            left = left.saturating_sub(slice);
        }
        let spent = self.clock.monotonic().saturating_sub(began).max(Duration::from_millis(1));
        let rate = u128::from(done).saturating_mul(1000) / spent.as_millis().max(1);
        self.rotation.progress().rate = u64::try_from(rate).unwrap_or(u64::MAX);
        Ok(turned)
    }

    async fn store_pass(
        &self,
        intent: Option<u64>,
        file: &mut PassFile,
        next: PassState,
        mut batch: Batch,
    ) -> Result<(), VaultError> {
        let at = keyspace::meta_rewrap();
        let plain = records::encode(&next).map_err(|_| corrupt(Keyspace::Meta, &at))?;
        let sealed = self.keys.seal_record(Keyspace::Meta, &at, &plain)?;
        let unchanged = file.revision.map_or(Precondition::Absent, Precondition::Revision);
        batch.require(Keyspace::Meta, at.clone(), unchanged);
        batch.put(Keyspace::Meta, at, sealed);
        // An unknown outcome may have moved the cursor on: whoever comes next reads it again.
        file.loaded = false;
        file.revision = Some(self.commit(intent, batch).await?);
        file.loaded = true;
        file.state = next;
        Ok(())
    }

    /// At the end: is all as it should be, and will it stay so?
    async fn end_pass(
        &self,
        permit: &SystemPermit<Rewrap>,
        file: &mut PassFile,
    ) -> Result<Stretch, VaultError> {
        let again = file.again.map_or(AGAIN, |again| again.saturating_mul(2).min(AGAIN_AT_MOST));
        file.again = Some(again);
        file.not_before = self.clock.monotonic().saturating_add(again);
        if file.state.left() {
            return Ok(Stretch::Left);
        }
        if file.gaps.is_some() && !self.remove_gaps_mark(permit, file).await? {
            file.not_before = Duration::ZERO;
            return Ok(Stretch::Left);
        }
        file.again = None;
        Ok(Stretch::Clean)
    }

    /// Says whether it could go. A data key that came since the pass began, perhaps behind it, has changed the mark.
    async fn remove_gaps_mark(
        &self,
        permit: &SystemPermit<Rewrap>,
        file: &mut PassFile,
    ) -> Result<bool, VaultError> {
        let Some(mark) = file.gaps_at_start else { return Ok(false) };
        let mut batch = Batch::new();
        batch.require(Keyspace::Meta, keyspace::meta_gaps(), Precondition::Revision(mark));
        batch.delete(Keyspace::Meta, keyspace::meta_gaps());
        match self.commit(Some(permit.intent()), batch).await {
            Ok(_) => file.gaps = None,
            Err(VaultError::Storage(StorageError::Conflict { .. })) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Writes the cursor anew, under the system key in force.
    pub(super) async fn renew_pass(&self, intent: u64) -> Result<(), VaultError> {
        let mut file = self.rotation.pass.lock().await;
        self.load_pass(&mut file).await?;
        if file.revision.is_none() {
            return Ok(());
        }
        let state = file.state.clone();
        self.store_pass(Some(intent), &mut file, state, Batch::new()).await
    }

    /// Counts one wrap by one token, reserving a block if need be.
    pub(super) async fn count_wrap(&self, reached: &[Reached<'_>], name: &str) -> Result<(), VaultError> {
        let Some(of) = reached.iter().find(|reached| reached.token.serial == name) else { return Ok(()) };
        while let Err(wanted) = self.keys.count_wraps(std::slice::from_ref(of)) {
            self.keys.reserve_wraps(self.storage.as_ref(), &wanted).await?;
        }
        Ok(())
    }

    fn name_lacking(&self, id: RecordId, error: &VaultError) {
        let name = data_encoding::HEXLOWER.encode(id.as_bytes());
        let mut progress = self.rotation.progress();
        // A token at fault may fail for all of them.
        let room = progress.lacking_named.len() < NAMED;
        if room || matches!(error, VaultError::CorruptRecord { .. }) {
            tracing::error!(data_key = %name, %error, "a data key cannot be wrapped anew; if it opens no more, restore it from a backup");
        }
        if room && progress.lacking_named.iter().all(|(known, _)| *known != name) {
            progress.lacking_named.push((name, error.to_string()));
        }
    }

    fn name_malformed(&self, key: &[u8]) {
        let name = data_encoding::HEXLOWER.encode(key);
        tracing::error!(data_key = %name, "a data key's record is malformed; restore it from a backup");
        let mut progress = self.rotation.progress();
        if progress.malformed.len() < NAMED && !progress.malformed.contains(&name) {
            progress.malformed.push(name);
        }
    }

    fn show_pass(&self, state: &PassState) {
        let mut progress = self.rotation.progress();
        progress.running = state.finished.is_none();
        progress.started = Some(state.started);
        progress.finished = state.finished;
        progress.looked = state.looked;
        progress.rewrapped = state.rewrapped;
        progress.lacking = state.lacking;
        progress.estimated_total = match (state.finished, state.after) {
            (None, Some(id)) => estimate(state.looked, id),
            _ => state.looked,
        };
    }
}

impl PassState {
    /// Whether the pass left something behind that may need the old keys.
    fn left(&self) -> bool {
        self.lacking > 0 || self.malformed > 0
    }
}

/// Whether the error says something of the one data key. All else (a token that is away, the store, the log) would be the
/// same for the next one.
fn is_of_the_data_key(error: &VaultError) -> bool {
    match error {
        VaultError::Hsm(error) => !means_away(error),
        VaultError::CorruptRecord { .. } | VaultError::MasterKeyUsedUp { .. } => true,
        _ => false,
    }
}

/// How many there are, if so many lie before this id: ids are random, so they lie evenly.
pub(crate) fn estimate(looked: u64, [a, b, c, d, ..]: [u8; 16]) -> u64 {
    let behind = u64::from(u32::from_be_bytes([a, b, c, d])).saturating_add(1);
    let total = u128::from(looked) << 32;
    u64::try_from(total / u128::from(behind)).unwrap_or(u64::MAX).max(looked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_estimated_from_the_place_among_random_ids() {
        let mut half = [0; 16];
        half[0] = 0x80;
        assert_eq!(estimate(1000, half), 1999);
        assert_eq!(estimate(1000, [0xff; 16]), 1000);
        assert!(estimate(1, [0; 16]) >= 1);
    }
}
