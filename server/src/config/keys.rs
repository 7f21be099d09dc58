//! Every configuration key: its section, name, kind and preset. Invariant: nothing is read from a file or the
//! environment that is not in [`KEYS`], and docs/reference/configuration.md lists exactly these (a test compares).
//!
//! Absent on purpose: secrets. PINs, shares and tokens never come through the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use keystead_audit::Head;
use keystead_hsm::MechanismChoice;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// The table it stands in.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds when it is not set.
    pub preset: Preset,
}

impl Key {
    /// `section.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// What holds when a key is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// The key must be set.
    Required,
    /// Nothing, or something derived from other keys.
    Absent,
    /// This text, read as if it were set.
    Text(&'static str),
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Printable text of 1 to 255 bytes.
    Text,
    /// `[a-z0-9][a-z0-9-]{0,62}`.
    Name,
    /// A path; a relative one starts at the configuration file's directory.
    Path,
    /// A list of paths; separated by commas in the environment.
    Paths,
    /// A whole number within bounds, both included.
    Integer(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// An IP address with a port.
    Address,
    /// A loopback address with a port.
    Loopback,
    /// A SHA-256 as 64 lower-case hexadecimal digits.
    Sha256,
    /// The head of an audit log: its size, a colon, and its root as 64 lower-case hexadecimal digits.
    Head,
    /// Names and texts; not settable by the environment.
    Table,
}

/// A value that fits its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Text`], [`Kind::Name`] and [`Kind::Word`].
    Text(String),
    /// Of [`Kind::Path`].
    Path(PathBuf),
    /// Of [`Kind::Paths`].
    Paths(Vec<PathBuf>),
    /// Of [`Kind::Integer`].
    Integer(u64),
    /// Of [`Kind::Address`] and [`Kind::Loopback`].
    Address(SocketAddr),
    /// Of [`Kind::Sha256`].
    Sha256([u8; 32]),
    /// Of [`Kind::Head`].
    Head(Head),
    /// Of [`Kind::Table`].
    Table(Vec<(String, String)>),
}

const fn key(section: &'static str, name: &'static str, kind: Kind, preset: Preset) -> Key {
    Key { section, name, kind, preset }
}

/// All keys, in the order of the documentation. Those of lists stand in each `[[…]]`.
pub const KEYS: &[Key] = &[
    key("server", "listen", Kind::Address, Preset::Text("127.0.0.1:8200")),
    key("server", "unix_socket", Kind::Path, Preset::Absent),
    key("server", "data_dir", Kind::Path, Preset::Required),
    key("server", "node", Kind::Name, Preset::Text("node-1")),
    key("tls", "cert_file", Kind::Path, Preset::Required),
    key("tls", "key_file", Kind::Path, Preset::Required),
    key("tls", "client_ca_file", Kind::Path, Preset::Required),
    key("tls", "crl_files", Kind::Paths, Preset::Text("")),
    key(OPERATORS, "name", Kind::Name, Preset::Required),
    key(OPERATORS, "spiffe", Kind::Text, Preset::Absent),
    key(OPERATORS, "dns", Kind::Text, Preset::Absent),
    key(OPERATORS, "email", Kind::Text, Preset::Absent),
    key("hsm", "module", Kind::Path, Preset::Required),
    key("hsm", "module_sha256", Kind::Sha256, Preset::Absent),
    key("hsm", "token_label", Kind::Text, Preset::Required),
    key("hsm", "token_serial", Kind::Text, Preset::Absent),
    key("hsm", "mechanism", Kind::Word(&MECHANISMS), Preset::Text("auto")),
    // CKM_VENDOR_DEFINED and up.
    key("hsm", "gcm_mechanism", Kind::Integer(0x8000_0000, 0xffff_ffff), Preset::Absent),
    key("hsm", "sessions", Kind::Integer(1, 64), Preset::Text("4")),
    key("hsm", "deadline_ms", Kind::Integer(100, 600_000), Preset::Text("5000")),
    key("hsm", "env", Kind::Table, Preset::Absent),
    key(FURTHER, "module", Kind::Path, Preset::Required),
    key(FURTHER, "module_sha256", Kind::Sha256, Preset::Absent),
    key(FURTHER, "token_label", Kind::Text, Preset::Required),
    key(FURTHER, "token_serial", Kind::Text, Preset::Absent),
    key(FURTHER, "clone_of", Kind::Text, Preset::Absent),
    key(FURTHER, "mechanism", Kind::Word(&MECHANISMS), Preset::Text("auto")),
    key(FURTHER, "gcm_mechanism", Kind::Integer(0x8000_0000, 0xffff_ffff), Preset::Absent),
    key(FURTHER, "sessions", Kind::Integer(1, 64), Preset::Text("4")),
    key(FURTHER, "deadline_ms", Kind::Integer(100, 600_000), Preset::Text("5000")),
    key(FURTHER, "env", Kind::Table, Preset::Absent),
    key("rotation", "max_rewraps_per_second", Kind::Integer(1, 1_000_000), Preset::Text("500")),
    key("rotation", "max_age_days", Kind::Integer(1, 36_500), Preset::Text("365")),
    key("rotation", "wraps_alarm", Kind::Integer(1, 4_294_967_296), Preset::Text("2147483648")),
    key("rotation", "system_key_records", Kind::Integer(1, 1_073_741_824), Preset::Text("1073741824")),
    key("rotation", "system_key_age_s", Kind::Integer(1, 3_153_600_000), Preset::Text("2592000")),
    key("leases", "max_ttl_s", Kind::Integer(1, 3_153_600_000), Preset::Text("604800")),
    key("leases", "max_live_per_principal", Kind::Integer(1, 100_000), Preset::Text("1000")),
    key("leases", "revocations_per_target", Kind::Integer(1, 64), Preset::Text("16")),
    key("leases", "max_watches_per_principal", Kind::Integer(1, 100_000), Preset::Text("1000")),
    key("leases", "max_watches", Kind::Integer(1, 1_000_000), Preset::Text("10000")),
    key("audit", "dir", Kind::Path, Preset::Absent),
    key("audit", "durability", Kind::Word(&["fsync", "os"]), Preset::Text("fsync")),
    key("audit", "json_file", Kind::Path, Preset::Absent),
    key("audit", "queue", Kind::Integer(16, 65_536), Preset::Text("1024")),
    key("audit", "reserve_mib", Kind::Integer(1, 4_096), Preset::Text("16")),
    key("audit", "anchor_interval_s", Kind::Integer(0, 86_400), Preset::Text("60")),
    key("audit", "accept_anchor", Kind::Head, Preset::Absent),
    key("seal", "unseal_timeout_s", Kind::Integer(10, 86_400), Preset::Text("600")),
    key("seal", "auto_pin_file", Kind::Path, Preset::Absent),
    key("seal", "auto_pin_env", Kind::Text, Preset::Absent),
    key("seal", "auto_pin_credential", Kind::Text, Preset::Absent),
    key("limits", "max_connections", Kind::Integer(1, 1_000_000), Preset::Text("1024")),
    key("limits", "max_concurrent_streams", Kind::Integer(1, 10_000), Preset::Text("128")),
    // A value may have 1 MiB, and its message some KiB around it.
    key("limits", "max_message_bytes", Kind::Integer(1_114_112, 67_108_864), Preset::Text("4194304")),
    key("limits", "max_header_bytes", Kind::Integer(4_096, 65_536), Preset::Text("16384")),
    key("limits", "handshake_concurrency", Kind::Integer(1, 1_024), Preset::Text("64")),
    key("limits", "handshake_timeout_ms", Kind::Integer(100, 60_000), Preset::Text("5000")),
    key("limits", "request_timeout_ms", Kind::Integer(100, 600_000), Preset::Text("30000")),
    key("limits", "drain_timeout_ms", Kind::Integer(0, 600_000), Preset::Text("10000")),
    key("metrics", "listen", Kind::Loopback, Preset::Absent),
    key("log", "level", Kind::Word(&["error", "warn", "info", "debug", "trace"]), Preset::Text("info")),
    key("log", "format", Kind::Word(&["text", "json"]), Preset::Text("text")),
];

/// The words of `hsm.mechanism`.
const MECHANISMS: [&str; 5] = [
    MechanismChoice::Auto.word(),
    MechanismChoice::AesGcm.word(),
    MechanismChoice::AesGcmHsmIv.word(),
    MechanismChoice::AesGcmAppendedIv.word(),
    MechanismChoice::AesCbcHmac.word(),
];

/// A section that is a list of tables.
pub const OPERATORS: &str = "operators";
/// The list of tables inside `[hsm]`.
pub const FURTHER: &str = "hsm.further";

/// Whether a section is a list of tables, which the environment cannot set.
pub fn is_list(section: &str) -> bool {
    [OPERATORS, FURTHER].contains(&section)
}

/// The key of this section and name.
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// The sections, for telling what is allowed.
pub fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&'static str> = KEYS.iter().map(|key| key.section).collect();
    sections.dedup();
    sections
}

/// The keys of one section.
pub fn names_in(section: &str) -> Vec<&'static str> {
    KEYS.iter().filter(|key| key.section == section).map(|key| key.name).collect()
}

impl Kind {
    /// What is allowed, in words.
    pub fn allowed(self) -> String {
        match self {
            Self::Text => "printable text of 1 to 255 bytes".into(),
            Self::Name => "a name of 1 to 63 characters a-z, 0-9 and -, not beginning with -".into(),
            Self::Path => "a path that is not empty".into(),
            Self::Paths => "a list of paths".into(),
            Self::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Address => "an IP address with a port, such as 127.0.0.1:8200 or [::1]:8200".into(),
            Self::Loopback => "a loopback address with a port, such as 127.0.0.1:9200".into(),
            Self::Sha256 => "a SHA-256 as 64 lower-case hexadecimal digits".into(),
            Self::Head => "the size of an audit log, a colon, and its root as 64 lower-case hexadecimal digits, as AUDIT_ROLLED_BACK names them".into(),
            Self::Table => "a table of names and texts".into(),
        }
    }

    /// Whether a TOML integer is wanted; every other kind but lists and tables is a TOML string.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::Integer(..))
    }

    /// Reads a text, or says no. Numbers have one spelling: digits, no sign, no leading zero.
    pub fn read(self, text: &str) -> Option<Value> {
        match self {
            Self::Text => {
                let good = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
                good.then(|| Value::Text(text.to_owned()))
            }
            Self::Name => is_name(text).then(|| Value::Text(text.to_owned())),
            Self::Path => is_path(text).then(|| Value::Path(PathBuf::from(text))),
            Self::Paths if text.is_empty() => Some(Value::Paths(Vec::new())),
            Self::Paths => {
                let paths: Vec<&str> = text.split(',').collect();
                let good = paths.iter().all(|path| is_path(path));
                good.then(|| Value::Paths(paths.into_iter().map(PathBuf::from).collect()))
            }
            Self::Integer(least, most) => {
                let number: u64 = text.parse().ok()?;
                let canonical = number.to_string() == text;
                (canonical && (least..=most).contains(&number)).then_some(Value::Integer(number))
            }
            Self::Word(words) => words.contains(&text).then(|| Value::Text(text.to_owned())),
            Self::Address => text.parse().ok().map(Value::Address),
            Self::Loopback => {
                let address: SocketAddr = text.parse().ok()?;
                address.ip().is_loopback().then_some(Value::Address(address))
            }
            Self::Sha256 => {
                let digest = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
                digest.try_into().ok().map(Value::Sha256)
            }
            Self::Head => Head::parse(text).map(Value::Head),
            Self::Table => None,
        }
    }
}

/// Whether a text is a name as principals and nodes have them.
pub fn is_name(text: &str) -> bool {
    let letters = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    letters && (1..=63).contains(&text.len()) && !text.starts_with('-')
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}
