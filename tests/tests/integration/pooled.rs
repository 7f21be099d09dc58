//! The example's pool under load, while its login is renewed and replaced.

#[path = "../../../client/examples/postgres_pool/pool.rs"]
mod pool;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keystead_client::{KeeperEvent, v1};
use keystead_tests::peers::{self, Shop};
use keystead_tests::{TestVault, until};
use tokio::task::JoinSet;

use self::pool::Pool;

const ROLE: &str = "orders-pooled";
const CONNECTIONS: usize = 6;
/// More than there are connections: some always wait for one.
const WORKERS: usize = 16;
const LOGINS: usize = 4;
const RENEWALS: usize = 3;
/// Longer than any connection is kept.
const GRACE: Duration = Duration::from_millis(1_500);

/// What a worker did until it was told to stop.
#[derive(Default)]
struct Done {
    queries: usize,
    logins: BTreeSet<String>,
}

/// Queries without end; every fifth time in a transaction that takes its time.
async fn work(pool: Pool, stop: Arc<AtomicBool>) -> Result<Done, String> {
    let told = |error: &dyn std::fmt::Debug| format!("{error:?}");
    let mut done = Done::default();
    while !stop.load(Ordering::Relaxed) {
        let mut connection = pool.get().await.map_err(|error| told(&error))?;
        if done.queries % 5 == 0 {
            let transaction = connection.transaction().await.map_err(|error| told(&error))?;
            transaction
                .batch_execute("INSERT INTO shop.orders (note) VALUES ('pooled'); SELECT pg_sleep(0.2)")
                .await
                .map_err(|error| told(&error))?;
            transaction.commit().await.map_err(|error| told(&error))?;
        }
        let row =
            connection.query_one("SELECT session_user::text", &[]).await.map_err(|error| told(&error))?;
        done.queries += 1;
        done.logins.insert(row.get(0));
        drop(connection);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(done)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_of_a_pool_fails_while_its_login_is_renewed_and_replaced() {
    let vault = TestVault::start().await;
    let shop = Shop::start(&vault.operator()).await;
    shop.add_to(&vault.operator()).await;
    let mut role = v1::Role {
        default_ttl: Some(peers::seconds(4)),
        max_ttl: Some(peers::seconds(8)),
        ..peers::orders_role(ROLE)
    };
    if let Some(v1::role::Declaration::Postgres(declared)) = &mut role.declaration {
        declared.connection_limit = CONNECTIONS.try_into().unwrap();
    }
    vault.operator().credentials().put_role(role).await.unwrap();
    let orders = vault.service("orders").await;
    vault.may_issue("orders", ROLE).await;

    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let kept = orders
        .credentials()
        .keep(ROLE)
        .grace(GRACE)
        .on_event(move |event| drop(told.send(event.clone())))
        .await
        .unwrap();
    let pool = pool::pool(&kept, CONNECTIONS).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(pool.clone(), Arc::clone(&stop)));
    }
    let (mut renewed, mut released) = (0, 0);
    while renewed < RENEWALS || released + 1 < LOGINS {
        tokio::select! {
            event = events.recv() => match event.unwrap() {
                KeeperEvent::Renewed { .. } => renewed += 1,
                KeeperEvent::Replaced { .. } => {}
                KeeperEvent::Released { .. } => released += 1,
                other => panic!("{other}"),
            },
            failed = workers.join_next() => panic!("a worker stopped: {:?}", failed.map(|done| done.unwrap().err())),
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (mut queries, mut logins) = (0, BTreeSet::new());
    while let Some(done) = workers.join_next().await {
        let done = done.unwrap().unwrap();
        queries += done.queries;
        logins.extend(done.logins);
    }
    assert!(logins.len() >= LOGINS, "{logins:?}");
    assert!(queries > 100 * LOGINS, "{queries} queries are no load");
    // Not by luck: the vault found no session that it had to end.
    assert!(!shop.server.log().contains("terminating connection"), "a connection outlived its login");

    // Idle connections go when their login does, also where nobody asks for one.
    pool.close();
    kept.shutdown().await.unwrap();
    until("no login is left", || async { shop.logins().await.is_empty().then_some(()) }).await;
}
