//! The configuration: one TOML file and overrides from the environment become one checked [`Config`].
//! Invariant: whoever holds a `Config` need not check it again; paths are absolute; unknown keys are errors.
//!
//! Absent on purpose: secrets, reading of the files that it names (tls, hsm and audit do that; `check` asks tls), and
//! reload of anything but certificates and the log level.

mod build;
mod describe;
mod error;
mod files;
pub mod keys;
pub mod source;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use keystead_audit::Head;
use keystead_core::leases::LeaseOptions;
use keystead_core::rotation::RotationOptions;
use keystead_domain::CertificateMatcher;
use keystead_hsm::MechanismChoice;

pub use build::SOFTHSM_MODULE;
pub use describe::Described;
pub use error::ConfigError;

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`.
    pub server: ServerConfig,
    /// `[tls]`.
    pub tls: TlsConfig,
    /// `[[operators]]`.
    pub operators: Vec<OperatorConfig>,
    /// `[hsm]`.
    pub hsm: HsmConfig,
    /// `[[hsm.further]]`.
    pub further: Vec<HsmConfig>,
    /// `[rotation]`.
    pub rotation: RotationOptions,
    /// `[leases]`.
    pub leases: LeaseOptions,
    /// `[audit]`.
    pub audit: AuditConfig,
    /// `[seal]`.
    pub seal: SealConfig,
    /// `[limits]`.
    pub limits: Limits,
    /// `[metrics]`.
    pub metrics: MetricsConfig,
    /// `[log]`.
    pub log: LogConfig,
}

/// Where the server listens and keeps its data.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The TCP address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The socket for local administration.
    pub unix_socket: PathBuf,
    /// The directory of everything that the server writes.
    pub data_dir: PathBuf,
    /// This node's name.
    pub node: String,
}

/// Certificate files.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// The server's certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
    /// The CAs that may have issued a caller's certificate, PEM.
    pub client_ca_file: PathBuf,
    /// Revocation lists, PEM or DER.
    pub crl_files: Vec<PathBuf>,
}

/// An operator whose certificate counts while the vault is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorConfig {
    /// Its name.
    pub name: String,
    /// The name that its certificate must hold.
    pub identity: CertificateMatcher,
}

/// The PKCS#11 module and its token.
#[derive(Debug, Clone)]
pub struct HsmConfig {
    /// The module's shared library.
    pub module: PathBuf,
    /// The hash that the library must have.
    pub module_sha256: Option<[u8; 32]>,
    /// The token's label.
    pub token_label: String,
    /// The token's serial, where two tokens carry one label.
    pub token_serial: Option<String>,
    /// How the token wraps.
    pub mechanism: MechanismChoice,
    /// The vendor's number of AES-GCM.
    pub gcm_mechanism: Option<u32>,
    /// The serial of the token that this one is a clone of; only of a further token.
    pub clone_of: Option<String>,
    /// How many sessions are kept.
    pub sessions: usize,
    /// How long one call may take before the module's process is ended.
    pub deadline: Duration,
    /// The environment of the module's process.
    pub env: Vec<(String, String)>,
}

impl HsmConfig {
    /// The same for the module's process, which `worker` runs when it is called with `hsm-worker`.
    pub fn for_worker(&self, worker: PathBuf) -> keystead_hsm::HsmConfig {
        keystead_hsm::HsmConfig {
            worker_exe: worker,
            worker_args: vec!["hsm-worker".to_owned()],
            module: self.module.clone(),
            module_sha256: self.module_sha256,
            token_label: self.token_label.clone(),
            token_serial: self.token_serial.clone(),
            mechanism: self.mechanism,
            gcm_mechanism: self.gcm_mechanism,
            sessions: u8::try_from(self.sessions).unwrap_or(u8::MAX),
            deadline: self.deadline,
            env: self.env.clone(),
        }
    }
}

/// The audit log.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// Its directory.
    pub dir: PathBuf,
    /// When the record of a read counts as written.
    pub durability: ReadDurability,
    /// Also write entries in the clear as JSON lines to this file.
    pub json_file: Option<PathBuf>,
    /// How many records may wait.
    pub queue: usize,
    /// Space kept for operators and sealing when the disk is full.
    pub reserve_bytes: u64,
    /// How often the log's head is kept in the token while the log grows; nothing: never.
    pub anchor_interval: Option<Duration>,
    /// The one anchored head that may be given up.
    pub accept_anchor: Option<Head>,
}

/// When the record of a read counts as written; changes are always synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadDurability {
    /// Once on disk.
    Fsync,
    /// Once handed to the operating system.
    Os,
}

/// Sealing.
#[derive(Debug, Clone)]
pub struct SealConfig {
    /// How long entered shares wait for the rest.
    pub unseal_timeout: Duration,
    /// The PIN for a vault that opens by itself.
    pub auto_pin: Option<AutoPin>,
}

/// Where a PIN comes from that nobody enters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AutoPin {
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A credential of systemd, by its name.
    Credential(String),
}

/// What callers may take up.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time.
    pub max_connections: usize,
    /// Requests at a time on one connection.
    pub max_concurrent_streams: u32,
    /// Bytes of one message received.
    pub max_message_bytes: usize,
    /// Bytes of all headers of one request.
    pub max_header_bytes: u32,
    /// Handshakes at a time.
    pub handshake_concurrency: usize,
    /// How long a handshake may take, waiting included.
    pub handshake_timeout: Duration,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How long open requests get when the server stops.
    pub drain_timeout: Duration,
}

/// The metrics listener.
#[derive(Debug, Clone)]
pub struct MetricsConfig {
    /// A loopback address, or none for no listener.
    pub listen: Option<SocketAddr>,
}

/// Logging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// Least severity shown of Keystead's own messages.
    pub level: tracing::Level,
    /// How messages are written.
    pub format: LogFormat,
}

/// How log messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
