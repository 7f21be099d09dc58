//! Feeds a file of JSON lines, in the clear, from the log: for a SIEM's collector.
//!
//! Invariant: every entry reaches the file at least once and in order; the position is remembered only after the
//! lines are durable, so a crash repeats lines (the `seq` tells) and loses none. A sink that cannot write lags, and
//! holds up nobody. Absent: rotating the file; one that was renamed away is noticed and begun anew.

use crate::entry::{Entry, OpenBodyError};
use crate::error::{OpenError, ReadError};
use crate::files::{check_owner_only, open_append, open_read, publish};
use crate::follow::Follower;
use crate::json::entry_json;
use crate::log::AuditLog;
use crate::seal::{BodyOpener, OpenFailed};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thiserror::Error;

/// How many bytes of lines are written at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// How often a sink looks whether it shall stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// How many times [`PATIENCE`] passes before a busy sink remembers its position.
const CHUNKS_PER_CURSOR: u32 = 16;

/// What a sink does with a body whose key is not at hand now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhileUnavailable {
    /// Waits for the key, and with it everything after the entry.
    Wait,
    /// Writes the line without its body, so that what happens while the vault is sealed is seen at once.
    Pass,
}

/// Where a sink writes.
#[derive(Clone)]
pub struct JsonSinkOptions {
    /// The file of lines.
    pub path: PathBuf,
    /// The file that remembers the position.
    pub cursor: PathBuf,
    /// Opens sealed bodies.
    pub opener: Arc<dyn BodyOpener>,
    /// What to do while it cannot.
    pub while_unavailable: WhileUnavailable,
}

impl fmt::Debug for JsonSinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonSinkOptions").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Why a sink does not get on.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The log cannot be read.
    #[error("the sink cannot read the log")]
    Read(#[from] ReadError),
    /// The file of lines is not one that only its owner can change.
    #[error("the sink's file is not safe to write")]
    Unsafe(#[from] OpenError),
    /// The operating system refused.
    #[error("the sink cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file that remembers the position does not hold one.
    #[error("{} holds no position", path.display())]
    BadCursor {
        /// The file.
        path: PathBuf,
    },
    /// An entry's key is not at hand now.
    #[error("the key for entry {seq} is not available now")]
    KeyNotAvailable {
        /// The entry.
        seq: u64,
    },
}

/// How a sink is doing.
#[derive(Debug, Clone)]
pub struct SinkStatus {
    /// The entry it will write next.
    pub position: u64,
    /// How many entries it is behind.
    pub lag: u64,
    /// Why it does not get on, where it does not.
    pub failing: Option<Arc<SinkError>>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    position: AtomicU64,
    lag: AtomicU64,
    failing: Mutex<Option<Arc<SinkError>>>,
}

/// A running sink; stops when dropped.
pub struct JsonSink {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for JsonSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JsonSink").field(&self.status()).finish()
    }
}

impl JsonSink {
    /// Starts feeding from the remembered position, or from the log's first entry.
    pub fn start(log: &AuditLog, options: JsonSinkOptions) -> Result<Self, SinkError> {
        let position = read_cursor(&options.cursor)?;
        let follower = log.follow(position)?;
        let mut feed = Feed { out: None, options, follower, remembered: position, held: None };
        feed.open_output()?;
        let progress = Arc::new(Progress::default());
        progress.position.store(position, Ordering::Relaxed);
        let shared = Arc::clone(&progress);
        let thread = std::thread::Builder::new()
            .name("audit-json".to_owned())
            .spawn(move || feed.run(&shared))
            .map_err(|source| SinkError::Io {
                operation: "start a thread for",
                path: PathBuf::new(),
                source,
            })?;
        Ok(Self { progress, thread: Some(thread) })
    }

    /// How it is doing.
    pub fn status(&self) -> SinkStatus {
        SinkStatus {
            position: self.progress.position.load(Ordering::Relaxed),
            lag: self.progress.lag.load(Ordering::Relaxed),
            failing: self.progress.failing.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Stops it after the lines under way, and remembers the position.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A sink that panicked left the log untouched.
            let _ = thread.join();
        }
    }
}

impl Drop for JsonSink {
    fn drop(&mut self) {
        self.end();
    }
}

struct Feed {
    out: Option<File>,
    options: JsonSinkOptions,
    follower: Follower,
    /// The position that the cursor file holds.
    remembered: u64,
    /// An entry that was read and could not be written yet.
    held: Option<Entry>,
}

impl Feed {
    fn run(mut self, progress: &Progress) {
        let mut chunks: u32 = 0;
        loop {
            let stopping = progress.stop.load(Ordering::Relaxed) || self.follower.is_closed();
            let result = self.feed();
            let caught_up = !matches!(result, Ok(true));
            chunks = chunks.saturating_add(1);
            let result = if caught_up || chunks >= CHUNKS_PER_CURSOR {
                chunks = 0;
                let remembered = self.remember();
                result.and_then(|more| remembered.map(|()| more))
            } else {
                result
            };
            progress.position.store(self.position(), Ordering::Relaxed);
            progress.lag.store(self.follower.lag(), Ordering::Relaxed);
            let failed = result.is_err();
            *progress.failing.lock().unwrap_or_else(PoisonError::into_inner) = result.err().map(Arc::new);
            if stopping && (caught_up || progress.stop.load(Ordering::Relaxed)) {
                return;
            }
            if failed {
                std::thread::sleep(PATIENCE);
            } else if caught_up {
                self.follower.wait(PATIENCE);
            }
        }
    }

    /// The entry that is written next.
    fn position(&self) -> u64 {
        self.held.as_ref().map_or(self.follower.position(), |entry| entry.seq)
    }

    /// Writes one chunk of lines; whether there may be more. What could not be read or written is tried again.
    fn feed(&mut self) -> Result<bool, SinkError> {
        let begin = self.position();
        let mut lines = Vec::new();
        let collected = self.collect(&mut lines);
        let more = lines.len() >= CHUNK_BYTES;
        let key_is_missing = matches!(collected, Err(SinkError::KeyNotAvailable { .. }));
        let written = if collected.is_ok() || key_is_missing { self.write(&lines) } else { Ok(()) };
        if written.is_err() || (collected.is_err() && !key_is_missing) {
            self.held = None;
            self.follower.seek(begin)?;
        }
        written.and(collected).map(|()| more)
    }

    /// Turns entries into lines, up to a chunk of them, an entry that must wait, or one that cannot be read.
    fn collect(&mut self, lines: &mut Vec<u8>) -> Result<(), SinkError> {
        while lines.len() < CHUNK_BYTES {
            let next = match self.held.take() {
                Some(entry) => Some(entry),
                None => self.follower.next_entry()?,
            };
            let Some(entry) = next else { break };
            if self.must_wait(&entry) {
                let seq = entry.seq;
                self.held = Some(entry);
                return Err(SinkError::KeyNotAvailable { seq });
            }
            lines.extend_from_slice(entry_json(&entry, Some(&*self.options.opener)).as_bytes());
            lines.push(b'\n');
        }
        Ok(())
    }

    fn must_wait(&self, entry: &Entry) -> bool {
        self.options.while_unavailable == WhileUnavailable::Wait
            && matches!(entry.open(Some(&*self.options.opener)), Err(OpenBodyError::Open(OpenFailed::NotNow)))
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), SinkError> {
        if lines.is_empty() {
            return Ok(());
        }
        self.open_output()?;
        let Some(out) = &mut self.out else { return Ok(()) };
        let path = self.options.path.clone();
        let failed = |operation| move |source| SinkError::Io { operation, path, source };
        let length = out.metadata().map_err(failed.clone()("inspect"))?.len();
        let Err(error) = out.write_all(lines) else { return Ok(()) };
        // Half a line would spoil the next one; where even this fails, opening anew ends the line.
        if out.set_len(length).is_err() {
            self.out = None;
        }
        Err(failed("write")(error))
    }

    /// Opens the file of lines, unless the one that is open is still the one at the path.
    fn open_output(&mut self) -> Result<(), SinkError> {
        let path = self.options.path.clone();
        let failed = |operation| {
            let path = path.clone();
            move |source| SinkError::Io { operation, path, source }
        };
        if let Some(out) = &self.out {
            let open = out.metadata().map_err(failed("inspect"))?;
            let same = std::fs::symlink_metadata(&path)
                .is_ok_and(|there| (there.dev(), there.ino()) == (open.dev(), open.ino()));
            if same {
                return Ok(());
            }
            out.sync_data().map_err(failed("sync"))?;
        }
        let mut out = open_append(&path).map_err(failed("open"))?;
        check_owner_only(&path, "file")?;
        end_last_line(&path, &mut out).map_err(failed("mend"))?;
        self.out = Some(out);
        Ok(())
    }

    /// Makes the lines durable, then the position.
    fn remember(&mut self) -> Result<(), SinkError> {
        let position = self.position();
        if position == self.remembered {
            return Ok(());
        }
        let path = &self.options.path;
        if let Some(out) = &self.out {
            out.sync_data().map_err(|source| SinkError::Io {
                operation: "sync",
                path: path.clone(),
                source,
            })?;
        }
        write_cursor(&self.options.cursor, position)?;
        self.remembered = position;
        Ok(())
    }
}

/// Ends a line that a crash left unfinished.
fn end_last_line(path: &Path, out: &mut File) -> io::Result<()> {
    let length = out.metadata()?.len();
    let mut last = [0_u8];
    if length > 0 {
        open_read(path)?.read_exact_at(&mut last, length.saturating_sub(1))?;
        if last != *b"\n" {
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn read_cursor(path: &Path) -> Result<u64, SinkError> {
    match std::fs::read_to_string(path) {
        Ok(text) => text
            .strip_suffix('\n')
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| SinkError::BadCursor { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(SinkError::Io { operation: "read", path: path.to_owned(), source }),
    }
}

fn write_cursor(path: &Path, position: u64) -> Result<(), SinkError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    publish(dir, &name, format!("{position}\n").as_bytes()).map_err(|source| SinkError::Io {
        operation: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
