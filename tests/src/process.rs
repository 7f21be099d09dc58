//! The real server binary as a child process, for what only a process shows: kills, signals, logs, exit codes.

use std::fmt::Write;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};

use crate::site::Site;
use crate::{programs, until};

/// A server process, killed when dropped.
pub struct ServerProcess {
    site: Site,
    program: PathBuf,
    settings: Vec<(String, String)>,
    child: Option<Child>,
    said: Arc<Mutex<String>>,
    listener: Option<JoinHandle<()>>,
    metrics: Option<SocketAddr>,
}

impl ServerProcess {
    /// Starts a server on an empty store and waits until it listens; nothing is initialized.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with configuration keys set, such as `("log.level", "debug")`.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let mut process = Self::prepare(settings);
        process.start_again().await;
        process
    }

    /// The same, with [`Site::shim`] before the token.
    pub async fn start_behind_shim(settings: &[(&str, &str)]) -> Self {
        let mut process = Self::on(Site::behind_shim(2, 3), settings);
        process.start_again().await;
        process
    }

    /// A site with a process that is not started yet.
    pub fn prepare(settings: &[(&str, &str)]) -> Self {
        Self::on(Site::create(2, 3), settings)
    }

    pub(crate) fn on(site: Site, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(key, value)| {
            let variable = format!("KEYSTEAD_SERVER__{}", key.replace('.', "__").to_uppercase());
            (variable, (*value).to_owned())
        });
        Self {
            site,
            program: programs::server(),
            settings: settings.collect(),
            child: None,
            said: Arc::default(),
            listener: None,
            metrics: None,
        }
    }

    /// Lets the next starts run another program, which is called like the server.
    pub fn run_instead(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Lets the next starts have this variable, or no more.
    pub fn set_variable(&mut self, name: &str, value: Option<&str>) {
        self.settings.retain(|(there, _)| there != name);
        self.settings.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// The program with its arguments and environment, for a start that shall fail.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.site.config_file()).env_clear();
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        if let Some(place) = std::env::var_os("TMPDIR") {
            command.env("TMPDIR", place);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Starts a process on the same site and waits until it listens.
    pub async fn start_again(&mut self) {
        assert!(self.child.is_none(), "the server runs");
        let mut child = self.command().spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (said, before) = (Arc::clone(&self.said), self.stderr().len());
        self.listener = Some(std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                writeln!(said, "{line}").unwrap();
            }
        }));
        self.child = Some(child);
        let child = Mutex::new(self.child.as_mut().unwrap());
        let said = &self.said;
        let (address, metrics) = until("the server listens", || async {
            let text = said
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(before..)
                .unwrap_or_default()
                .to_owned();
            let ended = child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().unwrap();
            assert!(ended.is_none(), "the server ended with {ended:?} and said: {text}");
            let line = text.lines().find(|line| line.contains("listening;"))?;
            let after = |name: &str| {
                let rest = line.split_once(name)?.1;
                let end = rest.find([' ', ')']).unwrap_or(rest.len());
                rest.get(..end)?.parse::<SocketAddr>().ok()
            };
            Some((after("address=")?, after("metrics=Some(")))
        })
        .await;
        self.metrics = metrics;
        self.site.set_address(address);
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Where the metrics are.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics.unwrap()
    }

    /// Everything that was said on standard error, by all starts.
    pub fn stderr(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits for an end that comes by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = Mutex::new(self.child.take().unwrap());
        let status = until("the server ends", || async {
            child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().unwrap()
        })
        .await;
        // What it said last is heard too; its own children end with it, and with them the last writer.
        if let Some(listener) = self.listener.take() {
            until("its last words are heard", || async { listener.is_finished().then_some(()) }).await;
        }
        status
    }
}

impl Deref for ServerProcess {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The processes whose parent is this one.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn children_of(parent: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process may be gone by now.
        let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        // The name in field 2 may hold anything, but ends at the last parenthesis.
        let of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        if of == Some(parent) {
            children.push(child);
        }
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_its_children() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children_of(std::process::id()).unwrap().contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
