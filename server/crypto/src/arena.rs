//! Memory for keys that live as long as the vault is open: locked (never swapped), left out of core dumps, wiped in
//! a forked child, between two guard pages.
//!
//! Invariants: a place is wiped before it is given back; two live keys never share a place. When locking fails, or
//! the arena is full, keys still work and [`Arena::status`] says so: whether that is good enough is the server's
//! decision, not this crate's. Absent: growing.

mod mapping;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use mapping::Mapping;

/// Keys are 32 bytes; longer values take several places in a row.
const PLACE: usize = 32;
const GLOBAL_BYTES: usize = 64 * 1024;

/// The arena of this process: 64 KiB, an unprivileged process may lock 8 MiB by default.
pub fn arena() -> &'static Arena {
    static ARENA: OnceLock<Arena> = OnceLock::new();
    ARENA.get_or_init(|| Arena::new(GLOBAL_BYTES))
}

/// What the operating system granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaStatus {
    /// Room in bytes; 0 if no memory could be mapped.
    pub bytes: usize,
    /// Never written to swap.
    pub locked: bool,
    /// Left out of core dumps.
    pub undumped: bool,
    /// Zero in a forked child.
    pub wiped_on_fork: bool,
    /// Keys that live outside now, since the arena was full when they were made.
    pub outside: usize,
}

/// A locked region that hands out places for keys.
pub struct Arena {
    region: Arc<Region>,
}

impl Arena {
    /// Maps and locks at least this many bytes.
    pub fn new(bytes: usize) -> Self {
        let mapping = Mapping::new(bytes).ok();
        let places = mapping.as_ref().map_or(0, |mapping| mapping.len() / PLACE);
        let book = Mutex::new(Book { taken: vec![false; places], outside: 0 });
        Self { region: Arc::new(Region { mapping, book }) }
    }

    /// Whether all keys made here are in memory that is never swapped.
    pub fn locked(&self) -> bool {
        let status = self.status();
        status.locked && status.outside == 0
    }

    /// What the operating system granted.
    pub fn status(&self) -> ArenaStatus {
        let outside = self.region.book().outside;
        match &self.region.mapping {
            Some(mapping) => ArenaStatus {
                bytes: mapping.len(),
                locked: mapping.locked(),
                undumped: mapping.undumped(),
                wiped_on_fork: mapping.wiped_on_fork(),
                outside,
            },
            None => ArenaStatus { bytes: 0, locked: false, undumped: false, wiped_on_fork: false, outside },
        }
    }

    /// A key that `fill` writes in place.
    pub fn key(&self, fill: impl FnOnce(&mut [u8; 32])) -> LockedKey {
        let mut place = self.place(PLACE);
        if let Some(key) = place.bytes_mut().first_chunk_mut() {
            fill(key);
        }
        LockedKey(place)
    }

    /// Bytes that `fill` writes in place, for a PIN that must be kept.
    pub fn bytes(&self, length: usize, fill: impl FnOnce(&mut [u8])) -> LockedBytes {
        let mut place = self.place(length);
        fill(place.bytes_mut());
        LockedBytes(place)
    }

    fn place(&self, length: usize) -> Place {
        let units = length.div_ceil(PLACE).max(1);
        let mut book = self.region.book();
        let home = match book.reserve(units) {
            Some(first) => Home::Arena(Run { first, units }),
            None => {
                book.outside = book.outside.saturating_add(1);
                Home::Outside(Zeroizing::new(vec![0; length].into_boxed_slice()))
            }
        };
        Place { region: Arc::clone(&self.region), home, length }
    }
}

struct Region {
    mapping: Option<Mapping>,
    book: Mutex<Book>,
}

impl Region {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which places are taken.
struct Book {
    taken: Vec<bool>,
    outside: usize,
}

impl Book {
    fn reserve(&mut self, units: usize) -> Option<usize> {
        let first = self.taken.windows(units).position(|run| run.iter().all(|taken| !taken))?;
        self.mark(first, units, true);
        Some(first)
    }

    fn mark(&mut self, first: usize, units: usize, value: bool) {
        for taken in self.taken.iter_mut().skip(first).take(units) {
            *taken = value;
        }
    }
}

/// Places in a row, owned by whoever holds this.
struct Run {
    first: usize,
    units: usize,
}

enum Home {
    Arena(Run),
    Outside(Zeroizing<Box<[u8]>>),
}

/// Exclusive owner of its bytes until dropped.
struct Place {
    region: Arc<Region>,
    home: Home,
    length: usize,
}

impl Place {
    fn bytes(&self) -> &[u8] {
        match (&self.home, &self.region.mapping) {
            (Home::Outside(bytes), _) => bytes,
            (Home::Arena(run), Some(mapping)) => mapping.slice(run, self.length),
            (Home::Arena(_), None) => &[],
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match (&mut self.home, &self.region.mapping) {
            (Home::Outside(bytes), _) => bytes,
            (Home::Arena(run), Some(mapping)) => mapping.slice_mut(run, self.length),
            (Home::Arena(_), None) => &mut [],
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        let mut book = self.region.book();
        match &self.home {
            Home::Arena(run) => book.mark(run.first, run.units, false),
            Home::Outside(_) => book.outside = book.outside.saturating_sub(1),
        }
    }
}

/// A 256-bit key in the arena. Wiped when dropped, never printed.
pub struct LockedKey(Place);

impl LockedKey {
    /// A fresh key in this process's arena.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        arena().key(|key| rng.fill_bytes(key))
    }

    /// Copies 32 bytes in, or says no when there are more or fewer.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 32] = bytes.try_into().ok()?;
        Some(arena().key(|key| key.copy_from_slice(bytes)))
    }

    /// The one door to the content.
    pub fn expose(&self) -> &[u8; 32] {
        let Some(key) = self.0.bytes().first_chunk() else {
            unreachable!("a key's place is 32 bytes long");
        };
        key
    }
}

impl ConstantTimeEq for LockedKey {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.expose().ct_eq(other.expose())
    }
}

impl fmt::Debug for LockedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedKey(..)")
    }
}

/// Bytes in the arena. Wiped when dropped, never printed.
pub struct LockedBytes(Place);

impl LockedBytes {
    /// Copies bytes into this process's arena; the caller wipes the source.
    pub fn copy_from(bytes: &[u8]) -> Self {
        arena().bytes(bytes.len(), |place| place.copy_from_slice(bytes))
    }

    /// The one door to the content.
    pub fn expose(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl fmt::Debug for LockedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedBytes(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn live_keys_have_places_of_their_own_and_keep_their_bytes() {
        let arena = Arena::new(4096);
        let places = arena.status().bytes / PLACE;
        let keys: Vec<_> =
            (0..places).map(|n| arena.key(|key| key.fill(u8::try_from(n % 251).unwrap()))).collect();
        let addresses: HashSet<_> = keys.iter().map(|key| key.expose().as_ptr()).collect();
        assert_eq!(addresses.len(), places);
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(key.expose(), &[u8::try_from(n % 251).unwrap(); 32]);
        }
        assert_eq!(arena.status().outside, 0);
    }

    #[test]
    fn a_dropped_key_is_wiped_and_its_place_is_used_again() {
        let arena = Arena::new(4096);
        let keeper = arena.key(|key| key.fill(1));
        let address = {
            let key = arena.key(|key| key.fill(0xa5));
            key.expose().as_ptr()
        };
        let again = arena.key(|_| ());
        assert_eq!(again.expose().as_ptr(), address);
        assert_eq!(again.expose(), &[0; 32], "the new owner sees no byte of the old key");
        drop(keeper);
    }

    #[test]
    fn a_full_arena_still_gives_keys_and_says_that_they_are_outside() {
        let arena = Arena::new(4096);
        let mut keys: Vec<_> = (0..arena.status().bytes / PLACE).map(|_| arena.key(|_| ())).collect();
        let outside = arena.key(|key| key.fill(7));
        assert_eq!(outside.expose(), &[7; 32]);
        assert_eq!(arena.status().outside, 1);
        assert!(!arena.locked());
        drop(outside);
        assert_eq!(arena.status().outside, 0);
        keys.truncate(keys.len() - 1);
        let inside = arena.key(|_| ());
        assert_eq!(arena.status().outside, 0);
        drop(inside);
    }

    #[test]
    fn longer_values_take_places_in_a_row() {
        let arena = Arena::new(4096);
        let pin = arena.bytes(100, |bytes| bytes.copy_from_slice(&[3; 100]));
        let key = arena.key(|key| key.fill(9));
        assert_eq!(pin.expose(), [3; 100]);
        assert_eq!(key.expose(), &[9; 32]);
        assert!(arena.bytes(0, |_| ()).expose().is_empty());
    }

    #[test]
    fn the_process_arena_is_locked_here() {
        let status = arena().status();
        assert!(status.bytes >= GLOBAL_BYTES);
        assert!(status.locked && status.undumped && status.wiped_on_fork, "{status:?}");
    }

    #[test]
    fn threads_share_it() {
        let arena = Arena::new(4096);
        std::thread::scope(|scope| {
            for n in 0..8u8 {
                let arena = &arena;
                scope.spawn(move || {
                    for _ in 0..500 {
                        let key = arena.key(|key| key.fill(n));
                        assert_eq!(key.expose(), &[n; 32]);
                    }
                });
            }
        });
        assert_eq!(arena.status().outside, 0);
    }
}
