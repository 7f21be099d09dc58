//! A whole vault under load while its HSM goes away, hangs, crashes and lies: every value read is the one that was
//! acknowledged, every call is answered in time, service comes back by itself, and nothing secret is said.
//!
//! Invariant: each fault is shown to have happened by the shim's own count.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod ceremonies;
mod faults;
mod load;
mod recover;
