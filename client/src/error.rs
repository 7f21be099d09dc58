//! What can go wrong for a caller. Invariant: a variant says what to do next; no variant holds secret material.
//!
//! Errors of the server carry a [`Refusal`] with its machine-readable reason. A refused path and a missing one are one
//! variant on purpose: the server does not tell them apart.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::{Address, AddressError};

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client is set up wrongly; nothing was sent.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no working connection.
    #[error("cannot talk to {address}: {cause}")]
    Connect {
        /// Where to.
        address: Address,
        /// What stands in the way.
        cause: ConnectCause,
        /// What was seen below.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The policies refuse, or it does not exist; the server does not say which.
    #[error("{0}")]
    NotFoundOrDenied(Box<Refusal>),
    /// Another person has to approve first.
    #[error("{0}")]
    NeedsApproval(Box<Refusal>),
    /// The server does not know the caller.
    #[error("{0}")]
    Unauthenticated(Box<Refusal>),
    /// The vault is sealed: operators have to unseal it.
    #[error("{0}")]
    Sealed(Box<Refusal>),
    /// Something changed, or exists, against what the call expected.
    #[error("{0}")]
    Conflict(Box<Refusal>),
    /// The request breaks a rule; `fields` of the refusal names which.
    #[error("{0}")]
    InvalidArgument(Box<Refusal>),
    /// The vault is not in a state for this.
    #[error("{0}")]
    Precondition(Box<Refusal>),
    /// A limit was reached.
    #[error("{refusal}")]
    LimitExceeded {
        /// When to try again, if the server said.
        retry_after: Option<Duration>,
        /// What the server said.
        refusal: Box<Refusal>,
    },
    /// Something the server needs is away for a while.
    #[error("{refusal}")]
    Unavailable {
        /// When to try again, if the server said.
        retry_after: Option<Duration>,
        /// What the server said.
        refusal: Box<Refusal>,
    },
    /// There was no answer in time. A write may have happened.
    #[error("no answer within {after:?}")]
    DeadlineExceeded {
        /// The deadline of the call.
        after: Duration,
    },
    /// The server failed, or cannot tell whether it did what was asked.
    #[error("{0}")]
    Server(Box<Refusal>),
    /// The answer cannot be from a server that keeps to the protocol.
    #[error("the answer breaks the protocol: {what}")]
    MalformedAnswer {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The system has no random numbers for a request id.
    #[error("the system's random source failed")]
    Randomness,
}

/// Refusals that pass: other writers were first, other leases end, a target's clock settles what the server's is in doubt of, a
/// full disk gets room.
const PASSING: [&str; 5] = ["CONFLICT", "CONTENTION", "LEASE_LIMIT", "CLOCK_IN_DOUBT", "STORAGE_FULL"];

impl Error {
    /// Whether the same call may succeed later as it is: something is away, or failed, or somebody was first.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Unavailable { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Sealed(_)
            | Self::Server(_) => true,
            _ => PASSING.contains(&self.reason()),
        }
    }

    /// What the server said, if it was the server that said no.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::NotFoundOrDenied(refusal)
            | Self::NeedsApproval(refusal)
            | Self::Unauthenticated(refusal)
            | Self::Sealed(refusal)
            | Self::Conflict(refusal)
            | Self::InvalidArgument(refusal)
            | Self::Precondition(refusal)
            | Self::LimitExceeded { refusal, .. }
            | Self::Unavailable { refusal, .. }
            | Self::Server(refusal) => Some(refusal),
            Self::Config(_)
            | Self::Connect { .. }
            | Self::DeadlineExceeded { .. }
            | Self::MalformedAnswer { .. }
            | Self::Randomness => None,
        }
    }

    /// What stands behind it, the nearest first, without the layers of the transport, which say nothing. Empty where the
    /// [`ConnectCause`] says it all.
    pub fn causes(&self) -> Vec<&(dyn std::error::Error + 'static)> {
        if matches!(self, Self::Connect { cause, .. } if *cause != ConnectCause::NoConnection) {
            return Vec::new();
        }
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            if !error.is::<tonic::transport::Error>() && !error.is::<tonic::Status>() {
                causes.push(error);
            }
            next = error.source();
        }
        causes
    }

    /// The server's machine-readable reason, such as `SEALED`; empty if it gave none.
    pub fn reason(&self) -> &str {
        self.refusal().map_or("", |refusal| &refusal.reason)
    }
}

/// What the server said with its no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC status code.
    pub code: tonic::Code,
    /// Machine-readable and stable, such as `VERSION_MISMATCH`; empty if there is none.
    pub reason: String,
    /// For a person. It comes from another machine: escape it before it reaches a terminal.
    pub message: String,
    /// More about the reason, as names and values.
    pub metadata: BTreeMap<String, String>,
    /// The fields that break a rule.
    pub fields: Vec<FieldViolation>,
    /// What must hold first.
    pub preconditions: Vec<Precondition>,
    /// When to try again, if the server said.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.message.as_str(), self.reason.as_str()) {
            ("", "") => write!(f, "{}", self.code.description()),
            ("", reason) => f.write_str(reason),
            (message, _) => f.write_str(message),
        }
    }
}

/// One field that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field, as on the wire.
    pub field: String,
    /// The rule.
    pub description: String,
}

/// Something that must hold first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precondition {
    /// Of which kind, such as `SEALED`.
    pub kind: String,
    /// About what.
    pub subject: String,
    /// What must hold, or how to make it hold.
    pub description: String,
}

/// A secret has no field of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the secret has no field {field:?}{}", if *.is_data { ": its value is plain bytes" } else { "" })]
pub struct MissingField {
    /// The field asked for.
    pub field: String,
    /// Whether the value is opaque bytes, without any fields.
    pub is_data: bool,
}

/// What stands between the client and a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectCause {
    /// Nobody listens there, or the way there is broken.
    #[error("there is no connection")]
    NoConnection,
    /// The server's certificate does not verify against the CA.
    #[error("the server's certificate is not trusted ({why})")]
    ServerCertificate {
        /// What is wrong with it.
        why: String,
    },
    /// The server refuses the client's certificate.
    #[error("the server refuses the client certificate ({alert})")]
    ClientCertificate {
        /// The TLS alert.
        alert: String,
    },
    /// The server speaks no TLS 1.3 or no HTTP/2.
    #[error("the server does not speak TLS 1.3 with HTTP/2 ({why})")]
    Protocol {
        /// What it does instead.
        why: String,
    },
}

/// How the client is set up wrongly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No address.
    #[error("no address: set KEYSTEAD_ADDR, as in https://vault.internal:8200")]
    MissingAddress,
    /// A wrong address.
    #[error("the address {text:?} is wrong")]
    Address {
        /// The text.
        text: String,
        /// Why.
        #[source]
        source: AddressError,
    },
    /// The host is neither a DNS name nor an IP address.
    #[error("{host:?} is neither a DNS name nor an IP address")]
    Host {
        /// The host.
        host: String,
    },
    /// TLS without a CA.
    #[error(
        "no CA certificate: set KEYSTEAD_CACERT to the file with the CA that signs the server's certificate"
    )]
    MissingCa,
    /// Only one of certificate and key.
    #[error(
        "a client certificate needs its key and a key its certificate: set KEYSTEAD_CERT and KEYSTEAD_KEY"
    )]
    HalfIdentity,
    /// An environment variable that is not UTF-8.
    #[error("{name} is not UTF-8")]
    Environment {
        /// Its name.
        name: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {what} {}", .path.display())]
    Unreadable {
        /// What it should hold.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// PEM text where the name of a file belongs. It is not repeated: it may be a key.
    #[error("the {what} is given as PEM text where the name of a file belongs: give the file that holds it")]
    PemForFile {
        /// What the file should hold.
        what: &'static str,
    },
    /// A file or text is not the PEM that it should be.
    #[error("{origin} holds no {what} in PEM form")]
    NotPem {
        /// What it should hold.
        what: &'static str,
        /// The file, or "the text given".
        origin: String,
    },
    /// Certificate and key do not fit, or are of an unknown kind.
    #[error("the client certificate and its key cannot be used")]
    Identity(#[source] rustls::Error),
    /// A CA certificate that cannot be used.
    #[error("the CA certificate cannot be used")]
    Ca(#[source] rustls::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    /// A span that cannot be sent.
    #[error("{seconds} seconds is longer than any span may be")]
    Span {
        /// How long.
        seconds: u64,
    },
    /// A token that cannot be sent.
    #[error("the token holds characters that no token has")]
    Token,
}
