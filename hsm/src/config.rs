//! What an operator says about the module and the token. Invariant: a checked configuration names its paths absolutely
//! and has no zero in it. Absent: the PIN, which is never configuration here.

use std::path::PathBuf;
use std::time::Duration;

use keystead_crypto::ports::HsmError;

/// The most sessions that may be asked for.
const MAX_SESSIONS: u8 = 64;
/// CKM_AES_GCM, which may be named though it need not be.
pub(crate) const CKM_AES_GCM: u32 = 0x1087;
/// CKM_VENDOR_DEFINED.
const VENDOR_DEFINED: u32 = 0x8000_0000;
/// PKCS#11 pads labels to this many bytes, and serials to half of it.
const LABEL_BYTES: usize = 32;

/// How to reach one token through one PKCS#11 module.
#[derive(Debug, Clone)]
pub struct HsmConfig {
    /// The program that runs as the child: the server's own binary.
    pub worker_exe: PathBuf,
    /// Its arguments: `hsm-worker`.
    pub worker_args: Vec<String>,
    /// The PKCS#11 module, by absolute path.
    pub module: PathBuf,
    /// The module's SHA-256, if it is pinned.
    pub module_sha256: Option<[u8; 32]>,
    /// The token's label.
    pub token_label: String,
    /// The token's serial: needed when two tokens carry one label.
    pub token_serial: Option<String>,
    /// How the token wraps.
    pub mechanism: MechanismChoice,
    /// The vendor's number of AES-GCM (0x8000_0000 and up), where the token does not know the standard's.
    pub gcm_mechanism: Option<u32>,
    /// Sessions that work side by side.
    pub sessions: u8,
    /// How long one call may take before the child is ended.
    pub deadline: Duration,
    /// The whole environment of the child, such as `SOFTHSM2_CONF`.
    pub env: Vec<(String, String)>,
}

/// How a token wraps: a rung of the mechanism ladder, or the first one that it passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MechanismChoice {
    /// The first of the following, in this order, that the token has and that passes the self-test.
    #[default]
    Auto,
    /// AES-GCM with the host's IV.
    AesGcm,
    /// AES-GCM with an IV that the token writes back.
    AesGcmHsmIv,
    /// AES-GCM with an IV that the token appends.
    AesGcmAppendedIv,
    /// AES-CBC-PAD and HMAC-SHA256.
    AesCbcHmac,
}

impl MechanismChoice {
    /// Every choice.
    pub const ALL: [Self; 5] =
        [Self::Auto, Self::AesGcm, Self::AesGcmHsmIv, Self::AesGcmAppendedIv, Self::AesCbcHmac];

    /// Its word in the configuration.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::AesGcm => "aes-gcm",
            Self::AesGcmHsmIv => "aes-gcm-hsm-iv",
            Self::AesGcmAppendedIv => "aes-gcm-appended-iv",
            Self::AesCbcHmac => "aes-cbc-hmac",
        }
    }

    /// The choice of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.word() == word)
    }
}

/// A configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The module's path depends on the working directory.
    #[error("the PKCS#11 module's path {path:?} is not absolute")]
    RelativeModule {
        /// The path as given.
        path: PathBuf,
    },
    /// A token's label or serial that no token can have.
    #[error("a token's {what} has 1 to {most} bytes, this one {bytes}")]
    TokenName {
        /// Label or serial.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The most that fits.
        most: usize,
    },
    /// No session, or too many.
    #[error("{sessions} sessions: 1 to {MAX_SESSIONS} are possible")]
    Sessions {
        /// The number given.
        sessions: u8,
    },
    /// A number of AES-GCM that is the standard's own, or another mechanism's.
    #[error("hsm.gcm_mechanism {number:#x} is no vendor's number; those begin at 0x80000000")]
    GcmMechanism {
        /// The number given.
        number: u32,
    },
    /// A deadline of nothing.
    #[error("the deadline of HSM calls is zero")]
    NoDeadline,
}

impl From<ConfigError> for HsmError {
    fn from(error: ConfigError) -> Self {
        Self::Misconfigured { what: error.to_string() }
    }
}

impl HsmConfig {
    /// Says what cannot work, without touching the module.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !self.module.is_absolute() {
            return Err(ConfigError::RelativeModule { path: self.module.clone() });
        }
        name_fits("label", &self.token_label, LABEL_BYTES)?;
        if let Some(serial) = &self.token_serial {
            name_fits("serial", serial, LABEL_BYTES / 2)?;
        }
        if !(1..=MAX_SESSIONS).contains(&self.sessions) {
            return Err(ConfigError::Sessions { sessions: self.sessions });
        }
        if let Some(number) =
            self.gcm_mechanism.filter(|number| *number < VENDOR_DEFINED && *number != CKM_AES_GCM)
        {
            return Err(ConfigError::GcmMechanism { number });
        }
        if self.deadline.is_zero() {
            return Err(ConfigError::NoDeadline);
        }
        Ok(())
    }
}

fn name_fits(what: &'static str, name: &str, most: usize) -> Result<(), ConfigError> {
    if (1..=most).contains(&name.len()) {
        Ok(())
    } else {
        Err(ConfigError::TokenName { what, bytes: name.len(), most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> HsmConfig {
        HsmConfig {
            worker_exe: "/proc/self/exe".into(),
            worker_args: vec!["hsm-worker".into()],
            module: "/usr/lib/module.so".into(),
            module_sha256: None,
            token_label: "token".into(),
            token_serial: None,
            mechanism: MechanismChoice::Auto,
            gcm_mechanism: None,
            sessions: 4,
            deadline: Duration::from_secs(5),
            env: Vec::new(),
        }
    }

    #[test]
    fn a_good_configuration_passes() {
        assert_eq!(config().check(), Ok(()));
    }

    #[test]
    fn what_cannot_work_is_named() {
        let relative = HsmConfig { module: "module.so".into(), ..config() };
        assert_eq!(relative.check(), Err(ConfigError::RelativeModule { path: "module.so".into() }));
        let nameless = HsmConfig { token_label: String::new(), ..config() };
        assert_eq!(nameless.check(), Err(ConfigError::TokenName { what: "label", bytes: 0, most: 32 }));
        let serial = HsmConfig { token_serial: Some("0123456789abcdef0".into()), ..config() };
        assert_eq!(serial.check(), Err(ConfigError::TokenName { what: "serial", bytes: 17, most: 16 }));
        assert_eq!(HsmConfig { sessions: 0, ..config() }.check(), Err(ConfigError::Sessions { sessions: 0 }));
        assert_eq!(
            HsmConfig { sessions: 65, ..config() }.check(),
            Err(ConfigError::Sessions { sessions: 65 })
        );
        for number in [0, 0x1086, 0x1088, 0x7fff_ffff] {
            let standard = HsmConfig { gcm_mechanism: Some(number), ..config() };
            assert_eq!(standard.check(), Err(ConfigError::GcmMechanism { number }));
        }
        for number in [0x1087, 0x8000_1087] {
            assert_eq!(HsmConfig { gcm_mechanism: Some(number), ..config() }.check(), Ok(()));
        }
        assert_eq!(HsmConfig { deadline: Duration::ZERO, ..config() }.check(), Err(ConfigError::NoDeadline));
    }
}
