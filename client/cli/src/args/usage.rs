//! Wrong use, as people and programs are told of it. Invariant: an argument that has no place is not repeated: it may be a value
//! or a share.

use std::ffi::OsString;

use clap::CommandFactory as _;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Cli;

/// What options are called that people make up for a secret.
const SECRETS: [&str; 9] =
    ["--password", "--passwd", "--pass", "--pin", "--secret", "--share", "--token", "--value", "--data"];

/// The error without words that have no place, and with what helps.
pub(crate) fn discreet(mut error: clap::Error) -> clap::Error {
    let stray = error.kind() == ErrorKind::UnknownArgument
        && matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(text)) if !text.starts_with('-'));
    if stray {
        error.remove(ContextKind::InvalidArg);
    }
    if error.kind() == ErrorKind::InvalidSubcommand {
        // A slip of a command would be worth repeating; a share or a token is not, and looks like one.
        error.remove(ContextKind::InvalidSubcommand);
    }
    if error.kind() == ErrorKind::TooManyValues {
        error.remove(ContextKind::InvalidValue);
    }
    if let Some(tip) = tip(&error) {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tip));
    }
    // Clap's own has only what was typed and what lacks, as if all of it were required.
    if let Some(mut command) = error.get(ContextKind::Usage).and_then(|usage| command_of(&usage.to_string()))
    {
        error.insert(ContextKind::Usage, ContextValue::StyledStr(command.render_usage()));
    }
    error
}

/// What to do instead, where clap has nothing that fits: its own tip for an option that is not there would have it passed as a
/// value, which most are not.
fn tip(error: &clap::Error) -> Option<Vec<StyledStr>> {
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::InvalidSubcommand, _) => {
            let command = error.get(ContextKind::Usage).and_then(|usage| command_of(&usage.to_string()))?;
            Some(vec![commands(&command).into()])
        }
        (ErrorKind::UnknownArgument, Some(ContextValue::String(option))) if option.starts_with('-') => {
            let similar = error.get(ContextKind::SuggestedArg).is_some();
            let secret = !similar && SECRETS.contains(&option.as_str());
            Some(secret.then(|| NO_SECRETS.into()).into_iter().collect())
        }
        _ => None,
    }
}

const NO_SECRETS: &str =
    "secrets are never arguments; '--help' shows what asks for one or reads it from a file";

/// The command that a usage line is of.
fn command_of(usage: &str) -> Option<clap::Command> {
    let mut command = Cli::command();
    command.build();
    // After "Usage:" and this program's name, as it was called.
    let names = usage.lines().find_map(|line| line.strip_prefix("Usage: "))?.split_whitespace().skip(1);
    for name in names {
        let Some(below) = command.find_subcommand(name) else { break };
        command = below.clone();
    }
    Some(command)
}

/// The commands below a command.
fn commands(of: &clap::Command) -> String {
    let names: Vec<_> =
        of.get_subcommands().map(clap::Command::get_name).filter(|name| *name != "help").collect();
    format!("there are {}", names.join(", "))
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
    match text.strip_prefix("error: ").filter(|_| error.kind() != ErrorKind::MissingSubcommand) {
        Some(said) => {
            let (said, usage) = said.split_once("\n\n").unwrap_or((said, ""));
            (said.trim().to_owned(), usage.trim().to_owned())
        }
        // Nothing was asked for.
        None => {
            let hint = command_of(&text).map(|mut of| format!("{}\n\n{}", commands(&of), of.render_usage()));
            ("a command is needed".to_owned(), hint.unwrap_or_default())
        }
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
        for line in ["keystead", "keystead -o json"] {
            let (said, usage) = of(line);
            assert_eq!(said, "a command is needed");
            assert!(
                usage.starts_with("there are init, unseal,") && usage.contains("Usage: keystead"),
                "{usage}"
            );
        }
        for line in ["keystead target", "keystead target -o json"] {
            let (said, usage) = of(line);
            assert_eq!(said, "a command is needed");
            assert!(
                usage.starts_with("there are put, get,") && usage.contains("Usage: keystead target"),
                "{usage}"
            );
        }
    }

    #[test]
    fn a_command_that_is_not_there_is_told_those_that_are() {
        let of = |line: &str| discreet(Cli::try_parse_from(line.split_whitespace()).unwrap_err()).to_string();
        let said = of("keystead target lst");
        assert!(
            said.contains("'list'") && said.contains("there are put, get, list, delete, rotate,"),
            "{said}"
        );
        let said = of("keystead -o json nothing-like-it");
        assert!(said.contains("there are init, unseal,") && !said.contains("nothing-like-it"), "{said}");
    }

    #[test]
    fn a_usage_line_has_what_is_required_and_no_more() {
        let of = |line: &str| discreet(Cli::try_parse_from(line.split_whitespace()).unwrap_err()).to_string();
        for line in [
            "keystead secret put -o json",
            "keystead secret put --timeout 5",
            "keystead secret put a --vlaue x",
        ] {
            let said = of(line);
            assert!(said.contains("Usage: keystead secret put [OPTIONS] <PATH>\n"), "{said}");
        }
        let said = of("keystead role put -o json");
        assert!(said.contains("Usage: keystead role put [OPTIONS] --file <FILE> <NAME>\n"), "{said}");
    }

    #[test]
    fn an_option_for_a_secret_is_answered_by_how_secrets_are_given() {
        let of = |line: &str| discreet(Cli::try_parse_from(line.split_whitespace()).unwrap_err()).to_string();
        for line in ["keystead secret put a --password canary", "keystead secret put a --value=canary"] {
            let said = of(line);
            assert!(said.contains(NO_SECRETS) && !said.contains("as a value"), "{said}");
            assert!(!said.contains("canary"), "{said}");
        }
        let said = of("keystead target put a --password canary");
        assert!(said.contains("--password-file") && !said.contains(NO_SECRETS), "{said}");
        let said = of("keystead seal --colour");
        assert!(said.contains("'--colour'") && !said.contains("tip"), "{said}");
    }
}
