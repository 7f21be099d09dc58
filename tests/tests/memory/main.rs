//! Memory is not a second vault: the server's memory and its HSM process's are read from outside, as a thief would, and
//! searched for what was read, written and entered. Invariant: every search is shown to find what is there.
//!
//! The processes are undumpable, so these tests run again inside a user namespace of their own, where they may read
//! them all the same. What they need and do not find fails them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, in its fixtures too"
)]

mod held;
mod idle;
mod namespace;
mod needles;
mod process;
mod seal;
mod secrets;
mod start;
