//! What is known of every version of the master key on every token: since when it wraps, how often it may have wrapped,
//! when it was superseded and destroyed. Kept sealed in the store.
//!
//! Invariant: a count on disk is never lower than what was wrapped: wraps are taken from blocks that were written down
//! before. Absent: what a wrap holds.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystead_crypto::seal_record::{self, SealHeader};
use keystead_domain::time::UnixMillis;
use serde::{Deserialize, Serialize};

/// Wraps that one version of M may make: random 96-bit IVs allow 2^32 (NIST SP 800-38D, section 8.3).
pub const MAX_WRAPS_A_VERSION: u64 = 1 << 32;

/// One version of the master key on one token, or a recovery recipient (version 0, never counted).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterKey {
    /// The name of the way.
    pub way: String,
    /// Counts from 1; 0 for a recovery recipient.
    pub version: u32,
    /// When it began to wrap.
    pub since: UnixMillis,
    /// When another version, or the way's retirement, took its place.
    pub superseded: Option<UnixMillis>,
    /// When it was destroyed on the token and its clones.
    pub destroyed: Option<UnixMillis>,
    /// Wraps that it may have made at most.
    pub reserved: u64,
}

/// All of them, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Ledger(pub(crate) Vec<MasterKey>);

impl Ledger {
    /// Brings it in line with a header; says whether anything changed.
    pub(crate) fn follow(&mut self, header: &SealHeader, now: UnixMillis) -> bool {
        let before = self.clone();
        let mut current: Vec<(String, u32)> = Vec::new();
        for way in &header.ways {
            match way {
                seal_record::Way::Token(token) => {
                    // A version between oldest and current wrapped before this ledger knew it.
                    for version in token.oldest_master..=token.master {
                        self.note(&token.serial, version, now);
                    }
                    current.push((token.serial.clone(), token.master));
                }
                seal_record::Way::Recovery(recovery) => {
                    self.note(&recovery.name(), 0, now);
                    current.push((recovery.name(), 0));
                }
            }
        }
        for key in &mut self.0 {
            let is_current = current.iter().any(|(way, version)| *way == key.way && *version == key.version);
            key.superseded = if is_current { None } else { Some(key.superseded.unwrap_or(now)) };
        }
        *self != before
    }

    fn note(&mut self, way: &str, version: u32, now: UnixMillis) {
        if !self.0.iter().any(|key| key.way == way && key.version == version) {
            self.0.push(MasterKey {
                way: way.to_owned(),
                version,
                since: now,
                superseded: None,
                destroyed: None,
                reserved: 0,
            });
        }
    }

    /// One of them.
    pub(crate) fn find_mut(&mut self, way: &str, version: u32) -> Option<&mut MasterKey> {
        self.0.iter_mut().find(|key| key.way == way && key.version == version)
    }

    /// The keys on tokens that a header needs no more and that nobody destroyed yet.
    pub(crate) fn to_destroy(&self, header: &SealHeader) -> Vec<(String, u32)> {
        let oldest: HashMap<&str, u32> = header
            .ways
            .iter()
            .filter_map(seal_record::Way::token)
            .map(|token| (token.serial.as_str(), token.oldest_master))
            .collect();
        let needed_no_more = |key: &&MasterKey| {
            key.version > 0
                && key.destroyed.is_none()
                && oldest.get(key.way.as_str()).is_some_and(|oldest| key.version < *oldest)
        };
        self.0.iter().filter(needed_no_more).map(|key| (key.way.clone(), key.version)).collect()
    }

    /// The keys that wrapped what lived from `made` until `gone`: each that was in use in between. With its wraps at its
    /// end, none that a pass had not brought to it yet, and those of its wraps in any case: clocks are set back.
    pub(crate) fn that_wrapped(
        &self,
        made: UnixMillis,
        gone: UnixMillis,
        last: Option<&[(String, u32)]>,
    ) -> Vec<MasterKey> {
        let wrapped = |key: &&MasterKey| {
            let in_time = key.since <= gone && key.superseded.is_none_or(|superseded| superseded >= made);
            let reached = last.is_none_or(|last| {
                let of_way = last.iter().filter(|(way, _)| *way == key.way).map(|(_, version)| *version);
                // A way that is gone from the list was retired, and had its time.
                of_way.max().map_or(key.superseded.is_some(), |newest| key.version <= newest)
            });
            let listed = last.is_some_and(|last| {
                last.iter().any(|(way, version)| *way == key.way && *version == key.version)
            });
            listed || (in_time && reached)
        };
        self.0.iter().filter(wrapped).cloned().collect()
    }
}

/// Wraps taken from blocks that are on disk.
#[derive(Default)]
pub(crate) struct Counts(Mutex<HashMap<(String, u32), Count>>);

#[derive(Clone, Copy)]
struct Count {
    used: u64,
    reserved: u64,
}

/// A block is used up, or the whole key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotReserved {
    pub(crate) way: String,
    pub(crate) version: u32,
}

impl Counts {
    /// What the ledger has reserved counts as used: nobody knows how much of it was.
    pub(crate) fn start(ledger: &Ledger) -> Self {
        let counts = Self::default();
        for key in &ledger.0 {
            let count = Count { used: key.reserved, reserved: key.reserved };
            counts.all().insert((key.way.clone(), key.version), count);
        }
        counts
    }

    /// Takes over what another value counted.
    pub(crate) fn replace(&self, other: &Self) {
        let counted = other.all().clone();
        *self.all() = counted;
    }

    /// One more wrap by each of these keys, or by none.
    pub(crate) fn take<'a>(&self, keys: impl Iterator<Item = (&'a str, u32)>) -> Result<(), NotReserved> {
        let mut all = self.all();
        let mut taken = Vec::new();
        for (way, version) in keys {
            let key = (way.to_owned(), version);
            match all.get(&key) {
                Some(count) if count.used < count.reserved => taken.push(key),
                _ => return Err(NotReserved { way: key.0, version }),
            }
        }
        for key in taken {
            if let Some(count) = all.get_mut(&key) {
                count.used = count.used.saturating_add(1);
            }
        }
        Ok(())
    }

    /// A block is on disk: this many in all.
    pub(crate) fn reserved(&self, way: &str, version: u32, reserved: u64) {
        let mut all = self.all();
        let count = all.entry((way.to_owned(), version)).or_insert(Count { used: 0, reserved: 0 });
        count.reserved = count.reserved.max(reserved);
    }

    /// Wraps counted for a key.
    pub(crate) fn used(&self, way: &str, version: u32) -> u64 {
        self.all().get(&(way.to_owned(), version)).map_or(0, |count| count.used)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(String, u32), Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(way: &str, version: u32, since: u64, superseded: Option<u64>) -> MasterKey {
        MasterKey {
            way: way.to_owned(),
            version,
            since: UnixMillis(since),
            superseded: superseded.map(UnixMillis),
            destroyed: None,
            reserved: 0,
        }
    }

    #[test]
    fn what_is_counted_is_never_lower_than_what_was_wrapped() {
        let counts = Counts::default();
        let one = || [("a", 1)].into_iter();
        assert_eq!(counts.take(one()), Err(NotReserved { way: "a".into(), version: 1 }));
        counts.reserved("a", 1, 2);
        assert_eq!((counts.take(one()), counts.take(one())), (Ok(()), Ok(())));
        assert!(counts.take(one()).is_err(), "the block is used up");
        let ledger = Ledger(vec![MasterKey { reserved: 2, ..key("a", 1, 0, None) }]);
        assert_eq!(Counts::start(&ledger).used("a", 1), 2, "after a crash the whole block counts");
        assert!(Counts::start(&ledger).take(one()).is_err());
    }

    #[test]
    fn either_all_keys_of_a_wrap_are_counted_or_none() {
        let counts = Counts::default();
        counts.reserved("a", 1, 5);
        assert!(counts.take([("a", 1), ("b", 1)].into_iter()).is_err());
        assert_eq!(counts.used("a", 1), 0);
    }

    #[test]
    fn the_keys_that_open_a_destroyed_version_in_backups_are_those_in_use_while_it_lived() {
        let ledger = Ledger(vec![
            key("a", 1, 0, Some(10)),
            key("a", 2, 10, Some(20)),
            key("a", 3, 20, None),
            key("b", 1, 5, Some(15)),
        ]);
        let named = |made, last: &[(&str, u32)]| {
            let last: Vec<_> = last.iter().map(|(way, version)| ((*way).to_owned(), *version)).collect();
            let keys = ledger.that_wrapped(UnixMillis(made), UnixMillis(30), Some(&last));
            keys.into_iter().map(|key| format!("{}{}", key.way, key.version)).collect::<Vec<_>>()
        };
        assert_eq!(named(12, &[("a", 3)]), ["a2", "a3", "b1"]);
        assert_eq!(named(12, &[("a", 2)]), ["a2", "b1"], "the pass had not reached it");
        assert_eq!(named(16, &[("a", 3)]), ["a2", "a3"], "the retired token went before it was made");
        assert_eq!(named(25, &[("a", 3)]), ["a3"]);
        // Made at 40, after which the clock was set back, so that it went at 1; or set forward in between.
        let (forward, back) = (UnixMillis(40), UnixMillis(1));
        for (made, gone) in [(forward, back), (back, back), (forward, forward)] {
            let keys = ledger.that_wrapped(made, gone, Some(&[("a".to_owned(), 2), ("b".to_owned(), 1)]));
            for key in [("a", 2), ("b", 1)] {
                assert!(
                    keys.iter().any(|found| (found.way.as_str(), found.version) == key),
                    "{made:?} {gone:?}"
                );
            }
        }
        let earlier = ledger.that_wrapped(UnixMillis(0), UnixMillis(7), None);
        let earlier: Vec<_> = earlier.iter().map(|key| (key.way.as_str(), key.version)).collect();
        assert_eq!(earlier, [("a", 1), ("b", 1)], "asked again, when its wraps are gone");
    }
}
