//! The task behind a kept credential: what is due is done, what fails is tried again, what was replaced is let go.
//!
//! One task with four parts side by side, so that a call that hangs delays neither the end of a grace nor the word that a
//! credential is over. It holds no handle of its owners: it ends when they ask, or when the last of them is dropped.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::clock::Clock;
use super::follow::Over;
use super::life::{Life, Plan, Step};
use super::verdict::{self, Unrenewed};
use super::{KeeperEvent, KeeperStep};
use crate::call::random_request_id;
use crate::credentials::{Credentials, IssueOptions, Period};
use crate::error::Error;
use crate::leases::{Credential, Lease, Leases};

/// Credentials that somebody says do not work are looked at no more often than this.
const BETWEEN_SUSPICIONS: Duration = Duration::from_secs(30);
/// Credentials whose leases others end are replaced no more often than this, but for the first.
const BETWEEN_ENDS: Duration = Duration::from_secs(5);
/// How long it is tried to let go of a lease that is over by our clock.
const LET_GO_WITHIN: Duration = Duration::from_secs(60);

/// What the owners see.
pub(super) struct View {
    pub(super) credential: Arc<Credential>,
    /// Counts credentials.
    pub(super) number: u64,
    pub(super) end: Instant,
    pub(super) failure: Option<Arc<Error>>,
    pub(super) shut_down: bool,
}

pub(super) type Jitter = Box<dyn FnMut() -> f64 + Send>;
pub(super) type OnEvent = Arc<dyn Fn(&KeeperEvent) + Send + Sync>;
/// Where the answer to a shutdown goes.
pub(super) type Stop = oneshot::Sender<Result<(), Error>>;

/// The number of the credential that was last said not to work.
pub(super) type Suspicions = watch::Receiver<Option<u64>>;

/// The lease that the vault last said is over.
type Ends = watch::Receiver<Option<Over>>;

/// What the task works with.
pub(super) struct Keeper {
    pub(super) role: String,
    pub(super) period: Period,
    pub(super) grace: Duration,
    pub(super) on_event: Option<OnEvent>,
    pub(super) clock: Arc<dyn Clock>,
    /// These make one try of each call: the pauses between tries are ours.
    pub(super) credentials: Credentials,
    pub(super) leases: Leases,
}

/// The lease of the credential that is handed out.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) lease: String,
    pub(super) life: Life,
}

/// An issue, for as long as it may come to the same lease.
struct Request {
    id: String,
    first_sent: Instant,
    tries: u32,
}

/// A lease to be let go.
struct Retired {
    lease: String,
    at: Instant,
    until: Instant,
    failures: u32,
}

/// The open ends of an issue: repeated until it is settled.
#[derive(Default)]
pub(super) struct Asking(Option<Request>);

impl Keeper {
    /// Issues a credential. `Asking` keeps the request's id from one try to the next, where that may come to the same lease.
    pub(super) async fn issue(&self, asking: &mut Asking) -> Result<(Lease, Held, Credential), Error> {
        loop {
            let sent = self.clock.now();
            let request = match &mut asking.0 {
                Some(request) => request,
                none => none.insert(Request { id: random_request_id()?, first_sent: sent, tries: 0 }),
            };
            request.tries = request.tries.saturating_add(1);
            let options = IssueOptions { period: self.period, request_id: Some(request.id.clone()) };
            let repeated = request.tries > 1;
            let issued = match self.credentials.issue_with(&self.role, options).await {
                Ok(issued) => issued,
                Err(error) => {
                    if verdict::is_settled(&error) {
                        asking.0 = None;
                    }
                    // The vault has taken back what an earlier try made.
                    if repeated && verdict::is_ended(&error) {
                        continue;
                    }
                    return Err(error);
                }
            };
            // A lease that was there before this try is as old as the first one may make it.
            let asked = if issued.lease.reissues == 0 { sent } else { request.first_sent };
            let life = Life::issued(asked, &issued.lease)?;
            asking.0 = None;
            if repeated && life.end <= self.clock.now() {
                self.let_go(&issued.lease.id).await.ok();
                continue;
            }
            let held = Held { lease: issued.lease.id.clone(), life };
            return Ok((issued.lease, held, issued.credential));
        }
    }

    /// Keeps the credential fresh until it is asked to stop, and then lets go of every lease.
    pub(super) async fn run(
        self,
        mut held: Held,
        jitter: Jitter,
        view: watch::Sender<View>,
        mut suspected: Suspicions,
        mut stop: mpsc::Receiver<Stop>,
    ) {
        let (retire, mut retiring) = mpsc::unbounded_channel();
        let mut retired = Vec::new();
        let (following, followed) = watch::channel(held.lease.clone());
        let (over, mut ends) = watch::channel(None);
        let stopped = {
            let mut work = Work {
                keeper: &self,
                jitter,
                held: &mut held,
                ended: false,
                view: &view,
                retire: &retire,
                following: &following,
            };
            tokio::select! {
                stopped = work.keep_fresh(&mut suspected, &mut ends, &mut stop) => stopped,
                never = self.follow(followed, &over) => match never {},
                never = self.release(&mut retired, &mut retiring) => match never {},
                never = self.tell_of_loss(view.subscribe()) => match never {},
            }
        };
        view.send_modify(|view| view.shut_down = true);
        while let Ok(more) = retiring.try_recv() {
            retired.push(more);
        }
        let ours = retired.iter().map(|retired: &Retired| &retired.lease).chain([&held.lease]);
        let outcomes = future::join_all(ours.map(|lease| self.let_go(lease))).await;
        // Who asked may have gone; the leases are gone all the same.
        stopped.send(outcomes.into_iter().collect()).ok();
    }

    /// Revokes a lease. One that is over is as good.
    async fn let_go(&self, lease: &str) -> Result<(), Error> {
        match self.leases.revoke(lease).await {
            Err(error) if verdict::unrenewed(&error) != Unrenewed::Nothing => Err(error),
            Ok(_) | Err(_) => {
                self.tell(&KeeperEvent::Released { lease: lease.to_owned() });
                Ok(())
            }
        }
    }

    /// Lets go of leases when their grace is over.
    async fn release(
        &self,
        retired: &mut Vec<Retired>,
        more: &mut mpsc::UnboundedReceiver<Retired>,
    ) -> Infallible {
        loop {
            let next = retired.iter().map(|retired| retired.at).min();
            let due = async {
                match next {
                    Some(at) => self.clock.sleep_until(at).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                Some(one) = more.recv() => retired.push(one),
                () = due => {
                    let now = self.clock.now();
                    let Some(place) = retired.iter().position(|retired| retired.at <= now) else { continue };
                    // It stays in the list until it is gone, for a shutdown in between.
                    let lease = retired.get(place).map(|one| one.lease.clone()).unwrap_or_default();
                    let outcome = self.let_go(&lease).await;
                    let mut one = retired.swap_remove(place);
                    let Err(error) = outcome else { continue };
                    one.failures = one.failures.saturating_add(1);
                    let left = one.until.saturating_duration_since(now);
                    let pause = verdict::pause(&error, one.failures, left, 0.5);
                    let again = (pause < left).then_some(pause);
                    if let Some(pause) = again {
                        one.at = self.clock.now() + pause;
                        retired.push(one);
                    }
                    self.tell(&KeeperEvent::Failed {
                        step: KeeperStep::Release { lease },
                        error: Arc::new(error),
                        again,
                    });
                }
            }
        }
    }

    /// Says once when the credential is over.
    async fn tell_of_loss(&self, mut view: watch::Receiver<View>) -> Infallible {
        let mut told = false;
        loop {
            let (end, failure) = {
                let view = view.borrow_and_update();
                (view.end, view.failure.clone())
            };
            let lives = self.clock.now() < end;
            if !lives && !told {
                self.tell(&KeeperEvent::Lost { role: self.role.clone(), error: failure });
            }
            told = !lives;
            tokio::select! {
                changed = view.changed() => if changed.is_err() { return future::pending().await },
                () = self.clock.sleep_until(end), if lives => {}
            }
        }
    }

    /// Says what happened. What is said to may panic: that is its own affair.
    fn tell(&self, event: &KeeperEvent) {
        if let Some(on_event) = &self.on_event {
            catch_unwind(AssertUnwindSafe(|| on_event(event))).ok();
        }
    }
}

/// The part that keeps the credential fresh.
struct Work<'a> {
    keeper: &'a Keeper,
    jitter: Jitter,
    held: &'a mut Held,
    /// The vault said that the lease is over.
    ended: bool,
    view: &'a watch::Sender<View>,
    retire: &'a mpsc::UnboundedSender<Retired>,
    /// The id of the lease that is held, for who follows it.
    following: &'a watch::Sender<String>,
}

impl Work<'_> {
    /// Does what is due until it is asked to stop.
    async fn keep_fresh(
        &mut self,
        suspected: &mut Suspicions,
        ends: &mut Ends,
        stop: &mut mpsc::Receiver<Stop>,
    ) -> Stop {
        let clock = self.keeper.clock.clone();
        let mut asking = Asking::default();
        let mut failures = 0;
        let mut plan = self.plan();
        let mut next_look = clock.now();
        let mut next_end = clock.now();
        loop {
            tokio::select! {
                biased;
                Some(stopped) = stop.recv() => return stopped,
                Ok(()) = suspected.changed(), if failures == 0 => {
                    let current = self.view.borrow().number;
                    if *suspected.borrow_and_update() == Some(current) {
                        plan.at = plan.at.min(next_look.max(clock.now()));
                        next_look = next_look.max(plan.at + BETWEEN_SUSPICIONS);
                    }
                    continue;
                }
                Ok(()) = ends.changed() => {
                    let over = ends.borrow_and_update().clone();
                    if let Some(over) = over.filter(|over| over.id == self.held.lease) && !self.ended {
                        self.over();
                        if let Some(lease) = over.lease {
                            self.keeper.tell(&KeeperEvent::Ended { lease });
                        }
                        plan = Plan { at: next_end.max(clock.now()), step: Step::Replace };
                        next_end = plan.at + BETWEEN_ENDS;
                    }
                    continue;
                }
                () = clock.sleep_until(plan.at) => {}
            }
            let done = match plan.step {
                Step::Renew => tokio::select! {
                    biased;
                    Some(stopped) = stop.recv() => return stopped,
                    done = self.renew() => done,
                },
                // Not cut off by a stop: a lease that comes of it has to be let go, too.
                Step::Replace => self.replace(&mut asking).await,
            };
            let now = clock.now();
            match done {
                Ok(()) => {
                    failures = 0;
                    plan = self.plan();
                }
                Err(Undone::Replace) => plan = Plan { at: now, step: Step::Replace },
                Err(Undone::Failed(error)) => {
                    failures += 1;
                    let left = self.held.life.end.saturating_duration_since(now);
                    let pause = verdict::pause(&error, failures, left, (self.jitter)());
                    plan.at = now + pause;
                    self.failed(plan.step, error, Some(pause));
                }
            }
        }
    }

    fn plan(&mut self) -> Plan {
        self.held.life.plan(self.keeper.clock.now(), self.keeper.grace, (self.jitter)())
    }

    async fn renew(&mut self) -> Result<(), Undone> {
        let sent = self.keeper.clock.now();
        let renewed = match self.keeper.leases.renew(&self.held.lease, None).await {
            Ok(renewed) => renewed,
            Err(error) => return Err(self.not_renewed(error)),
        };
        let life = self.held.life.renewed(sent, &renewed.lease).map_err(Undone::Failed)?;
        if let Some(life) = life {
            self.held.life = life;
        }
        let end = self.held.life.end;
        self.view.send_modify(|view| {
            view.end = end;
            view.failure = None;
            if let Some(credential) = renewed.credential {
                view.credential = Arc::new(credential);
                view.number += 1;
            }
        });
        if life.is_none() {
            return Err(Undone::Replace);
        }
        self.keeper.tell(&KeeperEvent::Renewed { lease: renewed.lease });
        Ok(())
    }

    fn not_renewed(&mut self, error: Error) -> Undone {
        match verdict::unrenewed(&error) {
            Unrenewed::Again => return Undone::Failed(error),
            Unrenewed::AsLong if error.reason() == "LEASE_AT_ITS_LONGEST" => {}
            Unrenewed::AsLong => self.failed(Step::Renew, error, None),
            Unrenewed::Nothing => {
                self.over();
                self.failed(Step::Renew, error, None);
            }
        }
        Undone::Replace
    }

    /// The vault said that the lease is over.
    fn over(&mut self) {
        let now = self.keeper.clock.now();
        self.view.send_modify(|view| view.end = view.end.min(now));
        self.held.life.end = self.held.life.end.min(now);
        self.ended = true;
    }

    async fn replace(&mut self, asking: &mut Asking) -> Result<(), Undone> {
        let (lease, held, credential) = self.keeper.issue(asking).await.map_err(Undone::Failed)?;
        let end = held.life.end;
        let old = std::mem::replace(self.held, held);
        self.following.send_replace(self.held.lease.clone());
        self.view.send_modify(|view| {
            view.credential = Arc::new(credential);
            view.number += 1;
            view.end = end;
            view.failure = None;
        });
        self.keeper.tell(&KeeperEvent::Replaced { lease, before: old.lease.clone() });
        if std::mem::take(&mut self.ended) {
            return Ok(());
        }
        let now = self.keeper.clock.now();
        let at = (now + self.keeper.grace).min(old.life.end);
        let until = old.life.end.max(now + LET_GO_WITHIN);
        // The other end is in the same task, and lives as long.
        self.retire.send(Retired { lease: old.lease, at, until, failures: 0 }).ok();
        Ok(())
    }

    fn failed(&self, step: Step, error: Error, again: Option<Duration>) {
        let error = Arc::new(error);
        self.view.send_modify(|view| view.failure = Some(error.clone()));
        let step = match step {
            Step::Renew => KeeperStep::Renew,
            Step::Replace => KeeperStep::Issue,
        };
        self.keeper.tell(&KeeperEvent::Failed { step, error, again });
    }
}

/// Why a step did not succeed.
enum Undone {
    /// The credential cannot be kept: the next one is due now.
    Replace,
    /// It is tried again.
    Failed(Error),
}
