//! The PIN of the token, changed by a quorum.

use keystead_client::v1;
use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_crypto::ports::{HsmError, HsmLogin};
use keystead_crypto::secret::SecretBytes;
use keystead_tests::TestVault;

use super::{by_quorum, unseal_with};
use crate::{get, put, reason};

const NEW: &str = "a new pin, 5831";

#[tokio::test]
async fn the_token_takes_the_new_pin_only_and_the_same_shares_open_the_vault() {
    let mut vault = TestVault::start().await;
    put(&vault.operator(), "a", "kept").await;
    let change = v1::ChangePin { new_pin: NEW.as_bytes().to_vec(), ..Default::default() };
    let done = by_quorum(&vault, Purpose::ChangePin(change)).await;
    assert!(done.seal_record.is_some());
    put(&vault.operator(), "b", "after").await;
    let shares = vault.shares();
    vault.restart().await;
    unseal_with(&vault, &shares[1..]).await;
    assert_eq!(get(&vault.operator(), "a").await, "kept");
    vault.stop().await;

    let hsm = vault.hsm();
    let old = hsm.login(SecretBytes::copy_from(vault.token().pin.as_bytes())).await;
    assert_eq!(old.unwrap_err(), HsmError::PinRefused);
    hsm.login(SecretBytes::copy_from(NEW.as_bytes())).await.unwrap();
    hsm.logout().await;
}

#[tokio::test]
async fn a_pin_that_the_token_does_not_take_changes_nothing() {
    let mut vault = TestVault::start().await;
    let begun = super::start(
        &vault,
        Purpose::ChangePin(v1::ChangePin { new_pin: b"1".to_vec(), ..Default::default() }),
    )
    .await;
    let shares = vault.shares();
    let system = vault.local().system();
    system.submit_share(&super::share(&shares[0]), &begun.ceremony_id).await.unwrap();
    let refused = system.submit_share(&super::share(&shares[1]), &begun.ceremony_id).await;
    assert_eq!(reason(refused), "HSM_MISCONFIGURED");
    vault.restart().await;
    unseal_with(&vault, &shares[..2]).await;
}
