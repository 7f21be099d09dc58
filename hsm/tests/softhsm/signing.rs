//! The two algorithms of the audit key: which one a token gets, and that a key keeps its own.

use keystead_crypto::ports::{SignatureAlgorithm, Signer};

use super::*;

#[tokio::test]
async fn a_token_without_eddsa_signs_by_p256() {
    let bench = Bench::new();
    bench.token.take_mechanisms(&["CKM_EDDSA"]).unwrap();
    let hsm = bench.ready(bench.config()).await;
    let key = hsm.verifying_key().await.unwrap();
    assert_eq!((key.algorithm, key.bytes.len()), (SignatureAlgorithm::EcdsaP256, 65));
    for message in [b"a seal header".to_vec(), Vec::new(), vec![7; 16 * 1024]] {
        let signature = hsm.sign(&message).await.unwrap();
        assert_eq!(signature.len(), 64);
        key.verify("test", &message, &signature).unwrap();
        assert!(key.verify("test", b"another", &signature).is_err());
    }
    hsm.logout().await;
    // A key of one algorithm goes on when the token learns the other.
    let conf = std::fs::read_to_string(&bench.token.conf).unwrap();
    std::fs::write(&bench.token.conf, conf.replace("slots.mechanisms", "# slots.mechanisms")).unwrap();
    hsm.login(bench.pin()).await.unwrap();
    hsm.bind(TAG, &ALL).await.unwrap();
    assert_eq!(hsm.verifying_key().await.unwrap(), key);
    key.verify("test", b"message", &hsm.sign(b"message").await.unwrap()).unwrap();
    hsm.create_key(*b"vault--2", AUDIT).await.unwrap();
    hsm.bind(*b"vault--2", &[AUDIT]).await.unwrap();
    assert_eq!(hsm.verifying_key().await.unwrap().algorithm, SignatureAlgorithm::Ed25519);
}

#[tokio::test]
async fn a_token_that_signs_by_neither_algorithm_is_refused() {
    let bench = Bench::new();
    bench.token.take_mechanisms(&["CKM_EDDSA", "CKM_ECDSA"]).unwrap();
    let login = HsmHandle::spawn(bench.config()).unwrap().login(bench.pin()).await;
    assert!(matches!(&login, Err(HsmError::Unsupported { what }) if what.contains("CKM_ECDSA")), "{login:?}");
}
