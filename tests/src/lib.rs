//! The harness of the end-to-end tests: a vault of its own for each test, with real SoftHSM, TLS, store and audit log.
//!
//! [`TestVault`] runs the server inside the test; [`ServerProcess`] runs the real binary, for kills, signals and logs. Both
//! stand on a [`Site`]: a private directory, a token, a CA and the clients. Invariant: nothing is shared between tests,
//! ports are the system's choice, and time comes from a clock that a test may hold.
//!
//! Absent on purpose: sleeps. [`until`] asks again until a deadline.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a harness fails its test by panicking")]

pub mod canary;
pub mod peers;
pub mod pki;
mod process;
pub mod programs;
pub mod raw;
mod site;
mod vault;

use std::future::Future;
use std::time::Duration;

pub use pki::{Identity, Pki};
pub use process::{ServerProcess, children_of};
pub use programs::{cli, server};
pub use site::{ADMIN_SPIFFE, Site, spiffe_matcher};
pub use vault::{TestVault, TestVaultBuilder};

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

const ASK_AGAIN: Duration = Duration::from_millis(5);

/// Asks until there is an answer, and fails the test when there is none in time.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(ASK_AGAIN).await;
    }
}
