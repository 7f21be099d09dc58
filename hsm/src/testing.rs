//! SoftHSM tokens in private directories, for tests and the demo. Invariant: never touches the system's token directory
//! or configuration. Absent: anything a production server calls.

mod shim;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use data_encoding::HEXLOWER;

use crate::config::{HsmConfig, MechanismChoice};
pub use shim::{Fault, Login, Shim, ShimError};

/// Where distributions put the module.
const MODULES: [&str; 5] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
];

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum SoftTokenError {
    /// SoftHSM is not installed.
    #[error("SoftHSM's module is in none of {MODULES:?}; install softhsm2")]
    NoModule,
    /// A file or directory could not be made.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `softhsm2-util` could not run.
    #[error("softhsm2-util does not run: {0}")]
    Tool(#[source] io::Error),
    /// `softhsm2-util` refused.
    #[error("softhsm2-util made no token: {said}")]
    Refused {
        /// Its words.
        said: String,
    },
    /// No random PIN.
    #[error("no random PIN: {0}")]
    NoRandom(getrandom::Error),
}

/// A fresh token with a directory and configuration of its own.
#[derive(Debug, Clone)]
pub struct SoftToken {
    /// The module.
    pub module: PathBuf,
    /// The configuration, for `SOFTHSM2_CONF`.
    pub conf: PathBuf,
    /// The directory that holds the token.
    pub tokens: PathBuf,
    /// The token's label.
    pub label: String,
    /// The user PIN.
    pub pin: String,
    /// The security officer's PIN.
    pub so_pin: String,
}

impl SoftToken {
    /// Makes a token below `dir`, which must exist.
    pub fn create(dir: &Path) -> Result<Self, SoftTokenError> {
        let module = MODULES.iter().map(PathBuf::from).find(|path| path.exists());
        let token = Self {
            module: module.ok_or(SoftTokenError::NoModule)?,
            conf: dir.join("softhsm2.conf"),
            tokens: dir.join("tokens"),
            label: "keystead".to_owned(),
            pin: random_pin()?,
            so_pin: random_pin()?,
        };
        let mut directory = fs::DirBuilder::new();
        directory
            .mode(0o700)
            .create(&token.tokens)
            .map_err(|source| SoftTokenError::File { path: token.tokens.clone(), source })?;
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
            token.tokens.display()
        );
        fs::write(&token.conf, text)
            .map_err(|source| SoftTokenError::File { path: token.conf.clone(), source })?;
        token.init(&token.label)?;
        Ok(token)
    }

    /// Makes one more token with the same PINs in the same directory.
    pub fn init(&self, label: &str) -> Result<(), SoftTokenError> {
        let made = Command::new("softhsm2-util")
            .env("SOFTHSM2_CONF", &self.conf)
            .args(["--init-token", "--free", "--label", label])
            .args(["--pin", &self.pin, "--so-pin", &self.so_pin])
            .output()
            .map_err(SoftTokenError::Tool)?;
        if made.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&made.stderr).trim().to_owned();
        Err(SoftTokenError::Refused { said })
    }

    /// Takes mechanisms away from the token, such as `CKM_EDDSA`.
    pub fn take_mechanisms(&self, names: &[&str]) -> Result<(), SoftTokenError> {
        let failed = |source| SoftTokenError::File { path: self.conf.clone(), source };
        let text = fs::read_to_string(&self.conf).map_err(failed)?;
        // SoftHSM 2.6 takes the sign for a part of the first name, which then is unknown.
        let list = format!("slots.mechanisms = -,{}\n", names.join(","));
        fs::write(&self.conf, text + &list).map_err(failed)
    }

    /// The environment that a worker needs for this token.
    pub fn env(&self) -> Vec<(String, String)> {
        vec![("SOFTHSM2_CONF".to_owned(), self.conf.display().to_string())]
    }

    /// A configuration for this token with a given worker program.
    pub fn config(&self, worker_exe: PathBuf, worker_args: Vec<String>) -> HsmConfig {
        HsmConfig {
            worker_exe,
            worker_args,
            module: self.module.clone(),
            module_sha256: None,
            token_label: self.label.clone(),
            token_serial: None,
            mechanism: MechanismChoice::Auto,
            gcm_mechanism: None,
            sessions: 4,
            deadline: Duration::from_secs(10),
            env: self.env(),
        }
    }
}

fn random_pin() -> Result<String, SoftTokenError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(SoftTokenError::NoRandom)?;
    Ok(HEXLOWER.encode(&bytes))
}
