//! What the tests of this crate share: tokens, the worker, and the suites that every module must pass. Invariant: each
//! test has a token, a directory and a child of its own; a missing tool is a failure, never a skip.

pub(crate) mod suite;

use std::path::{Path, PathBuf};
use std::time::Duration;

use keystead_crypto::ports::{HsmError, HsmKey, HsmKeyPurpose, HsmLogin, SignatureAlgorithm};
use keystead_crypto::secret::SecretBytes;
use keystead_hsm::testing::SoftToken;
use keystead_hsm::{HsmConfig, HsmHandle, HsmStatus};
use tempfile::TempDir;

pub(crate) const TAG: [u8; 8] = *b"vault--1";
pub(crate) const MASTER: HsmKey = HsmKey { purpose: HsmKeyPurpose::Master, version: 1 };
pub(crate) const EPOCH: HsmKey = HsmKey { purpose: HsmKeyPurpose::Epoch, version: 1 };
pub(crate) const AUDIT: HsmKey = HsmKey { purpose: HsmKeyPurpose::Audit, version: 1 };
pub(crate) const ALL: [HsmKey; 3] = [MASTER, EPOCH, AUDIT];

/// A token of a test's own, reached through some module.
pub(crate) trait Place {
    fn config(&self) -> HsmConfig;

    fn pin(&self) -> SecretBytes;

    /// The mechanism's number in stored bytes that it wraps by, and the bytes of its IVs.
    fn seals_by(&self) -> (u8, usize) {
        (1, 12)
    }

    fn signs_by(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::Ed25519
    }

    /// How often each of many callers calls.
    fn rounds(&self) -> u8 {
        20
    }

    /// Logged in, with the keys of one vault.
    async fn ready(&self, config: HsmConfig) -> HsmHandle {
        let hsm = HsmHandle::spawn(config).unwrap();
        hsm.login(self.pin()).await.unwrap();
        for key in ALL {
            hsm.create_key(TAG, key).await.unwrap();
        }
        hsm.bind(TAG, &ALL).await.unwrap();
        hsm
    }
}

/// A SoftHSM token and a directory that go away with the test.
pub(crate) struct Bench {
    dir: TempDir,
    pub(crate) token: SoftToken,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = SoftToken::create(dir.path()).unwrap();
        Self { dir, token }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Place for Bench {
    fn config(&self) -> HsmConfig {
        self.token.config(worker(), Vec::new())
    }

    fn pin(&self) -> SecretBytes {
        SecretBytes::copy_from(self.token.pin.as_bytes())
    }
}

/// The worker's program: where nextest says, since the tests may run from a copy.
pub(crate) fn worker() -> PathBuf {
    let told = std::env::var_os("NEXTEST_BIN_EXE_keystead-hsm-worker");
    told.map_or_else(|| env!("CARGO_BIN_EXE_keystead-hsm-worker").into(), PathBuf::from)
}

/// Waits until a status is there.
pub(crate) async fn until(hsm: &HsmHandle, what: &str, wanted: impl Fn(&HsmStatus) -> bool) {
    for _ in 0..400 {
        if wanted(&hsm.status()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {what}: {:?}", hsm.status());
}

pub(crate) fn is_unavailable<T: std::fmt::Debug>(outcome: &Result<T, HsmError>) -> bool {
    matches!(outcome, Err(HsmError::Unavailable { .. }))
}
