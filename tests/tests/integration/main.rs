//! The vault end to end: real SoftHSM, real TLS, real store and audit log. Invariant: a test has a vault of its own; what it
//! needs and does not find fails it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its fixtures too"
)]

mod secrets;
