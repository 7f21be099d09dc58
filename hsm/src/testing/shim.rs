//! The tests' side of `tests/pkcs11-shim`, a module that stands before a real one: switches faults on and off while a
//! worker runs, and reads what happened. Invariant: a fault gets a name of its own, so that counts never mix; a control
//! file that the module did not understand is an error here. Absent: the faults themselves
//! (docs/reference/pkcs11-shim.md).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::config::HsmConfig;

/// Where `cargo xtask test` says that the module is.
const LIBRARY: &str = "KEYSTEAD_TEST_PKCS11_SHIM";
const FILE: &str = "libkeystead_pkcs11_shim.so";

/// Why faults cannot be injected or counted.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// It is not built.
    #[error(
        "there is no {FILE} at {path}: run the tests with `cargo xtask test`, or build it with \
         `cargo build -p keystead-pkcs11-shim` and name it in {LIBRARY}"
    )]
    NotBuilt {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The control file or the log.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The module did not understand a fault.
    #[error("the shim does not understand its control file: {said}")]
    Mistake {
        /// Its words.
        said: String,
    },
}

/// A fault that was switched on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(String);

/// An attempt to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// Equal for equal PINs under one control file; tells nothing else about them.
    pub pin: String,
    /// The answer's number, if there was one.
    pub answer: Option<String>,
}

/// One control file and its log.
#[derive(Debug)]
pub struct Shim {
    library: PathBuf,
    real: PathBuf,
    control: PathBuf,
    on: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    given: u64,
    on: Vec<(Fault, String)>,
}

impl Shim {
    /// Puts the shim before a real module, with its files in `dir`.
    pub fn before(real: &Path, dir: &Path) -> Result<Self, ShimError> {
        let control = dir.join("shim.control");
        let shim = Self { library: library()?, real: real.to_owned(), control, on: Mutex::default() };
        shim.write(&Lines::default())?;
        Ok(shim)
    }

    /// The shim's library, which is to be loaded in place of the real module.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// What the worker's environment needs beside the real module's own.
    pub fn env(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("KEYSTEAD_SHIM_MODULE".to_owned(), text(&self.real)),
            ("KEYSTEAD_SHIM_CONTROL".to_owned(), text(&self.control)),
        ]
    }

    /// The same configuration with the shim before its module.
    pub fn config(&self, config: HsmConfig) -> HsmConfig {
        let env = config.env.into_iter().chain(self.env()).collect();
        HsmConfig { module: self.library.clone(), env, ..config }
    }

    /// Switches a fault on, beside those that are: `<kind> [on=…] [after=…] [times=…] …`.
    pub fn inject(&self, fault: &str) -> Result<Fault, ShimError> {
        let mut lines = self.on.lock().unwrap_or_else(PoisonError::into_inner);
        lines.given += 1;
        let name = Fault(format!("fault-{}", lines.given));
        let line = format!("{} {fault}", name.0);
        lines.on.push((name.clone(), line));
        self.write(&lines)?;
        Ok(name)
    }

    /// Switches one fault off.
    pub fn end(&self, fault: &Fault) -> Result<(), ShimError> {
        let mut lines = self.on.lock().unwrap_or_else(PoisonError::into_inner);
        lines.on.retain(|(name, _)| name != fault);
        self.write(&lines)
    }

    /// Switches all faults off.
    pub fn heal(&self) -> Result<(), ShimError> {
        let mut lines = self.on.lock().unwrap_or_else(PoisonError::into_inner);
        lines.on.clear();
        self.write(&lines)
    }

    /// How often a fault has happened.
    pub fn fired(&self, fault: &Fault) -> Result<usize, ShimError> {
        let start = format!("fired {} ", fault.0);
        Ok(self.log()?.lines().filter(|line| line.starts_with(&start)).count())
    }

    /// How often a function was called, the calls for a length included.
    pub fn calls(&self, function: &str) -> Result<usize, ShimError> {
        let wanted = format!("call {function}");
        Ok(self.log()?.lines().filter(|line| *line == wanted).count())
    }

    /// All attempts to log in, oldest first; those under way at once are told apart by their PINs only.
    pub fn logins(&self) -> Result<Vec<Login>, ShimError> {
        let mut logins: Vec<Login> = Vec::new();
        for line in self.log()?.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["login", pin] => logins.push(Login { pin: (*pin).to_owned(), answer: None }),
                ["login-answer", pin, answer] => {
                    let open = |login: &&mut Login| login.pin == *pin && login.answer.is_none();
                    if let Some(login) = logins.iter_mut().rev().find(open) {
                        login.answer = Some((*answer).to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(logins)
    }

    fn log(&self) -> Result<String, ShimError> {
        let mut path = self.control.clone().into_os_string();
        path.push(".log");
        let path = PathBuf::from(path);
        match fs::read_to_string(&path) {
            Ok(log) => match log.lines().find_map(|line| line.strip_prefix("mistake ")) {
                None => Ok(log),
                Some(said) => Err(ShimError::Mistake { said: said.to_owned() }),
            },
            // No worker has started yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(source) => Err(ShimError::File { path, source }),
        }
    }

    /// A rename, so that a worker never reads half of it.
    fn write(&self, lines: &Lines) -> Result<(), ShimError> {
        let fresh = self.control.with_extension("new");
        let text: String = lines.on.iter().map(|(_, line)| format!("{line}\n")).collect();
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &self.control));
        written.map_err(|source| ShimError::File { path: self.control.clone(), source })
    }
}

/// Where the tests were told that it is, or beside the test.
fn library() -> Result<PathBuf, ShimError> {
    let told = std::env::var_os(LIBRARY).map(PathBuf::from);
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.ancestors().skip(1).take(2).map(|directory| directory.join(FILE));
    let path =
        told.unwrap_or_else(|| beside.clone().find(|path| path.is_file()).unwrap_or_else(|| FILE.into()));
    if path.is_absolute() && path.is_file() { Ok(path) } else { Err(ShimError::NotBuilt { path }) }
}
