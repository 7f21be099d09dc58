//! The server ends behind each durable step of credentials, one at a time: what is left in a real PostgreSQL and in the vault is
//! brought together by the next start. The server under test is built with the feature `failpoints`, and aborts where the
//! variable `FAILPOINTS` says.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod issue;
mod revoke;
mod rotate;
mod unarmed;
mod world;
