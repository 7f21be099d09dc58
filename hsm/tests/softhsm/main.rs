//! The ports against a real SoftHSM in a real child process. Invariant: each test has a token, a directory and a child
//! of its own; a missing tool is a failure, never a skip.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, in its fixtures too"
)]

mod anchors;
#[path = "../bench/mod.rs"]
mod bench;
mod change_pin;
mod config;
mod inspect;
mod keys;
mod login;
mod recovery;
mod rungs;
mod signing;

use std::time::Duration;

use bench::{ALL, AUDIT, Bench, EPOCH, MASTER, Place, TAG, is_unavailable, until, worker};
use keystead_crypto::ports::{HsmError, HsmKey, HsmKeyPurpose, HsmLogin};
use keystead_crypto::secret::SecretBytes;
use keystead_hsm::{HsmConfig, HsmHandle, HsmStatus};

const AUTO: HsmKey = HsmKey { purpose: HsmKeyPurpose::Auto, version: 1 };

bench::suite::conforms!(ports, Bench::new());

impl Bench {
    /// A worker that leaves a line in a file each time it starts, with its environment in another.
    fn counted(&self) -> HsmConfig {
        let worker = worker().display().to_string();
        let script = format!("echo start >> {0}/starts; env > {0}/env; exec {worker}", self.path().display());
        HsmConfig { worker_exe: "/bin/sh".into(), worker_args: vec!["-c".into(), script], ..self.config() }
    }

    fn starts(&self) -> usize {
        std::fs::read_to_string(self.path().join("starts")).map_or(0, |text| text.lines().count())
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
