//! One opened token: module, slot, anchor session, and the keys it is bound to. Invariant: the anchor session is opened
//! before the login and closed last, since closing the last session logs out. Absent: the working sessions (`jobs`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::{AuthPin, RawAuthPin};
use keystead_crypto::ports::{HsmError, HsmKey, HsmKeyPurpose, TokenInfo};
use keystead_crypto::secret::SecretBytes;
use zeroize::Zeroize;

use super::cipher::gcm::{Gcm, LastIv};
use super::cipher::{Cipher, CipherKey, KnownAnswer, Rung};
use super::fault::{Fault, verdict};
use super::ladder::Mechanisms;
use super::objects::Ways;
use super::random::Draws;
use super::sign::Pair;
use super::{ladder, module, objects, selftest};
use crate::config::MechanismChoice;
use crate::protocol::{Care, Start};

/// A token that is open.
pub(super) struct Token {
    module: Pkcs11,
    slot: Slot,
    info: TokenInfo,
    anchor_session: Mutex<Option<Session>>,
    bound: Mutex<Option<Bound>>,
    pub(super) draws: Draws,
    pub(super) cipher: Cipher,
    choice: MechanismChoice,
    /// Set by the login.
    ways: OnceLock<Ways>,
    /// Held while the anchor changes, so that two stores cannot cross.
    pub(super) anchor_store: Mutex<()>,
}

/// The keys of one vault.
#[derive(Clone)]
struct Bound {
    vault_tag: [u8; 8],
    keys: HashMap<HsmKey, BoundKey>,
}

/// A key that was found and checked.
#[derive(Clone)]
pub(super) enum BoundKey {
    /// A wrapping key, with something it must be able to decrypt if it can seal by the rung in use.
    Cipher { key: CipherKey, known: Option<KnownAnswer> },
    /// A key pair that signs.
    Pair(Pair),
}

impl Token {
    pub(super) fn open(start: &Start) -> Result<Self, HsmError> {
        let module = module::load(start)?;
        let (slot, found) = module::find_token(&module, start)?;
        let cipher = Cipher { gcm: Gcm::new(start.gcm_mechanism)?, last_iv: LastIv::default() };
        let info = TokenInfo {
            serial: found.serial_number().trim().to_owned(),
            label: found.label().trim_end().to_owned(),
            model: format!("{} {}", found.manufacturer_id().trim(), found.model().trim()),
        };
        Ok(Self {
            module,
            slot,
            info,
            anchor_session: Mutex::new(None),
            bound: Mutex::new(None),
            draws: Draws::default(),
            cipher,
            choice: start.mechanism,
            ways: OnceLock::new(),
            anchor_store: Mutex::new(()),
        })
    }

    pub(super) fn info(&self) -> &TokenInfo {
        &self.info
    }

    pub(super) fn session(&self) -> Result<Session, Error> {
        self.module.open_rw_session(self.slot)
    }

    /// Logs in and tests the token.
    pub(super) fn login(&self, pin: SecretBytes, care: Care) -> Result<(), HsmError> {
        let session = self.open_logged_in(pin, care)?;
        let mechanisms = self.mechanisms();
        let signature = mechanisms.signature()?;
        selftest::random_source(&session, &self.draws).map_err(answer)?;
        selftest::signature(&session, signature).map_err(answer)?;
        let rung = ladder::choose(mechanisms, &session, &self.cipher, &self.draws, self.choice)?;
        self.ways.get_or_init(|| Ways { rung, signature });
        *lock(&self.anchor_session) = Some(session);
        Ok(())
    }

    /// A session after the login, which sends the PIN once.
    pub(super) fn open_logged_in(&self, pin: SecretBytes, care: Care) -> Result<Session, HsmError> {
        let found = self.module.get_token_info(self.slot).map_err(|error| verdict(&error))?;
        if found.user_pin_locked() {
            return Err(HsmError::PinLocked);
        }
        let counting = match care {
            Care::ByPerson => false,
            Care::Again => found.user_pin_final_try(),
            Care::Unattended => found.user_pin_final_try() || found.user_pin_count_low(),
        };
        if counting {
            return Err(HsmError::Misconfigured {
                what: "the token counts wrong PINs, so no program sends it one; a person must log in with the right one, as unsealing with shares does".to_owned(),
            });
        }
        let session = self.session().map_err(|error| verdict(&error))?;
        let pin = RawAuthPin::new(Box::new(pin.into_exposed()));
        match session.login_with_raw(UserType::User, &pin) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => return Err(verdict(&error)),
        }
        Ok(session)
    }

    /// What the token can do.
    pub(super) fn mechanisms(&self) -> Mechanisms<'_> {
        Mechanisms { module: &self.module, slot: self.slot }
    }

    /// The rungs that the configuration allows.
    pub(super) fn choice(&self) -> MechanismChoice {
        self.choice
    }

    /// Changes the user's PIN, on a session of its own, so that a stale one cannot make it be sent twice.
    pub(super) fn change_pin(&self, current: SecretBytes, new: SecretBytes) -> Result<(), HsmError> {
        let found = self.module.get_token_info(self.slot).map_err(|error| verdict(&error))?;
        let (least, most) = (found.min_pin_length(), found.max_pin_length());
        if !(least..=most).contains(&new.len()) {
            let what = format!("a new PIN of {} bytes; the token takes {least} to {most}", new.len());
            return Err(HsmError::Misconfigured { what });
        }
        let (current, new) = (text_pin(current)?, text_pin(new)?);
        let session = self.session().map_err(|error| verdict(&error))?;
        session.set_pin(&current, &new).map_err(|error| match error {
            Error::Pkcs11(RvError::PinInvalid | RvError::PinLenRange | RvError::PinTooWeak, _) => {
                HsmError::Misconfigured { what: "the token does not take a new PIN like this one".to_owned() }
            }
            error => verdict(&error),
        })
    }

    /// Finds and checks the keys of a vault; on failure the former binding stays.
    pub(super) fn bind(&self, session: &Session, vault_tag: [u8; 8], keys: &[HsmKey]) -> Result<(), Fault> {
        let mut found = HashMap::new();
        for key in keys {
            found.insert(*key, self.find_key(session, vault_tag, *key)?);
        }
        *lock(&self.bound) = Some(Bound { vault_tag, keys: found });
        Ok(())
    }

    /// Forgets a key that is about to be destroyed, so that nobody misses it when the others are looked up again.
    pub(super) fn unbind(&self, vault_tag: [u8; 8], key: HsmKey) {
        if let Some(bound) = lock(&self.bound).as_mut().filter(|bound| bound.vault_tag == vault_tag) {
            bound.keys.remove(&key);
        }
    }

    fn find_key(&self, session: &Session, vault_tag: [u8; 8], key: HsmKey) -> Result<BoundKey, Fault> {
        if key.purpose == HsmKeyPurpose::Audit {
            return Ok(BoundKey::Pair(objects::find_pair(session, vault_tag, key)?));
        }
        let found = objects::find_cipher(session, vault_tag, key)?;
        let rung = self.ways()?.rung;
        let known = if rung == Rung::CbcHmac && found.mac.is_none() {
            // Made for AES-GCM, it still opens what it sealed, and best with an answer to compare with.
            let known = KnownAnswer::make(&self.cipher, session, Rung::GcmHostIv, found).ok();
            if known.is_some() && self.choice == MechanismChoice::Auto {
                // The ladder came past AES-GCM by a fault that is over: on this rung the key could seal nothing.
                let reason = "AES-GCM failed its self-test a moment ago, and works".to_owned();
                return Err(HsmError::Unavailable { reason }.into());
            }
            known
        } else {
            Some(KnownAnswer::make(&self.cipher, session, rung, found)?)
        };
        Ok(BoundKey::Cipher { key: found, known })
    }

    /// How keys are made and blobs are sealed.
    pub(super) fn ways(&self) -> Result<Ways, HsmError> {
        self.ways.get().copied().ok_or(HsmError::NotLoggedIn)
    }

    /// Looks the bound keys up again, after a handle went stale.
    pub(super) fn find_again(&self, session: &Session) -> Result<(), HsmError> {
        let Some(Bound { vault_tag, keys }) = lock(&self.bound).clone() else { return Ok(()) };
        let keys: Vec<HsmKey> = keys.into_keys().collect();
        // A key that is gone may be the whole token gone: only a fresh process can tell the two apart.
        self.bind(session, vault_tag, &keys)
            .map_err(|_| HsmError::Unavailable { reason: "the token's keys vanished".to_owned() })
    }

    /// A bound key.
    pub(super) fn key(&self, key: HsmKey) -> Result<BoundKey, HsmError> {
        let bound = lock(&self.bound);
        let found = bound.as_ref().and_then(|bound| bound.keys.get(&key)).cloned();
        found.ok_or_else(|| HsmError::NotUnique {
            what: format!("bound {} key of version {}", key.purpose.word(), key.version),
            found: 0,
        })
    }

    /// The newest bound audit key.
    pub(super) fn audit_key(&self) -> Result<Pair, HsmError> {
        let bound = lock(&self.bound);
        let pairs = bound.iter().flat_map(|bound| &bound.keys).filter_map(|(key, found)| match found {
            BoundKey::Pair(pair) => Some((key.version, *pair)),
            BoundKey::Cipher { .. } => None,
        });
        let newest = pairs.max_by_key(|(version, _)| *version);
        newest
            .map(|(_, pair)| pair)
            .ok_or_else(|| HsmError::NotUnique { what: "bound audit key".to_owned(), found: 0 })
    }

    /// The vault that is bound.
    pub(super) fn vault_tag(&self) -> Result<[u8; 8], HsmError> {
        let tag = lock(&self.bound).as_ref().map(|bound| bound.vault_tag);
        tag.ok_or_else(|| HsmError::Misconfigured { what: "no vault's keys are bound".to_owned() })
    }

    /// Logs out, closes the anchor session and finalizes. Other sessions must be closed by now.
    pub(super) fn close(&self) {
        if let Some(session) = lock(&self.anchor_session).take() {
            // The process ends next: a token that refuses to log out loses its last session all the same.
            let _ = session.logout();
        }
        let _ = self.module.clone().finalize();
    }
}

/// The answer for a fault that gets no second try.
pub(super) fn answer(fault: Fault) -> HsmError {
    match fault {
        Fault::Answer(error) => error,
        Fault::Call(error) => verdict(&error),
    }
}

/// PKCS#11 PINs are UTF-8.
fn text_pin(pin: SecretBytes) -> Result<AuthPin, HsmError> {
    let text = String::from_utf8(pin.into_exposed()).map_err(|error| {
        // The error holds the bytes.
        error.into_bytes().zeroize();
        HsmError::Misconfigured { what: "a PIN that is not UTF-8 cannot be changed".to_owned() }
    })?;
    Ok(AuthPin::from(text))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
