//! A PostgreSQL cluster of a test's own: TLS on a free port of the loopback, a superuser on a private socket.
//!
//! Invariant: it lives in a directory that goes with it; root's tests start it as an unprivileged user, since it refuses root.
//! One cluster is initialized for each user of the machine and version, and copied.

mod certificates;
mod template;

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::num::NonZeroU16;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use keystead_domain::rights::postgres::{PgName, PgNameError};
use keystead_domain::target::{Host, HostError, PostgresSettings};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::certificates::Authority;
pub use self::certificates::Certificate;

/// `nobody` of Debian and most others; it needs no entry in /etc/passwd.
const UNPRIVILEGED: u32 = 65534;
const READY: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// PostgreSQL is not installed.
    #[error(
        "PostgreSQL's programs are neither in /usr/lib/postgresql/*/bin nor on PATH; install version 15 or later"
    )]
    NotInstalled,
    /// A file could not be made.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program}: {said}")]
    Program {
        /// Which one.
        program: String,
        /// Its words.
        said: String,
    },
    /// No certificate could be made.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// It does not take connections.
    #[error("it does not take connections: {0}")]
    Connection(#[from] tokio_postgres::Error),
    /// TLS could not be set up on our side.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A name is no identifier.
    #[error("name {0}")]
    Name(#[from] PgNameError),
    /// A host is none.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// A running cluster.
pub struct PostgresServer {
    dir: TempDir,
    programs: PathBuf,
    port: u16,
    ca_pem: String,
    tls: bool,
    child: Option<Child>,
}

impl PostgresServer {
    /// Starts one with a good certificate for `localhost`.
    pub async fn start() -> Result<Self, ServerError> {
        Self::start_with(Certificate::Good).await
    }

    /// Starts one with this certificate.
    pub async fn start_with(certificate: Certificate) -> Result<Self, ServerError> {
        let programs = programs()?;
        let template = template::ready(&programs)?;
        let dir = tempfile::Builder::new().prefix("ks-pg-").tempdir().map_err(in_file(Path::new("/tmp")))?;
        let data = dir.path().join("data");
        run(Command::new("cp").arg("-a").arg("--reflink=auto").arg(&template).arg(&data))?;
        let authority = Authority::create()?;
        let issued = authority.issue(certificate)?;
        for (name, text) in [("server.pem", &issued.certificate), ("server.key", &issued.key)] {
            let path = data.join(name);
            fs::write(&path, text).map_err(in_file(&path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(in_file(&path))?;
            give(&path)?;
        }
        give(dir.path())?;
        let tls = certificate != Certificate::None;
        let mut server = Self { dir, programs, port: 0, ca_pem: authority.pem(), tls, child: None };
        // Somebody may take the free port first.
        for last in [false, false, true] {
            server.port = free_port()?;
            match server.start_again().await {
                Err(_) if !last => server.stop(),
                done => return done.map(|()| server),
            }
        }
        Err(ServerError::NotInstalled)
    }

    /// Starts it, after [`Self::stop`], on the same port.
    pub async fn start_again(&mut self) -> Result<(), ServerError> {
        let data = self.dir.path().join("data");
        let log = self.dir.path().join("log");
        let output = File::options().create(true).append(true).open(&log).map_err(in_file(&log))?;
        let mut command = Command::new(self.programs.join("postgres"));
        command.arg("-D").arg(&data).arg("-k").arg(self.dir.path()).arg("-p").arg(self.port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "max_connections=100",
            "shared_buffers=16MB",
            "ssl_cert_file=server.pem",
            "ssl_key_file=server.key",
            "logging_collector=off",
            "log_statement=all",
            if self.tls { "ssl=on" } else { "ssl=off" },
        ] {
            command.arg("-c").arg(setting);
        }
        command.env_clear().env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        unprivileged(&mut command);
        self.child = Some(command.spawn().map_err(in_file(&self.programs))?);
        let waiting = async {
            loop {
                match self.superuser("postgres").await {
                    Ok(_) => return Ok(()),
                    Err(_) if !self.ended() => tokio::time::sleep(STEP).await,
                    Err(_) => return Err(self.words()),
                }
            }
        };
        match tokio::time::timeout(READY, waiting).await {
            Ok(done) => done,
            Err(_) => Err(self.words()),
        }
    }

    /// Ends it at once, as a crash would.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                // Gone already is what is wanted.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
            }
            let _ = child.wait();
        }
    }

    /// The superuser, over the private socket.
    pub async fn superuser(&self, database: &str) -> Result<Client, ServerError> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir.path()).port(self.port).user("postgres").dbname(database);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(client)
    }

    /// A login as a service makes it: over TLS, by password.
    pub async fn login(&self, user: &str, password: &[u8], database: &str) -> Result<Client, ServerError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()).flatten() {
            roots.add(certificate)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut config = tokio_postgres::Config::new();
        config.host("localhost").hostaddr(Ipv4Addr::LOCALHOST.into()).port(self.port);
        config.user(user).password(password).dbname(database).ssl_mode(SslMode::Require);
        let (client, connection) = config.connect(MakeRustlsConnect::new(tls)).await?;
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Where its superuser comes in without a password: the directory of its socket, and the port.
    pub fn superusers_door(&self) -> (&Path, u16) {
        (self.dir.path(), self.port)
    }

    /// How it demands passwords over the network from now on: `scram-sha-256`, `password`, `md5` or `trust`.
    pub async fn take_passwords_by(&self, method: &str) -> Result<(), ServerError> {
        let path = self.dir.path().join("data/pg_hba.conf");
        let text = format!("local all all trust\nhostssl all all 127.0.0.1/32 {method}\n");
        fs::write(&path, text).map_err(in_file(&path))?;
        self.superuser("postgres").await?.batch_execute("SELECT pg_reload_conf(), pg_sleep(0.3)").await?;
        Ok(())
    }

    /// How a target reaches it.
    pub fn settings(&self, database: &str, admin: &str) -> Result<PostgresSettings, ServerError> {
        Ok(PostgresSettings {
            host: Host::parse("localhost")?,
            port: NonZeroU16::new(self.port).unwrap_or(NonZeroU16::MIN),
            database: PgName::parse(database)?,
            ca_pem: self.ca_pem.clone(),
            server_name: None,
            admin: PgName::parse(admin)?,
            connections: 8,
        })
    }

    /// Everything that it logged, each statement among it.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    fn words(&self) -> ServerError {
        ServerError::Program { program: "postgres".to_owned(), said: self.log() }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where the newest installed version has its programs: Debian keeps them off PATH, others do not. Another version is
/// tried by naming its directory in `KEYSTEAD_TEST_POSTGRES`.
fn programs() -> Result<PathBuf, ServerError> {
    if let Some(named) = std::env::var_os("KEYSTEAD_TEST_POSTGRES") {
        return Ok(named.into());
    }
    let Ok(entries) = fs::read_dir("/usr/lib/postgresql") else {
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        let has_both = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
        return std::env::split_paths(&on_path).find(has_both).ok_or(ServerError::NotInstalled);
    };
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| {
        version(path).is_some_and(|version| version >= 15) && path.join("bin/initdb").exists()
    });
    found.sort_by_key(|path| version(path));
    found.pop().map(|path| path.join("bin")).ok_or(ServerError::NotInstalled)
}

fn free_port() -> Result<u16, ServerError> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(port.map_err(in_file(Path::new("a free port")))?.port())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn unprivileged(command: &mut Command) {
    if is_root() {
        command.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
    }
}

/// Makes a file the server's.
fn give(path: &Path) -> Result<(), ServerError> {
    match is_root() {
        true => chown(path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).map_err(in_file(path)),
        false => Ok(()),
    }
}

/// Runs a program to its end, and says what it printed.
fn run(command: &mut Command) -> Result<String, ServerError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output().map_err(in_file(Path::new(&program)))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    Err(ServerError::Program { program, said: String::from_utf8_lossy(&done.stderr).into_owned() })
}

fn in_file(path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    |source| ServerError::File { path: path.to_owned(), source }
}
