//! Issuing: lease → login → read back → active → answer.
//!
//! Invariant: the lease is in the store, with what removes the login, before the target is asked. Whatever goes wrong after
//! that, an answer that nobody takes included, ends in a revocation.

mod delivery;

use std::sync::Arc;
use std::time::Duration;

use keystead_domain::id::RequestId;
use keystead_domain::lease::{Closed, LeaseRecord, LeaseState, NewLease, Terms, Why};
use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::time::{Ttl, UnixMillis};
use keystead_storage::{Batch, Keyspace, Precondition, Revision, Snapshot, StorageError};

use self::delivery::Turn;
pub(crate) use self::delivery::{Abandoned, Turns};
pub use self::delivery::{Delivered, Undelivered};
use super::roles::{self, StoredRole};
use super::targets::StoredTarget;
use super::{CredentialError, ONE_CALL, in_time, role_at, target_at};
use crate::auth;
use crate::engine::{EngineError, Issued, Link, Order, Plan};
use crate::error::VaultError;
use crate::fail_points::{self, Step};
use crate::keys::{fresh_id, rng};
use crate::leases::store::{self, Stored};
use crate::operation::{Detail, Effect, Operation};
use crate::request::Permit;
use crate::request_ids::{self, Answer, Seen};
use crate::unsealed::UnsealedVault;

/// A target has so long to make a login.
const ISSUE_AT_MOST: Duration = Duration::from_secs(15);
/// A call that gave no answer may still have its effect for so long, in milliseconds: a revocation waits for that.
const SETTLES_AFTER: u64 = 20_000;
/// The target ends a login by itself so long after its lease, should the vault not get to it.
const GRACE: Duration = Duration::from_secs(120);
/// Tries of one change against other writers.
const TRIES: usize = 16;

/// Issues a login from a role.
pub struct IssueCredential {
    /// The role.
    pub role: Name,
    /// For how long; nothing means the role's default. More than the role or target allows is cut.
    pub ttl: Option<Ttl>,
    /// The same id with the same request answers the same lease again, with another password.
    pub request_id: Option<RequestId>,
}

/// Role and target, as one snapshot has them.
struct From {
    role: StoredRole,
    role_revision: Revision,
    target: StoredTarget,
    target_revision: Revision,
    link: Arc<dyn Link>,
}

async fn from(vault: &UnsealedVault, snapshot: &dyn Snapshot, name: &Name) -> Result<From, VaultError> {
    let (role, role_revision) = roles::find(vault, snapshot, name).await?;
    if role.leaving {
        return Err(VaultError::NotFound { what: format!("role {name}") });
    }
    let (target, target_revision) = roles::target_of(vault, snapshot, &role.record).await?;
    let link = vault.link(snapshot, &target).await?;
    Ok(From { role, role_revision, target, target_revision, link })
}

async fn issue(
    vault: &UnsealedVault,
    permit: &Permit<IssueCredential>,
    op: &IssueCredential,
) -> Result<Undelivered, VaultError> {
    for _ in 0..TRIES {
        if let Some(issued) = try_issue(vault, permit, op).await? {
            return Ok(issued);
        }
    }
    Err(VaultError::Contention { what: format!("role {}", op.role) })
}

/// Nothing if role, target or caller changed before there was a lease: nothing was made then.
async fn try_issue(
    vault: &UnsealedVault,
    permit: &Permit<IssueCredential>,
    op: &IssueCredential,
) -> Result<Option<Undelivered>, VaultError> {
    let snapshot = vault.storage.snapshot().await?;
    let from = from(vault, snapshot.as_ref(), &op.role).await?;
    let mut answered = None;
    let unanswered = match &op.request_id {
        None => None,
        Some(id) => match look_up(vault, snapshot.as_ref(), permit, id, op).await? {
            Seen::New(unanswered) => Some(unanswered),
            Seen::Answered(Answer::Lease(lease), unanswered) => {
                // None: it ended so long ago that nobody remembers it, nobody ever had it, or it was another's.
                let found = store::load(vault, snapshot.as_ref(), lease).await?;
                answered = found.filter(|stored| answers(permit, &from, &stored.lease));
                Some(unanswered)
            }
            Seen::Answered(Answer::Version(_), _) => {
                return Err(VaultError::RequestIdReused { id: id.as_str().to_owned() });
            }
        },
    };
    drop(snapshot);
    vault.leases.check_clock(&from.target.record.name, from.link.as_ref()).await?;
    if let Some(stored) = answered {
        return again(vault, permit, from, stored).await.map(Some);
    }
    let limits = limits(vault, permit, &from.role);
    let place =
        match vault.leases.counts.take(vault.storage.as_ref(), &limits, vault.clock.monotonic()).await? {
            Ok(place) => place,
            Err(full) => return Err(limit_reached(permit, &from.role, &limits, full).into()),
        };
    let (lease, plan) = begin(vault, permit, op, &from).await?;
    let mut batch = Batch::new();
    store::put(vault, &mut batch, &lease, None)?;
    batch.require(
        Keyspace::Roles,
        role_at(&vault.keys, &op.role),
        Precondition::Revision(from.role_revision),
    );
    batch.require(
        Keyspace::Targets,
        target_at(&vault.keys, &from.target.record.name),
        Precondition::Revision(from.target_revision),
    );
    auth::require_still(vault, &mut batch, permit.caller()).await?;
    if let Some(unanswered) = unanswered {
        request_ids::remember(vault, &mut batch, unanswered, Answer::Lease(lease.id))?;
    }
    let begun = vault.links.begun.read().await;
    let committed = vault.commit(permit.intent(), batch).await;
    drop(begun);
    if matches!(&committed, Ok(_) | Err(VaultError::Storage(StorageError::UnknownOutcome { .. }))) {
        place.keep();
    }
    let revision = match committed {
        Ok(revision) => revision,
        Err(VaultError::Storage(StorageError::Conflict { .. })) => return Ok(None),
        Err(error) => return Err(error),
    };
    fail_points::after(Step::IssueLeased);
    made(vault, permit, &from, Stored { lease, revision }, plan).await.map(Some)
}

fn limits(vault: &UnsealedVault, permit: &Permit<IssueCredential>, role: &StoredRole) -> [(Vec<u8>, u64); 2] {
    let [owner, of_role] = store::limited_under(&vault.keys, permit.caller().principal(), role.record.id);
    let a_principal = u64::from(vault.leases.options.max_live_per_principal);
    [(owner, a_principal), (of_role, u64::from(role.record.max_live))]
}

fn limit_reached(
    permit: &Permit<IssueCredential>,
    role: &StoredRole,
    limits: &[(Vec<u8>, u64); 2],
    full: usize,
) -> CredentialError {
    let limit = limits.get(full).map_or(0, |(_, limit)| *limit);
    match full {
        0 => CredentialError::Limit {
            of: permit.caller().principal().to_string(),
            limit,
            setting: "leases.max_live_per_principal in the server's configuration",
        },
        _ => CredentialError::Limit {
            of: format!("role {}", role.record.name),
            limit,
            setting: "the role's max_live",
        },
    }
}

/// The lease, and the login that it will own.
async fn begin(
    vault: &UnsealedVault,
    permit: &Permit<IssueCredential>,
    op: &IssueCredential,
    from: &From,
) -> Result<(LeaseRecord, Plan), VaultError> {
    let caller = permit.caller();
    let now = vault.leases.clock.now();
    let role = &from.role.record;
    let terms = Terms {
        asked: op.ttl,
        default: role.default_ttl,
        role_max: role.max_ttl,
        target_max: from.target.record.max_ttl,
        vault_max: vault.leases.options.max_ttl,
    };
    let mut max_expires = now.plus(terms.longest());
    if caller.session().is_some() {
        // A lease never outlives the session that asked for it. Sessions go by the wall clock, leases by their own time.
        let left = caller.expires().millis_since(vault.clock.now());
        max_expires = max_expires.min(UnixMillis(now.0.saturating_add(left)));
    }
    let id = fresh_id();
    let plan = from.link.plan(role, id, &mut rng());
    let lease = LeaseRecord::begin(NewLease {
        id,
        owner: caller.principal().clone(),
        owner_generation: caller.record().generation(),
        session: caller.session().map(<[u8]>::to_vec),
        role: role.name.clone(),
        role_id: role.id,
        target: from.target.record.name.clone(),
        target_id: from.target.record.id,
        handle: plan.handle.clone(),
        now,
        period: terms.period(),
        max_expires,
    })
    .map_err(|_| VaultError::Unauthenticated)?;
    Ok((lease, plan))
}

/// The lease is stored: the target is asked, and whatever comes of it is settled.
async fn made(
    vault: &UnsealedVault,
    permit: &Permit<IssueCredential>,
    from: &From,
    stored: Stored,
    plan: Plan,
) -> Result<Undelivered, VaultError> {
    match ask(from, &stored.lease, &plan, vault.leases.clock.now()).await {
        Ok(issued) => {
            vault.target_answers(stored.lease.target_id);
            fail_points::after(Step::IssueMade);
            activate(vault, permit, stored, issued).await
        }
        Err((error, pause)) => {
            give_up(vault, permit, stored, pause).await;
            Err(error.then("what may have been made is removed").into())
        }
    }
}

/// What may be left of an issue that failed.
#[derive(Clone, Copy)]
enum Leftover {
    /// Nothing: the target was not asked.
    None,
    /// A login, perhaps; for so many milliseconds it may still come.
    Perhaps(u64),
}

/// After how long from `now` a target is to end a login by itself, if its lease ends at `expires`.
pub(crate) fn lasts_in_target(expires: UnixMillis, now: UnixMillis) -> Duration {
    Duration::from_millis(expires.millis_since(now)).saturating_add(GRACE)
}

/// Asks the target; an error comes with what may be left of it.
async fn ask(
    from: &From,
    lease: &LeaseRecord,
    plan: &Plan,
    now: UnixMillis,
) -> Result<Issued, (CredentialError, Leftover)> {
    let order = Order {
        role: &from.role.record,
        accepted: &from.target.record.accepted,
        plan,
        lasts: lasts_in_target(lease.expires, now),
    };
    let asked = in_time(&lease.target, ISSUE_AT_MOST, from.link.issue(order)).await;
    asked.map_err(|error| between_passwords(&from.target, error)).map_err(|error| {
        let left = match &error {
            CredentialError::Engine(EngineError::NotAsked(_)) => Leftover::None,
            // The connection may have broken after the statement was sent.
            CredentialError::Engine(EngineError::Unavailable { .. }) | CredentialError::Slow { .. } => {
                Leftover::Perhaps(SETTLES_AFTER)
            }
            _ => Leftover::Perhaps(0),
        };
        (error, left)
    })
}

/// The target takes one of two passwords of the admin login, and it was the other: soon it is this one again. It let nobody in,
/// so nothing was asked.
fn between_passwords(target: &StoredTarget, error: CredentialError) -> CredentialError {
    match error {
        CredentialError::Engine(EngineError::NotAsked(cause)) if target.pending.is_some() => match *cause {
            EngineError::Admin { target, .. } => {
                let what = "the password of its admin login is being changed".to_owned();
                EngineError::NotAsked(Box::new(EngineError::Unavailable { target, what })).into()
            }
            other => EngineError::NotAsked(Box::new(other)).into(),
        },
        error => error,
    }
}

async fn activate(
    vault: &UnsealedVault,
    permit: &Permit<IssueCredential>,
    stored: Stored,
    issued: Issued,
) -> Result<Undelivered, VaultError> {
    let mut lease = stored.lease.clone();
    lease.activate().map_err(CredentialError::from)?;
    let mut batch = Batch::new();
    store::put(vault, &mut batch, &lease, Some(&stored))?;
    if let Err(error) = vault.commit(permit.intent(), batch).await {
        // It may be Active or Issuing in the store; whoever looks next revokes it.
        vault.leases.abandoned.add(lease.id, lease.reissues);
        return Err(error);
    }
    fail_points::after(Step::IssueActive);
    for right in &issued.excess {
        tracing::warn!(lease = %lease.id, role = %lease.role, %right, "a login can do more than its role declares");
    }
    Ok(undelivered(vault, lease, issued, None))
}

fn undelivered(vault: &UnsealedVault, lease: LeaseRecord, issued: Issued, turn: Option<Turn>) -> Undelivered {
    let content = Delivered { lease, credential: issued.credential, excess: issued.excess };
    Undelivered::new(content, vault.leases.abandoned.clone(), turn)
}

/// A login that may be there is revoked; one that cannot be is no reason to keep its lease until the target is back.
async fn give_up(vault: &UnsealedVault, permit: &Permit<IssueCredential>, stored: Stored, left: Leftover) {
    let now = vault.leases.clock.now();
    let mut lease = stored.lease.clone();
    let mut batch = Batch::new();
    let put = lease
        .begin_revoking(Why::NotIssued, now)
        .and_then(|()| match left {
            Leftover::None => lease.close(Closed::Confirmed { at: now }),
            Leftover::Perhaps(pause) => lease.try_at(UnixMillis(now.0.saturating_add(pause))),
        })
        .map_err(|error| VaultError::from(CredentialError::from(error)))
        .and_then(|()| store::put(vault, &mut batch, &lease, Some(&stored)));
    let given_up = match put {
        Ok(()) => vault.commit(permit.intent(), batch).await.map(drop),
        Err(error) => Err(error),
    };
    match given_up {
        Ok(()) => {
            store::committed(vault, stored.lease.state, &lease);
            vault.leases.wake.notify_one();
        }
        // It is Issuing, and revoked when its time to be made is over.
        Err(error) => tracing::warn!(lease = %lease.id, %error, "a lease is given up later"),
    }
}

/// Whether a lease is what a repeated request is answered with: it went to this registration of the caller, from this role.
fn answers(permit: &Permit<IssueCredential>, from: &From, lease: &LeaseRecord) -> bool {
    let given_up = lease.ending.as_ref().is_some_and(|ending| ending.why == Why::NotIssued);
    !given_up
        && lease.owner_generation == permit.caller().record().generation()
        && lease.role_id == from.role.record.id
        && lease.target_id == from.target.record.id
}

/// The same request once more: the same lease, and a new password, since nobody kept the first.
async fn again(
    vault: &UnsealedVault,
    permit: &Permit<IssueCredential>,
    from: From,
    mut stored: Stored,
) -> Result<Undelivered, VaultError> {
    let turn = vault.leases.turns.take(stored.lease.id).ok_or(CredentialError::StillIssuing)?;
    for _ in 0..TRIES {
        let now = vault.leases.clock.now();
        match stored.lease.state {
            LeaseState::Issuing => return Err(CredentialError::StillIssuing.into()),
            LeaseState::Active if stored.lease.counts(now) => {}
            _ => {
                let ended = keystead_domain::lease::LeaseError::Over;
                return Err(CredentialError::from(ended).into());
            }
        }
        let plan = from.link.plan(&from.role.record, stored.lease.id, &mut rng());
        let mut lease = stored.lease.clone();
        lease.handle = plan.handle.clone();
        lease.reissues = lease.reissues.saturating_add(1);
        let mut batch = Batch::new();
        store::put(vault, &mut batch, &lease, Some(&stored))?;
        match vault.commit(permit.intent(), batch).await {
            Ok(_) => {
                fail_points::after(Step::ReissueStored);
                // It lives on whatever comes of this: an earlier answer may have been taken.
                let asked = ask(&from, &lease, &plan, vault.leases.clock.now()).await;
                if asked.is_ok() {
                    fail_points::after(Step::ReissueMade);
                }
                check_not_revoked(vault, &from, &lease).await?;
                let issued = asked.map_err(|(error, _)| {
                    error.then("the lease lives on; repeat the request for a password that is taken")
                })?;
                return Ok(undelivered(vault, lease, issued, Some(turn)));
            }
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {
                let snapshot = vault.storage.snapshot().await?;
                let found = store::load(vault, snapshot.as_ref(), lease.id).await?;
                stored = found.ok_or(CredentialError::Lease(keystead_domain::lease::LeaseError::Over))?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(VaultError::Contention { what: format!("lease {}", stored.lease.id) })
}

/// A lease whose login was set anew lives still. If not, its login may have been made anew after its removal.
async fn check_not_revoked(
    vault: &UnsealedVault,
    from: &From,
    lease: &LeaseRecord,
) -> Result<(), VaultError> {
    let snapshot = vault.storage.snapshot().await?;
    let found = store::load(vault, snapshot.as_ref(), lease.id).await?;
    if found.is_some_and(|found| found.lease.state == LeaseState::Active) {
        return Ok(());
    }
    if let Err(error) = in_time(&lease.target, ONE_CALL, from.link.revoke(&lease.handle)).await {
        tracing::warn!(lease = %lease.id, %error, "a login whose lease ended meanwhile is removed later");
    }
    Err(CredentialError::from(keystead_domain::lease::LeaseError::Over).into())
}

async fn look_up(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    permit: &Permit<IssueCredential>,
    id: &RequestId,
    op: &IssueCredential,
) -> Result<Seen, VaultError> {
    let ttl = op.ttl.map_or(0, Ttl::as_secs).to_be_bytes();
    let request: [&[u8]; 3] = [b"issue", op.role.as_str().as_bytes(), &ttl];
    request_ids::look_up(vault, snapshot, permit.caller().principal(), id, &request).await
}

impl Operation for IssueCredential {
    type Output = Undelivered;
    const ACTION: Action = Action::RolesIssue;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::Role(self.role.clone())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Undelivered, VaultError> {
        issue(vault, &permit, &self).await
    }

    fn detail(output: &Undelivered) -> Detail {
        let Some(Delivered { lease, excess, .. }) = output.content() else { return Detail::new() };
        let mut detail = vec![
            ("lease", lease.id.to_string()),
            ("login", lease.handle.name.clone()),
            ("expires_ms", lease.expires.0.to_string()),
        ];
        if lease.reissues > 0 {
            detail.push(("reissued", lease.reissues.to_string()));
        }
        if !excess.is_empty() {
            detail.push(("excess", excess.len().to_string()));
        }
        detail
    }
}
