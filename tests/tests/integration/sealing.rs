//! What sealing does to connections: all end, with the answers that are due, and callers come back by themselves.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keystead_client::{RetryPolicy, SecretBytes, v1};
use keystead_proto::v1::TailAuditRequest;
use keystead_proto::v1::audit_service_client::AuditServiceClient;
use keystead_tests::{PATIENCE, TestVault, cli, raw};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::{get, put, reason};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_connected_works_again_after_sealing_and_unsealing() {
    let vault = TestVault::start().await;
    let (idle, sealer, local) = (vault.operator(), vault.operator(), vault.local());
    put(&idle, "a", "before").await;
    local.system().status().await.unwrap();
    for round in 0..5 {
        let system = sealer.system();
        tokio::time::timeout(PATIENCE, system.seal()).await.unwrap().unwrap();
        assert_eq!(reason(idle.secrets().get("a").await), "SEALED", "round {round}");
        for share in vault.shares().iter().take(vault.threshold()) {
            local.system().submit_share(&SecretBytes::from(share.clone()), "").await.unwrap();
        }
        assert_eq!(get(&idle, "a").await, "before");
        assert_eq!(get(&sealer, "a").await, "before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_made_meanwhile_are_answered() {
    let vault = TestVault::start().await;
    let done = Arc::new(AtomicBool::new(false));
    let call_on = || {
        let admin = vault.admin();
        let client = vault.builder().identity_files(&admin.cert, &admin.key);
        // As services have it: what a connection that ends did not take up is sent again.
        let client = client.retry(RetryPolicy::default()).build_lazy().unwrap();
        let done = Arc::clone(&done);
        tokio::spawn(async move {
            let mut answers = 0;
            while !done.load(Ordering::Relaxed) {
                client.system().status().await.unwrap();
                answers += 1;
            }
            answers
        })
    };
    let callers: Vec<_> = (0..8).map(|_| call_on()).collect();
    for _ in 0..10 {
        vault.seal().await;
        vault.unseal().await;
    }
    done.store(true, Ordering::Relaxed);
    for caller in callers {
        assert_ne!(caller.await.unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_enters_several_shares() {
    let vault = TestVault::builder().sealed().start().await;
    let mut command = Command::new(cli());
    command.env_clear().args(["--addr", &format!("unix://{}", vault.socket().display()), "unseal"]);
    for (number, share) in vault.shares().iter().take(vault.threshold()).enumerate() {
        let file = vault.dir().join(format!("share-{number}"));
        std::fs::write(&file, share).unwrap();
        command.arg("--share-file").arg(file);
    }
    let done = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("The vault is unsealed."), "{said} {done:?}");
    let status = vault.local().system().status().await.unwrap();
    assert_eq!(status.state(), v1::SealState::Unsealed);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_health_is_told_of_the_sealing_and_then_cut_off() {
    let vault = TestVault::start().await;
    let request = || HealthCheckRequest { service: "keystead.v1.SecretsService".to_owned() };
    for channel in [raw::channel(&vault, None), raw::local_channel(&vault)] {
        let mut watch = HealthClient::new(channel).watch(request()).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        vault.seal().await;
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        let cut = tokio::time::timeout(PATIENCE, watch.message()).await.unwrap();
        assert!(cut.is_err(), "{cut:?}");
        vault.unseal().await;
    }
}

/// Nobody polls the answer of a caller who takes nothing more: what it was about to send must not hold the vault open.
#[tokio::test(flavor = "multi_thread")]
async fn followers_who_take_nothing_do_not_hold_up_the_sealing() {
    let vault = TestVault::start().await;
    let write = |writer: u32| {
        let client = vault.operator();
        tokio::spawn(async move {
            for number in 0..60 {
                put(&client, &format!("{writer}/{number}"), "x").await;
            }
        })
    };
    let writers: Vec<_> = (0..8).map(write).collect();
    put(&vault.operator(), "some", "entries").await;
    let mut followers = Vec::new();
    for _ in 0..20 {
        let channel = raw::narrow_channel(&vault, vault.admin(), 512);
        let request = TailAuditRequest { last: 20, follow: true };
        followers.push(AuditServiceClient::new(channel).tail_audit(request).await.unwrap());
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // The last of them comes to its event after the writers' end.
    put(&vault.operator(), "one", "more").await;
    let sealer = vault.operator();
    tokio::time::timeout(PATIENCE, sealer.system().seal()).await.unwrap().unwrap();
    tokio::time::timeout(PATIENCE, vault.vault().closed()).await.unwrap();
    drop(followers);
}
