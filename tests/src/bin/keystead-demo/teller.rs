//! Prints the story. Invariant: colours only on a terminal, and not with NO_COLOR; what comes from other programs is
//! indented, and control characters in it are escaped.

use std::io::{self, IsTerminal, Write};

use anyhow::Result;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const PLAIN: &str = "\x1b[0m";

/// Numbers the steps.
pub(crate) struct Teller {
    colored: bool,
    step: u32,
}

impl Teller {
    pub(crate) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colored: wanted && io::stdout().is_terminal(), step: 0 }
    }

    /// The head of everything.
    pub(crate) fn title(&self, text: &str) -> Result<()> {
        self.line(BOLD, "", text)
    }

    /// Begins the next step.
    pub(crate) fn step(&mut self, title: &str) -> Result<()> {
        self.step += 1;
        self.line("", "", "")?;
        self.line(BOLD, &format!("{:>2}  ", self.step), title)
    }

    /// What is done, or what it is good for.
    pub(crate) fn say(&self, text: &str) -> Result<()> {
        text.lines().try_for_each(|line| self.line("", "    ", line))
    }

    /// A command as a person would type it.
    pub(crate) fn command(&self, text: &str) -> Result<()> {
        self.line(BOLD, "    $ ", text)
    }

    /// What a program answered.
    pub(crate) fn answer(&self, text: &str) -> Result<()> {
        text.lines().try_for_each(|line| self.line(DIM, "      ", &escaped(line)))
    }

    /// What was checked, and held.
    pub(crate) fn holds(&self, text: &str) -> Result<()> {
        let mut lines = text.lines();
        self.line(GREEN, "    ✓ ", lines.next().unwrap_or_default())?;
        lines.try_for_each(|line| self.line(GREEN, "      ", line))
    }

    fn line(&self, color: &str, indent: &str, text: &str) -> Result<()> {
        let (before, after) = if self.colored && !color.is_empty() { (color, PLAIN) } else { ("", "") };
        let mut out = io::stdout().lock();
        writeln!(out, "{before}{indent}{text}{after}")?;
        out.flush()?;
        Ok(())
    }
}

fn escaped(text: &str) -> String {
    let shown = |character: char| match character {
        control if control.is_control() => control.escape_unicode().to_string(),
        other => other.to_string(),
    };
    text.chars().map(shown).collect()
}

/// The beginning of a share: enough to tell texts apart by form, nothing of its secret.
pub(crate) fn shortened(share: &str) -> String {
    let names = share.split('-').take(3).collect::<Vec<_>>().join("-");
    format!("{names}-… ({} characters)", share.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortened_share_ends_before_its_secret() {
        assert_eq!(shortened("ks1-share-aaaaaaaa-bbbbbbbb-cccccccc"), "ks1-share-aaaaaaaa-… (36 characters)");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(escaped("a\x1b[2Jb"), "a\\u{1b}[2Jb");
    }
}
