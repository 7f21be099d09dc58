//! The mechanisms by which a module seals, and the exact form of what each makes (docs/storage-format.md).
//!
//! Invariant: a number stands for one way of opening, for ever. Absent: the calls, which the module's adapter makes.

use crate::ports::HsmSealed;

/// Bytes of AES-GCM's tag, always whole.
const GCM_TAG: usize = 16;
/// Bytes of AES's block, and of a CBC IV.
const BLOCK: usize = 16;
/// Bytes of HMAC-SHA256.
const MAC: usize = 32;

/// How a module sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// AES-GCM; the IV of 12 bytes is the host's.
    GcmHostIv,
    /// AES-GCM; the module chose the IV of 12 or 16 bytes and wrote it into the parameter.
    GcmHsmIv,
    /// AES-GCM; the module chose the IV of 12 or 16 bytes and put it behind its output.
    GcmAppendedIv,
    /// AES-CBC with PKCS#7 padding, then HMAC-SHA256 under a key of its own.
    CbcHmac,
}

impl Mechanism {
    /// Every mechanism, in the order of preference.
    pub const ALL: [Self; 4] = [Self::GcmHostIv, Self::GcmHsmIv, Self::GcmAppendedIv, Self::CbcHmac];

    /// Its number in stored bytes.
    pub fn number(self) -> u8 {
        match self {
            Self::GcmHostIv => 1,
            Self::GcmHsmIv => 2,
            Self::GcmAppendedIv => 3,
            Self::CbcHmac => 4,
        }
    }

    /// The mechanism of a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.number() == number)
    }

    fn iv_fits(self, bytes: usize) -> bool {
        match self {
            Self::GcmHostIv => bytes == 12,
            Self::GcmHsmIv | Self::GcmAppendedIv => bytes == 12 || bytes == 16,
            Self::CbcHmac => bytes == BLOCK,
        }
    }

    /// Bytes of the ciphertext, with tag or MAC, of so many bytes of plaintext.
    fn sealed_bytes(self, plaintext: usize) -> usize {
        match self {
            Self::GcmHostIv | Self::GcmHsmIv | Self::GcmAppendedIv => plaintext.saturating_add(GCM_TAG),
            Self::CbcHmac => {
                let padding = BLOCK.saturating_sub(plaintext % BLOCK);
                plaintext.saturating_add(padding).saturating_add(MAC)
            }
        }
    }

    fn ciphertext_fits(self, bytes: usize) -> bool {
        bytes >= self.sealed_bytes(0) && (self != Self::CbcHmac || bytes.is_multiple_of(BLOCK))
    }
}

impl HsmSealed {
    /// The mechanism, if IV and ciphertext have lengths that it makes.
    pub fn well_formed(&self) -> Option<Mechanism> {
        Mechanism::from_number(self.mechanism).filter(|mechanism| {
            mechanism.iv_fits(self.iv.len()) && mechanism.ciphertext_fits(self.ciphertext.len())
        })
    }

    /// Whether it is well formed and may hold a plaintext of so many bytes.
    pub fn may_hold(&self, plaintext: usize) -> bool {
        self.well_formed().is_some_and(|mechanism| mechanism.sealed_bytes(plaintext) == self.ciphertext.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(mechanism: u8, iv: usize, ciphertext: usize) -> HsmSealed {
        HsmSealed { mechanism, iv: vec![0; iv], ciphertext: vec![0; ciphertext] }
    }

    #[test]
    fn numbers_are_those_of_the_page() {
        assert_eq!(Mechanism::ALL.map(Mechanism::number), [1, 2, 3, 4]);
        for number in 0..=255 {
            let known = Mechanism::from_number(number).map(Mechanism::number);
            assert_eq!(known, (1..=4).contains(&number).then_some(number));
        }
    }

    #[test]
    fn each_mechanism_has_its_own_ivs() {
        let ivs = |mechanism| (0..=64).filter(move |iv| sealed(mechanism, *iv, 64).well_formed().is_some());
        assert_eq!(ivs(0).count(), 0);
        assert_eq!(ivs(1).collect::<Vec<_>>(), [12]);
        assert_eq!(ivs(2).collect::<Vec<_>>(), [12, 16]);
        assert_eq!(ivs(3).collect::<Vec<_>>(), [12, 16]);
        assert_eq!(ivs(4).collect::<Vec<_>>(), [16]);
        assert_eq!(ivs(5).count(), 0);
    }

    #[test]
    fn a_gcm_ciphertext_is_as_long_as_its_plaintext_and_the_tag() {
        for (mechanism, iv) in [(1, 12), (2, 12), (2, 16), (3, 12), (3, 16)] {
            assert!(sealed(mechanism, iv, 15).well_formed().is_none());
            assert!(sealed(mechanism, iv, 16).may_hold(0));
            assert!(sealed(mechanism, iv, 64).may_hold(48));
            assert!(!sealed(mechanism, iv, 64).may_hold(47) && !sealed(mechanism, iv, 64).may_hold(49));
        }
    }

    #[test]
    fn a_cbc_ciphertext_is_padded_blocks_and_the_mac() {
        for bytes in [0, 32, 47, 49, 63, 65] {
            assert!(sealed(4, 16, bytes).well_formed().is_none(), "{bytes}");
        }
        for (bytes, plaintext) in [(48, 0..=15), (64, 16..=31), (96, 48..=63)] {
            let held: Vec<usize> = (0..200).filter(|length| sealed(4, 16, bytes).may_hold(*length)).collect();
            assert_eq!(held, plaintext.collect::<Vec<_>>());
        }
    }
}
