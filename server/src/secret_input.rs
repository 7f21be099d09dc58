//! Takes a secret in: from a file, standard input, or a prompt without echo. Never from an argument.
//! Invariant: what is read goes straight into a type that wipes itself, and is bounded.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

use anyhow::{Context, bail};
use keystead_crypto::secret::SecretBytes;
use keystead_hsm::PinOrigin;
use zeroize::Zeroizing;

/// More than any PIN, share or identity.
const MAX_BYTES: usize = 1024;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// What it is, in a message.
    pub(crate) what: &'static str,
    /// What it is, at a prompt.
    pub(crate) prompt: &'static str,
    /// What to do where it is not given.
    pub(crate) hint: &'static str,
}

/// The secret, from the file if one is named (`-` is standard input), else asked for on the terminal, else from standard
/// input. One line ending is taken off.
pub(crate) fn read(wanted: Wanted, file: Option<&Path>) -> anyhow::Result<(SecretBytes, PinOrigin)> {
    let Wanted { what, prompt, hint } = wanted;
    let (secret, source) = match file {
        Some(path) if path != Path::new("-") => {
            let file = File::open(path)
                .with_context(|| format!("the {what}'s file {} cannot be read", path.display()))?;
            (all(what, file)?, PinOrigin::Program)
        }
        None if can_ask() => {
            let typed = rpassword::prompt_password(format!("{prompt}: "))
                .with_context(|| format!("no {what} could be asked for"))?;
            (SecretBytes::new(typed.into_bytes()), PinOrigin::Person)
        }
        _ => (all(what, io::stdin().lock())?, PinOrigin::Program),
    };
    if secret.is_empty() {
        bail!("no {what} was given; {hint}");
    }
    Ok((secret, source))
}

/// Whether somebody can be asked.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal()
}

fn all(what: &str, from: impl Read) -> anyhow::Result<SecretBytes> {
    // As large as it may grow, so that growing leaves no copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    let limit = u64::try_from(MAX_BYTES + 1).unwrap_or(u64::MAX);
    from.take(limit).read_to_end(&mut bytes).with_context(|| format!("the {what} cannot be read"))?;
    if bytes.len() > MAX_BYTES {
        bail!("the {what} is longer than {MAX_BYTES} bytes; is this the right file?");
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(SecretBytes::new(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: Wanted = Wanted { what: "PIN", prompt: "PIN of the token", hint: "name --pin-file" };

    #[test]
    fn a_file_is_read_whole_but_for_its_line_ending() {
        for (given, left) in
            [("1234", "1234"), ("1234\n", "1234"), ("1234\r\n", "1234"), ("12 34\n\n", "12 34\n")]
        {
            assert_eq!(all("PIN", given.as_bytes()).unwrap().expose(), left.as_bytes());
        }
        assert!(all("PIN", [b'7'; 1025].as_slice()).is_err());
        assert_eq!(all("PIN", [b'7'; 1024].as_slice()).unwrap().len(), 1024);
    }

    #[test]
    fn an_empty_or_missing_file_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        assert!(read(PIN, Some(&path)).unwrap_err().to_string().contains("cannot be read"));
        std::fs::write(&path, "\n").unwrap();
        assert!(read(PIN, Some(&path)).unwrap_err().to_string().contains("--pin-file"));
    }
}
