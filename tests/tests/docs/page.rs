//! Markdown as far as these tests read it: fenced blocks, and the text outside of them.

use std::path::{Path, PathBuf};

/// A page's blocks that do something, in order.
pub(crate) struct Page {
    pub(crate) path: String,
    pub(crate) blocks: Vec<Block>,
}

/// One of them.
pub(crate) enum Block {
    /// Write this file.
    File { name: String, text: String },
    /// Run these.
    Console(Vec<Command>),
}

/// A command and what it shall print.
pub(crate) struct Command {
    pub(crate) line: usize,
    pub(crate) text: String,
    pub(crate) output: Vec<String>,
}

impl Page {
    pub(crate) fn read(path: &str) -> Self {
        let mut blocks = Vec::new();
        for fence in fences(&text(path)) {
            let mut info = fence.info.split_whitespace();
            match (info.next(), info.next()) {
                (Some("console"), None) => blocks.push(Block::Console(commands(path, &fence))),
                (Some(_), Some(name)) => {
                    let text = fence.lines.iter().map(|line| format!("{line}\n")).collect();
                    blocks.push(Block::File { name: name.to_owned(), text });
                }
                _ => {}
            }
        }
        let runs = blocks.iter().any(|block| matches!(block, Block::Console(_)));
        assert!(runs, "{path} has no console block: a page that is run has one");
        Self { path: path.to_owned(), blocks }
    }
}

/// A page's whole text.
pub(crate) fn text(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The top of the sources: asked for at run time, since the tests may run from a copy.
pub(crate) fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    Path::new(&here).parent().unwrap().to_owned()
}

/// The lines of a page outside of fenced blocks.
pub(crate) fn prose(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.lines()
        .filter(|line| {
            let fence = line.starts_with("```");
            inside ^= fence;
            !fence && !inside
        })
        .collect()
}

pub(crate) struct Fence {
    pub(crate) info: String,
    first_line: usize,
    pub(crate) lines: Vec<String>,
}

pub(crate) fn fences(text: &str) -> Vec<Fence> {
    let mut fences = Vec::new();
    let mut open: Option<Fence> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => fences.extend(open.take()),
            (Some(info), None) => {
                open = Some(Fence { info: info.to_owned(), first_line: number + 2, lines: Vec::new() });
            }
            (None, Some(fence)) => fence.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fenced block is not closed");
    fences
}

fn commands(path: &str, fence: &Fence) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    for (line, text) in (fence.first_line..).zip(&fence.lines) {
        match (text.strip_prefix("$ "), commands.last_mut()) {
            (Some(text), _) => commands.push(Command { line, text: text.to_owned(), output: Vec::new() }),
            (None, Some(command)) => command.output.push(text.clone()),
            (None, None) => panic!("{path}:{line}: a console block begins with a command"),
        }
    }
    commands
}
