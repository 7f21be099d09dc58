//! `kill -9` while logins are issued and revoked in a real PostgreSQL: afterwards there is a login for each lease and a lease
//! for each login.

use std::collections::BTreeSet;
use std::time::Duration;

use keystead_client::{Client, Credential, LeaseSelector, LeaseState};
use keystead_tests::ServerProcess;
use keystead_tests::peers::Shop;
use tokio::task::JoinSet;
use tokio::time::Instant;

const ROLE: &str = "orders-rw";
const KILLS: u64 = 8;
const CALLERS: usize = 4;
/// Longer than a login may be in the making.
const SETTLED: Duration = Duration::from_secs(150);

fn all() -> LeaseSelector {
    LeaseSelector::Role(ROLE.to_owned())
}

/// Issues without end, and revokes every second one.
async fn issue_on(operator: Client) {
    for number in 0_u64.. {
        let Ok(issued) = operator.credentials().issue(ROLE).await else { continue };
        if number.is_multiple_of(2) {
            drop(operator.leases().revoke(&issued.lease.id).await);
        }
    }
}

/// The logins of all leases, once none is in the making or on its way out.
async fn settled(server: &ServerProcess) -> BTreeSet<String> {
    let deadline = Instant::now() + SETTLED;
    loop {
        let mut leases = Vec::new();
        let mut pages = server.operator().leases().list(&all());
        while let Some(lease) = pages.next().await.unwrap() {
            leases.push(lease);
        }
        if leases.iter().all(|lease| lease.state == LeaseState::Active) {
            return leases.into_iter().map(|lease| lease.login).collect();
        }
        assert!(Instant::now() < deadline, "leases neither here nor there: {leases:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_leave_a_login_for_each_lease_and_a_lease_for_each_login() {
    let mut server = ServerProcess::start().await;
    server.init().await;
    server.unseal().await;
    let shop = Shop::start(&server.operator()).await;
    shop.add_to(&server.operator()).await;
    let mut made = 0;
    for kill in 0..KILLS {
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            callers.spawn(issue_on(server.operator()));
        }
        // At another place in the work each time.
        tokio::time::sleep(Duration::from_millis(150 + kill * 97)).await;
        server.kill().await;
        callers.shutdown().await;
        made = made.max(shop.logins().await.len());
        server.start_again().await;
        server.unseal().await;
    }
    assert!(made > 0, "no login was there at any kill");
    let leased = settled(&server).await;
    let there: BTreeSet<String> = shop.logins().await.into_iter().collect();
    assert_eq!(there, leased);
    // What was issued last still works as long as its lease.
    let issued = server.operator().credentials().issue(ROLE).await.unwrap();
    let Credential::Postgres(_) = &issued.credential else { panic!("another kind") };
    shop.login(&issued).await.unwrap();
    server.operator().leases().revoke_all(&all()).await.unwrap();
    assert_eq!(settled(&server).await, BTreeSet::new());
    assert_eq!(shop.logins().await, Vec::<String>::new());
}
