//! Log output on standard error. Invariant: dependencies speak at `warn` whatever level is set; a panic is logged by
//! place, without its message, which may quote what was being handled.
//!
//! Absent on purpose: log files; the service manager keeps what standard error says.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{LogConfig, LogFormat};

/// Every target of ours begins so.
const OWN: &str = "keystead";

/// Why logs cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Something else in the process took the logs already.
    #[error("logging is set up already")]
    Taken(#[source] tracing_subscriber::util::TryInitError),
    /// The level cannot be changed any more.
    #[error("the log level cannot be changed")]
    Level(#[source] reload::Error),
}

/// Changes the level while running.
#[derive(Debug, Clone)]
pub struct LogHandle(reload::Handle<Targets, Registry>);

impl LogHandle {
    /// Shows Keystead's own messages from this severity on.
    pub fn set_level(&self, level: Level) -> Result<(), TelemetryError> {
        self.0.reload(targets(level)).map_err(TelemetryError::Level)
    }
}

/// Sends logs to standard error. Once a process.
pub fn init(config: LogConfig) -> Result<LogHandle, TelemetryError> {
    let (filter, handle) = reload::Layer::new(targets(config.level));
    let output = match config.format {
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
        LogFormat::Text => {
            fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).boxed()
        }
    };
    tracing_subscriber::registry()
        .with(output.with_filter(filter))
        .try_init()
        .map_err(TelemetryError::Taken)?;
    Ok(LogHandle(handle))
}

fn targets(level: Level) -> Targets {
    let dependencies = LevelFilter::from_level(level.min(Level::WARN));
    Targets::new().with_default(dependencies).with_target(OWN, level)
}

/// Logs panics by place only.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a panic was caught; its message is withheld");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_never_speak_below_warn() {
        let filter = targets(Level::TRACE);
        assert!(filter.would_enable("keystead_server::grpc", &Level::TRACE));
        assert!(filter.would_enable("h2::codec", &Level::WARN));
        assert!(!filter.would_enable("h2::codec", &Level::INFO));
        assert!(!targets(Level::ERROR).would_enable("h2::codec", &Level::WARN));
    }
}
