//! The Keystead server: the process and composition root.
//!
//! Invariant: [`Server::build`] is the one door: the binary and the test harness start the same server. Domain code knows
//! nothing of what is here; here nothing is decided.

mod auto_pin;
pub mod config;
pub mod dev;
pub mod env;
pub mod grpc;
pub mod hsm_check;
pub mod listener;
pub mod memory;
pub mod notify;
mod output;
pub mod recover;
pub mod seal_record;
mod secret_input;
mod tasks;
pub mod telemetry;
pub mod tls;
mod wiring;

pub use wiring::{Built, Server, StartError};
