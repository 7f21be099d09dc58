//! The PostgreSQL engine against a real server. Invariant: a test has a cluster of its own; where PostgreSQL is not installed
//! the tests fail.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, in its fixtures too")]

mod admin;
mod conforms;
mod excess;
mod injection;
mod logins;
mod removal;
mod shared;
mod site;
mod tls;
