//! Opening without shares: Q boxed by the tokens alone. Invariant: such a box is bound to its vault, its token and an auto
//! key of its own, so that destroying that key ends every copy of the box. Here, and only here, does a module see Q.

use subtle::ConstantTimeEq;

use crate::arena::LockedKey;
use crate::codec::{CodecError, Reader, Writer};
use crate::envelope::{MAX_TOKEN_BYTES, Q, check_sealed};
use crate::error::CryptoError;
use crate::ports::{HsmError, HsmKey, HsmKeyPurpose, HsmSealed, KeyWrapper};
use crate::seal_record::{MAX_WAYS, QBox};
use crate::secret::SecretBytes;

const MAGIC: [u8; 4] = *b"KSSA";
const FORMAT: u8 = 1;
const LABEL: &str = "keystead/v1/auto-box";
const WHAT: &str = "auto-unseal record";
const BOX: &str = "auto box of Q";
const Q_BYTES: usize = 32;

/// Which box it is.
#[derive(Debug, Clone, Copy)]
pub struct AutoPlace<'a> {
    /// The vault.
    pub vault: [u8; 16],
    /// The version of the auto key.
    pub version: u32,
    /// The token's serial.
    pub token: &'a str,
}

impl AutoPlace<'_> {
    fn aad(self, q_version: u32) -> Vec<u8> {
        Writer::new().text(LABEL).raw(&self.vault).u32(self.version).text(self.token).u32(q_version).finish()
    }

    fn key(self) -> HsmKey {
        HsmKey { purpose: HsmKeyPurpose::Auto, version: self.version }
    }
}

/// Boxes Q under the auto key. The box was opened again when this returns.
///
/// # Errors
/// Those of the module.
pub async fn seal(hsm: &dyn KeyWrapper, place: AutoPlace<'_>, q: &Q) -> Result<HsmSealed, CryptoError> {
    let sealed = hsm.wrap(place.key(), &place.aad(q.version()), q.expose()).await?;
    check_sealed(&sealed, Q_BYTES)?;
    let opened = open(hsm, place, q.version(), &sealed).await?;
    if bool::from(opened.expose().ct_eq(q.expose())) {
        Ok(sealed)
    } else {
        Err(CryptoError::lied("a fresh auto box of Q opened to other bytes"))
    }
}

/// Opens it.
///
/// # Errors
/// `NotAuthentic`, and those of the module.
pub async fn open(
    hsm: &dyn KeyWrapper,
    place: AutoPlace<'_>,
    q_version: u32,
    sealed: &HsmSealed,
) -> Result<Q, CryptoError> {
    let opened = match hsm.unwrap(place.key(), &place.aad(q_version), sealed).await {
        Ok(opened) => SecretBytes::new(opened),
        Err(HsmError::NotAuthentic) => return Err(CryptoError::NotAuthentic { what: BOX }),
        Err(other) => return Err(other.into()),
    };
    LockedKey::from_slice(opened.expose())
        .map(|key| Q::new(q_version, key))
        .ok_or_else(|| CryptoError::lied("an auto box of Q has another length"))
}

/// What one token opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoBoxes {
    /// The token's serial.
    pub token: String,
    /// Q, the newest version first.
    pub q: Vec<QBox>,
}

/// The record beside the seal record. Without boxes it says that the vault does not open by itself any more, and that the
/// auto keys up to this version are to be destroyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoSeal {
    /// The version of the auto key; counts from 1.
    pub version: u32,
    /// Of each token.
    pub boxes: Vec<AutoBoxes>,
}

impl AutoSeal {
    /// Whether it opens anything.
    pub fn enabled(&self) -> bool {
        !self.boxes.is_empty()
    }

    /// Whether an auto key is of no use any more by what this says.
    pub fn outlived(&self, version: u32) -> bool {
        version < self.version || (version == self.version && !self.enabled())
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(&MAGIC).u8(FORMAT).u32(self.version).u8(u8::try_from(self.boxes.len()).unwrap_or(0));
        for boxes in &self.boxes {
            out.text(&boxes.token);
            QBox::write_all(&boxes.q, &mut out);
        }
        out.finish()
    }

    /// Reads it back, strictly.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn decode(bytes: &[u8]) -> Result<Self, CryptoError> {
        Self::read(bytes).map_err(CryptoError::malformed(WHAT))
    }

    fn read(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.magic(MAGIC, FORMAT)?;
        let version = reader.u32("version")?;
        if version == 0 {
            return Err(CodecError::Invalid { field: "version" });
        }
        let count = reader.count("tokens", 0, MAX_WAYS)?;
        let boxes = (0..count).map(|_| read_boxes(&mut reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { version, boxes })
    }
}

fn read_boxes(reader: &mut Reader<'_>) -> Result<AutoBoxes, CodecError> {
    let token = reader.text("token", 1, MAX_TOKEN_BYTES)?.to_owned();
    Ok(AutoBoxes { token, q: QBox::read_all(reader)? })
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Lie, MemoryHsm, system_rng};

    const PLACE: AutoPlace<'static> = AutoPlace { vault: [7; 16], version: 1, token: "0123456789abcdef" };

    #[test]
    fn opens_for_its_vault_token_key_and_version_only() {
        let hsm = MemoryHsm::honest();
        let q = Q::generate(3, &mut system_rng());
        let sealed = block_on(seal(&hsm, PLACE, &q)).unwrap();
        let opened = block_on(open(&hsm, PLACE, 3, &sealed)).unwrap();
        assert!(bool::from(opened.expose().ct_eq(q.expose())));
        let others = [
            (AutoPlace { vault: [8; 16], ..PLACE }, 3),
            (AutoPlace { version: 2, ..PLACE }, 3),
            (AutoPlace { token: "fedcba9876543210", ..PLACE }, 3),
            (PLACE, 4),
        ];
        for (place, q_version) in others {
            let error = block_on(open(&hsm, place, q_version, &sealed)).unwrap_err();
            assert_eq!(error, CryptoError::NotAuthentic { what: BOX });
        }
    }

    #[test]
    fn a_module_that_lies_is_not_believed() {
        let q = Q::generate(1, &mut system_rng());
        for lie in [Lie::OtherBytes, Lie::ShortBytes, Lie::LongIv, Lie::NoEncryption] {
            let error = block_on(seal(&MemoryHsm::lying(lie), PLACE, &q)).unwrap_err();
            assert!(matches!(error, CryptoError::Hsm(HsmError::Lied { .. })), "{lie:?}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn parses_as_printed_and_nothing_shorter(version in 1u32.., tokens in 0usize..4, two: bool) {
            let q = |version| QBox {
                version,
                sealed: HsmSealed { mechanism: 1, iv: vec![1; 12], ciphertext: vec![2; 48] },
            };
            let boxes = (0..tokens)
                .map(|number| AutoBoxes {
                    token: format!("token{number}"),
                    q: if two { vec![q(2), q(1)] } else { vec![q(1)] },
                })
                .collect();
            let record = AutoSeal { version, boxes };
            let bytes = record.encode();
            prop_assert_eq!(AutoSeal::decode(&bytes), Ok(record));
            for cut in 0..bytes.len() {
                prop_assert!(AutoSeal::decode(&bytes[..cut]).is_err());
            }
        }
    }
}
