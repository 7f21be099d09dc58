//! The keeper against a stand-in for a vault, over a real socket, by a clock that the test moves.

mod ends;
mod failures;
mod follow;
mod hands;
mod life;
mod vault;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use super::clock::Clock;
use super::*;
use crate::{Client, RetryPolicy};
use hands::Hands;
use vault::{Call, Server, Vault, refusal};

struct Rig {
    clock: Arc<Hands>,
    vault: Vault,
    client: Client,
    events: Arc<Mutex<Vec<KeeperEvent>>>,
    dir: tempfile::TempDir,
    server: Option<Server>,
}

impl Rig {
    async fn new(period: u64, longest: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hands::new());
        let vault = Vault::new(clock.clone(), period, longest);
        let path = dir.path().join("vault.sock");
        let server = Some(vault.serve(&path));
        let retry = RetryPolicy {
            attempts: 3,
            first_delay: Duration::from_millis(2),
            max_delay: Duration::from_millis(4),
        };
        let addr = format!("unix://{}", path.display());
        let client = Client::builder().addr(addr).retry(retry).build().await.unwrap();
        Self { clock, vault, client, events: Arc::default(), dir, server }
    }

    fn keep(&self) -> Keep {
        let events = self.events.clone();
        self.client
            .credentials()
            .keep("orders-rw")
            .clock(self.clock.clone())
            .jitter(|| 0.5)
            .grace(seconds(30))
            .on_event(move |event| events.lock().unwrap().push(event.clone()))
    }

    fn has(&self, which: impl Fn(&KeeperEvent) -> bool) -> bool {
        self.events.lock().unwrap().iter().any(which)
    }

    /// Waits for an event, and takes it out.
    async fn event(&self, which: impl Fn(&KeeperEvent) -> bool) -> KeeperEvent {
        let found = async {
            loop {
                {
                    let mut events = self.events.lock().unwrap();
                    if let Some(place) = events.iter().position(&which) {
                        return events.remove(place);
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        match tokio::time::timeout(seconds(10), found).await {
            Ok(event) => event,
            Err(_) => panic!("no such event; calls: {:?}", self.vault.calls()),
        }
    }

    async fn until(&self, done: impl Fn(&Vault) -> bool) {
        let waited = async {
            while !done(&self.vault) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(seconds(10), waited)
            .await
            .unwrap_or_else(|_| panic!("{:?}", self.vault.calls()));
    }

    /// Long enough for a call that should not come.
    async fn nothing_more(&self) {
        let before = self.vault.calls();
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(self.vault.calls(), before);
    }

    fn next(&self) {
        self.clock.move_to(self.clock.next_wake());
    }

    /// Moves on, failure by failure, until `end`; says how many there were.
    async fn failures_until(&self, end: Instant) -> usize {
        let mut failures = 0;
        while self.clock.next_wake() < end {
            self.next();
            self.event(is_failure).await;
            failures += 1;
        }
        failures
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn is_renewed(event: &KeeperEvent) -> bool {
    matches!(event, KeeperEvent::Renewed { .. })
}

fn is_replaced(event: &KeeperEvent) -> bool {
    matches!(event, KeeperEvent::Replaced { .. })
}

fn is_failure(event: &KeeperEvent) -> bool {
    matches!(event, KeeperEvent::Failed { .. })
}

fn is_lost(event: &KeeperEvent) -> bool {
    matches!(event, KeeperEvent::Lost { .. })
}

fn is_issue(call: &Call) -> bool {
    matches!(call, Call::Issue(_))
}

fn is_renewal(call: &Call) -> bool {
    matches!(call, Call::Renew(_))
}

fn away() -> Status {
    Status::unavailable("away")
}

fn denied() -> Status {
    refusal(Code::PermissionDenied, "DENIED")
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// A call that is given up takes a moment to go.
async fn tasks_are(many: usize) {
    let settled = async {
        while tasks() != many {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(seconds(10), settled).await.unwrap_or_else(|_| panic!("{} tasks", tasks()));
}

/// The number of the login that is handed out.
fn login(kept: &KeptCredential) -> usize {
    let Credential::Postgres(login) = &*kept.current().unwrap();
    login.username.strip_prefix("login-").unwrap().parse().unwrap()
}
