//! Ends and full disks: what was acknowledged is there afterwards, whatever happened to the process. The ledger of what was
//! acknowledged is kept outside the server's process.
//!
//! Invariant: the same check that passes for the server fails for one that does not sync its store.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

mod full_disk;
mod kills;
mod ledger;
mod load;
mod logins;
mod records;
mod rotation;
mod unsynced;
