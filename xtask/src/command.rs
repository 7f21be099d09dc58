//! Child processes: cargo and everything else, with errors that name the command.
//!
//! Invariant: a cargo that we start sees the environment of a person's shell, not what `cargo run` added for xtask,
//! so that both compile the same things once.

use std::{
    ffi::OsStr,
    fs::File,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::console::Progress;

/// The cargo that started us, in `directory`.
pub(crate) fn cargo(directory: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(directory);
    without_cargo_run(&mut command);
    command
}

/// Takes out what `cargo run` set for us: it would enter fingerprints, and a stale library path would win over the
/// new one in .cargo/config.toml.
pub(crate) fn without_cargo_run(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || matches!(&*text, "ROCKSDB_LIB_DIR" | "ROCKSDB_STATIC" | "LD_LIBRARY_PATH")
        {
            command.env_remove(&name);
        }
    }
}

/// Runs to the end with the caller's terminal; failure is an error that names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    if run_to_status(command)? {
        return Ok(());
    }
    bail!("`{}` failed", line(command))
}

/// Runs to the end with the caller's terminal and says whether it succeeded.
pub(crate) fn run_to_status(command: &mut Command) -> Result<bool> {
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{}`", line(command)))?;
    Ok(status.success())
}

/// Runs to the end and returns what it printed; what it complained about goes to the terminal.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed", line(command));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no text", line(command)))
}

/// Runs a long command with its output in `log`, showing `state` once a second.
pub(crate) fn watched(
    command: &mut Command,
    label: &str,
    log: &Path,
    state: impl Fn() -> String,
) -> Result<()> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut progress = Progress::new(label);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        progress.show(&state());
        thread::sleep(Duration::from_secs(1));
    };
    if status.success() {
        progress.done();
        return Ok(());
    }
    progress.abandoned();
    let written = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = written.lines().collect();
    let tail = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n");
    bail!("`{}` failed; the end of {}:\n{tail}", line(command), log.display())
}

/// Whether a program of this name is on PATH.
pub(crate) fn on_path(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_named() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 3` failed");
    }

    #[test]
    fn a_watched_command_shows_the_end_of_its_log_when_it_fails() {
        let log = std::env::temp_dir().join(format!("keystead-xtask-watched-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason; exit 1"]);
        let error = watched(&mut command, "a failing step", &log, String::new).unwrap_err();
        std::fs::remove_file(&log).unwrap();
        assert!(error.to_string().ends_with("the reason"), "{error}");
    }
}
