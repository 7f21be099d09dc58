//! Splitting and combining the unseal key: Shamir over GF(256), constant time (`vsss-rs`: no tables, uniform
//! coefficients from 6.0.1 on).
//!
//! Invariants: 2 <= threshold <= shares <= 255; numbers run from 1; what the library returns is wiped at once.
//! Combining wrong shares gives a wrong key and no error: shares are checked against the seal header when entered, and
//! the boxes that the key opens are authenticated.

use rand_core::CryptoRng;
use vsss_rs::Gf256;
use zeroize::Zeroizing;

use crate::arena::arena;
use crate::error::CryptoError;
use crate::secret::SecretKey;
use crate::share::{Share, ShareError};
use crate::stack::swept_deep;
use crate::unseal_key::UnsealKey;

/// What all shares of one split say alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sharing {
    /// The vault.
    pub vault: [u8; 16],
    /// The epoch of the shares.
    pub epoch: u32,
    /// How many are needed.
    pub threshold: u8,
    /// How many there are.
    pub shares: u8,
    /// The fingerprint of the audit key.
    pub audit_fingerprint: [u8; 8],
}

/// Splits an unseal key.
pub fn split(
    key: &UnsealKey,
    sharing: &Sharing,
    rng: &mut impl CryptoRng,
) -> Result<Vec<Share>, CryptoError> {
    let Sharing { vault, epoch, threshold, shares, audit_fingerprint } = *sharing;
    let no_quorum = CryptoError::NoQuorum { threshold, shares };
    if threshold < 2 || threshold > shares {
        return Err(no_quorum);
    }
    let split =
        swept_deep(|| Gf256::split_bytes(usize::from(threshold), usize::from(shares), key.expose(), rng));
    let points = split.map_err(|_| no_quorum.clone())?;
    let points: Vec<_> = points.into_iter().map(Zeroizing::new).collect();
    points
        .iter()
        .map(|point| {
            let (number, y) = point.split_first().ok_or_else(|| no_quorum.clone())?;
            let y = SecretKey::from_slice(y).ok_or_else(|| no_quorum.clone())?;
            Ok(Share { vault, epoch, number: *number, threshold, audit_fingerprint, y })
        })
        .collect()
}

/// Combines shares of one split: at least as many as their threshold.
pub fn combine(shares: &[Share]) -> Result<UnsealKey, ShareError> {
    let first = shares.first().ok_or(ShareError::TooFew { found: 0, needed: 2 })?;
    let needed = first.threshold;
    if shares.len() < usize::from(needed) {
        return Err(ShareError::TooFew { found: shares.len(), needed });
    }
    let mut points = Zeroizing::new(Vec::with_capacity(shares.len()));
    let mut seen = [false; 256];
    for share in shares {
        check_alike(first, share)?;
        let number = share.number;
        match seen.get_mut(usize::from(number)) {
            Some(seen) if !*seen && number != 0 => *seen = true,
            _ if number == 0 => return Err(ShareError::ZeroNumber),
            _ => return Err(ShareError::Duplicate { number }),
        }
        let mut point = Vec::with_capacity(33);
        point.push(number);
        point.extend_from_slice(share.y.expose());
        points.push(point);
    }
    // The library refuses only what was checked above.
    let secret = Zeroizing::new(
        swept_deep(|| Gf256::combine_bytes(points.as_slice()))
            .map_err(|_| ShareError::TooFew { found: shares.len(), needed })?,
    );
    let mut whole = false;
    let key = arena().key(|key| {
        if let Some(secret) = secret.first_chunk() {
            *key = *secret;
            whole = true;
        }
    });
    if whole { Ok(UnsealKey::new(key)) } else { Err(ShareError::TooFew { found: shares.len(), needed }) }
}

fn check_alike(first: &Share, share: &Share) -> Result<(), ShareError> {
    if share.vault != first.vault {
        return Err(ShareError::OtherVault { share: share.vault, expected: first.vault });
    }
    if share.epoch != first.epoch {
        return Err(ShareError::OtherEpoch { share: share.epoch, expected: first.epoch });
    }
    if share.threshold != first.threshold {
        return Err(ShareError::OtherThreshold { share: share.threshold, expected: first.threshold });
    }
    if share.audit_fingerprint != first.audit_fingerprint {
        return Err(ShareError::OtherAuditKey {
            share: share.audit_fingerprint,
            expected: first.audit_fingerprint,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use subtle::ConstantTimeEq;

    use super::*;
    use crate::arena::LockedKey;
    use crate::testing::{TestRng, system_rng};

    fn sharing(threshold: u8, shares: u8) -> Sharing {
        Sharing { vault: [1; 16], epoch: 1, threshold, shares, audit_fingerprint: [2; 8] }
    }

    fn key(seed: u64) -> UnsealKey {
        UnsealKey::generate(&mut TestRng::seeded(seed))
    }

    fn same(a: &UnsealKey, b: &UnsealKey) -> bool {
        bool::from(a.expose().ct_eq(b.expose()))
    }

    fn copy(share: &Share) -> Share {
        Share { y: SecretKey::from_slice(share.y.expose()).unwrap(), ..*share }
    }

    fn pick(shares: &[Share], numbers: &[usize]) -> Vec<Share> {
        numbers.iter().map(|number| copy(&shares[*number])).collect()
    }

    #[test]
    fn every_choice_of_three_of_five_opens_in_any_order() {
        let key = key(1);
        let shares = split(&key, &sharing(3, 5), &mut system_rng()).unwrap();
        assert_eq!(shares.iter().map(Share::number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        for a in 0..5 {
            for b in (0..5).filter(|b| *b != a) {
                for c in (0..5).filter(|c| *c != a && *c != b) {
                    assert!(same(&combine(&pick(&shares, &[a, b, c])).unwrap(), &key));
                }
            }
        }
        assert!(same(&combine(&shares).unwrap(), &key), "more than needed also open");
    }

    #[test]
    fn too_few_shares_and_the_same_share_twice_are_refused() {
        let shares = split(&key(1), &sharing(3, 5), &mut system_rng()).unwrap();
        let error = combine(&pick(&shares, &[0, 1])).unwrap_err();
        assert_eq!(error, ShareError::TooFew { found: 2, needed: 3 });
        assert_eq!(combine(&[]).unwrap_err(), ShareError::TooFew { found: 0, needed: 2 });
        let error = combine(&pick(&shares, &[0, 3, 3])).unwrap_err();
        assert_eq!(error, ShareError::Duplicate { number: 4 });
        let zero = Share { number: 0, ..copy(&shares[2]) };
        let error = combine(&[copy(&shares[0]), copy(&shares[1]), zero]).unwrap_err();
        assert_eq!(error, ShareError::ZeroNumber);
    }

    #[test]
    fn shares_of_different_splits_are_refused_with_their_own_reasons() {
        let shares = split(&key(1), &sharing(2, 3), &mut system_rng()).unwrap();
        let with = |other: Share| combine(&[copy(&shares[0]), other]).unwrap_err();
        let other = || copy(&shares[1]);
        assert!(matches!(with(Share { vault: [9; 16], ..other() }), ShareError::OtherVault { .. }));
        assert!(matches!(with(Share { epoch: 9, ..other() }), ShareError::OtherEpoch { .. }));
        assert!(matches!(with(Share { threshold: 3, ..other() }), ShareError::OtherThreshold { .. }));
        assert!(matches!(
            with(Share { audit_fingerprint: [9; 8], ..other() }),
            ShareError::OtherAuditKey { .. }
        ));
    }

    #[test]
    fn only_quorums_are_split_into() {
        for (threshold, shares) in [(0, 0), (0, 5), (1, 1), (1, 5), (3, 2), (255, 254)] {
            let error = split(&key(1), &sharing(threshold, shares), &mut system_rng()).unwrap_err();
            assert_eq!(error, CryptoError::NoQuorum { threshold, shares });
        }
        for (threshold, shares) in [(2, 2), (2, 255), (255, 255)] {
            let key = key(2);
            let made = split(&key, &sharing(threshold, shares), &mut system_rng()).unwrap();
            assert_eq!(made.len(), usize::from(shares));
            assert!(same(&combine(&made).unwrap(), &key));
        }
    }

    #[test]
    fn coefficients_are_uniform_with_zero_included() {
        // With k = 2, y(1) = secret + coefficient: 400 splits give 12,800 coefficients, 50 of each value on average.
        let zero = UnsealKey::new(LockedKey::from_slice(&[0; 32]).unwrap());
        let mut seen = [0u32; 256];
        let mut rng = TestRng::seeded(3);
        for _ in 0..400 {
            let shares = split(&zero, &sharing(2, 2), &mut rng).unwrap();
            for y in shares[0].y.expose() {
                seen[usize::from(*y)] += 1;
            }
        }
        // Eight standard deviations: never by chance, and the seed is fixed.
        assert!(seen.iter().all(|count| (1..110).contains(count)), "{seen:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_threshold_many_shares_open_and_one_changed_bit_does_not(
            seed: u64, threshold in 2u8..8, more in 0u8..8, byte in 0usize..32, bit in 0u32..8, skip in 0usize..8,
        ) {
            let key = key(seed);
            let made = split(&key, &sharing(threshold, threshold + more), &mut TestRng::seeded(!seed)).unwrap();
            let skip = skip.min(usize::from(more));
            let mut chosen = pick(&made, &(skip..skip + usize::from(threshold)).collect::<Vec<_>>());
            prop_assert!(same(&combine(&chosen).unwrap(), &key));
            let mut y = *chosen[0].y.expose();
            y[byte] ^= 1 << bit;
            chosen[0].y = SecretKey::from_slice(&y).unwrap();
            prop_assert!(!same(&combine(&chosen).unwrap(), &key));
        }

        #[test]
        fn one_share_less_than_needed_fits_every_secret(seed: u64, guess: u8) {
            // For k = 2, one share and any guessed secret byte give a second share that combines to the guess.
            let key = key(seed);
            let made = split(&key, &sharing(2, 2), &mut TestRng::seeded(!seed)).unwrap();
            let guessed = UnsealKey::new(LockedKey::from_slice(&[guess; 32]).unwrap());
            let found = (0..=255u8).filter(|candidate| {
                let forged = Share { y: SecretKey::from_slice(&[*candidate; 32]).unwrap(), ..copy(&made[1]) };
                let combined = combine(&[copy(&made[0]), forged]).unwrap();
                combined.expose()[0] == guessed.expose()[0]
            });
            prop_assert_eq!(found.count(), 1);
        }
    }
}
