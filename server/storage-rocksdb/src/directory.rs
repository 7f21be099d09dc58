//! The store's directory: ours alone, locked, and recognised before anything is written into it. Invariant: a directory that
//! is refused is left byte for byte as it was. Absent: repair.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use keystead_storage::StorageError;
use rustix::fs::{FlockOperation, Mode, OFlags};

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing, or a store whose making was interrupted before it could hold anything.
    New,
    /// A store.
    Store,
}

/// Makes the directory if it is missing, and holds it until the returned descriptor is closed.
pub(crate) fn lock(path: &Path) -> Result<OwnedFd, StorageError> {
    let failed = |source: io::Error| StorageError::Directory { path: path.to_owned(), source };
    // RocksDB opens its files with the process's umask; a vault has no file that others may read.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let found = rustix::fs::fstat(&directory).map_err(|error| failed(error.into()))?;
    let mode = found.st_mode & 0o7777;
    if mode & 0o077 != 0 || found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(StorageError::LooseDirectory { path: path.to_owned(), mode });
    }
    // A lock on the directory itself leaves no file in a store that turns out to be another program's.
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StorageError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}

/// Looks at what is there.
pub(crate) fn content(path: &Path) -> Result<Content, StorageError> {
    let failed = |source: io::Error| StorageError::Directory { path: path.to_owned(), source };
    let mut made_by_the_engine = true;
    for entry in fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name == "CURRENT" {
            return Ok(Content::Store);
        }
        made_by_the_engine &= precedes_current(&name);
    }
    if made_by_the_engine { Ok(Content::New) } else { Err(StorageError::NotAStore { path: path.to_owned() }) }
}

/// The files that RocksDB makes before the one that turns a directory into a database.
fn precedes_current(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let numbered = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    matches!(name, "LOCK" | "LOG" | "IDENTITY")
        || name.strip_prefix("MANIFEST-").is_some_and(numbered)
        || name.strip_prefix("LOG.old.").is_some_and(numbered)
        || [".dbtmp", ".log"].into_iter().any(|end| name.strip_suffix(end).is_some_and(numbered))
}

/// The numbers of the log files that hold something.
pub(crate) fn logs(path: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
        match (number, entry.metadata()) {
            (Some(number), Ok(file)) if file.size() > 0 => numbers.push(number),
            _ => {}
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_making_is_told_from_a_strangers_files() {
        let made = ["LOCK", "LOG", "LOG.old.17", "IDENTITY", "MANIFEST-000001", "000004.log", "000001.dbtmp"];
        assert!(made.iter().all(|name| precedes_current(OsStr::new(name))));
        let strangers = ["notes.log", "MANIFEST-", "LOG.old", "photo.jpg", ".log", "000004.sst"];
        assert!(!strangers.iter().any(|name| precedes_current(OsStr::new(name))));
    }
}
