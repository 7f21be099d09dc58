//! What the gate passes around: the request as it came, the caller it proved to be, and the permit it earned.
//!
//! Invariant: a [`Permit`] needs three proofs (who, allowed, recorded) that only the gate can make; none of them has a
//! public constructor. Leaving one out does not compile:
//!
//! ```compile_fail
//! use keystead_core::{request::{Caller, Permit}, secrets::ReadSecret};
//! fn made_up(caller: Caller) -> Permit<ReadSecret> {
//!     Permit { caller, intent: None, view: None, op: std::marker::PhantomData }
//! }
//! ```
//! Without identification (a caller cannot be made up):
//! ```compile_fail
//! use keystead_core::request::{Caller, Peer};
//! use keystead_domain::{policy::Method, principal::PrincipalRecord, time::UnixMillis};
//! fn made_up(record: std::sync::Arc<PrincipalRecord>, expires: UnixMillis, peer: Peer) -> Caller {
//!     Caller { record, method: Method::Certificate, expires, session: None, peer }
//! }
//! ```
//! Without a decision:
//! ```compile_fail
//! use keystead_core::{request::Allowed, secrets::ReadSecret};
//! fn made_up() -> Allowed<ReadSecret> {
//!     Allowed { op: std::marker::PhantomData }
//! }
//! ```
//! Without a place in the audit log:
//! ```compile_fail
//! use keystead_core::request::Reserved;
//! fn made_up() -> Reserved {
//!     Reserved { slots: Vec::new() }
//! }
//! ```
//! With the permit of another operation:
//! ```compile_fail
//! use keystead_core::{request::Permit, secrets::{self, ListSecrets, ReadSecret}, unsealed::UnsealedVault};
//! async fn wrong(vault: &UnsealedVault, read: &ReadSecret, permit: &Permit<ListSecrets>) {
//!     let _ = secrets::read(vault, permit, read).await;
//! }
//! ```
//! A job's permit cannot be made up either:
//! ```compile_fail
//! use keystead_core::request::SystemPermit;
//! enum Job {}
//! fn made_up() -> SystemPermit<Job> {
//!     SystemPermit { intent: 7, job: std::marker::PhantomData }
//! }
//! ```
//! The same with the right permit compiles, so the refusals above are for the reasons named:
//! ```
//! use keystead_core::{request::Permit, secrets::{self, ReadSecret}, unsealed::UnsealedVault};
//! async fn right(vault: &UnsealedVault, read: &ReadSecret, permit: &Permit<ReadSecret>) {
//!     let _ = secrets::read(vault, permit, read).await;
//! }
//! ```

use std::marker::PhantomData;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use keystead_audit::Slot;
use keystead_crypto::token::Token;
use keystead_domain::id::RequestId;
use keystead_domain::policy::Method;
use keystead_domain::principal::{PrincipalName, PrincipalRecord};
use keystead_domain::time::UnixMillis;
use keystead_domain::{CertificateMatcher, GroupName};
use keystead_storage::{Snapshot, StorageError};

use crate::unsealed::UnsealedVault;

/// A request as it reached the edge, before anybody believed it.
pub struct RequestContext {
    /// Its id: the caller's, or one made at the edge.
    pub request_id: RequestId,
    /// W3C trace id, 32 hex digits.
    pub trace_id: Option<String>,
    /// Where it came from.
    pub peer: Peer,
    /// The certificate of the connection, verified against the client CA.
    pub certificate: Option<Arc<PresentedCertificate>>,
    /// The token in its metadata.
    pub token: Option<Arc<Token>>,
    /// It showed a token or certificate that does not count: malformed, expired, revoked.
    pub refused: bool,
    /// When it arrived, on the monotonic clock.
    pub arrived: Duration,
}

impl RequestContext {
    /// The same request once more: an item of a batch. The token is shared, not copied.
    pub fn again(&self) -> Self {
        Self {
            request_id: self.request_id.clone(),
            trace_id: self.trace_id.clone(),
            peer: self.peer,
            certificate: self.certificate.clone(),
            token: self.token.clone(),
            refused: self.refused,
            arrived: self.arrived,
        }
    }
}

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Over TLS.
    Remote(IpAddr),
    /// Over the local Unix socket, by this user.
    Local {
        /// The peer's user id, from the kernel.
        uid: u32,
    },
}

impl Peer {
    /// For the audit log.
    pub fn describe(&self) -> String {
        match self {
            Self::Remote(address) => address.to_string(),
            Self::Local { uid } => format!("local:uid={uid}"),
        }
    }
}

/// A client certificate that the TLS layer verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentedCertificate {
    /// Its identities, as spelled in the certificate that was verified.
    pub identities: Vec<CertificateMatcher>,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// SHA-256 of the issuing CA's certificate.
    pub ca_fingerprint: [u8; 32],
    /// When it ends.
    pub not_after: UnixMillis,
}

/// Who calls: proof of identification.
#[derive(Debug, Clone)]
pub struct Caller {
    record: Arc<PrincipalRecord>,
    method: Method,
    expires: UnixMillis,
    session: Option<Vec<u8>>,
    peer: Peer,
}

impl Caller {
    pub(crate) fn proven(
        record: Arc<PrincipalRecord>,
        method: Method,
        expires: UnixMillis,
        session: Option<Vec<u8>>,
        peer: Peer,
    ) -> Self {
        Self { record, method, expires, session, peer }
    }

    /// The same caller as another record would make it, for asking what that could do.
    pub(crate) fn with_record(&self, record: PrincipalRecord) -> Self {
        Self { record: Arc::new(record), ..self.clone() }
    }

    /// What its identities are.
    pub(crate) fn record(&self) -> &PrincipalRecord {
        &self.record
    }

    /// The principal.
    pub fn principal(&self) -> &PrincipalName {
        &self.record.name
    }

    /// Its groups.
    pub fn groups(&self) -> &[GroupName] {
        &self.record.groups
    }

    /// How it was authenticated for this request.
    pub fn method(&self) -> Method {
        self.method
    }

    /// Where it calls from.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// When the authentication ends.
    pub fn expires(&self) -> UnixMillis {
        self.expires
    }

    /// The storage key of its session, if a token authenticated it.
    pub fn session(&self) -> Option<&[u8]> {
        self.session.as_deref()
    }
}

/// Proof that the policies allow `Op`.
pub struct Allowed<Op> {
    op: PhantomData<fn(Op)>,
}

impl<Op> Allowed<Op> {
    pub(crate) fn decided() -> Self {
        Self { op: PhantomData }
    }
}

/// Proof that the audit log has room for what this request will record.
pub struct Reserved {
    slots: Vec<Slot>,
}

impl Reserved {
    pub(crate) fn new(slots: Vec<Slot>) -> Self {
        Self { slots }
    }

    pub(crate) fn take(&mut self) -> Option<Slot> {
        self.slots.pop()
    }
}

/// The right to do `Op` once.
pub struct Permit<Op> {
    caller: Caller,
    intent: Option<u64>,
    view: Option<Box<dyn Snapshot>>,
    op: PhantomData<fn(Op)>,
}

impl<Op> Permit<Op> {
    /// The three proofs make a permit.
    pub(crate) fn grant(caller: Caller, _: Allowed<Op>, _: &Reserved) -> Self {
        Self { caller, intent: None, view: None, op: PhantomData }
    }

    /// For a change: the audit sequence that it carries into its batch.
    pub(crate) fn with_intent(self, intent: u64) -> Self {
        Self { intent: Some(intent), ..self }
    }

    /// For a read: what its caller was identified in.
    pub(crate) fn with_view(self, view: Box<dyn Snapshot>) -> Self {
        Self { view: Some(view), ..self }
    }

    /// What the operation sees of the store: a read the same as the gate, anything else what is there now.
    pub(crate) async fn view(&self, vault: &UnsealedVault) -> Result<View<'_>, StorageError> {
        match &self.view {
            Some(view) => Ok(View::Gate(view.as_ref())),
            None => vault.storage.snapshot().await.map(View::Now),
        }
    }

    /// On whose behalf.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The audit sequence of the intent, for a change.
    pub fn intent(&self) -> Option<u64> {
        self.intent
    }
}

/// A view of the store, for one operation.
pub(crate) enum View<'a> {
    /// The gate's.
    Gate(&'a (dyn Snapshot + 'static)),
    /// Its own.
    Now(Box<dyn Snapshot>),
}

impl Deref for View<'_> {
    type Target = dyn Snapshot;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Gate(snapshot) => *snapshot,
            Self::Now(snapshot) => snapshot.as_ref(),
        }
    }
}

/// The right of the vault itself to do `Job`, recorded as `system/<job>`.
pub struct SystemPermit<Job> {
    intent: u64,
    job: PhantomData<fn(Job)>,
}

impl<Job> SystemPermit<Job> {
    pub(crate) fn recorded(intent: u64) -> Self {
        Self { intent, job: PhantomData }
    }

    /// The audit sequence of the intent.
    pub fn intent(&self) -> u64 {
        self.intent
    }
}
