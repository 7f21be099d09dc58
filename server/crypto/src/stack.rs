//! Wipes what a computation with keys leaves on the stack: copies of keys, key schedules and plaintext that the
//! ciphers' own code moves around, and that no `Drop` reaches.
//!
//! Invariant: whatever opens, seals, derives or combines runs inside [`swept`]. Absent: registers, and what a caller
//! above moves about by value.

use std::hint::black_box;

/// Deeper than any computation here goes: AES-GCM with 512-bit vectors takes a good half of it, without optimization.
const DEPTH: usize = 24 * 1024;

/// Computes, and wipes the stack below.
pub(crate) fn swept<T>(compute: impl FnOnce() -> T) -> T {
    let result = below(compute);
    wipe();
    result
}

/// A frame of its own at the place where the wiped one will be.
#[inline(never)]
fn below<T>(compute: impl FnOnce() -> T) -> T {
    compute()
}

#[inline(never)]
fn wipe() {
    // The compiler must take it that the zeros are read.
    black_box(&mut [0_u8; DEPTH]);
}
