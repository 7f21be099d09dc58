//! A vault whose server ends where it is told, and a shop.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use keystead_client::{Client, Lease, LeaseSelector, LeaseState};
use keystead_core::fail_points::Step;
use keystead_tests::peers::Shop;
use keystead_tests::{ServerProcess, programs};
use tokio::time::Instant;

pub(crate) const ROLE: &str = "orders-rw";
const FAILPOINTS: &str = "FAILPOINTS";
const SIGABRT: i32 = 6;
/// Longer than a login may be in the making.
const SETTLED: Duration = Duration::from_secs(120);

pub(crate) struct World {
    pub(crate) server: ServerProcess,
    pub(crate) shop: Shop,
}

impl World {
    /// An unsealed vault with a target and a role; nothing is armed.
    pub(crate) async fn start() -> Self {
        let mut server = ServerProcess::prepare(&[]);
        server.run_instead(programs::server_with_fail_points());
        server.start_again().await;
        server.init().await;
        server.unseal().await;
        let shop = Shop::start(&server.operator()).await;
        shop.add_to(&server.operator()).await;
        Self { server, shop }
    }

    pub(crate) fn operator(&self) -> Client {
        self.server.operator()
    }

    /// Starts the server again so that it ends behind this step.
    pub(crate) async fn arm(&mut self, step: Step) {
        self.server.terminate().await;
        self.open(Some(&format!("{}=return", step.name()))).await;
    }

    /// Waits until the armed step has ended the server, and starts it as it should be.
    pub(crate) async fn recover(&mut self, step: Step) {
        let status = self.server.ended().await;
        assert_eq!(status.signal(), Some(SIGABRT), "{step:?}: {status:?}");
        self.open(None).await;
    }

    async fn open(&mut self, armed: Option<&str>) {
        self.server.set_variable(FAILPOINTS, armed);
        self.server.start_again().await;
        self.server.unseal().await;
    }

    /// Every live lease.
    pub(crate) async fn leases(&self) -> Vec<Lease> {
        let mut leases = Vec::new();
        let mut pages = self.operator().leases().list(&LeaseSelector::Role(ROLE.to_owned()));
        while let Some(lease) = pages.next().await.unwrap() {
            leases.push(lease);
        }
        leases
    }

    /// The logins of all leases once none is in the making or on its way out; they are those of the database.
    pub(crate) async fn settled(&self) -> BTreeSet<String> {
        let deadline = Instant::now() + SETTLED;
        loop {
            let leases = self.leases().await;
            if leases.iter().all(|lease| lease.state == LeaseState::Active) {
                let leased: BTreeSet<String> = leases.into_iter().map(|lease| lease.login).collect();
                let there: BTreeSet<String> = self.shop.logins().await.into_iter().collect();
                assert_eq!(there, leased, "logins of the database, and those of leases");
                return leased;
            }
            assert!(Instant::now() < deadline, "leases neither here nor there: {leases:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
