//! Where a vault listens: `https://host:port` or `unix:///path`.
//!
//! Parsing is strict: one scheme each, an explicit port, no user, path, query or fragment that would be ignored.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a vault listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TLS over TCP.
    Tls {
        /// A DNS name or an IP address (an IPv6 one without brackets), checked against the server's certificate.
        host: String,
        /// The port.
        port: u16,
    },
    /// The server's local socket.
    Unix(PathBuf),
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Neither `https://` nor `unix:///`.
    #[error("an address begins with https:// or unix:///; there is no connection without TLS")]
    Scheme,
    /// `unix://` without an absolute path.
    #[error("the path of a unix address is absolute, as in unix:///run/keystead/local.sock")]
    RelativePath,
    /// No host.
    #[error("the host is missing, as in https://vault.internal:8200")]
    MissingHost,
    /// No port, or not a port.
    #[error("the port is missing or no number from 1 to 65535, as in https://vault.internal:8200")]
    Port,
    /// Something that would have no meaning.
    #[error("{found:?} has no place in an address: only scheme, host and port")]
    Unexpected {
        /// The character that begins it.
        found: char,
    },
}

impl Address {
    /// The host and port as a TCP dialer wants them, or `None` for a socket.
    pub(crate) fn authority(&self) -> Option<String> {
        match self {
            Self::Tls { host, port } if host.contains(':') => Some(format!("[{host}]:{port}")),
            Self::Tls { host, port } => Some(format!("{host}:{port}")),
            Self::Unix(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.len() > 1 && path.starts_with('/') {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(AddressError::RelativePath)
            };
        }
        let rest = text.strip_prefix("https://").ok_or(AddressError::Scheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if let Some(found) =
            rest.chars().find(|c| matches!(c, '/' | '?' | '#' | '@' | '%') || !c.is_ascii_graphic())
        {
            return Err(AddressError::Unexpected { found });
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once("]:").ok_or(AddressError::Port)?,
            None => rest.split_once(':').ok_or(AddressError::Port)?,
        };
        if host.is_empty() {
            return Err(AddressError::MissingHost);
        }
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AddressError::Port);
        }
        match port.parse() {
            Ok(port) if port > 0 => Ok(Self::Tls { host: host.to_owned(), port }),
            _ => Err(AddressError::Port),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.authority()) {
            (_, Some(authority)) => write!(f, "https://{authority}"),
            (Self::Unix(path), _) => write!(f, "unix://{}", path.display()),
            (Self::Tls { .. }, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_is_printed_alike() {
        for text in [
            "https://vault.internal:8200",
            "https://127.0.0.1:1",
            "https://[::1]:8200",
            "unix:///run/keystead/local.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        let slash: Address = "https://vault:8200/".parse().unwrap();
        assert_eq!(slash.to_string(), "https://vault:8200");
        assert_eq!("https://[::1]:82".parse(), Ok(Address::Tls { host: "::1".into(), port: 82 }));
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (text, why) in [
            ("http://vault:8200", AddressError::Scheme),
            ("vault:8200", AddressError::Scheme),
            ("", AddressError::Scheme),
            ("HTTPS://vault:8200", AddressError::Scheme),
            ("https://vault", AddressError::Port),
            ("https://vault:0", AddressError::Port),
            ("https://vault:65536", AddressError::Port),
            ("https://vault:+80", AddressError::Port),
            ("https://vault:8200:1", AddressError::Port),
            ("https://[::1]", AddressError::Port),
            ("https://:8200", AddressError::MissingHost),
            ("https://user@vault:8200", AddressError::Unexpected { found: '@' }),
            ("https://vault:8200/v1", AddressError::Unexpected { found: '/' }),
            ("https://vault:8200?a", AddressError::Unexpected { found: '?' }),
            ("https://vau lt:8200", AddressError::Unexpected { found: ' ' }),
            ("unix://run/x.sock", AddressError::RelativePath),
            ("unix:///", AddressError::RelativePath),
            ("unix://", AddressError::RelativePath),
        ] {
            assert_eq!(text.parse::<Address>(), Err(why), "{text}");
        }
    }
}
