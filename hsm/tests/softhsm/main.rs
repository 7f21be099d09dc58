//! The ports against a real SoftHSM in a real child process. Invariant: each test has a token, a directory and a child
//! of its own; a missing tool is a failure, never a skip.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its fixtures too"
)]

mod change_pin;
mod config;
mod inspect;
mod keys;
mod login;
mod ports;
mod recovery;
mod rungs;

use std::path::PathBuf;
use std::time::Duration;

use keystead_crypto::ports::{HsmError, HsmKey, HsmKeyPurpose, HsmLogin};
use keystead_crypto::secret::SecretBytes;
use keystead_hsm::testing::SoftToken;
use keystead_hsm::{HsmConfig, HsmHandle, HsmStatus};
use tempfile::TempDir;

const TAG: [u8; 8] = *b"vault--1";
const MASTER: HsmKey = HsmKey { purpose: HsmKeyPurpose::Master, version: 1 };
const EPOCH: HsmKey = HsmKey { purpose: HsmKeyPurpose::Epoch, version: 1 };
const AUDIT: HsmKey = HsmKey { purpose: HsmKeyPurpose::Audit, version: 1 };
const AUTO: HsmKey = HsmKey { purpose: HsmKeyPurpose::Auto, version: 1 };
const ALL: [HsmKey; 3] = [MASTER, EPOCH, AUDIT];

/// A token and a directory that go away with the test.
struct Bench {
    dir: TempDir,
    token: SoftToken,
}

/// The worker's program: where nextest says, since the tests may run from a copy.
fn worker() -> PathBuf {
    let told = std::env::var_os("NEXTEST_BIN_EXE_keystead-hsm-worker");
    told.map_or_else(|| env!("CARGO_BIN_EXE_keystead-hsm-worker").into(), PathBuf::from)
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = SoftToken::create(dir.path()).unwrap();
        Self { dir, token }
    }

    fn config(&self) -> HsmConfig {
        self.token.config(worker(), Vec::new())
    }

    fn pin(&self) -> SecretBytes {
        SecretBytes::copy_from(self.token.pin.as_bytes())
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

    /// A worker that leaves a line in a file each time it starts, with its environment in another.
    fn counted(&self) -> HsmConfig {
        let worker = worker().display().to_string();
        let script = format!("echo start >> {0}/starts; env > {0}/env; exec {worker}", self.path().display());
        HsmConfig { worker_exe: "/bin/sh".into(), worker_args: vec!["-c".into(), script], ..self.config() }
    }

    fn starts(&self) -> usize {
        std::fs::read_to_string(self.path().join("starts")).map_or(0, |text| text.lines().count())
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// Runs pkcs11-tool, logged in as the user, as somebody else with access to the token would.
    fn pkcs11_tool(&self, args: &[&str]) -> String {
        let output = std::process::Command::new("pkcs11-tool")
            .env("SOFTHSM2_CONF", &self.token.conf)
            .arg("--module")
            .arg(&self.token.module)
            .args(["--token-label", &self.token.label, "--login", "--pin", &self.token.pin])
            .args(args)
            .output()
            .expect("pkcs11-tool (package opensc) runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn kill(hsm: &HsmHandle, signal: rustix::process::Signal) -> u32 {
    let pid = hsm.worker_pid().unwrap();
    let target = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(target, signal).unwrap();
    pid
}

/// Waits until a status is there.
async fn until(hsm: &HsmHandle, what: &str, wanted: impl Fn(&HsmStatus) -> bool) {
    for _ in 0..400 {
        if wanted(&hsm.status()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never {what}: {:?}", hsm.status());
}

fn is_unavailable<T: std::fmt::Debug>(outcome: &Result<T, HsmError>) -> bool {
    matches!(outcome, Err(HsmError::Unavailable { .. }))
}
