//! What the token keeps, and a token that is slow, away, or holds what it should not.

use keystead_audit::{Checkpoint, verify};
use keystead_crypto::ports::{Anchor, HsmKey, HsmKeyPurpose, HsmLogin};
use keystead_crypto::secret::SecretBytes as CoreBytes;
use keystead_hsm::HsmHandle;
use keystead_hsm::testing::SoftToken;
use keystead_tests::{ServerProcess, children_of};
use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// A way of the test's own to the anchor of a stopped vault, as somebody has who knows the PIN.
async fn bound(vault: &TestVault) -> HsmHandle {
    bound_to(vault, vault.token()).await
}

/// The same to another of its tokens.
async fn bound_to(vault: &TestVault, token: &SoftToken) -> HsmHandle {
    let hsm = vault.hsm_of(token);
    hsm.login(CoreBytes::copy_from(token.pin.as_bytes())).await.unwrap();
    let origin = verify(&vault.data_dir().join("audit")).unwrap().origin.unwrap();
    let id = data_encoding::HEXLOWER.decode(&origin.as_bytes()[..16]).unwrap();
    let audit = HsmKey { purpose: HsmKeyPurpose::Audit, version: 1 };
    hsm.bind(id.try_into().unwrap(), &[audit]).await.unwrap();
    hsm
}

/// What the token keeps of a stopped vault.
pub(super) async fn kept(vault: &TestVault) -> Option<(u64, Vec<u8>)> {
    kept_in(vault, vault.token()).await
}

/// The same of another of its tokens.
pub(super) async fn kept_in(vault: &TestVault, token: &SoftToken) -> Option<(u64, Vec<u8>)> {
    let hsm = bound_to(vault, token).await;
    let kept = hsm.load().await.unwrap();
    hsm.logout().await;
    kept
}

async fn keep(vault: &TestVault, counter: u64, value: &[u8]) {
    let hsm = bound(vault).await;
    hsm.store(counter, value).await.unwrap();
    hsm.logout().await;
}

fn signal(id: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn a_stopped_vault_left_the_head_of_its_whole_log_in_the_token() {
    let (mut vault, _) = start(NEVER_MIND).await;
    put(&vault.operator(), "a", "x").await;
    vault.stop().await;
    let report = verify(&vault.data_dir().join("audit")).unwrap();
    let (_, value) = kept(&vault).await.unwrap();
    let head = Head { size: report.size, root: report.root };
    assert_eq!(Checkpoint::decode(&value), Some(Checkpoint { origin: report.origin.unwrap(), head }));
}

#[tokio::test]
async fn an_anchor_that_is_none_or_anothers_keeps_the_vault_sealed() {
    let (mut vault, accepted) = start(NEVER_MIND).await;
    put(&vault.operator(), "a", "x").await;
    vault.stop().await;
    let (counter, mine) = kept(&vault).await.unwrap();

    keep(&vault, counter + 1, b"no checkpoint").await;
    vault.start_again().await.unwrap();
    let refused = try_unseal(&vault).await.unwrap_err();
    assert_eq!(refused.reason(), "AUDIT_ANCHOR_UNTRUSTED", "{refused}");
    vault.stop().await;

    let others = Checkpoint { origin: "another/node".to_owned(), ..Checkpoint::decode(&mine).unwrap() };
    keep(&vault, counter + 2, &others.encode()).await;
    vault.start_again().await.unwrap();
    let refused = try_unseal(&vault).await.unwrap_err();
    assert_eq!(refused.reason(), "AUDIT_ANCHOR_UNTRUSTED", "{refused}");
    assert!(refused.to_string().contains("another/node"), "{refused}");
    vault.stop().await;

    accepted.set(Some(others.head));
    vault.start_again().await.unwrap();
    vault.unseal().await;
    let entries = vault.audit().await;
    let recorded = entries.iter().find(|entry| entry.action == "system:give-up-anchor").unwrap();
    assert_eq!(recorded.detail["anchored_origin"], "another/node");
    assert_eq!(recorded.detail["why"], "AUDIT_ANCHOR_UNTRUSTED");
    vault.stop().await;
    let (counter_now, _) = kept(&vault).await.unwrap();
    assert!(counter_now > counter + 2, "the counter only grows");
}

#[tokio::test]
async fn a_store_that_was_cut_off_before_the_old_anchor_went_counts() {
    let (mut vault, _) = start(NEVER_MIND).await;
    put(&vault.operator(), "a", "x").await;
    vault.stop().await;
    let before = vault.dir().join("before");
    copy(&vault.token().tokens, &before);
    vault.start_again().await.unwrap();
    vault.unseal().await;
    put(&vault.operator(), "a", "y").await;
    vault.stop().await;
    let (counter, value) = kept(&vault).await.unwrap();
    // A file of the token is an object: the destroyed ones come back beside the newest.
    let objects = Command::new("cp").arg("-an").arg(before.join(".")).arg(&vault.token().tokens).status();
    assert!(objects.unwrap().success());
    assert_eq!(kept(&vault).await.unwrap(), (counter, value));
    vault.start_again().await.unwrap();
    vault.unseal().await;
    vault.stop().await;
    assert!(kept(&vault).await.unwrap().0 > counter);
}

#[tokio::test]
async fn without_the_token_reads_go_on_and_the_anchor_follows_when_it_is_back() {
    let mut server = ServerProcess::start_with(&[("audit.anchor_interval_s", "1")]).await;
    server.init().await;
    server.unseal().await;
    let operator = server.operator();
    put(&operator, "a", "kept").await;
    get(&operator, "a").await;
    let (tokens, aside) = (server.token().tokens.clone(), server.dir().join("aside"));
    std::fs::rename(&tokens, &aside).unwrap();
    for id in children_of(server.id()).unwrap() {
        signal(id, Signal::KILL);
    }
    let counted = async |name: &str| {
        let text = http_get(server.metrics_address(), "/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("0");
        line.parse::<u64>().unwrap()
    };
    until("a failure is counted", || async {
        assert_eq!(get(&operator, "a").await, "kept");
        (counted("keystead_audit_anchors_failed_total").await > 0).then_some(())
    })
    .await;
    assert!(server.stderr().contains("could not be anchored"), "{}", server.stderr());
    until("what is not anchored shows", || async {
        (counted("keystead_audit_unanchored_entries").await > 0).then_some(())
    })
    .await;
    let before = counted("keystead_audit_anchors_total").await;
    std::fs::rename(&aside, &tokens).unwrap();
    until("it is anchored again", || async {
        (counted("keystead_audit_anchors_total").await > before).then_some(())
    })
    .await;
    server.terminate().await;
    server.start_again().await;
    server.unseal().await;
}

#[tokio::test]
async fn a_token_that_hangs_does_not_keep_the_vault_open() {
    let (builder, _) = builder(Some(NEVER_MIND));
    let mut vault = builder.config(|config| config.hsm.deadline = Duration::from_secs(60)).start().await;
    all_anchored(&vault).await;
    put(&vault.operator(), "a", "x").await;
    for id in vault.hsm_processes() {
        signal(id, Signal::STOP);
    }
    tokio::time::timeout(Duration::from_secs(40), vault.stop()).await.expect("it stops without the token");
    vault.start_again().await.unwrap();
    vault.unseal().await;
    assert_eq!(get(&vault.operator(), "a").await, "x");
}
