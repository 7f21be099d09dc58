//! A command that runs with a login, and the lease while it does.
//!
//! Invariant: however the command ends, its lease, if it has one, is marked for revocation; if that fails, somebody is told. The password is in the command's
//! environment and nowhere else. Absent: handing another password to a command that runs; where a renewal brings one, the command
//! is told of nothing, and its user is.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use keystead_client::{Builder, Credential, Error, Issued, Lease, Leases, PostgresCredential};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::Instant;

use super::postgres;
use crate::error::CliError;
use crate::output::Output;

/// What libpq would take instead of, or beside, what is given here.
const FOREIGN: [&str; 26] = [
    // Another server, or another way to find one.
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PGHOSTADDR",
    "PGTARGETSESSIONATTRS",
    "PGLOADBALANCEHOSTS",
    // Another way to show who one is, or to have it shown.
    "PGPASSFILE",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGCHANNELBINDING",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLCERTMODE",
    "PGKRBSRVNAME",
    "PGGSSLIB",
    "PGGSSDELEGATION",
    // Other TLS than the server was added with.
    "PGREQUIRESSL",
    "PGSSLNEGOTIATION",
    "PGSSLCOMPRESSION",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLSNI",
    "PGSSLMAXPROTOCOLVERSION",
    "PGMINPROTOCOLVERSION",
    "PGMAXPROTOCOLVERSION",
    // Settings of the session, a role to act as among them.
    "PGOPTIONS",
];
/// When this little is left, it is too late for another try.
const TOO_LATE: Duration = Duration::from_secs(1);

/// What was typed after `--exec`.
#[derive(Clone, Copy)]
pub(super) struct CommandLine<'a> {
    /// The program and its arguments.
    pub(super) words: &'a [OsString],
    /// Whether the program is to see what the vault is reached with.
    pub(super) keep_vault_env: bool,
}

/// Runs the command and ends with its exit code.
pub(super) async fn run(
    line: CommandLine<'_>,
    issued: Issued,
    renew: bool,
    mut signals: Signals,
    leases: &Leases,
    output: &Output,
) -> Result<ExitCode, CliError> {
    let Issued { lease, credential, .. } = issued;
    let ended = match postgres(&credential) {
        Ok(_) if signals.came().await => Err(CliError::Interrupted),
        Ok(login) => attended(line, login, &lease, renew, &mut signals, leases, output).await,
        Err(error) => Err(error),
    };
    // The password is wiped before anything else takes its time.
    drop(credential);
    let revoked = leases.revoke(&lease.id).await;
    match (ended, revoked) {
        (Ok(status), Ok(_)) => Ok(exit_code(status)),
        (Ok(status), Err(error)) if status.success() => {
            remark_left(&lease, output);
            Err(error.into())
        }
        (ended, Err(error)) => {
            output.remark(&format!("The lease could not be revoked: {error}"));
            remark_left(&lease, output);
            ended.map(exit_code)
        }
        (Err(error), Ok(_)) => Err(error),
    }
}

fn disinherit(command: &mut Command, keep_vault_env: bool) {
    for name in FOREIGN.into_iter().chain(Builder::VARIABLES.into_iter().filter(|_| !keep_vault_env)) {
        command.env_remove(name);
    }
}

pub(super) fn remark_left(lease: &Lease, output: &Output) {
    let ends = super::time(lease.expires);
    output.remark(&format!("Lease {} is still there, until {ends} or later if it was renewed.", lease.id));
}

async fn attended(
    line: CommandLine<'_>,
    login: &PostgresCredential,
    lease: &Lease,
    renew: bool,
    signals: &mut Signals,
    leases: &Leases,
    output: &Output,
) -> Result<ExitStatus, CliError> {
    let (mut child, _ca_file) = begin(line, login)?;
    let keeping = keep(lease, renew, leases, output);
    tokio::pin!(keeping);
    let mut kept = true;
    loop {
        tokio::select! {
            ended = attend(line, &mut child, signals) => return ended,
            () = &mut keeping, if kept => kept = false,
        }
    }
}

/// Runs the command with a login that is no lease's, and ends with its exit code.
pub(super) async fn run_static(
    line: CommandLine<'_>,
    credential: Credential,
    mut signals: Signals,
) -> Result<ExitCode, CliError> {
    if signals.came().await {
        return Err(CliError::Interrupted);
    }
    let (mut child, _ca_file) = begin(line, postgres(&credential)?)?;
    drop(credential);
    attend(line, &mut child, &mut signals).await.map(exit_code)
}

fn failed(line: CommandLine<'_>) -> impl Fn(io::Error) -> CliError {
    let command =
        line.words.first().map_or_else(Default::default, |word| word.to_string_lossy().into_owned());
    move |source| CliError::Exec { command: command.clone(), source }
}

/// Starts the command; the CA's file is to be kept while it runs.
fn begin(line: CommandLine<'_>, login: &PostgresCredential) -> Result<(Child, NamedTempFile), CliError> {
    let program = line.words.first().map_or(OsStr::new(""), OsString::as_os_str);
    let ca_file = private_file(&login.ca_pem)?;
    let mut command = Command::new(program);
    command.args(line.words.iter().skip(1));
    disinherit(&mut command, line.keep_vault_env);
    command.env("PGSSLROOTCERT", ca_file.path());
    for (name, value) in environment(login)? {
        command.env(name, value);
    }
    command.env("PGPASSWORD", OsStr::from_bytes(login.password.expose()));
    let child = command.spawn().map_err(failed(line))?;
    Ok((child, ca_file))
}

/// Waits for its end, and passes on what is sent to this program.
async fn attend(
    line: CommandLine<'_>,
    child: &mut Child,
    signals: &mut Signals,
) -> Result<ExitStatus, CliError> {
    loop {
        tokio::select! {
            ended = child.wait() => return ended.map_err(failed(line)),
            // The terminal sends these to the command as well.
            _ = signals.interrupt.recv() => {}
            _ = signals.quit.recv() => {}
            _ = signals.terminate.recv() => pass(child, Signal::TERM),
            _ = signals.hangup.recv() => pass(child, Signal::HUP),
        }
    }
}

/// Signals that would end this program and leave the lease behind.
pub(super) struct Signals {
    interrupt: unix::Signal,
    quit: unix::Signal,
    terminate: unix::Signal,
    hangup: unix::Signal,
}

impl Signals {
    /// Takes them from now on: before there is a lease.
    pub(super) fn take() -> Result<Self, CliError> {
        let of = |kind| unix::signal(kind).map_err(CliError::Signals);
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            quit: of(SignalKind::quit())?,
            terminate: of(SignalKind::terminate())?,
            hangup: of(SignalKind::hangup())?,
        })
    }

    /// Whether one came already.
    async fn came(&mut self) -> bool {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => true,
            _ = self.quit.recv() => true,
            _ = self.terminate.recv() => true,
            _ = self.hangup.recv() => true,
            () = std::future::ready(()) => false,
        }
    }
}

fn pass(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // One that has ended already needs no signal.
    let _sent = pid.map(|pid| kill_process(pid, signal));
}

/// Renews until it cannot go on.
async fn keep(lease: &Lease, renew: bool, leases: &Leases, output: &Output) {
    if !renew {
        return;
    }
    // Both are the server's times, so that a clock that is wrong here does not matter.
    let left = |from, until: Option<std::time::SystemTime>| {
        until.zip(from).and_then(|(until, from)| until.duration_since(from).ok()).unwrap_or_default()
    };
    let mut ends = Instant::now() + left(lease.issued, lease.expires);
    let mut expires = lease.expires;
    loop {
        let rest = ends.saturating_duration_since(Instant::now());
        if rest < TOO_LATE {
            output.remark("The lease is over: its login is being removed.");
            return;
        }
        tokio::time::sleep(rest.mul_f64(2.0 / 3.0)).await;
        match leases.renew(&lease.id, None).await {
            Ok(renewed) => {
                let gained = left(expires, renewed.lease.expires);
                if renewed.credential.is_some() {
                    output.remark(
                        "The lease was renewed with another password, which the command does not have.",
                    );
                }
                if gained.is_zero() {
                    return output.remark(&at_its_longest(lease));
                }
                (ends, expires) = (ends + gained, renewed.lease.expires);
            }
            Err(Error::Precondition(refusal)) if refusal.reason == "LEASE_AT_ITS_LONGEST" => {
                return output.remark(&at_its_longest(lease));
            }
            Err(error) if error.may_pass() => {}
            Err(error) => return output.remark(&format!("The lease cannot be renewed: {error}")),
        }
    }
}

fn at_its_longest(lease: &Lease) -> String {
    format!("The lease is not renewed any more: it ends at {} at the latest.", super::time(lease.max_expires))
}

/// A file of mode 0600 that goes when it is dropped.
fn private_file(text: &str) -> Result<NamedTempFile, CliError> {
    let unwritable = |source| CliError::Write { path: std::env::temp_dir(), source };
    let mut file =
        tempfile::Builder::new().prefix("keystead-").suffix(".pem").tempfile().map_err(unwritable)?;
    file.write_all(text.as_bytes()).map_err(unwritable)?;
    Ok(file)
}

/// All that is no secret, as libpq names it.
fn environment(login: &PostgresCredential) -> Result<Vec<(&'static str, String)>, CliError> {
    let mut variables = vec![
        ("PGPORT", login.port.to_string()),
        ("PGDATABASE", login.database.clone()),
        ("PGUSER", login.username.clone()),
        ("PGSSLMODE", "verify-full".to_owned()),
        // Encryption by Kerberos would be taken first, and knows nothing of the CA.
        ("PGGSSENCMODE", "disable".to_owned()),
    ];
    match login.server_name.as_ref().filter(|name| **name != login.host) {
        None => variables.push(("PGHOST", login.host.clone())),
        // libpq verifies PGHOST and connects to PGHOSTADDR, which takes addresses only.
        Some(name) => {
            variables.push(("PGHOST", name.clone()));
            variables.push(("PGHOSTADDR", address(&login.host, login.port)?.to_string()));
        }
    }
    if let Some((name, _)) = variables.iter().find(|(_, value)| value.contains('\0')) {
        return Err(CliError::ZeroByte { name: (*name).to_owned() });
    }
    Ok(variables)
}

fn address(host: &str, port: u16) -> Result<IpAddr, CliError> {
    let unknown = |source| CliError::Host { host: host.to_owned(), source };
    let none = || unknown(std::io::ErrorKind::NotFound.into());
    let mut found = (host, port).to_socket_addrs().map_err(unknown)?;
    found.next().map(|address| address.ip()).ok_or_else(none)
}

/// The command's own, or as shells have it for one that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    const KILLED: i32 = 128;
    let code = status.code().or_else(|| status.signal().map(|signal| KILLED.saturating_add(signal)));
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn login(host: &str, server_name: Option<&str>) -> PostgresCredential {
        PostgresCredential {
            host: host.into(),
            port: 5433,
            database: "shop".into(),
            username: "ks_1".into(),
            password: "canary".into(),
            ca_pem: "PEM".into(),
            server_name: server_name.map(str::to_owned),
        }
    }

    #[test]
    fn the_environment_verifies_the_server_and_has_no_secret_beside_the_password() {
        let of = |login: &PostgresCredential, name: &str| {
            let variables = environment(login).unwrap();
            assert!(!format!("{variables:?}").contains("canary"));
            variables.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
        };
        let plain = login("db.internal", None);
        assert_eq!(of(&plain, "PGHOST").unwrap(), "db.internal");
        assert_eq!(of(&plain, "PGHOSTADDR"), None);
        assert_eq!(of(&plain, "PGSSLMODE").unwrap(), "verify-full");
        assert_eq!(of(&login("db", Some("db")), "PGHOSTADDR"), None);
        let named = login("10.0.0.7", Some("db.internal"));
        assert_eq!(of(&named, "PGHOST").unwrap(), "db.internal");
        assert_eq!(of(&named, "PGHOSTADDR").unwrap(), "10.0.0.7");
        let zero = PostgresCredential { database: "a\0b".into(), ..login("db", None) };
        assert!(matches!(environment(&zero), Err(CliError::ZeroByte { name }) if name == "PGDATABASE"));
    }

    #[tokio::test]
    async fn nothing_that_would_lead_elsewhere_is_inherited() {
        let output = |keep_vault_env: Option<bool>| async move {
            let mut command = Command::new("env");
            let elsewhere =
                ["PGOPTIONS", "PGSSLCERT", "PGSSLKEY", "PGCHANNELBINDING", "PGREQUIREAUTH", "PGHOSTADDR"];
            for name in elsewhere {
                command.env(name, "foreign");
            }
            for name in Builder::VARIABLES {
                command.env(name, "the vault's");
            }
            command.env("PGAPPNAME", "kept");
            if let Some(keep_vault_env) = keep_vault_env {
                disinherit(&mut command, keep_vault_env);
            }
            let said = String::from_utf8(command.output().await.unwrap().stdout).unwrap();
            assert!(said.contains("PGAPPNAME=kept"), "{said}");
            (said.matches("=foreign").count(), said.matches("=the vault's").count())
        };
        assert_eq!(output(None).await, (6, 5));
        assert_eq!(output(Some(false)).await, (0, 0));
        assert_eq!(output(Some(true)).await, (0, 5));
    }

    #[test]
    fn the_ca_file_is_private_and_goes() {
        let file = private_file("PEM").unwrap();
        let path = file.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(&path).unwrap(), b"PEM");
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn an_exit_code_is_passed_on() {
        let coded = |raw| format!("{:?}", exit_code(ExitStatus::from_raw(raw)));
        assert_eq!(coded(7 << 8), format!("{:?}", ExitCode::from(7)));
        assert_eq!(coded(15), format!("{:?}", ExitCode::from(143)));
    }
}
