//! AES-GCM with the host's IV. Invariant: IV 12 bytes, tag 128 bits, lengths checked before and after each call, since
//! tokens take empty IVs and short tags too. Absent: other rungs of the mechanism ladder.

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::types::Ulong;
use keystead_crypto::ports::HsmError;
use keystead_crypto::secret::SecretBytes;

use super::fault::Fault;
use crate::protocol::{IV, MAX_BLOB, TAG};

const TAG_BITS: Ulong = Ulong::new(128);
const KNOWN_AAD: &[u8] = b"keystead/known-answer/v1";
const KNOWN_PLAINTEXT: &[u8; 32] = b"keystead known answer of a key..";

/// A ciphertext that its key must open: tells a forged ciphertext from a broken device.
#[derive(Clone)]
pub(super) struct KnownAnswer {
    iv: [u8; IV],
    ciphertext: Vec<u8>,
}

impl KnownAnswer {
    pub(super) fn make(session: &Session, key: ObjectHandle) -> Result<Self, Fault> {
        let iv = fresh_iv()?;
        let ciphertext = encrypt(session, key, iv, KNOWN_AAD, KNOWN_PLAINTEXT)?;
        let made = Self { iv, ciphertext };
        if made.holds(session, key) {
            Ok(made)
        } else {
            Err(HsmError::Lied { what: "a fresh ciphertext does not open".to_owned() }.into())
        }
    }

    fn holds(&self, session: &Session, key: ObjectHandle) -> bool {
        let opened = call_decrypt(session, key, self.iv, KNOWN_AAD, &self.ciphertext);
        opened.is_ok_and(|opened| opened.expose() == KNOWN_PLAINTEXT)
    }
}

/// An IV from the system's CSPRNG.
pub(super) fn fresh_iv() -> Result<[u8; IV], HsmError> {
    let mut iv = [0; IV];
    getrandom::fill(&mut iv)
        .map_err(|error| HsmError::Unavailable { reason: format!("no random IV: {error}") })?;
    Ok(iv)
}

/// Ciphertext and tag.
pub(super) fn encrypt(
    session: &Session,
    key: ObjectHandle,
    iv: [u8; IV],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, Fault> {
    let mut lent = iv;
    let params = GcmParams::new(&mut lent, aad, TAG_BITS)?;
    let ciphertext = session.encrypt(&Mechanism::AesGcm(params), key, plaintext)?;
    if lent != iv {
        let what = "AES-GCM with the host's IV: the token wrote an IV of its own".to_owned();
        return Err(HsmError::Unsupported { what }.into());
    }
    if ciphertext.len() != plaintext.len().saturating_add(TAG) {
        return Err(HsmError::Lied { what: "the length of a ciphertext".to_owned() }.into());
    }
    Ok(ciphertext)
}

/// Opens a ciphertext, or says whether it or the device is to blame.
pub(super) fn decrypt(
    session: &Session,
    key: ObjectHandle,
    known: &KnownAnswer,
    iv: [u8; IV],
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<SecretBytes, Fault> {
    if !(TAG..=MAX_BLOB.saturating_add(TAG)).contains(&ciphertext.len()) {
        return Err(HsmError::NotAuthentic.into());
    }
    match call_decrypt(session, key, iv, aad, ciphertext) {
        Ok(opened) if opened.len() == ciphertext.len().saturating_sub(TAG) => Ok(opened),
        Ok(_) => Err(HsmError::Lied { what: "the length of a plaintext".to_owned() }.into()),
        Err(Error::Pkcs11(RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange, _)) => {
            Err(HsmError::NotAuthentic.into())
        }
        // SoftHSM and others answer a wrong tag in these unspecific ways.
        Err(Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed | RvError::DataInvalid, _))
            if known.holds(session, key) =>
        {
            Err(HsmError::NotAuthentic.into())
        }
        Err(error) => Err(error.into()),
    }
}

fn call_decrypt(
    session: &Session,
    key: ObjectHandle,
    iv: [u8; IV],
    aad: &[u8],
    ciphertext: &[u8],
) -> Result<SecretBytes, Error> {
    let mut lent = iv;
    let params = GcmParams::new(&mut lent, aad, TAG_BITS)?;
    session.decrypt(&Mechanism::AesGcm(params), key, ciphertext).map(SecretBytes::new)
}
