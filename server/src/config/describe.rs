//! What `check-config` prints: the configuration as it takes effect. Invariant: built key by key from an allow list;
//! the environment of the HSM's process appears by name only.
//!
//! Absent on purpose: `Debug` of the whole, which would show what is added to a field one day.

use std::fmt;
use std::path::Path;

use super::{Config, HsmConfig, LogFormat, ReadDurability};

/// Displays the effective configuration, one `section.key = value` a line.
#[derive(Clone, Copy)]
pub struct Described<'a>(&'a Config);

impl Config {
    /// The effective configuration, to be printed.
    pub fn describe(&self) -> Described<'_> {
        Described(self)
    }
}

impl fmt::Display for Described<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config {
            server,
            tls,
            operators,
            hsm,
            further,
            rotation,
            leases,
            audit,
            seal,
            limits,
            metrics,
            log,
        } = self.0;
        writeln!(out, "server.listen = {}", server.listen)?;
        path(out, "server.unix_socket", &server.unix_socket)?;
        path(out, "server.data_dir", &server.data_dir)?;
        writeln!(out, "server.node = {}", server.node)?;
        path(out, "tls.cert_file", &tls.cert_file)?;
        path(out, "tls.key_file", &tls.key_file)?;
        path(out, "tls.client_ca_file", &tls.client_ca_file)?;
        for file in &tls.crl_files {
            path(out, "tls.crl_files", file)?;
        }
        for operator in operators {
            writeln!(out, "operators.{} = {}", operator.name, operator.identity)?;
        }
        token(out, "hsm", hsm)?;
        for (place, further) in further.iter().enumerate() {
            token(out, &format!("hsm.further.{}", place.saturating_add(1)), further)?;
        }
        writeln!(out, "rotation.max_rewraps_per_second = {}", rotation.max_rewraps_per_second)?;
        writeln!(out, "rotation.max_age_days = {}", rotation.max_age.as_secs() / 86_400)?;
        writeln!(out, "rotation.wraps_alarm = {}", rotation.wraps_alarm)?;
        writeln!(out, "rotation.system_key_records = {}", rotation.system_key_records)?;
        writeln!(out, "rotation.system_key_age_s = {}", rotation.system_key_age.as_secs())?;
        writeln!(out, "leases.max_ttl_s = {}", leases.max_ttl.as_secs())?;
        writeln!(out, "leases.max_live_per_principal = {}", leases.max_live_per_principal)?;
        writeln!(out, "leases.revocations_per_target = {}", leases.revocations_per_target)?;
        writeln!(out, "leases.max_watches_per_principal = {}", leases.max_watches_per_principal)?;
        writeln!(out, "leases.max_watches = {}", leases.max_watches)?;
        path(out, "audit.dir", &audit.dir)?;
        let durability = match audit.durability {
            ReadDurability::Fsync => "fsync",
            ReadDurability::Os => "os",
        };
        writeln!(out, "audit.durability = {durability}")?;
        if let Some(file) = &audit.json_file {
            path(out, "audit.json_file", file)?;
        }
        writeln!(out, "audit.queue = {}", audit.queue)?;
        writeln!(out, "audit.reserve_mib = {}", audit.reserve_bytes / (1024 * 1024))?;
        let interval = audit.anchor_interval.map_or(0, |interval| interval.as_secs());
        writeln!(out, "audit.anchor_interval_s = {interval}")?;
        if let Some(head) = audit.accept_anchor {
            writeln!(out, "audit.accept_anchor = {head}")?;
        }
        writeln!(out, "seal.unseal_timeout_s = {}", seal.unseal_timeout.as_secs())?;
        writeln!(out, "limits.max_connections = {}", limits.max_connections)?;
        writeln!(out, "limits.max_concurrent_streams = {}", limits.max_concurrent_streams)?;
        writeln!(out, "limits.max_message_bytes = {}", limits.max_message_bytes)?;
        writeln!(out, "limits.max_header_bytes = {}", limits.max_header_bytes)?;
        writeln!(out, "limits.handshake_concurrency = {}", limits.handshake_concurrency)?;
        writeln!(out, "limits.handshake_timeout_ms = {}", limits.handshake_timeout.as_millis())?;
        writeln!(out, "limits.request_timeout_ms = {}", limits.request_timeout.as_millis())?;
        writeln!(out, "limits.drain_timeout_ms = {}", limits.drain_timeout.as_millis())?;
        match metrics.listen {
            Some(address) => writeln!(out, "metrics.listen = {address}")?,
            None => writeln!(out, "metrics.listen = (off)")?,
        }
        writeln!(out, "log.level = {}", log.level.as_str().to_lowercase())?;
        let format = if log.format == LogFormat::Json { "json" } else { "text" };
        writeln!(out, "log.format = {format}")
    }
}

fn token(out: &mut fmt::Formatter<'_>, section: &str, hsm: &HsmConfig) -> fmt::Result {
    path(out, &format!("{section}.module"), &hsm.module)?;
    if let Some(digest) = hsm.module_sha256 {
        writeln!(out, "{section}.module_sha256 = {}", data_encoding::HEXLOWER.encode(&digest))?;
    }
    writeln!(out, "{section}.token_label = {}", hsm.token_label.escape_debug())?;
    if let Some(serial) = &hsm.token_serial {
        writeln!(out, "{section}.token_serial = {}", serial.escape_debug())?;
    }
    writeln!(out, "{section}.mechanism = {}", hsm.mechanism.word())?;
    if let Some(number) = hsm.gcm_mechanism {
        writeln!(out, "{section}.gcm_mechanism = {number:#x}")?;
    }
    if let Some(serial) = &hsm.clone_of {
        writeln!(out, "{section}.clone_of = {}", serial.escape_debug())?;
    }
    writeln!(out, "{section}.sessions = {}", hsm.sessions)?;
    writeln!(out, "{section}.deadline_ms = {}", hsm.deadline.as_millis())?;
    for (name, _) in &hsm.env {
        writeln!(out, "{section}.env.{} = (set)", name.escape_debug())?;
    }
    Ok(())
}

fn path(out: &mut fmt::Formatter<'_>, key: &str, path: &Path) -> fmt::Result {
    writeln!(out, "{key} = {}", path.display().to_string().escape_debug())
}
