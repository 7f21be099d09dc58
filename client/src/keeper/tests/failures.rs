//! When the vault is away, says no, loses answers or takes leases away.

use super::*;

#[tokio::test]
async fn an_outage_shorter_than_the_life_is_told_and_survived() {
    let rig = Rig::new(300, 30_000).await;
    let start = rig.clock.now();
    let kept = rig.keep().await.unwrap();
    rig.vault.set().away = Some(away());
    tokio::task::yield_now().await;
    let failures = rig.failures_until(start + seconds(290)).await;
    assert!((5..40).contains(&failures), "{failures}");
    let Freshness::Stale { until, error } = kept.freshness() else { panic!("{:?}", kept.freshness()) };
    assert_eq!(until, (start + seconds(300)).into_std());
    assert!(matches!(*error, Error::Unavailable { .. }), "{error:?}");
    assert_eq!(login(&kept), 0);

    rig.vault.set().away = None;
    rig.next();
    rig.event(is_renewed).await;
    assert!(rig.clock.now() < start + seconds(300));
    assert!(matches!(kept.freshness(), Freshness::Fresh { .. }));
    assert!(!rig.has(is_lost));
    assert_eq!(rig.vault.count(is_issue), 1);
}

#[tokio::test]
async fn an_outage_longer_than_the_life_is_lost_on_time_and_made_good_when_the_vault_is_back() {
    let mut rig = Rig::new(300, 30_000).await;
    let start = rig.clock.now();
    let mut kept = rig.keep().await.unwrap();
    rig.server = None;
    std::fs::remove_file(rig.dir.path().join("vault.sock")).unwrap();
    tokio::task::yield_now().await;
    rig.failures_until(start + seconds(300)).await;
    assert!(kept.current().is_ok());
    rig.clock.move_to(start + seconds(300));
    let KeeperEvent::Lost { error: Some(_), .. } = rig.event(is_lost).await else { panic!() };
    let Err(NoCredential::Lost { error: Some(error), .. }) = kept.current() else { panic!() };
    assert!(matches!(*error, Error::Connect { .. }), "{error:?}");
    assert!(matches!(kept.freshness(), Freshness::Lost { .. }));

    rig.clock.move_by(seconds(3_600));
    rig.event(is_failure).await;
    assert!(!rig.has(is_lost), "told once");
    rig.server = Some(rig.vault.serve(&rig.dir.path().join("vault.sock")));
    rig.next();
    rig.event(is_replaced).await;
    assert!(kept.changed().await.is_ok());
    assert_eq!(rig.vault.alive(), [login(&kept)]);
    assert!(matches!(kept.freshness(), Freshness::Fresh { .. }));
}

#[tokio::test]
async fn a_first_issue_that_is_refused_is_an_error_after_one_call() {
    let rig = Rig::new(300, 300).await;
    rig.vault.set().no_issue = Some(denied());
    let error = rig.keep().await.unwrap_err();
    assert!(matches!(error, Error::NotFoundOrDenied(_)), "{error:?}");
    assert_eq!(rig.vault.calls().len(), 1);
}

#[tokio::test]
async fn a_later_issue_that_is_refused_is_told_and_not_hammered() {
    let rig = Rig::new(300, 300).await;
    let start = rig.clock.now();
    let kept = rig.keep().await.unwrap();
    rig.vault.set().no_issue = Some(denied());
    tokio::task::yield_now().await;
    let refused = rig.failures_until(start + seconds(300)).await;
    assert!((1..=4).contains(&refused), "{refused}");
    assert_eq!(rig.vault.count(is_issue), 1 + refused);
    let Freshness::Stale { error, .. } = kept.freshness() else { panic!("{:?}", kept.freshness()) };
    assert_eq!(error.reason(), "DENIED");

    rig.clock.move_to(start + seconds(300));
    rig.event(is_lost).await;
    assert!(kept.current().is_err());
    assert!(rig.failures_until(start + seconds(3_900)).await <= 24);

    rig.vault.set().no_issue = None;
    rig.next();
    rig.event(is_replaced).await;
    assert!(kept.current().is_ok());
}

#[tokio::test]
async fn an_issue_whose_answer_was_lost_is_asked_for_again_under_its_id() {
    let rig = Rig::new(300, 300).await;
    rig.vault.set().lost_answers = 2;
    let kept = rig.keep().await.unwrap();
    let ids = rig.vault.calls();
    assert!(ids.len() == 3 && ids[0] == ids[1] && ids[1] == ids[2], "{ids:?}");
    assert_eq!(rig.vault.alive(), [0]);

    rig.vault.set().lost_answers = 2;
    tokio::task::yield_now().await;
    rig.next();
    for _ in 0..2 {
        rig.event(is_failure).await;
        rig.next();
    }
    rig.event(is_replaced).await;
    let later = rig.vault.calls();
    assert!(later[3] == later[4] && later[4] == later[5] && later[3] != ids[0], "{later:?}");
    assert_eq!((login(&kept), rig.vault.alive()), (1, vec![0, 1]));
}

#[tokio::test]
async fn what_the_vault_took_back_is_issued_anew() {
    let rig = Rig::new(300, 300).await;
    {
        let mut vault = rig.vault.set();
        vault.lost_answers = 1;
        vault.takes_back = true;
    }
    let kept = rig.keep().await.unwrap();
    let calls = rig.vault.calls();
    assert!(calls.len() == 3 && calls[0] == calls[1] && calls[1] != calls[2], "{calls:?}");
    assert_eq!((login(&kept), rig.vault.alive()), (1, vec![1]));
}

#[tokio::test]
async fn a_lease_of_unknown_age_is_not_taken_for_younger_than_it_may_be() {
    let rig = Rig::new(300, 300).await;
    let start = rig.clock.now();
    let kept = rig.keep().await.unwrap();
    rig.vault.set().lost_answers = 1;
    tokio::task::yield_now().await;
    rig.next();
    rig.event(is_failure).await;
    let sent = rig.clock.now();
    rig.clock.move_to(start + seconds(299));
    rig.event(is_replaced).await;
    let Freshness::Fresh { until } = kept.freshness() else { panic!("{:?}", kept.freshness()) };
    assert_eq!(until, (sent + seconds(300)).into_std());
}

#[tokio::test]
async fn a_lease_that_the_vault_revoked_is_replaced_at_once_when_it_is_noticed() {
    let rig = Rig::new(300, 30_000).await;
    let kept = rig.keep().await.unwrap();
    tokio::task::yield_now().await;
    rig.next();
    rig.event(is_renewed).await;
    rig.vault.revoke(0);
    rig.next();
    rig.event(is_replaced).await;
    assert_eq!(rig.vault.alive(), [login(&kept)]);
    rig.nothing_more().await;
    assert_eq!(rig.vault.calls().len(), 4, "{:?}", rig.vault.calls());
}

#[tokio::test]
async fn a_credential_that_was_refused_is_looked_at_at_once_but_not_all_the_time() {
    let rig = Rig::new(300, 30_000).await;
    let kept = rig.keep().await.unwrap();
    let refused = kept.current().unwrap();
    rig.vault.revoke(0);
    kept.suspect(&refused);
    rig.event(is_replaced).await;
    assert_eq!(rig.vault.alive(), [login(&kept)]);

    // This says nothing of the new one, and that waits for its turn.
    kept.suspect(&refused);
    rig.clock.move_by(seconds(40));
    rig.nothing_more().await;
    for _ in 0..5 {
        kept.suspect(&kept.current().unwrap());
        rig.event(is_renewed).await;
        kept.suspect(&kept.current().unwrap());
        kept.suspect(&kept.current().unwrap());
        rig.clock.move_by(seconds(29));
        rig.nothing_more().await;
        rig.clock.move_by(seconds(1));
        rig.event(is_renewed).await;
        rig.clock.move_by(seconds(30));
    }
    assert_eq!(rig.vault.count(is_issue), 2);
}

#[tokio::test]
async fn between_a_revocation_and_the_next_credential_nothing_dead_is_handed_out() {
    let rig = Rig::new(300, 30_000).await;
    let kept = rig.keep().await.unwrap();
    rig.vault.revoke(0);
    rig.vault.set().no_issue = Some(denied());
    tokio::task::yield_now().await;
    rig.next();
    rig.event(is_failure).await;
    let Err(NoCredential::Lost { error: Some(error), .. }) = kept.current() else { panic!() };
    assert!(["LEASE_ENDED", "DENIED"].contains(&error.reason()), "{error:?}");
    rig.event(is_lost).await;
}

#[tokio::test]
async fn a_right_that_was_taken_away_leaves_the_credential_until_its_end() {
    let rig = Rig::new(300, 30_000).await;
    let start = rig.clock.now();
    let kept = rig.keep().await.unwrap();
    {
        let mut vault = rig.vault.set();
        vault.no_renewal = Some(refusal(Code::PermissionDenied, "LEASE_NOT_RENEWED"));
        vault.no_issue = Some(denied());
    }
    tokio::task::yield_now().await;
    let refused = rig.failures_until(start + seconds(300)).await;
    assert!(refused <= 5, "{refused}");
    assert_eq!(rig.vault.count(is_renewal), 1);
    assert_eq!(login(&kept), 0);
    assert!(matches!(kept.freshness(), Freshness::Stale { .. }));
}

#[tokio::test]
async fn a_lease_that_may_be_over_is_not_handed_out() {
    let rig = Rig::new(300, 300).await;
    let start = rig.clock.now();
    let kept = rig.keep().await.unwrap();
    rig.vault.set().away = Some(away());
    tokio::task::yield_now().await;
    rig.next();
    rig.event(is_failure).await;
    {
        let mut vault = rig.vault.set();
        vault.away = None;
        vault.lost_answers = 1;
    }
    rig.clock.move_to(start + seconds(450));
    rig.event(is_failure).await;
    // The second lease is 55 seconds old, and could be 305: the first try of its request may have made it.
    rig.clock.move_to(start + seconds(505));
    rig.event(is_replaced).await;
    assert_eq!((login(&kept), rig.vault.alive()), (2, vec![2]));
    let Freshness::Fresh { until } = kept.freshness() else { panic!("{:?}", kept.freshness()) };
    assert_eq!(until, (start + seconds(805)).into_std());
}

#[tokio::test]
async fn what_was_said_of_a_credential_while_it_was_replaced_says_nothing_of_the_next() {
    let rig = Rig::new(300, 300).await;
    let kept = rig.keep().await.unwrap();
    rig.vault.set().slow = true;
    tokio::task::yield_now().await;
    rig.next();
    rig.until(|vault| vault.count(is_issue) == 2).await;
    kept.suspect(&kept.current().unwrap());
    rig.vault.go_on();
    rig.event(is_replaced).await;
    rig.nothing_more().await;
    assert_eq!(login(&kept), 1);
}

#[tokio::test]
async fn a_replaced_lease_is_handed_back_when_the_vault_is_there_again_or_left_to_its_end() {
    let is_release =
        |event: &KeeperEvent| matches!(event, KeeperEvent::Failed { step: KeeperStep::Release { .. }, .. });
    for comes_back in [true, false] {
        let rig = Rig::new(300, 300).await;
        let start = rig.clock.now();
        let _kept = rig.keep().await.unwrap();
        tokio::task::yield_now().await;
        rig.next();
        rig.event(is_replaced).await;
        rig.vault.set().away = Some(away());
        loop {
            rig.next();
            let revocations = rig.vault.count(|call| matches!(call, Call::Revoke(_)));
            assert!(revocations < 20, "{revocations}");
            let KeeperEvent::Failed { again, .. } = rig.event(is_release).await else { panic!() };
            if comes_back {
                rig.vault.set().away = None;
                rig.next();
                rig.event(|event| matches!(event, KeeperEvent::Released { .. })).await;
                assert_eq!(rig.vault.alive(), [1]);
                break;
            }
            if again.is_none() {
                assert!(rig.clock.now() > start + seconds(290), "given up too soon");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_renewal_that_lengthens_nothing_is_not_repeated() {
    let rig = Rig::new(300, 30_000).await;
    rig.vault.set().stands_still = true;
    let kept = rig.keep().await.unwrap();
    tokio::task::yield_now().await;
    rig.next();
    rig.event(is_replaced).await;
    assert_eq!((login(&kept), rig.vault.count(is_renewal)), (1, 1));
}

#[tokio::test]
async fn while_the_vault_is_away_no_suspicion_makes_more_calls() {
    let rig = Rig::new(300, 30_000).await;
    let kept = rig.keep().await.unwrap();
    rig.vault.set().away = Some(away());
    tokio::task::yield_now().await;
    rig.next();
    rig.event(is_failure).await;
    kept.suspect(&kept.current().unwrap());
    rig.nothing_more().await;
}

#[tokio::test]
async fn a_new_credential_is_told_once_and_not_when_it_is_over() {
    let rig = Rig::new(300, 300).await;
    let mut kept = rig.keep().await.unwrap();
    let mut late = kept.clone();
    let soon = async |kept: &mut KeptCredential| {
        tokio::time::timeout(Duration::from_millis(30), kept.changed()).await.is_ok()
    };
    assert!(!soon(&mut kept).await, "the first one is known");
    rig.next();
    rig.event(is_replaced).await;
    assert!(soon(&mut kept).await);
    assert!(!soon(&mut kept).await, "told twice");

    rig.vault.set().away = Some(away());
    rig.clock.move_by(seconds(300));
    rig.event(is_lost).await;
    assert!(!soon(&mut late).await, "it is over");
}
