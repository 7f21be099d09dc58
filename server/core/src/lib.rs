//! Keystead's use cases, async over the ports.
//!
//! Invariant: every request goes through [`operation::run`]; code that touches a secret takes a [`request::Permit`], which
//! only the gate can make. Deliberately absent: gRPC, RocksDB, PKCS#11 and every database driver.

mod anchor;
pub mod audit_tail;
pub mod audit_trail;
pub mod auth;
pub mod clock;
pub mod credentials;
pub mod directory;
pub mod engine;
pub mod error;
pub mod fail_points;
pub mod init;
pub mod keys;
pub mod leases;
pub mod operation;
pub mod policies;
mod records;
mod refusals;
pub mod request;
mod request_ids;
pub mod rotation;
pub mod seal;
pub mod secrets;
pub mod unsealed;
pub mod vault;

#[cfg(test)]
mod testing;
