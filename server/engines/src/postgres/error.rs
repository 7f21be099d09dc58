//! What goes wrong, told by SQLSTATE; the one place in which a server's words are let through.
//!
//! Invariant: nothing here can hold a password, a verifier or a connection string. Details, hints and contexts are never
//! kept, and the message only of those classes that quote no statement and no value.

use std::error::Error as _;
use std::io;

use keystead_core::engine::{EngineError, Excess};
use tokio_postgres::error::DbError;

/// Why a call failed, before it is known to be of which target and role.
#[derive(Debug)]
pub(super) enum Failure {
    Unavailable(String),
    /// Another session is in the way: of the object, or of the login itself. The server is well.
    Locked(String),
    Refused(String),
    Admin(String),
    Identity(String),
    Ca(String),
    Definition(String),
    Excess(Vec<Excess>),
    /// The admin's password is not the one.
    Password,
}

const SET_UP: &str =
    "if a set-up function is missing, older, or not this login's to call, run the set-up statements again";
const CEILING: &str = "the vault gives only what it was granted WITH GRANT OPTION; `keystead target setup-sql` with \
     --role-file prints the statement";

impl Failure {
    /// With the names that the port wants. `role` stands for itself where none is involved.
    pub(super) fn of(self, target: &str, role: &str) -> EngineError {
        let target = target.to_owned();
        match self {
            Self::Unavailable(what) | Self::Locked(what) => EngineError::Unavailable { target, what },
            Self::Refused(what) => EngineError::Refused { target, what },
            Self::Admin(what) => EngineError::Admin { target, what },
            Self::Password => EngineError::admin_password(target),
            Self::Identity(what) => EngineError::Identity { target, what },
            Self::Ca(what) => EngineError::Ca { target, what },
            Self::Definition(what) => EngineError::Definition { target, role: role.to_owned(), what },
            Self::Excess(excess) => EngineError::Excess { target, role: role.to_owned(), excess },
        }
    }

    /// Of an attempt to connect.
    pub(super) fn from_connecting(error: tokio_postgres::Error) -> Self {
        if let Some(said) = error.as_db_error() {
            return match Self::from_server(said) {
                // Closed for maintenance: ALLOW_CONNECTIONS false.
                Self::Refused(text) if said.code().code() == "55000" => Self::Unavailable(text),
                failure => failure,
            };
        }
        let Some(source) = error.source() else {
            return Self::Unavailable("the connection ended".to_owned());
        };
        if let Some(io) = source.downcast_ref::<io::Error>() {
            let tls = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            return match tls {
                Some(tls) => Self::Identity(tls.to_string()),
                None => Self::Unavailable(io.to_string()),
            };
        }
        // Fixed texts of the driver: how the server wanted the password.
        Self::Admin(format!(
            "{error}: {source}; the vault proves its password by SCRAM bound to TLS and by nothing else \
             (pg_hba.conf: hostssl … scram-sha-256)"
        ))
    }

    /// Of what the server said.
    pub(super) fn from_server(said: &DbError) -> Self {
        let code = said.code().code();
        let text = format!("{code}: {}", words(code, said.message()));
        match code {
            "28P01" => Self::Password,
            "28000" => Self::Admin(text),
            "42501" | "42883" | "3F000" => Self::Admin(format!("{text}; {SET_UP}")),
            "KS002" => Self::Definition(text),
            // XX000: what was to be changed was changed by somebody else; the server says it in its own language.
            "KS003" | "55P03" | "57014" | "40P01" | "XX000" => Self::Locked(text),
            _ => match code.get(..2) {
                // Connections, transactions that collide, resources, and an operator who stops the server.
                Some("08" | "40" | "53" | "57" | "58") => Self::Unavailable(text),
                _ => Self::Refused(text),
            },
        }
    }

    /// Of a session of another login than the admin's: what is said of it is not about the set-up.
    pub(super) fn of_login(self, login: &str) -> Self {
        match self {
            Self::Admin(what) => {
                let said =
                    what.strip_suffix(SET_UP).map_or(what.as_str(), |said| said.trim_end_matches("; "));
                Self::Refused(format!("login {login}: {said}"))
            }
            Self::Refused(what) => Self::Refused(format!("login {login}: {what}")),
            other => other,
        }
    }

    /// Of what is done to one login: a session that is in its way says nothing of the server, and others are not held up
    /// by it.
    pub(super) fn of_one_login(self) -> Self {
        match self {
            Self::Locked(what) => Self::Refused(what),
            other => other,
        }
    }

    /// Of a grant: what lacks is the right to give it, or the object.
    pub(super) fn in_definition(self, object: &str) -> Self {
        match self {
            Self::Admin(what) if what.starts_with("42501") => {
                let said = what.strip_suffix(SET_UP).unwrap_or(&what);
                Self::Definition(format!("{object}: {said}{CEILING}"))
            }
            Self::Admin(what) | Self::Refused(what) | Self::Definition(what) => {
                Self::Definition(format!("{object}: {what}"))
            }
            other => other,
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(said) => Self::from_server(said),
            None if error.is_closed() => Self::Unavailable("the connection ended".to_owned()),
            None => match error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
                Some(io) => Self::Unavailable(io.to_string()),
                // The driver's own kinds have fixed texts; their sources may not.
                None => Self::Refused(error.to_string()),
            },
        }
    }
}

/// A message, where its class quotes neither statement nor value.
fn words(code: &str, message: &str) -> String {
    let quotes =
        matches!(code, "42601" | "42602" | "42622") || matches!(code.get(..2), Some("22" | "XX" | "F0"));
    if quotes || message.contains("SCRAM-SHA-256") {
        return "its message is withheld, since it may quote the statement".to_owned();
    }
    message.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_may_quote_a_statement_are_withheld() {
        let canary = "SCRAM-SHA-256$4096:c2FsdA==$a:b";
        for code in ["42601", "22P02", "XX000", "42501", "KS001"] {
            assert!(
                !words(code, &format!("syntax error at or near \"{canary}\"")).contains("SCRAM"),
                "{code}"
            );
        }
        assert!(words("22007", "invalid input syntax: \"kstest\"").starts_with("its message is withheld"));
        assert_eq!(
            words("42501", "permission denied for table orders"),
            "permission denied for table orders"
        );
    }
}
