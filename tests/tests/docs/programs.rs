//! The two programs, and a server for trying out. Invariant: a program that is not there is a failure that says how to
//! build it; a server ends with its owner.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

pub(crate) struct Programs {
    server: PathBuf,
    cli: PathBuf,
}

impl Programs {
    pub(crate) fn find() -> Self {
        Self {
            server: program("KEYSTEAD_TEST_SERVER", "keystead-server"),
            cli: program("KEYSTEAD_TEST_CLI", "keystead"),
        }
    }

    /// A search path with both first.
    pub(crate) fn path_with(&self, bin: &Path) -> String {
        std::fs::create_dir(bin).unwrap();
        symlink(&self.server, bin.join("keystead-server")).unwrap();
        symlink(&self.cli, bin.join("keystead")).unwrap();
        format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
    }
}

fn program(variable: &str, name: &str) -> PathBuf {
    let beside = || std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join(name);
    let path = std::env::var_os(variable).map_or_else(beside, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is not there: cargo build --bins -p keystead-server -p keystead-cli, or set {variable}",
        path.display()
    );
    path.canonicalize().unwrap()
}

/// `keystead-server --dev`.
pub(crate) struct DevServer {
    child: Child,
    environment: Vec<(String, String)>,
    temporary: PathBuf,
}

impl DevServer {
    /// Starts one that keeps its things in `temporary`.
    pub(crate) fn start(programs: &Programs, temporary: &Path) -> Self {
        let mut server = Command::new(&programs.server);
        server.arg("--dev").env("TMPDIR", temporary).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = server.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, environment: Vec::new(), temporary: temporary.to_owned() };
        for line in said.lines() {
            let line = line.unwrap();
            if let Some(assignment) = line.strip_prefix("export ") {
                let (name, value) = assignment.split_once('=').unwrap();
                server.environment.push((name.to_owned(), value.trim_matches('\'').to_owned()));
            }
            if line.contains("keystead audit tail") {
                return server;
            }
        }
        panic!("the development server did not say how to reach it")
    }

    /// What it says to paste.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Ctrl-C; nothing is left.
    pub(crate) fn stop(mut self) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(id, Signal::INT).unwrap();
        assert!(self.child.wait().unwrap().success());
        let left: Vec<_> = std::fs::read_dir(&self.temporary).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Drop for DevServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
