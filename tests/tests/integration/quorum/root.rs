//! A new administrator, when nobody may do anything any more.

use keystead_client::v1;
use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_tests::{TestVault, spiffe_matcher};

use super::approve;
use crate::{put, reason};

fn recover() -> Purpose {
    Purpose::RecoverRoot(v1::RecoverRoot {})
}

#[tokio::test]
async fn a_quorum_makes_a_new_administrator_whatever_the_policies_say() {
    let vault = TestVault::start().await;
    let admin = vault.operator();
    let ann = v1::Principal {
        name: "operator/ann".to_owned(),
        groups: vec!["admins".to_owned()],
        certificates: vec![spiffe_matcher("spiffe://test/operator/ann")],
        ..v1::Principal::default()
    };
    admin.auth().put_principal(ann).await.unwrap();
    let ann = vault.client(&vault.pki().client("spiffe://test/operator/ann"));
    let refused = ann.system().start_ceremony(recover()).await;
    assert_eq!(reason(refused), "OPERATOR_ONLY", "not even an administrator of the policies");
    let locked = "permit (principal == Keystead::Operator::\"admin\", action == \
                  Keystead::Action::\"policies:write\", resource);";
    let policy = v1::Policy { name: "admins".into(), text: locked.into(), ..Default::default() };
    admin.policies().put(policy).await.unwrap();
    assert_eq!(reason(admin.policies().list().next().await), "DENIED");
    let begun = vault.local().system().start_ceremony(recover()).await.unwrap();
    assert_eq!(begun.purpose(), v1::CeremonyPurpose::RecoverRoot);
    let done = approve(&vault.anonymous(), &begun.ceremony_id, &vault.shares()[..2]).await;
    let token = done.bootstrap_token.unwrap();
    assert!(done.bootstrap_expires.is_some());
    let root = vault.bearer(token.expose_str().unwrap());
    put(&root, "a", "again").await;
    root.policies().list().next().await.unwrap();

    let mut tail = root.audit().tail(1_000, false).await.unwrap();
    let mut purposes = Vec::new();
    while let Some(entry) = tail.next().await.unwrap() {
        if entry.action == "system:start-ceremony" {
            purposes.push(entry.detail["purpose"].clone());
        }
    }
    assert_eq!(purposes, ["system:recover-root"]);
}
