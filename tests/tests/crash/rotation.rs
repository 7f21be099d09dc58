//! `kill -9` in the midst of a rotation of the master key, on a real token.

use std::collections::BTreeSet;

use keystead_client::{SecretValue, v1};
use keystead_tests::{ServerProcess, until};

const SECRETS: usize = 120;

async fn ways(server: &ServerProcess) -> Vec<v1::KeyWay> {
    server.operator().keys().list().await.unwrap().ways
}

/// What tells how far a rotation is: its place, roughly.
async fn stage(server: &ServerProcess) -> (bool, u64) {
    let way = ways(server).await.remove(0);
    let looked = server.operator().keys().rotation().await.unwrap().looked_at;
    (way.oldest_master_version == way.master_version, looked)
}

#[tokio::test]
async fn a_rotation_goes_on_after_each_of_many_kills() {
    // Slow enough for several kills in one pass.
    let mut server = ServerProcess::start_with(&[("rotation.max_rewraps_per_second", "20")]).await;
    server.init().await;
    server.unseal().await;
    let secrets = server.operator().secrets();
    for number in 0..SECRETS {
        let value = SecretValue::data(number.to_string().into_bytes());
        secrets.put(&format!("shop/{number}"), value).await.unwrap();
    }
    let made = server.operator().keys().rotate().await.unwrap().master_keys;
    assert_eq!(made[0].version, 2);
    let mut stages = BTreeSet::new();
    loop {
        let before = stage(&server).await;
        if before.0 {
            break;
        }
        let now = until("it goes on", || async {
            let now = stage(&server).await;
            // A pass that has just begun has nothing on disk yet, and would begin again for ever.
            (now != before && (now.0 || now.1 > 0)).then_some(now)
        })
        .await;
        stages.insert(now);
        server.kill().await;
        server.start_again().await;
        server.unseal().await;
    }
    let midst = stages.iter().any(|(over, looked)| !over && *looked > 0);
    assert!(midst, "it was never killed in the midst: {stages:?}");
    until("the rotation is over", || async {
        let way = ways(&server).await.remove(0);
        (way.oldest_master_version == 2 && way.master_version == 2).then_some(())
    })
    .await;
    until("the old key is destroyed", || async {
        let keys = server.operator().keys().list().await.unwrap().master_keys;
        (keys[0].state() == v1::MasterKeyState::Destroyed).then_some(())
    })
    .await;
    // Nothing is in a cache after a start: every value comes through the new key.
    server.kill().await;
    server.start_again().await;
    server.unseal().await;
    let secrets = server.operator().secrets();
    for number in 0..SECRETS {
        let secret = secrets.get(&format!("shop/{number}")).await.unwrap();
        let SecretValue::Data(value) = secret.value else { panic!("fields") };
        assert_eq!(value.expose(), number.to_string().as_bytes());
    }
    let keys = server.operator().keys().list().await.unwrap();
    assert_eq!(keys.alarms, Vec::<String>::new());
}
