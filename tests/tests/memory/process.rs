//! The memory of a running process, read through /proc. Invariant: everything readable is searched but files that are
//! mapped unwritable, such as the program's code.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use keystead_tests::{ServerProcess, children_of, until};

use crate::needles::{Needles, PART};

const PAGE: usize = 4096;
const TCP_LISTENS: &str = "0A";
const UNIX_LISTENS: &str = "00010000";

/// A range of a process's memory.
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) bytes: usize,
    /// What /proc says of it: a file, `[heap]`, `[stack]`, or nothing.
    pub(crate) name: String,
    readable: bool,
    writable: bool,
    /// `VmFlags` of smaps.
    pub(crate) flags: Vec<String>,
    /// `Locked` of smaps.
    pub(crate) locked_kib: u64,
}

impl Mapping {
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|own| own == flag)
    }

    /// Long-lived keys lie here: locked, and left out of core dumps.
    pub(crate) fn is_arena(&self) -> bool {
        self.has("lo") && self.has("dd")
    }
}

/// A value, or a part of one, in a process's memory.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) value: String,
    pub(crate) at: u64,
    pub(crate) bytes: usize,
    pub(crate) process: u32,
    pub(crate) mapping: String,
    pub(crate) in_arena: bool,
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, at, bytes, process, mapping, .. } = self;
        write!(f, "{bytes} bytes of {value} at {at:#x} in {mapping} of process {process}")
    }
}

/// The server and its HSM processes.
pub(crate) fn processes(server: &ServerProcess) -> Vec<u32> {
    let mut all = vec![server.id()];
    all.extend(children_of(server.id()).unwrap());
    all
}

/// Searches the server and its HSM process, if there is one.
pub(crate) fn search(server: &ServerProcess, needles: &Needles) -> Vec<Found> {
    processes(server).iter().flat_map(|id| search_process(*id, needles)).collect()
}

/// Waits until nobody is connected, and searches.
pub(crate) async fn search_after_closing(server: &ServerProcess, needles: &Needles) -> Vec<Found> {
    until("the connections are closed", || async { (connections(server) == 0).then_some(()) }).await;
    let found = search(server, needles);
    if found.is_empty() {
        return found;
    }
    // A socket is closed a few instructions before its task has ended.
    search(server, needles)
}

/// How many connections the server holds, over TCP or on its local socket.
fn connections(server: &ServerProcess) -> usize {
    let id = server.id();
    let table = |name: &str| fs::read_to_string(format!("/proc/{id}/net/{name}")).unwrap();
    let (tcp, unix) = (table("tcp"), table("unix"));
    // As it was bound, before it was given its name.
    let local = format!("{}.new", server.socket().display());
    // The columns are the kernel's: a state and an inode, flags and an inode.
    let tcp = tcp.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        (columns.get(3) != Some(&TCP_LISTENS)).then_some((*columns.get(9)?).to_owned())
    });
    let unix = unix.lines().filter(|line| line.ends_with(&local)).filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        (columns.get(3) != Some(&UNIX_LISTENS)).then_some((*columns.get(6)?).to_owned())
    });
    let connected: Vec<String> = tcp.chain(unix).map(|inode| format!("socket:[{inode}]")).collect();
    let open = fs::read_dir(format!("/proc/{id}/fd")).unwrap();
    open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| connected.iter().any(|socket| target.as_os_str() == socket.as_str()))
        .count()
}

fn search_process(id: u32, needles: &Needles) -> Vec<Found> {
    let memory = File::open(format!("/proc/{id}/mem")).unwrap();
    let mut found: Vec<Found> = Vec::new();
    for mapping in mappings(id) {
        let bytes = read(&memory, &mapping);
        for (at, value) in needles_in(&bytes, needles) {
            let at = mapping.start + u64::try_from(at).unwrap();
            match found.last_mut() {
                // The next byte of the same copy.
                Some(last) if last.value == value && at <= last.at + u64::try_from(last.bytes).unwrap() => {
                    last.bytes = usize::try_from(at - last.at).unwrap() + PART;
                }
                _ => found.push(Found {
                    value: value.to_owned(),
                    at,
                    bytes: PART,
                    process: id,
                    mapping: mapping.name.clone(),
                    in_arena: mapping.is_arena(),
                }),
            }
        }
    }
    found
}

/// The same as a search of all bytes; pages of zeros, which are most, are passed by.
fn needles_in<'a>(bytes: &'a [u8], needles: &'a Needles) -> impl Iterator<Item = (usize, &'a str)> {
    let zeros = [0; PAGE + PART - 1];
    (0..bytes.len()).step_by(PAGE).flat_map(move |start| {
        let end = bytes.len().min(start + PAGE + PART - 1);
        let page = bytes.get(start..end).unwrap();
        let page = if zeros.get(..page.len()) == Some(page) { &[] } else { page };
        needles.found_in(page).map(move |(at, value)| (start + at, value))
    })
}

/// The bytes of a mapping; what goes away meanwhile is left out.
pub(crate) fn read(memory: &File, mapping: &Mapping) -> Vec<u8> {
    let looked_at = mapping.readable && (mapping.writable || !mapping.name.starts_with('/'));
    if !looked_at || mapping.name.starts_with("[v") {
        return Vec::new();
    }
    let mut bytes = vec![0; mapping.bytes];
    match memory.read_exact_at(&mut bytes, mapping.start) {
        Ok(()) => bytes,
        // Page by page: the mapping has shrunk.
        Err(_) => {
            let pages = bytes.chunks_mut(PAGE).zip((mapping.start..).step_by(PAGE));
            for (page, at) in pages {
                if memory.read_exact_at(page, at).is_err() {
                    page.fill(0);
                }
            }
            bytes
        }
    }
}

/// The mappings of a process.
pub(crate) fn mappings(id: u32) -> Vec<Mapping> {
    let text = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("smaps")).unwrap();
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
            let access = words.next().unwrap();
            mappings.push(Mapping {
                start: number(start),
                bytes: usize::try_from(number(end) - number(start)).unwrap(),
                name: words.nth(3).unwrap_or("nameless memory").to_owned(),
                readable: access.starts_with('r'),
                writable: access.get(1..2) == Some("w"),
                flags: Vec::new(),
                locked_kib: 0,
            });
            continue;
        }
        let last = mappings.last_mut().unwrap();
        match first {
            "VmFlags:" => last.flags = words.map(str::to_owned).collect(),
            "Locked:" => last.locked_kib = words.next().unwrap().parse().unwrap(),
            _ => {}
        }
    }
    assert!(!mappings.is_empty(), "the memory of process {id} cannot be read");
    mappings
}

/// One line of `/proc/ID/status` or `limits`.
pub(crate) fn line_of(id: u32, file: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{id}/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.expect("the kernel says so of every process").trim().to_owned()
}
