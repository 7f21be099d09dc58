//! Why a configuration is refused. Invariant: every variant names the place, the key and what is allowed.
//!
//! Absent on purpose: the values found, which may be secrets pasted in the wrong place.

use std::path::PathBuf;

use keystead_domain::MatcherError;

use super::source::Origin;
use crate::tls::TlsError;

/// Why a configuration is not taken. Every variant names the place, the key and what is allowed; none holds a value.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{at}: not TOML: {message}")]
    Syntax {
        /// Where.
        at: Origin,
        /// What the parser says.
        message: String,
    },
    /// A section that does not exist.
    #[error("{at}: unknown section `{section}`; allowed: {allowed}")]
    UnknownSection {
        /// Where.
        at: Origin,
        /// Its name.
        section: String,
        /// The sections there are.
        allowed: String,
    },
    /// A key that does not exist.
    #[error("{at}: unknown key `{key}`; allowed there: {allowed}")]
    UnknownKey {
        /// Where.
        at: Origin,
        /// Its section and name.
        key: String,
        /// The keys there are.
        allowed: String,
    },
    /// A value of the wrong TOML type.
    #[error("{at}: `{key}` is {found}; allowed: {allowed}")]
    WrongType {
        /// Where.
        at: Origin,
        /// The key.
        key: String,
        /// The type found.
        found: &'static str,
        /// What is allowed.
        allowed: String,
    },
    /// A value that is not allowed.
    #[error("{at}: the value of `{key}` is not allowed; allowed: {allowed}")]
    BadValue {
        /// Where.
        at: Origin,
        /// The key.
        key: String,
        /// What is allowed.
        allowed: String,
    },
    /// A key that must be set and is not.
    #[error("{within}: `{key}` is missing; it takes {allowed}")]
    Missing {
        /// The file or table that lacks it.
        within: String,
        /// The key.
        key: String,
        /// What it takes.
        allowed: String,
    },
    /// An environment variable that overrides nothing.
    #[error("the environment variable {variable} overrides no key; allowed: {allowed}")]
    UnknownOverride {
        /// Its name.
        variable: String,
        /// The names there are.
        allowed: String,
    },
    /// An operator without exactly one certificate name.
    #[error(
        "{at}: operator `{operator}` needs exactly one of operators.spiffe, operators.dns, operators.email"
    )]
    OperatorSan {
        /// Where.
        at: Origin,
        /// The operator's name.
        operator: String,
    },
    /// An operator whose certificate name could be in no certificate that counts.
    #[error("{at}: operator `{operator}`: `operators.{key}` is not allowed: {problem}; allowed: {allowed}")]
    OperatorIdentity {
        /// Where.
        at: Origin,
        /// The operator's name.
        operator: String,
        /// The key's name there.
        key: &'static str,
        /// What is wrong, without the value.
        problem: Box<MatcherError>,
        /// What is allowed.
        allowed: &'static str,
    },
    /// Certificate files that a start could not use.
    #[error("{at}: `tls.{key}`")]
    Certificates {
        /// Where.
        at: Origin,
        /// The key's name there.
        key: &'static str,
        /// What is wrong with which file.
        source: Box<TlsError>,
    },
    /// Two operators of one name.
    #[error("{at}: the operators.name `{operator}` stands here a second time; allowed: names used once")]
    OperatorTwice {
        /// Where.
        at: Origin,
        /// The operator's name.
        operator: String,
    },
    /// A PIN from several places.
    #[error(
        "{within}: seal has several of auto_pin_file, auto_pin_env and auto_pin_credential; allowed: one of them, or none"
    )]
    AutoPins {
        /// The file.
        within: String,
    },
}
