//! What can go wrong in a command, and the exit code for it. Invariant: no variant holds secret material.

use std::io;
use std::path::PathBuf;

use keystead_client::MissingField;
use keystead_crypto::CryptoError;
use keystead_crypto::share::ShareError;

/// Wrong use or a local failure.
const LOCAL: u8 = 1;
/// The server said no.
const REFUSED: u8 = 2;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{said}")]
    Usage { said: String },
    #[error(transparent)]
    Client(#[from] keystead_client::Error),
    #[error(
        "{given} is given without {lacking}: what {variable} says, if it is set, belongs to another certificate and is not taken; give {lacking} too"
    )]
    HalfIdentity { given: &'static str, lacking: &'static str, variable: &'static str },
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("cannot write to standard output")]
    Stdout(#[source] io::Error),
    #[error("cannot encode the answer as JSON")]
    Json(#[source] serde_json::Error),
    #[error("cannot read {what} from {}", .path.display())]
    Read { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "cannot read {what}: what {option} gives is no file's name; it is not repeated, since it may be the secret itself, which this shell's history and this machine's processes would then show. Give a file that holds it (./NAME for one of this directory), or - for standard input"
    )]
    NoFileName { what: &'static str, option: &'static str, source: io::Error },
    #[error("cannot read {what} from standard input")]
    Stdin { what: &'static str, source: io::Error },
    #[error("cannot ask for {what} on the terminal")]
    Terminal { what: String, source: io::Error },
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error(
        "{what} is empty, perhaps because what should have written it failed; nothing was stored. --allow-empty stores it so"
    )]
    EmptyValue { what: String },
    #[error("{option} {} is empty: it should hold {what}", .path.display())]
    EmptyFile { what: &'static str, option: &'static str, path: PathBuf },
    #[error(
        "{what} is needed: there is no terminal to ask on, and standard input is empty; name its file with {option}"
    )]
    NobodyToAsk { what: &'static str, option: &'static str },
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: &'static str, limit: usize },
    #[error(
        "{} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----); nothing was sent. Give the file with the CA that signs the database's certificate", .path.display()
    )]
    NoCertificate { path: PathBuf },
    #[error("{what} is not UTF-8 text")]
    NotText { what: &'static str },
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} exists already: it is never overwritten", .path.display())]
    FileExists { path: PathBuf },
    #[error(
        "{origin} is not a JSON object of names and texts, as in {{\"user\": \"shop\"}} (line {line}, column {column})"
    )]
    FieldsJson { origin: String, line: usize, column: usize },
    #[error("the field {name:?} is given twice")]
    FieldTwice { name: String },
    #[error("{option} names the variable {name} twice; only one of them could count")]
    VariableTwice { option: &'static str, name: String },
    #[error("no value: give --field, --from-file, --stdin, --fields-file or --data-file")]
    NoValue,
    #[error("standard input can be read only once; {first} reads it already, so {second} cannot")]
    StdinTwice { first: &'static str, second: &'static str },
    #[error("{path}: {source}")]
    Field { path: String, source: MissingField },
    #[error("{path} has named fields: say which one, as in {example}")]
    FieldNeeded { path: String, example: String },
    #[error("{path} has plain bytes, no fields: leave out #{field}")]
    NoFields { path: String, field: String },
    #[error("the value is not text: give --out-file, or send standard output to a file or program")]
    BinaryOnTerminal,
    #[error("the value of {name} holds a zero byte, which no environment variable can")]
    ZeroByte { name: String },
    #[error("{origin}:{line}: {}{why}", if .key.is_empty() { String::new() } else { format!("{key}: ") })]
    RoleFile { origin: String, line: usize, key: String, why: String },
    #[error("cannot write the role as TOML")]
    Toml(#[source] toml::ser::Error),
    #[error("{what} {name} is of a kind that this program does not know: use a newer one")]
    UnknownKind { what: &'static str, name: String },
    #[error("the login is of a kind that this program does not know: use a newer one")]
    UnknownCredential,
    #[error("a new one needs {}", .options.join(", "))]
    OptionsNeeded { options: Vec<&'static str> },
    #[error("{digest} is not accepted: `keystead target get` shows what is")]
    NotAccepted { digest: String },
    #[error("there is no address of {host}")]
    Host { host: String, source: io::Error },
    #[error("signals cannot be waited for, so that the lease might be left behind")]
    Signals(#[source] io::Error),
    #[error("interrupted; the command was not run")]
    Interrupted,
    #[error("cannot run {command:?}")]
    Exec { command: String, source: io::Error },
    #[error("there is no vault yet: make one with `keystead init`")]
    NotInitialized,
    #[error("{origin}: {source}; nothing was sent")]
    Share { origin: String, source: ShareError },
    #[error("the server's seal header cannot be trusted; no share was sent")]
    SealHeader(#[source] CryptoError),
    #[error("the server's status and its signed seal header name different {what}; no share was sent")]
    StatusDisagrees { what: &'static str },
    #[error("the threshold is at least 2 and at most the number of shares, which is at most 255")]
    Quorum,
    #[error(
        "say --recovery-recipient, how the token is backed up with --token-backup-statement, or --accept-total-loss: losing the token loses every secret"
    )]
    TokenLoss,
    #[error("the server made {found} shares instead of {asked}; they are printed above, do not use them")]
    SharesMade { asked: u32, found: usize },
    #[error("there is no unseal ceremony to cancel")]
    NoUnsealCeremony,
    #[error("no ceremony is under way")]
    NoCeremony,
    #[error("the vault is sealed, and no ceremony is under way: `keystead unseal` opens it")]
    NothingButUnsealing,
    #[error("the ceremony under way is {current}, not {asked}: look at it with `keystead ceremony show`")]
    OtherCeremony { asked: String, current: String },
    #[error("name the ceremony that you looked at with --ceremony: there is no terminal to ask on")]
    CeremonyNeeded,
    #[error(
        "this program does not know what the ceremony is for: approve with a newer one; nothing was sent"
    )]
    UnknownCeremony,
    #[error("the ceremony does not say what this program needs for checking shares; nothing was sent")]
    CeremonyParameters,
    #[error("there are {recipients} recipients for {shares} shares: give one for each share, or none")]
    Recipients { recipients: usize, shares: u32 },
    #[error("the two PINs are not the same; nothing was sent")]
    PinsDiffer,
    #[error("{name} would lose {lost}: name them again, or say --replace")]
    WouldDrop { name: String, lost: String },
    #[error("not confirmed; nothing was done")]
    NotConfirmed,
    #[error("say --yes: there is no terminal to ask on")]
    ConfirmationNeeded,
}

impl CliError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) if error.refusal().is_some() => REFUSED,
            _ => LOCAL,
        }
    }

    /// Whether whoever read standard output had enough, as `head` has.
    pub(crate) fn reader_left(&self) -> bool {
        matches!(self, Self::Stdout(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_failure_is_1_and_a_closed_pipe_is_none() {
        assert_eq!(CliError::NoValue.exit_code(), 1);
        assert_eq!(CliError::Client(keystead_client::Error::Randomness).exit_code(), 1);
        let deadline = keystead_client::Error::DeadlineExceeded { after: std::time::Duration::from_secs(1) };
        assert_eq!(CliError::Client(deadline).exit_code(), 1);
        assert!(CliError::Stdout(io::ErrorKind::BrokenPipe.into()).reader_left());
        assert!(!CliError::Stdout(io::ErrorKind::StorageFull.into()).reader_left());
    }

    #[test]
    fn a_no_of_the_server_is_2() {
        let refusal = keystead_client::Refusal {
            code: keystead_client::Code::PermissionDenied,
            reason: "DENIED".into(),
            message: "no".into(),
            metadata: std::collections::BTreeMap::new(),
            fields: Vec::new(),
            preconditions: Vec::new(),
            retry_after: None,
        };
        let error = keystead_client::Error::NotFoundOrDenied(Box::new(refusal));
        assert_eq!(CliError::Client(error).exit_code(), 2);
    }
}
