//! Keystead's crypto ports over PKCS#11.
//!
//! The module of the HSM's maker runs in a child process (`worker`), which sees the PIN and blobs that are sealed under
//! Q already. The parent's side (`handle`) gives every call a deadline, ends a child that breaks it, starts another and
//! logs in again. Invariant: a PIN that the token refused is never sent to it again. Absent: any key of the vault, any
//! knowledge of records.

mod config;
mod connection;
mod frame;
mod handle;
mod protocol;
mod refused;
pub mod report;
mod supervisor;
#[cfg(feature = "testing")]
pub mod testing;
mod worker;

pub use config::{ConfigError, HsmConfig, MechanismChoice};
pub use handle::{HsmHandle, HsmStatus, PinOrigin};
pub use worker::worker_main;
