//! Sealing by the rung in use, and opening by the mechanism that a blob names. Invariant: lengths are checked before and
//! after each call, since tokens take empty IVs and short tags too. Absent: choosing the rung (`ladder`).

pub(super) mod cbc_hmac;
pub(super) mod gcm;

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use keystead_crypto::mechanism::Mechanism;
use keystead_crypto::ports::{HsmError, HsmSealed};
use keystead_crypto::secret::SecretBytes;

use super::fault::Fault;
use cbc_hmac::TokenKeys;
use gcm::{Gcm, LastIv};

const KNOWN_AAD: &[u8] = b"keystead/known-answer/v1";
const KNOWN_PLAINTEXT: &[u8; 32] = b"keystead known answer of a key..";

/// A way of sealing that a token may know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rung {
    GcmHostIv,
    /// With room for an IV of so many bytes.
    GcmHsmIv(usize),
    GcmAppendedIv,
    CbcHmac,
}

impl Rung {
    /// Its mechanism in stored bytes.
    pub(super) fn mechanism(self) -> Mechanism {
        match self {
            Self::GcmHostIv => Mechanism::GcmHostIv,
            Self::GcmHsmIv(_) => Mechanism::GcmHsmIv,
            Self::GcmAppendedIv => Mechanism::GcmAppendedIv,
            Self::CbcHmac => Mechanism::CbcHmac,
        }
    }
}

/// A wrapping key, and the MAC key that goes with it if it was made for CBC.
#[derive(Debug, Clone, Copy)]
pub(super) struct CipherKey {
    pub(super) aes: ObjectHandle,
    pub(super) mac: Option<ObjectHandle>,
}

/// What all calls of one token share.
pub(super) struct Cipher {
    pub(super) gcm: Gcm,
    pub(super) last_iv: LastIv,
}

impl Cipher {
    pub(super) fn seal(
        &self,
        session: &Session,
        rung: Rung,
        key: CipherKey,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<HsmSealed, Fault> {
        let (iv, ciphertext) = match rung {
            Rung::GcmHostIv => self.gcm.seal_host_iv(session, key.aes, aad, plaintext)?,
            Rung::GcmHsmIv(bytes) => self.gcm.seal_hsm_iv(session, key.aes, bytes, aad, plaintext)?,
            Rung::GcmAppendedIv => self.gcm.seal_appended_iv(session, key.aes, aad, plaintext)?,
            Rung::CbcHmac => {
                let mac = key.mac.ok_or_else(|| HsmError::Misconfigured {
                    what: "this key was made for AES-GCM and has no MAC key; set hsm.mechanism back, or rotate the key"
                        .to_owned(),
                })?;
                cbc_hmac::seal(&TokenKeys { session, aes: key.aes, mac }, aad, plaintext)?
            }
        };
        self.last_iv.check(&iv)?;
        let sealed = HsmSealed { mechanism: rung.mechanism().number(), iv, ciphertext };
        if sealed.may_hold(plaintext.len()) {
            Ok(sealed)
        } else {
            Err(HsmError::Lied { what: "the length of a ciphertext".to_owned() }.into())
        }
    }

    /// Opens a ciphertext, or says whether it or the device is to blame.
    pub(super) fn open(
        &self,
        session: &Session,
        key: CipherKey,
        known: Option<&KnownAnswer>,
        aad: &[u8],
        sealed: &HsmSealed,
    ) -> Result<SecretBytes, Fault> {
        let mechanism = sealed.well_formed().ok_or(HsmError::NotAuthentic)?;
        let opened = match mechanism {
            Mechanism::GcmHostIv | Mechanism::GcmHsmIv | Mechanism::GcmAppendedIv => {
                let alive = || known.is_some_and(|known| known.holds(self, session, key));
                self.gcm.open(session, key.aes, alive, aad, &sealed.iv, &sealed.ciphertext)?
            }
            Mechanism::CbcHmac => {
                let lost =
                    || HsmError::NotUnique { what: "MAC key beside the wrapping key".to_owned(), found: 0 };
                let mac = key.mac.ok_or_else(lost)?;
                cbc_hmac::open(
                    &TokenKeys { session, aes: key.aes, mac },
                    aad,
                    &sealed.iv,
                    &sealed.ciphertext,
                )?
            }
        };
        if sealed.may_hold(opened.len()) {
            Ok(opened)
        } else {
            Err(HsmError::Lied { what: "the length of a plaintext".to_owned() }.into())
        }
    }
}

/// A ciphertext that its key must open: tells a forged ciphertext from a broken device.
#[derive(Clone)]
pub(super) struct KnownAnswer(HsmSealed);

impl KnownAnswer {
    pub(super) fn make(
        cipher: &Cipher,
        session: &Session,
        rung: Rung,
        key: CipherKey,
    ) -> Result<Self, Fault> {
        let made = Self(cipher.seal(session, rung, key, KNOWN_AAD, KNOWN_PLAINTEXT)?);
        match made.opened(cipher, session, key) {
            Ok(opened) if opened.expose() == KNOWN_PLAINTEXT => Ok(made),
            Ok(_) | Err(Fault::Answer(HsmError::NotAuthentic)) => {
                Err(HsmError::Lied { what: "a fresh ciphertext does not open".to_owned() }.into())
            }
            // A call that fails is a device in trouble, not one that lies: a fresh process may find it well.
            Err(fault) => Err(fault),
        }
    }

    fn opened(&self, cipher: &Cipher, session: &Session, key: CipherKey) -> Result<SecretBytes, Fault> {
        cipher.open(session, key, None, KNOWN_AAD, &self.0)
    }

    fn holds(&self, cipher: &Cipher, session: &Session, key: CipherKey) -> bool {
        self.opened(cipher, session, key).is_ok_and(|opened| opened.expose() == KNOWN_PLAINTEXT)
    }
}

/// Random bytes of the system's CSPRNG.
fn host_random<const N: usize>() -> Result<[u8; N], HsmError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| HsmError::Unavailable { reason: format!("no random IV: {error}") })?;
    Ok(bytes)
}
