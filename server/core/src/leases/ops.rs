//! What callers do with leases. An owner needs no further right for its own.

use keystead_domain::id::RecordId;
use keystead_domain::lease::{Closed, LeaseRecord, Terms, Why};
use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource, Verdict};
use keystead_domain::principal::PrincipalName;
use keystead_domain::time::Ttl;
use keystead_storage::{Batch, Keyspace, Range, Snapshot, StorageError, keyspace};

use super::clock::ClockState;
use super::store::{self, Stored};
use crate::credentials::issue::lasts_in_target;
use crate::credentials::{CredentialError, ONE_CALL, in_time, roles, targets};
use crate::engine::{Credential, Renewal};
use crate::error::VaultError;
use crate::fail_points::{self, Step};
use crate::operation::{Detail, Effect, Grant, Operation};
use crate::request::{Caller, Permit};
use crate::unsealed::UnsealedVault;

/// Tries of one change against other writers.
pub(super) const TRIES: usize = 16;

/// Which leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The caller's own.
    Mine,
    /// Those of a principal.
    Principal(PrincipalName),
    /// Those issued from a role.
    Role(Name),
    /// Those issued from roles whose names begin so.
    RolePrefix(String),
    /// Those on a target.
    Target(Name),
    /// Those of the caller's session.
    Session,
    /// All, whichever is due first at first.
    Due,
}

impl Selector {
    fn describe(&self) -> String {
        match self {
            Self::Mine => "mine".to_owned(),
            Self::Principal(name) => format!("principal {name}"),
            Self::Role(name) => format!("role {name}"),
            Self::RolePrefix(prefix) => format!("roles {prefix}*"),
            Self::Target(name) => format!("target {name}"),
            Self::Session => "session".to_owned(),
            Self::Due => "all".to_owned(),
        }
    }

    /// Whether it selects nothing but the caller's own.
    pub(super) const fn is_own(&self) -> bool {
        matches!(self, Self::Mine | Self::Session)
    }

    pub(super) fn detail(&self) -> Detail {
        vec![("of", self.describe())]
    }
}

/// Reads a lease.
pub struct ReadLease {
    /// Which.
    pub id: RecordId,
}

/// Lists leases that are not over.
pub struct ListLeases {
    /// Which.
    pub of: Selector,
    /// At most this many.
    pub limit: usize,
    /// The key to go on after.
    pub after: Option<Vec<u8>>,
}

/// A page of leases.
pub struct LeasePage {
    /// The leases.
    pub leases: Vec<LeaseRecord>,
    /// The key to go on after.
    pub next: Option<Vec<u8>>,
}

/// Begins another period of a lease.
pub struct RenewLease {
    /// Which.
    pub id: RecordId,
    /// For how long from now; nothing means as long as before.
    pub ttl: Option<Ttl>,
}

/// A renewed lease.
pub struct Renewed {
    /// The lease.
    pub lease: LeaseRecord,
    /// What its holder logs in with from now on, where that changed.
    pub credential: Option<Credential>,
}

/// Takes a login away.
pub struct RevokeLease {
    /// Which.
    pub id: RecordId,
    /// Close it although its target does not confirm: the last resort, which is recorded with who did it. One whose record
    /// does not open is removed.
    pub force: bool,
}

/// Says that the server's clock is right, after it was far ahead of when the vault was last open.
pub struct AcceptClock;

pub(super) fn not_found(id: RecordId) -> VaultError {
    VaultError::NotFound { what: format!("lease {id}") }
}

/// Whose a lease is, for the gate: one that is not there is nobody's.
pub(super) async fn owned(vault: &UnsealedVault, caller: &Caller, id: RecordId) -> Result<bool, VaultError> {
    let snapshot = vault.storage.snapshot().await?;
    let found = store::load(vault, snapshot.as_ref(), id).await?;
    Ok(found.is_some_and(|stored| {
        stored.lease.owner == *caller.principal()
            && stored.lease.owner_generation == caller.record().generation()
    }))
}

pub(super) async fn find(vault: &UnsealedVault, id: RecordId) -> Result<Stored, VaultError> {
    let snapshot = vault.storage.snapshot().await?;
    store::load(vault, snapshot.as_ref(), id).await?.ok_or_else(|| not_found(id))
}

/// Changes a lease, looking again when somebody else changed it meanwhile.
pub(super) async fn change(
    vault: &UnsealedVault,
    intent: Option<u64>,
    id: RecordId,
    apply: impl Fn(&mut LeaseRecord) -> Result<bool, VaultError>,
) -> Result<LeaseRecord, VaultError> {
    for _ in 0..TRIES {
        let stored = find(vault, id).await?;
        let mut lease = stored.lease.clone();
        if !apply(&mut lease)? {
            return Ok(lease);
        }
        let mut batch = Batch::new();
        store::put(vault, &mut batch, &lease, Some(&stored))?;
        match vault.commit(intent, batch).await {
            Ok(_) => {
                store::committed(vault, stored.lease.state, &lease);
                return Ok(lease);
            }
            Err(VaultError::Storage(StorageError::Conflict { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Err(VaultError::Contention { what: format!("lease {id}") })
}

async fn renew(
    vault: &UnsealedVault,
    permit: &Permit<RenewLease>,
    op: &RenewLease,
) -> Result<Renewed, VaultError> {
    let stored = find(vault, op.id).await?;
    let role = stored.lease.role.clone();
    // Renewing is authorization again: who may not have it any more does not keep it.
    if permit.caller().principal() == &stored.lease.owner {
        let decision = vault.decide(permit.caller(), Action::RolesIssue, &Resource::Role(role.clone()));
        if decision.verdict != Verdict::Allow {
            return Err(CredentialError::MayNotIssue { role: role.to_string() }.into());
        }
    }
    let snapshot = vault.storage.snapshot().await?;
    let (definition, _) = roles::find(vault, snapshot.as_ref(), &role).await?;
    if definition.record.id != stored.lease.role_id || definition.leaving {
        return Err(CredentialError::MayNotIssue { role: role.to_string() }.into());
    }
    let (target, _) = targets::find(vault, snapshot.as_ref(), &stored.lease.target).await?;
    let link = vault.link(snapshot.as_ref(), &target).await?;
    drop(snapshot);
    vault.leases.check_clock(&stored.lease.target, link.as_ref()).await?;
    // What role and target allow today, whatever they allowed when it was issued.
    let terms = Terms {
        asked: Some(op.ttl.unwrap_or(stored.lease.period)),
        default: definition.record.default_ttl,
        role_max: definition.record.max_ttl,
        target_max: target.record.max_ttl,
        vault_max: vault.leases.options.max_ttl,
    };
    let renewed = |lease: &mut LeaseRecord| {
        let now = vault.leases.clock.now();
        lease.max_expires = lease.max_expires.min(lease.issued.plus(terms.longest()));
        lease.renew(Some(terms.period()), now).map_err(CredentialError::from)
    };
    let until = renewed(&mut stored.lease.clone())?;
    // The target first: a login that ends a little later than its lease is removed with it all the same.
    let lasts = lasts_in_target(until, vault.leases.clock.now());
    let call = link.renew(&stored.lease.handle, lasts);
    let renewal = in_time(&stored.lease.target, ONE_CALL, call).await;
    let credential = match renewal.map_err(|error| error.then("the lease is as it was; renew it again"))? {
        Renewal::Renewed => None,
        Renewal::Reissued(credential) => Some(credential),
    };
    let lease = change(vault, permit.intent(), op.id, |lease| {
        renewed(lease)?;
        Ok(true)
    })
    .await?;
    Ok(Renewed { lease, credential })
}

async fn list(
    vault: &UnsealedVault,
    permit: &Permit<ListLeases>,
    op: &ListLeases,
) -> Result<LeasePage, VaultError> {
    let snapshot = permit.view(vault).await?;
    if op.of == Selector::Due {
        return due_next(vault, &*snapshot, op).await;
    }
    let prefixes = prefixes(vault, &*snapshot, permit.caller(), &op.of).await?;
    let mut leases = Vec::new();
    let mut last: Option<Vec<u8>> = None;
    for prefix in prefixes {
        // Prefixes are in order, so a key of a later one is behind all of this one.
        if op.after.as_ref().is_some_and(|after| !after.starts_with(&prefix) && *after > prefix) {
            continue;
        }
        let mut after = op.after.clone().filter(|after| after.starts_with(&prefix));
        loop {
            let room = op.limit.saturating_add(1).saturating_sub(leases.len());
            let range = Range::prefix(&prefix, after.as_deref());
            let page = snapshot.range(Keyspace::LeaseIndex, range, room).await?;
            for (key, _) in &page {
                if leases.len() == op.limit {
                    return Ok(LeasePage { leases, next: last });
                }
                last = Some(key.to_vec());
                let Some(id) = keyspace::lease_under_in(key) else { continue };
                match store::load(vault, &*snapshot, RecordId(id)).await {
                    Ok(Some(stored)) if stored.lease.state.is_live() => leases.push(stored.lease),
                    Ok(_) => {}
                    // One that does not open is put aside, and hides no other.
                    Err(error) => tracing::error!(%error, "a lease is left out of a list"),
                }
            }
            if page.len() < room {
                break;
            }
            after.clone_from(&last);
        }
    }
    Ok(LeasePage { leases, next: None })
}

/// The leases that are due soonest, of all shards.
async fn due_next(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    op: &ListLeases,
) -> Result<LeasePage, VaultError> {
    let after = op.after.as_deref().and_then(keyspace::lease_due_in);
    let mut found = Vec::new();
    for shard in 0..keyspace::LEASE_SHARDS {
        let start = match &after {
            Some((minute, id)) => keyspace::lease_due_after(shard, *minute, id),
            None => keyspace::lease_due_from(shard, 0),
        };
        let range = Range::between(start, keyspace::lease_due_end(shard));
        for (key, _) in snapshot.range(Keyspace::LeaseIndex, range, op.limit.saturating_add(1)).await? {
            found.extend(keyspace::lease_due_in(&key));
        }
    }
    found.sort_unstable();
    let more = found.len() > op.limit;
    found.truncate(op.limit);
    let next = found.last().filter(|_| more).map(|(minute, id)| keyspace::lease_due(*minute, id));
    let mut leases = Vec::new();
    for (_, id) in found {
        match store::load(vault, snapshot, RecordId(id)).await {
            Ok(Some(stored)) if stored.lease.state.is_live() => leases.push(stored.lease),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "a lease is left out of a list"),
        }
    }
    Ok(LeasePage { leases, next })
}

/// Where the leases of a selector are in the index, in order.
pub(super) async fn prefixes(
    vault: &UnsealedVault,
    snapshot: &dyn Snapshot,
    caller: &Caller,
    of: &Selector,
) -> Result<Vec<Vec<u8>>, VaultError> {
    Ok(match of {
        Selector::Mine => vec![store::of_owner(&vault.keys, caller.principal())],
        Selector::Principal(name) => vec![store::of_owner(&vault.keys, name)],
        Selector::Session => {
            let session = caller.session().ok_or_else(|| VaultError::Invalid {
                field: "of",
                rule: "no token authenticates this call, so there is no session".to_owned(),
            })?;
            vec![keyspace::leases_of_session(session)]
        }
        Selector::Role(name) => {
            let (role, _) = roles::find(vault, snapshot, name).await?;
            vec![keyspace::leases_of_role(role.record.id.as_bytes())]
        }
        Selector::RolePrefix(prefix) => {
            let roles = roles::with_prefix(vault, snapshot, prefix).await?;
            let mut prefixes: Vec<_> =
                roles.iter().map(|id| keyspace::leases_of_role(id.as_bytes())).collect();
            prefixes.sort();
            prefixes
        }
        Selector::Target(name) => {
            let (target, _) = targets::find(vault, snapshot, name).await?;
            vec![keyspace::leases_of_target(target.record.id.as_bytes())]
        }
        Selector::Due => {
            let rule = "say whose: a principal, a role, roles by prefix, or a target".to_owned();
            return Err(VaultError::Invalid { field: "of", rule });
        }
    })
}

fn lease_detail(lease: &LeaseRecord) -> Detail {
    vec![
        ("state", lease.state.to_string()),
        ("owner", lease.owner.to_string()),
        ("role", lease.role.to_string()),
        ("login", lease.handle.name.clone()),
        ("expires_ms", lease.expires.0.to_string()),
    ]
}

impl Operation for ReadLease {
    type Output = LeaseRecord;
    const ACTION: Action = Action::LeasesRead;
    const EFFECT: Effect = Effect::Read;
    const GRANT: Grant = Grant::Owner;

    fn resource(&self) -> Resource {
        Resource::Lease(self.id)
    }

    async fn is_own(&self, vault: &UnsealedVault, caller: &Caller) -> Result<bool, VaultError> {
        owned(vault, caller, self.id).await
    }

    async fn handle(self, vault: &UnsealedVault, _: Permit<Self>) -> Result<LeaseRecord, VaultError> {
        Ok(find(vault, self.id).await?.lease)
    }

    fn detail(output: &LeaseRecord) -> Detail {
        lease_detail(output)
    }
}

impl Operation for ListLeases {
    type Output = LeasePage;
    const ACTION: Action = Action::LeasesList;
    const EFFECT: Effect = Effect::Read;
    const GRANT: Grant = Grant::Owner;

    fn resource(&self) -> Resource {
        Resource::System
    }

    fn asked(&self) -> Detail {
        self.of.detail()
    }

    async fn is_own(&self, _: &UnsealedVault, _: &Caller) -> Result<bool, VaultError> {
        Ok(self.of.is_own())
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<LeasePage, VaultError> {
        list(vault, &permit, &self).await
    }

    fn detail(output: &LeasePage) -> Detail {
        vec![("entries", output.leases.len().to_string())]
    }
}

impl Operation for RenewLease {
    type Output = Renewed;
    const ACTION: Action = Action::LeasesRenew;
    const EFFECT: Effect = Effect::Change;
    const GRANT: Grant = Grant::Owner;

    fn resource(&self) -> Resource {
        Resource::Lease(self.id)
    }

    async fn is_own(&self, vault: &UnsealedVault, caller: &Caller) -> Result<bool, VaultError> {
        owned(vault, caller, self.id).await
    }

    async fn handle(self, vault: &UnsealedVault, permit: Permit<Self>) -> Result<Renewed, VaultError> {
        renew(vault, &permit, &self).await
    }

    fn detail(output: &Renewed) -> Detail {
        lease_detail(&output.lease)
    }
}

impl Operation for RevokeLease {
    /// None if its record did not open, and was removed.
    type Output = Option<LeaseRecord>;
    const ACTION: Action = Action::LeasesRevoke;
    const EFFECT: Effect = Effect::Change;
    const GRANT: Grant = Grant::Owner;
    const URGENT: bool = true;

    fn resource(&self) -> Resource {
        Resource::Lease(self.id)
    }

    fn asked(&self) -> Detail {
        if self.force { vec![("force", "true".to_owned())] } else { Detail::new() }
    }

    async fn is_own(&self, vault: &UnsealedVault, caller: &Caller) -> Result<bool, VaultError> {
        // Closing without the target's word is for operators.
        Ok(!self.force && owned(vault, caller, self.id).await?)
    }

    async fn handle(
        self,
        vault: &UnsealedVault,
        permit: Permit<Self>,
    ) -> Result<Option<LeaseRecord>, VaultError> {
        let now = vault.leases.clock.now();
        let by = permit.caller().principal().clone();
        let lease = change(vault, permit.intent(), self.id, |lease| {
            if !lease.state.is_live() {
                return Ok(false);
            }
            lease.begin_revoking(Why::Asked, now).map_err(CredentialError::from)?;
            lease.hurry(now).map_err(CredentialError::from)?;
            if self.force {
                lease.close(Closed::Forced { at: now, by: by.clone() }).map_err(CredentialError::from)?;
            }
            Ok(true)
        })
        .await;
        let lease = match lease {
            Ok(lease) => lease,
            Err(VaultError::CorruptRecord { .. }) if self.force => {
                vault.forget_lease(permit.intent(), self.id).await?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if self.force {
            vault.leases.want_comparison();
        }
        fail_points::after(Step::RevokeAsked);
        vault.leases.wake.notify_one();
        Ok(Some(lease))
    }

    fn detail(output: &Option<LeaseRecord>) -> Detail {
        output.as_ref().map_or_else(|| vec![("removed", "its record does not open".to_owned())], lease_detail)
    }
}

impl Operation for AcceptClock {
    type Output = ClockState;
    const ACTION: Action = Action::LeasesAcceptClock;
    const EFFECT: Effect = Effect::Change;

    fn resource(&self) -> Resource {
        Resource::System
    }

    async fn handle(self, vault: &UnsealedVault, _: Permit<Self>) -> Result<ClockState, VaultError> {
        vault.leases.clock.believe();
        vault.leases.wake.notify_one();
        Ok(vault.leases.clock.look())
    }

    fn detail(output: &ClockState) -> Detail {
        vec![("clock", format!("{output:?}"))]
    }
}
