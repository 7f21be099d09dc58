//! Keys change: master keys are rotated, ways added and retired, system keys replaced, and one pass over all data keys
//! brings each to the state that the seal record wants.
//!
//! Invariant: a key is destroyed only after a whole pass, begun after the last commit that could name it, found nothing
//! that needs it. Every step is durable before the next begins, so that a crash anywhere is gone on from.

mod join;
mod master;
mod ops;
mod pace;
mod pass;
mod record;
mod reseal;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keystead_domain::time::UnixMillis;

pub use self::master::{RetireWay, RotateMasterKey};
pub use self::ops::{Alarm, GetRotation, KeyReport, ListKeys, SystemKeyReport, WayReport};
use self::pass::PassFile;
pub(crate) use self::pass::estimate;
pub use self::pass::{Beside, Stretch};
use self::reseal::ResealFile;
use crate::keys::{MAX_WRAPS_A_VERSION, MasterKey};

/// How keys are rotated.
#[derive(Debug, Clone)]
pub struct RotationOptions {
    /// Data keys wrapped anew in a second at most.
    pub max_rewraps_per_second: u32,
    /// Age of a master key from which an alarm is raised.
    pub max_age: Duration,
    /// Wraps of a master key from which an alarm is raised.
    pub wraps_alarm: u64,
    /// Records that a system key seals before it is replaced.
    pub system_key_records: u64,
    /// Age at which a system key is replaced.
    pub system_key_age: Duration,
}

impl Default for RotationOptions {
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60;
        Self {
            max_rewraps_per_second: 500,
            max_age: Duration::from_secs(365 * DAY),
            wraps_alarm: MAX_WRAPS_A_VERSION / 2,
            system_key_records: 1 << 30,
            system_key_age: Duration::from_secs(30 * DAY),
        }
    }
}

/// How far the pass over all data keys is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Whether a pass is under way.
    pub running: bool,
    /// When it began.
    pub started: Option<UnixMillis>,
    /// When the last one ended.
    pub finished: Option<UnixMillis>,
    /// Data keys looked at.
    pub looked: u64,
    /// Data keys wrapped anew.
    pub rewrapped: u64,
    /// Data keys in all, estimated from how far the pass is through their random ids.
    pub estimated_total: u64,
    /// Data keys wrapped anew in a second, lately.
    pub rate: u64,
    /// Data keys that still lack something, since a token is away or nothing opens them.
    pub lacking: u64,
    /// The first of those that lack something by a fault of their own: id in hex, and why.
    pub lacking_named: Vec<(String, String)>,
    /// Records that are none, by id in hex; the first of them.
    pub malformed: Vec<String>,
    /// What last went wrong.
    pub last_error: Option<String>,
    /// Every data key has the wraps that the seal record wants.
    pub complete: bool,
}

impl Progress {
    /// Another pass looks at all of them again.
    fn forget_names(&mut self) {
        self.lacking_named.clear();
        self.malformed.clear();
    }
}

/// What is known of rotation while the vault is open.
pub(crate) struct Rotation {
    pub(crate) options: RotationOptions,
    pub(crate) progress: Mutex<Progress>,
    pass: tokio::sync::Mutex<PassFile>,
    reseal: tokio::sync::Mutex<ResealFile>,
    /// One change of master keys or ways at a time.
    changing: tokio::sync::Mutex<()>,
    /// What was last found wrong.
    alarms: Mutex<Vec<Alarm>>,
    /// Master keys that are gone from the tokens that answered, while others of the same way were away.
    half_destroyed: Mutex<HashSet<(String, u32)>>,
    /// A token is back: what a pass left behind may be done now.
    token_back: AtomicBool,
}

impl Rotation {
    pub(crate) fn new(options: RotationOptions) -> Self {
        Self {
            options,
            progress: Mutex::default(),
            pass: tokio::sync::Mutex::default(),
            reseal: tokio::sync::Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            alarms: Mutex::default(),
            half_destroyed: Mutex::default(),
            token_back: AtomicBool::new(false),
        }
    }

    /// To be held by whatever changes keys on tokens or the seal record.
    pub(crate) async fn one_change(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing.lock().await
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn alarms(&self) -> MutexGuard<'_, Vec<Alarm>> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn half_destroyed(&self) -> MutexGuard<'_, HashSet<(String, u32)>> {
        self.half_destroyed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token is back, or what it could do has been begun.
    pub(crate) fn set_token_back(&self, back: bool) {
        self.token_back.store(back, Ordering::SeqCst);
    }

    fn token_is_back(&self) -> bool {
        self.token_back.load(Ordering::SeqCst)
    }
}

/// What is wrong with a key, if anything is.
pub(crate) fn alarms_of(
    key: &MasterKey,
    used: u64,
    options: &RotationOptions,
    now: UnixMillis,
) -> Vec<Alarm> {
    let mut alarms = Vec::new();
    if key.version == 0 || key.superseded.is_some() {
        return alarms;
    }
    let age = Duration::from_millis(now.0.saturating_sub(key.since.0));
    if age >= options.max_age {
        alarms.push(Alarm::Overdue { way: key.way.clone(), version: key.version });
    }
    if used >= options.wraps_alarm {
        alarms.push(Alarm::ManyWraps { way: key.way.clone(), version: key.version, wraps: used });
    }
    alarms
}

#[cfg(test)]
mod tests;
