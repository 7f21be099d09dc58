//! What the token keeps under the anchor's label, whoever put it there: a store that was cut off leaves two objects.

use keystead_crypto::ports::Anchor;
use rustix::process::Signal;
use sha2::{Digest, Sha256};

use super::*;

fn encoded(counter: u64, value: &[u8]) -> Vec<u8> {
    let body = [b"KSAN\x01".as_slice(), &counter.to_be_bytes(), value].concat();
    let sum = Sha256::digest(&body);
    [body.as_slice(), &sum[..8]].concat()
}

/// Puts an object beside the anchor, as a store does that is cut off before it destroys the old one.
fn plant(bench: &Bench, object: &[u8]) {
    let file = bench.path().join("object");
    std::fs::write(&file, object).unwrap();
    bench.pkcs11_tool(&[
        "--write-object",
        file.to_str().unwrap(),
        "--type",
        "data",
        "--private",
        "--label",
        "keystead/7661756c742d2d31/anchor",
        "--application-label",
        "keystead",
    ]);
}

#[tokio::test]
async fn of_two_anchors_the_higher_counter_counts_and_the_next_store_leaves_one() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    hsm.store(7, b"seven").await.unwrap();
    plant(&bench, &encoded(8, b"eight"));
    plant(&bench, &encoded(3, b"three"));
    assert_eq!(hsm.load().await.unwrap(), Some((8, b"eight".to_vec())));
    assert!(matches!(hsm.store(8, b"other").await, Err(HsmError::Unsupported { .. })));
    hsm.store(9, b"nine").await.unwrap();
    assert_eq!(hsm.load().await.unwrap(), Some((9, b"nine".to_vec())));
    let listed = bench.pkcs11_tool(&["--list-objects", "--type", "data"]);
    assert_eq!(listed.matches("/anchor").count(), 1, "{listed}");
}

#[tokio::test]
async fn a_broken_anchor_counts_for_nothing_beside_a_whole_one_and_is_an_error_alone() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    plant(&bench, b"KSAN but nothing of it");
    let alone = hsm.load().await;
    assert!(matches!(&alone, Err(HsmError::Lied { what }) if what.contains("malformed")), "{alone:?}");
    assert!(hsm.store(1, b"one").await.is_err());
    plant(&bench, &encoded(5, b"five"));
    assert_eq!(hsm.load().await.unwrap(), Some((5, b"five".to_vec())));
    hsm.store(6, b"six").await.unwrap();
    let listed = bench.pkcs11_tool(&["--list-objects", "--type", "data"]);
    assert_eq!(listed.matches("/anchor").count(), 1, "{listed}");
}

#[tokio::test]
async fn two_anchors_under_one_counter_are_an_error() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    plant(&bench, &encoded(5, b"five"));
    plant(&bench, &encoded(5, b"another"));
    let loaded = hsm.load().await;
    assert!(matches!(loaded, Err(HsmError::NotUnique { found: 2, .. })), "{loaded:?}");
}

#[tokio::test]
async fn a_child_killed_while_it_stores_leaves_the_old_anchor_or_the_new_one() {
    let bench = Bench::new();
    let hsm = bench.ready(bench.config()).await;
    let mut acknowledged = 0;
    for round in 0..12_u64 {
        let asked = acknowledged + 1;
        let storing = {
            let hsm = hsm.clone();
            tokio::spawn(async move { hsm.store(asked, &asked.to_be_bytes()).await })
        };
        tokio::time::sleep(Duration::from_millis(round)).await;
        if hsm.worker_pid().is_some() {
            kill(&hsm, Signal::KILL);
        }
        let stored = storing.await.unwrap();
        let loaded = loop {
            match hsm.load().await {
                Err(HsmError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                loaded => break loaded.unwrap(),
            }
        };
        let (counter, value) = loaded.unwrap_or((0, 0_u64.to_be_bytes().to_vec()));
        assert_eq!(value, counter.to_be_bytes());
        assert!(
            counter == asked || (counter == acknowledged && stored.is_err()),
            "{counter} after {stored:?}"
        );
        acknowledged = counter;
    }
}
