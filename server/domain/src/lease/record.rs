//! A lease as stored, and its moves.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::RecordId;
use crate::name::Name;
use crate::principal::PrincipalName;
use crate::time::{TimeError, Ttl, UnixMillis};

/// A login that is not made after this many milliseconds is given up: whatever came of it is revoked.
pub const MAKING_AT_MOST: u64 = 45_000;
/// A closed lease is kept this many milliseconds, for whoever asks what became of it.
pub const KEPT_AFTER_END: u64 = 24 * 60 * 60 * 1000;
/// Bytes of an error that are kept.
const ERROR_BYTES: usize = 300;

/// What an engine needs to find and remove a login. Made before the login is, so that it is stored first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    /// The login's name in the target, for people.
    pub name: String,
    /// What else the engine needs, in its own encoding; no secret.
    pub detail: Vec<u8>,
}

/// Where a lease is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LeaseState {
    /// The login is being made, or was when the vault stopped.
    Issuing,
    /// Its holder has the login.
    Active,
    /// The login is being removed.
    Revoking,
    /// The login is gone.
    Revoked,
}

impl LeaseState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Issuing, Self::Active, Self::Revoking, Self::Revoked];

    /// The word that people and audit entries use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issuing => "issuing",
            Self::Active => "active",
            Self::Revoking => "revoking",
            Self::Revoked => "revoked",
        }
    }

    /// Whether it counts against limits: the login may exist.
    pub const fn is_live(self) -> bool {
        !matches!(self, Self::Revoked)
    }
}

impl fmt::Display for LeaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// Its time was over.
    Expired,
    /// Somebody asked for it.
    Asked,
    /// It was not issued to its end: refused, timed out, or the vault stopped meanwhile.
    NotIssued,
    /// Its session ended.
    SessionEnded,
    /// Its owner was disabled or deleted.
    OwnerGone,
    /// Somebody else removed its login.
    LoginGone,
}

impl Why {
    /// The word that people and audit entries use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Asked => "asked",
            Self::NotIssued => "not-issued",
            Self::SessionEnded => "session-ended",
            Self::OwnerGone => "owner-gone",
            Self::LoginGone => "login-gone",
        }
    }
}

/// How a lease ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Why.
    pub why: Why,
    /// Since when.
    pub since: UnixMillis,
    /// Tries that failed.
    pub failures: u32,
    /// When the next try is due.
    pub next_try: UnixMillis,
    /// What the last one said.
    pub last_error: Option<String>,
    /// How it was closed.
    pub closed: Option<Closed>,
}

/// How a lease was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Closed {
    /// The login is gone by the target's word, or the target was never asked for it.
    Confirmed {
        /// When.
        at: UnixMillis,
    },
    /// An operator closed it although the target did not confirm: the login may still be there.
    Forced {
        /// When.
        at: UnixMillis,
        /// Who.
        by: PrincipalName,
    },
}

impl Closed {
    /// When.
    pub const fn at(&self) -> UnixMillis {
        match self {
            Self::Confirmed { at } | Self::Forced { at, .. } => *at,
        }
    }
}

/// What a new lease is made of.
#[derive(Debug, Clone)]
pub struct NewLease {
    /// Its id.
    pub id: RecordId,
    /// Whose it is.
    pub owner: PrincipalName,
    /// Which registration of the owner, so that a name registered anew does not inherit leases.
    pub owner_generation: u64,
    /// The storage key of the owner's session, if a token authenticated it: the lease ends with it.
    pub session: Option<Vec<u8>>,
    /// The role, by name and id.
    pub role: Name,
    /// The role's id.
    pub role_id: RecordId,
    /// The target, by name and id.
    pub target: Name,
    /// The target's id.
    pub target_id: RecordId,
    /// What removes the login.
    pub handle: Handle,
    /// When it is made.
    pub now: UnixMillis,
    /// How long one period is.
    pub period: Ttl,
    /// When it ends however often it is renewed.
    pub max_expires: UnixMillis,
}

/// A lease as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// Its id.
    pub id: RecordId,
    /// Whose it is.
    pub owner: PrincipalName,
    /// Which registration of the owner.
    pub owner_generation: u64,
    /// The storage key of the owner's session.
    pub session: Option<Vec<u8>>,
    /// The role's name when it was issued.
    pub role: Name,
    /// The role.
    pub role_id: RecordId,
    /// The target's name when it was issued.
    pub target: Name,
    /// The target.
    pub target_id: RecordId,
    /// Where it is in its life.
    pub state: LeaseState,
    /// What removes the login.
    pub handle: Handle,
    /// When it was begun.
    pub issued: UnixMillis,
    /// How long one period is.
    pub period: Ttl,
    /// When it ends unless renewed.
    pub expires: UnixMillis,
    /// When it ends whatever happens.
    pub max_expires: UnixMillis,
    /// How often it was renewed.
    pub renewals: u32,
    /// How often its password was set anew for a repeated request.
    pub reissues: u32,
    /// How it ends, once it does.
    pub ending: Option<Ending>,
}

/// Why a lease does not move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// There is no such move.
    #[error("the lease is {from}, so it cannot become {to}")]
    IllegalMove {
        /// Where it is.
        from: LeaseState,
        /// Where it was to go.
        to: LeaseState,
    },
    /// It is over, or about to be.
    #[error("the lease is {state}; issue a new one")]
    NotActive {
        /// Where it is.
        state: LeaseState,
    },
    /// Its time is over.
    #[error("the lease has ended; issue a new one")]
    Over,
    /// It lives as long as it may.
    #[error("the lease lives as long as it may, until {} (milliseconds since 1970); issue a new one", .until.0)]
    AtItsLongest {
        /// Until when.
        until: UnixMillis,
    },
}

impl LeaseRecord {
    /// A lease whose login is about to be made.
    ///
    /// # Errors
    /// When `max_expires` has come.
    pub fn begin(new: NewLease) -> Result<Self, TimeError> {
        let expires = new.period.expiry(new.now, new.max_expires)?;
        Ok(Self {
            id: new.id,
            owner: new.owner,
            owner_generation: new.owner_generation,
            session: new.session,
            role: new.role,
            role_id: new.role_id,
            target: new.target,
            target_id: new.target_id,
            state: LeaseState::Issuing,
            handle: new.handle,
            issued: new.now,
            period: new.period,
            expires,
            max_expires: new.max_expires,
            renewals: 0,
            reissues: 0,
            ending: None,
        })
    }

    /// When somebody has to look at it next.
    pub fn due(&self) -> UnixMillis {
        match (self.state, &self.ending) {
            (LeaseState::Issuing, _) => UnixMillis(self.issued.0.saturating_add(MAKING_AT_MOST)),
            (LeaseState::Active, _) | (_, None) => self.expires.min(self.max_expires),
            (LeaseState::Revoking, Some(ending)) => ending.next_try,
            (LeaseState::Revoked, Some(ending)) => {
                let at = ending.closed.as_ref().map_or(ending.since, Closed::at);
                UnixMillis(at.0.saturating_add(KEPT_AFTER_END))
            }
        }
    }

    /// Whether its holder may use it.
    pub fn counts(&self, now: UnixMillis) -> bool {
        self.state == LeaseState::Active && !self.expires.has_come(now) && !self.max_expires.has_come(now)
    }

    /// The login is made and read back.
    ///
    /// # Errors
    /// `IllegalMove` unless it is Issuing.
    pub fn activate(&mut self) -> Result<(), LeaseError> {
        self.step(LeaseState::Active, &[LeaseState::Issuing])
    }

    /// Begins another period; says until when.
    ///
    /// # Errors
    /// `NotActive`, `Over`, and `AtItsLongest` where renewing would change nothing.
    pub fn renew(&mut self, asked: Option<Ttl>, now: UnixMillis) -> Result<UnixMillis, LeaseError> {
        if self.state != LeaseState::Active {
            return Err(LeaseError::NotActive { state: self.state });
        }
        if !self.counts(now) {
            return Err(LeaseError::Over);
        }
        let period = asked.unwrap_or(self.period);
        let until = period.expiry(now, self.max_expires).map_err(|_| LeaseError::Over)?;
        if self.expires == self.max_expires && until == self.max_expires {
            return Err(LeaseError::AtItsLongest { until });
        }
        self.expires = until;
        self.renewals = self.renewals.saturating_add(1);
        Ok(until)
    }

    /// The login is to be removed from now on. One that is being removed already keeps its reason.
    ///
    /// # Errors
    /// `IllegalMove` if it is gone.
    pub fn begin_revoking(&mut self, why: Why, now: UnixMillis) -> Result<(), LeaseError> {
        if self.state == LeaseState::Revoking {
            return Ok(());
        }
        // A login that is still being made would come after its removal.
        let next_try = if self.state == LeaseState::Issuing { self.due().max(now) } else { now };
        self.step(LeaseState::Revoking, &[LeaseState::Issuing, LeaseState::Active])?;
        self.ending = Some(Ending { why, since: now, failures: 0, next_try, last_error: None, closed: None });
        Ok(())
    }

    /// A failed try is followed by the next now, without its pause. What is waited for before the first try is not cut
    /// short: until then the login may still be made.
    ///
    /// # Errors
    /// `IllegalMove` unless it is Revoking.
    pub fn hurry(&mut self, now: UnixMillis) -> Result<(), LeaseError> {
        self.step(LeaseState::Revoking, &[LeaseState::Revoking])?;
        if let Some(ending) = &mut self.ending
            && ending.failures > 0
        {
            ending.next_try = ending.next_try.min(now);
        }
        Ok(())
    }

    /// A try to remove it failed; the next is due after `pause` milliseconds.
    ///
    /// # Errors
    /// `IllegalMove` unless it is Revoking.
    pub fn failed(&mut self, error: &str, pause: u64, now: UnixMillis) -> Result<(), LeaseError> {
        self.step(LeaseState::Revoking, &[LeaseState::Revoking])?;
        if let Some(ending) = &mut self.ending {
            ending.failures = ending.failures.saturating_add(1);
            ending.next_try = UnixMillis(now.0.saturating_add(pause));
            ending.last_error = Some(cut(error));
        }
        Ok(())
    }

    /// The next try is due then.
    ///
    /// # Errors
    /// `IllegalMove` unless it is Revoking.
    pub fn try_at(&mut self, at: UnixMillis) -> Result<(), LeaseError> {
        self.step(LeaseState::Revoking, &[LeaseState::Revoking])?;
        if let Some(ending) = &mut self.ending {
            ending.next_try = at;
        }
        Ok(())
    }

    /// The login is gone, or an operator takes that upon them.
    ///
    /// # Errors
    /// `IllegalMove` unless it is Revoking.
    pub fn close(&mut self, closed: Closed) -> Result<(), LeaseError> {
        self.step(LeaseState::Revoked, &[LeaseState::Revoking])?;
        if let Some(ending) = &mut self.ending {
            ending.closed = Some(closed);
        }
        Ok(())
    }

    fn step(&mut self, to: LeaseState, from: &[LeaseState]) -> Result<(), LeaseError> {
        if !from.contains(&self.state) {
            return Err(LeaseError::IllegalMove { from: self.state, to });
        }
        self.state = to;
        Ok(())
    }
}

fn cut(text: &str) -> String {
    let end = (0..=ERROR_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
