//! The vault end to end: real SoftHSM, real TLS, real store and audit log. Invariant: a test has a vault of its own; what it
//! needs and does not find fails it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its fixtures too"
)]

mod anchor;
mod audit;
mod bootstrap;
mod canaries;
mod ceremony;
mod creds_command;
mod hsm_check;
mod init;
mod leases;
mod leases_watch;
mod policies;
mod pooled;
mod principals;
mod quorum;
mod recover;
mod requests;
mod sealing;
mod secret_command;
mod secrets;
mod services;
mod shares;
mod signals;
mod start;
mod static_roles;
mod tls;
mod token;

use keystead_client::{Client, Error, SecretValue};

/// A service named `shop` may do everything with secrets below `shop`, and nothing else.
const SHOP: &str = "permit (\n  principal == Keystead::Service::\"shop\",\n  action,\n  \
                    resource in Keystead::Folder::\"shop\"\n);\n";

/// The machine-readable reason of a refusal.
#[track_caller]
fn reason<T>(answer: Result<T, Error>) -> String {
    let error = answer.err().expect("this had to be refused");
    let reason = error.reason().to_owned();
    assert!(!reason.is_empty(), "a refusal without a reason: {error:?}");
    reason
}

/// The fields that a refusal names.
#[track_caller]
fn fields<T>(answer: Result<T, Error>) -> Vec<String> {
    let error = answer.err().expect("this had to be refused");
    error.refusal().unwrap().fields.iter().map(|violation| violation.field.clone()).collect()
}

async fn put(client: &Client, path: &str, value: &str) -> u64 {
    client.secrets().put(path, SecretValue::data(value.to_owned())).await.unwrap().version
}

async fn get(client: &Client, path: &str) -> String {
    let secret = client.secrets().get(path).await.unwrap();
    let SecretValue::Data(bytes) = secret.value else { panic!("{path} has fields") };
    bytes.expose_str().unwrap().to_owned()
}
