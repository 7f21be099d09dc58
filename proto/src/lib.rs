//! The wire contract of Keystead: messages, clients and servers made from `keystead/v1/*.proto`.
//!
//! The output is committed, so building this crate runs no code generator. `cargo test -p keystead-proto` generates
//! anew and fails on a difference; with `KEYSTEAD_REGENERATE=1` it writes what it generated.
//! A field marked `debug_redact` is never printed by `Debug`. No rule of the vault lives here.

pub mod codec;
mod redact;

/// Package `keystead.v1`.
#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::as_conversions,
    reason = "generated code"
)]
pub mod v1 {
    include!("gen/keystead.v1.rs");
    include!("gen/redact.rs");
}

/// The encoded descriptor set of package `keystead.v1` and its imports, for reflection and for walking every rpc.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");
