//! Pauses between tries of what goes on by itself, by record, in memory: each try is recorded twice, so what keeps failing
//! is tried less and less often. After a restart each is tried at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keystead_domain::id::RecordId;
use keystead_domain::lease::Backoff;
use rand_core::Rng;

use crate::keys::rng;

/// What failed lately.
#[derive(Default)]
pub(super) struct Pauses(Mutex<HashMap<RecordId, Pause>>);

#[derive(Default)]
struct Pause {
    failures: u32,
    /// On the monotonic clock.
    until: Duration,
}

impl Pauses {
    fn all(&self) -> MutexGuard<'_, HashMap<RecordId, Pause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is too early for another try.
    pub(super) fn holds(&self, id: RecordId, now: Duration) -> bool {
        self.all().get(&id).is_some_and(|pause| now < pause.until)
    }

    /// It failed; says how long it is left alone.
    pub(super) fn failed(&self, id: RecordId, now: Duration) -> Duration {
        let mut all = self.all();
        let pause = all.entry(id).or_default();
        pause.failures = pause.failures.saturating_add(1);
        let length = Duration::from_millis(Backoff { failures: pause.failures }.pause(jitter()));
        pause.until = now.saturating_add(length);
        length
    }

    /// It worked, is gone, or is another: the next try comes at once.
    pub(super) fn end(&self, id: RecordId) {
        self.all().remove(&id);
    }
}

/// Random, so that those who failed together do not come back together.
pub(crate) fn jitter() -> u8 {
    let mut byte = [0];
    rng().fill_bytes(&mut byte);
    let [byte] = byte;
    byte
}
