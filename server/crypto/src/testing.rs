//! What this crate's tests share: hex, steerable randomness, a module in memory. Compiled for tests only.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Mutex;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use async_trait::async_trait;
use ed25519_dalek::Signer as _;
use rand_core::{TryCryptoRng, TryRng, UnwrapErr};
use sha2::{Digest, Sha256};

use crate::ports::{HsmError, HsmKey, HsmSealed, KeyWrapper, SignatureAlgorithm, Signer, VerifyingKey};

pub(crate) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// The system's randomness.
pub(crate) fn system_rng() -> UnwrapErr<getrandom::SysRng> {
    UnwrapErr(getrandom::SysRng)
}

/// Repeatable bytes: a counter for vectors that a reader can follow, a hash chain for properties.
pub(crate) enum TestRng {
    Counting(u8),
    Seeded { seed: u64, block: u64 },
}

impl TestRng {
    /// `first`, `first + 1`, … modulo 256.
    pub(crate) fn counting(first: u8) -> Self {
        Self::Counting(first)
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self::Seeded { seed, block: 0 }
    }
}

impl TryRng for TestRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        match self {
            Self::Counting(next) => {
                for byte in out {
                    *byte = *next;
                    *next = next.wrapping_add(1);
                }
            }
            Self::Seeded { seed, block } => {
                for chunk in out.chunks_mut(32) {
                    let hash = Sha256::digest([seed.to_be_bytes(), block.to_be_bytes()].concat());
                    chunk.copy_from_slice(&hash[..chunk.len()]);
                    *block += 1;
                }
            }
        }
        Ok(())
    }
}

impl TryCryptoRng for TestRng {}

/// How the module lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Unwraps to bytes with one bit changed.
    OtherBytes,
    /// Unwraps to what another key would give: as many bytes of 0x77.
    OtherKey,
    /// Unwraps to one byte less.
    ShortBytes,
    /// Answers a wrap with an IV of 16 bytes.
    LongIv,
    /// Hands the plaintext back as the ciphertext, without a tag.
    NoEncryption,
    /// Signs another message.
    OtherMessage,
    /// Does not answer at all.
    Away,
}

/// A module in memory: key = SHA-256 of its name, IV = a counter, so that vectors are fixed.
pub(crate) struct MemoryHsm {
    pub(crate) lie: Lie,
    token: u8,
    calls: Mutex<HashMap<&'static str, u64>>,
}

impl MemoryHsm {
    pub(crate) fn honest() -> Self {
        Self::lying(Lie::None)
    }

    pub(crate) fn lying(lie: Lie) -> Self {
        Self { lie, token: 1, calls: Mutex::default() }
    }

    /// Another token: its keys have the same names and other bytes.
    pub(crate) fn of_token(token: u8) -> Self {
        Self { lie: Lie::None, token, calls: Mutex::default() }
    }

    pub(crate) fn calls(&self, name: &'static str) -> u64 {
        self.calls.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    fn count(&self, name: &'static str) -> u64 {
        let mut calls = self.calls.lock().unwrap();
        let count = calls.entry(name).or_default();
        *count += 1;
        *count
    }

    pub(crate) fn key(key: HsmKey) -> [u8; 32] {
        Sha256::digest(key.label(*b"memory\0\0")).into()
    }

    fn cipher(&self, key: HsmKey) -> Aes256Gcm {
        let mut key = Self::key(key);
        key[0] ^= self.token ^ 1;
        Aes256Gcm::new(&key.into())
    }

    fn answer(&self) -> Result<(), HsmError> {
        let away = HsmError::Unavailable { reason: "it is away".to_owned() };
        if self.lie == Lie::Away { Err(away) } else { Ok(()) }
    }

    pub(crate) fn signing_key() -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&[0x5a; 32])
    }
}

#[async_trait]
impl KeyWrapper for MemoryHsm {
    async fn wrap(&self, key: HsmKey, aad: &[u8], plaintext: &[u8]) -> Result<HsmSealed, HsmError> {
        self.answer()?;
        let mut iv = vec![0; 12];
        iv[4..].copy_from_slice(&self.count("wrap").to_be_bytes());
        let nonce = Nonce::try_from(iv.as_slice()).unwrap();
        let mut ciphertext = self.cipher(key).encrypt(&nonce, Payload { msg: plaintext, aad }).unwrap();
        match self.lie {
            Lie::LongIv => iv.extend([0; 4]),
            Lie::NoEncryption => ciphertext = plaintext.to_vec(),
            _ => {}
        }
        Ok(HsmSealed { mechanism: 1, iv, ciphertext })
    }

    async fn unwrap(&self, key: HsmKey, aad: &[u8], sealed: &HsmSealed) -> Result<Vec<u8>, HsmError> {
        self.count("unwrap");
        self.answer()?;
        if sealed.mechanism != 1 {
            return Err(HsmError::Unsupported { what: format!("mechanism {}", sealed.mechanism) });
        }
        let nonce = Nonce::try_from(sealed.iv.as_slice()).map_err(|_| HsmError::NotAuthentic)?;
        let mut plaintext = self
            .cipher(key)
            .decrypt(&nonce, Payload { msg: &sealed.ciphertext, aad })
            .map_err(|_| HsmError::NotAuthentic)?;
        match self.lie {
            Lie::OtherBytes => plaintext[0] ^= 1,
            Lie::OtherKey => plaintext.fill(0x77),
            Lie::ShortBytes => drop(plaintext.pop()),
            _ => {}
        }
        Ok(plaintext)
    }
}

#[async_trait]
impl Signer for MemoryHsm {
    async fn verifying_key(&self) -> Result<VerifyingKey, HsmError> {
        Ok(VerifyingKey {
            algorithm: SignatureAlgorithm::Ed25519,
            bytes: Self::signing_key().verifying_key().to_bytes().to_vec(),
        })
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, HsmError> {
        let message = if self.lie == Lie::OtherMessage { b"other" } else { message };
        Ok(Self::signing_key().sign(message).to_bytes().to_vec())
    }
}
