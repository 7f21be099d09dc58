//! AES-GCM with its three kinds of IV: the host's, the HSM's written back, the HSM's behind the output. Invariant: an IV
//! that the HSM was to choose and did not, or chose twice in a row, is an error, never a ciphertext. Absent: IVs from
//! outside this process.

use std::hint::black_box;
use std::sync::Mutex;

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::vendor_defined::VendorDefinedMechanism;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::types::Ulong;
use keystead_crypto::ports::HsmError;
use keystead_crypto::secret::SecretBytes;

use super::host_random;
use crate::config::CKM_AES_GCM;
use crate::protocol::TAG;
use crate::worker::fault::Fault;
use crate::worker::token::lock;

const TAG_BITS: Ulong = Ulong::new(128);
const HOST_IV: usize = 12;
/// Room for an IV, and behind it for one that is longer than it was to be.
const ROOM: usize = 64;

/// AES-GCM by the number that this token knows it by.
#[derive(Debug, Clone, Copy)]
pub(in crate::worker) struct Gcm {
    vendor: Option<MechanismType>,
}

/// The IV of the last sealing.
#[derive(Default)]
pub(in crate::worker) struct LastIv(Mutex<Vec<u8>>);

impl LastIv {
    /// Refuses an IV that is the last one again. Two equal random ones in a row are no chance.
    pub(super) fn check(&self, iv: &[u8]) -> Result<(), HsmError> {
        if std::mem::replace(&mut *lock(&self.0), iv.to_vec()) == iv {
            return Err(HsmError::Lied { what: "its IVs repeat".to_owned() });
        }
        Ok(())
    }
}

/// IV, ciphertext with tag.
type Sealed = (Vec<u8>, Vec<u8>);

impl Gcm {
    /// By the standard's number, or a vendor's.
    pub(in crate::worker) fn new(vendor: Option<u32>) -> Result<Self, HsmError> {
        let Some(number) = vendor.filter(|number| *number != CKM_AES_GCM) else {
            return Ok(Self { vendor: None });
        };
        match MechanismType::new_vendor_defined(number.into()) {
            Ok(vendor) => Ok(Self { vendor: Some(vendor) }),
            Err(_) => Err(HsmError::Misconfigured {
                what: format!(
                    "hsm.gcm_mechanism {number:#x} is not a vendor's number: those begin at 0x80000000"
                ),
            }),
        }
    }

    /// The number that the token is asked about.
    pub(in crate::worker) fn kind(self) -> MechanismType {
        self.vendor.unwrap_or(MechanismType::AES_GCM)
    }

    pub(super) fn seal_host_iv(
        self,
        session: &Session,
        key: ObjectHandle,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Sealed, Fault> {
        let iv: [u8; HOST_IV] = host_random()?;
        let (after, out) = self.encrypt(session, key, &iv, aad, plaintext)?;
        if after != iv {
            return Err(unsupported("the token writes IVs of its own"));
        }
        Ok((after, out))
    }

    pub(super) fn seal_hsm_iv(
        self,
        session: &Session,
        key: ObjectHandle,
        bytes: usize,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Sealed, Fault> {
        let zeros = vec![0; bytes];
        let (iv, out) = self.encrypt(session, key, &zeros, aad, plaintext)?;
        if iv == zeros {
            return Err(unsupported("the token makes no IV of its own"));
        }
        Ok((iv, out))
    }

    pub(super) fn seal_appended_iv(
        self,
        session: &Session,
        key: ObjectHandle,
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Sealed, Fault> {
        let (_, mut out) = self.encrypt(session, key, &[], aad, plaintext)?;
        let sealed = plaintext.len().saturating_add(TAG);
        match out.len().checked_sub(sealed) {
            Some(12 | 16) => {
                let iv = out.split_off(sealed);
                Ok((iv, out))
            }
            _ => Err(unsupported("the token puts no IV of 12 or 16 bytes behind the tag")),
        }
    }

    /// Opens a ciphertext with its tag; `alive` says whether the device opens what it must.
    pub(super) fn open(
        self,
        session: &Session,
        key: ObjectHandle,
        alive: impl Fn() -> bool,
        aad: &[u8],
        iv: &[u8],
        ciphertext: &[u8],
    ) -> Result<SecretBytes, Fault> {
        let decrypt = || {
            let mut lent = iv.to_vec();
            let params = GcmParams::new(&mut lent, aad, TAG_BITS)?;
            self.with(params, |mechanism| session.decrypt(mechanism, key, ciphertext))
        };
        let opened = match decrypt() {
            // A device that failed once must not make a good ciphertext look forged: it is asked again once it is well.
            Err(error) if unspecific(&error) && alive() => match decrypt() {
                Err(error) if unspecific(&error) => return Err(HsmError::NotAuthentic.into()),
                again => again,
            },
            first => first,
        };
        match opened {
            Ok(opened) => Ok(SecretBytes::new(opened)),
            Err(Error::Pkcs11(RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange, _)) => {
                Err(HsmError::NotAuthentic.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The IV as it stands after the call, and the output.
    fn encrypt(
        self,
        session: &Session,
        key: ObjectHandle,
        iv: &[u8],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<Sealed, Fault> {
        let mut room = [0; ROOM];
        let (lent, _) =
            room.split_at_mut_checked(iv.len()).ok_or_else(|| unsupported("an IV of that length"))?;
        lent.copy_from_slice(iv);
        let params = GcmParams::new(lent, aad, TAG_BITS)?;
        let out = self.with(params, |mechanism| session.encrypt(mechanism, key, plaintext))?;
        // The module wrote behind the compiler's back.
        let (after, behind) = black_box(&room).split_at_checked(iv.len()).unwrap_or_default();
        if behind.iter().any(|byte| *byte != 0) {
            return Err(unsupported("the token writes longer IVs than it is asked for"));
        }
        Ok((after.to_vec(), out))
    }

    fn with<T>(self, params: GcmParams<'_>, call: impl FnOnce(&Mechanism<'_>) -> T) -> T {
        match self.vendor {
            None => call(&Mechanism::AesGcm(params)),
            Some(kind) => call(&Mechanism::VendorDefined(VendorDefinedMechanism::new(kind, Some(&params)))),
        }
    }
}

/// SoftHSM and others answer a wrong tag in these ways, which a device in trouble has too.
fn unspecific(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed | RvError::DataInvalid, _))
}

fn unsupported(what: &str) -> Fault {
    HsmError::Unsupported { what: what.to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iv_twice_in_a_row_is_refused() {
        let last = LastIv::default();
        assert_eq!(last.check(&[1; 12]), Ok(()));
        assert_eq!(last.check(&[2; 12]), Ok(()));
        assert_eq!(last.check(&[2; 12]), Err(HsmError::Lied { what: "its IVs repeat".into() }));
    }

    #[test]
    fn only_numbers_of_vendors_are_taken() {
        for number in [0, 0x1088, 0x7fff_ffff] {
            assert!(matches!(Gcm::new(Some(number)), Err(HsmError::Misconfigured { .. })), "{number:#x}");
        }
        for standard in [None, Some(0x1087)] {
            assert_eq!(Gcm::new(standard).unwrap().kind(), MechanismType::AES_GCM);
        }
        assert_ne!(Gcm::new(Some(0x8000_1087)).unwrap().kind(), MechanismType::AES_GCM);
    }
}
