//! A module that fails, lies, crashes and hangs, between a real worker and a real SoftHSM: what callers see, and that
//! service comes back by itself. Invariant: each test shows by the shim's own count that its fault happened, and that
//! no PIN was sent again after a refusal.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its fixtures too"
)]

mod absence;
#[path = "../bench/mod.rs"]
mod bench;
mod faulty;
mod lies;
mod nss;
mod pins;
mod rungs;

use faulty::Faulty;

// Without faults the shim is not to be noticed.
bench::suite::conforms!(ports, Faulty::new());
