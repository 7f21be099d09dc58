//! What the supervisor remembers of a login, to get back to it. Invariant: exists only while logged in. Absent: how.

use std::time::Duration;

use keystead_crypto::arena::LockedBytes;
use keystead_crypto::ports::{HsmKey, TokenInfo};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// The pause after a second failure in a row; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A login that stands, or is to be made again.
pub(super) struct Kept {
    pub(super) pins: Pins,
    pub(super) token: TokenInfo,
    pub(super) bound: Option<([u8; 8], Vec<HsmKey>)>,
    /// The last login without being asked ended without a word from the token: it may have counted.
    pub(super) uncertain: bool,
    pub(super) up_since: Instant,
    pub(super) next_try: Instant,
    pub(super) pause: Duration,
}

/// What to log in again with.
pub(super) enum Pins {
    /// The token took this one last.
    Taken(LockedBytes),
    /// A change was cut off: one of these is right. The last goes first, and none stays here once it is sent.
    Either(Vec<LockedBytes>),
}

impl Kept {
    pub(super) fn new(pin: &[u8], token: TokenInfo) -> Self {
        Self {
            pins: Pins::Taken(LockedBytes::copy_from(pin)),
            token,
            bound: None,
            uncertain: false,
            up_since: Instant::now(),
            next_try: Instant::now(),
            pause: Duration::ZERO,
        }
    }

    /// Whether this is the PIN that the token took last.
    pub(super) fn took(&self, pin: &[u8]) -> bool {
        match &self.pins {
            Pins::Taken(taken) => taken.expose().ct_eq(pin).into(),
            Pins::Either(_) => false,
        }
    }

    pub(super) fn put_off(&mut self) {
        self.next_try = Instant::now() + self.pause;
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }
}
