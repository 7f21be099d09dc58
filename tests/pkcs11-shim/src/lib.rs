//! A PKCS#11 2.40 module for tests: passes every call through to a real one and injects the faults that a control file
//! names. See docs/reference/pkcs11-shim.md for the faults and how to use it by hand.
//!
//! The environment: `KEYSTEAD_SHIM_MODULE`, the real module; `KEYSTEAD_SHIM_CONTROL`, the control file, read again
//! whenever it changes; `KEYSTEAD_SHIM_RESERVED`, a text that is passed to the real module's C_Initialize as
//! `pReserved` (NSS takes its parameters there). Beside the control file, `<control>.log` gets a line for every call,
//! login and fault. Invariant: no panic leaves this library, and no PIN or plaintext is written anywhere. Absent: the
//! functions of PKCS#11 3.x; nothing here is ever part of a production server.

mod border;
mod buffers;
mod ciphers;
mod discovery;
mod engine;
mod functions;
mod iv;
mod lies;
mod login;
mod names;
mod objects;
mod real;
mod record;
mod rules;

pub use functions::C_GetFunctionList;
