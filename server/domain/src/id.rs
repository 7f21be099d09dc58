//! Identifiers: 128-bit ids of vaults, records and ceremonies, and the id a caller gives a request.
//!
//! Invariant: `parse ∘ print = id`; one spelling each (32 lower-case hex digits, or the request id's own
//! bytes), nothing trimmed or folded. Making a random id is absent: whoever has a CSPRNG passes 16 bytes in.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// The most bytes a request id may have.
pub const MAX_REQUEST_ID: usize = 64;

/// Why a text is not one of the 128-bit ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected 32 lower-case hexadecimal digits, found {length} bytes that are not")]
pub struct IdError {
    /// Which id was expected.
    pub what: &'static str,
    /// How long the text was.
    pub length: usize,
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let refused = || IdError { what: $what, length: text.len() };
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| refused())?;
                bytes.try_into().map(Self).map_err(|_| refused())
            }
        }
    };
}

id128!(
    /// Names one vault: every node of it, every backup, every share.
    VaultId,
    "vault id"
);
id128!(
    /// Names one stored record (a folder, a secret, a data key, a lease), whatever its path is.
    RecordId,
    "record id"
);
id128!(
    /// Names one ceremony, bound to its parameters.
    CeremonyId,
    "ceremony id"
);

impl VaultId {
    /// The first eight bytes: enough to tell vaults apart in a label, not to forge one.
    pub const fn tag(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }
}

impl RecordId {
    /// The root folder of a tenant's tree, the only record whose id is not random.
    pub const ROOT: Self = Self([0; 16]);
}

/// What a caller names a request by, so that a retry is told from a new request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(Box<str>);

/// Why a text is not a request id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestIdError {
    /// Empty, or longer than [`MAX_REQUEST_ID`].
    #[error("request id: {length} bytes, expected 1 to 64")]
    Length {
        /// How long it was.
        length: usize,
    },
    /// A byte outside `[A-Za-z0-9._-]`.
    #[error("request id: byte {position} is not one of A-Z a-z 0-9 . _ -")]
    Character {
        /// Where, counted from 0.
        position: usize,
    },
}

impl RequestId {
    /// Checks a text.
    pub fn parse(text: &str) -> Result<Self, RequestIdError> {
        if text.is_empty() || text.len() > MAX_REQUEST_ID {
            return Err(RequestIdError::Length { length: text.len() });
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        match text.bytes().position(|byte| !allowed(byte)) {
            Some(position) => Err(RequestIdError::Character { position }),
            None => Ok(Self(text.into())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RequestId {
    type Err = RequestIdError;

    fn from_str(text: &str) -> Result<Self, RequestIdError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for RequestId {
    type Error = RequestIdError;

    fn try_from(text: String) -> Result<Self, RequestIdError> {
        Self::parse(&text)
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> Self {
        id.0.into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_have_one_spelling() {
        let id = RecordId([0xAB; 16]);
        assert_eq!(id.to_string(), "ab".repeat(16));
        for wrong in [
            "AB".repeat(16),
            "ab".repeat(15),
            "ab".repeat(17),
            format!(" {}", "ab".repeat(16)),
            String::new(),
        ] {
            assert!(wrong.parse::<RecordId>().is_err(), "{wrong:?}");
        }
        assert_eq!(VaultId([7; 16]).tag(), [7; 8]);
        assert_eq!(RecordId::ROOT.to_string(), "0".repeat(32));
    }

    #[test]
    fn request_ids_say_what_is_wrong() {
        assert_eq!(RequestId::parse(""), Err(RequestIdError::Length { length: 0 }));
        assert_eq!(RequestId::parse(&"a".repeat(65)), Err(RequestIdError::Length { length: 65 }));
        assert_eq!(RequestId::parse("ab c"), Err(RequestIdError::Character { position: 2 }));
        assert!(postcard::from_bytes::<RequestId>(&postcard::to_stdvec("a b").unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn ids_round_trip(bytes: [u8; 16]) {
            let id = VaultId(bytes);
            prop_assert_eq!(id.to_string().parse::<VaultId>(), Ok(id));
            let stored = postcard::to_stdvec(&id).unwrap();
            prop_assert_eq!(stored.as_slice(), &bytes);
            prop_assert_eq!(postcard::from_bytes::<VaultId>(&stored).unwrap(), id);
        }

        #[test]
        fn any_text_is_itself_or_an_error(text in "\\PC{0,70}") {
            if let Ok(id) = RequestId::parse(&text) {
                prop_assert_eq!(id.as_str(), &text);
            }
            if let Ok(id) = text.parse::<RecordId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
