//! A configured token, and whether it answers.
//!
//! Invariants: a PIN is sent to a token only after the token said its serial, and never again once refused; a token that
//! was away when the vault opened is logged in to when it is back, with the PIN kept in locked memory until then. Whatever
//! is tried without a person is tried only while the token does not count wrong PINs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keystead_crypto::arena::LockedBytes;
use keystead_crypto::ports::{Hsm, HsmError};
use keystead_crypto::seal_record::{SealHeader, TokenWay, Way};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::VaultId;

use crate::seal::keys_of;
use crate::vault::FurtherHsm;

/// A token that the configuration names.
pub(crate) struct Link {
    /// The token.
    pub(crate) hsm: Arc<dyn Hsm>,
    clone_of: Option<String>,
    /// The serial that it said last, where nobody knows it otherwise: a clone has its own.
    said: Mutex<Option<String>>,
    state: Mutex<State>,
    /// The box of the PIN that it took, where its way had several.
    took: Mutex<Option<Vec<u8>>>,
}

/// PINs that the shares opened.
pub(crate) type Pins = Vec<Pin>;

/// A PIN of a way.
pub(crate) struct Pin {
    /// The name of the way.
    pub(crate) way: String,
    pub(crate) pin: LockedBytes,
    /// Its box in the seal record, if the way has others too: a change of the PIN was cut off.
    pub(crate) one_of_several: Option<Vec<u8>>,
    /// Serials of tokens that are not to hear it.
    pub(crate) kept_from: Vec<String>,
}

/// On whose word a PIN is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// A quorum entered its shares just now.
    ByPerson,
    /// Nobody acts.
    Unattended,
}

enum State {
    /// It answers.
    Ready { way: String },
    /// It did; the port brings it back by itself.
    Away { way: String, reason: String },
    /// Nobody is logged in yet.
    Waiting { pins: Pins, reason: String },
    /// Nothing more is tried before a person does.
    Refused { way: Option<String>, error: HsmError },
}

/// What is told of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// The name of its way, once it is known.
    pub way: Option<String>,
    /// Whether it answers.
    pub ready: bool,
    /// What keeps it from answering.
    pub reason: Option<String>,
}

impl Link {
    /// A token that is logged in to.
    pub(crate) fn ready(hsm: Arc<dyn Hsm>, clone_of: Option<String>, way: String) -> Self {
        Self::in_state(hsm, clone_of, State::Ready { way })
    }

    /// A token that refused its PIN.
    pub(crate) fn refused(hsm: Arc<dyn Hsm>, clone_of: Option<String>, error: &HsmError) -> Self {
        let state = State::Refused { way: clone_of.clone(), error: error.clone() };
        Self::in_state(hsm, clone_of, state)
    }

    /// A further token, logged in to if it can be.
    pub(crate) async fn open(further: &FurtherHsm, header: &SealHeader, pins: Pins, care: Care) -> Self {
        let link = Self::with_pins(further, pins, "not tried yet".to_owned());
        link.look(header, care).await;
        link
    }

    /// A token that could not be logged in to just now; it is looked at again later.
    pub(crate) fn waiting(further: &FurtherHsm, pins: Pins, error: &HsmError) -> Self {
        Self::with_pins(further, pins, error.to_string())
    }

    fn with_pins(further: &FurtherHsm, pins: Pins, reason: String) -> Self {
        Self::in_state(Arc::clone(&further.hsm), further.clone_of.clone(), State::Waiting { pins, reason })
    }

    fn in_state(hsm: Arc<dyn Hsm>, clone_of: Option<String>, state: State) -> Self {
        Self { hsm, clone_of, said: Mutex::default(), state: Mutex::new(state), took: Mutex::default() }
    }

    /// The serial of the token that it is a clone of.
    pub(crate) fn clone_of(&self) -> Option<&str> {
        self.clone_of.as_deref()
    }

    /// The name of its way, while it answers.
    pub(crate) fn ready_way(&self) -> Option<String> {
        match &*self.state() {
            State::Ready { way } => Some(way.clone()),
            _ => None,
        }
    }

    /// The name of its way, if that is known.
    pub(crate) fn way(&self) -> Option<String> {
        self.status().way
    }

    /// How it is.
    pub(crate) fn status(&self) -> LinkStatus {
        let (way, reason) = match &*self.state() {
            State::Ready { way } => (Some(way.clone()), None),
            State::Away { way, reason } => (Some(way.clone()), Some(reason.clone())),
            State::Waiting { reason, .. } => (None, Some(reason.clone())),
            State::Refused { way, error } => (way.clone(), Some(error.to_string())),
        };
        LinkStatus { way, ready: reason.is_none(), reason }
    }

    /// Its own serial, if it refused its PIN.
    pub(crate) fn refused_serial(&self) -> Option<String> {
        let refused = matches!(&*self.state(), State::Refused { error: HsmError::PinRefused, .. });
        self.serial().filter(|_| refused)
    }

    /// Its own serial, while it answers.
    pub(crate) fn ready_serial(&self) -> Option<String> {
        let ready = self.ready_way().is_some();
        self.serial().filter(|_| ready)
    }

    fn serial(&self) -> Option<String> {
        match self.clone_of {
            Some(_) => self.said.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => self.way(),
        }
    }

    /// It said its serial.
    pub(crate) fn set_said(&self, serial: String) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(serial);
    }

    /// It became a way, and is logged in to.
    pub(crate) fn joined(&self, way: String) {
        *self.state() = State::Ready { way };
    }

    /// It may have become a way: then it is logged in to with this PIN, once the seal record says so.
    pub(crate) fn may_join(&self, way: &str, pin: &SecretBytes) {
        let mut state = self.state();
        let former = std::mem::replace(&mut *state, nothing());
        let (mut pins, reason) = match former {
            State::Waiting { pins, reason } => (pins, reason),
            _ => (Pins::new(), "nobody knows yet whether it is a way".to_owned()),
        };
        pins.retain(|pin| pin.way != way);
        let pin = LockedBytes::copy_from(pin.expose());
        pins.push(Pin { way: way.to_owned(), pin, one_of_several: None, kept_from: Vec::new() });
        *state = State::Waiting { pins, reason };
    }

    /// The box of the PIN that it took, if its way had several and nobody settled that since.
    pub(crate) fn took(&self) -> Option<Vec<u8>> {
        self.took.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers it, or that it is settled.
    pub(crate) fn set_took(&self, pin_box: Option<Vec<u8>>) {
        *self.took.lock().unwrap_or_else(PoisonError::into_inner) = pin_box;
    }

    /// Takes note of a failure; says whether it means that the token is away.
    pub(crate) fn failed(&self, error: &HsmError) -> bool {
        let away = means_away(error);
        let mut state = self.state();
        if let State::Ready { way } = &*state
            && away
        {
            tracing::warn!(token = %way, %error, "a token is away; others stand in, and what it misses is made up for later");
            *state = State::Away { way: way.clone(), reason: error.to_string() };
        }
        away
    }

    /// Looks whether it is back, and logs in if nobody has yet. No person acts.
    pub(crate) async fn come_back(&self, header: &SealHeader) {
        self.look(header, Care::Unattended).await;
    }

    async fn look(&self, header: &SealHeader, care: Care) {
        let waiting = match &*self.state() {
            State::Ready { .. } | State::Refused { .. } => return,
            State::Away { .. } => None,
            State::Waiting { pins, .. } => Some(pins.iter().map(copy).collect::<Pins>()),
        };
        let next = match waiting {
            // Only whoever is logged in gets an answer.
            None => self.hsm.verifying_key().await.map(drop).map_err(|error| Failure::of(error, None)),
            Some(pins) => self.log_in(header, &pins, care).await,
        };
        let mut state = self.state();
        let former = std::mem::replace(&mut *state, nothing());
        *state = match (next, former) {
            (Ok(()), State::Away { way, .. }) => {
                tracing::info!(token = %way, "a token is back");
                State::Ready { way }
            }
            (Ok(()), former) => former,
            (Err(Failure { error, way, last: true }), _) => {
                tracing::error!(%error, "a further token is not used; mend it and unseal again");
                State::Refused { way, error }
            }
            (Err(failure), State::Away { way, .. }) => State::Away { way, reason: failure.error.to_string() },
            (Err(failure), State::Waiting { pins, .. }) => {
                State::Waiting { pins, reason: failure.error.to_string() }
            }
            (Err(_), former) => former,
        };
    }

    /// The way of the token there, told by its serial before a PIN is sent.
    async fn log_in(&self, header: &SealHeader, pins: &Pins, care: Care) -> Result<(), Failure> {
        let serial = self.hsm.probe().await.map_err(|error| Failure::of(error, None))?.serial;
        self.set_said(serial.clone());
        let name = self.clone_of.clone().unwrap_or_else(|| serial.clone());
        let strange = |what: String| Failure::of(HsmError::Misconfigured { what }, None);
        let Some(way) = header.ways.iter().filter_map(Way::token).find(|way| way.serial == name) else {
            return Err(strange(format!("the vault knows no token {name}; add it first")));
        };
        let mut refused = strange(format!("there is no PIN for token {name}"));
        for pin in pins.iter().filter(|pin| pin.way == name && !pin.kept_from.contains(&serial)) {
            let pin_copy = SecretBytes::copy_from(pin.pin.expose());
            let logged_in = match care {
                Care::ByPerson => self.hsm.login(pin_copy).await,
                Care::Unattended => self.hsm.login_unattended(pin_copy).await,
            };
            match logged_in {
                Ok(found) if found.serial != serial => {
                    // Whoever has the PIN now is not to have it again.
                    let error = HsmError::Lied { what: "its serial changed at login".to_owned() };
                    return Err(Failure { error, way: None, last: true });
                }
                Ok(_) => {
                    self.bind(header, way).await.map_err(|error| Failure::of(error, Some(name.clone())))?;
                    self.set_took(pin.one_of_several.clone());
                    tracing::info!(token = %name, "a further token is logged in to");
                    *self.state() = State::Ready { way: name };
                    return Ok(());
                }
                Err(HsmError::PinRefused) => refused = Failure::of(HsmError::PinRefused, Some(name.clone())),
                Err(error) => return Err(Failure::of(error, Some(name))),
            }
        }
        Err(refused)
    }

    /// Binds the keys that a header names for its way, and makes sure that the token has the vault's audit key.
    ///
    /// # Errors
    /// Those of the token; `Misconfigured` for another audit key.
    pub(crate) async fn bind(&self, header: &SealHeader, way: &TokenWay) -> Result<(), HsmError> {
        self.hsm.bind(VaultId(header.vault).tag(), &keys_of(header, way)).await?;
        let vouched = header.audit_key_at(way.audit_key);
        if vouched == Some(&self.hsm.verifying_key().await?) {
            return Ok(());
        }
        Err(HsmError::Misconfigured { what: "the token's audit key is not the vault's".to_owned() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stands in a state's place while another is made of it.
fn nothing() -> State {
    State::Refused { way: None, error: HsmError::NotLoggedIn }
}

/// Whether an error says that a token does not answer.
pub(crate) fn means_away(error: &HsmError) -> bool {
    matches!(error, HsmError::Unavailable { .. } | HsmError::DeadlineExceeded { .. } | HsmError::NotLoggedIn)
}

/// Why a token is not logged in to.
struct Failure {
    error: HsmError,
    way: Option<String>,
    /// A person has to do something before another try could do better than harm.
    last: bool,
}

impl Failure {
    /// The token's word about the PIN is final. All else, a self-test that failed once too, may be over next time.
    fn of(error: HsmError, way: Option<String>) -> Self {
        let last = matches!(error, HsmError::PinRefused | HsmError::PinLocked);
        Self { error, way, last }
    }
}

fn copy(pin: &Pin) -> Pin {
    Pin {
        way: pin.way.clone(),
        pin: LockedBytes::copy_from(pin.pin.expose()),
        one_of_several: pin.one_of_several.clone(),
        kept_from: pin.kept_from.clone(),
    }
}
