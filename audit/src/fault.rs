//! A disk that fails on command, for the tests of the writer.
//!
//! Invariant: it fails as disks do: a write that finds no room leaves part of its bytes, a sync that fails loses what
//! was not synced before.

use crate::files::{Disk, LogFiles};
use crate::wire::len64;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};

/// What shall go wrong; shared with the test.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// How many bytes still fit, log and ballast together; nothing where there is no limit.
    pub(crate) room: Option<u64>,
    /// How many more syncs fail, losing what was not synced.
    pub(crate) failing_syncs: u32,
    /// How many more writes fail outright.
    pub(crate) failing_writes: u32,
    /// How many syncs worked.
    pub(crate) syncs: u64,
    /// The next sync says that it has begun, and goes on when told.
    pub(crate) held_sync: Option<(Sender<()>, Receiver<()>)>,
}

pub(crate) struct FaultyDisk {
    inner: LogFiles,
    faults: Arc<Mutex<Faults>>,
    current: PathBuf,
    length: u64,
    synced: u64,
}

impl FaultyDisk {
    pub(crate) fn new(inner: LogFiles, current: PathBuf, faults: Arc<Mutex<Faults>>) -> Self {
        let length = std::fs::metadata(&current).unwrap().len();
        Self { inner, faults, current, length, synced: length }
    }

    /// Takes room for up to `bytes`; how many fit.
    fn claim(&self, bytes: u64) -> u64 {
        let mut faults = self.faults.lock().unwrap();
        let Some(room) = &mut faults.room else { return bytes };
        let fits = bytes.min(*room);
        *room -= fits;
        fits
    }

    fn release(&self, bytes: u64) {
        if let Some(room) = &mut self.faults.lock().unwrap().room {
            *room += bytes;
        }
    }
}

impl Disk for FaultyDisk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        {
            let mut faults = self.faults.lock().unwrap();
            if faults.failing_writes > 0 {
                faults.failing_writes -= 1;
                return Err(io::Error::from_raw_os_error(5));
            }
        }
        let fits = usize::try_from(self.claim(len64(bytes.len()))).unwrap();
        self.inner.append(&bytes[..fits])?;
        self.length += len64(fits);
        if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        let held = self.faults.lock().unwrap().held_sync.take();
        if let Some((entered, go_on)) = held {
            entered.send(()).unwrap();
            go_on.recv().unwrap();
        }
        let mut faults = self.faults.lock().unwrap();
        if faults.failing_syncs > 0 {
            faults.failing_syncs -= 1;
            let mut bytes = std::fs::read(&self.current).unwrap();
            bytes[usize::try_from(self.synced).unwrap()..].fill(0);
            std::fs::write(&self.current, bytes).unwrap();
            return Err(io::Error::from_raw_os_error(5));
        }
        faults.syncs += 1;
        self.synced = self.length;
        self.inner.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.release(self.length.saturating_sub(length));
        self.length = length;
        self.synced = self.synced.min(length);
        self.inner.truncate(length)
    }

    fn rotate(&mut self, first_seq: u64, header: &[u8]) -> io::Result<()> {
        let length = len64(header.len());
        let fits = self.claim(length);
        if fits < length {
            self.release(fits);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.rotate(first_seq, header)?;
        self.current.set_file_name(crate::files::segment_name(first_seq));
        (self.length, self.synced) = (length, length);
        Ok(())
    }

    fn ballast(&self) -> u64 {
        self.inner.ballast()
    }

    fn set_ballast(&mut self, bytes: u64) -> io::Result<()> {
        let have = self.inner.ballast();
        let wanted = bytes.saturating_sub(have);
        let fits = self.claim(wanted);
        if fits < wanted {
            self.release(fits);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.release(have.saturating_sub(bytes));
        self.inner.set_ballast(bytes)
    }
}
