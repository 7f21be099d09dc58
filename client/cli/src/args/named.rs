//! Arguments of commands that are about one thing with a name, and which of them a new thing needs.

use clap::Args;

use crate::error::CliError;

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// Its name
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Its name
    pub(crate) name: String,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

/// What a new thing needs and was not given, so that all of it is named at once.
#[derive(Debug, Default)]
pub(crate) struct Needed(Vec<&'static str>);

impl Needed {
    /// What is given, or nothing, which is noted.
    pub(crate) fn of<T: Default>(&mut self, given: Option<T>, option: &'static str) -> T {
        given.unwrap_or_else(|| {
            self.0.push(option);
            T::default()
        })
    }

    pub(crate) fn none_is_missing(self) -> Result<(), CliError> {
        if self.0.is_empty() { Ok(()) } else { Err(CliError::OptionsNeeded { options: self.0 }) }
    }
}
