//! Wrong use, as people and programs are told of it. Invariant: an argument that has no place is not repeated: it may be a value
//! or a share.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The error without words that have no place.
pub(crate) fn discreet(mut error: clap::Error) -> clap::Error {
    let stray = error.kind() == ErrorKind::UnknownArgument
        && matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(text)) if !text.starts_with('-'));
    if stray {
        error.remove(ContextKind::InvalidArg);
    }
    // Where a command belongs, a slip of it would be worth repeating; a share or a token is not, and looks like one.
    error.remove(ContextKind::InvalidSubcommand);
    if error.kind() == ErrorKind::TooManyValues {
        error.remove(ContextKind::InvalidValue);
    }
    error
}

/// Whether the arguments ask for JSON, although they make no sense as a whole. What comes after `--` or `--exec` is another
/// program's.
pub(crate) fn wants_json(args: impl IntoIterator<Item = OsString>) -> bool {
    let own = args.into_iter().take_while(|arg| arg != "--" && !arg.to_string_lossy().starts_with("--exec"));
    let mut format_next = false;
    for arg in own {
        let named = ["--output=json", "-o=json", "-ojson"].into_iter().any(|named| arg == named);
        if named || format_next && arg == "json" {
            return true;
        }
        format_next = arg == "--output" || arg == "-o";
    }
    false
}

/// What is wrong, and how it would be right.
pub(crate) fn parted(error: &clap::Error) -> (String, String) {
    let text = error.to_string();
    match text.strip_prefix("error: ") {
        Some(said) => {
            let (said, usage) = said.split_once("\n\n").unwrap_or((said, ""));
            (said.trim().to_owned(), usage.trim().to_owned())
        }
        // Nothing was asked for: the text is the help.
        None => ("a command is needed".to_owned(), text.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Cli;

    fn asks(line: &str) -> bool {
        wants_json(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn json_is_asked_for_before_another_programs_arguments() {
        for line in [
            "keystead -o json target put",
            "keystead target put --output json",
            "keystead target put --output=json --colour",
            "keystead target put -ojson",
            "keystead target put -o=json",
        ] {
            assert!(asks(line), "{line}");
        }
        for line in [
            "keystead target put",
            "keystead target put json -o",
            "keystead target put -o table json",
            "keystead exec --env A -- jq -o json",
            "keystead creds issue --exec psql --output json",
            "keystead creds issue --exec=psql --output json",
        ] {
            assert!(!asks(line), "{line}");
        }
    }

    #[test]
    fn words_that_have_no_place_are_not_repeated() {
        for line in [
            "keystead KSH1-secret",
            "keystead share KSH1-secret",
            "keystead unseal KSH1-secret",
            "keystead init --accept-total-loss=KSH1-secret",
        ] {
            let error = discreet(Cli::try_parse_from(line.split_whitespace()).unwrap_err());
            assert!(!error.to_string().contains("KSH1"), "{line}: {error}");
            assert!(error.to_string().contains("error: "), "{line}: {error}");
        }
    }

    #[test]
    fn wrong_use_is_said_apart_from_the_usage() {
        let of = |line: &str| parted(&Cli::try_parse_from(line.split_whitespace()).unwrap_err());
        let (said, usage) = of("keystead target setup-sql shop-db");
        assert!(said.contains("--database <NAME>") && said.contains("--admin <NAME>"), "{said}");
        assert!(!said.contains("Usage") && usage.starts_with("Usage: keystead target setup-sql"), "{usage}");
        let (said, usage) = of("keystead");
        assert!(said == "a command is needed" && usage.contains("Usage: keystead"), "{said}: {usage}");
    }
}
