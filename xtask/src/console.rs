//! What xtask says to people: the one place that prints, asks, and looks at the real clock.
//!
//! Invariant: only standard error and standard output, never a question when nobody is there to answer it.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to people on a terminal is this module's work"
)]
#![expect(clippy::disallowed_methods, reason = "elapsed time is shown to a person; nothing is decided by it")]

use std::{
    fmt,
    io::{self, BufRead, IsTerminal, Write},
    time::{Duration, Instant},
};

/// Measures real time for people.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Elapsed {
        Elapsed(self.0.elapsed())
    }
}

/// A duration as people read it: `45 s`, `3 min 05 s`.
#[derive(Clone, Copy)]
pub(crate) struct Elapsed(pub(crate) Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let text = if seconds < 60 {
            format!("{seconds} s")
        } else {
            format!("{} min {:02} s", seconds / 60, seconds % 60)
        };
        f.pad(&text)
    }
}

/// One line for the reader.
pub(crate) fn say(line: &str) {
    println!("{line}");
}

/// Announces a step.
pub(crate) fn step(line: &str) {
    println!("==> {line}");
    // A reader of CI's log sees our line before what the child writes next.
    let _ = io::stdout().flush();
}

/// The error that ended everything, with its causes.
pub(crate) fn failure(error: &anyhow::Error) {
    eprintln!("xtask: {error:#}");
}

/// Whether somebody can answer a question: a terminal on both sides, and not in CI.
pub(crate) fn somebody_answers() -> bool {
    let ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    !ci && io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a yes-or-no question; anything but yes is no.
pub(crate) fn confirmed(question: &str) -> io::Result<bool> {
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// The state of a long step: redrawn in place on a terminal, a line every half minute elsewhere.
pub(crate) struct Progress {
    label: String,
    watch: Stopwatch,
    in_place: bool,
    next_line: Duration,
}

impl Progress {
    const LINE_EVERY: Duration = Duration::from_secs(30);

    pub(crate) fn new(label: &str) -> Self {
        step(label);
        Self {
            label: label.to_owned(),
            watch: Stopwatch::start(),
            in_place: io::stderr().is_terminal(),
            next_line: Self::LINE_EVERY,
        }
    }

    /// Shows how far it is; called about once a second.
    pub(crate) fn show(&mut self, state: &str) {
        let elapsed = self.watch.elapsed();
        if self.in_place {
            eprint!("\r\x1b[K    {state}, {elapsed}");
            let _ = io::stderr().flush();
        } else if elapsed.0 >= self.next_line {
            eprintln!("    {}: {state}, {elapsed}", self.label);
            self.next_line = elapsed.0 + Self::LINE_EVERY;
        }
    }

    /// Ends the line that is redrawn, and says how long it took.
    pub(crate) fn done(self) {
        if self.in_place {
            eprint!("\r\x1b[K");
        }
        println!("    done in {}", self.watch.elapsed());
    }

    /// Ends the line that is redrawn, for an error that follows.
    pub(crate) fn abandoned(self) {
        if self.in_place {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_naturally_and_keep_to_their_column() {
        assert_eq!(Elapsed(Duration::from_secs(45)).to_string(), "45 s");
        assert_eq!(Elapsed(Duration::from_secs(185)).to_string(), "3 min 05 s");
        assert_eq!(format!("{:>8}", Elapsed(Duration::from_secs(9))), "     9 s");
    }
}
