//! While all goes well.

use super::*;

#[tokio::test]
async fn it_is_renewed_at_two_thirds_and_stays_the_same() {
    let rig = Rig::new(300, 30_000).await;
    for (jitter, due) in [(0.0, 180), (1.0, 220)] {
        let start = rig.clock.now();
        let kept = rig.keep().jitter(move || jitter).await.unwrap();
        let before = kept.current().unwrap();
        tokio::task::yield_now().await;
        let wake = rig.clock.next_wake();
        assert!((wake - start).abs_diff(seconds(due)) < Duration::from_millis(1), "{:?}", wake - start);

        let renewals = rig.vault.count(is_renewal);
        rig.clock.move_to(wake - Duration::from_nanos(1));
        rig.nothing_more().await;
        rig.next();
        rig.event(is_renewed).await;
        assert_eq!(rig.vault.count(is_renewal), renewals + 1);
        assert!(Arc::ptr_eq(&before, &kept.current().unwrap()));

        rig.clock.move_to(start + seconds(301));
        assert!(matches!(kept.freshness(), Freshness::Fresh { .. }), "{:?}", kept.freshness());
        assert_eq!(rig.vault.alive(), [login(&kept)]);
        kept.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn without_a_source_of_jitter_keepers_do_not_move_in_step() {
    let rig = Rig::new(300, 30_000).await;
    let mut wakes = Vec::new();
    for _ in 0..8 {
        let kept = rig.client.credentials().keep("orders-rw").clock(rig.clock.clone()).await.unwrap();
        tokio::task::yield_now().await;
        let wake = rig.clock.next_wake() - rig.clock.now();
        assert!((seconds(180)..=seconds(220)).contains(&wake), "{wake:?}");
        wakes.push(wake);
        kept.shutdown().await.unwrap();
    }
    assert!(wakes.iter().any(|wake| *wake != wakes[0]), "{wakes:?}");
}

#[tokio::test]
async fn the_next_credential_is_there_before_the_old_ends_and_the_old_lives_through_its_grace() {
    let rig = Rig::new(180, 300).await;
    let start = rig.clock.now();
    let mut kept = rig.keep().await.unwrap();
    tokio::task::yield_now().await;
    rig.next();
    rig.event(is_renewed).await;
    assert_eq!((rig.clock.now() - start).as_secs(), 120);

    let old = kept.current().unwrap();
    rig.next();
    let new = tokio::time::timeout(seconds(10), kept.changed()).await.unwrap().unwrap();
    assert!(!Arc::ptr_eq(&old, &new) && Arc::ptr_eq(&new, &kept.current().unwrap()));
    assert_eq!((rig.clock.now() - start).as_secs(), 240);
    assert_eq!(rig.vault.alive(), [0, 1], "both live");

    rig.clock.move_by(seconds(29));
    rig.nothing_more().await;
    assert_eq!(rig.vault.alive(), [0, 1]);
    rig.clock.move_by(seconds(1));
    rig.event(|event| matches!(event, KeeperEvent::Released { lease } if lease == "0")).await;
    assert_eq!(rig.vault.alive(), [1]);
    assert!(!rig.has(is_failure));
}

#[tokio::test]
async fn a_renewal_that_comes_with_another_credential_hands_that_out() {
    let rig = Rig::new(300, 30_000).await;
    rig.vault.set().reissues = true;
    let mut kept = rig.keep().await.unwrap();
    let before = kept.current().unwrap();
    tokio::task::yield_now().await;
    rig.next();
    let new = tokio::time::timeout(seconds(10), kept.changed()).await.unwrap().unwrap();
    assert!(!Arc::ptr_eq(&before, &new) && Arc::ptr_eq(&new, &kept.current().unwrap()));
    rig.event(is_renewed).await;
    assert_eq!(rig.vault.count(is_issue), 1);
}

#[tokio::test]
async fn a_lease_at_its_longest_is_replaced_without_being_called_a_failure() {
    let rig = Rig::new(300, 30_000).await;
    let kept = rig.keep().await.unwrap();
    rig.vault.set().no_renewal = Some(refusal(Code::FailedPrecondition, "LEASE_AT_ITS_LONGEST"));
    tokio::task::yield_now().await;
    rig.next();
    rig.event(is_replaced).await;
    assert_eq!((login(&kept), rig.vault.alive()), (1, vec![0, 1]));
    assert!(!rig.has(is_failure));
}

#[tokio::test]
async fn a_listener_that_panics_does_not_end_the_keeping() {
    let rig = Rig::new(300, 30_000).await;
    let kept = rig.keep().on_event(|_| panic!("a listener")).await.unwrap();
    tokio::task::yield_now().await;
    for renewals in 1..3 {
        rig.next();
        rig.until(|vault| vault.count(is_renewal) == renewals).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(rig.vault.alive(), [login(&kept)]);
}

#[tokio::test]
async fn no_secret_is_printed() {
    let rig = Rig::new(300, 300).await;
    let keep = rig.keep();
    assert!(format!("{keep:?}").contains("orders-rw"));
    let kept = keep.await.unwrap();
    tokio::task::yield_now().await;
    rig.next();
    let event = rig.event(is_replaced).await;
    for text in
        [format!("{kept:?} {:?} {:?}", kept.current(), kept.freshness()), format!("{event:?} {event}")]
    {
        assert!(!text.contains("canary"), "{text}");
    }
}
