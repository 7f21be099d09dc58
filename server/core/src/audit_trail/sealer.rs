//! The keys of audit bodies: a key a day, kept sealed in the store, so that dropping one is retention; under it a subkey
//! for each process start (docs/audit-format.md). Key id = day (4 bytes, days since 1970) ‖ salt of the process start.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError, RwLock};

use keystead_audit::{BodyOpener, BodySealer, OpenFailed, SealFailed};
use keystead_crypto::arena::LockedKey;
use keystead_crypto::counter::{BodyKey, SALT_BYTES, open_body};
use keystead_domain::time::UnixMillis;

use crate::keys::rng;

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;

/// Days since 1970.
pub(crate) fn day_of(now: UnixMillis) -> u32 {
    u32::try_from(now.0 / DAY_MILLIS).unwrap_or(u32::MAX)
}

/// Seals bodies under this process start's subkey of a day's key.
pub struct AuditSealer {
    day: u32,
    key: BodyKey,
}

impl AuditSealer {
    pub(crate) fn start(day: u32, day_key: &LockedKey) -> Self {
        Self { day, key: BodyKey::start(day_key, &mut rng()) }
    }

    pub(crate) fn day(&self) -> u32 {
        self.day
    }
}

impl BodySealer for AuditSealer {
    fn key_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        let (day, salt) = id.split_at_mut(4);
        day.copy_from_slice(&self.day.to_be_bytes());
        salt.copy_from_slice(&self.key.salt());
        id
    }

    fn seal(&self, header: &[u8], _: u64, body: &[u8]) -> Result<Vec<u8>, SealFailed> {
        self.key.seal(header, body).map_err(|_| SealFailed)
    }
}

/// Opens bodies with the day keys at hand; the days that it lacked are fetched by the vault's upkeep.
#[derive(Default)]
pub struct AuditOpener {
    days: RwLock<HashMap<u32, LockedKey>>,
    wanted: Mutex<BTreeSet<u32>>,
}

impl AuditOpener {
    pub(crate) fn add(&self, day: u32, key: LockedKey) {
        self.days.write().unwrap_or_else(PoisonError::into_inner).insert(day, key);
    }

    pub(crate) fn has(&self, day: u32) -> bool {
        self.days.read().unwrap_or_else(PoisonError::into_inner).contains_key(&day)
    }

    /// Wipes every key: the vault seals.
    pub(crate) fn clear(&self) {
        self.days.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn wanted(&self) -> Vec<u32> {
        std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}

impl BodyOpener for AuditOpener {
    fn open(&self, key_id: [u8; 16], header: &[u8], _: u64, sealed: &[u8]) -> Result<Vec<u8>, OpenFailed> {
        let (day, salt) = split(key_id);
        let days = self.days.read().unwrap_or_else(PoisonError::into_inner);
        let Some(day_key) = days.get(&day) else {
            self.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(day);
            return Err(OpenFailed::NotNow);
        };
        open_body(day_key, &salt, header, sealed).map_err(|_| OpenFailed::NotAuthentic)
    }
}

/// The day in a key id.
pub(crate) fn day_in(key_id: [u8; 16]) -> u32 {
    split(key_id).0
}

fn split(key_id: [u8; 16]) -> (u32, [u8; SALT_BYTES]) {
    let [a, b, c, d, salt @ ..] = key_id;
    (u32::from_be_bytes([a, b, c, d]), salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_day_is_asked_for_and_a_cleared_opener_opens_nothing() {
        let key = || LockedKey::from_slice(&[7; 32]).unwrap();
        let sealer = AuditSealer::start(20_000, &key());
        let opener = AuditOpener::default();
        let sealed = sealer.seal(b"header", 5, b"body").unwrap();
        assert_eq!(day_in(sealer.key_id()), 20_000);
        assert_eq!(opener.open(sealer.key_id(), b"header", 5, &sealed), Err(OpenFailed::NotNow));
        assert_eq!(opener.wanted(), vec![20_000]);
        opener.add(20_000, key());
        assert_eq!(opener.open(sealer.key_id(), b"header", 5, &sealed).unwrap(), b"body");
        opener.clear();
        assert_eq!(opener.open(sealer.key_id(), b"header", 5, &sealed), Err(OpenFailed::NotNow));
    }
}
