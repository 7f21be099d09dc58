//! The life of a secret, through the client.

use keystead_client::SecretValue;
use keystead_tests::TestVault;

#[tokio::test]
async fn a_value_comes_back_as_it_was_put() {
    let mut vault = TestVault::start().await;
    let secrets = vault.operator().secrets();
    let version = secrets.put("shop/db", SecretValue::fields([("user", "shop"), ("password", "p")])).await.unwrap();
    assert_eq!(version.version, 1);
    let secret = secrets.get("shop/db").await.unwrap();
    assert_eq!(secret.field("password").unwrap().expose(), b"p");
    vault.stop().await;
}
