//! From the vault to a login's holder, and what becomes of a login that nobody took.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keystead_domain::id::RecordId;
use keystead_domain::lease::LeaseRecord;
use keystead_domain::rights::Right;

use crate::engine::Credential;

/// A login that goes to its holder.
pub struct Delivered {
    /// Its lease.
    pub lease: LeaseRecord,
    /// What its holder logs in with.
    pub credential: Credential,
    /// What it can do beyond its role, where the role lets that pass.
    pub excess: Vec<Right>,
}

/// A login that has not gone to its holder yet. Dropped as it is, its lease is revoked: nobody has the password.
pub struct Undelivered {
    content: Option<Delivered>,
    abandoned: Abandoned,
    /// Until it goes, nobody sets another password.
    turn: Option<Turn>,
}

/// Leases whose passwords are being set anew.
#[derive(Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashSet<RecordId>>>);

/// The only one who sets the password of a lease anew: of two repeats at once, the one that answers first would answer with
/// a password that the other has replaced.
pub(super) struct Turn {
    lease: RecordId,
    turns: Turns,
}

impl Turns {
    fn taken(&self) -> MutexGuard<'_, HashSet<RecordId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, lease: RecordId) -> Option<Turn> {
        self.taken().insert(lease).then(|| Turn { lease, turns: self.clone() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.taken().remove(&self.lease);
    }
}

/// Leases whose logins nobody took, with how often they had been reissued then: whoever repeats the request has the login.
#[derive(Clone, Default)]
pub(crate) struct Abandoned(Arc<Mutex<Vec<(RecordId, u32)>>>);

impl Abandoned {
    pub(crate) fn take(&self) -> Vec<(RecordId, u32)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn add(&self, lease: RecordId, reissues: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((lease, reissues));
    }
}

impl Undelivered {
    pub(super) fn new(content: Delivered, abandoned: Abandoned, turn: Option<Turn>) -> Self {
        Self { content: Some(content), abandoned, turn }
    }

    pub(super) fn content(&self) -> Option<&Delivered> {
        self.content.as_ref()
    }

    /// It goes to its holder: to be called at the last moment.
    pub fn deliver(mut self) -> Option<Delivered> {
        self.turn = None;
        self.content.take()
    }
}

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(content) = &self.content {
            self.abandoned.add(content.lease.id, content.lease.reissues);
        }
    }
}
