//! Logins that somebody else made in a real PostgreSQL, and their passwords in the vault's hands.

use keystead_client::{Client, Credential, SecretBytes, StaticCredential, StaticPasswords, v1};
use keystead_tests::peers::{ADMIN, ADMIN_PASSWORD, DATABASE, Shop, seconds};
use keystead_tests::{ServerProcess, TestVault, until};

use crate::reason;

const FIRST: &str = "canary-ledger-a-3e81";
const SECOND: &str = "canary-ledger-b-90c4";

async fn shop(operator: &Client) -> Shop {
    let shop = Shop::start(operator).await;
    shop.add_to(operator).await;
    shop.run(&format!(
        "CREATE ROLE ledger_a LOGIN PASSWORD '{FIRST}'; CREATE ROLE ledger_b LOGIN PASSWORD '{SECOND}'; \
         GRANT CONNECT ON DATABASE {DATABASE} TO ledger_a, ledger_b; \
         ALTER ROLE ledger_b SET default_transaction_read_only = on"
    ))
    .await;
    shop
}

fn role(first: &str, second: &str) -> v1::StaticRole {
    let logins = v1::PostgresStaticLogins { first: first.to_owned(), second: second.to_owned() };
    v1::StaticRole {
        name: "ledger".to_owned(),
        target: "shop-db".to_owned(),
        logins: Some(v1::static_role::Logins::Postgres(logins)),
        ..v1::StaticRole::default()
    }
}

fn given(first: &str, second: Option<&str>) -> StaticPasswords {
    let secret = |text: &str| SecretBytes::from(text.as_bytes().to_vec());
    StaticPasswords { first: Some(secret(first)), second: second.map(secret) }
}

fn parts(read: &StaticCredential) -> (String, String) {
    let Credential::Postgres(login) = &read.credential else { panic!("another kind") };
    (login.username.clone(), String::from_utf8(login.password.expose().to_vec()).unwrap())
}

async fn gets_in(shop: &Shop, (login, password): &(String, String)) -> bool {
    shop.server.login(login, password.as_bytes(), DATABASE).await.is_ok()
}

#[tokio::test]
async fn a_password_is_handed_out_to_its_service_and_changed_for_good() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let shop = shop(&operator).await;
    let roles = operator.static_roles();
    roles.put(role("ledger_a", ""), given(FIRST, None)).await.unwrap();
    let service = vault.service("ledger").await;
    assert_eq!(reason(service.static_roles().credential("ledger").await), "DENIED");
    let policy = "permit(principal == Keystead::Service::\"ledger\", \
                  action == Keystead::Action::\"static-roles:credential\", \
                  resource == Keystead::StaticRole::\"ledger\");";
    vault.policy("ledger", policy).await;
    assert_eq!(reason(service.static_roles().get("ledger").await), "DENIED", "another right");

    let before = service.static_roles().credential("ledger").await.unwrap();
    assert_eq!((parts(&before), before.version), (("ledger_a".to_owned(), FIRST.to_owned()), 0));
    assert!(gets_in(&shop, &parts(&before)).await);
    let session = shop.server.login("ledger_a", FIRST.as_bytes(), DATABASE).await.unwrap();

    let rotated = roles.rotate("ledger").await.unwrap().rotation.unwrap();
    assert_eq!((rotated.version, rotated.step), (1, 0));
    let after = service.static_roles().credential("ledger").await.unwrap();
    assert_eq!((parts(&after).0.as_str(), after.version), ("ledger_a", 1));
    assert!(!gets_in(&shop, &parts(&before)).await && gets_in(&shop, &parts(&after)).await);
    session.query_one("SELECT 1", &[]).await.expect("a session goes on");
    // The server has a verifier, and no statement with it.
    let kept = "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'ledger_a'";
    assert!(shop.root.query_one(kept, &[]).await.unwrap().get::<_, bool>(0));

    let recorded = format!("{:?}", vault.audit().await);
    assert!(recorded.contains("static-roles:credential") && recorded.contains("ledger_a"));
    for secret in [FIRST, parts(&after).1.as_str()] {
        assert!(!recorded.contains(secret), "a password is in the audit log");
    }
    assert!(!shop.server.log().contains(&parts(&after).1), "a password reached the database's log");
}

#[tokio::test]
async fn two_logins_take_turns_and_both_work_between_two_rotations() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let shop = shop(&operator).await;
    let roles = operator.static_roles();
    roles.put(role("ledger_a", "ledger_b"), given(FIRST, Some(SECOND))).await.unwrap();
    let mut before = parts(&roles.credential("ledger").await.unwrap());
    for turn in 0..3 {
        roles.rotate("ledger").await.unwrap();
        let after = parts(&roles.credential("ledger").await.unwrap());
        assert_ne!(after.0, before.0, "turn {turn}");
        assert!(gets_in(&shop, &before).await && gets_in(&shop, &after).await, "turn {turn}");
        before = after;
    }
}

/// Logins that share the owner of a schema begin their sessions as that role.
#[tokio::test]
async fn a_login_that_acts_as_another_role_changes_its_own_password() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let shop = shop(&operator).await;
    shop.run("CREATE ROLE owner LOGIN PASSWORD 'kept'; GRANT owner TO ledger_a; ALTER ROLE ledger_a SET role = 'owner'")
        .await;
    shop.run(&format!("GRANT CONNECT ON DATABASE {DATABASE} TO owner")).await;
    let roles = operator.static_roles();
    roles.put(role("ledger_a", ""), given(FIRST, None)).await.unwrap();
    roles.rotate("ledger").await.unwrap();
    assert!(gets_in(&shop, &parts(&roles.credential("ledger").await.unwrap())).await);
    assert!(
        gets_in(&shop, &("owner".to_owned(), "kept".to_owned())).await,
        "another role's password was changed"
    );
}

#[tokio::test]
async fn what_is_no_services_login_is_refused() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let shop = shop(&operator).await;
    let roles = operator.static_roles();
    let put = |first: &'static str, password: &'static str| roles.put(role(first, ""), given(password, None));
    assert_eq!(reason(put("ledger_a", "wrong").await), "STATIC_LOGIN_REFUSED");
    assert_eq!(reason(put("nobody", "wrong").await), "STATIC_LOGIN_REFUSED");
    // The vault's own: two would change its password behind each other.
    assert_eq!(reason(put(ADMIN, ADMIN_PASSWORD).await), "STATIC_LOGIN_TAKEN");
    let issued = operator.credentials().issue("orders-rw").await.unwrap();
    let Credential::Postgres(own) = &issued.credential else { panic!("another kind") };
    let passwords = StaticPasswords { first: Some(own.password.clone()), second: None };
    assert_eq!(reason(roles.put(role(&own.username, ""), passwords).await), "TARGET_REFUSED");
    for (grant, back) in [
        ("ALTER ROLE ledger_a SUPERUSER", "ALTER ROLE ledger_a NOSUPERUSER"),
        ("ALTER ROLE ledger_a CREATEROLE", "ALTER ROLE ledger_a NOCREATEROLE"),
        ("ALTER ROLE ledger_a BYPASSRLS", "ALTER ROLE ledger_a NOBYPASSRLS"),
        ("GRANT pg_execute_server_program TO ledger_a", "REVOKE pg_execute_server_program FROM ledger_a"),
        ("CREATE ROLE above SUPERUSER; GRANT above TO ledger_a", "DROP ROLE above"),
    ] {
        shop.run(grant).await;
        assert_eq!(reason(put("ledger_a", FIRST).await), "RIGHTS_IN_EXCESS", "{grant}");
        shop.run(back).await;
    }
    shop.run("ALTER ROLE ledger_a NOLOGIN").await;
    assert_eq!(reason(put("ledger_a", FIRST).await), "TARGET_REFUSED");
    shop.run("ALTER ROLE ledger_a LOGIN").await;
    put("ledger_a", FIRST).await.unwrap();
}

#[tokio::test]
async fn a_password_is_changed_on_schedule_also_after_the_database_was_away() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let mut shop = shop(&operator).await;
    let roles = operator.static_roles();
    let often = || v1::StaticRole { rotation_period: Some(seconds(60)), ..role("ledger_a", "") };
    roles.put(often(), given(FIRST, None)).await.unwrap();
    shop.server.stop();
    assert_eq!(reason(roles.rotate("ledger").await), "TARGET_UNAVAILABLE");
    let waiting = roles.get("ledger").await.unwrap().rotation.unwrap();
    assert!(waiting.failures > 0 && waiting.last_error.contains("does not answer"), "{waiting:?}");
    shop.start_again().await;
    until("the rotation goes on by itself", || async {
        let rotation = roles.get("ledger").await.unwrap().rotation?;
        (rotation.version == 1).then_some(())
    })
    .await;
    assert!(gets_in(&shop, &parts(&roles.credential("ledger").await.unwrap())).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_in_the_midst_of_rotations_lock_nobody_out() {
    let mut server = ServerProcess::start().await;
    server.init().await;
    server.unseal().await;
    let shop = shop(&server.operator()).await;
    server.operator().static_roles().put(role("ledger_a", ""), given(FIRST, None)).await.unwrap();
    let mut cut_off = 0;
    for kill in 0..8_u64 {
        let roles = server.operator().static_roles();
        let rotating = tokio::spawn(async move { while roles.rotate("ledger").await.is_ok() {} });
        // At another place in the work each time.
        tokio::time::sleep(std::time::Duration::from_millis(100 + kill * 37)).await;
        server.kill().await;
        rotating.await.unwrap();
        server.start_again().await;
        server.unseal().await;
        let roles = server.operator().static_roles();
        cut_off += u32::from(roles.get("ledger").await.unwrap().rotation.unwrap().step != 0);
        until("what was cut off goes forward", || async {
            (roles.get("ledger").await.unwrap().rotation?.step == 0).then_some(())
        })
        .await;
        assert!(gets_in(&shop, &parts(&roles.credential("ledger").await.unwrap())).await, "kill {kill}");
    }
    assert!(cut_off > 0, "no kill came in the midst of a rotation");
}
