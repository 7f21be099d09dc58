//! The parent's side: the ports, over a child that may die at any time. Invariant: no request waits for a child longer
//! than the deadline, and one bad call costs the others an `Unavailable` at most. Absent: trust in the child: lengths
//! and kinds of its answers are checked here again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use async_trait::async_trait;
use keystead_crypto::mechanism::Mechanism;
use keystead_crypto::ports::{
    Anchor, Entropy, HsmError, HsmKey, HsmLogin, HsmSealed, KeyWrapper, Signer, TokenInfo, VerifyingKey,
};
use keystead_crypto::secret::SecretBytes;
use tokio::sync::{Semaphore, oneshot};

use crate::config::HsmConfig;
use crate::connection::Connection;
use crate::protocol::{Care, MAX_ADDED, MAX_ANCHOR, MAX_BLOB, MAX_MESSAGE, MAX_RANDOM, Reply, Request};
use crate::refused::RefusedPins;
use crate::report::Report;
use crate::supervisor::{Answer, Command, Front, Supervisor};

/// Requests under way in the child; the others wait without counting against the deadline.
const IN_FLIGHT: usize = 256;

/// One token, shared by all tasks. Clones are the same connection; the last one to go logs out.
#[derive(Clone)]
pub struct HsmHandle(Arc<Shared>);

/// Where a PIN for [`HsmHandle::inspect`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinOrigin {
    /// Somebody typed it just now.
    Person,
    /// A file or a pipe, which may hold the same wrong one again.
    Program,
}

/// How the token is reached at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HsmStatus {
    /// Nobody has logged in.
    LoggedOut,
    /// The token answers.
    Ready {
        /// Which one.
        token: TokenInfo,
    },
    /// It did, and is being brought back; or the token refused to be.
    Down {
        /// What happened last.
        reason: HsmError,
    },
}

impl fmt::Display for HsmStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoggedOut => f.write_str("logged out"),
            Self::Ready { token } => write!(f, "token {} is ready", token.label),
            Self::Down { reason } => reason.fmt(f),
        }
    }
}

struct Shared {
    commands: mpsc::Sender<Command>,
    front: Arc<Mutex<Front>>,
    in_flight: Arc<Semaphore>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A thread that has ended has nothing left to stop.
        let _ = self.commands.send(Command::Stop);
    }
}

impl HsmHandle {
    /// Checks the configuration. The child starts with the first probe or login.
    pub fn spawn(config: HsmConfig) -> Result<Self, HsmError> {
        config.check()?;
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|error| unavailable(format!("no random bytes: {error}")))?;
        let front = Arc::new(Mutex::new(Front { connection: None, status: HsmStatus::LoggedOut }));
        let (commands, orders) = mpsc::channel();
        let supervisor =
            Supervisor::new(config, orders, commands.clone(), Arc::clone(&front), RefusedPins::new(salt));
        thread::Builder::new()
            .name("hsm".to_owned())
            .spawn(move || supervisor.run())
            .map_err(|error| unavailable(format!("no thread for its process: {error}")))?;
        Ok(Self(Arc::new(Shared { commands, front, in_flight: Arc::new(Semaphore::new(IN_FLIGHT)) })))
    }

    /// Looks at the token and what is on it, changing nothing; with a PIN, also tries what needs a login. One that a
    /// program reads is not sent while the token counts wrong PINs, so that a look made again and again locks nothing.
    pub async fn inspect(&self, login: Option<(SecretBytes, PinOrigin)>) -> Result<Report, HsmError> {
        let login = login.map(|(pin, source)| {
            let care = match source {
                PinOrigin::Person => Care::ByPerson,
                PinOrigin::Program => Care::Unattended,
            };
            (pin, care)
        });
        self.order(|answer| Command::Inspect(login, answer)).await
    }

    /// How the token is reached now, without asking it.
    pub fn status(&self) -> HsmStatus {
        let front = self.0.front.lock().unwrap_or_else(PoisonError::into_inner);
        match front.connection.as_ref().and_then(|connection| connection.ended()) {
            Some(reason) => HsmStatus::Down { reason },
            None => front.status.clone(),
        }
    }

    /// The child's process id, for operators who look for it.
    pub fn worker_pid(&self) -> Option<u32> {
        self.live().map(|connection| connection.pid())
    }

    fn live(&self) -> Option<Arc<Connection>> {
        let front = self.0.front.lock().unwrap_or_else(PoisonError::into_inner);
        front.connection.clone().filter(|connection| connection.ended().is_none())
    }

    async fn order<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, HsmError> {
        let (answer, answered) = oneshot::channel();
        let gone = || unavailable("its supervisor has ended".to_owned());
        self.0.commands.send(command(answer)).map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }

    /// One request, a second time on a fresh child if the first one's died under it and repeating does no harm.
    async fn call(&self, request: Request) -> Result<Reply, HsmError> {
        match self.call_once(&request).await {
            Err(HsmError::Unavailable { .. }) if request.repeatable() => self.call_once(&request).await,
            answer => answer,
        }
    }

    async fn call_once(&self, request: &Request) -> Result<Reply, HsmError> {
        let gone = || unavailable("its supervisor has ended".to_owned());
        // The permit goes with the request, not with its caller: one that leaves early has not freed its place.
        let permit = Arc::clone(&self.0.in_flight).acquire_owned().await.map_err(|_| gone())?;
        let connection = match self.live() {
            Some(connection) => connection,
            None => self.order(Command::Connect).await?,
        };
        let (answer, answered) = oneshot::channel();
        connection.send(
            request,
            Box::new(move |reply| {
                drop(permit);
                // The caller may have left.
                let _ = answer.send(reply);
            }),
        );
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

#[async_trait]
impl HsmLogin for HsmHandle {
    async fn probe(&self) -> Result<TokenInfo, HsmError> {
        self.order(Command::Probe).await
    }

    async fn login(&self, pin: SecretBytes) -> Result<TokenInfo, HsmError> {
        self.order(|answer| Command::Login(pin, Care::ByPerson, answer)).await
    }

    async fn login_unattended(&self, pin: SecretBytes) -> Result<TokenInfo, HsmError> {
        self.order(|answer| Command::Login(pin, Care::Unattended, answer)).await
    }

    async fn logout(&self) {
        let (answer, answered) = oneshot::channel();
        if self.0.commands.send(Command::Logout(answer)).is_ok() {
            // An end of the thread is a logout too.
            let _ = answered.await;
        }
    }

    async fn create_key(&self, vault_tag: [u8; 8], key: HsmKey) -> Result<(), HsmError> {
        done(self.call(Request::CreateKey { vault_tag, key }).await?)
    }

    async fn destroy_key(&self, vault_tag: [u8; 8], key: HsmKey) -> Result<(), HsmError> {
        // Before, since its answer may be lost: with a key bound that is gone, no later child would come back.
        self.order(|answer| Command::Unbind(vault_tag, key, answer)).await?;
        done(self.call(Request::DestroyKey { vault_tag, key }).await?)
    }

    async fn list_keys(&self, vault_tag: [u8; 8]) -> Result<Vec<HsmKey>, HsmError> {
        match self.call(Request::ListKeys { vault_tag }).await? {
            Reply::Keys(keys) if keys.is_sorted_by(|one, next| one < next) => Ok(keys),
            _ => Err(lied("the order of a list of keys")),
        }
    }

    async fn change_pin(&self, current: SecretBytes, new: SecretBytes) -> Result<(), HsmError> {
        self.order(|answer| Command::ChangePin(current, new, answer)).await
    }

    async fn bind(&self, vault_tag: [u8; 8], keys: &[HsmKey]) -> Result<(), HsmError> {
        let keys = keys.to_vec();
        self.order(|answer| Command::Bind(vault_tag, keys, answer)).await
    }
}

#[async_trait]
impl KeyWrapper for HsmHandle {
    async fn wrap(&self, key: HsmKey, aad: &[u8], plaintext: &[u8]) -> Result<HsmSealed, HsmError> {
        fits("a blob", plaintext.len(), MAX_BLOB)?;
        fits("an AAD", aad.len(), MAX_BLOB)?;
        let request = Request::Wrap { key, aad: aad.to_vec(), plaintext: SecretBytes::copy_from(plaintext) };
        match self.call(request).await? {
            Reply::Sealed(sealed) if sealed.may_hold(plaintext.len()) => Ok(sealed),
            _ => Err(lied("the form of a wrap")),
        }
    }

    async fn unwrap(&self, key: HsmKey, aad: &[u8], sealed: &HsmSealed) -> Result<Vec<u8>, HsmError> {
        fits("an AAD", aad.len(), MAX_BLOB)?;
        if Mechanism::from_number(sealed.mechanism).is_none() {
            return Err(HsmError::Unsupported { what: format!("mechanism {} of a wrap", sealed.mechanism) });
        }
        if sealed.well_formed().is_none() || sealed.ciphertext.len() > MAX_BLOB.saturating_add(MAX_ADDED) {
            return Err(HsmError::NotAuthentic);
        }
        let request = Request::Unwrap { key, aad: aad.to_vec(), sealed: sealed.clone() };
        match self.call(request).await? {
            Reply::Bytes(bytes) if sealed.may_hold(bytes.len()) => Ok(bytes.into_exposed()),
            _ => Err(lied("the length of a plaintext")),
        }
    }

    async fn wrap_and_unwrap(
        &self,
        key: HsmKey,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<(HsmSealed, Vec<u8>), HsmError> {
        fits("a blob", plaintext.len(), MAX_BLOB)?;
        fits("an AAD", aad.len(), MAX_BLOB)?;
        let plain = SecretBytes::copy_from(plaintext);
        match self.call(Request::WrapAndUnwrap { key, aad: aad.to_vec(), plaintext: plain }).await? {
            Reply::SealedAndOpened(sealed, opened)
                if sealed.may_hold(plaintext.len()) && opened.len() == plaintext.len() =>
            {
                Ok((sealed, opened.into_exposed()))
            }
            _ => Err(lied("the form of a wrap, or the length of what it opened to")),
        }
    }
}

#[async_trait]
impl Signer for HsmHandle {
    async fn verifying_key(&self) -> Result<VerifyingKey, HsmError> {
        match self.call(Request::VerifyingKey).await? {
            Reply::Key(key) if key.well_formed() => Ok(key),
            _ => Err(lied("the form of a public key")),
        }
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, HsmError> {
        fits("a message to sign", message.len(), MAX_MESSAGE)?;
        match self.call(Request::Sign { message: message.to_vec() }).await? {
            Reply::Bytes(signature) if signature.len() == 64 => Ok(signature.into_exposed()),
            _ => Err(lied("the length of a signature")),
        }
    }
}

#[async_trait]
impl Anchor for HsmHandle {
    async fn store(&self, counter: u64, value: &[u8]) -> Result<(), HsmError> {
        fits("an anchor", value.len(), MAX_ANCHOR)?;
        done(self.call(Request::AnchorStore { counter, value: value.to_vec() }).await?)
    }

    async fn load(&self) -> Result<Option<(u64, Vec<u8>)>, HsmError> {
        match self.call(Request::AnchorLoad).await? {
            Reply::Anchor(value) => Ok(value),
            _ => Err(lied("the kind of an answer")),
        }
    }
}

#[async_trait]
impl Entropy for HsmHandle {
    async fn random(&self, bytes: usize) -> Result<SecretBytes, HsmError> {
        fits("a draw of random bytes", bytes, MAX_RANDOM)?;
        let wanted = u32::try_from(bytes).unwrap_or(u32::MAX);
        match self.call(Request::Random { bytes: wanted }).await? {
            Reply::Bytes(drawn) if drawn.len() == bytes => Ok(drawn),
            _ => Err(lied("the length of random bytes")),
        }
    }
}

fn done(reply: Reply) -> Result<(), HsmError> {
    match reply {
        Reply::Done => Ok(()),
        _ => Err(lied("the kind of an answer")),
    }
}

fn fits(what: &str, bytes: usize, most: usize) -> Result<(), HsmError> {
    if bytes <= most {
        return Ok(());
    }
    Err(HsmError::Unsupported { what: format!("{what} of {bytes} bytes; at most {most} are allowed") })
}

fn lied(what: &str) -> HsmError {
    HsmError::Lied { what: what.to_owned() }
}

fn unavailable(reason: String) -> HsmError {
    HsmError::Unavailable { reason }
}
