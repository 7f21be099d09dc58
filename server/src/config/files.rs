//! The certificate files that a configuration names, read as a start would read them. Invariant: an error names the key,
//! and where its value comes from.
//!
//! Absent on purpose: the token and the store, which only a start touches.

use std::path::Path;

use super::source::{Origin, Source};
use super::{Config, ConfigError, TlsConfig, source};
use crate::env::Environment;
use crate::tls::{TlsError, TlsReloader};

impl Config {
    /// Reads and checks a file and the overrides, and the certificates that they name.
    pub fn check(path: &Path, environment: &Environment) -> Result<Self, ConfigError> {
        let (path, text) = Self::read(path)?;
        let config = Self::parse(&path, &text, environment)?;
        let Err(error) = TlsReloader::load(config.tls.clone()) else { return Ok(config) };
        let key = key_of(&error, &config.tls);
        let at = origin(&source::read(&path, &text, environment.overrides())?, key);
        Err(ConfigError::Certificates { at, key, source: Box::new(error) })
    }
}

fn origin(source: &Source, key: &str) -> Origin {
    let value = source.sections.get("tls").and_then(|table| table.get(key));
    value.map_or(Origin::Preset, |(_, origin)| origin.clone())
}

/// The key in `[tls]` that an error is about.
fn key_of(error: &TlsError, files: &TlsConfig) -> &'static str {
    match error {
        TlsError::KeyNotPrivate { .. } => "key_file",
        TlsError::Pair { .. } => "cert_file",
        TlsError::Verifier { .. } => "client_ca_file",
        TlsError::Read { path, .. }
        | TlsError::NotPem { path, .. }
        | TlsError::Empty { path, .. }
        | TlsError::Certificate { path, .. }
        | TlsError::Crl { path, .. } => {
            let keys = [
                ("cert_file", &files.cert_file),
                ("key_file", &files.key_file),
                ("client_ca_file", &files.client_ca_file),
            ];
            keys.into_iter().find(|(_, file)| *file == path).map_or("crl_files", |(key, _)| key)
        }
    }
}
