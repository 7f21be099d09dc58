//! New files of mode 0600 for what a recovery makes. Invariant: they exist, empty, before anything changes; nothing that
//! exists is overwritten or followed.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use keystead_core::seal::recovery::NewSeal;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

const SEAL_RECORD_FILE: &str = "seal-record.ksseal";

/// A file for each share, and one for the seal record.
pub(super) struct Places {
    dir: OwnedFd,
    path: PathBuf,
    /// Whether the directory was made here.
    new: bool,
    files: Vec<(String, File)>,
}

impl Places {
    /// Makes them, all or none, in a directory that is made with mode 0700 if it is not there.
    pub(super) fn make(path: &Path, shares: u8) -> anyhow::Result<Self> {
        let unusable = || format!("{} cannot be used for the new shares", path.display());
        let new = match rustix::fs::mkdir(path, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error).with_context(unusable),
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty()).with_context(unusable)?;
        let mut places = Self { dir, path: path.to_owned(), new, files: Vec::new() };
        let names = (1..=shares).map(|number| format!("share-{number}.txt"));
        for name in names.chain([SEAL_RECORD_FILE.to_owned()]) {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            match rustix::fs::openat(&places.dir, name.as_str(), flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => places.files.push((name, File::from(file))),
                Err(error) => {
                    places.remove();
                    let file = path.join(name);
                    if matches!(error, Errno::EXIST | Errno::LOOP) {
                        bail!("{} is there already; name another --out-dir", file.display());
                    }
                    return Err(error).with_context(|| format!("{} cannot be made", file.display()));
                }
            }
        }
        Ok(places)
    }

    /// Writes them, and waits until they are durable.
    pub(super) fn fill(&mut self, seal: NewSeal<'_>) -> anyhow::Result<()> {
        if self.files.len() != seal.shares.len().saturating_add(1) {
            bail!("{} shares were made, and there are {} files", seal.shares.len(), self.files.len());
        }
        let mut files = self.files.iter_mut();
        for share in seal.shares {
            let Some((name, file)) = files.next() else { bail!("there are too few files") };
            let text = share.to_text();
            let written = file.write_all(text.expose()).and_then(|()| file.write_all(b"\n"));
            written.and_then(|()| file.sync_all()).with_context(|| format!("writing {name}"))?;
        }
        let Some((name, file)) = files.next() else { bail!("there are too few files") };
        let written = file.write_all(seal.record).and_then(|()| file.sync_all());
        written.with_context(|| format!("writing {name}"))?;
        rustix::fs::fsync(&self.dir).context("the directory of the new shares")
    }

    /// Takes them away again, with what may be in them: it will never open anything.
    pub(super) fn remove(&mut self) {
        for (name, _) in self.files.drain(..) {
            // One that cannot be removed is of an epoch that the vault never has.
            let _ = rustix::fs::unlinkat(&self.dir, name.as_str(), AtFlags::empty());
        }
        if self.new {
            // It stays if somebody put something else into it.
            let _ = rustix::fs::rmdir(&self.path);
        }
    }

    /// Where they are.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.files.iter().map(|(name, _)| self.path.join(name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn files_are_new_and_private_and_go_again() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("new");
        let mut places = Places::make(&path, 2).unwrap();
        let names: Vec<_> = places.paths().collect();
        assert_eq!(names, ["share-1.txt", "share-2.txt", SEAL_RECORD_FILE].map(|name| path.join(name)));
        for file in &names {
            assert_eq!(std::fs::metadata(file).unwrap().mode() & 0o777, 0o600);
        }
        assert!(places.fill(NewSeal { shares: &[], record: b"x" }).is_err(), "another number of shares");
        places.remove();
        assert!(!path.exists());
    }

    #[test]
    fn nothing_is_overwritten_or_followed_and_no_half_set_is_left() {
        let base = tempfile::tempdir().unwrap();
        symlink(base.path().join("target"), base.path().join("share-2.txt")).unwrap();
        let said = Places::make(base.path(), 3).err().unwrap().to_string();
        assert!(said.contains("share-2.txt") && said.contains("--out-dir"), "{said}");
        assert!(!base.path().join("share-1.txt").exists() && !base.path().join("target").exists());
    }
}
