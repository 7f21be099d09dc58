//! Paths of secrets and folders: up to 16 segments and 512 bytes, each segment
//! `[A-Za-z0-9_][A-Za-z0-9._@:=-]{0,127}` without a trailing dot, joined by single slashes, case-sensitive.
//!
//! Invariant: `parse ∘ print = id`. Nothing is trimmed, folded, resolved or decoded: `a/`, `a//b`, `./a`,
//! `a/..`, `%2e` and a backslash are errors at the edge, so a rule on a tree can't be walked around by
//! spelling. A parsed path always has its text at hand; segments borrow from it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most segments a path may have.
pub const MAX_SEGMENTS: usize = 16;
/// The most bytes a path may have, slashes included.
pub const MAX_PATH: usize = 512;
/// The most bytes a segment may have.
pub const MAX_SEGMENT: usize = 128;

/// Why a text is not a path. Positions are bytes counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A secret needs at least one segment.
    #[error("path: is empty")]
    Empty,
    /// More bytes than a path may have.
    #[error("path: has {length} bytes, at most {MAX_PATH} are allowed")]
    TooLong {
        /// How long it was.
        length: usize,
    },
    /// More segments than a path may have.
    #[error("path: has {count} segments, at most {MAX_SEGMENTS} are allowed")]
    TooDeep {
        /// How many there were.
        count: usize,
    },
    /// Nothing between two slashes, before the first or after the last.
    #[error("path: empty segment at byte {position} (a slash may only stand between two segments)")]
    EmptySegment {
        /// Where the segment should have begun.
        position: usize,
    },
    /// More bytes than a segment may have.
    #[error("path: segment at byte {position} has {length} bytes, at most {MAX_SEGMENT} are allowed")]
    SegmentTooLong {
        /// Where the segment begins.
        position: usize,
        /// How long it was.
        length: usize,
    },
    /// A character outside the alphabet, or one that may not begin a segment.
    #[error("path: byte {position} is '{}', not one of {allowed}", .found.escape_default())]
    Character {
        /// Where.
        position: usize,
        /// The character found there.
        found: char,
        /// The characters allowed there.
        allowed: &'static str,
    },
    /// A segment that ends in a dot.
    #[error("path: segment ends in a dot at byte {position}")]
    TrailingDot {
        /// Where the dot stands.
        position: usize,
    },
}

/// One checked segment of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(Box<str>);

impl Segment {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        check_segment(text, 0)?;
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a secret is: 1 to 16 segments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretPath(Box<str>);

impl SecretPath {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Err(PathError::Empty);
        }
        check_path(text)?;
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, from the root.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last segment.
    pub fn leaf(&self) -> &str {
        split_last(&self.0).1
    }

    /// The folder the secret is in.
    pub fn parent(&self) -> FolderPath {
        FolderPath(split_last(&self.0).0.into())
    }

    /// Every folder above, nearest first, down to the root `""`.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        ancestors(&self.0)
    }
}

/// Where a folder is: 0 to 16 segments; the root is the empty text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FolderPath(Box<str>);

impl FolderPath {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if !text.is_empty() {
            check_path(text)?;
        }
        Ok(Self(text.into()))
    }

    /// The folder that holds everything.
    pub fn root() -> Self {
        Self::default()
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, from the root; none for the root itself.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|segment| !segment.is_empty())
    }

    /// The folder above; nothing is above the root.
    pub fn parent(&self) -> Option<Self> {
        (!self.is_root()).then(|| Self(split_last(&self.0).0.into()))
    }

    /// Every folder above, nearest first, down to the root `""`.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        ancestors(&self.0)
    }

    /// The secret of this name in this folder.
    pub fn secret(&self, leaf: &Segment) -> Result<SecretPath, PathError> {
        SecretPath::parse(&self.joined(leaf))
    }

    /// The folder of this name in this folder.
    pub fn folder(&self, leaf: &Segment) -> Result<Self, PathError> {
        Self::parse(&self.joined(leaf))
    }

    /// Whether the secret is in this folder or in one below.
    pub fn contains(&self, secret: &SecretPath) -> bool {
        is_below(&self.0, secret.as_str())
    }

    fn joined(&self, leaf: &Segment) -> String {
        if self.is_root() { leaf.as_str().to_owned() } else { format!("{}/{}", self.0, leaf.as_str()) }
    }
}

/// Whether `path` lies below the folder `folder`: whole segments, never a mere prefix of one.
pub(crate) fn is_below(folder: &str, path: &str) -> bool {
    if folder.is_empty() {
        return !path.is_empty();
    }
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| (!path.is_empty()).then(|| split_last(path).0)).skip(1)
}

fn split_last(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn check_path(text: &str) -> Result<(), PathError> {
    if text.len() > MAX_PATH {
        return Err(PathError::TooLong { length: text.len() });
    }
    let mut position = 0;
    let mut count = 0;
    for segment in text.split('/') {
        check_segment(segment, position)?;
        position += segment.len() + 1;
        count += 1;
    }
    if count > MAX_SEGMENTS { Err(PathError::TooDeep { count }) } else { Ok(()) }
}

fn check_segment(segment: &str, position: usize) -> Result<(), PathError> {
    if segment.is_empty() {
        return Err(PathError::EmptySegment { position });
    }
    if segment.len() > MAX_SEGMENT {
        return Err(PathError::SegmentTooLong { position, length: segment.len() });
    }
    for (offset, found) in segment.char_indices() {
        let position = position + offset;
        let first = found.is_ascii_alphanumeric() || found == '_';
        if offset == 0 && !first {
            return Err(PathError::Character { position, found, allowed: "A-Z a-z 0-9 _" });
        }
        if !first && !matches!(found, '.' | '@' | ':' | '=' | '-') {
            return Err(PathError::Character { position, found, allowed: "A-Z a-z 0-9 _ . @ : = -" });
        }
    }
    if segment.ends_with('.') {
        return Err(PathError::TrailingDot { position: position + segment.len() - 1 });
    }
    Ok(())
}

macro_rules! path_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = PathError;

            fn from_str(text: &str) -> Result<Self, PathError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = PathError;

            fn try_from(text: String) -> Result<Self, PathError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(path: $name) -> Self {
                path.0.into()
            }
        }
    };
}

path_text!(Segment);
path_text!(SecretPath);
path_text!(FolderPath);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_spellings_of_a_path_are_errors_that_name_the_place() {
        let table = [
            ("", PathError::Empty),
            ("a/", PathError::EmptySegment { position: 2 }),
            ("/a", PathError::EmptySegment { position: 0 }),
            ("a//b", PathError::EmptySegment { position: 2 }),
            ("a/b.", PathError::TrailingDot { position: 3 }),
            ("./a", PathError::Character { position: 0, found: '.', allowed: "A-Z a-z 0-9 _" }),
            ("a/..", PathError::Character { position: 2, found: '.', allowed: "A-Z a-z 0-9 _" }),
            ("a%2fb", PathError::Character { position: 1, found: '%', allowed: "A-Z a-z 0-9 _ . @ : = -" }),
            ("a\\b", PathError::Character { position: 1, found: '\\', allowed: "A-Z a-z 0-9 _ . @ : = -" }),
            ("a b", PathError::Character { position: 1, found: ' ', allowed: "A-Z a-z 0-9 _ . @ : = -" }),
            ("a\0", PathError::Character { position: 1, found: '\0', allowed: "A-Z a-z 0-9 _ . @ : = -" }),
        ];
        for (text, error) in table {
            assert_eq!(SecretPath::parse(text).unwrap_err(), error, "{text:?}");
        }
        assert!(matches!(SecretPath::parse(&"a/".repeat(300)), Err(PathError::TooLong { length: 600 })));
        assert_eq!(SecretPath::parse(&["a"; 17].join("/")), Err(PathError::TooDeep { count: 17 }));
        assert!(SecretPath::parse(&["a"; 16].join("/")).is_ok());
        assert!(SecretPath::parse(&"a".repeat(128)).is_ok());
        assert_eq!(
            SecretPath::parse(&format!("b/{}", "a".repeat(129))),
            Err(PathError::SegmentTooLong { position: 2, length: 129 })
        );
    }

    #[test]
    fn an_error_prints_no_raw_control_character() {
        let shown = SecretPath::parse("a\u{1b}[31m").unwrap_err().to_string();
        assert_eq!(shown, "path: byte 1 is '\\u{1b}', not one of A-Z a-z 0-9 _ . @ : = -");
    }

    #[test]
    fn a_path_knows_what_is_above_it() {
        let path = SecretPath::parse("shop/db/password").unwrap();
        assert_eq!(path.leaf(), "password");
        assert_eq!(path.parent().as_str(), "shop/db");
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["shop/db", "shop", ""]);
        assert_eq!(SecretPath::parse("a").unwrap().parent(), FolderPath::root());
        assert_eq!(FolderPath::root().parent(), None);
        assert_eq!(FolderPath::root().segments().count(), 0);
        assert_eq!(FolderPath::root().ancestors().count(), 0);
        assert!(FolderPath::parse("shop").unwrap().contains(&path));
        assert!(FolderPath::root().contains(&path));
    }

    #[test]
    fn a_folder_does_not_hold_its_namesakes() {
        let folder = FolderPath::parse("a/b").unwrap();
        assert!(folder.contains(&SecretPath::parse("a/b/c").unwrap()));
        assert!(!folder.contains(&SecretPath::parse("a/bc").unwrap()));
        assert!(!folder.contains(&SecretPath::parse("a/b").unwrap()));
        assert!(!folder.contains(&SecretPath::parse("A/b/c").unwrap()));
    }

    const SEGMENT: &str = "[A-Za-z0-9_]([A-Za-z0-9._@:=-]{0,20}[A-Za-z0-9_@:=-])?";

    proptest! {
        #[test]
        fn paths_print_as_they_parse(segments in prop::collection::vec(SEGMENT, 1..=16)) {
            let text = segments.join("/");
            let path = SecretPath::parse(&text).unwrap();
            prop_assert_eq!(path.to_string(), &text[..]);
            prop_assert_eq!(path.segments().collect::<Vec<_>>(), segments.clone());
            let folder = path.parent();
            let leaf = Segment::parse(path.leaf()).unwrap();
            prop_assert_eq!(folder.secret(&leaf).unwrap(), path.clone());
            prop_assert!(folder.contains(&path));
            prop_assert_eq!(path.ancestors().count(), segments.len());
            let stored = postcard::to_stdvec(&path).unwrap();
            prop_assert_eq!(postcard::from_bytes::<SecretPath>(&stored).unwrap(), path);
        }

        #[test]
        fn any_text_is_itself_or_an_error(text in "[a-z./%\\\\ ._A-Z]{0,24}|\\PC{0,40}") {
            if let Ok(path) = SecretPath::parse(&text) {
                prop_assert_eq!(path.as_str(), &text);
                prop_assert!(!text.contains("//") && !text.split('/').any(|s| s == "." || s == ".."));
            }
            prop_assert_eq!(FolderPath::parse(&text).is_ok(), text.is_empty() || SecretPath::parse(&text).is_ok());
        }
    }
}
