//! The log beside the control file. Invariant: one whole line a write, appended, so that processes that follow one
//! another or crash share it; a PIN leaves only as a salted digest, which tells equal from different. Absent: arguments
//! and answers of calls.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cryptoki_sys::CK_RV;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// An open log.
pub(crate) struct Record {
    file: File,
    salt: Vec<u8>,
}

impl Record {
    /// Opens the log of a control file, and says how often each fault has happened.
    pub(crate) fn open(control: &Path) -> io::Result<(Self, HashMap<String, u64>)> {
        let mut path = control.as_os_str().to_owned();
        path.push(".log");
        let path = PathBuf::from(path);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let mut fired = HashMap::new();
        for line in std::fs::read_to_string(&path)?.lines() {
            if let Some(name) = line.strip_prefix("fired ").and_then(|rest| rest.split(' ').next()) {
                *fired.entry(name.to_owned()).or_default() += 1;
            }
        }
        Ok((Self { file, salt: path.into_os_string().into_encoded_bytes() }, fired))
    }

    pub(crate) fn call(&self, function: &str) {
        self.line(&format!("call {function}"));
    }

    pub(crate) fn fired(&self, name: &str, function: &str) {
        self.line(&format!("fired {name} {function}"));
    }

    /// The control file is wrong.
    pub(crate) fn mistake(&self, error: &str) {
        self.line(&format!("mistake {error}"));
    }

    /// A PIN is about to be given to the token.
    pub(crate) fn login(&self, pin: &[u8]) {
        self.line(&format!("login {}", self.digest(pin)));
    }

    /// What came of it.
    pub(crate) fn login_answer(&self, pin: &[u8], answer: CK_RV) {
        self.line(&format!("login-answer {} {answer:#x}", self.digest(pin)));
    }

    fn digest(&self, pin: &[u8]) -> String {
        let digest = Sha256::new().chain_update(&self.salt).chain_update([0]).chain_update(pin).finalize();
        HEXLOWER.encode(digest.get(..8).unwrap_or_default())
    }

    fn line(&self, text: &str) {
        // A test that counts will miss a line that could not be written.
        let _ = (&self.file).write_all(format!("{text}\n").as_bytes());
    }
}
