//! What the story plays on: a private directory with a token, a CA and a configuration, the server's process, and the
//! command-line client. Invariant: dropping the stage ends the processes and removes the directory.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use keystead_client::{Builder, Client};
use keystead_hsm::testing::SoftToken;
use keystead_tests::{Identity, Pki};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// The SPIFFE id of the operator.
pub(crate) const OPERATOR: &str = "spiffe://demo.keystead/operator/alice";
/// Longer than any step takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(10);

/// The stage.
pub(crate) struct Stage {
    // Before the directory: the process must end before its files go.
    server: Option<Running>,
    token: SoftToken,
    pki: Pki,
    said: Arc<Mutex<String>>,
    dir: TempDir,
}

struct Running {
    child: Child,
    address: SocketAddr,
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Both outputs, as a terminal would show them.
    pub(crate) fn shown(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Stage {
    /// Makes directory, token, CA and configuration.
    pub(crate) fn set() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("keystead-demo-").tempdir()?;
        let softhsm = dir.path().join("softhsm");
        std::fs::DirBuilder::new().mode(0o700).create(&softhsm)?;
        let token = SoftToken::create(&softhsm)?;
        let pki = Pki::create(&dir.path().join("tls"));
        let stage = Self { server: None, token, pki, said: Arc::default(), dir };
        std::fs::write(stage.path("keystead.toml"), stage.configuration())?;
        Ok(stage)
    }

    fn configuration(&self) -> String {
        let env =
            self.token.env().iter().map(|(name, value)| format!("{name} = {value:?}")).collect::<Vec<_>>();
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = \"data\"\n\n\
             [tls]\ncert_file = \"tls/server.pem\"\nkey_file = \"tls/server.key\"\nclient_ca_file = \"tls/ca.pem\"\n\n\
             [[operators]]\nname = \"alice\"\nspiffe = \"{OPERATOR}\"\n\n\
             [hsm]\nmodule = {:?}\ntoken_label = {:?}\nenv = {{ {} }}\n",
            self.token.module,
            self.token.label,
            env.join(", "),
        )
    }

    /// A path in the private directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn token(&self) -> &SoftToken {
        &self.token
    }

    pub(crate) fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Starts the server and waits until it listens.
    pub(crate) async fn start(&mut self) -> Result<SocketAddr> {
        let mut child = Command::new(keystead_tests::server())
            .arg("--config")
            .arg(self.path("keystead.toml"))
            .current_dir(self.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start keystead-server")?;
        if let Some(stderr) = child.stderr.take() {
            let said = Arc::clone(&self.said);
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    // Writing to a String cannot fail.
                    let _ = writeln!(said, "{line}");
                }
            });
        }
        // Taken over first, so that a server that never listens is ended all the same.
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let running = self.server.insert(Running { child, address: unknown });
        let until = Instant::now() + PATIENCE;
        running.address = loop {
            if let Some(address) = listening(&self.said) {
                break address;
            }
            if let Some(status) = running.child.try_wait()? {
                bail!("the server ended before it listened: {status}");
            }
            ensure!(Instant::now() < until, "the server does not listen");
            tokio::time::sleep(ASK_AGAIN).await;
        };
        Ok(running.address)
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        Ok(self.server.as_ref().context("the server does not run")?.address)
    }

    /// The server's process id.
    pub(crate) fn server_id(&self) -> Result<u32> {
        Ok(self.server.as_ref().context("the server does not run")?.child.id())
    }

    /// Everything that the server wrote to standard error.
    pub(crate) fn server_log(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the server to end, as a service manager would, and waits until it did.
    pub(crate) async fn stop(&mut self) -> Result<ExitStatus> {
        let mut running = self.server.take().context("the server does not run")?;
        let id = i32::try_from(running.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.context("the server's id is no process id")?, Signal::TERM)?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = running.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= until {
                self.server = Some(running);
                bail!("the server does not end");
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Waits until a process is gone.
    pub(crate) async fn gone(&self, process: u32) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while Path::new("/proc").join(process.to_string()).exists() {
            ensure!(Instant::now() < until, "process {process} is left running");
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(())
    }

    /// Runs the CLI as somebody with this certificate, in the private directory.
    pub(crate) fn cli(&self, caller: &Identity, arguments: &[&str], stdin: &str) -> Result<Ran> {
        let mut command = self.command(arguments);
        command.env("KEYSTEAD_ADDR", format!("https://localhost:{}", self.address()?.port()));
        command.env("KEYSTEAD_CACERT", self.pki.ca());
        command.env("KEYSTEAD_CERT", &caller.cert).env("KEYSTEAD_KEY", &caller.key);
        ran(&mut command, stdin)
    }

    /// Runs the CLI on the server's local socket, without a certificate.
    pub(crate) fn local_cli(&self, arguments: &[&str], stdin: &str) -> Result<Ran> {
        let socket = format!("unix://{}", self.path("data/keystead.sock").display());
        ran(self.command(arguments).env("KEYSTEAD_ADDR", socket), stdin)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(keystead_tests::cli());
        command.args(arguments).current_dir(self.dir()).env_clear();
        command
    }

    /// Begins a client that trusts the CA.
    pub(crate) fn client(&self) -> Result<Builder> {
        let address = format!("https://localhost:{}", self.address()?.port());
        Ok(Client::builder().addr(address).ca_cert_file(self.pki.ca()))
    }

    /// The TLS version that the server agrees on with a caller who offers all that there are.
    pub(crate) async fn tls_version(&self) -> Result<ProtocolVersion> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.pki.ca())?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = tokio::net::TcpStream::connect(self.address()?).await?;
        let tls =
            TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, tcp).await?;
        tls.get_ref().1.protocol_version().context("the handshake agreed on no version")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(running) = &mut self.server {
            // It may have ended by itself; its HSM process ends with it.
            drop(running.child.kill());
            drop(running.child.wait());
        }
    }
}

/// The address in the server's log line.
fn listening(said: &Mutex<String>) -> Option<SocketAddr> {
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    let line = said.lines().find(|line| line.contains("listening;"))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("address="))?.parse().ok()
}

fn ran(command: &mut Command, stdin: &str) -> Result<Ran> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start the keystead command")?;
    if let Some(mut pipe) = child.stdin.take() {
        match pipe.write_all(stdin.as_bytes()) {
            // A command that needs no input may end without reading it.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => return Err(error.into()),
            _ => {}
        }
    }
    let output = child.wait_with_output()?;
    Ok(Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8(output.stderr)?,
    })
}
