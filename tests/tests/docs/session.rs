//! One bash session in a directory of its own. Invariant: it is over, with all that it started, when `run` returns; a
//! session that hangs is ended and named.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::page::{self, Block, Page};
use crate::programs::Programs;

/// Far more than a page takes.
const TIME: Duration = Duration::from_secs(240);
/// Begins the line that tells a command's exit code.
const MARK: char = '\u{1e}';
const END_OF_FILE: &str = "END-OF-THIS-FILE";

pub(crate) struct Session {
    dir: TempDir,
    path: String,
    environment: Vec<(String, String)>,
}

impl Session {
    pub(crate) fn new(programs: &Programs) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = programs.path_with(&dir.path().join("bin"));
        std::fs::create_dir(dir.path().join("work")).unwrap();
        Self { dir, path, environment: Vec::new() }
    }

    /// Where the commands run.
    pub(crate) fn dir(&self) -> std::path::PathBuf {
        self.dir.path().join("work")
    }

    /// A new directory beside that, which goes with the session.
    pub(crate) fn place(&self, name: &str) -> std::path::PathBuf {
        let place = self.dir.path().join(name);
        std::fs::create_dir(&place).unwrap();
        place
    }

    pub(crate) fn set_environment(&mut self, environment: &[(String, String)]) {
        self.environment = environment.to_vec();
    }

    /// Runs a page and compares what its commands print and how they end.
    pub(crate) fn run(&self, page: &Page) {
        let script = self.dir.path().join("script");
        std::fs::write(&script, self::script(page)).unwrap();
        let said = self.bash(&script);
        let mut answers = said.split(MARK);
        let mut output = answers.next().unwrap_or_default();
        let commands = page.blocks.iter().flat_map(|block| match block {
            Block::Console(commands) => commands.as_slice(),
            Block::File { .. } => &[],
        });
        for command in commands {
            let place = format!("{}:{}: {}", page.path, command.line, command.text);
            let next = answers.next().unwrap_or_else(|| panic!("{place}: did not end\n{output}"));
            let (code, after) = next.split_once('\n').unwrap();
            let fails = command.output.iter().any(|line| line.starts_with("keystead: "));
            assert_eq!(code != "0", fails, "{place}: exit code {code}, printed:\n{output}{}", self.log());
            let printed: Vec<&str> = output.trim_end_matches('\n').lines().map(str::trim_end).collect();
            let wanted: Vec<&str> = command.output.iter().map(|line| line.trim_end()).collect();
            assert!(
                matches(&wanted, &printed),
                "{place}: the page shows\n{wanted:#?}\nbut it is\n{printed:#?}"
            );
            output = after;
        }
    }

    /// What a server that the page started said, if there is one.
    fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("server.log")).unwrap_or_default()
    }

    fn bash(&self, script: &Path) -> String {
        let mut bash = Command::new("bash");
        bash.arg("--noprofile").arg("--norc").arg(script).current_dir(self.dir());
        bash.env_clear().env("PATH", &self.path).env("HOME", self.dir.path()).env("TMPDIR", self.dir.path());
        bash.env("LANG", "C.UTF-8").envs(self.environment.iter().cloned());
        bash.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).process_group(0);
        let mut child = Group(bash.spawn().expect("bash is needed"));
        let mut stdout = child.0.stdout.take().unwrap();
        let (sender, said) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.read_to_string(&mut text);
            sender.send(read.map(|_| text)).unwrap_or_default();
        });
        let said = said.recv_timeout(TIME).unwrap_or_else(|_| {
            child.end();
            panic!("the commands of the page do not end: {}", said.recv().unwrap().unwrap())
        });
        child.0.wait().unwrap();
        said.unwrap()
    }
}

/// A process group that ends with its owner.
struct Group(Child);

impl Group {
    fn end(&self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).unwrap();
        // It may have ended by itself.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

fn script(page: &Page) -> String {
    let mut script = "exec 2>&1\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n".to_owned();
    for block in &page.blocks {
        match block {
            Block::File { name, text } => {
                script += &format!("cat > '{name}' <<'{END_OF_FILE}'\n{text}{END_OF_FILE}\n");
            }
            Block::Console(commands) => {
                for command in commands {
                    script += &format!("{{ {}\n}}\nprintf '\\n{MARK}%d\\n' $?\n", command.text);
                }
            }
        }
    }
    script
}

/// Whether lines are as the page shows them.
fn matches(wanted: &[&str], printed: &[&str]) -> bool {
    match (wanted.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), _) => {
            matches(rest, printed) || printed.split_first().is_some_and(|(_, later)| matches(wanted, later))
        }
        (Some((line, wanted)), Some((said, printed))) => line_matches(line, said) && matches(wanted, printed),
        _ => false,
    }
}

fn line_matches(wanted: &str, printed: &str) -> bool {
    match wanted.split_once('…') {
        None => wanted == printed,
        Some((begin, rest)) => printed.strip_prefix(begin).is_some_and(|tail| {
            (0..=tail.len()).filter_map(|skipped| tail.get(skipped..)).any(|tail| line_matches(rest, tail))
        }),
    }
}

#[test]
fn what_a_page_shows_is_compared_with_what_is_printed() {
    assert!(matches(&["a … c", "...", "z"], &["a b c", "x", "y", "z"]));
    assert!(matches(&["...", "z"], &["z"]) && matches(&["a…"], &["a"]) && matches(&[], &[]));
    assert!(!matches(&["a … c"], &["a b d"]) && !matches(&["a"], &["a", "b"]) && !matches(&["a"], &[]));
    assert!(page::prose("a\n```\nb\n```\nc") == ["a", "c"]);
}
