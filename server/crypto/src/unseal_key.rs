//! U, the unseal key: what the shares combine to. It exists only while unsealing.
//!
//! Invariants: U itself encrypts nothing; each box has a key of its own, derived with a fresh salt and bound to vault
//! and epoch. The PIN's length does not show. Q's box is sealed twice: under U here, and that under the epoch key in
//! the module, so that destroying the epoch key makes old shares worthless.

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::aead::MessageKey;
use crate::arena::LockedKey;
use crate::codec::Writer;
use crate::envelope::{Q, check_sealed};
use crate::error::CryptoError;
use crate::kdf;
use crate::ports::{HsmError, HsmKey, HsmKeyPurpose, HsmSealed, KeyWrapper};
use crate::recovery::RecoveryIdentity;
use crate::secret::SecretBytes;
use crate::stack::swept_deep;

const PIN_LABEL: &str = "keystead/v1/unseal/pin";
const Q_LABEL: &str = "keystead/v1/unseal/q";
const Q_BOX_LABEL: &str = "keystead/v1/q-box";
const PIN_BOX: &str = "PIN box";
const Q_BOX: &str = "box of Q";
/// The longest PIN: PKCS#11 tokens take up to 255 bytes.
pub const MAX_PIN_BYTES: usize = 255;
/// Length of every PIN box: salt, 256 padded bytes, tag.
pub const PIN_BOX_BYTES: usize = 32 + 256 + 16;
const Q_INNER_BYTES: usize = 32 + 32 + 16;

/// Which box it is.
#[derive(Debug, Clone, Copy)]
pub struct BoxPlace<'a> {
    /// The vault.
    pub vault: [u8; 16],
    /// The epoch of the shares.
    pub epoch: u32,
    /// The name of the way (see [`crate::seal_record::Way::name`]).
    pub way: &'a str,
}

/// The unseal key.
#[derive(Debug)]
pub struct UnsealKey(LockedKey);

impl UnsealKey {
    /// A fresh one.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(LockedKey::generate(rng))
    }

    pub(crate) fn new(key: LockedKey) -> Self {
        Self(key)
    }

    pub(crate) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// Seals the token's PIN.
    pub fn pin_box_seal(
        &self,
        place: BoxPlace<'_>,
        pin: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, CryptoError> {
        let too_long = CryptoError::TooLong { what: "PIN", found: pin.len(), max: MAX_PIN_BYTES };
        let length = u8::try_from(pin.len()).map_err(|_| too_long)?;
        let mut padded = Zeroizing::new([0; 1 + MAX_PIN_BYTES]);
        for (to, from) in padded.iter_mut().zip([length].iter().chain(pin)) {
            *to = *from;
        }
        self.seal(PIN_BOX, PIN_LABEL, &place.bytes(), padded.as_slice(), rng)
    }

    /// Opens the PIN box. A wrong unseal key is found here.
    pub fn pin_box_open(&self, place: BoxPlace<'_>, sealed: &[u8]) -> Result<SecretBytes, CryptoError> {
        let opened = self.open(PIN_BOX, PIN_LABEL, &place.bytes(), sealed)?;
        let malformed = CryptoError::NotAuthentic { what: PIN_BOX };
        let Some((length, padded)) = opened.expose().split_first() else { return Err(malformed) };
        match padded.split_at_checked(usize::from(*length)) {
            Some((pin, padding))
                if padded.len() == MAX_PIN_BYTES && padding.iter().all(|byte| *byte == 0) =>
            {
                Ok(SecretBytes::copy_from(pin))
            }
            _ => Err(malformed),
        }
    }

    /// Seals Q for a way to box: the inner half of Q's box.
    pub fn q_inner_seal(
        &self,
        place: BoxPlace<'_>,
        q: &Q,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, CryptoError> {
        self.seal(Q_BOX, Q_LABEL, &place.of_q(q.version()), q.expose(), rng)
    }

    /// Opens the inner half of Q's box.
    pub fn q_inner_open(&self, place: BoxPlace<'_>, q_version: u32, sealed: &[u8]) -> Result<Q, CryptoError> {
        let opened = self.open(Q_BOX, Q_LABEL, &place.of_q(q_version), sealed)?;
        LockedKey::from_slice(opened.expose())
            .map(|key| Q::new(q_version, key))
            .ok_or(CryptoError::NotAuthentic { what: Q_BOX })
    }

    /// Boxes Q: under U, and that under the epoch key in the module. The box was opened again when this returns.
    pub fn box_q<'a>(
        &self,
        hsm: &'a dyn KeyWrapper,
        place: BoxPlace<'_>,
        q: &Q,
        mut rng: &mut dyn CryptoRng,
    ) -> impl Future<Output = Result<HsmSealed, CryptoError>> + Send + use<'a> {
        let inner = self.q_inner_seal(place, q, &mut rng);
        let (key, bound) = (place.epoch_key(), q_box_aad(place, q.version()));
        async move {
            let inner = inner?;
            let sealed = hsm.wrap(key, &bound, &inner).await?;
            check_sealed(&sealed, Q_INNER_BYTES)?;
            if hsm.unwrap(key, &bound, &sealed).await? != inner {
                return Err(CryptoError::lied("a fresh box of Q opened to other bytes"));
            }
            Ok(sealed)
        }
    }

    /// Opens Q's box.
    pub async fn unbox_q(
        &self,
        hsm: &dyn KeyWrapper,
        place: BoxPlace<'_>,
        q_version: u32,
        sealed: &HsmSealed,
    ) -> Result<Q, CryptoError> {
        let inner = match hsm.unwrap(place.epoch_key(), &q_box_aad(place, q_version), sealed).await {
            Ok(inner) => inner,
            Err(HsmError::NotAuthentic) => return Err(CryptoError::NotAuthentic { what: Q_BOX }),
            Err(other) => return Err(other.into()),
        };
        self.q_inner_open(place, q_version, &inner)
    }

    /// Opens the box of Q of a recovery way, with its private half.
    ///
    /// # Errors
    /// `NotAuthentic`.
    pub fn recover_q(
        &self,
        identity: &RecoveryIdentity,
        place: BoxPlace<'_>,
        q_version: u32,
        sealed: &HsmSealed,
    ) -> Result<Q, CryptoError> {
        let inner = identity.open(Q_BOX, sealed, Q_INNER_BYTES)?;
        self.q_inner_open(place, q_version, &inner)
    }

    fn seal(
        &self,
        what: &'static str,
        label: &str,
        context: &[u8],
        plaintext: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, CryptoError> {
        let mut salt = vec![0; 32];
        rng.fill_bytes(&mut salt);
        swept_deep(|| {
            let key = MessageKey::new(kdf::derive(self.expose(), &salt, label, context));
            key.seal(what, salt, plaintext)
        })
    }

    fn open(
        &self,
        what: &'static str,
        label: &str,
        context: &[u8],
        sealed: &[u8],
    ) -> Result<SecretBytes, CryptoError> {
        let (salt, message) = sealed.split_first_chunk::<32>().ok_or(CryptoError::NotAuthentic { what })?;
        swept_deep(|| MessageKey::new(kdf::derive(self.expose(), salt, label, context)).open(what, message))
    }
}

impl BoxPlace<'_> {
    fn bytes(self) -> Vec<u8> {
        Writer::new().raw(&self.vault).u32(self.epoch).text(self.way).finish()
    }

    fn of_q(self, q_version: u32) -> Vec<u8> {
        Writer::new().raw(&self.bytes()).u32(q_version).finish()
    }

    fn epoch_key(self) -> HsmKey {
        HsmKey { purpose: HsmKeyPurpose::Epoch, version: self.epoch }
    }
}

/// What the module binds Q's box to.
fn q_box_aad(place: BoxPlace<'_>, q_version: u32) -> Vec<u8> {
    Writer::new().text(Q_BOX_LABEL).raw(&place.of_q(q_version)).finish()
}
