//! What every engine must do, as checks to run against a real target of it. Invariant: a check uses the port alone, leaves
//! nothing behind when it passes, and says in words which promise was broken. An engine's tests call [`run`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use getrandom::SysRng;
use keystead_core::engine::{Credential, EngineError, Issued, Link, Order, Plan, Renewal};
use keystead_domain::id::RecordId;
use keystead_domain::lease::Handle;
use keystead_domain::role::RoleRecord;
use rand_core::{Rng, UnwrapErr};

/// No login of a check ends by itself.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// A target under test, without any login of the vault's.
#[async_trait]
pub trait Target: Send + Sync {
    /// A new link to it.
    fn link(&self) -> Arc<dyn Link>;

    /// A role that the target's administrator allows, and that nothing exceeds.
    fn role(&self) -> RoleRecord;

    /// Whether a holder gets in with this, now.
    async fn lets_in(&self, credential: &Credential) -> bool;

    /// Whether logins end by themselves.
    fn ends_logins(&self) -> bool;

    /// Gives everybody something that the role does not declare, or takes it away again.
    async fn exceed(&self, on: bool);
}

/// How an engine broke the port's promises.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A call failed that must work.
    #[error("the engine failed where it must work")]
    Engine(#[from] EngineError),
    /// A promise was broken.
    #[error("broken promise: {0}")]
    Broken(&'static str),
}

/// Runs every check.
pub async fn run(target: &dyn Target) -> Result<(), Failure> {
    let check = Check { target, link: target.link(), role: target.role() };
    check.nothing_is_issued_before_it_is_defined().await?;
    check.link.define(&check.role, &[]).await?;
    check.defining_again_changes_nothing().await?;
    check.probing_and_verifying_leave_nothing().await?;
    check.a_plan_names_its_lease().await?;
    check.a_login_lives_and_ends().await?;
    check.issuing_again_changes_the_secret().await?;
    check.what_was_never_made_is_removed_with_success().await?;
    check.pages_show_each_login_once().await?;
    check.excess_refuses().await?;
    check.link.undefine(check.role.id).await?;
    check.link.undefine(check.role.id).await?;
    check.nothing_is_issued_before_it_is_defined().await
}

struct Check<'a> {
    target: &'a dyn Target,
    link: Arc<dyn Link>,
    role: RoleRecord,
}

impl Check<'_> {
    async fn nothing_is_issued_before_it_is_defined(&self) -> Result<(), Failure> {
        let plan = self.plan();
        let issued = self.issue(&plan, &*self.target.link()).await;
        self.link.revoke(&plan.handle).await?;
        hold(issued.is_err(), "a role that is not defined issues nothing")
    }

    async fn defining_again_changes_nothing(&self) -> Result<(), Failure> {
        let again = self.link.define(&self.role, &[]).await?;
        hold(again.statements.is_empty(), "defining what is defined does nothing")?;
        hold(again.excess.is_empty() && again.missing.is_empty(), "what is defined is what is there")
    }

    async fn probing_and_verifying_leave_nothing(&self) -> Result<(), Failure> {
        let before = self.names().await?;
        self.link.probe().await?;
        self.link.verify(&self.role, &[]).await?;
        hold(self.names().await? == before, "probing and verifying leave no login")
    }

    async fn a_plan_names_its_lease(&self) -> Result<(), Failure> {
        let (lease, mut rng) = (new_id(), UnwrapErr(SysRng));
        let one = self.link.plan(&self.role, lease, &mut rng);
        let same = self.target.link().plan(&self.role, lease, &mut rng);
        let other = self.link.plan(&self.role, new_id(), &mut rng);
        hold(one.handle == same.handle, "a lease has one handle, whoever makes it")?;
        hold(one.handle.name != other.handle.name, "another lease has another login")?;
        hold(one.secret.expose() != same.secret.expose(), "a secret is new each time")
    }

    async fn a_login_lives_and_ends(&self) -> Result<(), Failure> {
        let plan = self.plan();
        let issued = self.issue(&plan, &*self.link).await?;
        let mut credential = issued.credential;
        hold(self.target.lets_in(&credential).await, "a login that was issued gets in")?;
        if self.target.ends_logins() {
            self.link.renew(&plan.handle, Duration::ZERO).await?;
            hold(!self.target.lets_in(&credential).await, "a login whose time is over gets in no more")?;
        }
        if let Renewal::Reissued(next) = self.link.renew(&plan.handle, LONG).await? {
            credential = next;
        }
        hold(self.target.lets_in(&credential).await, "a login that was renewed gets in")?;
        // By what was stored before the login was made, on a link that never saw it.
        self.target.link().revoke(&plan.handle).await?;
        hold(!self.target.lets_in(&credential).await, "a login that was revoked gets in no more")?;
        self.link.revoke(&plan.handle).await?;
        hold(self.names().await?.is_empty(), "a login that was revoked is listed no more")
    }

    async fn issuing_again_changes_the_secret(&self) -> Result<(), Failure> {
        let first = self.plan();
        let before = self.issue(&first, &*self.link).await?;
        let again = Plan { handle: first.handle.clone(), secret: self.plan().secret };
        let after = self.issue(&again, &*self.link).await?;
        hold(self.target.lets_in(&after.credential).await, "what was issued again gets in")?;
        hold(!self.target.lets_in(&before.credential).await, "what was issued before gets in no more")?;
        self.link.revoke(&first.handle).await?;
        Ok(())
    }

    async fn what_was_never_made_is_removed_with_success(&self) -> Result<(), Failure> {
        Ok(self.link.revoke(&self.plan().handle).await?)
    }

    async fn pages_show_each_login_once(&self) -> Result<(), Failure> {
        let mut made = Vec::new();
        for _ in 0..3 {
            let (lease, mut rng) = (new_id(), UnwrapErr(SysRng));
            let plan = self.link.plan(&self.role, lease, &mut rng);
            self.issue(&plan, &*self.link).await?;
            made.push(lease);
        }
        made.sort_unstable();
        let found = self.found().await?;
        let mut leases: Vec<RecordId> = found.iter().map(|(lease, _)| *lease).collect();
        leases.sort_unstable();
        // A target that keeps no logins lists none.
        let keeps = self.link.list(None, 1).await?.is_some();
        hold(!keeps || leases == made, "each login is listed once, with its lease")?;
        for (_, handle) in found {
            self.link.revoke(&handle).await?;
        }
        hold(self.names().await?.is_empty(), "what a list tells removes the login")
    }

    async fn excess_refuses(&self) -> Result<(), Failure> {
        self.target.exceed(true).await;
        let plan = self.plan();
        let issued = self.issue(&plan, &*self.target.link()).await;
        let defined = self.target.link().define(&self.role, &[]).await;
        let verified = self.target.link().verify(&self.role, &[]).await?;
        self.target.exceed(false).await;
        self.link.revoke(&plan.handle).await?;
        let refused = |error: Option<EngineError>| matches!(error, Some(EngineError::Excess { .. }));
        hold(refused(issued.err()), "a login that could do more than its role is not handed out")?;
        hold(refused(defined.err()), "a role that gives more than it declares is not defined")?;
        hold(!verified.excess.is_empty(), "verifying tells the excess")
    }

    fn plan(&self) -> Plan {
        self.link.plan(&self.role, new_id(), &mut UnwrapErr(SysRng))
    }

    async fn issue(&self, plan: &Plan, link: &dyn Link) -> Result<Issued, EngineError> {
        link.issue(Order { role: &self.role, accepted: &[], plan, lasts: LONG }).await
    }

    async fn names(&self) -> Result<Vec<String>, Failure> {
        Ok(self.found().await?.into_iter().map(|(_, handle)| handle.name).collect())
    }

    /// All that is listed, two at a time.
    async fn found(&self) -> Result<Vec<(RecordId, Handle)>, Failure> {
        let mut all: Vec<(RecordId, Handle)> = Vec::new();
        loop {
            let after = all.last().map(|(_, handle)| handle.name.clone());
            let page = self.link.list(after.as_deref(), 2).await?.unwrap_or_default();
            if page.is_empty() {
                return Ok(all);
            }
            hold(page.len() <= 2, "a page is no longer than was asked for")?;
            all.extend(page.into_iter().map(|found| (found.lease, found.handle)));
        }
    }
}

fn hold(kept: bool, promise: &'static str) -> Result<(), Failure> {
    if kept { Ok(()) } else { Err(Failure::Broken(promise)) }
}

fn new_id() -> RecordId {
    let mut id = [0; 16];
    UnwrapErr(SysRng).fill_bytes(&mut id);
    RecordId(id)
}
