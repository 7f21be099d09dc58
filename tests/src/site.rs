//! What stands around a vault: a private directory, a SoftHSM token, a CA, the configuration file, the shares, and clients
//! of every kind. It outlives the server, so a vault can be stopped, killed and started again on it.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use keystead_client::{Builder, Client, InitRequest, Initialized, RetryPolicy, SecretBytes, v1};
use keystead_hsm::HsmHandle;
use keystead_hsm::testing::{Shim, SoftToken};
use tempfile::TempDir;

use crate::pki::{Identity, Pki};
use crate::programs;

/// The SPIFFE id of the operator that the configuration and init name.
pub const ADMIN_SPIFFE: &str = "spiffe://test/operator/admin";

/// Tests see the first answer, whatever it is.
const ONCE: RetryPolicy =
    RetryPolicy { attempts: 1, first_delay: Duration::from_millis(1), max_delay: Duration::from_millis(1) };

/// A place for one vault.
pub struct Site {
    root: TempDir,
    token: SoftToken,
    shim: Option<Shim>,
    pki: Pki,
    admin: Identity,
    quorum: (u32, u32),
    address: Mutex<Option<SocketAddr>>,
    data: Mutex<PathBuf>,
    shares: Mutex<Vec<String>>,
}

impl Site {
    /// A new place, for a vault with `threshold` of `shares`.
    pub(crate) fn create(threshold: u32, shares: u32) -> Self {
        Self::with_module(threshold, shares, |_, _| None)
    }

    /// The same with a module before the token's own that injects faults.
    pub(crate) fn behind_shim(threshold: u32, shares: u32) -> Self {
        Self::with_module(threshold, shares, |token, dir| Some(Shim::before(&token.module, dir).unwrap()))
    }

    fn with_module(
        threshold: u32,
        shares: u32,
        shim: impl FnOnce(&SoftToken, &Path) -> Option<Shim>,
    ) -> Self {
        let root = tempfile::Builder::new().prefix("keystead-test-").tempdir().unwrap();
        let softhsm = root.path().join("softhsm");
        std::fs::DirBuilder::new().mode(0o700).create(&softhsm).unwrap();
        let token = SoftToken::create(&softhsm).unwrap();
        let shim = shim(&token, &softhsm);
        let pki = Pki::create(&root.path().join("tls"));
        let admin = pki.client(ADMIN_SPIFFE);
        let data = Mutex::new(root.path().join("data"));
        let site = Self {
            root,
            data,
            token,
            shim,
            pki,
            admin,
            quorum: (threshold, shares),
            address: Mutex::new(None),
            shares: Mutex::new(Vec::new()),
        };
        std::fs::write(site.config_file(), site.config_text()).unwrap();
        site
    }

    fn config_text(&self) -> String {
        let server = self.pki.server();
        let of_shim = self.shim.iter().flat_map(Shim::env);
        let env: Vec<String> = self
            .token
            .env()
            .into_iter()
            .chain(of_shim)
            .map(|(name, value)| format!("{name} = {value:?}"))
            .collect();
        let module = self.shim.as_ref().map_or(self.token.module.as_path(), Shim::library);
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ndata_dir = \"data\"\nnode = \"test\"\n\
             [tls]\ncert_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\n\
             [[operators]]\nname = \"admin\"\nspiffe = \"{ADMIN_SPIFFE}\"\n\
             [hsm]\nmodule = {:?}\ntoken_label = {:?}\ndeadline_ms = 30000\nenv = {{ {} }}\n\
             [metrics]\nlisten = \"127.0.0.1:0\"\n",
            server.cert,
            server.key,
            self.pki.ca(),
            module,
            self.token.label,
            env.join(", "),
        )
    }

    /// The configuration file, as written for this site.
    pub fn config_file(&self) -> PathBuf {
        self.root.path().join("keystead.toml")
    }

    /// The directory of everything: token, certificates, configuration and data.
    pub fn dir(&self) -> &Path {
        self.root.path()
    }

    /// The directory that the server writes.
    pub fn data_dir(&self) -> PathBuf {
        self.data.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Goes on with a copy of what the server has written so far, as a disk would be after a crash.
    pub(crate) fn go_on_with_a_copy(&self) {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = data.with_extension(format!("{}-", data.extension().unwrap_or_default().display()));
        let copied = std::process::Command::new("cp").arg("-a").arg(&*data).arg(&copy).status().unwrap();
        assert!(copied.success(), "{} could not be copied", data.display());
        std::fs::remove_file(copy.join("keystead.sock")).unwrap();
        *data = copy;
    }

    /// The socket for local administration.
    pub fn socket(&self) -> PathBuf {
        self.data_dir().join("keystead.sock")
    }

    /// The token.
    pub fn token(&self) -> &SoftToken {
        &self.token
    }

    /// A way of the test's own to the token. Nobody is logged in.
    pub fn hsm(&self) -> HsmHandle {
        self.hsm_of(&self.token)
    }

    /// The same to another token.
    pub fn hsm_of(&self, token: &SoftToken) -> HsmHandle {
        HsmHandle::spawn(token.config(programs::server(), vec!["hsm-worker".to_owned()])).unwrap()
    }

    /// What injects faults before the token, where a site has it.
    pub fn shim(&self) -> &Shim {
        self.shim.as_ref().unwrap()
    }

    /// The CA.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The operator's certificate.
    pub fn admin(&self) -> &Identity {
        &self.admin
    }

    /// The texts of the shares that init made.
    pub fn shares(&self) -> Vec<String> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many shares open the vault.
    pub fn threshold(&self) -> usize {
        usize::try_from(self.quorum.0).unwrap()
    }

    /// Where the server listens, or listened last.
    pub fn address(&self) -> SocketAddr {
        self.address.lock().unwrap_or_else(PoisonError::into_inner).unwrap()
    }

    /// `keystead` with no environment but what leads to the vault, as the owner of a certificate.
    pub fn command(&self, identity: &Identity) -> Command {
        let mut command = Command::new(programs::cli());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("KEYSTEAD_ADDR", format!("https://localhost:{}", self.address().port()));
        command.env("KEYSTEAD_CACERT", self.pki.ca());
        command.env("KEYSTEAD_CERT", &identity.cert).env("KEYSTEAD_KEY", &identity.key);
        command
    }

    pub(crate) fn set_address(&self, address: SocketAddr) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    /// Begins a client over TLS without a certificate.
    pub fn builder(&self) -> Builder {
        Client::builder()
            .addr(format!("https://localhost:{}", self.address().port()))
            .ca_cert_file(self.pki.ca())
            .deadline(crate::PATIENCE)
            .retry(ONCE)
    }

    /// A caller with this certificate.
    pub fn client(&self, identity: &Identity) -> Client {
        self.builder().identity_files(&identity.cert, &identity.key).build_lazy().unwrap()
    }

    /// A caller without a certificate.
    pub fn anonymous(&self) -> Client {
        self.builder().build_lazy().unwrap()
    }

    /// A caller with a token and no certificate.
    pub fn bearer(&self, token: &str) -> Client {
        self.builder().token(token).build_lazy().unwrap()
    }

    /// The operator that may do everything.
    pub fn operator(&self) -> Client {
        self.client(&self.admin)
    }

    /// A caller on the server's local socket.
    pub fn local(&self) -> Client {
        let address = format!("unix://{}", self.socket().display());
        Client::builder().addr(address).deadline(crate::PATIENCE).retry(ONCE).build_lazy().unwrap()
    }

    /// Registers `service/<name>` with a certificate of its own, and calls as it.
    pub async fn service(&self, name: &str) -> Client {
        self.client(&self.register_service(name).await)
    }

    /// Registers `service/<name>` and says its certificate.
    pub async fn register_service(&self, name: &str) -> Identity {
        let spiffe = format!("spiffe://test/service/{name}");
        let principal = v1::Principal {
            name: format!("service/{name}"),
            certificates: vec![spiffe_matcher(&spiffe)],
            ..v1::Principal::default()
        };
        self.operator().auth().put_principal(principal).await.unwrap();
        self.pki.client(&spiffe)
    }

    /// Stores a policy as the operator.
    pub async fn policy(&self, name: &str, text: &str) {
        let policy = v1::Policy { name: name.to_owned(), text: text.to_owned(), ..v1::Policy::default() };
        self.operator().policies().put(policy).await.unwrap();
    }

    /// Makes the vault with `operator/admin` and keeps its shares.
    pub async fn init(&self) -> Initialized {
        let initialized = self.local().system().initialize(self.init_request()).await.unwrap();
        self.keep_shares(&initialized);
        initialized
    }

    /// What [`Self::init`] asks for.
    pub fn init_request(&self) -> InitRequest {
        InitRequest {
            shares: self.quorum.1,
            threshold: self.quorum.0,
            hsm_pin: SecretBytes::from(self.token.pin.clone()),
            operators: vec![v1::InitialOperator {
                principal: "operator/admin".to_owned(),
                matcher: Some(spiffe_matcher(ADMIN_SPIFFE)),
            }],
            accept_total_loss: true,
            token_backup_statement: String::new(),
            recovery_recipients: Vec::new(),
        }
    }

    /// Keeps the shares of a vault that a test made by itself.
    pub fn keep_shares(&self, initialized: &Initialized) {
        let texts = initialized.shares.iter().map(|share| share.text.expose_str().unwrap().to_owned());
        *self.shares.lock().unwrap_or_else(PoisonError::into_inner) = texts.collect();
    }

    /// Enters as many shares as are needed.
    pub async fn unseal(&self) {
        let local = self.local();
        for share in self.shares().iter().take(self.threshold()) {
            local.system().submit_share(&SecretBytes::from(share.clone()), "").await.unwrap();
        }
        let status = local.system().status().await.unwrap();
        assert_eq!(status.state(), v1::SealState::Unsealed);
    }

    /// Seals as the operator.
    pub async fn seal(&self) {
        self.operator().system().seal().await.unwrap();
    }

    /// Goes on with these shares; answers the former ones.
    pub fn hold_shares(&self, texts: Vec<String>) -> Vec<String> {
        std::mem::replace(&mut *self.shares.lock().unwrap_or_else(PoisonError::into_inner), texts)
    }

    /// All audit entries, oldest first, as the operator sees them.
    pub async fn audit(&self) -> Vec<v1::AuditEntry> {
        let mut tail = self.operator().audit().tail(10_000, false).await.unwrap();
        let mut entries = Vec::new();
        while let Some(entry) = tail.next().await.unwrap() {
            entries.push(entry);
        }
        entries
    }
}

/// Recognizes a certificate by its SPIFFE id.
pub fn spiffe_matcher(spiffe: &str) -> v1::CertificateMatcher {
    v1::CertificateMatcher { san: Some(v1::certificate_matcher::San::SpiffeUri(spiffe.to_owned())) }
}
