//! How a keeper ends, and what it leaves.

use super::*;

#[tokio::test]
async fn shutting_down_hands_back_what_is_held_and_what_is_in_its_grace() {
    let rig = Rig::new(300, 300).await;
    let before = tasks();
    let mut kept = rig.keep().await.unwrap();
    tokio::task::yield_now().await;
    rig.next();
    kept.changed().await.unwrap();
    assert_eq!(rig.vault.alive(), [0, 1]);

    let mut other = kept.clone();
    kept.shutdown().await.unwrap();
    assert!(rig.vault.alive().is_empty());
    assert!(matches!(other.current(), Err(NoCredential::ShutDown { .. })));
    assert!(matches!(other.freshness(), Freshness::ShutDown));
    assert!(matches!(other.changed().await, Err(NoCredential::ShutDown { .. })));
    other.shutdown().await.unwrap();
    tasks_are(before).await;
}

#[tokio::test]
async fn shutting_down_waits_for_an_issue_under_way_and_hands_that_back_too() {
    let rig = Rig::new(300, 300).await;
    let kept = rig.keep().await.unwrap();
    rig.vault.set().slow = true;
    tokio::task::yield_now().await;
    rig.next();
    rig.until(|vault| vault.count(is_issue) == 2).await;
    let ending = tokio::spawn(kept.shutdown());
    tokio::time::sleep(Duration::from_millis(20)).await;
    rig.vault.go_on();
    ending.await.unwrap().unwrap();
    assert!(rig.vault.alive().is_empty());
}

#[tokio::test]
async fn shutting_down_does_not_wait_for_a_renewal_under_way() {
    let rig = Rig::new(300, 30_000).await;
    let kept = rig.keep().await.unwrap();
    rig.vault.set().slow = true;
    tokio::task::yield_now().await;
    rig.next();
    rig.until(|vault| vault.count(is_renewal) == 1).await;
    tokio::time::timeout(seconds(5), kept.shutdown()).await.unwrap().unwrap();
    assert!(rig.vault.alive().is_empty());
}

#[tokio::test]
async fn a_lease_that_cannot_be_handed_back_is_told_at_shutdown() {
    let rig = Rig::new(300, 300).await;
    let kept = rig.keep().await.unwrap();
    rig.vault.set().away = Some(away());
    let error = kept.shutdown().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn dropping_the_last_clone_ends_the_task_and_says_nothing_to_the_vault() {
    let rig = Rig::new(300, 300).await;
    let before = tasks();
    let kept = rig.keep().await.unwrap();
    tasks_are(before + 1).await;
    let clone = kept.clone();
    drop(kept);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(tasks(), before + 1, "a clone is left");
    drop(clone);
    tasks_are(before).await;
    rig.nothing_more().await;
    assert_eq!((rig.vault.calls().len(), rig.vault.alive()), (1, vec![0]));
}

#[test]
fn a_runtime_that_ends_takes_the_task_along_and_is_not_waited_for() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (kept, rig) = runtime.block_on(async {
        let rig = Rig::new(300, 300).await;
        (rig.keep().await.unwrap(), rig)
    });
    let (gone, going) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(runtime);
        gone.send(()).unwrap();
    });
    going.recv_timeout(seconds(10)).expect("the runtime waits for a task");
    assert!(kept.current().is_ok(), "it lives on, without anybody to renew it");
    rig.clock.move_by(seconds(300));
    assert!(matches!(kept.current(), Err(NoCredential::Lost { .. })));
    drop(kept);
}

#[tokio::test]
async fn dropping_does_not_wait_for_an_issue_under_way() {
    let rig = Rig::new(300, 300).await;
    let before = tasks();
    let kept = rig.keep().await.unwrap();
    rig.vault.set().slow = true;
    tokio::task::yield_now().await;
    rig.next();
    rig.until(|vault| vault.count(is_issue) == 2).await;
    drop(kept);
    tasks_are(before).await;
}
