//! Secret values. Invariant: wiped when dropped, never printed, never cloned by accident; `expose` is the one door.

use std::fmt;

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// Secret bytes of any length: a value, a PIN, a token, a share's text.
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over; the caller keeps no copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Copies a slice in; the caller wipes the source.
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self::new(bytes.to_vec())
    }

    /// The one door to the content.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives the bytes away, for moving them into a reply at the last moment.
    pub fn into_exposed(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }
}

impl ConstantTimeEq for SecretBytes {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.expose().ct_eq(other.expose())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

/// A 256-bit key on the heap, so that moves leave no copies behind.
pub struct SecretKey(Box<[u8; 32]>);

impl SecretKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut key = Self::zeroed();
        rng.fill_bytes(key.0.as_mut_slice());
        key
    }

    /// A place for a key that is filled by `fill`.
    pub fn build(fill: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut key = Self::zeroed();
        fill(&mut key.0);
        key
    }

    /// Copies 32 bytes in, or says no when there are more or fewer.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 32] = bytes.try_into().ok()?;
        Some(Self::build(|key| key.copy_from_slice(bytes)))
    }

    /// The one door to the content.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn zeroed() -> Self {
        Self(Box::new([0; 32]))
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ConstantTimeEq for SecretKey {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.expose().ct_eq(other.expose())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}
