//! Bad shares: each is refused when it is entered, with a reason of its own, and does not count.

use keystead_client::SecretBytes;
use keystead_crypto::seal_record::{SealHeader, SignedSealHeader};
use keystead_crypto::shamir::{Sharing, split};
use keystead_crypto::unseal_key::UnsealKey;
use keystead_tests::{Site, TestVault};

use crate::reason;

/// Randomness for shares that belong to nobody.
fn rng() -> impl rand_core::CryptoRng {
    getrandom::rand_core::UnwrapErr(getrandom::SysRng)
}

async fn header(site: &Site) -> SealHeader {
    let status = site.local().system().status().await.unwrap();
    SignedSealHeader::decode(&status.seal_header).unwrap().verify().unwrap()
}

/// A well-formed share of a made-up vault.
fn forged(sharing: &Sharing) -> String {
    let key = UnsealKey::generate(&mut rng());
    let share = split(&key, sharing, &mut rng()).unwrap().pop().unwrap();
    String::from_utf8(share.to_text().expose().to_vec()).unwrap()
}

#[tokio::test]
async fn every_kind_of_bad_share_is_named() {
    let vault = TestVault::builder().sealed().start().await;
    let header = header(&vault).await;
    let good = vault.shares()[0].clone();
    let like = Sharing {
        vault: header.vault,
        epoch: header.epoch,
        threshold: header.threshold,
        shares: header.shares,
        audit_fingerprint: header.audit_key.fingerprint(),
    };
    let mut typo = good.clone().into_bytes();
    let last = typo.len() - 1;
    typo[last] = if typo[last] == b'q' { b'p' } else { b'q' };
    let typo = String::from_utf8(typo).unwrap();
    let other_vault = forged(&Sharing { vault: [9; 16], ..like });
    let bad = [
        (String::new(), "SHARE_NOT_A_SHARE"),
        ("kst_something".to_owned(), "SHARE_NOT_A_SHARE"),
        (good[..good.len() - 1].to_owned(), "SHARE_TRUNCATED"),
        (format!("{good}a"), "SHARE_TOO_LONG"),
        (format!("{good}\n"), "SHARE_TOO_LONG"),
        (good.to_uppercase().replacen("KS1-SHARE-", "ks1-share-", 1), "SHARE_BAD_CHARACTER"),
        (typo, "SHARE_TYPO"),
        (other_vault, "SHARE_OTHER_VAULT"),
        (forged(&Sharing { epoch: header.epoch + 1, ..like }), "SHARE_OTHER_EPOCH"),
        (forged(&Sharing { threshold: 3, ..like }), "SHARE_OTHER_THRESHOLD"),
        (forged(&Sharing { audit_fingerprint: [0; 8], ..like }), "SHARE_OTHER_AUDIT_KEY"),
        (forged(&Sharing { shares: 7, ..like }), "SHARE_NUMBER_TOO_HIGH"),
        (forged(&like), "SHARE_WRONG"),
    ];
    let system = vault.local().system();
    for (share, expected) in bad {
        let error = system.submit_share(&SecretBytes::from(share.clone()), "").await.unwrap_err();
        assert_eq!(error.reason(), expected, "{error}");
        let refusal = error.refusal().unwrap();
        assert_eq!(refusal.fields[0].field, "share", "{expected}");
        for length in [16, 24, 32] {
            let part = share.get(12..12 + length).unwrap_or("nothing to find");
            assert!(!format!("{error:?}").contains(part), "{expected}: the refusal quotes the share");
        }
        assert!(
            system.status().await.unwrap().ceremony.is_none(),
            "{expected}: a bad share began a ceremony"
        );
    }
    vault.unseal().await;
    assert_eq!(reason(system.submit_share(&SecretBytes::from(good), "").await), "ALREADY_UNSEALED");
}

#[tokio::test]
async fn a_wrong_share_within_a_ceremony_changes_nothing() {
    let vault = TestVault::builder().quorum(3, 5).sealed().start().await;
    let shares = vault.shares();
    let system = vault.local().system();
    let entered = system.submit_share(&SecretBytes::from(shares[4].clone()), "").await.unwrap();
    let other = TestVault::builder().sealed().start().await.shares()[0].clone();
    assert_eq!(reason(system.submit_share(&SecretBytes::from(other), "").await), "SHARE_OTHER_VAULT");
    let status = system.status().await.unwrap();
    assert_eq!(status.ceremony, entered.ceremony);
    for share in &shares[1..3] {
        system.submit_share(&SecretBytes::from(share.clone()), "").await.unwrap();
    }
    assert!(vault.vault().is_unsealed(), "any three of five open it");
}
