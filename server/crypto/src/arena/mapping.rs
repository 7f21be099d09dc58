//! The mapped memory behind the arena: the only unsafe code of this crate.
//!
//! Invariant: bytes are handed out only for a borrowed `Run`, mutably only for one borrowed mutably. The arena's book
//! keeps runs apart; this module checks that they lie inside the mapping.
#![expect(unsafe_code, reason = "mapping, locking and viewing memory has no safe interface")]

use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use zeroize::Zeroize;

use super::{PLACE, Run};

/// Anonymous pages between two guard pages.
pub(super) struct Mapping {
    /// Start of the whole mapping: the first guard page.
    whole: NonNull<u8>,
    whole_len: usize,
    data: NonNull<u8>,
    data_len: usize,
    locked: bool,
    undumped: bool,
    wiped_on_fork: bool,
}

// SAFETY: the mapping belongs to this value alone, and access to its bytes goes through runs, of which each
// has one owner.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access only reads what a run's owner shares.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps at least `bytes`, and locks them if the limit allows it.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let too_big = || io::Error::from(io::ErrorKind::OutOfMemory);
        let data_len = bytes.max(1).checked_next_multiple_of(page).ok_or_else(too_big)?;
        let whole_len =
            page.checked_mul(2).and_then(|guards| guards.checked_add(data_len)).ok_or_else(too_big)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole_len, access, MapFlags::PRIVATE)
        }?;
        let whole = NonNull::new(start.cast::<u8>()).ok_or_else(too_big)?;
        // SAFETY: one page is less than the mapping's length, so the result lies inside it.
        let data = unsafe { whole.add(page) };
        let mut mapping =
            Self { whole, whole_len, data, data_len, locked: false, undumped: false, wiped_on_fork: false };
        let address = data.as_ptr().cast::<c_void>();
        // SAFETY: all ranges are inside the mapping just made, which nothing else knows of; the data starts one page in
        // and is followed by one page.
        unsafe {
            rustix::mm::mprotect(start, page, MprotectFlags::empty())?;
            rustix::mm::mprotect(data.add(data_len).as_ptr().cast::<c_void>(), page, MprotectFlags::empty())?;
            mapping.locked = rustix::mm::mlock(address, data_len).is_ok();
            mapping.undumped = rustix::mm::madvise(address, data_len, Advice::LinuxDontDump).is_ok();
            mapping.wiped_on_fork = rustix::mm::madvise(address, data_len, Advice::LinuxWipeOnFork).is_ok();
        }
        Ok(mapping)
    }

    pub(super) fn len(&self) -> usize {
        self.data_len
    }

    pub(super) fn locked(&self) -> bool {
        self.locked
    }

    pub(super) fn undumped(&self) -> bool {
        self.undumped
    }

    pub(super) fn wiped_on_fork(&self) -> bool {
        self.wiped_on_fork
    }

    /// The first `length` bytes of a run, for as long as its owner is borrowed.
    pub(super) fn slice<'a>(&'a self, run: &'a Run, length: usize) -> &'a [u8] {
        match self.start(run, length) {
            // SAFETY: the range is mapped readable while `self` lives; only the run's owner writes it, and is borrowed.
            Some(start) => unsafe { std::slice::from_raw_parts(start.as_ptr(), length) },
            None => &[],
        }
    }

    /// The first `length` bytes of a run, exclusively.
    pub(super) fn slice_mut<'a>(&'a self, run: &'a mut Run, length: usize) -> &'a mut [u8] {
        match self.start(run, length) {
            // SAFETY: as in `slice`; the run's owner is borrowed exclusively, and no other run has these places.
            Some(start) => unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length) },
            None => &mut [],
        }
    }

    fn start(&self, run: &Run, length: usize) -> Option<NonNull<u8>> {
        let start = run.first.checked_mul(PLACE)?;
        let end = start.checked_add(length)?;
        let fits = end <= self.data_len && length <= run.units.checked_mul(PLACE)?;
        // SAFETY: start <= end <= data_len, so the result lies inside the mapping or at its end.
        fits.then(|| unsafe { self.data.add(start) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: no run is left (each holder keeps the region alive), so nothing else reads or writes the range; it is
        // unmapped whole, once.
        unsafe {
            std::slice::from_raw_parts_mut(self.data.as_ptr(), self.data_len).zeroize();
            // A failure would leave pages mapped that hold only zeros.
            let _ = rustix::mm::munmap(self.whole.as_ptr().cast::<c_void>(), self.whole_len);
        }
    }
}
