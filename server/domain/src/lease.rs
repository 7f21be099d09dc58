//! Leases: who holds which login, for how long, and how it ends.
//!
//! Invariant: the moves are Issuing → Active → Revoking → Revoked, and Issuing → Revoking; no other exists, and none goes
//! back. A lease never lives longer than `max_expires`, whatever renews it. A lease is closed only by a revocation that the
//! target confirmed, because the target was never asked for its login, or by force, which it remembers. Absent: the secret, which exists only with its holder.

mod backoff;
mod record;

pub use self::backoff::{Backoff, FIRST_PAUSE, LONGEST_PAUSE};
pub use self::record::{
    Closed, Ending, Handle, KEPT_AFTER_END, LeaseError, LeaseRecord, LeaseState, MAKING_AT_MOST, NewLease,
    Why,
};

use crate::time::{Ttl, effective_ttl};

/// The classes of lives that a request may name instead of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseClass {
    /// 180 s.
    Fast,
    /// 5,400 s.
    Medium,
    /// 86,400 s.
    Slow,
}

impl LeaseClass {
    /// Reads its word.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "fast" => Some(Self::Fast),
            "medium" => Some(Self::Medium),
            "slow" => Some(Self::Slow),
            _ => None,
        }
    }

    /// How long that is, in seconds.
    pub const fn as_secs(self) -> u64 {
        match self {
            Self::Fast => 180,
            Self::Medium => 5_400,
            Self::Slow => 86_400,
        }
    }
}

/// What bounds the life of a lease.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What was asked for.
    pub asked: Option<Ttl>,
    /// What the role gives if nobody asks.
    pub default: Ttl,
    /// The role's longest.
    pub role_max: Ttl,
    /// The target's longest.
    pub target_max: Ttl,
    /// The vault's longest.
    pub vault_max: Ttl,
}

impl Terms {
    /// How long one period is: until it has to be renewed.
    pub fn period(&self) -> Ttl {
        effective_ttl(self.asked, self.default, &[self.role_max, self.target_max, self.vault_max])
    }

    /// How long it lives at most, however often it is renewed.
    pub fn longest(&self) -> Ttl {
        effective_ttl(None, self.role_max, &[self.target_max, self.vault_max])
    }
}
