//! From read values to the checked [`Config`]. Invariant: paths become absolute here and nowhere else.
//!
//! Absent on purpose: bounds and spellings, which `keys` holds and `source` has checked before.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keystead_domain::{CertificateMatcher, MatcherError};
use keystead_hsm::MechanismChoice;

use super::keys::{self, Value};
use super::source::{self, Source, Table};
use super::{
    AuditConfig, AutoPin, Config, ConfigError, HsmConfig, Limits, LogConfig, LogFormat, MetricsConfig,
    OperatorConfig, ReadDurability, SealConfig, ServerConfig, TlsConfig,
};
use crate::env::{Environment, SOFTHSM2_CONF};
use keystead_core::leases::LeaseOptions;
use keystead_core::rotation::RotationOptions;

impl Config {
    /// Reads and checks a file and the overrides.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        let (path, text) = Self::read(path)?;
        Self::parse(&path, &text, environment)
    }

    /// The absolute path of a file, and its text.
    pub(super) fn read(path: &Path) -> Result<(PathBuf, String), ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(read)?;
        let text = std::fs::read_to_string(&path).map_err(read)?;
        Ok((path, text))
    }

    /// Checks a text that stands in the file at `path`, from whose directory relative paths start.
    pub fn parse(path: &Path, text: &str, environment: &Environment) -> Result<Self, ConfigError> {
        let source = source::read(path, text, environment.overrides())?;
        let base = path.parent().unwrap_or(Path::new("/"));
        Self::build(path, base, &source)
    }

    /// The configuration of `keystead-server --dev`: everything under `dir`, a SoftHSM token, one operator.
    pub fn dev(dir: &Path) -> Result<Self, ConfigError> {
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = \"data\"\nnode = \"dev\"\n\
             [tls]\ncert_file = \"tls/server.pem\"\nkey_file = \"tls/server.key\"\n\
             client_ca_file = \"tls/ca.pem\"\n\
             [[operators]]\nname = \"dev\"\nspiffe = \"{}\"\n\
             [hsm]\nmodule = \"{SOFTHSM_MODULE}\"\ntoken_label = \"keystead-dev\"\n",
            crate::dev::OPERATOR_SPIFFE,
        );
        let mut config = Self::parse(&dir.join("keystead.toml"), &text, &Environment::default())?;
        let softhsm = dir.join("softhsm").join("softhsm2.conf");
        config.hsm.env = vec![(SOFTHSM2_CONF.to_owned(), softhsm.display().to_string())];
        Ok(config)
    }

    fn build(path: &Path, base: &Path, source: &Source) -> Result<Self, ConfigError> {
        let reader = |section| Section { path, base, section, table: source.sections.get(section) };
        let (server, tls, hsm) = (reader("server"), reader("tls"), reader("hsm"));
        let (audit, seal, limits) = (reader("audit"), reader("seal"), reader("limits"));
        let (metrics, log) = (reader("metrics"), reader("log"));
        let (rotation, leases) = (reader("rotation"), reader("leases"));
        let data_dir = server.path("data_dir")?;
        let durability = match audit.text("durability")?.as_str() {
            "os" => ReadDurability::Os,
            _ => ReadDurability::Fsync,
        };
        let format = if log.text("format")? == "json" { LogFormat::Json } else { LogFormat::Text };
        let level = log.text("level")?.parse().unwrap_or(tracing::Level::INFO);
        Ok(Self {
            server: ServerConfig {
                listen: server.address("listen")?,
                unix_socket: server
                    .path_or_none("unix_socket")
                    .unwrap_or_else(|| data_dir.join("keystead.sock")),
                node: server.text("node")?,
                data_dir: data_dir.clone(),
            },
            tls: TlsConfig {
                cert_file: tls.path("cert_file")?,
                key_file: tls.path("key_file")?,
                client_ca_file: tls.path("client_ca_file")?,
                crl_files: tls.paths("crl_files"),
            },
            operators: operators(path, base, source)?,
            hsm: token(&hsm)?,
            further: source
                .further
                .iter()
                .map(|(table, _)| token(&Section { path, base, section: keys::FURTHER, table: Some(table) }))
                .collect::<Result<_, _>>()?,
            rotation: RotationOptions {
                max_rewraps_per_second: rotation.number("max_rewraps_per_second")?,
                max_age: Duration::from_secs(rotation.number::<u64>("max_age_days")?.saturating_mul(86_400)),
                wraps_alarm: rotation.number("wraps_alarm")?,
                system_key_records: rotation.number("system_key_records")?,
                system_key_age: Duration::from_secs(rotation.number("system_key_age_s")?),
            },
            leases: LeaseOptions {
                max_ttl: leases.number("max_ttl_s")?,
                max_live_per_principal: leases.number("max_live_per_principal")?,
                revocations_per_target: leases.number("revocations_per_target")?,
                max_watches_per_principal: leases.number("max_watches_per_principal")?,
                max_watches: leases.number("max_watches")?,
            },
            audit: AuditConfig {
                dir: audit.path_or_none("dir").unwrap_or_else(|| data_dir.join("audit")),
                durability,
                json_file: audit.path_or_none("json_file"),
                queue: audit.number("queue")?,
                reserve_bytes: audit.number::<u64>("reserve_mib")?.saturating_mul(1024 * 1024),
                anchor_interval: match audit.number("anchor_interval_s")? {
                    0 => None,
                    seconds => Some(Duration::from_secs(seconds)),
                },
                accept_anchor: match audit.value("accept_anchor") {
                    Some(Value::Head(head)) => Some(*head),
                    _ => None,
                },
            },
            seal: SealConfig {
                unseal_timeout: Duration::from_secs(seal.number("unseal_timeout_s")?),
                auto_pin: auto_pin(&seal)?,
            },
            limits: Limits {
                max_connections: limits.number("max_connections")?,
                max_concurrent_streams: limits.number("max_concurrent_streams")?,
                max_message_bytes: limits.number("max_message_bytes")?,
                max_header_bytes: limits.number("max_header_bytes")?,
                handshake_concurrency: limits.number("handshake_concurrency")?,
                handshake_timeout: Duration::from_millis(limits.number("handshake_timeout_ms")?),
                request_timeout: Duration::from_millis(limits.number("request_timeout_ms")?),
                drain_timeout: Duration::from_millis(limits.number("drain_timeout_ms")?),
            },
            metrics: MetricsConfig { listen: metrics.address("listen").ok() },
            log: LogConfig { level, format },
        })
    }
}

/// Where Debian and Ubuntu put SoftHSM.
pub const SOFTHSM_MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// How an operator's certificate may be named: the key, what it allows, and how it is read.
type IdentityKind = (&'static str, &'static str, fn(&str) -> Result<CertificateMatcher, MatcherError>);

const IDENTITIES: [IdentityKind; 3] = [
    (
        "spiffe",
        "a SPIFFE ID such as spiffe://example.org/operator/ann (trust domain in lower case, no empty or dot segments)",
        CertificateMatcher::spiffe,
    ),
    ("dns", "a DNS name in lower case, without wildcard or trailing dot", CertificateMatcher::dns),
    ("email", "an e-mail address with a host in lower case", CertificateMatcher::email),
];

fn operators(path: &Path, base: &Path, source: &Source) -> Result<Vec<OperatorConfig>, ConfigError> {
    let mut operators: Vec<OperatorConfig> = Vec::new();
    for (table, at) in &source.operators {
        let reader = Section { path, base, section: keys::OPERATORS, table: Some(table) };
        let operator = reader.text("name")?;
        if operators.iter().any(|known| known.name == operator) {
            return Err(ConfigError::OperatorTwice { at: at.clone(), operator });
        }
        let mut given = IDENTITIES.iter().filter_map(|kind| Some((kind, reader.text(kind.0).ok()?)));
        let (Some(((name, allowed, read), text)), None) = (given.next(), given.next()) else {
            return Err(ConfigError::OperatorSan { at: at.clone(), operator });
        };
        let at = table.get(name).map_or_else(|| at.clone(), |(_, at)| at.clone());
        let identity = read(&text).map_err(|problem| ConfigError::OperatorIdentity {
            at,
            operator: operator.clone(),
            key: name,
            problem: Box::new(problem),
            allowed,
        })?;
        operators.push(OperatorConfig { name: operator, identity });
    }
    Ok(operators)
}

/// Where the PIN for a vault that opens by itself comes from: one place at most.
fn auto_pin(seal: &Section<'_>) -> Result<Option<AutoPin>, ConfigError> {
    let given = [
        seal.path_or_none("auto_pin_file").map(AutoPin::File),
        seal.text("auto_pin_env").ok().map(AutoPin::Variable),
        seal.text("auto_pin_credential").ok().map(AutoPin::Credential),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (first, None) => Ok(first),
        (_, Some(_)) => Err(ConfigError::AutoPins { within: seal.path.display().to_string() }),
    }
}

/// `[hsm]`, or one of `[[hsm.further]]`.
fn token(reader: &Section<'_>) -> Result<HsmConfig, ConfigError> {
    Ok(HsmConfig {
        module: reader.path("module")?,
        module_sha256: match reader.value("module_sha256") {
            Some(Value::Sha256(digest)) => Some(*digest),
            _ => None,
        },
        token_label: reader.text("token_label")?,
        token_serial: reader.text("token_serial").ok(),
        mechanism: MechanismChoice::from_word(&reader.text("mechanism")?).unwrap_or_default(),
        gcm_mechanism: reader.number("gcm_mechanism").ok(),
        clone_of: reader.text("clone_of").ok(),
        sessions: reader.number("sessions")?,
        deadline: Duration::from_millis(reader.number("deadline_ms")?),
        env: match reader.value("env") {
            Some(Value::Table(entries)) => entries.clone(),
            _ => Vec::new(),
        },
    })
}

/// Typed access to one table that [`source::read`] has checked.
struct Section<'a> {
    path: &'a Path,
    base: &'a Path,
    section: &'static str,
    table: Option<&'a Table>,
}

impl Section<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        self.table.and_then(|table| table.get(name)).map(|(value, _)| value)
    }

    fn missing(&self, name: &str) -> ConfigError {
        let allowed = keys::find(self.section, name).map(|key| key.kind.allowed()).unwrap_or_default();
        let key = format!("{}.{name}", self.section);
        ConfigError::Missing { within: self.path.display().to_string(), key, allowed }
    }

    fn text(&self, name: &str) -> Result<String, ConfigError> {
        match self.value(name) {
            Some(Value::Text(text)) => Ok(text.clone()),
            _ => Err(self.missing(name)),
        }
    }

    fn path(&self, name: &str) -> Result<PathBuf, ConfigError> {
        self.path_or_none(name).ok_or_else(|| self.missing(name))
    }

    fn path_or_none(&self, name: &str) -> Option<PathBuf> {
        match self.value(name) {
            Some(Value::Path(path)) => Some(self.base.join(path)),
            _ => None,
        }
    }

    fn paths(&self, name: &str) -> Vec<PathBuf> {
        match self.value(name) {
            Some(Value::Paths(paths)) => paths.iter().map(|path| self.base.join(path)).collect(),
            _ => Vec::new(),
        }
    }

    fn address(&self, name: &str) -> Result<SocketAddr, ConfigError> {
        match self.value(name) {
            Some(Value::Address(address)) => Ok(*address),
            _ => Err(self.missing(name)),
        }
    }

    fn number<N: TryFrom<u64>>(&self, name: &str) -> Result<N, ConfigError> {
        match self.value(name) {
            Some(Value::Integer(number)) => N::try_from(*number).map_err(|_| self.missing(name)),
            _ => Err(self.missing(name)),
        }
    }
}
