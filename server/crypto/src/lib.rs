//! Keystead's cryptography: the only crate that opens secrets.
//!
//! Invariants: no I/O, no clock; randomness is passed in, except to age, which draws its own; no function takes a nonce; what is read back is decoded
//! strictly, and one value has one encoding. Formats are normative in docs/storage-format.md.
//! Absent on purpose: what is stored where (storage), who may open it (core), and how a module is reached (hsm).

pub mod aad;
mod aead;
pub mod arena;
pub mod auto_seal;
mod base32;
pub mod codec;
pub mod counter;
pub mod envelope;
pub mod error;
mod kdf;
pub mod mac;
pub mod mechanism;
pub mod names;
pub mod password;
pub mod ports;
pub mod record;
pub mod recovery;
pub mod seal_record;
pub mod secret;
pub mod shamir;
pub mod share;
pub mod signature;
mod stack;
pub mod token;
pub mod unseal_key;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod vectors;

pub use error::CryptoError;
