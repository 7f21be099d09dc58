//! Looks for values that must be nowhere. Invariant: the search reads whole files whatever their names, and knows the
//! forms in which bytes are usually printed; a test shows with a planted marker that it finds what is there.

use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::{BASE32_NOPAD, BASE64, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

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
        let found = self.needles.iter().filter(|(_, needle)| contains(bytes, needle));
        found.map(|(name, _)| name.clone()).collect()
    }

    /// Fails if one of the values stands in a text.
    pub fn absent_from(&self, place: &str, bytes: impl AsRef<[u8]>) {
        let found = self.found_in(bytes);
        assert!(found.is_empty(), "{place} holds {found:?}");
    }

    /// The files below a directory that hold one of the values, and which.
    pub fn found_below(&self, dir: &Path) -> Vec<(PathBuf, Vec<String>)> {
        let found = files_below(dir).into_iter().filter_map(|path| {
            let names = self.found_in(fs::read(&path).ok()?);
            (!names.is_empty()).then_some((path, names))
        });
        found.collect()
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

fn contains(text: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return false };
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(needle) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}
