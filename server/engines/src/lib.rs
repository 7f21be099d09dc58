//! The targets in which Keystead makes logins: one module and one feature each, behind the port of `keystead-core`.
//!
//! Invariant: no error, log line or `Debug` of this crate holds a secret; names reach a statement only quoted, by
//! [`statements`]; a login is gone only when the target says that it is. Deliberately absent: leases, and when to do what.

#[cfg(feature = "testing")]
pub mod conformance;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "postgres")]
mod statements;
#[cfg(feature = "testing")]
pub mod testing;
