//! Which rung of the mechanism ladder a token is used by. Invariant: a rung is taken only after its live self-test; one
//! that is configured is never replaced by another. Absent: opening, which follows the blob.

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::vendor_defined::CKM_VENDOR_DEFINED;
use cryptoki::mechanism::{MechanismInfo, MechanismType};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use keystead_crypto::ports::{HsmError, SignatureAlgorithm};

use super::cipher::{Cipher, Rung};
use super::fault::{Fault, verdict};
use super::random::Draws;
use super::selftest;
use crate::config::MechanismChoice;

/// A token's mechanisms.
#[derive(Clone, Copy)]
pub(super) struct Mechanisms<'a> {
    pub(super) module: &'a Pkcs11,
    pub(super) slot: Slot,
}

impl Mechanisms<'_> {
    /// What the token says of a mechanism, if it has it. SoftHSM tells of some that it has not listed and refuses; the
    /// binding does not list vendors' numbers.
    pub(super) fn info(self, kind: MechanismType) -> Option<MechanismInfo> {
        let listed = *kind >= CKM_VENDOR_DEFINED
            || self.module.get_mechanism_list(self.slot).is_ok_and(|list| list.contains(&kind));
        self.module.get_mechanism_info(self.slot, kind).ok().filter(|_| listed)
    }

    fn need(
        self,
        kind: MechanismType,
        met: impl FnOnce(&MechanismInfo) -> bool,
        verb: &str,
    ) -> Result<(), String> {
        match self.info(kind) {
            None => Err(format!("the token has no {kind}")),
            Some(info) if met(&info) => Ok(()),
            Some(_) => Err(format!("the token's {kind} does not {verb}")),
        }
    }

    /// The algorithm of new audit keys: Ed25519, else ECDSA P-256.
    pub(super) fn signature(self) -> Result<SignatureAlgorithm, HsmError> {
        let pair = MechanismInfo::generate_key_pair;
        let ed25519 = self
            .need(MechanismType::ECC_EDWARDS_KEY_PAIR_GEN, pair, "generate key pairs")
            .and_then(|()| self.need(MechanismType::EDDSA, MechanismInfo::sign, "sign"));
        let Err(no_ed25519) = ed25519 else { return Ok(SignatureAlgorithm::Ed25519) };
        let p256 = self
            .need(MechanismType::ECC_KEY_PAIR_GEN, pair, "generate key pairs")
            .and_then(|()| self.need(MechanismType::ECDSA, MechanismInfo::sign, "sign"));
        match p256 {
            Ok(()) => Ok(SignatureAlgorithm::EcdsaP256),
            Err(no_p256) => {
                let what =
                    format!("signatures by neither Ed25519 ({no_ed25519}) nor ECDSA P-256 ({no_p256})");
                Err(HsmError::Unsupported { what })
            }
        }
    }

    /// Why a rung cannot be tried, from the list of mechanisms.
    pub(super) fn lack(self, cipher: &Cipher, rung: Rung) -> Option<String> {
        let both = |info: &MechanismInfo| info.encrypt() && info.decrypt();
        let aes_key = self.need(MechanismType::AES_KEY_GEN, MechanismInfo::generate, "generate keys");
        let needs = match rung {
            Rung::GcmHostIv | Rung::GcmHsmIv(_) | Rung::GcmAppendedIv => {
                aes_key.and_then(|()| self.need(cipher.gcm.kind(), both, "encrypt and decrypt"))
            }
            Rung::CbcHmac => aes_key
                .and_then(|()| self.need(MechanismType::AES_CBC_PAD, both, "encrypt and decrypt"))
                .and_then(|()| self.need(MechanismType::SHA256_HMAC, MechanismInfo::sign, "sign"))
                .and_then(|()| {
                    self.need(MechanismType::GENERIC_SECRET_KEY_GEN, MechanismInfo::generate, "generate keys")
                }),
        };
        needs.err()
    }
}

/// The rungs that a configuration allows, in the order in which they are tried.
pub(super) fn rungs(choice: MechanismChoice) -> &'static [Rung] {
    match choice {
        MechanismChoice::Auto => {
            &[Rung::GcmHostIv, Rung::GcmHsmIv(12), Rung::GcmHsmIv(16), Rung::GcmAppendedIv, Rung::CbcHmac]
        }
        MechanismChoice::AesGcm => &[Rung::GcmHostIv],
        MechanismChoice::AesGcmHsmIv => &[Rung::GcmHsmIv(12), Rung::GcmHsmIv(16)],
        MechanismChoice::AesGcmAppendedIv => &[Rung::GcmAppendedIv],
        MechanismChoice::AesCbcHmac => &[Rung::CbcHmac],
    }
}

/// The name of a rung in configuration and in reports.
pub(super) fn name(rung: Rung) -> &'static str {
    match rung {
        Rung::GcmHostIv => MechanismChoice::AesGcm.word(),
        Rung::GcmHsmIv(_) => MechanismChoice::AesGcmHsmIv.word(),
        Rung::GcmAppendedIv => MechanismChoice::AesGcmAppendedIv.word(),
        Rung::CbcHmac => MechanismChoice::AesCbcHmac.word(),
    }
}

/// Why a rung is not used: what the token lacks or how it failed the test. `Unavailable` says nothing of the rung.
pub(super) fn try_rung(
    mechanisms: Mechanisms<'_>,
    session: &Session,
    cipher: &Cipher,
    draws: &Draws,
    rung: Rung,
) -> Result<(), HsmError> {
    if let Some(what) = mechanisms.lack(cipher, rung) {
        return Err(HsmError::Unsupported { what });
    }
    selftest::rung(session, cipher, draws, rung).map_err(|fault| match fault {
        Fault::Answer(error) => error,
        Fault::Call(error) => verdict(&error),
    })
}

/// The first rung that the token passes. A device in trouble ends the search: its next rung would be taken for good.
pub(super) fn choose(
    mechanisms: Mechanisms<'_>,
    session: &Session,
    cipher: &Cipher,
    draws: &Draws,
    choice: MechanismChoice,
) -> Result<Rung, HsmError> {
    let mut refusals = Vec::new();
    for rung in rungs(choice) {
        match try_rung(mechanisms, session, cipher, draws, *rung) {
            Ok(()) => return Ok(*rung),
            Err(HsmError::Unavailable { reason }) => {
                let reason =
                    format!("trying {}: {reason}; set hsm.mechanism if that is not passing", name(*rung));
                return Err(HsmError::Unavailable { reason });
            }
            Err(error) => refusals.push(format!("{}: {error}", name(*rung))),
        }
    }
    Err(HsmError::Unsupported {
        what: format!("no rung of hsm.mechanism is usable: {}", refusals.join("; ")),
    })
}
