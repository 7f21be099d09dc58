//! Children that die, hang or lose their token: callers see an error, and the handle comes back by itself.

use keystead_crypto::ports::{Anchor, Entropy, KeyWrapper, Signer};
use rustix::process::Signal;
use tokio::time::Instant;

use super::*;

fn ready(status: &HsmStatus) -> bool {
    matches!(status, HsmStatus::Ready { .. })
}

#[tokio::test]
async fn a_killed_child_is_replaced_without_any_call() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    let sealed = hsm.wrap(MASTER, b"aad", b"kept").await.unwrap();
    hsm.store(3, b"head").await.unwrap();
    let killed = kill(&hsm, Signal::KILL);
    until(&hsm, "back", |status| ready(status) && hsm.worker_pid().is_some_and(|pid| pid != killed)).await;
    assert_eq!(hsm.unwrap(MASTER, b"aad", &sealed).await.unwrap(), b"kept");
    assert_eq!(hsm.load().await.unwrap(), Some((3, b"head".to_vec())));
    hsm.sign(b"x").await.unwrap();
}

#[tokio::test]
async fn a_call_right_after_a_kill_succeeds() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    kill(&hsm, Signal::KILL);
    hsm.wrap(MASTER, b"aad", b"x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_cost_unavailable_and_nothing_else() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    let tasks: Vec<_> = (0..16_u8)
        .map(|task| {
            let hsm = hsm.clone();
            tokio::spawn(async move {
                let mut good = 0;
                for round in 0..150_u8 {
                    let plaintext = [task, round];
                    match hsm.wrap(MASTER, &[task], &plaintext).await {
                        Ok(sealed) => match hsm.unwrap(MASTER, &[task], &sealed).await {
                            Ok(opened) => {
                                assert_eq!(opened, plaintext);
                                good += 1;
                            }
                            outcome => assert!(is_unavailable(&outcome), "{outcome:?}"),
                        },
                        outcome => assert!(is_unavailable(&outcome), "{outcome:?}"),
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                good
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        until(&hsm, "back", |status| ready(status) && hsm.worker_pid().is_some()).await;
        if hsm.worker_pid().is_some() {
            kill(&hsm, Signal::KILL);
        }
    }
    let mut good = 0;
    for task in tasks {
        good += task.await.unwrap();
    }
    assert!(good > 0);
    until(&hsm, "back", ready).await;
    hsm.wrap(MASTER, b"", b"x").await.unwrap();
}

#[tokio::test]
async fn a_child_that_hangs_is_ended_at_the_deadline() {
    let bench = Bench::new();
    let config = HsmConfig { deadline: Duration::from_secs(2), ..bench.config() };
    let hsm = bench.ready(config).await;
    let stopped = kill(&hsm, Signal::STOP);
    let since = Instant::now();
    let (first, second) = tokio::join!(hsm.wrap(MASTER, b"", b"x"), hsm.sign(b"x"));
    assert_eq!(first.unwrap_err(), HsmError::DeadlineExceeded { millis: 2000 });
    // The other one was overdue as well, or found the next child.
    assert!(matches!(second, Ok(_) | Err(HsmError::DeadlineExceeded { .. })), "{second:?}");
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(5)).contains(&since.elapsed()),
        "{:?}",
        since.elapsed()
    );
    until(&hsm, "back", |status| ready(status) && hsm.worker_pid().is_some_and(|pid| pid != stopped)).await;
    hsm.wrap(MASTER, b"", b"x").await.unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{stopped}")).exists());
}

#[tokio::test]
async fn callers_that_leave_early_do_not_keep_a_hung_child_alive() {
    let bench = Bench::new();
    let config = HsmConfig { deadline: Duration::from_secs(1), ..bench.config() };
    let hsm = bench.ready(config).await;
    let stopped = kill(&hsm, Signal::STOP);
    let left = tokio::time::timeout(Duration::from_millis(50), hsm.random(8)).await;
    assert!(left.is_err());
    until(&hsm, "back", |status| ready(status) && hsm.worker_pid().is_some_and(|pid| pid != stopped)).await;
}

#[tokio::test]
async fn a_token_that_vanished_is_unavailable_until_it_is_back() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    let sealed = hsm.wrap(MASTER, b"aad", b"kept").await.unwrap();
    let away = bench.path().join("away");
    std::fs::rename(&bench.token.tokens, &away).unwrap();
    for _ in 0..3 {
        let outcome = hsm.unwrap(MASTER, b"aad", &sealed).await;
        assert!(is_unavailable(&outcome), "{outcome:?}");
    }
    assert!(matches!(hsm.status(), HsmStatus::Down { .. }));
    let login = hsm.login(bench.pin()).await;
    assert!(is_unavailable(&login), "{login:?}");
    std::fs::rename(&away, &bench.token.tokens).unwrap();
    until(&hsm, "back", ready).await;
    assert_eq!(hsm.unwrap(MASTER, b"aad", &sealed).await.unwrap(), b"kept");
}

#[tokio::test]
async fn the_last_handle_takes_the_child_along() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    let pid = hsm.worker_pid().unwrap();
    let clone = hsm.clone();
    drop(hsm);
    clone.random(8).await.unwrap();
    drop(clone);
    for _ in 0..200 {
        if !std::path::Path::new(&format!("/proc/{pid}")).exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the child is still there");
}
