//! The value of a secret: bytes, or named fields. Its encoding is the plaintext that a data key seals
//! (docs/storage-format.md, "Secret payload").

use keystead_crypto::codec::{Reader, Writer};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::secret_value::{FieldName, MAX_FIELDS, MAX_VALUE_BYTES};

use crate::error::VaultError;

const FORMAT: u8 = 1;
const KIND_BYTES: u8 = 1;
const KIND_FIELDS: u8 = 2;

/// A value.
pub enum Payload {
    /// Opaque bytes.
    Bytes(SecretBytes),
    /// Named fields, in the order given.
    Fields(Vec<(FieldName, SecretBytes)>),
}

impl Payload {
    /// Bytes within the limit of 1 MiB.
    ///
    /// # Errors
    /// `Invalid` above the limit.
    pub fn bytes(bytes: SecretBytes) -> Result<Self, VaultError> {
        check_size(bytes.len())?;
        Ok(Self::Bytes(bytes))
    }

    /// Fields: 1 to 128, names unique, 1 MiB in all.
    ///
    /// # Errors
    /// `Invalid` naming the rule.
    pub fn fields(fields: Vec<(FieldName, SecretBytes)>) -> Result<Self, VaultError> {
        if fields.is_empty() || fields.len() > MAX_FIELDS {
            return Err(invalid(format!("1 to {MAX_FIELDS} fields are allowed, got {}", fields.len())));
        }
        check_size(fields.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len())).sum())?;
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find_map(|pair| match pair {
            [a, b] if a == b => Some(*a),
            _ => None,
        }) {
            return Err(invalid(format!("field {twice} is there twice")));
        }
        Ok(Self::Fields(fields))
    }

    /// The plaintext to seal.
    pub(crate) fn encode(&self) -> SecretBytes {
        let mut writer = Writer::with_capacity(self.encoded_len());
        writer.u8(FORMAT);
        match self {
            Self::Bytes(bytes) => {
                writer.u8(KIND_BYTES);
                writer.bytes(bytes.expose());
            }
            Self::Fields(fields) => {
                writer.u8(KIND_FIELDS);
                writer.u32(u32::try_from(fields.len()).unwrap_or(u32::MAX));
                for (name, value) in fields {
                    writer.bytes(name.as_str().as_bytes());
                    writer.bytes(value.expose());
                }
            }
        }
        SecretBytes::new(writer.finish())
    }

    /// Strictly decodes what `encode` made.
    pub(crate) fn decode(plain: SecretBytes) -> Option<Self> {
        let mut reader = Reader::new("secret payload", plain.expose());
        reader.known("format", &[FORMAT]).ok()?;
        let payload = match reader.known("kind", &[KIND_BYTES, KIND_FIELDS]).ok()? {
            KIND_BYTES => Self::bytes(SecretBytes::copy_from(value(&mut reader)?)).ok()?,
            _ => {
                let count =
                    usize::try_from(reader.u32("count").ok()?).ok().filter(|count| *count <= MAX_FIELDS)?;
                let mut fields = Vec::with_capacity(count);
                for _ in 0..count {
                    let name = FieldName::parse(reader.text("name", 1, MAX_VALUE_BYTES).ok()?).ok()?;
                    fields.push((name, SecretBytes::copy_from(value(&mut reader)?)));
                }
                Self::fields(fields).ok()?
            }
        };
        reader.finish().ok()?;
        Some(payload)
    }

    /// The size that counts against the limit: names and values, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Fields(fields) => {
                fields.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len())).sum()
            }
        }
    }

    /// Exact, so that the buffer never grows and leaves copies behind.
    fn encoded_len(&self) -> usize {
        let framing = match self {
            Self::Bytes(_) => 6,
            Self::Fields(fields) => fields.len().saturating_mul(8).saturating_add(6),
        };
        self.size().saturating_add(framing)
    }
}

fn value<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    reader.bytes("value", 0, MAX_VALUE_BYTES).ok()
}

fn check_size(size: usize) -> Result<(), VaultError> {
    if size > MAX_VALUE_BYTES {
        return Err(invalid(format!("a value has at most {MAX_VALUE_BYTES} bytes, this one {size}")));
    }
    Ok(())
}

fn invalid(rule: String) -> VaultError {
    VaultError::Invalid { field: "value", rule }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exposed(payload: &Payload) -> Vec<(String, Vec<u8>)> {
        match payload {
            Payload::Bytes(bytes) => vec![(String::new(), bytes.expose().to_vec())],
            Payload::Fields(fields) => fields
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), value.expose().to_vec()))
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn decode_gives_back_what_was_encoded(values: Vec<Vec<u8>>) {
            let fields: Vec<_> = values.iter().take(20).enumerate()
                .map(|(i, value)| (FieldName::parse(&format!("f{i}")).unwrap(), SecretBytes::copy_from(value))).collect();
            let payload = if fields.is_empty() { Payload::bytes(SecretBytes::copy_from(b"x")).unwrap() } else { Payload::fields(fields).unwrap() };
            let encoded = payload.encode();
            prop_assert_eq!(encoded.len(), payload.encoded_len());
            let back = Payload::decode(encoded).unwrap();
            prop_assert_eq!(exposed(&back), exposed(&payload));
        }

        #[test]
        fn hostile_bytes_are_refused_or_canonical(bytes: Vec<u8>) {
            if let Some(payload) = Payload::decode(SecretBytes::copy_from(&bytes)) {
                let encoded = payload.encode();
                prop_assert_eq!(encoded.expose(), &bytes[..]);
            }
        }
    }

    #[test]
    fn the_same_field_twice_and_oversize_are_refused() {
        let field = || (FieldName::parse("a").unwrap(), SecretBytes::copy_from(b"1"));
        assert!(Payload::fields(vec![field(), field()]).is_err());
        assert!(Payload::fields(Vec::new()).is_err());
        assert!(Payload::bytes(SecretBytes::new(vec![0; MAX_VALUE_BYTES])).is_ok());
        assert!(Payload::bytes(SecretBytes::new(vec![0; MAX_VALUE_BYTES + 1])).is_err());
    }
}
