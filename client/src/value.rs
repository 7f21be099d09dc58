//! Secret values in the client. Invariant: wiped when dropped, never printed; `expose` is the one door.

use std::fmt;

use keystead_proto::v1;
use zeroize::Zeroizing;

/// Secret bytes: a field, a value, a share's text, a token.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over; the caller keeps no copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The one door to the content.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The content as text, if it is UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for SecretBytes {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

impl From<String> for SecretBytes {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

/// The value of a secret: named fields, or bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretValue {
    /// Named fields, in the order stored.
    Fields(Vec<(String, SecretBytes)>),
    /// Opaque bytes.
    Data(SecretBytes),
}

impl SecretValue {
    /// A value of named fields.
    pub fn fields<N, V>(fields: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<SecretBytes>,
    {
        Self::Fields(fields.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// A value of opaque bytes.
    pub fn data(bytes: impl Into<SecretBytes>) -> Self {
        Self::Data(bytes.into())
    }

    /// The field of this name, if the value has fields and one is called so.
    pub fn field(&self, name: &str) -> Option<&SecretBytes> {
        match self {
            Self::Fields(fields) => fields.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            Self::Data(_) => None,
        }
    }

    /// The names of the fields; none for opaque bytes.
    pub fn field_names(&self) -> impl Iterator<Item = &str> {
        let fields = match self {
            Self::Fields(fields) => fields.as_slice(),
            Self::Data(_) => &[],
        };
        fields.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn to_wire(&self) -> v1::SecretValue {
        let value = match self {
            Self::Data(bytes) => v1::secret_value::Value::Data(bytes.expose().to_vec()),
            Self::Fields(fields) => v1::secret_value::Value::Fields(v1::SecretFields {
                fields: fields
                    .iter()
                    .map(|(name, value)| v1::SecretField {
                        name: name.clone(),
                        value: value.expose().to_vec(),
                    })
                    .collect(),
            }),
        };
        v1::SecretValue { value: Some(value) }
    }

    pub(crate) fn from_wire(value: v1::SecretValue) -> Option<Self> {
        Some(match value.value? {
            v1::secret_value::Value::Data(bytes) => Self::Data(SecretBytes::new(bytes)),
            v1::secret_value::Value::Fields(fields) => Self::Fields(
                fields.fields.into_iter().map(|field| (field.name, SecretBytes::new(field.value))).collect(),
            ),
        })
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields(_) => {
                f.debug_tuple("Fields").field(&self.field_names().collect::<Vec<_>>()).finish()
            }
            Self::Data(_) => f.write_str("Data(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_names_and_no_content() {
        let fields = SecretValue::fields([("user", "canary-1"), ("password", "canary-2")]);
        assert_eq!(format!("{fields:?}"), r#"Fields(["user", "password"])"#);
        assert!(!format!("{:?}", SecretValue::data("canary-3")).contains("canary"));
        assert!(!format!("{:?}", SecretBytes::from("canary-4")).contains("canary"));
    }

    #[test]
    fn the_wire_and_back_is_the_same_value() {
        for value in [
            SecretValue::fields([("a", vec![0_u8, 255]), ("b", Vec::new())]),
            SecretValue::Fields(Vec::new()),
            SecretValue::data(vec![1, 2, 3]),
            SecretValue::data(Vec::new()),
        ] {
            assert_eq!(SecretValue::from_wire(value.to_wire()), Some(value));
        }
        assert_eq!(SecretValue::from_wire(v1::SecretValue { value: None }), None);
    }
}
