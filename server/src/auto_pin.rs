//! The PIN for a vault that opens by itself: from a file, a variable or a credential of systemd. Invariant: it is read when
//! it is needed and kept by nobody here; a file that others may read is refused.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use keystead_core::seal::PinSource;
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::unseal_key::MAX_PIN_BYTES;
use rustix::fs::{Mode, OFlags};

use crate::config::AutoPin;
use crate::env;

/// A PIN, a line's end, and one byte to see that there is more.
const LONGEST_FILE: usize = MAX_PIN_BYTES + 3;

/// The source that a configuration names.
pub(crate) struct ConfiguredPin(AutoPin);

impl ConfiguredPin {
    /// For the vault.
    pub(crate) fn shared(source: AutoPin) -> Arc<dyn PinSource> {
        Arc::new(Self(source))
    }
}

impl PinSource for ConfiguredPin {
    fn pin(&self) -> Result<SecretBytes, String> {
        let read = match &self.0 {
            AutoPin::File(path) => from_file(path),
            AutoPin::Credential(name) => match credential(name) {
                Some(path) => from_file(&path),
                None => {
                    Err(format!("{} is not set: systemd gives no credentials", env::CREDENTIALS_DIRECTORY))
                }
            },
            AutoPin::Variable(name) => match env::secret_variable(name) {
                Some(value) => Ok(SecretBytes::new(value.into_vec())),
                None => Err(format!("the variable {name} is not set")),
            },
        };
        let pin = without_newline(read?);
        if pin.is_empty() || pin.len() > MAX_PIN_BYTES {
            return Err(format!(
                "{} holds {} bytes; a PIN has 1 to {MAX_PIN_BYTES}",
                self.describe(),
                pin.len()
            ));
        }
        Ok(pin)
    }

    fn describe(&self) -> String {
        match &self.0 {
            AutoPin::File(path) => path.display().to_string(),
            AutoPin::Variable(name) => format!("the variable {name}"),
            AutoPin::Credential(name) => format!("the credential {name}"),
        }
    }
}

fn credential(name: &str) -> Option<PathBuf> {
    // A name, never a way out of the directory.
    let plain = !name.contains('/') && name != "." && name != "..";
    env::credentials_directory().filter(|_| plain).map(|directory| directory.join(name))
}

fn from_file(path: &Path) -> Result<SecretBytes, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(opened.map_err(|errno| failed(errno.into()))?);
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(format!("{} is no file", path.display()));
    }
    if found.mode() & 0o077 != 0 {
        return Err(format!(
            "{} may be read by others (mode {:04o}); make it 0400",
            path.display(),
            found.mode() & 0o7777
        ));
    }
    read_all(&file).map_err(failed)
}

fn read_all(file: &File) -> io::Result<SecretBytes> {
    let mut bytes = Vec::with_capacity(LONGEST_FILE);
    file.take(LONGEST_FILE.try_into().unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(SecretBytes::new(bytes))
}

fn without_newline(text: SecretBytes) -> SecretBytes {
    let bytes = text.expose();
    let bare = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    SecretBytes::copy_from(bare.strip_suffix(b"\r").unwrap_or(bare))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn written(mode: u32, text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn pin(path: &Path) -> Result<SecretBytes, String> {
        ConfiguredPin(AutoPin::File(path.to_owned())).pin()
    }

    #[test]
    fn a_private_file_gives_its_first_line() {
        for text in ["1234", "1234\n", "1234\r\n"] {
            let (_dir, path) = written(0o400, text);
            assert_eq!(pin(&path).unwrap().expose(), b"1234");
        }
    }

    #[test]
    fn what_others_may_read_or_move_is_refused() {
        for mode in [0o440, 0o604, 0o644] {
            let (_dir, path) = written(mode, "1234");
            assert!(pin(&path).err().unwrap().contains("others"));
        }
        let (dir, path) = written(0o400, "1234");
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(pin(&link).is_err());
        assert!(pin(dir.path()).is_err());
    }

    #[test]
    fn a_pin_has_a_length() {
        for text in [String::new(), "\n".to_owned(), "~".repeat(256)] {
            let (_dir, path) = written(0o400, &text);
            let said = pin(&path).err().unwrap();
            assert!(said.contains("1 to 255") && !said.contains("~~"), "{said}");
        }
    }

    #[test]
    fn a_credential_is_a_name() {
        assert!(credential("../pin").is_none() && credential("..").is_none());
        let said = ConfiguredPin(AutoPin::Variable("KEYSTEAD_TEST_NO_SUCH".to_owned())).pin().err().unwrap();
        assert!(said.contains("KEYSTEAD_TEST_NO_SUCH"));
    }
}
