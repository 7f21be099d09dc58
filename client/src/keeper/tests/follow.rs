//! What a keeper hears of its lease from the vault, and what it does where it hears nothing.

use super::*;

fn is_ended(event: &KeeperEvent) -> bool {
    matches!(event, KeeperEvent::Ended { .. })
}

async fn following(period: u64) -> (Rig, KeptCredential) {
    let rig = Rig::new(period, 100 * period).await;
    rig.vault.set().watching = true;
    let kept = rig.keep().await.unwrap();
    rig.until(|vault| vault.followers() == 1).await;
    (rig, kept)
}

#[tokio::test]
async fn a_lease_that_somebody_ends_is_replaced_at_once_whatever_is_left_of_its_life() {
    let (rig, mut kept) = following(30_000).await;
    rig.vault.revoke(0);
    let KeeperEvent::Ended { lease } = rig.event(is_ended).await else { panic!() };
    assert_eq!(lease.id, "0");
    rig.event(is_replaced).await;
    kept.changed().await.unwrap();
    assert_eq!((login(&kept), rig.vault.count(is_renewal)), (1, 0));
    kept.shutdown().await.unwrap();
    assert!(!rig.vault.calls().contains(&Call::Revoke("0".into())), "it is over already");
    assert!(rig.vault.alive().is_empty());
}

#[tokio::test]
async fn the_next_lease_is_followed_too_but_not_replaced_every_moment() {
    let (rig, kept) = following(30_000).await;
    rig.vault.revoke(0);
    rig.event(is_replaced).await;
    rig.until(|vault| vault.followers() == 1 && vault.set().watches == 2).await;
    rig.vault.revoke(1);
    rig.event(is_ended).await;
    rig.nothing_more().await;
    assert!(kept.current().is_err(), "it is over, and said to be");
    rig.next();
    rig.event(is_replaced).await;
    assert_eq!(login(&kept), 2);
}

#[tokio::test]
async fn what_ends_while_the_vault_cannot_be_reached_is_heard_when_it_is_back() {
    let (mut rig, kept) = following(30_000).await;
    rig.server = None;
    rig.vault.revoke(0);
    let path = rig.dir.path().join("vault.sock");
    std::fs::remove_file(&path).unwrap();
    rig.server = Some(rig.vault.serve(&path));
    rig.event(is_replaced).await;
    assert_eq!((login(&kept), rig.vault.count(is_renewal)), (1, 0));
}

#[tokio::test]
async fn without_word_from_the_vault_it_is_renewed_in_time_and_nothing_is_said() {
    for refused in
        [Status::unimplemented(""), denied(), refusal(Code::ResourceExhausted, "LEASE_WATCH_LIMIT")]
    {
        let rig = Rig::new(300, 30_000).await;
        rig.vault.set().watching = true;
        rig.vault.set().no_watch = Some(refused.clone());
        let kept = rig.keep().await.unwrap();
        rig.until(|vault| vault.set().watches == 1).await;
        tokio::time::sleep(seconds(1)).await;
        assert_eq!(rig.vault.set().watches, 1, "{refused:?}");
        assert!(rig.events.lock().unwrap().is_empty() && matches!(kept.freshness(), Freshness::Fresh { .. }));
        rig.next();
        rig.event(is_renewed).await;
    }
}

#[tokio::test]
async fn a_vault_that_breaks_off_is_not_asked_every_moment() {
    let rig = Rig::new(300, 30_000).await;
    rig.vault.set().watching = true;
    rig.vault.set().breaks_off = true;
    let kept = rig.keep().await.unwrap();
    rig.until(|vault| vault.set().watches == 2).await;
    tokio::time::sleep(seconds(2)).await;
    // A quarter of a second at the least, then half, then one.
    let watches = rig.vault.set().watches;
    assert!(watches <= 5, "{watches}");
    assert!(kept.current().is_ok() && rig.events.lock().unwrap().is_empty());
}

#[tokio::test]
async fn keepers_leave_room_on_their_connection() {
    let rig = Rig::new(30_000, 3_000_000).await;
    rig.vault.set().watching = true;
    let mut kept = Vec::new();
    for _ in 0..70 {
        kept.push(rig.keep().await.unwrap());
    }
    rig.until(|vault| vault.followers() == 64).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.vault.followers(), 64);
    drop(kept.drain(..6));
    rig.until(|vault| vault.set().watches == 70).await;
}
