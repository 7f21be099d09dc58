//! Targets: the databases and brokers in which the vault makes logins. The admin login is not in here: it is sealed under a
//! data key of its own, and this record may be printed.
//!
//! Invariant: a target has an id of its own, made with it; whatever points to a target points to the id, so that one added
//! anew under a name inherits nothing from the one before.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::id::RecordId;
use crate::name::Name;
use crate::rights::postgres::PgName;
use crate::time::{Ttl, UnixMillis};

/// Bytes that a host name may have (RFC 1035, 2.3.4).
pub const MAX_HOST: usize = 253;
/// Bytes that a PEM bundle of CA certificates may have.
pub const MAX_CA_BYTES: usize = 64 * 1024;
/// Connections to one target at most.
pub const MAX_CONNECTIONS: u16 = 64;

/// What kind of system a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetKind {
    /// PostgreSQL 15 or later.
    Postgres,
}

impl TargetKind {
    /// The word that people and audit entries use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
        }
    }
}

/// How a target is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetSettings {
    /// PostgreSQL 15 or later.
    Postgres(PostgresSettings),
}

impl TargetSettings {
    /// Of which kind.
    pub const fn kind(&self) -> TargetKind {
        match self {
            Self::Postgres(_) => TargetKind::Postgres,
        }
    }
}

/// A name or address of a host: letters, digits, `.`, `-`, and `:` for IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(Box<str>);

/// Why a text is not a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "host: expected a name or an address of 1 to {MAX_HOST} letters, digits, '.', '-' or ':', without a port"
)]
pub struct HostError;

impl Host {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':');
        let address = text.parse::<std::net::Ipv6Addr>().is_ok();
        let good = !text.is_empty() && text.len() <= MAX_HOST && text.bytes().all(plain);
        // A colon elsewhere is a port that would be taken for a part of the name.
        if !good || (text.contains(':') && !address) || text.starts_with('-') {
            return Err(HostError);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Host {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, HostError> {
        Self::parse(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0.into()
    }
}

/// How a PostgreSQL database is reached: always over TLS, with its certificate verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresSettings {
    /// Where.
    pub host: Host,
    /// Its port.
    pub port: NonZeroU16,
    /// The database that roles of this target give rights in.
    pub database: PgName,
    /// CA certificates in PEM that the server's certificate must chain to.
    pub ca_pem: String,
    /// The name in the server's certificate, if it is not `host`.
    pub server_name: Option<Host>,
    /// The admin login, made by the set-up statements.
    pub admin: PgName,
    /// Connections that the vault opens to it at most: 1 to [`MAX_CONNECTIONS`].
    pub connections: u16,
}

/// A target as stored, without its admin login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRecord {
    /// Its own id.
    pub id: RecordId,
    /// Its name.
    pub name: Name,
    /// How it is reached.
    pub settings: TargetSettings,
    /// No lease on it lives longer.
    pub max_ttl: Ttl,
    /// What everybody may do there, accepted by name when it was added: the digests of the findings.
    pub accepted: Vec<String>,
    /// When it was added.
    pub created: UnixMillis,
    /// When its admin login last changed its password; nothing before the first time.
    pub rotated: Option<UnixMillis>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_without_a_port() {
        for good in ["db", "db.example.com", "10.0.0.1", "::1", "fe80::1", &"a".repeat(253)] {
            assert_eq!(Host::parse(good).unwrap().as_str(), good);
        }
        for wrong in
            ["", "db:5432", "db example", "db/x", "-oops", "db\0", "dbé", "[::1]", "a@b", &"a".repeat(254)]
        {
            assert_eq!(Host::parse(wrong), Err(HostError), "{wrong:?}");
        }
    }
}
