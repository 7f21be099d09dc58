//! Writes secrets into new files of mode 0600. Invariant: nothing that exists is overwritten or followed.
//!
//! Files are made, empty, before the server is asked for what goes into them: a directory that cannot be written must
//! not cost the only copy of a share.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::CliError;

/// A directory of ours for new files.
pub(crate) struct OutDir {
    fd: OwnedFd,
    path: PathBuf,
    /// Whether it was made here.
    new: bool,
}

/// An empty file that waits for its content.
pub(crate) struct NewFile {
    file: File,
    path: PathBuf,
}

impl OutDir {
    /// Opens the directory, or makes it with mode 0700.
    pub(crate) fn open_or_make(path: &Path) -> Result<Self, CliError> {
        let new = match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(unwritable(path, error)),
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| unwritable(path, error))?;
        Ok(Self { fd, path: path.to_owned(), new })
    }

    /// Makes empty files, all or none.
    pub(crate) fn make(&self, names: &[String]) -> Result<Vec<NewFile>, CliError> {
        let mut made = Vec::new();
        for name in names {
            match self.make_one(name) {
                Ok(file) => made.push(file),
                Err(error) => {
                    self.unlink(names.iter().take(made.len()));
                    return Err(error);
                }
            }
        }
        Ok(made)
    }

    fn make_one(&self, name: &str) -> Result<NewFile, CliError> {
        let path = self.path.join(name);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(NewFile { file: File::from(fd), path }),
            Err(Errno::EXIST | Errno::LOOP) => Err(CliError::FileExists { path }),
            Err(error) => Err(unwritable(&path, error)),
        }
    }

    /// Removes files that were made and are still empty, and the directory if it was made for them.
    pub(crate) fn remove(&self, names: &[String]) {
        self.unlink(names);
        if self.new {
            // It stays if somebody put something else into it.
            let _removed = rustix::fs::rmdir(&self.path);
        }
    }

    fn unlink<'a>(&self, names: impl IntoIterator<Item = &'a String>) {
        for name in names {
            // What cannot be removed stays as an empty file, which harms nobody.
            let _removed = rustix::fs::unlinkat(&self.fd, name, AtFlags::empty());
        }
    }

    /// Makes the names of the files durable.
    pub(crate) fn sync(&self) -> Result<(), CliError> {
        rustix::fs::fsync(&self.fd).map_err(|error| unwritable(&self.path, error))
    }
}

impl NewFile {
    /// One new file beside whatever is there.
    pub(crate) fn make(path: &Path) -> Result<Self, CliError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(Self { file: File::from(fd), path: path.to_owned() }),
            Err(Errno::EXIST | Errno::LOOP) => Err(CliError::FileExists { path: path.to_owned() }),
            Err(error) => Err(unwritable(path, error)),
        }
    }

    /// Writes the content and waits until it is durable.
    pub(crate) fn fill(mut self, parts: &[&[u8]]) -> Result<PathBuf, CliError> {
        let written =
            parts.iter().try_for_each(|part| self.file.write_all(part)).and_then(|()| self.file.sync_all());
        match written {
            Ok(()) => Ok(self.path),
            Err(source) => Err(CliError::Write { path: self.path, source }),
        }
    }

    /// Takes it away again: there is nothing to write.
    pub(crate) fn remove(&self) {
        // What cannot be removed stays as an empty file, which harms nobody.
        let _removed = rustix::fs::unlink(&self.path);
    }
}

fn unwritable(path: &Path, error: Errno) -> CliError {
    CliError::Write { path: path.to_owned(), source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn files_are_new_and_private() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("shares");
        let dir = OutDir::open_or_make(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        let file = dir.make(&["share-1.txt".to_owned()]).unwrap().pop().unwrap();
        let written = file.fill(&[b"text", b"\n"]).unwrap();
        dir.sync().unwrap();
        assert_eq!(std::fs::read(&written).unwrap(), b"text\n");
        assert_eq!(std::fs::metadata(&written).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn nothing_is_overwritten_or_followed_and_no_half_set_is_left() {
        let base = tempfile::tempdir().unwrap();
        let target = base.path().join("target");
        let dir = OutDir::open_or_make(base.path()).unwrap();
        symlink(&target, base.path().join("b")).unwrap();
        let names = ["a".to_owned(), "b".to_owned()];
        assert!(matches!(dir.make(&names), Err(CliError::FileExists { .. })));
        assert!(!target.exists());
        assert!(!base.path().join("a").exists());
        assert!(matches!(NewFile::make(&base.path().join("b")), Err(CliError::FileExists { .. })));

        dir.remove(&[]);
        assert!(base.path().is_dir());
        let fresh = base.path().join("fresh");
        let made = OutDir::open_or_make(&fresh).unwrap();
        made.make(&names).unwrap();
        made.remove(&names);
        assert!(!fresh.exists());

        let link = base.path().join("link");
        symlink(base.path(), &link).unwrap();
        assert!(matches!(OutDir::open_or_make(&link), Err(CliError::Write { .. })));
    }
}
