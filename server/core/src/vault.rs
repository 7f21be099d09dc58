//! The vault, sealed or not: the door to [`UnsealedVault`].
//!
//! Invariant: a request that needs keys holds an [`OpenVault`] while it runs; sealing lets nobody in any more, waits for
//! those inside, and then wipes.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use keystead_audit::{AuditLog, Head};
use keystead_crypto::ports::Hsm;
use keystead_domain::CertificateMatcher;
use keystead_domain::id::RequestId;
use keystead_storage::Storage;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::anchor::AnchorKeeper;
use crate::audit_trail::sealer::AuditOpener;
use crate::audit_trail::{ClearCaller, ReadDurability};
use crate::clock::Clock;
use crate::engine::Engines;
use crate::error::VaultError;
use crate::leases::LeaseOptions;
use crate::leases::watchers::Watchers;
use crate::refusals::Refusals;
use crate::request::{Peer, RequestContext};
use crate::rotation::{Beside, RotationOptions};
use crate::seal::{Ceremony, PinSource, Progress, TrustedSeal};
use crate::unsealed::UnsealedVault;

/// What a vault is built from.
pub struct VaultParts {
    /// The store.
    pub storage: Arc<dyn Storage>,
    /// The HSM.
    pub hsm: Arc<dyn Hsm>,
    /// Further tokens, in the order in which they are asked.
    pub further: Vec<FurtherHsm>,
    /// This node's audit log.
    pub audit: Arc<AuditLog>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What targets are worked with.
    pub engines: Engines,
    /// The PIN for a vault that opens by itself.
    pub auto_pin: Option<Arc<dyn PinSource>>,
    /// How it behaves.
    pub options: VaultOptions,
}

/// One more token.
#[derive(Clone)]
pub struct FurtherHsm {
    /// The token.
    pub hsm: Arc<dyn Hsm>,
    /// The serial of the token that it is a vendor's clone of: it has the same keys, and wraps go by that serial.
    pub clone_of: Option<String>,
}

/// An operator whose certificate counts while principals are sealed.
#[derive(Debug, Clone)]
pub struct ConfiguredOperator {
    /// The name that the configuration gives.
    pub name: String,
    /// What the certificate must hold.
    pub identity: CertificateMatcher,
}

/// How a vault behaves.
#[derive(Debug, Clone)]
pub struct VaultOptions {
    /// This node's name, in the origin of its audit log.
    pub node: String,
    /// How durable reads are recorded.
    pub read_durability: ReadDurability,
    /// A half-done unseal ceremony is dropped after this.
    pub unseal_timeout: std::time::Duration,
    /// How keys are rotated.
    pub rotation: RotationOptions,
    /// How leases are bounded.
    pub leases: LeaseOptions,
    /// Who may init, cancel a ceremony and seal while policies are sealed.
    pub operators: Vec<ConfiguredOperator>,
    /// Whether sealing anchors the audit log's head in the token.
    pub anchor_at_sealing: bool,
    /// The one anchored head that may be given up.
    pub accept_anchor: Option<Head>,
}

/// A vault.
pub struct Vault {
    pub(crate) parts: VaultParts,
    pub(crate) opener: Arc<AuditOpener>,
    /// One ceremony step at a time.
    pub(crate) ceremony: tokio::sync::Mutex<Option<Ceremony>>,
    /// Bad shares by address: anybody may send them, so they must not fill the log.
    pub(crate) refusals: Refusals,
    /// The last seal record read, checked; it counts while the store has the same revision of it.
    pub(crate) seal: ArcSwapOption<TrustedSeal>,
    /// What status shows of the ceremony, without waiting for a step under way.
    pub(crate) progress: ArcSwapOption<Progress>,
    running: ArcSwapOption<Running>,
    /// Sealings under way: the vault opens anew only when none is left.
    closing: TaskTracker,
    /// Cancelled when the server begins to drain: streams would hold it up.
    draining: CancellationToken,
    state: tokio::sync::watch::Sender<bool>,
    pub(crate) anchor_soon: Notify,
    /// Leases are to be looked at sooner than planned. Not in the open vault: whoever waits must not hold it open.
    pub(crate) leases_wake: Arc<Notify>,
    /// Those who follow leases. Not in the open vault: who has not noticed a sealing yet still has a place.
    pub(crate) lease_watchers: Arc<Watchers>,
}

struct Running {
    vault: UnsealedVault,
    inside: TaskTracker,
}

/// The open vault, held open for one request.
pub struct OpenVault {
    running: Arc<Running>,
    token: TaskTrackerToken,
}

impl Vault {
    /// A sealed vault.
    pub fn new(parts: VaultParts) -> Arc<Self> {
        let closing = TaskTracker::new();
        // A closed tracker still hands out tokens, and can be waited for.
        closing.close();
        Arc::new(Self {
            parts,
            opener: Arc::default(),
            ceremony: tokio::sync::Mutex::new(None),
            refusals: Refusals::default(),
            seal: ArcSwapOption::empty(),
            progress: ArcSwapOption::empty(),
            running: ArcSwapOption::empty(),
            closing,
            draining: CancellationToken::new(),
            state: tokio::sync::watch::Sender::new(false),
            anchor_soon: Notify::new(),
            leases_wake: Arc::default(),
            lease_watchers: Arc::default(),
        })
    }

    /// Holds the vault open.
    ///
    /// # Errors
    /// `Sealed`.
    pub fn unsealed(&self) -> Result<OpenVault, VaultError> {
        let running = self.running.load_full().ok_or(VaultError::Sealed)?;
        let token = running.inside.token();
        // Sealing may have begun between the two lines above, and may not wait for this token.
        match self.running.load().as_ref() {
            Some(current) if Arc::ptr_eq(current, &running) => Ok(OpenVault { running, token }),
            _ => Err(VaultError::Sealed),
        }
    }

    /// Holds the vault open, or says truly why it is shut.
    ///
    /// # Errors
    /// `NotInitialized`, `Sealed`.
    pub async fn opened(&self) -> Result<OpenVault, VaultError> {
        match self.unsealed() {
            Err(VaultError::Sealed) if self.seal_record().await?.is_none() => Err(VaultError::NotInitialized),
            opened => opened,
        }
    }

    /// Whether keys are open.
    pub fn is_unsealed(&self) -> bool {
        self.running.load().is_some()
    }

    /// Tells each change between sealed (`false`) and unsealed (`true`).
    pub fn state_changes(&self) -> tokio::sync::watch::Receiver<bool> {
        self.state.subscribe()
    }

    /// Waits until keys are closed.
    pub(crate) async fn sealed(&self) {
        let mut state = self.state.subscribe();
        drop(state.wait_for(|open| !open).await);
    }

    /// Waits until leases are to be looked at sooner than planned.
    pub async fn leases_wanted(&self) {
        self.leases_wake.notified().await;
    }

    /// Ends every stream, now and from now on: the server is about to stop.
    pub fn end_streams(&self) {
        self.draining.cancel();
    }

    /// Waits until streams are to end.
    pub(crate) async fn streams_ended(&self) {
        self.draining.cancelled().await;
    }

    /// The audit log of this node.
    pub fn audit(&self) -> &Arc<AuditLog> {
        &self.parts.audit
    }

    /// Opens audit bodies while the vault is unsealed.
    pub fn audit_opener(&self) -> Arc<AuditOpener> {
        Arc::clone(&self.opener)
    }

    /// Time.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.parts.clock
    }

    pub(crate) fn open(&self, vault: UnsealedVault) {
        self.running.store(Some(Arc::new(Running { vault, inside: TaskTracker::new() })));
        self.state.send_replace(true);
        // Sealed between the two lines above: that was told before this.
        if !self.is_unsealed() {
            self.state.send_replace(false);
        }
        self.anchor_soon.notify_one();
    }

    /// Lets nobody in any more. What is under way goes on.
    pub(crate) fn shut(&self) -> Option<Shut> {
        let closing = self.closing.token();
        let running = self.running.swap(None)?;
        self.state.send_replace(false);
        Some(Shut { running, _closing: closing })
    }

    /// Waits until an earlier sealing has forgotten its keys: it would log out whoever logs in meanwhile.
    pub async fn closed(&self) {
        self.closing.wait().await;
    }

    /// Who the caller is, as far as that is known without principals, if they may act on a sealed vault.
    pub(crate) fn check_operator(
        &self,
        ctx: &RequestContext,
        what: &'static str,
    ) -> Result<ClearCaller, VaultError> {
        let certificate = ctx.certificate.as_ref().filter(|shown| shown.not_after > self.parts.clock.now());
        let identities = certificate.map(|shown| shown.identities.as_slice()).unwrap_or_default();
        let known = &self.parts.options.operators;
        let configured = known.iter().find(|operator| identities.contains(&operator.identity));
        match (configured, ctx.peer) {
            (Some(operator), peer) => Ok(ClearCaller::operator(peer, &operator.name)),
            (None, peer @ Peer::Local { .. }) => Ok(ClearCaller::from(peer)),
            (None, _) => Err(VaultError::OperatorOnly { what }),
        }
    }
}

/// Runs a step of a ceremony to its end, even if the caller hangs up.
pub(crate) async fn to_its_end<T: Send + 'static>(
    what: &'static str,
    step: impl Future<Output = Result<T, VaultError>> + Send + 'static,
) -> Result<T, VaultError> {
    tokio::spawn(step).await.unwrap_or(Err(VaultError::Interrupted { what }))
}

/// A vault that lets nobody in; kept until its keys are forgotten.
pub(crate) struct Shut {
    running: Arc<Running>,
    _closing: TaskTrackerToken,
}

impl Shut {
    /// What keeps the audit log's head in the token.
    pub(crate) fn anchor(&self) -> &AnchorKeeper {
        &self.running.vault.anchor
    }

    /// Waits for those inside; keys are wiped when this is dropped.
    pub(crate) async fn drained(&self) {
        self.running.inside.close();
        self.running.inside.wait().await;
    }
}

impl OpenVault {
    /// Runs a change to its end, even if the caller hangs up.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        request_id: &RequestId,
        change: impl Future<Output = Result<T, VaultError>> + Send + 'static,
    ) -> Result<T, VaultError> {
        match self.running.inside.spawn(change).await {
            Ok(result) => result,
            // A panic in a change: its outcome is derived from the store at the next unseal.
            Err(error) => {
                tracing::error!(%request_id, panicked = error.is_panic(), "a change ended without its outcome");
                Err(VaultError::OutcomeUnrecorded(keystead_audit::AuditError::Closed))
            }
        }
    }
}

impl OpenVault {
    /// Does something beside requests, inside the open vault: sealing waits for it.
    pub(crate) fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.running.inside.spawn(work));
    }
}

impl Beside for OpenVault {
    fn closing(&self) -> bool {
        self.running.inside.is_closed()
    }

    fn inside(&self) -> usize {
        // One of them is this.
        self.running.inside.len().saturating_sub(1)
    }
}

impl Clone for OpenVault {
    fn clone(&self) -> Self {
        Self { running: Arc::clone(&self.running), token: self.token.clone() }
    }
}

impl Deref for OpenVault {
    type Target = UnsealedVault;

    fn deref(&self) -> &UnsealedVault {
        &self.running.vault
    }
}
