//! Logins in a real PostgreSQL, from the request to the last trace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keystead_client::{Issued, KeeperEvent, LeaseSelector, LeaseState, SecretBytes, v1};
use keystead_storage::{Keyspace, Range, Storage};
use keystead_storage_rocksdb::{Options, RocksStorage};
use keystead_tests::canary::files_below;
use keystead_tests::peers::{self, Shop};
use keystead_tests::{TestVault, until};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::reason;

pub(crate) const ROLE: &str = "orders-rw";

pub(crate) async fn shop(vault: &TestVault) -> Shop {
    let shop = Shop::start(&vault.operator()).await;
    shop.add_to(&vault.operator()).await;
    shop
}

pub(crate) async fn no_login_is_left(shop: &Shop) {
    until("no login is left", || async { shop.logins().await.is_empty().then_some(()) }).await;
}

/// The SQLSTATE of a statement's refusal; nothing if it was done.
async fn refused(session: &tokio_postgres::Client, statement: &str) -> Option<String> {
    let error = session.batch_execute(statement).await.err()?;
    Some(error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()))
}

#[tokio::test]
async fn a_service_gets_a_login_that_does_what_its_role_says_until_its_lease_is_revoked() {
    let vault = TestVault::start().await;
    let shop = shop(&vault).await;
    let (orders, other) = (vault.service("orders").await, vault.service("other").await);
    assert_eq!(reason(orders.credentials().issue(ROLE).await), "DENIED");
    vault.may_issue("orders", ROLE).await;

    let issued: Issued = orders.credentials().issue(ROLE).await.unwrap();
    let session = shop.login(&issued).await.unwrap();
    let rows = session.query("SELECT note FROM shop.orders", &[]).await.unwrap();
    assert_eq!(rows[0].get::<_, &str>(0), "first");
    session.batch_execute("INSERT INTO shop.orders (note) VALUES ('second')").await.unwrap();
    for statement in [
        "UPDATE shop.orders SET note = ''",
        "DELETE FROM shop.orders",
        "SELECT * FROM shop.payments",
        "CREATE TABLE shop.mine (id int)",
        "SET ROLE app",
    ] {
        assert_eq!(refused(&session, statement).await.as_deref(), Some("42501"), "{statement}");
    }

    // PostgreSQL warns of a grant that gives nothing.
    let rights = "SELECT relacl::text FROM pg_class WHERE oid = 'shop.orders'::regclass";
    let before: String = shop.root.query_one(rights, &[]).await.unwrap().get(0);
    session.batch_execute("GRANT SELECT ON shop.orders TO PUBLIC").await.unwrap();
    assert_eq!(shop.root.query_one(rights, &[]).await.unwrap().get::<_, String>(0), before);

    // Another service has nothing of it, and an operator sees whose it is.
    let id = issued.lease.id.clone();
    assert_eq!(reason(other.leases().get(&id).await), "DENIED");
    assert_eq!(reason(other.leases().revoke(&id).await), "DENIED");
    assert_eq!(reason(other.leases().renew(&id, None).await), "DENIED");
    let mut listed = vault.operator().leases().list(&LeaseSelector::Role(ROLE.to_owned()));
    let listed = listed.next().await.unwrap().unwrap();
    assert_eq!((listed.id.as_str(), listed.owner.as_str()), (id.as_str(), "service/orders"));

    let renewed = orders.leases().renew(&id, Some(Duration::from_secs(1_000))).await.unwrap();
    assert_eq!(renewed.lease.renewals, 1);
    orders.leases().revoke(&id).await.unwrap();
    until("it is closed", || async {
        (orders.leases().get(&id).await.unwrap().state == LeaseState::Revoked).then_some(())
    })
    .await;
    assert!(session.query("SELECT 1", &[]).await.is_err(), "a session outlived its lease");
    assert!(shop.login(&issued).await.is_err());
    no_login_is_left(&shop).await;

    // No password in the log of the audit, nor in that of the server.
    let keystead_client::Credential::Postgres(login) = &issued.credential else { panic!("another kind") };
    let password = String::from_utf8(login.password.expose().to_vec()).unwrap();
    let recorded = format!("{:?}", vault.audit().await);
    for secret in [password.as_str(), peers::ADMIN_PASSWORD] {
        assert!(!recorded.contains(secret), "a password is in the audit log");
    }
    assert!(!shop.server.log().contains(&password), "a password reached the server's log");
    assert!(recorded.contains("revoke-lease") && recorded.contains(&login.username));
}

#[tokio::test]
async fn an_excess_planted_in_the_database_refuses_the_login() {
    let vault = TestVault::start().await;
    let shop = shop(&vault).await;
    let operator = vault.operator();
    shop.run("GRANT SELECT ON shop.payments TO PUBLIC").await;
    // The group was read back a moment ago: defining it again looks again.
    let again = operator.credentials().put_role(peers::orders_role(ROLE)).await;
    assert_eq!(reason(again), "RIGHTS_IN_EXCESS");
    assert_eq!(reason(operator.credentials().issue(ROLE).await), "RIGHTS_IN_EXCESS");
    no_login_is_left(&shop).await;
    shop.run("REVOKE SELECT ON shop.payments FROM PUBLIC").await;
    operator.credentials().issue(ROLE).await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_down_keeps_its_logins_until_it_is_back_and_then_loses_them() {
    let vault = TestVault::start().await;
    let mut shop = shop(&vault).await;
    let operator = vault.operator();
    for _ in 0..5 {
        operator.credentials().issue(ROLE).await.unwrap();
    }
    shop.server.stop();
    assert_eq!(
        operator.leases().revoke_all(&LeaseSelector::RolePrefix("orders".to_owned())).await.unwrap(),
        5
    );
    assert_eq!(reason(operator.credentials().issue(ROLE).await), "TARGET_UNAVAILABLE");
    // Nobody else waits for it.
    crate::put(&operator, "a", "b").await;
    until("the failure is seen", || async {
        let lease =
            operator.leases().list(&LeaseSelector::Target("shop-db".to_owned())).next().await.unwrap()?;
        let said = lease.ending?.last_error;
        said?.contains("does not answer").then_some(())
    })
    .await;
    shop.start_again().await;
    assert!(!shop.logins().await.is_empty());
    no_login_is_left(&shop).await;
}

#[tokio::test]
async fn the_admin_login_has_a_password_that_nobody_else_knows() {
    let mut vault = TestVault::start().await;
    let shop = shop(&vault).await;
    let operator = vault.operator();
    operator.credentials().rotate_target_login("shop-db").await.unwrap();
    let old = shop.server.login(peers::ADMIN, peers::ADMIN_PASSWORD.as_bytes(), peers::DATABASE).await;
    assert!(old.is_err(), "the first password still works");
    vault.restart().await;
    vault.unseal().await;
    vault.operator().credentials().issue(ROLE).await.unwrap();
}

/// The wrapped data keys of a stopped vault.
async fn data_keys(vault: &TestVault) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let store = RocksStorage::open(&vault.data_dir().join("store"), Options::default()).unwrap();
    let found = store.snapshot().await.unwrap();
    let found = found.range(Keyspace::DataKeys, Range::all(None), 100).await.unwrap();
    let found = found.into_iter().map(|(at, stored)| (at.to_vec(), stored.value.to_vec())).collect();
    store.close().await.unwrap();
    found
}

fn is_in_the_stores_files(vault: &TestVault, bytes: &[u8]) -> bool {
    files_below(&vault.data_dir().join("store")).iter().any(|path| {
        // One that went meanwhile holds nothing any more.
        let content = std::fs::read(path).unwrap_or_default();
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

#[tokio::test]
async fn the_key_of_a_former_admin_password_is_gone_from_the_stores_files() {
    let mut vault = TestVault::start().await;
    let _shop = shop(&vault).await;
    crate::put(&vault.operator(), "shop/stays", "x").await;
    for delete in [false, true] {
        vault.stop().await;
        let before = data_keys(&vault).await;
        vault.start_again().await.unwrap();
        vault.unseal().await;
        let credentials = vault.operator().credentials();
        if delete {
            credentials.delete_role(ROLE).await.unwrap();
            credentials.delete_target("shop-db").await.unwrap();
        } else {
            credentials.rotate_target_login("shop-db").await.unwrap();
        }
        vault.stop().await;
        let after = data_keys(&vault).await;
        let (kept, gone): (Vec<_>, Vec<_>) = before.iter().partition(|(at, _)| after.contains_key(*at));
        assert_eq!(gone.len(), 1);
        assert!(
            kept.iter().any(|(at, _)| is_in_the_stores_files(&vault, &after[*at])),
            "nothing is found at all"
        );
        for (_, wrapped) in gone {
            assert!(!is_in_the_stores_files(&vault, wrapped), "deleted: {delete}");
        }
        vault.start_again().await.unwrap();
        vault.unseal().await;
    }
}

#[tokio::test]
async fn what_the_vault_does_not_know_of_is_removed_and_what_is_gone_is_ended() {
    let mut vault = TestVault::start().await;
    let shop = shop(&vault).await;
    let issued = vault.operator().credentials().issue(ROLE).await.unwrap();
    let keystead_client::Credential::Postgres(login) = &issued.credential else { panic!("another kind") };
    let lease = login.username.rsplit('_').next().unwrap();
    let orphan = login.username.replace(lease, &"9".repeat(32));
    // As the vault's own functions make them: from 16 on, nobody else's may be dropped by them.
    shop.run(&format!("SET ROLE {}; CREATE ROLE \"{orphan}\" LOGIN; RESET ROLE", shop.owner())).await;
    // Compared whenever the vault opens.
    vault.restart().await;
    vault.unseal().await;
    until("the orphan is removed", || async {
        (shop.logins().await == [login.username.as_str()]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_kept_login_works_at_every_moment_while_leases_are_renewed_and_replaced() {
    let vault = TestVault::start().await;
    let shop = shop(&vault).await;
    let role = v1::Role {
        default_ttl: Some(peers::seconds(3)),
        max_ttl: Some(peers::seconds(7)),
        ..peers::orders_role("orders-brief")
    };
    vault.operator().credentials().put_role(role).await.unwrap();
    let orders = vault.service("orders").await;
    vault.may_issue("orders", "orders-brief").await;

    let (told, mut events) = tokio::sync::mpsc::unbounded_channel();
    let kept = orders
        .credentials()
        .keep("orders-brief")
        .grace(Duration::from_millis(500))
        .on_event(move |event| told.send(event.clone()).unwrap())
        .await
        .unwrap();
    let (mut renewed, mut replaced, mut released) = (0, 0, 0);
    while renewed < 3 || released < 2 {
        let keystead_client::Credential::Postgres(login) = &*kept.current().unwrap() else {
            panic!("another kind")
        };
        let session = shop.server.login(&login.username, login.password.expose(), &login.database).await;
        session.unwrap().query("SELECT note FROM shop.orders", &[]).await.unwrap();
        while let Ok(event) = events.try_recv() {
            match event {
                KeeperEvent::Renewed { .. } => renewed += 1,
                KeeperEvent::Replaced { .. } => replaced += 1,
                KeeperEvent::Released { .. } => released += 1,
                other => panic!("{other}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(replaced >= 2);
    kept.shutdown().await.unwrap();
    no_login_is_left(&shop).await;
}

/// A way to the database that can be cut: from then on it takes connections and says nothing.
struct Wire {
    port: u16,
    cut: watch::Sender<bool>,
    silent: Arc<Notify>,
}

impl Wire {
    async fn to(port: u32) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let wire = Self {
            port: listener.local_addr().unwrap().port(),
            cut: watch::Sender::new(false),
            silent: Arc::default(),
        };
        let (cut, silent) = (wire.cut.subscribe(), Arc::clone(&wire.silent));
        tokio::spawn(async move {
            let port = u16::try_from(port).unwrap();
            while let Ok((mut near, _)) = listener.accept().await {
                let (mut cut, silent) = (cut.clone(), Arc::clone(&silent));
                tokio::spawn(async move {
                    if *cut.borrow() {
                        silent.notify_one();
                        std::future::pending::<()>().await;
                    }
                    let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        wire
    }
}

#[tokio::test]
async fn destroying_a_secret_waits_for_no_target_that_does_not_answer() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let shop = Shop::start(&operator).await;
    let mut target = shop.target("shop-db");
    let Some(v1::target::Settings::Postgres(postgres)) = &mut target.settings else { panic!("another kind") };
    let wire = Wire::to(postgres.port).await;
    postgres.port = wire.port.into();
    let password = SecretBytes::from(peers::ADMIN_PASSWORD.as_bytes().to_vec());
    operator.credentials().put_target(target, Some(password)).await.unwrap();
    operator.credentials().put_role(peers::orders_role(ROLE)).await.unwrap();
    wire.cut.send_replace(true);

    for look in ["check", "define", "verify"] {
        let (credentials, path) = (operator.credentials(), format!("shop/{look}"));
        crate::put(&operator, &path, "x").await;
        let asking = tokio::spawn(async move {
            match look {
                "check" => credentials.check_target("shop-db").await.map(drop),
                "define" => credentials.put_role(peers::orders_role(ROLE)).await.map(drop),
                _ => credentials.verify_role(ROLE).await.map(drop),
            }
        });
        wire.silent.notified().await;
        operator.secrets().destroy(&path, &[1]).await.unwrap();
        assert!(!asking.is_finished(), "{look} was over already");
        asking.abort();
    }
}
