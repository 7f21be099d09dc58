//! The whole policy of the vault on one page: identify → decide → reserve audit → handle → record → answer.
//!
//! Invariant: there is no second way to a [`Permit`]. A read is recorded once, before its answer leaves; a change is
//! recorded before it takes effect and after, and goes on when its caller hangs up.

use std::future::Future;
use std::sync::Arc;

use futures::stream::{self, Stream};
use keystead_domain::policy::{Action, Decision, Resource, Verdict};
use keystead_storage::Snapshot;

use crate::audit_trail::Entry;
use crate::audit_trail::stream_end::StreamEnd;
use crate::auth;
use crate::error::VaultError;
use crate::request::{Allowed, Caller, Permit, RequestContext, Reserved, SystemPermit};
use crate::unsealed::UnsealedVault;
use crate::vault::{OpenVault, Vault, to_its_end};

/// What an operation does to the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: one audit entry with decision and outcome.
    Read,
    /// Something: an intent before, an outcome after.
    Change,
}

/// Who grants an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The policies.
    Policy,
    /// Being identified is enough: it concerns nobody but the caller.
    Identified,
    /// What is the caller's own needs no policy; anything else does.
    Owner,
}

/// Facts for the audit entry, by name; never a secret.
pub type Detail = Vec<(&'static str, String)>;

/// One thing that a caller may ask for.
pub trait Operation: Send + Sized + 'static {
    /// What it answers.
    type Output: Send + Sync + 'static;
    /// What policies call it.
    const ACTION: Action;
    /// Whether it changes anything.
    const EFFECT: Effect;
    /// Who grants it.
    const GRANT: Grant = Grant::Policy;
    /// Whether it may use the room that the audit log keeps for operators.
    const URGENT: bool = false;

    /// On what.
    fn resource(&self) -> Resource;

    /// What else the audit entry should say of the request, whatever becomes of it.
    fn asked(&self) -> Detail {
        Detail::new()
    }

    /// Whether it concerns what is the caller's own, for [`Grant::Owner`]. What is not there is nobody's.
    fn is_own(
        &self,
        _vault: &UnsealedVault,
        _caller: &Caller,
    ) -> impl Future<Output = Result<bool, VaultError>> + Send {
        std::future::ready(Ok(false))
    }

    /// Does it.
    fn handle(
        self,
        vault: &UnsealedVault,
        permit: Permit<Self>,
    ) -> impl Future<Output = Result<Self::Output, VaultError>> + Send;

    /// What the audit entry should say of the answer.
    fn detail(output: &Self::Output) -> Detail;
}

/// Runs one operation for one request.
///
/// # Errors
/// `Unauthenticated`, `Denied`, `NeedsApproval`, `Audit`, and those of the operation.
pub async fn run<Op: Operation>(
    vault: &OpenVault,
    ctx: RequestContext,
    op: Op,
) -> Result<Op::Output, VaultError> {
    let mut entry = Entry::begin(vault, &ctx, Op::ACTION, op.resource());
    entry.asked(op.asked());
    let (caller, view) = identify(vault, &ctx, &mut entry).await?;
    let grant = match Op::GRANT {
        // What cannot be looked at is nobody's: the policies decide, and the refusal tells no more than any other.
        Grant::Owner if !op.is_own(vault, &caller).await.unwrap_or(false) => Grant::Policy,
        grant => grant,
    };
    let allowed = decide::<Op>(vault, &caller, Op::ACTION, grant, &mut entry).await?;
    match Op::EFFECT {
        Effect::Read => {
            let mut reserved = entry.reserve(1).await?;
            // One view for who asks and for what is there: a decision shows nothing that came after it.
            let permit = Permit::grant(caller, allowed, &reserved).with_view(view);
            let result = op.handle(vault, permit).await;
            entry.record_read(&mut reserved, &result, Op::detail).await?;
            result
        }
        Effect::Change => {
            drop(view);
            let reserved = if Op::URGENT { entry.reserve_urgent(2)? } else { entry.reserve(2).await? };
            // A caller that hangs up must not leave an intent without its outcome.
            let open = vault.clone();
            // Boxed here, so that the future of a read is not as large as that of a change.
            let change = Box::pin(async move { change(&open, entry, reserved, caller, allowed, op).await });
            vault.finish(&ctx.request_id, change).await
        }
    }
}

async fn change<Op: Operation>(
    vault: &UnsealedVault,
    mut entry: Entry,
    mut reserved: Reserved,
    caller: Caller,
    allowed: Allowed<Op>,
    op: Op,
) -> Result<Op::Output, VaultError> {
    let intent = entry.record_intent(&mut reserved, vault.intent_floor()).await?;
    let permit = Permit::grant(caller, allowed, &reserved).with_intent(intent);
    let result = op.handle(vault, permit).await;
    entry.record_outcome(&mut reserved, intent, &result, Op::detail).await?;
    vault.intent_settled(intent);
    result
}

/// What the vault does by itself, under its own name.
///
/// # Errors
/// `Audit`, and those of the job.
pub async fn run_job<Job, T, Work>(
    vault: &UnsealedVault,
    job: &'static str,
    resource: Resource,
    detail: Detail,
    work: impl FnOnce(SystemPermit<Job>) -> Work,
) -> Result<T, VaultError>
where
    Work: Future<Output = Result<T, VaultError>>,
{
    let mut entry = Entry::begin_job(vault, job, resource, detail);
    let mut reserved = entry.reserve(2).await?;
    let intent = entry.record_intent(&mut reserved, vault.intent_floor()).await?;
    let result = work(SystemPermit::recorded(intent)).await;
    entry.record_outcome(&mut reserved, intent, &result, |_| Detail::new()).await?;
    vault.intent_settled(intent);
    result
}

/// A stream of answers to one request.
pub trait StreamOperation: Send + Sync + Sized + 'static {
    /// One answer.
    type Item: Send + 'static;
    /// What policies call it.
    const ACTION: Action;
    /// Who grants it.
    const GRANT: Grant = Grant::Policy;
    /// Whether each value is recorded. Only reading the audit log itself is not: each record would be a new value.
    const RECORD_ITEMS: bool;

    /// On what.
    fn resource(&self) -> Resource;

    /// As [`Operation::is_own`]; asked again at each event.
    fn is_own(
        &self,
        _vault: &UnsealedVault,
        _caller: &Caller,
    ) -> impl Future<Output = Result<bool, VaultError>> + Send {
        std::future::ready(Ok(false))
    }

    /// Takes what it needs for as long as it lasts, once its caller is let in; a refusal is recorded.
    fn begin(
        &mut self,
        _vault: &UnsealedVault,
        _caller: &Caller,
    ) -> impl Future<Output = Result<(), VaultError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Waits, without a gate, until there may be a value; `false` at the end.
    fn ready(&mut self) -> impl Future<Output = bool> + Send;

    /// The next values.
    fn next(
        &mut self,
        vault: &UnsealedVault,
        permit: &Permit<Self>,
    ) -> impl Future<Output = Result<Vec<Self::Item>, VaultError>> + Send;
}

/// Opens a stream: recorded when opened, authorized again at each event, recorded at its end. `counts` says whether the
/// certificate of its connection still does: streams outlive certificates.
///
/// # Errors
/// As [`run`]; an error in the midst ends the stream.
pub async fn run_stream<Op: StreamOperation>(
    vault: Arc<Vault>,
    ctx: RequestContext,
    counts: impl Fn() -> bool + Send + 'static,
    mut op: Op,
) -> Result<impl Stream<Item = Result<Op::Item, VaultError>> + Send + 'static, VaultError> {
    let open = vault.opened().await?;
    let mut entry = Entry::begin(&open, &ctx, Op::ACTION, op.resource());
    let (caller, _) = let_in(&open, &ctx, &op, &mut entry).await?;
    if let Err(refusal) = op.begin(&open, &caller).await {
        let mut reserved = entry.reserve(1).await?;
        entry.record_refusal(&mut reserved, &refusal).await?;
        return Err(refusal);
    }
    entry.record_stream_open().await?;
    let end = StreamEnd::of(Arc::clone(&vault), &ctx, caller, Op::ACTION, op.resource());
    drop(open);
    let state = (vault, ctx, counts, op, end, Vec::new().into_iter());
    Ok(stream::unfold(Some(state), |state| async move {
        let (vault, mut ctx, counts, mut op, mut end, mut ready) = state?;
        loop {
            if let Some(item) = ready.next() {
                return Some((Ok(item), Some((vault, ctx, counts, op, end, ready))));
            }
            // An event that began before a sealing may have read the seal's own entry: nothing more would wake it.
            let more = tokio::select! {
                more = op.ready() => more,
                () = vault.sealed() => true,
                () = vault.streams_ended() => {
                    // Not as its end: whoever follows has to come back.
                    let interrupted = VaultError::Interrupted { what: "the stream" };
                    let recorded = end.record(interrupted.reason()).await;
                    return Some((Err(recorded.err().unwrap_or(interrupted)), None));
                }
            };
            if !more {
                return end.record("ok").await.err().map(|error| (Err(error), None));
            }
            ctx.refused |= !counts();
            // In a task of its own: nobody polls this while the caller takes nothing, and an event holds the vault open. The end
            // goes with it, so that it is recorded after, also if the caller hangs up meanwhile.
            let inside = Arc::clone(&vault);
            let event = to_its_end("following", async move {
                let items = stream_event(&inside, &ctx, &mut op).await;
                Ok((ctx, op, end, items))
            });
            let items;
            (ctx, op, end, items) = match event.await {
                Ok(event) => event,
                Err(error) => return Some((Err(error), None)),
            };
            match items {
                Ok(items) => ready = items.into_iter(),
                Err(error) => {
                    let recorded = end.record(error.reason()).await;
                    return Some((Err(recorded.err().unwrap_or(error)), None));
                }
            }
        }
    }))
}

async fn stream_event<Op: StreamOperation>(
    vault: &Arc<Vault>,
    ctx: &RequestContext,
    op: &mut Op,
) -> Result<Vec<Op::Item>, VaultError> {
    let open = vault.unsealed()?;
    // Made anew: between events a stream holds no key, and nothing that grows.
    let mut entry = Entry::begin(&open, ctx, Op::ACTION, op.resource());
    let (caller, allowed) = let_in(&open, ctx, op, &mut entry).await?;
    let reserved = entry.reserve(1).await?;
    let permit = Permit::grant(caller, allowed, &reserved);
    let items = op.next(&open, &permit).await?;
    // Once more after reading: what took the right away may be among what was read, and nothing else would wake this.
    let still = vault.unsealed()?;
    let mut check = Entry::begin(&still, ctx, Op::ACTION, op.resource());
    let_in(&still, ctx, op, &mut check).await?;
    if Op::RECORD_ITEMS && !items.is_empty() {
        entry.record_stream_items(reserved, items.len()).await?;
    }
    Ok(items)
}

/// Identifies and decides, for a stream.
async fn let_in<Op: StreamOperation>(
    vault: &UnsealedVault,
    ctx: &RequestContext,
    op: &Op,
    entry: &mut Entry,
) -> Result<(Caller, Allowed<Op>), VaultError> {
    let (caller, _) = identify(vault, ctx, entry).await?;
    let grant = match Op::GRANT {
        Grant::Owner if !op.is_own(vault, &caller).await.unwrap_or(false) => Grant::Policy,
        grant => grant,
    };
    let allowed = decide::<Op>(vault, &caller, Op::ACTION, grant, entry).await?;
    Ok((caller, allowed))
}

async fn identify(
    vault: &UnsealedVault,
    ctx: &RequestContext,
    entry: &mut Entry,
) -> Result<(Caller, Box<dyn Snapshot>), VaultError> {
    match auth::identify(vault, ctx).await {
        Ok((caller, view)) => {
            entry.identified(&caller);
            Ok((caller, view))
        }
        Err(error) => {
            entry.record_unidentified(vault, ctx, &error).await?;
            Err(error)
        }
    }
}

async fn decide<Op>(
    vault: &UnsealedVault,
    caller: &Caller,
    action: Action,
    grant: Grant,
    entry: &mut Entry,
) -> Result<Allowed<Op>, VaultError> {
    let decision = match grant {
        Grant::Policy => vault.decide(caller, action, entry.resource()),
        Grant::Identified => without_policy("identified"),
        Grant::Owner => without_policy("owner"),
    };
    let reason_id = || entry.request_id().to_owned();
    let refusal = match decision.verdict {
        Verdict::Allow => None,
        Verdict::Deny => Some(VaultError::Denied { reason_id: reason_id() }),
        Verdict::NeedsApproval => Some(VaultError::NeedsApproval { reason_id: reason_id() }),
    };
    entry.decided(decision);
    match refusal {
        None => Ok(Allowed::decided()),
        Some(refusal) => {
            let mut reserved: Reserved = entry.reserve(1).await?;
            entry.record_refusal(&mut reserved, &refusal).await?;
            Err(refusal)
        }
    }
}

fn without_policy(why: &str) -> Decision {
    Decision {
        verdict: Verdict::Allow,
        determining: vec![why.to_owned()],
        errors: Vec::new(),
        cacheable: true,
    }
}
