//! `keystead-server --dev`: a whole vault in a private temporary directory, unsealed, gone at the end. Real parts all the
//! same: SoftHSM, TLS, shares, audit.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use keystead_core::auth::PutPrincipal;
use keystead_core::init::{Init, TokenLoss};
use keystead_core::operation;
use keystead_core::policies::PutPolicy;
use keystead_core::request::{Peer, PresentedCertificate, RequestContext};
use keystead_core::vault::Vault;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::CertificateMatcher;
use keystead_domain::id::RequestId;
use keystead_domain::name::PolicyName;
use keystead_domain::principal::{PrincipalName, PrincipalRecord};
use keystead_domain::seal::Quorum;
use keystead_domain::time::UnixMillis;
use keystead_hsm::testing::SoftToken;

use super::{DevFiles, OPERATOR_SPIFFE, SERVICE_SPIFFE};
use crate::config::{AutoPin, Config};
use crate::notify::Signals;
use crate::wiring::{Built, Server};

/// The service of the dev vault may read below this folder.
const POLICY: &str = "// What the example service may do.\n\
permit (\n  principal == Keystead::Service::\"dev\",\n  action in [Keystead::Action::\"secrets:read\", Keystead::Action::\"secrets:list\"],\n  resource in Keystead::Folder::\"dev\"\n);\n";

/// Runs until Ctrl-C, then removes everything.
///
/// # Errors
/// When a part cannot be started.
pub async fn serve(built: Built) -> anyhow::Result<()> {
    let dir = PrivateDir::create()?;
    let now = Duration::from_millis(built.clock.now().0);
    let files = DevFiles::create(&dir.0.join("tls"), now)?;
    let soft_dir = dir.0.join("softhsm");
    std::fs::create_dir(&soft_dir)?;
    let token = SoftToken::create(&soft_dir).context("a SoftHSM token is needed: install softhsm2")?;
    let mut config = Config::dev(&dir.0)?;
    config.hsm.module.clone_from(&token.module);
    config.hsm.token_label.clone_from(&token.label);
    config.hsm.env = token.env();
    let pin = dir.0.join("pin.txt");
    super::write(&pin, &token.pin)?;
    config.seal.auto_pin = Some(AutoPin::File(pin));
    crate::telemetry::init(config.log)?;
    let server = Server::build(config, built).await?;
    let (address, vault) = (server.local_addr(), server.vault());
    let mut signals = Signals::register()?;
    let serving = tokio::spawn(server.serve(async move { signals.until_stop(|| ()).await }));
    open(&vault, &token, &dir.0.join("shares")).await?;
    print(&files, address, &dir.0)?;
    serving.await??;
    Ok(())
}

async fn open(vault: &Arc<Vault>, token: &SoftToken, shares: &Path) -> anyhow::Result<()> {
    let local = context(Peer::Local { uid: rustix::process::getuid().as_raw() }, None)?;
    let operator = CertificateMatcher::spiffe(OPERATOR_SPIFFE)?;
    let init = Init {
        quorum: Quorum::new(2, 3)?,
        pin: SecretBytes::copy_from(token.pin.as_bytes()),
        operators: vec![(PrincipalName::operator("dev")?, operator.clone())],
        recovery: Vec::new(),
        loss: TokenLoss::Accepted,
    };
    let made = vault.init(&local, init).await?;
    std::fs::create_dir(shares)?;
    for share in &made.shares {
        let text = share.to_text();
        let file = shares.join(format!("share-{}.txt", share.number()));
        super::write(&file, std::str::from_utf8(text.expose())?)?;
    }
    for share in made.shares.iter().take(2) {
        vault.submit_share(&local, share.to_text(), None).await?;
    }
    let admin = PresentedCertificate {
        identities: vec![operator],
        fingerprint: [0; 32],
        ca_fingerprint: [0; 32],
        not_after: UnixMillis(u64::MAX),
    };
    let admin = || context(local.peer, Some(Arc::new(admin.clone())));
    let service = PutPrincipal {
        record: PrincipalRecord {
            name: PrincipalName::service("dev")?,
            groups: Vec::new(),
            matchers: vec![CertificateMatcher::spiffe(SERVICE_SPIFFE)?],
            disabled: false,
            created: UnixMillis(0),
        },
        etag: None,
    };
    let open = vault.unsealed()?;
    operation::run(&open, admin()?, service).await?;
    let policy = PutPolicy { name: PolicyName::parse("dev-service")?, text: POLICY.to_owned(), etag: None };
    operation::run(&open, admin()?, policy).await?;
    Ok(())
}

fn context(peer: Peer, certificate: Option<Arc<PresentedCertificate>>) -> anyhow::Result<RequestContext> {
    Ok(RequestContext {
        request_id: RequestId::parse("dev")?,
        trace_id: None,
        peer,
        certificate,
        token: None,
        refused: false,
        arrived: Duration::ZERO,
    })
}

fn print(files: &DevFiles, address: SocketAddr, dir: &Path) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Keystead runs at {address}, unsealed, in {}; Ctrl-C ends and removes it.", dir.display())?;
    writeln!(
        out,
        "\n# an operator who may do everything: paste this\n{}",
        files.environment(address, &files.operator)
    )?;
    writeln!(
        out,
        "# or a service that may read below dev/:\n{}",
        comment(&files.environment(address, &files.service))
    )?;
    writeln!(out, "# every holder's share is in {0}/shares, the HSM's PIN in {0}/pin.txt\n", dir.display())?;
    writeln!(
        out,
        "# then, for example:\n#   echo -n s3cret | keystead secret put dev/db --stdin password\n#   keystead secret get dev/db\n#   keystead audit tail"
    )?;
    out.flush()?;
    Ok(())
}

fn comment(lines: &str) -> String {
    lines.lines().map(|line| format!("# {line}\n")).collect()
}

/// A directory that is removed when the server ends.
struct PrivateDir(PathBuf);

impl PrivateDir {
    fn create() -> anyhow::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let mut unique = [0; 8];
        getrandom::fill(&mut unique)?;
        let name = format!("keystead-dev-{}", data_encoding::HEXLOWER.encode(&unique));
        let dir = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "the directory of the dev vault is not removed");
        }
    }
}
