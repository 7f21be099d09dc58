//! The log's directory: who may touch it, what its files are called, and the one file that is written.
//!
//! Invariant: files are made with mode 0600, never through a symbolic link, and a log file appears under its name
//! only with a whole, durable header. Absent: what the bytes mean (`segment`) and when they are written (`writer`).

use crate::error::OpenError;
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// What the writer does to the disk, so that tests can put a failing one in its place.
pub(crate) trait Disk: Send {
    /// Appends to the current log file; on failure any part may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes the current log file durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the current log file.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Makes a new, durable log file with this header the current one.
    fn rotate(&mut self, first_seq: u64, header: &[u8]) -> io::Result<()>;
    /// How much room the ballast takes.
    fn ballast(&self) -> u64;
    /// Makes the ballast this large, or leaves it as it is and fails.
    fn set_ballast(&mut self, bytes: u64) -> io::Result<()>;
}

/// The name of the log file whose first entry has this number.
pub(crate) fn segment_name(first_seq: u64) -> String {
    format!("audit-{first_seq:020}.log")
}

fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("audit-")?.strip_suffix(".log")?;
    let all_digits = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().ok()).flatten()
}

/// The first sequence numbers of a directory's log files, in order.
pub(crate) fn list_segments(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(dir)? {
        found.extend(item?.file_name().to_str().and_then(parse_segment_name));
    }
    found.sort_unstable();
    Ok(found)
}

/// Opens a file for reading, not through a symbolic link.
pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// Opens or makes a file for appending, not through a symbolic link.
pub(crate) fn open_append(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, PRIVATE)?))
}

/// Makes a file with this content under its name, all or nothing, durably.
pub(crate) fn publish(dir: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&temporary, flags, PRIVATE)?);
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// Whether an error says that there is no room, which may change, rather than that the device is broken.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// A log's directory, locked against other writers.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// Held for as long as the log is open.
    _lock: File,
}

impl Directory {
    /// Makes the directory where it is missing, checks who may change it, and locks it.
    pub(crate) fn lock(path: &Path) -> Result<Self, OpenError> {
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { operation, path, source }
        };
        if let Err(error) = DirBuilder::new().mode(0o700).create(path)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(failed("create", path)(error));
        }
        check_owner_only(path, "directory")?;
        let lock_path = path.join("lock");
        let lock = open_append(&lock_path).map_err(failed("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed("lock", &lock_path)(source)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses what is a symbolic link, of another kind, or changeable by others.
pub(crate) fn check_owner_only(path: &Path, expected: &'static str) -> Result<(), OpenError> {
    let metadata = std::fs::symlink_metadata(path).map_err(|source| OpenError::Io {
        operation: "inspect",
        path: path.to_owned(),
        source,
    })?;
    let right_kind = if expected == "directory" { metadata.is_dir() } else { metadata.is_file() };
    if right_kind && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(OpenError::Insecure { path: path.to_owned(), expected, mode: metadata.mode() })
}

/// The real disk: the current log file and the ballast.
#[derive(Debug)]
pub(crate) struct LogFiles {
    directory: Directory,
    current: File,
    ballast: File,
    ballast_bytes: u64,
}

impl LogFiles {
    /// Opens the log file that begins with `first_seq` for appending, and the ballast.
    pub(crate) fn open(directory: Directory, first_seq: u64) -> Result<Self, OpenError> {
        let open = |path: PathBuf| -> Result<File, OpenError> {
            let file = open_append(&path).map_err(|source| OpenError::Io {
                operation: "open",
                path: path.clone(),
                source,
            })?;
            check_owner_only(&path, "file")?;
            Ok(file)
        };
        let current = open(directory.path().join(segment_name(first_seq)))?;
        let path = directory.path().join("ballast");
        let ballast = open(path.clone())?;
        let ballast_bytes =
            ballast.metadata().map_err(|source| OpenError::Io { operation: "inspect", path, source })?.len();
        Ok(Self { directory, current, ballast, ballast_bytes })
    }

    fn grow_ballast(&mut self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.ballast, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return self.ballast.sync_all(),
            Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        // A file system that cannot allocate ahead still keeps what was written.
        let chunk = [0_u8; 4096];
        let mut left = bytes.saturating_sub(self.ballast_bytes);
        while left > 0 {
            let count = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
            self.ballast.write_all(chunk.get(..count).unwrap_or_default())?;
            left = left.saturating_sub(crate::wire::len64(count));
        }
        self.ballast.sync_all()
    }
}

impl Disk for LogFiles {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.current.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.current.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.current.set_len(length)
    }

    fn rotate(&mut self, first_seq: u64, header: &[u8]) -> io::Result<()> {
        let name = segment_name(first_seq);
        publish(self.directory.path(), &name, header)?;
        self.current = open_append(&self.directory.path().join(name))?;
        Ok(())
    }

    fn ballast(&self) -> u64 {
        self.ballast_bytes
    }

    fn set_ballast(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > self.ballast_bytes {
            if let Err(error) = self.grow_ballast(bytes) {
                self.ballast.set_len(self.ballast_bytes)?;
                return Err(error);
            }
        } else {
            self.ballast.set_len(bytes)?;
        }
        self.ballast_bytes = bytes;
        Ok(())
    }
}
