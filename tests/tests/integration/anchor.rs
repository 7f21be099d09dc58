//! The head of the audit log in the token: whoever has the disk, but not the token, cannot wind the record back unseen.

mod several;
mod tamper;
mod token;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keystead_audit::Head;
use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_client::{Error, SecretBytes, Submitted, v1};
use keystead_tests::{TestVault, TestVaultBuilder, until};

use crate::services::http_get;
use crate::{get, put, reason};

/// Far enough away that only openings, ceremonies and sealings anchor.
const NEVER_MIND: Duration = Duration::from_secs(86_400);

/// What `audit.accept_anchor` is at the next start.
#[derive(Clone, Default)]
struct Accepted(Arc<Mutex<Option<Head>>>);

impl Accepted {
    fn set(&self, head: Option<Head>) {
        *self.0.lock().unwrap() = head;
    }
}

fn builder(every: Option<Duration>) -> (TestVaultBuilder, Accepted) {
    let accepted = Accepted::default();
    let set = accepted.clone();
    let builder = TestVault::builder().config(move |config| {
        config.audit.anchor_interval = every;
        config.audit.accept_anchor = *set.0.lock().unwrap();
    });
    (builder, accepted)
}

async fn start(every: Duration) -> (TestVault, Accepted) {
    let (builder, accepted) = builder(Some(every));
    (builder.start().await, accepted)
}

fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Enters a quorum; what the last share gave.
async fn try_unseal(vault: &TestVault) -> Result<Submitted, Error> {
    let (shares, local) = (vault.shares(), vault.local());
    let mut last = local.system().submit_share(&SecretBytes::from(shares[0].clone()), "").await;
    for share in &shares[1..vault.threshold()] {
        last.unwrap();
        last = local.system().submit_share(&SecretBytes::from(share.clone()), "").await;
    }
    last
}

/// The anchored head that a refusal names.
#[track_caller]
fn anchored(refused: &Error) -> Head {
    assert_eq!(refused.reason(), "AUDIT_ROLLED_BACK", "{refused:?}");
    let named = refused.refusal().unwrap().metadata.get("anchored").unwrap().clone();
    assert!(refused.to_string().contains(&format!("audit.accept_anchor = \"{named}\"")), "{refused}");
    Head::parse(&named).unwrap()
}

async fn all_anchored(vault: &TestVault) {
    until("everything is anchored", || async { (vault.vault().unanchored() == Some(0)).then_some(()) }).await;
}

async fn metric(vault: &TestVault, name: &str) -> u64 {
    let text = http_get(vault.metrics_address(), "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap_or("0");
    line.parse().unwrap()
}

#[tokio::test]
async fn an_older_copy_of_everything_the_server_writes_is_refused_until_the_anchor_is_given_up() {
    let (mut vault, accepted) = start(NEVER_MIND).await;
    put(&vault.operator(), "a", "old").await;
    vault.stop().await;
    let aside = vault.dir().join("aside");
    copy(&vault.data_dir(), &aside);
    vault.start_again().await.unwrap();
    vault.unseal().await;
    put(&vault.operator(), "a", "new").await;
    vault.stop().await;
    let newest = vault.dir().join("newest");
    copy(&vault.data_dir(), &newest);

    copy(&aside, &vault.data_dir());
    vault.start_again().await.unwrap();
    let refused = try_unseal(&vault).await.unwrap_err();
    let head = anchored(&refused);
    assert!(!vault.vault().is_unsealed());
    // The quorum stands; only the last share is asked for again.
    let last = SecretBytes::from(vault.shares()[1].clone());
    let again = vault.local().system().submit_share(&last, "").await;
    assert_eq!(reason(again), "AUDIT_ROLLED_BACK");

    // Another head than the one that is anchored gives nothing up.
    vault.stop().await;
    accepted.set(Some(Head { size: head.size - 1, ..head }));
    vault.start_again().await.unwrap();
    assert_eq!(reason(try_unseal(&vault).await), "AUDIT_ROLLED_BACK");

    vault.stop().await;
    accepted.set(Some(head));
    vault.start_again().await.unwrap();
    vault.unseal().await;
    assert_eq!(get(&vault.operator(), "a").await, "old");
    let status = vault.local().system().status().await.unwrap();
    let named = head.to_string();
    let warned =
        |status: &v1::GetStatusResponse| status.warnings.iter().any(|warning| warning.contains(&named));
    assert!(warned(&status), "{:?}", status.warnings);
    let entries = vault.audit().await;
    let recorded = entries.iter().find(|entry| entry.action == "system:give-up-anchor").unwrap();
    let detail = |name: &str| recorded.detail[name].as_str();
    assert_eq!((detail("anchored"), detail("why")), (named.as_str(), "AUDIT_ROLLED_BACK"));
    assert!(Head::parse(detail("log")).unwrap().size < head.size + 10);

    // The next anchor takes its place: the setting is of no use any more, and the log that was given up does not fit.
    vault.stop().await;
    accepted.set(None);
    vault.start_again().await.unwrap();
    vault.unseal().await;
    assert!(!warned(&vault.local().system().status().await.unwrap()));
    vault.stop().await;
    copy(&newest, &vault.data_dir());
    vault.start_again().await.unwrap();
    assert_eq!(reason(try_unseal(&vault).await), "AUDIT_ROLLED_BACK");
}

#[tokio::test]
async fn a_vault_that_opens_by_itself_does_not_open_on_an_older_log() {
    let pin = tempfile::tempdir().unwrap();
    let file = pin.path().join("pin");
    let configured = file.clone();
    let (builder, _) = builder(Some(NEVER_MIND));
    let mut vault = builder
        .config(move |config| {
            config.seal.auto_pin = Some(keystead_server::config::AutoPin::File(configured.clone()));
        })
        .start()
        .await;
    crate::quorum::auto_unseal::write_pin(&file, &vault.token().pin);
    let begun = vault
        .operator()
        .system()
        .start_ceremony(Purpose::EnableAutoUnseal(v1::EnableAutoUnseal {}))
        .await
        .unwrap();
    for share in &vault.shares()[..2] {
        let share = SecretBytes::from(share.clone());
        vault.local().system().submit_share(&share, &begun.ceremony_id).await.unwrap();
    }
    vault.stop().await;
    let aside = vault.dir().join("aside");
    copy(&vault.data_dir(), &aside);
    vault.start_again().await.unwrap();
    until("it opens by itself", || async { vault.vault().is_unsealed().then_some(()) }).await;
    vault.stop().await;

    copy(&aside, &vault.data_dir());
    vault.start_again().await.unwrap();
    let refused = vault.vault().unseal_by_itself().await.unwrap_err();
    assert_eq!(refused.reason(), "AUDIT_ROLLED_BACK");
    assert!(!vault.vault().is_unsealed());
}

#[tokio::test]
async fn what_grew_is_anchored_and_what_did_not_grow_is_not() {
    let (vault, _) = start(Duration::from_millis(50)).await;
    put(&vault.operator(), "a", "x").await;
    // The vault's own work after opening is recorded, too.
    until("every data key was looked at", || async {
        vault.operator().keys().rotation().await.unwrap().complete.then_some(())
    })
    .await;
    all_anchored(&vault).await;
    until("the anchor is counted", || async {
        (metric(&vault, "keystead_audit_anchors_total").await > 0).then_some(())
    })
    .await;
    // The vault is idle from here on: neither log nor anchor may move because of the other.
    let still = (vault.vault().audit().size(), metric(&vault, "keystead_audit_anchors_total").await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(still, (vault.vault().audit().size(), metric(&vault, "keystead_audit_anchors_total").await));
    put(&vault.operator(), "a", "y").await;
    all_anchored(&vault).await;
}

#[tokio::test]
async fn what_a_quorum_did_is_anchored_at_once() {
    let (vault, _) = start(NEVER_MIND).await;
    put(&vault.operator(), "a", "x").await;
    assert_ne!(vault.vault().unanchored(), Some(0));
    let root = Purpose::RecoverRoot(v1::RecoverRoot {});
    let begun = vault.local().system().start_ceremony(root).await.unwrap();
    for share in &vault.shares()[..2] {
        let share = SecretBytes::from(share.clone());
        vault.local().system().submit_share(&share, &begun.ceremony_id).await.unwrap();
    }
    all_anchored(&vault).await;
}

#[tokio::test]
async fn nothing_is_anchored_where_the_configuration_says_never() {
    let (builder, _) = builder(None);
    let mut vault = builder.start().await;
    put(&vault.operator(), "a", "x").await;
    vault.seal().await;
    vault.unseal().await;
    vault.stop().await;
    assert_eq!(token::kept(&vault).await, None);
}
