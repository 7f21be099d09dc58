//! Unsealing as its holders see it, and sealing.

use std::time::Duration;

use keystead_client::{SecretBytes, v1};
use keystead_core::clock::Clock;
use keystead_domain::time::UnixMillis;
use keystead_tests::{TestVault, until};

use crate::requests::manual_clock;
use crate::{get, put, reason};

fn share(vault: &TestVault, index: usize) -> SecretBytes {
    SecretBytes::from(vault.shares()[index].clone())
}

#[tokio::test]
async fn holders_see_one_ceremony_until_the_vault_opens() {
    let vault = TestVault::builder().quorum(3, 5).sealed().start().await;
    let system = vault.anonymous().system();
    let status = system.status().await.unwrap();
    assert_eq!((status.state(), status.threshold, status.shares), (v1::SealState::Sealed, 3, 5));
    assert_eq!((status.epoch, status.powers, status.vault_id.len()), (1, 2, 32));
    assert!(status.ceremony.is_none());

    let none = "0".repeat(32);
    assert_eq!(reason(system.submit_share(&share(&vault, 0), &none).await), "OTHER_CEREMONY");
    let first = system.submit_share(&share(&vault, 3), "").await.unwrap();
    let progress = first.ceremony.unwrap();
    assert_eq!((progress.threshold, progress.entered.as_slice()), (3, [4].as_slice()));
    assert_eq!(reason(system.submit_share(&share(&vault, 3), "").await), "SHARE_DUPLICATE");
    assert_eq!(reason(system.submit_share(&share(&vault, 0), &none).await), "OTHER_CEREMONY");
    assert!(reason(system.submit_share(&share(&vault, 0), "no id").await).starts_with("INVALID"));
    let second = system.submit_share(&share(&vault, 0), &progress.ceremony_id).await.unwrap();
    assert_eq!(second.ceremony.as_ref().unwrap().ceremony_id, progress.ceremony_id);
    assert_eq!(second.ceremony.unwrap().entered, [4, 1]);
    let third = system.submit_share(&share(&vault, 1), &progress.ceremony_id).await.unwrap();
    assert_eq!((third.state, third.ceremony), (v1::SealState::Unsealed, None));
    assert_eq!(system.status().await.unwrap().ceremony, None);
}

#[tokio::test]
async fn a_half_done_ceremony_is_dropped_in_time() {
    let clock = manual_clock();
    let vault = TestVault::builder().clock(clock.clone()).sealed().start().await;
    let system = vault.local().system();
    let first = system.submit_share(&share(&vault, 0), "").await.unwrap().ceremony.unwrap();
    clock.advance(Duration::from_secs(599));
    assert_eq!(system.status().await.unwrap().ceremony.unwrap(), first);
    clock.advance(Duration::from_secs(1));
    assert_eq!(system.status().await.unwrap().ceremony, None);
    let late = system.submit_share(&share(&vault, 1), &first.ceremony_id).await;
    assert_eq!(reason(late), "OTHER_CEREMONY");
    let second = system.submit_share(&share(&vault, 1), "").await.unwrap().ceremony.unwrap();
    assert_eq!(second.entered, [2], "the first share has to be entered again");
    assert_ne!(second.ceremony_id, first.ceremony_id);
    system.submit_share(&share(&vault, 0), &second.ceremony_id).await.unwrap();
    assert!(vault.vault().is_unsealed());
}

#[tokio::test]
async fn a_wall_clock_that_is_set_neither_stretches_nor_cuts_a_ceremony() {
    let clock = manual_clock();
    let vault = TestVault::builder().quorum(3, 5).clock(clock.clone()).sealed().start().await;
    let system = vault.local().system();
    let shown = async || system.status().await.unwrap().ceremony;
    let step = |forward: bool, hours: u64| {
        let (now, by) = (clock.now().0, hours * 3_600_000);
        clock.step_wall(UnixMillis(if forward { now + by } else { now - by }));
    };
    let first = system.submit_share(&share(&vault, 0), "").await.unwrap().ceremony.unwrap();
    step(true, 24);
    vault.vault().tidy();
    assert_eq!(shown().await.unwrap(), first);
    system.submit_share(&share(&vault, 1), &first.ceremony_id).await.unwrap();

    step(false, 48);
    clock.advance(Duration::from_secs(599));
    vault.vault().tidy();
    assert_eq!(shown().await.unwrap().entered, [1, 2]);
    clock.advance(Duration::from_secs(1));
    assert_eq!(shown().await, None, "its time is over, whatever the wall clock says");
    let late = system.submit_share(&share(&vault, 2), &first.ceremony_id).await;
    assert_eq!(reason(late), "OTHER_CEREMONY");
    assert!(!vault.vault().is_unsealed());
}

#[tokio::test]
async fn only_an_operator_cancels_a_ceremony() {
    let vault = TestVault::builder().sealed().start().await;
    let stranger = vault.client(&vault.pki().client("spiffe://test/service/shop"));
    let first = vault.local().system().submit_share(&share(&vault, 0), "").await.unwrap().ceremony.unwrap();
    for caller in [vault.anonymous(), stranger] {
        assert_eq!(reason(caller.system().cancel_ceremony(&first.ceremony_id).await), "OPERATOR_ONLY");
    }
    let operator = vault.operator();
    assert_eq!(reason(operator.system().cancel_ceremony(&"0".repeat(32)).await), "OTHER_CEREMONY");
    assert_eq!(operator.system().status().await.unwrap().ceremony, Some(first.clone()));
    operator.system().cancel_ceremony(&first.ceremony_id).await.unwrap();
    assert_eq!(operator.system().status().await.unwrap().ceremony, None);
    assert_eq!(reason(operator.system().cancel_ceremony(&first.ceremony_id).await), "OTHER_CEREMONY");
    vault.unseal().await;
}

#[tokio::test]
async fn each_share_is_on_record_with_its_ceremony_and_who_ends_one_too() {
    let vault = TestVault::builder().sealed().start().await;
    let operator = vault.operator().system();
    let given_up = operator.submit_share(&share(&vault, 0), "").await.unwrap().ceremony.unwrap().ceremony_id;
    operator.cancel_ceremony(&given_up).await.unwrap();
    let id = operator.submit_share(&share(&vault, 0), "").await.unwrap().ceremony.unwrap().ceremony_id;
    assert_eq!(reason(operator.submit_share(&share(&vault, 0), &id).await), "SHARE_DUPLICATE");
    operator.submit_share(&share(&vault, 1), &id).await.unwrap();

    let said = |name: &str, entry: &v1::AuditEntry| entry.detail.get(name).cloned().unwrap_or_default();
    let entries = vault.audit().await;
    let shares: Vec<_> = entries
        .iter()
        .filter(|entry| entry.action == "system:unseal" && said("ceremony", entry) != given_up)
        .map(|entry| (entry.outcome.as_str(), said("ceremony", entry), said("entered", entry)))
        .collect();
    let expected = |outcome, entered: &str| (outcome, id.clone(), entered.to_owned());
    assert_eq!(
        shares,
        [expected("ok", "1 of 2"), expected("SHARE_DUPLICATE", "1 of 2"), expected("ok", "2 of 2")]
    );
    let cancelled = entries.iter().find(|entry| entry.action == "system:cancel-ceremony").unwrap();
    assert_eq!(said("ceremony", cancelled), given_up);
    assert_eq!((cancelled.principal.as_str(), cancelled.method.as_str()), ("operator/admin", "certificate"));
}

#[tokio::test]
async fn a_sealed_vault_refuses_until_it_is_unsealed_again() {
    let mut vault = TestVault::start().await;
    let operator = vault.operator();
    put(&operator, "a", "kept").await;
    for _ in 0..5 {
        vault.seal().await;
        assert_eq!(reason(operator.secrets().get("a").await), "SEALED");
        assert_eq!(reason(operator.system().seal().await), "SEALED");
        assert_eq!(reason(operator.auth().who_am_i().await), "SEALED");
        vault.unseal().await;
        assert_eq!(get(&operator, "a").await, "kept");
        put(&operator, "b", "writes need the token again").await;
    }
    vault.stop().await;
}

#[tokio::test]
async fn sealing_needs_a_right() {
    let vault = TestVault::start().await;
    let shop = vault.service("shop").await;
    assert_eq!(reason(shop.system().seal().await), "DENIED");
    assert_eq!(reason(vault.anonymous().system().seal().await), "UNAUTHENTICATED");
    assert!(vault.vault().is_unsealed());
    vault.policy("guard", "permit (principal == Keystead::Service::\"shop\", action == Keystead::Action::\"system:seal\", resource);").await;
    shop.system().seal().await.unwrap();
    assert!(!vault.vault().is_unsealed());
}

#[tokio::test]
async fn requests_under_way_end_before_keys_are_wiped() {
    let vault = TestVault::start().await;
    let operator = vault.operator();
    let writes = (0..32).map(|number| {
        let operator = operator.clone();
        async move {
            let value = keystead_client::SecretValue::data("x");
            operator.secrets().put(&format!("w/{number}"), value).await
        }
    });
    let (results, ()) = futures::join!(futures::future::join_all(writes), vault.seal());
    let mut done = Vec::new();
    for (number, result) in results.into_iter().enumerate() {
        match result {
            Ok(_) => done.push(number),
            Err(error) => assert_eq!(error.reason(), "SEALED", "{error:?}"),
        }
    }
    vault.unseal().await;
    for number in done {
        assert_eq!(get(&operator, &format!("w/{number}")).await, "x");
    }
}

#[tokio::test]
async fn a_token_that_is_away_costs_only_the_last_share() {
    let vault = TestVault::builder().quorum(3, 5).sealed().start().await;
    let system = vault.local().system();
    system.submit_share(&share(&vault, 0), "").await.unwrap();
    let second = system.submit_share(&share(&vault, 1), "").await.unwrap().ceremony.unwrap();
    let (tokens, aside) = (vault.token().tokens.clone(), vault.dir().join("aside"));
    std::fs::rename(&tokens, &aside).unwrap();
    assert_eq!(reason(system.submit_share(&share(&vault, 2), "").await), "HSM_UNAVAILABLE");
    assert_eq!(system.status().await.unwrap().ceremony.unwrap(), second, "the others need not come again");
    std::fs::rename(&aside, &tokens).unwrap();
    until("the last share opens the vault", || async {
        let submitted = system.submit_share(&share(&vault, 3), &second.ceremony_id).await;
        submitted.ok().filter(|submitted| submitted.state == v1::SealState::Unsealed)
    })
    .await;
}

#[tokio::test]
async fn a_share_that_cannot_be_recorded_does_not_count() {
    let vault = TestVault::builder().sealed().start().await;
    let system = vault.local().system();
    vault.vault().audit().close();
    assert_eq!(reason(system.submit_share(&share(&vault, 0), "").await), "AUDIT_UNAVAILABLE");
    assert_eq!(system.status().await.unwrap().ceremony, None, "nothing is under way");

    let vault = TestVault::builder().quorum(3, 5).sealed().start().await;
    let system = vault.local().system();
    let first = system.submit_share(&share(&vault, 0), "").await.unwrap().ceremony.unwrap();
    vault.vault().audit().close();
    for _ in 0..2 {
        assert_eq!(reason(system.submit_share(&share(&vault, 1), "").await), "AUDIT_UNAVAILABLE");
        assert_eq!(system.status().await.unwrap().ceremony.unwrap(), first);
    }
}
