//! What identifies a principal in a client certificate: one exact subject alternative name.
//!
//! Invariant: a matcher holds one canonical spelling and is compared byte for byte with the name in the
//! verified certificate; there is no wildcard, no folding of case and no look at the common name. Reading
//! certificates is absent; the server hands their names in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most bytes a subject alternative name may have.
pub const MAX_SAN: usize = 512;

/// One subject alternative name that identifies a principal, compared byte for byte with the verified
/// certificate's. A wildcard, a fold of case or a mere common name never matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CertificateMatcher {
    /// A SPIFFE id: `spiffe://<trust domain>/<path>`.
    SpiffeUri(SanText),
    /// A DNS name.
    Dns(SanText),
    /// An e-mail address.
    Email(SanText),
}

/// A checked subject alternative name; only [`CertificateMatcher`]'s constructors make one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SanText(Box<str>);

impl SanText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a certificate matcher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatcherError {
    /// It does not begin with `spiffe:`, `dns:` or `email:`.
    #[error("certificate matcher: expected spiffe://..., dns:<name> or email:<address>")]
    Kind,
    /// Empty, or longer than [`MAX_SAN`].
    #[error("certificate matcher: {length} bytes, expected 1 to {MAX_SAN}")]
    Length {
        /// How long it was.
        length: usize,
    },
    /// A character outside the alphabet of this kind of name.
    #[error("certificate matcher: byte {position} is '{}', which the {kind} may not have here", .found.escape_default())]
    Character {
        /// Which kind of name.
        kind: &'static str,
        /// Where, in bytes counted from 0.
        position: usize,
        /// The character found there.
        found: char,
    },
    /// A part between separators is missing, or the whole has too few or too many of them.
    #[error("certificate matcher: not a complete {kind}")]
    Shape {
        /// Which kind of name.
        kind: &'static str,
    },
}

impl CertificateMatcher {
    /// A SPIFFE id, as SPIFFE defines it: lower-case trust domain, a path of non-empty segments.
    pub fn spiffe(uri: &str) -> Result<Self, MatcherError> {
        const KIND: &str = "SPIFFE id";
        const SCHEME: &str = "spiffe://";
        check_length(uri)?;
        let rest = uri.strip_prefix(SCHEME).ok_or(MatcherError::Shape { kind: KIND })?;
        let (domain, path) = rest.split_once('/').ok_or(MatcherError::Shape { kind: KIND })?;
        check_characters(KIND, domain, SCHEME.len(), |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_')
        })?;
        let after = SCHEME.len() + domain.len() + 1;
        check_characters(KIND, path, after, |c| {
            c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/')
        })?;
        let hollow = |segment: &str| matches!(segment, "" | "." | "..");
        if domain.is_empty() || path.split('/').any(hollow) {
            return Err(MatcherError::Shape { kind: KIND });
        }
        Ok(Self::SpiffeUri(SanText(uri.into())))
    }

    /// A DNS name in lower case, without wildcard or final dot.
    pub fn dns(name: &str) -> Result<Self, MatcherError> {
        check_dns("DNS name", name)?;
        Ok(Self::Dns(SanText(name.into())))
    }

    /// An e-mail address: `local@domain`, the domain in lower case.
    pub fn email(address: &str) -> Result<Self, MatcherError> {
        const KIND: &str = "e-mail address";
        check_length(address)?;
        let (local, domain) = address.split_once('@').ok_or(MatcherError::Shape { kind: KIND })?;
        check_characters(KIND, local, 0, |c| {
            c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-' | '=' | '\'')
        })?;
        if local.is_empty() {
            return Err(MatcherError::Shape { kind: KIND });
        }
        check_dns(KIND, domain)?;
        Ok(Self::Email(SanText(address.into())))
    }

    /// Reads the text form: `spiffe://...`, `dns:<name>` or `email:<address>`.
    pub fn parse(text: &str) -> Result<Self, MatcherError> {
        if text.starts_with("spiffe:") {
            Self::spiffe(text)
        } else if let Some(name) = text.strip_prefix("dns:") {
            Self::dns(name)
        } else if let Some(address) = text.strip_prefix("email:") {
            Self::email(address)
        } else {
            Err(MatcherError::Kind)
        }
    }

    /// The subject alternative name itself.
    pub fn value(&self) -> &str {
        match self {
            Self::SpiffeUri(san) | Self::Dns(san) | Self::Email(san) => san.as_str(),
        }
    }

    /// What the index from certificates to principals is keyed by: the kind's byte (the tag of the name in
    /// RFC 5280's GeneralName), then the name. Two matchers are equal exactly when these bytes are.
    pub fn index_bytes(&self) -> Vec<u8> {
        let kind: u8 = match self {
            Self::Email(_) => 1,
            Self::Dns(_) => 2,
            Self::SpiffeUri(_) => 6,
        };
        let mut bytes = Vec::with_capacity(self.value().len() + 1);
        bytes.push(kind);
        bytes.extend_from_slice(self.value().as_bytes());
        bytes
    }
}

fn check_length(text: &str) -> Result<(), MatcherError> {
    if text.is_empty() || text.len() > MAX_SAN {
        return Err(MatcherError::Length { length: text.len() });
    }
    Ok(())
}

fn check_characters(
    kind: &'static str,
    text: &str,
    start: usize,
    allowed: impl Fn(char) -> bool,
) -> Result<(), MatcherError> {
    match text.char_indices().find(|(_, c)| !allowed(*c)) {
        Some((offset, found)) => Err(MatcherError::Character { kind, position: start + offset, found }),
        None => Ok(()),
    }
}

fn check_dns(kind: &'static str, name: &str) -> Result<(), MatcherError> {
    check_length(name)?;
    check_characters(kind, name, 0, |c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.')
    })?;
    let wrong =
        |label: &str| label.is_empty() || label.len() > 63 || label.starts_with('-') || label.ends_with('-');
    if name.len() > 253 || name.split('.').any(wrong) {
        return Err(MatcherError::Shape { kind });
    }
    Ok(())
}

impl fmt::Display for CertificateMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpiffeUri(uri) => f.write_str(uri.as_str()),
            Self::Dns(name) => write!(f, "dns:{}", name.as_str()),
            Self::Email(address) => write!(f, "email:{}", address.as_str()),
        }
    }
}

impl FromStr for CertificateMatcher {
    type Err = MatcherError;

    fn from_str(text: &str) -> Result<Self, MatcherError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for CertificateMatcher {
    type Error = MatcherError;

    fn try_from(text: String) -> Result<Self, MatcherError> {
        Self::parse(&text)
    }
}

impl From<CertificateMatcher> for String {
    fn from(matcher: CertificateMatcher) -> Self {
        matcher.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_whole_canonical_names_are_matchers() {
        for good in [
            "spiffe://prod.example/ns/shop/sa/api",
            "spiffe://example/x",
            "dns:api.shop.internal",
            "dns:a",
            "email:ada+ops@example.org",
        ] {
            assert_eq!(CertificateMatcher::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "api.shop",
            "DNS:a",
            "dns:",
            "dns:*.shop",
            "dns:A.shop",
            "dns:a.",
            "dns:.a",
            "dns:a..b",
            "dns:-a",
            "dns:a b",
            "dns:a\0",
            "spiffe:example/x",
            "spiffe://example",
            "spiffe://example/",
            "spiffe:///x",
            "spiffe://Example/x",
            "spiffe://example//x",
            "spiffe://example/../x",
            "spiffe://example/%78",
            "spiffe://u@example/x",
            "email:ada",
            "email:@example.org",
            "email:ada@",
            "email:a@b@c",
            "email:ada@Example.org",
        ] {
            assert!(CertificateMatcher::parse(bad).is_err(), "{bad:?}");
        }
        assert!(CertificateMatcher::dns(&format!("{}.a", "b".repeat(64))).is_err());
        assert!(CertificateMatcher::dns(&["abcdefg"; 40].join(".")).is_err());
    }

    #[test]
    fn the_same_text_of_two_kinds_has_two_index_entries() {
        let dns = CertificateMatcher::dns("a.b").unwrap();
        assert_eq!(dns.index_bytes(), b"\x02a.b");
        assert_ne!(dns.index_bytes(), CertificateMatcher::email("a@b").unwrap().index_bytes());
    }

    proptest! {
        #[test]
        fn any_text_is_itself_or_an_error(text in "(spiffe://|dns:|email:)?[a-zA-Z0-9./@-]{0,40}") {
            if let Ok(matcher) = CertificateMatcher::parse(&text) {
                prop_assert_eq!(matcher.to_string(), &text[..]);
                let stored = postcard::to_stdvec(&matcher).unwrap();
                prop_assert_eq!(postcard::from_bytes::<CertificateMatcher>(&stored).unwrap(), matcher);
            }
        }
    }
}
