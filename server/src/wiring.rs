//! Chooses storage, HSM and sinks, builds the vault, and serves it. Invariant: what can fail at start fails before a socket
//! is bound; the end drains, seals and wipes in this order.

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use keystead_audit::{
    AuditLog, InvalidNode, JsonSink, JsonSinkOptions, OpenError, OpenOptions, SinkError, WhileUnavailable,
};
use keystead_core::audit_trail::ReadDurability as CoreDurability;
use keystead_core::clock::Clock;
use keystead_core::engine::{Engine, Engines};
use keystead_core::vault::{ConfiguredOperator, FurtherHsm, Vault, VaultOptions, VaultParts};
use keystead_crypto::arena::arena;
use keystead_crypto::ports::{Hsm, HsmError};
use keystead_engines::postgres::PostgresEngine;
use keystead_hsm::HsmHandle;
use keystead_proto::FILE_DESCRIPTOR_SET;
use keystead_proto::v1::audit_service_server::AuditServiceServer;
use keystead_proto::v1::auth_service_server::AuthServiceServer;
use keystead_proto::v1::credentials_service_server::CredentialsServiceServer;
use keystead_proto::v1::keys_service_server::KeysServiceServer;
use keystead_proto::v1::leases_service_server::LeasesServiceServer;
use keystead_proto::v1::policies_service_server::PoliciesServiceServer;
use keystead_proto::v1::secrets_service_server::SecretsServiceServer;
use keystead_proto::v1::static_roles_service_server::StaticRolesServiceServer;
use keystead_proto::v1::system_service_server::SystemServiceServer;
use keystead_storage::{Storage, StorageError};
use keystead_storage_rocksdb::{Options as RocksOptions, RocksStorage};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tower::Layer;

use crate::auto_pin::ConfiguredPin;
use crate::config::{Config, Limits, OperatorConfig, ReadDurability};
use crate::grpc::layers::{Front, FrontLayer};
use crate::grpc::{Api, system};
use crate::listener::{Ends, ListenError, Listener, serve};
use crate::telemetry::{MetricsListener, ScrapeError, ServerMetrics, methods_of};
use crate::tls::{TlsError, TlsReloader};
use crate::{tasks, tls};

const UNLOCKED: &str = "long-lived keys are not in locked memory (ulimit -l): they may reach swap";

/// Why a server does not start. The cause says which file or key it is.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Certificates.
    #[error("the certificates cannot be used")]
    Tls(#[from] TlsError),
    /// A directory cannot be made or is open to others.
    #[error("{} cannot be used as a private directory", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The store.
    #[error("the store cannot be opened")]
    Storage(#[from] StorageError),
    /// The audit log.
    #[error("the audit log cannot be opened")]
    Audit(#[from] OpenError),
    /// The node's name.
    #[error("server.node is not a node name")]
    Node(#[from] InvalidNode),
    /// A sink.
    #[error("the audit sink cannot be started")]
    Sink(#[from] SinkError),
    /// The HSM.
    #[error("the HSM's process cannot be started")]
    Hsm(#[from] HsmError),
    /// A socket.
    #[error("the server cannot listen")]
    Listen(#[from] ListenError),
    /// The metrics listener.
    #[error("the metrics cannot be served")]
    Metrics(#[from] ScrapeError),
    /// The metrics themselves.
    #[error("the metrics cannot be set up")]
    MetricsSetup(#[from] metrics_exporter_prometheus::BuildError),
    /// The descriptor set in the binary.
    #[error("the descriptor set does not decode")]
    Descriptors(#[from] prost::DecodeError),
    /// Reflection.
    #[error("reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A task was ended.
    #[error("a start-up task was ended")]
    Ended(#[from] tokio::task::JoinError),
}

/// What a server is built with besides its configuration.
pub struct Built {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The program that runs the PKCS#11 module, called with `hsm-worker`.
    pub hsm_worker: PathBuf,
    /// What an operator should know, shown with the status.
    pub warnings: Vec<String>,
}

/// A server that is built and bound, but does not serve yet.
pub struct Server {
    config: Config,
    vault: Arc<Vault>,
    storage: Arc<dyn Storage>,
    audit: Arc<AuditLog>,
    sink: Option<JsonSink>,
    tls: Arc<TlsReloader>,
    metrics: Arc<ServerMetrics>,
    metrics_listener: Option<MetricsListener>,
    listener: Listener,
    api: Api,
}

impl Server {
    /// Opens everything that a configuration names.
    ///
    /// # Errors
    /// `StartError`, naming what cannot be used.
    pub async fn build(config: Config, built: Built) -> Result<Self, StartError> {
        Self::build_on(config, built, open_store).await
    }

    /// The same on a store opened by `open`, called off the async threads with the path of the store: a test takes one
    /// that fails.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub async fn build_on(
        config: Config,
        built: Built,
        open: impl FnOnce(&Path) -> Result<Arc<dyn Storage>, StorageError> + Send + 'static,
    ) -> Result<Self, StartError> {
        tls::install_provider();
        let tls = Arc::new(TlsReloader::load(config.tls.clone())?);
        let parts = open_parts(&config, Arc::clone(&built.clock), &built.hsm_worker, open).await?;
        let (storage, audit) = (Arc::clone(&parts.storage), Arc::clone(&parts.audit));
        let vault = Vault::new(parts);
        let sink = start_sink(&config, &audit, &vault)?;
        let methods = methods_of(FILE_DESCRIPTOR_SET)?;
        let (metrics, metrics_listener) = match config.metrics.listen {
            Some(address) => (ServerMetrics::new(methods)?, Some(MetricsListener::bind(address).await?)),
            None => (ServerMetrics::off(methods), None),
        };
        let mut warnings = built.warnings;
        let locked = arena().locked();
        if !locked {
            warnings.push(UNLOCKED.to_owned());
        }
        if audit.status().state != keystead_audit::State::Ready {
            let full =
                "the audit log's disk has no room beyond what is kept for operators: requests are refused";
            warnings.push(full.to_owned());
        }
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let api = Api::new(Arc::clone(&vault), Arc::clone(&tls), warnings, locked);
        let listener = Listener::bind(&config.server).await?;
        let metrics = Arc::new(metrics);
        Ok(Self { config, vault, storage, audit, sink, tls, metrics, metrics_listener, listener, api })
    }

    /// The address that was bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// The address of the metrics, if they are on.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_listener.as_ref().map(MetricsListener::local_addr)
    }

    /// The vault behind the server.
    pub fn vault(&self) -> Arc<Vault> {
        Arc::clone(&self.vault)
    }

    /// Certificates, for reloading.
    pub fn tls(&self) -> Arc<TlsReloader> {
        Arc::clone(&self.tls)
    }

    /// Serves until `stop`, then drains for as long as the configuration says, seals and wipes.
    ///
    /// # Errors
    /// When serving or closing fails.
    pub async fn serve(
        self,
        stop: impl Future<Output = &'static str> + Send + 'static,
    ) -> Result<(), StartError> {
        let (stopping, cancel) = (CancellationToken::new(), CancellationToken::new());
        let background = TaskTracker::new();
        let (health, health_service) = tonic_health::server::health_reporter();
        background.spawn(tasks::rotate(Arc::clone(&self.vault), Arc::clone(&self.metrics), cancel.clone()));
        let (vault, metrics) = (Arc::clone(&self.vault), Arc::clone(&self.metrics));
        background.spawn(tasks::look_after_leases(Arc::clone(&vault), Arc::clone(&metrics), cancel.clone()));
        background.spawn(tasks::look_after_targets(Arc::clone(&vault), Arc::clone(&metrics), cancel.clone()));
        background.spawn(tasks::look_after_static_roles(Arc::clone(&vault), cancel.clone()));
        if let Some(every) = self.config.audit.anchor_interval {
            let (vault, metrics) = (Arc::clone(&vault), Arc::clone(&metrics));
            background.spawn(tasks::keep_anchored(vault, metrics, every, cancel.clone()));
        }
        background.spawn(tasks::run(Arc::clone(&vault), health, metrics, stopping.clone(), cancel.clone()));
        if self.config.seal.auto_pin.is_some() {
            background.spawn(tasks::unseal_by_itself(vault, stopping.clone()));
        }
        if let Some(listener) = self.metrics_listener {
            background.spawn(listener.serve(Arc::clone(&self.metrics), cancel.clone()));
        }
        let ends = Arc::new(Ends::new(stopping.clone()));
        let beside = background.clone();
        background.spawn(tasks::end_connections(
            Arc::clone(&self.vault),
            Arc::clone(&ends),
            self.config.limits.request_timeout,
            beside,
            cancel.clone(),
        ));
        let limits = &self.config.limits;
        let services = services(self.api, limits, &self.metrics, health_service)?;
        let incoming = self.listener.accept(limits, self.tls, Arc::clone(&self.metrics), stopping.clone());

        let told = stopping.clone();
        let why = tokio::spawn(async move {
            let why = stop.await;
            told.cancel();
            why
        });
        let serving = serve(incoming, services, system::brings_shares_or_pins, limits, &ends);
        until_drained(serving, &stopping, limits.drain_timeout, &ends).await;
        stopping.cancel();
        cancel.cancel();
        let why = if why.is_finished() { why.await? } else { "serving ended" };
        if let Err(error) = self.vault.seal_by_itself(why).await {
            tracing::error!(%error, "sealed, but the audit log could not record it");
        }
        background.close();
        background.wait().await;
        drop(self.sink);
        self.storage.close().await?;
        self.audit.close();
        Ok(())
    }
}

/// The store in the directory of a configuration.
pub(crate) fn open_store(path: &Path) -> Result<Arc<dyn Storage>, StorageError> {
    Ok(Arc::new(RocksStorage::open(path, RocksOptions::default())?))
}

/// Opens store, audit log and tokens. One process at a time can: store and log are locked.
pub(crate) async fn open_parts(
    config: &Config,
    clock: Arc<dyn Clock>,
    hsm_worker: &Path,
    open: impl FnOnce(&Path) -> Result<Arc<dyn Storage>, StorageError> + Send + 'static,
) -> Result<VaultParts, StartError> {
    private_dir(&config.server.data_dir)?;
    private_dir(&config.audit.dir)?;
    let store_dir = config.server.data_dir.join("store");
    let storage = tokio::task::spawn_blocking(move || open(&store_dir)).await??;
    let audit = open_audit(config).await?;
    let hsm = HsmHandle::spawn(config.hsm.for_worker(hsm_worker.to_owned()))?;
    let further = config.further.iter().map(|token| {
        let hsm: Arc<dyn Hsm> = Arc::new(HsmHandle::spawn(token.for_worker(hsm_worker.to_owned()))?);
        Ok(FurtherHsm { hsm, clone_of: token.clone_of.clone() })
    });
    let further = further.collect::<Result<_, HsmError>>()?;
    Ok(VaultParts {
        storage,
        hsm: Arc::new(hsm),
        further,
        audit,
        clock,
        engines: engines(),
        auto_pin: config.seal.auto_pin.clone().map(ConfiguredPin::shared),
        options: VaultOptions {
            node: config.server.node.clone(),
            read_durability: match config.audit.durability {
                ReadDurability::Fsync => CoreDurability::Fsync,
                ReadDurability::Os => CoreDurability::Os,
            },
            rotation: config.rotation.clone(),
            leases: config.leases.clone(),
            unseal_timeout: config.seal.unseal_timeout,
            anchor_at_sealing: config.audit.anchor_interval.is_some(),
            accept_anchor: config.audit.accept_anchor,
            operators: config.operators.iter().map(configured).collect(),
        },
    })
}

fn configured(operator: &OperatorConfig) -> ConfiguredOperator {
    ConfiguredOperator { name: operator.name.clone(), identity: operator.identity.clone() }
}

/// What this server makes logins in.
fn engines() -> Engines {
    let postgres: Arc<dyn Engine> = Arc::new(PostgresEngine);
    Engines::new([postgres])
}

/// The services behind their layer.
fn services(
    api: Api,
    limits: &Limits,
    metrics: &Arc<ServerMetrics>,
    health: HealthServer<impl Health>,
) -> Result<Front<Routes>, StartError> {
    let largest = limits.max_message_bytes;
    let routes = Routes::new(descriptors().build_v1()?)
        .add_service(descriptors().build_v1alpha()?)
        .add_service(SystemServiceServer::new(api.clone()).max_decoding_message_size(largest))
        .add_service(SecretsServiceServer::new(api.clone()).max_decoding_message_size(largest))
        .add_service(AuthServiceServer::new(api.clone()).max_decoding_message_size(largest))
        .add_service(CredentialsServiceServer::new(api.clone()).max_decoding_message_size(largest))
        .add_service(StaticRolesServiceServer::new(api.clone()).max_decoding_message_size(largest))
        .add_service(LeasesServiceServer::new(api.clone()).max_decoding_message_size(largest))
        .add_service(KeysServiceServer::new(api.clone()).max_decoding_message_size(largest))
        .add_service(PoliciesServiceServer::new(api.clone()).max_decoding_message_size(largest))
        .add_service(AuditServiceServer::new(api).max_decoding_message_size(largest))
        .add_service(health);
    Ok(FrontLayer::new(limits.request_timeout, Arc::clone(metrics)).layer(routes.prepare()))
}

/// Waits until serving ends: by itself, or once it is `stopping` and open requests have ended or had their time.
async fn until_drained(
    serving: impl Future<Output = ()>,
    stopping: &CancellationToken,
    patience: Duration,
    ends: &Ends,
) {
    let mut serving = pin!(serving);
    let drained = tokio::select! {
        () = &mut serving => return,
        () = stopping.cancelled() => tokio::time::timeout(patience, &mut serving).await,
    };
    if drained.is_err() {
        tracing::warn!("open requests did not end in time and are cut off");
        ends.cut_off();
        serving.await;
    }
}

fn descriptors() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn open_audit(config: &Config) -> Result<Arc<AuditLog>, StartError> {
    let options = OpenOptions {
        max_queue: config.audit.queue,
        reserve_bytes: config.audit.reserve_bytes,
        ..OpenOptions::new(&config.server.node)?
    };
    let dir = config.audit.dir.clone();
    let log = tokio::task::spawn_blocking(move || AuditLog::open(&dir, options)).await??;
    if let Some(torn) = log.torn_tail() {
        tracing::warn!(
            ?torn,
            "the audit log ended in an unfinished entry, which nobody was told of; it was cut off"
        );
    }
    Ok(Arc::new(log))
}

fn start_sink(config: &Config, audit: &AuditLog, vault: &Vault) -> Result<Option<JsonSink>, StartError> {
    let Some(path) = &config.audit.json_file else { return Ok(None) };
    let sink = JsonSink::start(
        audit,
        JsonSinkOptions {
            path: path.clone(),
            cursor: config.audit.dir.join("json.cursor"),
            opener: vault.audit_opener(),
            while_unavailable: WhileUnavailable::Wait,
        },
    )?;
    Ok(Some(sink))
}

/// Makes a directory that nobody else can enter, and refuses one that others can.
fn private_dir(path: &Path) -> Result<(), StartError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| StartError::Directory { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        let loose = format!("its mode is {:o}; others can enter it: chmod 700", mode & 0o777);
        return Err(failed(std::io::Error::new(std::io::ErrorKind::PermissionDenied, loose)));
    }
    Ok(())
}
