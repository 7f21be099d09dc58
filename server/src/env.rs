//! Every environment variable of the server, in one place. Invariant: no other file names one or reads the process's
//! environment; the rest is handed an [`Environment`], so that tests pass their own.
//!
//! Absent on purpose: `RUST_LOG` (a dependency at trace level prints headers, and headers hold tokens).

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Overrides one configuration key: `KEYSTEAD_SERVER__LIMITS__MAX_CONNECTIONS` sets `limits.max_connections`.
pub const OVERRIDE_PREFIX: &str = "KEYSTEAD_SERVER__";
/// Where systemd wants to be told that the server is ready or stopping.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";
/// Where systemd puts the credentials of the service.
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// Names the configuration of SoftHSM; passed on to the HSM's process by `--dev`.
pub const SOFTHSM2_CONF: &str = "SOFTHSM2_CONF";

/// Read by the CLI and the client, printed by `--dev`: the server's address.
pub const CLIENT_ADDR: &str = "KEYSTEAD_ADDR";
/// Read by the CLI and the client, printed by `--dev`: the CA of the server's certificate.
pub const CLIENT_CACERT: &str = "KEYSTEAD_CACERT";
/// Read by the CLI and the client, printed by `--dev`: the caller's certificate.
pub const CLIENT_CERT: &str = "KEYSTEAD_CERT";
/// Read by the CLI and the client, printed by `--dev`: the key of the caller's certificate.
pub const CLIENT_KEY: &str = "KEYSTEAD_KEY";

/// The variables that the server looks at, taken once at start.
#[derive(Clone, Default)]
pub struct Environment {
    overrides: Vec<(String, OsString)>,
    notify_socket: Option<PathBuf>,
}

/// The variable that the configuration names for a PIN. Read when it is needed, and kept nowhere.
pub fn secret_variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The directory of systemd's credentials.
pub fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os(CREDENTIALS_DIRECTORY).map(PathBuf::from)
}

/// Arms the fail points that the variable `FAILPOINTS` names, for as long as the process lives.
#[cfg(feature = "failpoints")]
pub fn arm_fail_points() {
    std::mem::forget(fail::FailScenario::setup());
}

impl Environment {
    /// Takes what concerns the server out of the process's environment.
    pub fn from_process() -> Self {
        Self::from_variables(std::env::vars_os())
    }

    /// An environment made of the given variables; others are ignored.
    pub fn from_variables(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(OVERRIDE_PREFIX) {
                environment.overrides.push((name.to_owned(), value));
            } else if name == NOTIFY_SOCKET && !value.is_empty() {
                environment.notify_socket = Some(PathBuf::from(value));
            }
        }
        environment.overrides.sort();
        environment
    }

    /// The overrides, in order of their names.
    pub fn overrides(&self) -> &[(String, OsString)] {
        &self.overrides
    }

    /// The socket of systemd's notify protocol, if one is set.
    pub fn notify_socket(&self) -> Option<&PathBuf> {
        self.notify_socket.as_ref()
    }
}

/// Names only: a value may hold what must not be printed.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.overrides.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Environment").field("overrides", &names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_only_what_concerns_the_server() {
        let environment = Environment::from_variables(
            [
                ("HOME", "/root"),
                ("KEYSTEAD_SERVER__LOG__LEVEL", "debug"),
                ("KEYSTEAD_ADDR", "x"),
                ("NOTIFY_SOCKET", "/run/n"),
            ]
            .map(|(name, value)| (name.into(), value.into())),
        );
        assert_eq!(environment.overrides().len(), 1);
        assert_eq!(environment.notify_socket(), Some(&PathBuf::from("/run/n")));
    }

    #[test]
    fn debug_shows_no_value() {
        let environment = Environment::from_variables([(
            OsString::from("KEYSTEAD_SERVER__HSM__TOKEN_LABEL"),
            OsString::from("canary"),
        )]);
        assert!(!format!("{environment:?}").contains("canary"));
    }
}
