//! Wipes what a computation with keys leaves on the stack: copies of keys, key schedules and plaintext that the
//! ciphers' own code moves around, and that no `Drop` reaches.
//!
//! Invariant: whatever opens, seals, derives or combines runs inside [`swept`] or, where it goes deeper, [`swept_deep`]. Absent:
//! registers, and what a caller above moves about by value.

use std::hint::black_box;

/// Deeper than what requests compute goes, without optimization: a good 6 KiB. No more than that, since it is wiped three times
/// for each read, out of a cache of 32 to 48 KiB.
const DEPTH: usize = 8 * 1024;

/// Deeper than the computations of ceremonies go: Shamir takes a good 18 KiB, age 40.
const DEEP: usize = 64 * 1024;

/// Computes, and wipes the stack below.
pub(crate) fn swept<T>(compute: impl FnOnce() -> T) -> T {
    swept_down::<DEPTH, T>(compute)
}

/// The same for people's shares and files for recovery, which take more stack and are rare.
pub(crate) fn swept_deep<T>(compute: impl FnOnce() -> T) -> T {
    swept_down::<DEEP, T>(compute)
}

fn swept_down<const BYTES: usize, T>(compute: impl FnOnce() -> T) -> T {
    let result = below(compute);
    #[cfg(test)]
    if tests::UNWIPED.get() {
        return result;
    }
    wipe::<BYTES>();
    result
}

/// A frame of its own at the place where the wiped one will be.
#[inline(never)]
fn below<T>(compute: impl FnOnce() -> T) -> T {
    compute()
}

#[inline(never)]
fn wipe<const BYTES: usize>() {
    // The compiler must take it that the zeros are read.
    black_box(&mut [0_u8; BYTES]);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use vsss_rs::Gf256;

    use super::*;
    use crate::aad::{Aad, label};
    use crate::arena::LockedKey;
    use crate::counter::BodyKey;
    use crate::envelope::{DataKey, InnerBlob, Q};
    use crate::mac::LookupKey;
    use crate::record::{self, SystemKey};
    use crate::testing::system_rng;

    thread_local! {
        /// Leaves the stack as it is, to be measured.
        pub(super) static UNWIPED: Cell<bool> = const { Cell::new(false) };
    }

    type Computation = Box<dyn FnOnce() + Send>;

    /// What something left on the stack, down from its caller; without wiping, if so wished.
    fn left(unwiped: bool, compute: impl FnOnce() + Send + 'static) -> Vec<u8> {
        const LOOK: usize = 256 * 1024;
        let thread = std::thread::Builder::new().stack_size(2 * LOOK);
        let looked = thread.spawn(move || {
            // Threads are given the stacks of others.
            wipe::<{ LOOK + 4096 }>();
            UNWIPED.set(unwiped);
            let here = 0_u8;
            let top = std::ptr::from_ref(black_box(&here)).addr();
            compute();
            let mut left = vec![0; LOOK];
            let from = u64::try_from(top - LOOK).unwrap();
            File::open("/proc/self/mem").unwrap().read_exact_at(&mut left, from).unwrap();
            left.reverse();
            left
        });
        looked.unwrap().join().unwrap()
    }

    /// How deep it went.
    fn depth(compute: impl FnOnce() + Send + 'static) -> usize {
        left(true, compute).iter().rposition(|byte| *byte != 0).unwrap_or(0)
    }

    fn aad() -> Aad<'static> {
        let (tenant, keyspace, record) = ("default", "secrets", b"record".as_slice());
        Aad { label: label::SECRET_VERSION, vault: [7; 16], tenant, keyspace, record, version: 1 }
    }

    #[test]
    fn what_requests_compute_goes_no_deeper_than_what_is_wiped() {
        let q = Arc::new(Q::generate(1, &mut system_rng()));
        let plain = Arc::new(vec![0x5a; 1 << 16]);
        let key = DataKey::generate(&mut system_rng());
        let blob = InnerBlob::seal(&q, &aad(), &key, &mut system_rng()).unwrap();
        let opening = blob.open(&q, &aad()).unwrap();
        let sealed = record::seal_single(key, [1; 16], &aad(), &plain).unwrap();
        let system = SystemKey::generate(&mut system_rng());
        let body_key = BodyKey::start(&LockedKey::from_slice(&[7; 32]).unwrap(), &mut system_rng());
        let lookup = LookupKey::generate(1, &mut system_rng());
        let to = Arc::clone(&q);
        let computations: [(&str, Computation); 6] = [
            (
                "sealing a data key",
                Box::new(move || {
                    let key = DataKey::generate(&mut system_rng());
                    black_box(InnerBlob::seal(&to, &aad(), &key, &mut system_rng()).unwrap());
                }),
            ),
            ("opening a data key", Box::new(move || drop(blob.open(&q, &aad()).unwrap()))),
            (
                "opening a record",
                Box::new(move || drop(record::open_single(&opening, [1; 16], &aad(), &sealed).unwrap())),
            ),
            (
                "sealing a record",
                Box::new(move || {
                    drop(record::seal_many(&system, [1; 16], &aad(), &plain, &mut system_rng()).unwrap());
                }),
            ),
            ("sealing a body", Box::new(move || drop(body_key.seal(b"header", b"body").unwrap()))),
            ("a tag to look up by", Box::new(move || _ = black_box(lookup.tag("label", &[b"part"])))),
        ];
        for (what, compute) in computations {
            let depth = depth(compute);
            assert!(depth < DEPTH, "{what}: {depth} bytes");
        }
    }

    #[test]
    fn what_ceremonies_compute_goes_no_deeper_than_what_is_wiped() {
        let shares = Gf256::split_bytes(3, 5, [7; 32], system_rng()).unwrap();
        let identity = age::x25519::Identity::generate();
        let to = identity.to_public();
        let sealed = age::encrypt_and_armor(&to, b"secret").unwrap();
        let computations: [(&str, Computation); 4] = [
            ("splitting", Box::new(|| drop(Gf256::split_bytes(3, 5, [7; 32], system_rng()).unwrap()))),
            ("combining", Box::new(|| drop(Gf256::combine_bytes(shares).unwrap()))),
            ("sealing by age", Box::new(move || drop(age::encrypt_and_armor(&to, b"secret").unwrap()))),
            ("opening by age", Box::new(move || drop(age::decrypt(&identity, sealed.as_bytes()).unwrap()))),
        ];
        for (what, compute) in computations {
            let depth = depth(compute);
            assert!(depth < DEEP, "{what}: {depth} bytes");
        }
    }

    #[test]
    fn what_was_left_is_wiped() {
        #[inline(never)]
        fn leave<const BYTES: usize>() {
            black_box(&mut [0x5a_u8; BYTES]);
        }
        let found = |left: Vec<u8>| left.iter().filter(|byte| **byte == 0x5a).count();
        assert!(found(left(true, || swept(leave::<6000>))) > 5000, "the measure sees it");
        assert!(found(left(false, || swept(leave::<6000>))) < 100);
        assert!(found(left(false, || swept(leave::<60_000>))) > 5000, "deeper than what is wiped");
        assert!(found(left(false, || swept_deep(leave::<60_000>))) < 100);
    }
}
