//! The thread that starts children, logs in, binds keys, keeps deadlines and starts anew. Invariants: a PIN is kept only
//! after the token took it, and dropped when the token no longer does; a login that nobody asked for keeps away from a
//! token that counts wrong PINs. Absent: ordinary requests; callers send those to the connection themselves.

mod change_pin;
mod inspect;
mod kept;

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use keystead_crypto::ports::{HsmError, HsmKey, TokenInfo};
use keystead_crypto::secret::SecretBytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::config::HsmConfig;
use crate::connection::Connection;
use crate::handle::HsmStatus;
use crate::protocol::{Care, Reply, Request, Start};
use crate::refused::RefusedPins;
use crate::report::Report;
use kept::{Kept, Pins};

/// A child that lived this long was no failure of starting.
const STEADY: Duration = Duration::from_secs(5);
/// How long an orderly end may take before the child is killed.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where an answer goes; a caller may have left.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, HsmError>>;

/// What the handle asks of the thread.
pub(crate) enum Command {
    Probe(Answer<TokenInfo>),
    Login(SecretBytes, Care, Answer<TokenInfo>),
    Bind([u8; 8], Vec<HsmKey>, Answer<()>),
    Unbind([u8; 8], HsmKey, Answer<()>),
    ChangePin(SecretBytes, SecretBytes, Answer<()>),
    Inspect(Option<(SecretBytes, Care)>, Answer<Report>),
    Connect(Answer<Arc<Connection>>),
    Logout(oneshot::Sender<()>),
    /// Some child is gone.
    Gone,
    /// The last handle is gone.
    Stop,
}

/// What handles see without asking the thread.
pub(crate) struct Front {
    pub(crate) connection: Option<Arc<Connection>>,
    pub(crate) status: HsmStatus,
}

/// The thread's own.
pub(crate) struct Supervisor {
    config: HsmConfig,
    commands: mpsc::Receiver<Command>,
    to_self: mpsc::Sender<Command>,
    front: Arc<Mutex<Front>>,
    refused: RefusedPins,
    kept: Option<Kept>,
}

impl Supervisor {
    pub(crate) fn new(
        config: HsmConfig,
        commands: mpsc::Receiver<Command>,
        to_self: mpsc::Sender<Command>,
        front: Arc<Mutex<Front>>,
        refused: RefusedPins,
    ) -> Self {
        Self { config, commands, to_self, front, refused, kept: None }
    }

    pub(crate) fn run(mut self) {
        loop {
            let command = match self.wait() {
                None => self.commands.recv().ok(),
                Some(wait) => match self.commands.recv_timeout(wait) {
                    Ok(command) => Some(command),
                    Err(mpsc::RecvTimeoutError::Timeout) => Some(Command::Gone),
                    Err(mpsc::RecvTimeoutError::Disconnected) => None,
                },
            };
            match command {
                None | Some(Command::Stop) => return self.log_out(),
                Some(command) => self.obey(command),
            }
            self.look_after();
        }
    }

    fn obey(&mut self, command: Command) {
        // An answer that nobody waits for any more is dropped.
        match command {
            Command::Probe(answer) => drop(answer.send(self.probe())),
            Command::Login(pin, care, answer) => drop(answer.send(self.login(&pin, care))),
            Command::Bind(vault_tag, keys, answer) => drop(answer.send(self.bind(vault_tag, keys))),
            Command::Unbind(vault_tag, key, answer) => {
                self.unbind(vault_tag, key);
                drop(answer.send(Ok(())));
            }
            Command::ChangePin(current, new, answer) => drop(answer.send(self.change_pin(&current, &new))),
            Command::Inspect(login, answer) => drop(answer.send(self.inspect(login))),
            Command::Connect(answer) => drop(answer.send(self.connect())),
            Command::Logout(answer) => {
                self.log_out();
                // The caller may have left.
                let _ = answer.send(());
            }
            Command::Gone | Command::Stop => {}
        }
    }

    /// How long nothing needs doing, if there is anything to look after.
    fn wait(&self) -> Option<Duration> {
        let kept = self.kept.as_ref()?;
        if self.live().is_some() {
            // A deadline is kept to within an eighth.
            Some((self.config.deadline / 8).clamp(Duration::from_millis(10), Duration::from_millis(500)))
        } else {
            Some(kept.next_try.saturating_duration_since(Instant::now()))
        }
    }

    fn look_after(&mut self) {
        if let Some(connection) = self.live() {
            connection.enforce(self.config.deadline);
        }
        self.note_loss();
        let due = self.kept.as_ref().is_some_and(|kept| kept.next_try <= Instant::now());
        if due && self.live().is_none() {
            // The outcome is in the status.
            let _ = self.come_back();
        }
    }

    fn live(&self) -> Option<Arc<Connection>> {
        let front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        front.connection.clone().filter(|connection| connection.ended().is_none())
    }

    fn show(&self, connection: Option<Arc<Connection>>, status: HsmStatus) {
        let former = {
            let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
            front.status = status;
            std::mem::replace(&mut front.connection, connection)
        };
        if let Some(former) = former {
            former.end(HsmError::Unavailable { reason: "its process was replaced".to_owned() });
        }
    }

    /// Takes a connection that ended out of sight and sets the time of the next try.
    fn note_loss(&mut self) {
        let lost = {
            let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
            let reason = front.connection.as_ref().and_then(|connection| connection.ended());
            if let Some(reason) = &reason {
                front.connection = None;
                front.status = HsmStatus::Down { reason: reason.clone() };
            }
            reason
        };
        let (Some(reason), Some(kept)) = (lost, &mut self.kept) else { return };
        tracing::warn!(%reason, "the HSM's process is gone; starting another");
        if kept.up_since.elapsed() >= STEADY {
            kept.pause = Duration::ZERO;
        }
        kept.put_off();
    }

    fn connect(&mut self) -> Result<Arc<Connection>, HsmError> {
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        self.note_loss();
        match &self.kept {
            None => Err(match &self.front.lock().unwrap_or_else(PoisonError::into_inner).status {
                HsmStatus::Down { reason } => reason.clone(),
                HsmStatus::LoggedOut | HsmStatus::Ready { .. } => HsmError::NotLoggedIn,
            }),
            Some(kept) if kept.next_try > Instant::now() => {
                let front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
                Err(HsmError::Unavailable { reason: format!("starting anew soon, after: {}", front.status) })
            }
            Some(_) => self.come_back(),
        }
    }

    /// Logs in again with the PIN that the token took before, and binds the same keys.
    fn come_back(&mut self) -> Result<Arc<Connection>, HsmError> {
        let Some(mut kept) = self.kept.take() else { return Err(HsmError::NotLoggedIn) };
        match self.try_again(&mut kept) {
            Ok(connection) => {
                tracing::info!(token = %kept.token.label, "the HSM is back");
                kept.up_since = Instant::now();
                kept.uncertain = false;
                self.show(Some(Arc::clone(&connection)), HsmStatus::Ready { token: kept.token.clone() });
                self.kept = Some(kept);
                Ok(connection)
            }
            Err((error, again)) => {
                tracing::warn!(%error, "the HSM is not back");
                if again {
                    kept.put_off();
                    self.kept = Some(kept);
                }
                self.show(None, HsmStatus::Down { reason: error.clone() });
                Err(error)
            }
        }
    }

    /// The error comes with whether another try, later, may be made without a person.
    fn try_again(&mut self, kept: &mut Kept) -> Result<Arc<Connection>, (HsmError, bool)> {
        let (connection, token) = self.start().map_err(|error| (error, true))?;
        if token.serial != kept.token.serial {
            let what = format!("token {} answers in place of {}", token.serial, kept.token.serial);
            return Err((HsmError::Misconfigured { what }, true));
        }
        match &mut kept.pins {
            Pins::Taken(pin) => {
                let silent = std::mem::replace(&mut kept.uncertain, true);
                let care = if silent { Care::Unattended } else { Care::Again };
                self.log_in(&connection, pin.expose(), care).map_err(|error| {
                    // The token's word about the PIN, or about who may send it, is final; all else may be over next time.
                    let settled = matches!(
                        error,
                        HsmError::PinRefused | HsmError::PinLocked | HsmError::Misconfigured { .. }
                    );
                    (error, !settled)
                })?;
            }
            Pins::Either(pins) => kept.pins = Pins::Taken(self.settle(&connection, pins)?),
        }
        kept.uncertain = false;
        if let Some((vault_tag, keys)) = &kept.bound {
            let bind = Request::Bind { vault_tag: *vault_tag, keys: keys.clone() };
            connection.ask(&bind, self.config.deadline).map_err(|error| (error, true))?;
        }
        Ok(Arc::new(connection))
    }

    fn start(&self) -> Result<(Connection, TokenInfo), HsmError> {
        let to_self = self.to_self.clone();
        // Nobody is left to tell when the thread has ended.
        let connection = Connection::start(&self.config, move || drop(to_self.send(Command::Gone)))?;
        let start = Request::Start(Start {
            module: self.config.module.clone(),
            module_sha256: self.config.module_sha256,
            token_label: self.config.token_label.clone(),
            token_serial: self.config.token_serial.clone(),
            sessions: self.config.sessions,
            mechanism: self.config.mechanism,
            gcm_mechanism: self.config.gcm_mechanism,
        });
        let token = expect_token(connection.ask(&start, self.config.deadline)?)?;
        Ok((connection, token))
    }

    fn probe(&self) -> Result<TokenInfo, HsmError> {
        match &self.kept {
            Some(kept) if self.live().is_some() => Ok(kept.token.clone()),
            _ => self.start().map(|(_, token)| token),
        }
    }

    fn login(&mut self, pin: &SecretBytes, care: Care) -> Result<TokenInfo, HsmError> {
        if self.refused.contains(pin.expose()) {
            return Err(HsmError::PinRefused);
        }
        let same = self.kept.as_ref().filter(|kept| kept.took(pin.expose()));
        if let Some(kept) = same.filter(|_| self.live().is_some()) {
            return Ok(kept.token.clone());
        }
        // A login that stands is replaced only by one that succeeds.
        let (connection, _) = self.start()?;
        let token = self.log_in(&connection, pin.expose(), care)?;
        self.kept = Some(Kept::new(pin.expose(), token.clone()));
        self.show(Some(Arc::new(connection)), HsmStatus::Ready { token: token.clone() });
        Ok(token)
    }

    fn log_in(&mut self, connection: &Connection, pin: &[u8], care: Care) -> Result<TokenInfo, HsmError> {
        let login = Request::Login { pin: SecretBytes::copy_from(pin), care };
        self.send_pin(connection, pin, &login, self.config.deadline).and_then(expect_token)
    }

    /// Sends a request with a PIN in it: not if the token refused that one before, and never again once it does.
    fn send_pin(
        &mut self,
        connection: &Connection,
        pin: &[u8],
        request: &Request,
        deadline: Duration,
    ) -> Result<Reply, HsmError> {
        if self.refused.contains(pin) {
            return Err(HsmError::PinRefused);
        }
        let answer = connection.ask(request, deadline);
        if let Err(HsmError::PinRefused) = answer {
            self.refused.insert(pin);
        }
        answer
    }

    fn bind(&mut self, vault_tag: [u8; 8], keys: Vec<HsmKey>) -> Result<(), HsmError> {
        let request = Request::Bind { vault_tag, keys: keys.clone() };
        let outcome = match self.connect()?.ask(&request, self.config.deadline) {
            Err(HsmError::Unavailable { .. }) => self.connect()?.ask(&request, self.config.deadline),
            outcome => outcome,
        };
        outcome?;
        if let Some(kept) = &mut self.kept {
            kept.bound = Some((vault_tag, keys));
        }
        Ok(())
    }

    /// Later children do not look for this key any more; the one that lives forgets it when it destroys it.
    fn unbind(&mut self, vault_tag: [u8; 8], key: HsmKey) {
        if let Some(Kept { bound: Some((bound_tag, keys)), .. }) = &mut self.kept
            && *bound_tag == vault_tag
        {
            keys.retain(|bound| *bound != key);
        }
    }

    fn log_out(&mut self) {
        self.kept = None;
        let live = self.live();
        if let Some(connection) = &live {
            // A child that does not go by itself is killed.
            let _ = connection.ask(&Request::Shutdown, FAREWELL.min(self.config.deadline));
        }
        self.show(None, HsmStatus::LoggedOut);
        if let Some(connection) = live {
            connection.wait_reaped(FAREWELL);
        }
    }
}

fn expect_token(reply: Reply) -> Result<TokenInfo, HsmError> {
    match reply {
        Reply::Token(token) => Ok(token),
        _ => Err(HsmError::Lied { what: "the kind of an answer".to_owned() }),
    }
}
