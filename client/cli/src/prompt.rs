//! Takes secrets in: from a prompt without echo, a file, or standard input. Never from an argument.
//!
//! Invariant: what is read goes straight into a type that wipes itself, and is bounded.

use std::fs::File;
use std::io::{self, BufRead as _, IsTerminal as _, Read, Write as _};
use std::path::Path;

use keystead_client::SecretBytes;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::error::CliError;

/// More than any share, PIN or token.
const MAX_LINE_BYTES: usize = 4096;

/// A short secret (a share, a PIN): from the file if `option` names one (`-` is standard input), else asked for on the
/// terminal, else the first line of standard input. One line ending is taken off.
pub(crate) fn short_secret(
    what: &'static str,
    option: &'static str,
    file: Option<&Path>,
) -> Result<SecretBytes, CliError> {
    let Some(path) = file else {
        return asked_or_lines(what, option, 1)?.pop().ok_or(CliError::Empty { what });
    };
    let secret = without_line_ending(secret_bytes(what, option, path, MAX_LINE_BYTES)?);
    if secret.is_empty() {
        return Err(CliError::EmptyFile { what, option, path: path.to_owned() });
    }
    Ok(secret)
}

/// One secret asked for on the terminal or, without one, as many as standard input has lines.
pub(crate) fn asked_or_lines(
    what: &'static str,
    option: &'static str,
    most: usize,
) -> Result<Vec<SecretBytes>, CliError> {
    if can_ask() {
        let secret = ask(what)?;
        return if secret.is_empty() { Err(CliError::Empty { what }) } else { Ok(vec![secret]) };
    }
    let secrets = lines(what, most)?;
    if secrets.is_empty() { Err(CliError::NobodyToAsk { what, option }) } else { Ok(secrets) }
}

/// Lines of standard input that are not empty, at most `most`.
fn lines(what: &'static str, most: usize) -> Result<Vec<SecretBytes>, CliError> {
    let mut stdin = io::stdin().lock();
    let mut found = Vec::new();
    while found.len() < most {
        // As large as it may grow, so that growing leaves no copies behind.
        let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE_BYTES + 1));
        let limit = u64::try_from(MAX_LINE_BYTES + 1).unwrap_or(u64::MAX);
        let read = (&mut stdin).take(limit).read_until(b'\n', &mut line);
        if read.map_err(|source| CliError::Stdin { what, source })? == 0 {
            break;
        }
        if line.len() > MAX_LINE_BYTES {
            return Err(CliError::TooLarge { what, limit: MAX_LINE_BYTES });
        }
        let line = without_line_ending(line);
        if !line.is_empty() {
            found.push(line);
        }
    }
    Ok(found)
}

/// Asks on the terminal, without echo.
pub(crate) fn ask(what: &str) -> Result<SecretBytes, CliError> {
    rpassword::prompt_password(format!("{}: ", crate::output::escaped(what)))
        .map(SecretBytes::from)
        .map_err(|source| CliError::Terminal { what: what.to_owned(), source })
}

/// A new secret: from the file if `option` names one (`-` is standard input), else asked for twice on the terminal, else
/// the first line of standard input.
pub(crate) fn new_secret(
    what: &'static str,
    option: &'static str,
    file: Option<&Path>,
) -> Result<SecretBytes, CliError> {
    let secret = short_secret(what, option, file)?;
    if file.is_none() && can_ask() {
        let again = ask(&format!("{what}, again"))?;
        if !bool::from(secret.expose().ct_eq(again.expose())) {
            return Err(CliError::PinsDiffer);
        }
    }
    Ok(secret)
}

/// Whether somebody can be asked.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal()
}

/// Asks a yes-or-no question; without a terminal, the answer must be given beforehand.
pub(crate) fn confirm(question: &str, confirmed: bool) -> Result<(), CliError> {
    if confirmed {
        return Ok(());
    }
    if !can_ask() {
        return Err(CliError::ConfirmationNeeded);
    }
    let terminal = |source| CliError::Terminal { what: "confirmation".to_owned(), source };
    let mut answer = String::new();
    write!(io::stderr().lock(), "{} [y/N] ", crate::output::escaped(question)).map_err(terminal)?;
    io::stdin().lock().take(64).read_line(&mut answer).map_err(terminal)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(CliError::NotConfirmed) }
}

/// All bytes of a file that holds no secret, or of standard input for `-`.
pub(crate) fn bytes(what: &'static str, path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, CliError> {
    read(what, path, limit, |source| CliError::Read { what, path: path.to_owned(), source })
}

/// All bytes of the file with a secret that `option` names, or of standard input for `-`. Where a name leads nowhere, it may be
/// the secret itself, and is not repeated.
pub(crate) fn secret_bytes(
    what: &'static str,
    option: &'static str,
    path: &Path,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, CliError> {
    read(what, path, limit, |source| {
        if leads_somewhere(path) {
            CliError::Read { what, path: path.to_owned(), source }
        } else {
            CliError::NoFileName { what, option, source }
        }
    })
}

fn read(
    what: &'static str,
    path: &Path,
    limit: usize,
    unreadable: impl Fn(io::Error) -> CliError,
) -> Result<Zeroizing<Vec<u8>>, CliError> {
    if path == Path::new("-") {
        return all(what, limit, io::stdin().lock(), |source| CliError::Stdin { what, source });
    }
    all(what, limit, File::open(path).map_err(&unreadable)?, &unreadable)
}

/// Whether something is there by this name, or could be: in a directory that is there. Any text that begins with a slash is
/// in the root.
fn leads_somewhere(path: &Path) -> bool {
    let parent = path.parent().filter(|parent| parent.parent().is_some());
    path.symlink_metadata().is_ok() || parent.is_some_and(Path::is_dir)
}

fn all(
    what: &'static str,
    limit: usize,
    from: impl Read,
    unreadable: impl FnOnce(io::Error) -> CliError,
) -> Result<Zeroizing<Vec<u8>>, CliError> {
    // One more than allowed shows that there is more; reserved at once, so that growing leaves no copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 1));
    let most = u64::try_from(limit + 1).unwrap_or(u64::MAX);
    from.take(most).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > limit { Err(CliError::TooLarge { what, limit }) } else { Ok(bytes) }
}

/// The bytes without one line ending at their end.
pub(crate) fn without_line_ending(mut bytes: Zeroizing<Vec<u8>>) -> SecretBytes {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    SecretBytes::new(std::mem::take(&mut *bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_ending_is_taken_off() {
        for (given, left) in [
            ("pin", "pin"),
            ("pin\n", "pin"),
            ("pin\r\n", "pin"),
            ("pin\n\n", "pin\n"),
            (" pin ", " pin "),
            ("", ""),
        ] {
            let bytes = Zeroizing::new(given.as_bytes().to_vec());
            assert_eq!(without_line_ending(bytes).expose_str().unwrap(), left);
        }
    }

    #[test]
    fn a_secret_in_the_place_of_a_files_name_is_not_repeated() {
        let long = "canary".repeat(1000);
        for secret in [
            "ks1-share-canary",
            "KST_CANARY",
            "canary",
            "/canary",
            "//canary",
            "ca/canary",
            "\0canary",
            &long,
        ] {
            let error = short_secret("the share", "--share-file", Some(Path::new(secret))).unwrap_err();
            let said = format!("{error} {error:?}").to_ascii_lowercase();
            assert!(!said.contains("canary") && said.contains("--share-file"), "{said}");
        }
    }

    #[test]
    fn a_name_that_can_be_no_secret_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let (none, here) = (dir.path().join("no-file"), Path::new("./no-file"));
        for path in [none.as_path(), here, dir.path()] {
            let said = short_secret("the PIN", "--pin-file", Some(path)).unwrap_err().to_string();
            assert_eq!(said, format!("cannot read the PIN from {}", path.display()));
        }
    }

    #[test]
    fn a_file_is_read_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("value");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(bytes("the value", &path, 5).unwrap().as_slice(), b"12345");
        assert!(matches!(bytes("the value", &path, 4), Err(CliError::TooLarge { limit: 4, .. })));
        assert!(matches!(bytes("the value", &dir.path().join("no"), 4), Err(CliError::Read { .. })));
        assert_eq!(short_secret("the PIN", "--pin-file", Some(&path)).unwrap().expose(), b"12345");
        std::fs::write(&path, "\n").unwrap();
        let error = short_secret("the PIN", "--pin-file", Some(&path)).unwrap_err().to_string();
        assert_eq!(error, format!("--pin-file {} is empty: it should hold the PIN", path.display()));
    }
}
