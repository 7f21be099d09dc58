//! A server inside the test's process.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystead_core::clock::{Clock, SystemClock};
use keystead_core::vault::Vault;
use keystead_server::config::Config;
use keystead_server::env::Environment;
use keystead_server::{Built, Server, StartError};
use keystead_storage::fault::{Faults, FaultyStorage};
use keystead_storage::{Storage, StorageError};
use keystead_storage_rocksdb::{Options, RocksStorage};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::process::ServerProcess;
use crate::site::Site;
use crate::{programs, until};

/// How far a vault is brought.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readiness {
    Uninitialized,
    Sealed,
    Unsealed,
}

type Edit = Box<dyn Fn(&mut Config) + Send + Sync>;

/// Makes a [`TestVault`].
pub struct TestVaultBuilder {
    readiness: Readiness,
    quorum: (u32, u32),
    clock: Arc<dyn Clock>,
    faults: Faults,
    edits: Vec<Edit>,
}

impl TestVaultBuilder {
    /// Leaves the store empty.
    #[must_use]
    pub fn uninitialized(mut self) -> Self {
        self.readiness = Readiness::Uninitialized;
        self
    }

    /// Initializes and leaves it sealed.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.readiness = Readiness::Sealed;
        self
    }

    /// `threshold` of `shares`; 2 of 3 if nothing else is said.
    #[must_use]
    pub fn quorum(mut self, threshold: u32, shares: u32) -> Self {
        self.quorum = (threshold, shares);
        self
    }

    /// The server's time. A manual clock should start near the machine's, by which TLS judges certificates.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// What goes wrong in the store.
    #[must_use]
    pub fn faults(mut self, faults: &Faults) -> Self {
        self.faults = faults.clone();
        self
    }

    /// Changes the configuration, at every start.
    #[must_use]
    pub fn config(mut self, edit: impl Fn(&mut Config) + Send + Sync + 'static) -> Self {
        self.edits.push(Box::new(edit));
        self
    }

    /// Starts the server and brings the vault as far as asked.
    pub async fn start(self) -> TestVault {
        let site = Site::create(self.quorum.0, self.quorum.1);
        let worker = site.dir().join("hsm-worker");
        // Under a name of its own: what is left running can be told from other tests' processes.
        std::os::unix::fs::symlink(programs::server(), &worker).unwrap();
        let (clock, faults, edits) = (self.clock, self.faults, self.edits);
        let mut vault = TestVault { site, clock, faults, edits, worker, running: None };
        vault.start_again().await.unwrap();
        if self.readiness != Readiness::Uninitialized {
            vault.site.init().await;
        }
        if self.readiness == Readiness::Unsealed {
            vault.site.unseal().await;
        }
        vault
    }
}

/// A whole vault inside the test, on a [`Site`] of its own.
pub struct TestVault {
    site: Site,
    clock: Arc<dyn Clock>,
    faults: Faults,
    edits: Vec<Edit>,
    worker: PathBuf,
    running: Option<Running>,
}

struct Running {
    vault: Arc<Vault>,
    metrics: Option<SocketAddr>,
    stop: oneshot::Sender<&'static str>,
    serving: JoinHandle<Result<(), StartError>>,
}

impl TestVault {
    /// An unsealed vault.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Begins to describe one.
    pub fn builder() -> TestVaultBuilder {
        TestVaultBuilder {
            readiness: Readiness::Unsealed,
            quorum: (2, 3),
            clock: Arc::new(SystemClock::new()),
            faults: Faults::default(),
            edits: Vec::new(),
        }
    }

    /// The vault behind the server.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.running.as_ref().unwrap().vault
    }

    /// Where the metrics are.
    pub fn metrics_address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().metrics.unwrap()
    }

    /// The configuration as the next start takes it.
    pub fn config(&self) -> Config {
        let mut config = Config::load(&self.site.config_file(), &Environment::default()).unwrap();
        config.server.data_dir = self.site.data_dir();
        config.server.unix_socket = self.site.socket();
        config.audit.dir = self.site.data_dir().join("audit");
        for edit in &self.edits {
            edit(&mut config);
        }
        config
    }

    /// Builds a second server of this configuration, or of a changed one.
    pub async fn build(&self, config: Config) -> Result<Server, StartError> {
        let built =
            Built { clock: Arc::clone(&self.clock), hsm_worker: self.worker.clone(), warnings: Vec::new() };
        let faults = self.faults.clone();
        let open = move |path: &Path| -> Result<Arc<dyn Storage>, StorageError> {
            let store = RocksStorage::open(path, Options::default())?;
            Ok(Arc::new(FaultyStorage::new(Arc::new(store), faults)))
        };
        Server::build_on(config, built, open).await
    }

    /// Ends as a machine does that loses its power: the server does nothing more, and the next start is on what its
    /// disk had. Then a new server is started, sealed.
    pub async fn crash(&mut self) {
        let running = self.running.take().unwrap();
        running.serving.abort();
        for id in self.hsm_processes() {
            let id = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
            // One that ended by itself is as good.
            let _ = kill_process(id, Signal::KILL);
        }
        // Whatever is still under way in it stays as it is, for as long as the test runs.
        std::mem::forget(running);
        self.faults = Faults::default();
        self.site.go_on_with_a_copy();
        self.start_again().await.unwrap();
    }

    /// Starts a stopped server on the same data; it is sealed.
    pub async fn start_again(&mut self) -> Result<(), StartError> {
        assert!(self.running.is_none(), "the server runs");
        let server = self.build(self.config()).await?;
        self.site.set_address(server.local_addr());
        let (vault, metrics) = (server.vault(), server.metrics_addr());
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(server.serve(async { stopped.await.unwrap_or("the test ended") }));
        self.running = Some(Running { vault, metrics, stop, serving });
        Ok(())
    }

    /// Stops and starts again; the vault is sealed then.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await.unwrap();
    }

    /// Stops the server and sees to it that nothing is left: no process, no socket, no lock.
    pub async fn stop(&mut self) {
        let Running { vault, stop, serving, .. } = self.running.take().unwrap();
        stop.send("the test stops it").unwrap();
        serving.await.unwrap().unwrap();
        assert!(!vault.is_unsealed(), "it stopped unsealed");
        drop(vault);
        let address = self.site.address();
        until(
            "nobody listens any more",
            || async move { tokio::net::TcpStream::connect(address).await.err() },
        )
        .await;
        assert!(!self.site.socket().exists(), "the local socket is left behind");
        until("the HSM's process is gone", || async { self.hsm_processes().is_empty().then_some(()) }).await;
    }

    /// Stops it, and goes on with the real program on the same data, which is not started yet.
    pub async fn into_process(mut self) -> ServerProcess {
        self.stop().await;
        ServerProcess::on(self.site, &[])
    }

    /// The ids of this vault's HSM processes.
    pub fn hsm_processes(&self) -> Vec<u32> {
        let own = self.worker.to_str().unwrap().as_bytes();
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let id = entry.ok()?.file_name().to_str()?.parse::<u32>().ok()?;
            let command = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
            command.starts_with(own).then_some(id)
        });
        processes.collect()
    }
}

impl Deref for TestVault {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}
