//! What a request leaves in the audit log.
//!
//! Invariant: an entry is written from here only; a place in the log is reserved before anything is done, and nothing is
//! answered before its entry is durable. Deliberately absent: secret values.

pub mod sealer;
pub(crate) mod stream_end;

use std::sync::Arc;
use std::time::Duration;

use keystead_audit::{AuditLog, Body, BodyInput, Durability, EntryKind, Slot, UnixMillis as AuditMillis};
use keystead_domain::policy::{Action, Decision, Method, Resource};

use self::sealer::AuditSealer;
use crate::clock::Clock;
use crate::error::VaultError;
use crate::keys::TENANT;
use crate::operation::Detail;
use crate::request::{Caller, Peer, RequestContext, Reserved};
use crate::unsealed::{Floor, UnsealedVault};

/// How durable reads are recorded; changes are always flushed to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadDurability {
    /// Flushed before the answer leaves.
    Fsync,
    /// Handed to the operating system: survives a crash of the process, not of the machine.
    Os,
}

impl From<ReadDurability> for Durability {
    fn from(durability: ReadDurability) -> Self {
        match durability {
            ReadDurability::Fsync => Self::Fsync,
            ReadDurability::Os => Self::Os,
        }
    }
}

/// The record of one request, filled as the gate goes on.
pub struct Entry {
    log: Arc<AuditLog>,
    clock: Arc<dyn Clock>,
    sealer: Arc<AuditSealer>,
    reads: Durability,
    arrived: Duration,
    resource: Resource,
    turn: Arc<tokio::sync::Mutex<()>>,
    body: Body,
}

impl Entry {
    pub(crate) fn begin(
        vault: &UnsealedVault,
        ctx: &RequestContext,
        action: Action,
        resource: Resource,
    ) -> Self {
        let body = Body {
            tenant: TENANT.into(),
            peer: Some(ctx.peer.describe()),
            action: action.as_str().into(),
            resource: text(&resource),
            request_id: Some(ctx.request_id.as_str().to_owned()),
            trace_id: ctx.trace_id.clone(),
            ..Body::default()
        };
        Self::new(vault, ctx.arrived, resource, body)
    }

    pub(crate) fn begin_job(
        vault: &UnsealedVault,
        job: &'static str,
        resource: Resource,
        detail: Detail,
    ) -> Self {
        let body = Body {
            principal: format!("system/{job}"),
            tenant: TENANT.into(),
            method: "system".into(),
            action: job.into(),
            resource: resource.to_string(),
            detail: owned(detail).collect(),
            ..Body::default()
        };
        Self::new(vault, vault.clock.monotonic(), resource, body)
    }

    fn new(vault: &UnsealedVault, arrived: Duration, resource: Resource, body: Body) -> Self {
        Self {
            log: Arc::clone(&vault.audit),
            clock: Arc::clone(&vault.clock),
            sealer: vault.sealer(),
            reads: vault.read_durability.into(),
            arrived,
            resource,
            turn: Arc::clone(&vault.reserving),
            body,
        }
    }

    pub(crate) fn resource(&self) -> &Resource {
        &self.resource
    }

    pub(crate) fn request_id(&self) -> &str {
        self.body.request_id.as_deref().unwrap_or_default()
    }

    pub(crate) fn asked(&mut self, detail: Detail) {
        self.body.detail.extend(owned(detail));
    }

    pub(crate) fn identified(&mut self, caller: &Caller) {
        self.body.principal = text(caller.principal());
        self.body.method = caller.method().as_str().into();
    }

    pub(crate) fn decided(&mut self, decision: Decision) {
        self.body.decision = decision.verdict.as_str().into();
        self.body.policies = decision.determining;
        self.body.detail.extend(decision.errors.into_iter().map(|error| ("policy_error".to_owned(), error)));
    }

    pub(crate) async fn reserve(&self, entries: usize) -> Result<Reserved, VaultError> {
        // One at a time takes several: many that each hold one and wait for another would wait for ever.
        let _turn = if entries > 1 { Some(self.turn.lock().await) } else { None };
        let mut slots = Vec::with_capacity(entries);
        for _ in 0..entries {
            slots.push(self.log.reserve_wait().await?);
        }
        Ok(Reserved::new(slots))
    }

    /// The same in the room that is kept for operators, once the caller is known to be one: a full disk must not keep the
    /// vault from being sealed.
    pub(crate) fn reserve_urgent(&self, entries: usize) -> Result<Reserved, VaultError> {
        let mut slots = Vec::with_capacity(entries);
        for _ in 0..entries {
            slots.push(self.log.reserve_privileged()?);
        }
        Ok(Reserved::new(slots))
    }

    pub(crate) async fn record_read<T>(
        &mut self,
        reserved: &mut Reserved,
        result: &Result<T, VaultError>,
        detail: impl FnOnce(&T) -> Detail,
    ) -> Result<(), VaultError> {
        self.conclude(result, detail);
        self.write(reserved, EntryKind::Read, self.reads).await.map(drop)
    }

    /// With the floor that keeps the low water below it until it has its number.
    pub(crate) async fn record_intent(
        &mut self,
        reserved: &mut Reserved,
        floor: Floor<'_>,
    ) -> Result<u64, VaultError> {
        let intent = self.write(reserved, EntryKind::Intent, Durability::Fsync).await?;
        floor.begun(intent);
        Ok(intent)
    }

    pub(crate) async fn record_outcome<T>(
        &mut self,
        reserved: &mut Reserved,
        intent: u64,
        result: &Result<T, VaultError>,
        detail: impl FnOnce(&T) -> Detail,
    ) -> Result<(), VaultError> {
        self.body.intent = Some(intent);
        self.conclude(result, detail);
        match self.write(reserved, EntryKind::Outcome, Durability::Fsync).await {
            Ok(_) => Ok(()),
            Err(VaultError::Audit(error)) => Err(VaultError::OutcomeUnrecorded(error)),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn record_refusal(
        &mut self,
        reserved: &mut Reserved,
        refusal: &VaultError,
    ) -> Result<(), VaultError> {
        self.body.outcome = refusal.reason().into();
        self.write(reserved, EntryKind::Refused, self.reads).await.map(drop)
    }

    /// A caller that nobody knows: the first of an address in a minute is recorded, the rest are counted.
    pub(crate) async fn record_unidentified(
        &mut self,
        vault: &UnsealedVault,
        ctx: &RequestContext,
        refusal: &VaultError,
    ) -> Result<(), VaultError> {
        let Some(before) = vault.refusals.record(ctx.peer, vault.clock.monotonic()) else { return Ok(()) };
        if before > 0 {
            self.body.detail.push(("refused_and_not_recorded_before".to_owned(), before.to_string()));
        }
        let mut reserved = self.reserve(1).await?;
        self.record_refusal(&mut reserved, refusal).await
    }

    pub(crate) async fn record_stream_open(&mut self) -> Result<(), VaultError> {
        let mut reserved = self.reserve(1).await?;
        self.body.outcome = "ok".into();
        self.write(&mut reserved, EntryKind::StreamOpen, self.reads).await.map(drop)
    }

    pub(crate) async fn record_stream_items(
        &mut self,
        mut reserved: Reserved,
        items: usize,
    ) -> Result<(), VaultError> {
        self.body.detail = vec![("items".to_owned(), items.to_string())];
        self.write(&mut reserved, EntryKind::StreamItem, self.reads).await.map(drop)
    }

    pub(crate) async fn record_stream_end(
        &mut self,
        mut reserved: Reserved,
        outcome: &'static str,
    ) -> Result<(), VaultError> {
        self.body.outcome = outcome.into();
        self.write(&mut reserved, EntryKind::StreamEnd, self.reads).await.map(drop)
    }

    fn conclude<T>(&mut self, result: &Result<T, VaultError>, detail: impl FnOnce(&T) -> Detail) {
        match result {
            Ok(output) => {
                self.body.outcome = "ok".into();
                self.body.detail.extend(owned(detail(output)));
            }
            Err(error) => self.body.outcome = error.reason().into(),
        }
    }

    async fn write(
        &mut self,
        reserved: &mut Reserved,
        kind: EntryKind,
        durability: Durability,
    ) -> Result<u64, VaultError> {
        let slot: Slot = reserved.take().ok_or(VaultError::Audit(keystead_audit::AuditError::Closed))?;
        let spent = self.clock.monotonic().saturating_sub(self.arrived);
        self.body.latency_us = u64::try_from(spent.as_micros()).ok();
        // The last entry of a request takes the body; an intent leaves it for the outcome.
        let body = match kind {
            EntryKind::Intent | EntryKind::StreamOpen | EntryKind::StreamItem => self.body.clone(),
            _ => std::mem::take(&mut self.body),
        };
        let input = BodyInput::Sealed(body, Arc::<AuditSealer>::clone(&self.sealer));
        let now = AuditMillis(self.clock.now().0);
        slot.record(kind, now, input, durability).await.map_err(VaultError::Audit)
    }
}

/// As `to_string`, which begins with no room and grows with each part.
fn text(value: &impl std::fmt::Display) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(64);
    // Writing into memory does not fail.
    let _ = write!(text, "{value}");
    text
}

fn owned(detail: Detail) -> impl Iterator<Item = (String, String)> {
    detail.into_iter().map(|(name, value)| (name.to_owned(), value))
}

/// Who called, as far as a sealed vault knows.
#[derive(Debug, Clone)]
pub(crate) struct ClearCaller {
    peer: Peer,
    /// Nothing but who the configuration names.
    principal: String,
    method: &'static str,
}

impl ClearCaller {
    /// One whose certificate the configuration names.
    pub(crate) fn operator(peer: Peer, name: &str) -> Self {
        Self { peer, principal: format!("operator/{name}"), method: Method::Certificate.as_str() }
    }
}

/// Nobody in particular.
impl From<Peer> for ClearCaller {
    fn from(peer: Peer) -> Self {
        Self { peer, principal: String::new(), method: "" }
    }
}

/// An entry of a sealed vault: clear, and naming nobody's data.
pub(crate) struct ClearEntry {
    pub(crate) kind: EntryKind,
    pub(crate) action: &'static str,
    pub(crate) outcome: &'static str,
    /// Who called; nobody did where the vault acts by itself.
    pub(crate) caller: Option<ClearCaller>,
    /// For an outcome: its intent.
    pub(crate) intent: Option<u64>,
    pub(crate) detail: Detail,
}

impl ClearEntry {
    /// Records it, if need be in the room kept for operators.
    pub(crate) async fn record(self, log: &AuditLog, clock: &dyn Clock) -> Result<u64, VaultError> {
        let (principal, method, peer) = match self.caller {
            None => (String::new(), "", None),
            Some(caller) => (caller.principal, caller.method, Some(caller.peer.describe())),
        };
        let body = Body {
            action: self.action.into(),
            resource: "system".into(),
            outcome: self.outcome.into(),
            principal,
            method: method.into(),
            peer,
            intent: self.intent,
            detail: owned(self.detail).collect(),
            ..Body::default()
        };
        // Anybody may be refused; what is kept for operators is for them.
        let slot = match self.kind {
            EntryKind::Refused => log.reserve()?,
            _ => log.reserve_privileged()?,
        };
        let now = AuditMillis(clock.now().0);
        slot.record(self.kind, now, BodyInput::Clear(body), Durability::Fsync)
            .await
            .map_err(VaultError::Audit)
    }
}

#[cfg(test)]
mod tests {
    use keystead_audit::OpenOptions;
    use keystead_domain::time::UnixMillis;

    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn a_refusal_takes_no_place_that_is_kept_for_operators() {
        let dir = tempfile::tempdir().unwrap();
        let options =
            OpenOptions { max_queue: 1, reserve_bytes: 1 << 20, ..OpenOptions::new("test").unwrap() };
        let log = AuditLog::open(dir.path(), options).unwrap();
        let clock = ManualClock::new(UnixMillis(1_000));
        let entry = |kind| ClearEntry {
            kind,
            action: "system:unseal",
            outcome: "ok",
            caller: None,
            intent: None,
            detail: Detail::new(),
        };
        let only = log.reserve().unwrap();
        let refused = entry(EntryKind::Refused).record(&log, &clock).await;
        assert!(matches!(refused, Err(VaultError::AuditRefused(_))), "{refused:?}");
        entry(EntryKind::System).record(&log, &clock).await.unwrap();
        drop(only);
        entry(EntryKind::Refused).record(&log, &clock).await.unwrap();
        log.close();
    }
}
