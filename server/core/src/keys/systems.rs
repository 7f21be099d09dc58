//! System keys: each seals many small records, is counted, and is replaced by count or age.
//!
//! Invariant: a count on disk is never lower than what was sealed: records are taken from blocks that were written down
//! before. Every key that some record may still need is there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keystead_crypto::record::SystemKey;
use keystead_domain::time::UnixMillis;
use keystead_storage::Revision;
use serde::{Deserialize, Serialize};

/// When a system key was made and how often it may have sealed; kept sealed in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemUse {
    /// The key.
    pub id: [u8; 16],
    /// When it was made.
    pub since: UnixMillis,
    /// When another took its place.
    pub superseded: Option<UnixMillis>,
    /// Records that it may have sealed at most.
    pub reserved: u64,
}

/// The system keys of an open vault.
pub(crate) struct Systems {
    pub(crate) keys: HashMap<[u8; 16], Arc<SystemKey>>,
    pub(crate) current: [u8; 16],
    /// The revision of the keyring, which names the current key; nothing before it is stored.
    pub(crate) keyring: Option<Revision>,
    count: Arc<BlockCount>,
}

/// Records sealed under the current key, out of blocks that are on disk.
#[derive(Default)]
struct BlockCount {
    used: AtomicU64,
    reserved: AtomicU64,
}

impl Systems {
    /// Keys, of which one seals, with nothing counted and nothing reserved.
    pub(crate) fn new(
        keys: HashMap<[u8; 16], Arc<SystemKey>>,
        current: [u8; 16],
        keyring: Option<Revision>,
    ) -> Self {
        Self { keys, current, keyring, count: Arc::default() }
    }

    /// The same, once the keyring is stored.
    pub(crate) fn stored(&self, keyring: Revision) -> Self {
        let keys = self.keys.clone();
        Self { keys, current: self.current, keyring: Some(keyring), count: Arc::clone(&self.count) }
    }

    /// The same without a key that no record needs any more.
    pub(crate) fn without(&self, id: &[u8; 16]) -> Self {
        let mut keys = self.keys.clone();
        keys.remove(id);
        Self { keys, current: self.current, keyring: self.keyring, count: Arc::clone(&self.count) }
    }

    /// So many may have been sealed in earlier runs.
    pub(crate) fn counted(&self, reserved: u64) {
        self.count.reserved.fetch_max(reserved, Ordering::AcqRel);
        self.count.used.fetch_max(reserved, Ordering::AcqRel);
    }

    /// One more record, if the block has room.
    pub(crate) fn take(&self) -> bool {
        let reserved = self.count.reserved.load(Ordering::Acquire);
        let next = |used: u64| (used < reserved).then(|| used.saturating_add(1));
        self.count.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).is_ok()
    }

    /// One more record than blocks have: the one that writes the next block down.
    pub(crate) fn take_beyond(&self) {
        self.count.used.fetch_add(1, Ordering::AcqRel);
    }

    /// Records counted.
    pub(crate) fn used(&self) -> u64 {
        self.count.used.load(Ordering::Acquire)
    }

    /// Whether half of the block is used up.
    pub(crate) fn wants_block(&self, block: u64) -> bool {
        let left = self.count.reserved.load(Ordering::Acquire).saturating_sub(self.used());
        left <= block / 2
    }

    /// A block is on disk: this many in all.
    pub(crate) fn reserved(&self, reserved: u64) {
        self.count.reserved.fetch_max(reserved, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sealed_beyond_what_is_written_down() {
        let systems = Systems::new(HashMap::new(), [1; 16], None);
        systems.counted(7);
        assert!(!systems.take() && systems.wants_block(4), "what an earlier run reserved counts as used");
        systems.reserved(9);
        assert!(systems.take() && systems.take() && !systems.take());
        assert_eq!(systems.used(), 9);
    }
}
