//! The Rust client of Keystead for services.
//!
//! Every call has a deadline; only what is safe to repeat is repeated; values arrive in types that wipe themselves and
//! do not print; errors say what to do next ([`Error`]). TLS 1.3 with a pinned CA, or the server's local Unix socket.
//! A clone shares the connection. Absent on purpose: a cache of values, and any way to switch verification off.
//!
//! # A service that reads its own secret
//!
//! `KEYSTEAD_ADDR`, `KEYSTEAD_CACERT`, `KEYSTEAD_CERT` and `KEYSTEAD_KEY` say where the vault is and who is calling:
//!
//! ```no_run
//! use keystead_client::{Builder, Error};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let vault = Builder::from_env()?.build().await?;
//!
//! match vault.secrets().get("shop/database").await {
//!     Ok(secret) => {
//!         let password = secret.field("password")?;
//!         connect_to_database(password.expose());
//!     }
//!     Err(Error::Sealed(_)) => eprintln!("the vault is sealed: an operator has to unseal it"),
//!     Err(Error::NotFoundOrDenied(refusal)) => eprintln!("no such secret, or not ours: {refusal}"),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(()) }
//! # fn connect_to_database(_: &[u8]) {}
//! ```
//!
//! # Everything spelled out, and a write
//!
//! ```no_run
//! use keystead_client::{Client, SecretValue};
//!
//! # async fn example() -> Result<(), keystead_client::Error> {
//! let vault = Client::builder()
//!     .addr("https://vault.internal:8200")
//!     .ca_cert_file("/etc/keystead/ca.pem")
//!     .identity_files("/run/shop/tls.crt", "/run/shop/tls.key")
//!     .build()
//!     .await?;
//!
//! let value = SecretValue::fields([("user", "shop"), ("password", "correct horse")]);
//! let version = vault.secrets().put("shop/database", value).await?;
//!
//! // Only if nobody wrote in between:
//! let next = SecretValue::fields([("user", "shop"), ("password", "battery staple")]);
//! vault.secrets().put_expecting("shop/database", next, version.version).await?;
//! # Ok(()) }
//! ```
//!
//! # A database login that stays fresh
//!
//! [`Credentials::keep`] issues one, renews it, replaces it before it ends, and revokes it on [`KeptCredential::shutdown`].
//!
//! What this crate cannot wipe: the buffers of HTTP/2 and TLS below it. A program that needs that too sets a global
//! allocator that wipes what it frees.

mod address;
mod audit;
mod auth;
mod builder;
mod call;
mod connect;
mod credentials;
mod error;
mod keeper;
mod keys;
mod leases;
mod pager;
mod policies;
mod retry;
mod secrets;
mod static_roles;
mod status;
mod system;
mod tls;
mod value;

pub use address::{Address, AddressError};
pub use audit::{Audit, AuditEntries};
pub use auth::Auth;
pub use builder::Builder;
pub use credentials::{Credentials, DefinedRole, IssueOptions, Issued, Period, ProbedTarget};
pub use error::{ConfigError, ConnectCause, Error, FieldViolation, MissingField, Precondition, Refusal};
pub use keeper::{Freshness, Keep, KeeperEvent, KeeperStep, KeptCredential, NoCredential};
pub use keys::Keys;
pub use keystead_proto::v1;
pub use leases::{
    Credential, EndReason, Lease, LeaseChanges, LeaseClock, LeaseEnding, LeaseSelector, LeaseState, Leases,
    PostgresCredential, Renewed,
};
pub use pager::Pager;
pub use policies::Policies;
pub use retry::RetryPolicy;
pub use secrets::{
    DestroyedVersions, History, ListEntry, PutOptions, Secret, SecretVersion, Secrets, VersionState,
};
pub use static_roles::{StaticCredential, StaticPasswords, StaticRoles};
pub use system::{InitRequest, InitialShare, Initialized, Submitted, System};
pub use tonic::Code;
pub use value::{SecretBytes, SecretValue};

use call::Caller;

/// The guide's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../../docs/guides/service-author.md")]
struct ServiceAuthorGuide;

/// A connection to a vault; clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    caller: Caller,
}

impl Client {
    /// Begins to say where the vault is and who calls.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Versioned secrets.
    pub fn secrets(&self) -> Secrets {
        Secrets::new(self.caller.clone())
    }

    /// The vault's life: status, init, unseal, seal.
    pub fn system(&self) -> System {
        System::new(self.caller.clone())
    }

    /// Who calls: principals and sessions.
    pub fn auth(&self) -> Auth {
        Auth::new(self.caller.clone())
    }

    /// What they may do: Cedar policies.
    pub fn policies(&self) -> Policies {
        Policies::new(self.caller.clone())
    }

    /// The keys behind every secret, and their rotation.
    pub fn keys(&self) -> Keys {
        Keys::new(self.caller.clone())
    }

    /// Logins that somebody else made, whose passwords the vault keeps and changes.
    pub fn static_roles(&self) -> StaticRoles {
        StaticRoles::new(self.caller.clone())
    }

    /// Targets, roles, and the credentials that are issued from them.
    pub fn credentials(&self) -> Credentials {
        Credentials::new(self.caller.clone())
    }

    /// Who holds which login, for how long.
    pub fn leases(&self) -> Leases {
        Leases::new(self.caller.clone())
    }

    /// The audit log.
    pub fn audit(&self) -> Audit {
        Audit::new(self.caller.clone())
    }
}
