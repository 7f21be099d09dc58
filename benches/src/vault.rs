//! The servers that are measured: real processes, with everything on that production has on.
//!
//! Invariant: the caller is a service with a certificate and a policy of its own among others' policies. All servers
//! end when these values are dropped.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use keystead_client::{Client, RetryPolicy, SecretValue};
use keystead_hsm::HsmHandle;
use keystead_tests::{Identity, ServerProcess, children_of};

use crate::load::{READ_PATHS, VALUE_BYTES, read_path};

/// Services that have policies too, so that the caller's is one among several.
const NEIGHBOURS: u32 = 9;

/// An unsealed vault with the secrets to read.
pub(crate) struct Vault {
    process: ServerProcess,
    service: Identity,
}

impl Vault {
    /// Starts one whose reads are recorded with this durability.
    pub(crate) async fn start(durability: &str) -> Result<Self> {
        Self::start_with(durability, &[]).await
    }

    /// The same with further configuration keys.
    pub(crate) async fn start_with(durability: &str, settings: &[(&str, &str)]) -> Result<Self> {
        let usual = [("audit.durability", durability), ("log.level", "info")];
        let process = ServerProcess::start_with(&[usual.as_slice(), settings].concat()).await;
        process.init().await;
        process.unseal().await;
        for number in 1..=NEIGHBOURS {
            process.policy(&format!("neighbour-{number}"), &policy(&format!("neighbour-{number}"))).await;
        }
        process.policy("bench", &policy("bench")).await;
        let service = process.register_service("bench").await;
        let operator = process.operator();
        for number in 0..READ_PATHS {
            let value = SecretValue::data(vec![b'x'; VALUE_BYTES]);
            operator.secrets().put(&read_path(number), value).await?;
        }
        Ok(Self { process, service })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.process.address()
    }

    /// Who may do everything.
    pub(crate) fn operator(&self) -> Client {
        self.process.operator()
    }

    /// A way of the bench's own to the token. Nobody is logged in.
    pub(crate) fn hsm_handle(&self) -> HsmHandle {
        self.process.hsm()
    }

    /// The token's PIN.
    pub(crate) fn pin(&self) -> &str {
        &self.process.token().pin
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The processes that run the PKCS#11 module.
    pub(crate) fn hsm(&self) -> Result<Vec<u32>> {
        Ok(children_of(self.process.id())?)
    }

    /// Connections of the service, to this vault or to a server with the same certificates.
    pub(crate) async fn clients(&self, address: SocketAddr, count: usize) -> Result<Vec<Client>> {
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let builder = self.process.builder().addr(format!("https://localhost:{}", address.port()));
            let builder = builder.identity_files(&self.service.cert, &self.service.key);
            // A request that needs a second try would count twice.
            let once = RetryPolicy { attempts: 1, ..RetryPolicy::default() };
            clients.push(builder.retry(once).build().await?);
        }
        Ok(clients)
    }
}

/// Lets a service read and write below the folder of its name.
fn policy(service: &str) -> String {
    format!(
        "permit (\n  principal == Keystead::Service::\"{service}\",\n  \
         action in [Keystead::Action::\"secrets:read\", Keystead::Action::\"secrets:write\"],\n  \
         resource in Keystead::Folder::\"{service}\"\n);\n"
    )
}

/// The bare server.
pub(crate) struct Bare {
    child: Child,
    address: SocketAddr,
}

impl Bare {
    /// Starts it with the certificates of a vault.
    pub(crate) fn start(vault: &Vault) -> Result<Self> {
        let tls = vault.process.pki().ca();
        let tls = tls.parent().context("the CA lies in no directory")?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("echo")
            .arg("--tls")
            .arg(tls)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the bare server")?;
        let mut line = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        read.transpose()?;
        let address = line.trim().parse().context("the bare server named no address")?;
        Ok(Self { child, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Its standard input ends with us anyway; this is only sooner.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
