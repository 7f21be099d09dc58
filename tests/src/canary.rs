//! Looks for values that must be nowhere. Invariant: the search reads whole files whatever their names, and knows the
//! forms in which bytes are usually printed; a test shows with a planted marker that it finds what is there.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use data_encoding::{BASE32_NOPAD, BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

const SEARCHES: u32 = 20;

/// Values to look for, by name.
#[derive(Default)]
pub struct Canaries {
    needles: Vec<(String, Vec<u8>)>,
}

impl Canaries {
    /// Nothing to look for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A value of at least 8 bytes that must not appear, in any of its usual forms.
    pub fn plant(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        assert!(value.len() >= 8, "a canary of {} bytes would be found by chance", value.len());
        let mut add = |form: &str, bytes: Vec<u8>| self.needles.push((format!("{name} ({form})"), bytes));
        add("as it is", value.to_vec());
        add("hex", HEXLOWER.encode(value).into_bytes());
        add("HEX", HEXUPPER.encode(value).into_bytes());
        add("base32", BASE32_NOPAD.encode(value).into_bytes());
        add("base64", BASE64_NOPAD.encode(value).into_bytes());
        add("base64url", BASE64URL_NOPAD.encode(value).into_bytes());
        // Rust's Debug of bytes.
        let list: Vec<String> = value.iter().map(ToString::to_string).collect();
        add("list", list.join(", ").into_bytes());
        // Base64 of a text that the value stands in: two of three alignments differ from the above.
        for shift in [1, 2] {
            let mut shifted = vec![0; shift];
            shifted.extend_from_slice(value);
            let text = BASE64.encode(&shifted);
            let inner = text.get(4..text.len().saturating_sub(4)).unwrap_or_default();
            add("base64 inside", inner.as_bytes().to_vec());
        }
    }

    /// The names of the values found in a text.
    pub fn found_in(&self, bytes: impl AsRef<[u8]>) -> Vec<String> {
        let bytes = bytes.as_ref();
        let mut found = BTreeSet::new();
        let begins = Beginnings::of(&self.needles);
        for (at, pair) in bytes.array_windows::<2>().enumerate() {
            if begins.may(*pair) {
                let rest = bytes.get(at..).unwrap_or_default();
                let here = self.needles.iter().filter(|(_, needle)| rest.starts_with(needle));
                found.extend(here.map(|(name, _)| name.clone()));
            }
        }
        found.into_iter().collect()
    }

    /// Fails if one of the values stands in a text.
    pub fn absent_from(&self, place: &str, bytes: impl AsRef<[u8]>) {
        let found = self.found_in(bytes);
        assert!(found.is_empty(), "{place} holds {found:?}");
    }

    /// The files below a directory that hold one of the values, and which. A file that goes away while it is searched may
    /// have moved its content to one that was not there before (a compaction of tables does): then all is searched again.
    pub fn found_below(&self, dir: &Path) -> Vec<(PathBuf, Vec<String>)> {
        for _ in 0..SEARCHES {
            let read = files_below(dir).into_iter().map(|path| match fs::read(&path) {
                Ok(bytes) => Ok((path, self.found_in(bytes))),
                Err(error) => Err(error),
            });
            match read.collect::<Result<Vec<_>, _>>() {
                Ok(read) => return read.into_iter().filter(|(_, names)| !names.is_empty()).collect(),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => panic!("{} cannot be searched: {error}", dir.display()),
            }
        }
        panic!("files below {} went away in each of {SEARCHES} searches", dir.display());
    }
}

/// Every file below a directory; sockets and links are no files.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap().filter_map(Result::ok) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files
}

/// The first two bytes of each needle, so that most places of a file are passed over at once.
struct Beginnings(Vec<bool>);

impl Beginnings {
    fn of(needles: &[(String, Vec<u8>)]) -> Self {
        let mut known = vec![false; 1 << 16];
        for (_, needle) in needles {
            let first = needle.first_chunk::<2>().unwrap();
            *known.get_mut(usize::from(u16::from_be_bytes(*first))).unwrap() = true;
        }
        Self(known)
    }

    fn may(&self, first: [u8; 2]) -> bool {
        self.0.get(usize::from(u16::from_be_bytes(first))).is_some_and(|known| *known)
    }
}
