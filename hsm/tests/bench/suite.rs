//! What every adapter of the ports must do, whatever module and token stand behind it. A target names its modules with
//! `conforms!`.

use keystead_crypto::ports::{Anchor, Entropy, HsmSealed, KeyWrapper, Signer};

use super::*;

pub(crate) async fn what_is_wrapped_opens_again_and_under_nothing_else(place: impl Place) {
    let hsm = place.ready(place.config()).await;
    for length in [0, 1, 48, 4096] {
        let plaintext = vec![0x5a; length];
        let sealed = hsm.wrap(MASTER, b"aad", &plaintext).await.unwrap();
        assert_eq!((sealed.mechanism, sealed.iv.len()), place.seals_by());
        assert!(sealed.may_hold(length), "{length}: {}", sealed.ciphertext.len());
        assert_eq!(hsm.unwrap(MASTER, b"aad", &sealed).await.unwrap(), plaintext);
    }
    let sealed = hsm.wrap(MASTER, b"aad", b"inner blob").await.unwrap();
    let forged = |change: fn(&mut HsmSealed)| {
        let mut forged = sealed.clone();
        change(&mut forged);
        forged
    };
    assert_eq!(hsm.unwrap(MASTER, b"other", &sealed).await, Err(HsmError::NotAuthentic));
    assert_eq!(hsm.unwrap(EPOCH, b"aad", &sealed).await, Err(HsmError::NotAuthentic));
    let changes: [fn(&mut HsmSealed); 10] = [
        |sealed| sealed.ciphertext[0] ^= 1,
        |sealed| sealed.ciphertext[20] ^= 1,
        |sealed| sealed.iv[0] ^= 1,
        |sealed| sealed.iv.truncate(11),
        |sealed| sealed.iv.clear(),
        |sealed| sealed.iv.push(0),
        |sealed| sealed.ciphertext.truncate(20),
        |sealed| sealed.ciphertext.truncate(15),
        |sealed| sealed.ciphertext.clear(),
        |sealed| sealed.ciphertext.resize(5000, 0),
    ];
    for change in changes {
        assert_eq!(hsm.unwrap(MASTER, b"aad", &forged(change)).await, Err(HsmError::NotAuthentic));
    }
    let unknown = hsm.unwrap(MASTER, b"aad", &forged(|sealed| sealed.mechanism = 9)).await;
    assert!(matches!(unknown, Err(HsmError::Unsupported { .. })));
    let pid = hsm.worker_pid();
    assert_eq!(hsm.unwrap(MASTER, b"aad", &sealed).await.unwrap(), b"inner blob");
    assert_eq!(hsm.worker_pid(), pid, "a forged ciphertext is no reason to restart");
}

pub(crate) async fn equal_plaintexts_wrap_differently(place: impl Place) {
    let hsm = place.ready(place.config()).await;
    let one = hsm.wrap(MASTER, b"aad", b"same").await.unwrap();
    let two = hsm.wrap(MASTER, b"aad", b"same").await.unwrap();
    assert_ne!(one.iv, two.iv);
    assert_ne!(one.ciphertext, two.ciphertext);
}

pub(crate) async fn too_much_is_refused_before_it_is_sent(place: impl Place) {
    let hsm = place.ready(place.config()).await;
    let long = vec![0; 4097];
    assert!(matches!(hsm.wrap(MASTER, b"", &long).await, Err(HsmError::Unsupported { .. })));
    assert!(matches!(hsm.wrap(MASTER, &long, b"").await, Err(HsmError::Unsupported { .. })));
    assert!(matches!(hsm.sign(&vec![0; 16 * 1024 + 1]).await, Err(HsmError::Unsupported { .. })));
    assert!(matches!(hsm.store(1, &vec![0; 1025]).await, Err(HsmError::Unsupported { .. })));
    assert!(matches!(hsm.random(1025).await, Err(HsmError::Unsupported { .. })));
}

pub(crate) async fn signatures_verify_outside_the_token(place: impl Place) {
    let hsm = place.ready(place.config()).await;
    let key = hsm.verifying_key().await.unwrap();
    assert_eq!(key.algorithm, place.signs_by());
    for message in [b"a seal header".to_vec(), vec![7; 16 * 1024]] {
        let signature = hsm.sign(&message).await.unwrap();
        key.verify("message", &message, &signature).unwrap();
        assert!(key.verify("message", b"another", &signature).is_err());
    }
}

pub(crate) async fn the_anchor_only_grows_and_outlives_the_child(place: impl Place) {
    let hsm = place.ready(place.config()).await;
    assert_eq!(hsm.load().await.unwrap(), None);
    hsm.store(1, b"first").await.unwrap();
    hsm.store(1, b"first").await.unwrap();
    hsm.store(7, &[9; 1024]).await.unwrap();
    assert_eq!(hsm.load().await.unwrap(), Some((7, vec![9; 1024])));
    assert!(matches!(hsm.store(7, b"other").await, Err(HsmError::Unsupported { .. })));
    assert!(matches!(hsm.store(6, b"older").await, Err(HsmError::Unsupported { .. })));
    hsm.store(8, b"").await.unwrap();
    hsm.logout().await;
    hsm.login(place.pin()).await.unwrap();
    hsm.bind(TAG, &[AUDIT]).await.unwrap();
    assert_eq!(hsm.load().await.unwrap(), Some((8, Vec::new())));
}

pub(crate) async fn stores_at_once_leave_the_highest(place: impl Place) {
    let hsm = place.ready(place.config()).await;
    let stores: Vec<_> = (1..=12_u64)
        .map(|counter| {
            let hsm = hsm.clone();
            tokio::spawn(async move { hsm.store(counter, &counter.to_be_bytes()).await })
        })
        .collect();
    for store in stores {
        let outcome = store.await.unwrap();
        assert!(matches!(outcome, Ok(()) | Err(HsmError::Unsupported { .. })), "{outcome:?}");
    }
    assert_eq!(hsm.load().await.unwrap(), Some((12, 12_u64.to_be_bytes().to_vec())));
}

pub(crate) async fn random_bytes_have_the_length_asked_for_and_differ(place: impl Place) {
    let hsm = place.ready(place.config()).await;
    for length in [0, 1, 32, 1024] {
        assert_eq!(hsm.random(length).await.unwrap().len(), length);
    }
    let (one, two) = (hsm.random(32).await.unwrap(), hsm.random(32).await.unwrap());
    assert_ne!(one.expose(), two.expose());
}

pub(crate) async fn many_tasks_share_one_handle(place: impl Place) {
    let hsm = place.ready(place.config()).await;
    let rounds = place.rounds();
    let tasks: Vec<_> = (0..64_u8)
        .map(|task| {
            let hsm = hsm.clone();
            tokio::spawn(async move {
                for round in 0..rounds {
                    let plaintext = [task, round, 1];
                    let sealed = hsm.wrap(MASTER, &[task], &plaintext).await.unwrap();
                    assert_eq!(hsm.unwrap(MASTER, &[task], &sealed).await.unwrap(), plaintext);
                    hsm.sign(&plaintext).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// Runs every test of these suites on a place that is made for each; for a token without private data objects, all but
/// the anchor's.
macro_rules! conforms {
    ($module:ident, $place:expr) => {
        $crate::bench::suite::conforms! { @in $module $place;
            what_is_wrapped_opens_again_and_under_nothing_else
            equal_plaintexts_wrap_differently
            too_much_is_refused_before_it_is_sent
            signatures_verify_outside_the_token
            random_bytes_have_the_length_asked_for_and_differ
            many_tasks_share_one_handle
            the_anchor_only_grows_and_outlives_the_child
            stores_at_once_leave_the_highest
        }
    };
    ($module:ident without anchor, $place:expr) => {
        $crate::bench::suite::conforms! { @in $module $place;
            what_is_wrapped_opens_again_and_under_nothing_else
            equal_plaintexts_wrap_differently
            too_much_is_refused_before_it_is_sent
            signatures_verify_outside_the_token
            random_bytes_have_the_length_asked_for_and_differ
            many_tasks_share_one_handle
        }
    };
    (@in $module:ident $place:expr; $($test:ident)*) => {
        mod $module {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    $crate::bench::suite::$test($place).await;
                }
            )*
        }
    };
}
pub(crate) use conforms;
