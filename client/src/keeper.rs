//! A credential that stays fresh: renewed in time, replaced before it ends, handed back at the end.
//!
//! Invariants: what is handed out lives, by a reckoning that is never longer than the vault's; the next credential is there
//! before the one before it ends, unless the vault does not answer for that long. Absent: a store for credentials; what a
//! program that crashes leaves behind ends with its lease.

mod clock;
mod event;
mod follow;
mod life;
mod run;
#[cfg(test)]
mod tests;
mod verdict;

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::call::Caller;
use crate::credentials::{Credentials, Period};
use crate::error::Error;
use crate::leases::{Credential, Leases};
use crate::retry::{Repeat, fraction};
use clock::{Clock, RuntimeClock};
pub use event::{KeeperEvent, KeeperStep};
use run::{Asking, Jitter, Keeper, OnEvent, Stop, View};

/// How long a replaced credential stays usable if nobody says otherwise.
const DEFAULT_GRACE: Duration = Duration::from_secs(60);

/// How to keep a credential; awaiting it issues the first one.
pub struct Keep {
    caller: Caller,
    role: String,
    period: Period,
    grace: Duration,
    jitter: Jitter,
    on_event: Option<OnEvent>,
    clock: Arc<dyn Clock>,
}

/// A credential that is kept fresh while this lives. Clones share it.
///
/// Dropping the last clone stops the keeping, at once and without a word to the vault: the lease then ends by itself.
/// [`shutdown`](Self::shutdown) hands it back.
#[derive(Clone)]
pub struct KeptCredential {
    shared: Arc<Shared>,
    view: watch::Receiver<View>,
    seen: u64,
}

struct Shared {
    role: String,
    clock: Arc<dyn Clock>,
    suspected: watch::Sender<Option<u64>>,
    stop: mpsc::Sender<Stop>,
    task: AbortHandle,
}

/// How a kept credential is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Freshness {
    /// As it should be.
    Fresh {
        /// When it ends if nothing more happens.
        until: Instant,
    },
    /// It lives, but the last try to renew or replace it failed.
    Stale {
        /// When it ends unless a later try succeeds.
        until: Instant,
        /// Why the last try failed.
        error: Arc<Error>,
    },
    /// It is over, and there is no next one yet. It is still tried.
    Lost {
        /// Why the last try failed.
        error: Option<Arc<Error>>,
    },
    /// It was handed back.
    ShutDown,
}

/// There is no credential that lives.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoCredential {
    /// The last one is over, and there is no next one yet. It is still tried: ask again later.
    #[error("the credential of role {role} is over, and there is no next one yet")]
    Lost {
        /// The role.
        role: String,
        /// Why the last try failed.
        #[source]
        error: Option<Arc<Error>>,
    },
    /// It was handed back.
    #[error("the credential of role {role} was handed back: its keeper is shut down")]
    ShutDown {
        /// The role.
        role: String,
    },
}

impl Credentials {
    /// Keeps a credential of a role: awaiting what comes back issues the first one, and a task keeps it fresh.
    ///
    /// It is renewed at two thirds of its period, give or take a tenth of that. Where its lease cannot have another whole
    /// period, the next credential is issued before it ends; it is handed back after a
    /// [grace](Keep::grace). So a role must allow each keeper two live leases. Where the vault lets it, the lease is followed,
    /// and replaced as soon as somebody revokes it.
    ///
    /// ```no_run
    /// use keystead_client::{Client, Credential, KeeperEvent, Period};
    ///
    /// # async fn example(vault: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let orders = vault
    ///     .credentials()
    ///     .keep("orders-rw")
    ///     .period(Period::Medium)
    ///     .on_event(|event| if let KeeperEvent::Failed { .. } = event { eprintln!("{event}") })
    ///     .await?;
    ///
    /// // For each new connection: never waits, and what it gives is alive.
    /// if let Credential::Postgres(login) = &*orders.current()? {
    ///     connect(&login.host, login.port, &login.username, login.password.expose());
    /// }
    ///
    /// orders.shutdown().await?;
    /// # Ok(()) }
    /// # fn connect(_: &str, _: u16, _: &str, _: &[u8]) {}
    /// ```
    pub fn keep(&self, role: impl Into<String>) -> Keep {
        Keep {
            caller: self.caller().clone(),
            role: role.into(),
            period: Period::default(),
            grace: DEFAULT_GRACE,
            jitter: Box::new(fraction),
            on_event: None,
            clock: Arc::new(RuntimeClock),
        }
    }
}

impl Keep {
    /// How long a period is to be; as the role says if not given.
    #[must_use]
    pub fn period(mut self, period: Period) -> Self {
        self.period = period;
        self
    }

    /// How long a replaced credential stays usable, for connections that were made with it: 60 seconds if not given, and
    /// never beyond its own end. Credentials are replaced early enough for it, down to a third of their period.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Where jitter comes from: numbers from 0 to 1.
    #[must_use]
    pub fn jitter(mut self, source: impl FnMut() -> f64 + Send + 'static) -> Self {
        self.jitter = Box::new(source);
        self
    }

    /// Is told what happens, in the keeper's task: it must not block. A panic in it is caught.
    #[must_use]
    pub fn on_event(mut self, listener: impl Fn(&KeeperEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Arc::new(listener));
        self
    }

    #[cfg(test)]
    fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    async fn start(self) -> Result<KeptCredential, Error> {
        let once = self.caller.once();
        let keeper = Keeper {
            role: self.role.clone(),
            period: self.period,
            grace: self.grace,
            on_event: self.on_event,
            clock: self.clock.clone(),
            credentials: Credentials::new(once.clone()),
            leases: Leases::new(once),
        };
        let (held, credential) = first(&keeper, &self.caller).await?;
        let (view_to, view) = watch::channel(View {
            credential: Arc::new(credential),
            number: 0,
            end: held.life.end,
            failure: None,
            shut_down: false,
        });
        let (suspected, suspicions) = watch::channel(None);
        let (stop, stops) = mpsc::channel(1);
        let running = keeper.run(held, self.jitter, view_to, suspicions, stops);
        let task = tokio::spawn(running).abort_handle();
        let shared = Arc::new(Shared { role: self.role, clock: self.clock, suspected, stop, task });
        Ok(KeptCredential { shared, view, seen: 0 })
    }
}

/// The first credential, with the client's repeats, within the deadline of one call.
async fn first(keeper: &Keeper, caller: &Caller) -> Result<(run::Held, Credential), Error> {
    let deadline = tokio::time::Instant::now() + caller.deadline();
    let mut asking = Asking::default();
    let mut tries = 1;
    loop {
        let error = match keeper.issue(&mut asking).await {
            Ok((_, held, credential)) => return Ok((held, credential)),
            Err(error) => error,
        };
        let Some(delay) = caller.delay(Repeat::Safe, tries, &error) else { return Err(error) };
        if tokio::time::Instant::now() + delay >= deadline {
            return Err(error);
        }
        tokio::time::sleep(delay).await;
        tries += 1;
    }
}

impl IntoFuture for Keep {
    type Output = Result<KeptCredential, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.start())
    }
}

impl KeptCredential {
    /// The credential to log in with now. Never waits; what it gives lives at this moment.
    ///
    /// # Errors
    /// [`NoCredential`] if the last one is over without a next one, or was handed back.
    pub fn current(&self) -> Result<Arc<Credential>, NoCredential> {
        let view = self.view.borrow();
        self.alive(&view)
    }

    /// How it is.
    pub fn freshness(&self) -> Freshness {
        let view = self.view.borrow();
        let until = view.end.into_std();
        match (&view.failure, self.alive(&view)) {
            (_, Err(NoCredential::ShutDown { .. })) => Freshness::ShutDown,
            (_, Err(NoCredential::Lost { error, .. })) => Freshness::Lost { error },
            (Some(error), Ok(_)) => Freshness::Stale { until, error: error.clone() },
            (None, Ok(_)) => Freshness::Fresh { until },
        }
    }

    /// Waits for a credential that this clone was not yet told of. May be dropped at any time without loss.
    ///
    /// # Errors
    /// [`NoCredential::ShutDown`] once there will be none any more.
    pub async fn changed(&mut self) -> Result<Arc<Credential>, NoCredential> {
        loop {
            {
                let view = self.view.borrow_and_update();
                if view.shut_down {
                    break;
                }
                if view.number != self.seen && self.shared.clock.now() < view.end {
                    let credential = view.credential.clone();
                    self.seen = view.number;
                    return Ok(credential);
                }
            }
            if self.view.changed().await.is_err() {
                break;
            }
        }
        Err(self.shut_down())
    }

    /// Says that a credential was refused where it should log in. If it is the current one, its lease is renewed now, or
    /// replaced if the vault has ended it or it cannot be renewed; at most twice a minute, and not while the vault is away.
    pub fn suspect(&self, credential: &Arc<Credential>) {
        let view = self.view.borrow();
        if Arc::ptr_eq(&view.credential, credential) {
            self.shared.suspected.send_replace(Some(view.number));
        }
    }

    /// Stops the keeping and hands back its leases: the current one, and those in their grace. Takes no longer than two
    /// calls may. Connections that were made with them end.
    ///
    /// # Errors
    /// The first lease that could not be handed back. It ends by itself.
    pub async fn shutdown(self) -> Result<(), Error> {
        let (done, outcome) = oneshot::channel();
        if self.shared.stop.send(done).await.is_err() {
            return Ok(());
        }
        // Somebody else was first: theirs is the outcome.
        outcome.await.unwrap_or(Ok(()))
    }

    fn alive(&self, view: &View) -> Result<Arc<Credential>, NoCredential> {
        if view.shut_down {
            return Err(self.shut_down());
        }
        if self.shared.clock.now() >= view.end {
            return Err(NoCredential::Lost { role: self.shared.role.clone(), error: view.failure.clone() });
        }
        Ok(view.credential.clone())
    }

    fn shut_down(&self) -> NoCredential {
        NoCredential::ShutDown { role: self.shared.role.clone() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keep")
            .field("role", &self.role)
            .field("period", &self.period)
            .field("grace", &self.grace)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeptCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptCredential")
            .field("role", &self.shared.role)
            .field("freshness", &self.freshness())
            .finish_non_exhaustive()
    }
}
