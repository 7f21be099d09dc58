//! The one binary codec of stored and hashed bytes: big-endian integers, length-prefixed byte strings.
//!
//! Invariant: decoding is strict. A value has one encoding; a missing byte, a byte too many, a length over its bound
//! and an unknown magic or format are errors that name the field. Nothing is allocated by a length that was read
//! before the bytes are there. Absent: floats, optional fields, skipping of what is unknown.

use zeroize::Zeroizing;

/// Why bytes are not a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end inside a field.
    #[error("the bytes end inside {field}")]
    Truncated {
        /// The field.
        field: &'static str,
    },
    /// Bytes are left over behind the last field.
    #[error("{count} bytes are left over after {after}")]
    Trailing {
        /// The value that should have ended.
        after: &'static str,
        /// How many.
        count: usize,
    },
    /// A length lies outside its bounds.
    #[error("{field} has {found} bytes or items; {min} to {max} are allowed")]
    Length {
        /// The field.
        field: &'static str,
        /// What the bytes say.
        found: usize,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// Another kind of record, or none of ours.
    #[error("this is no {field}: its magic is missing")]
    Magic {
        /// What was expected.
        field: &'static str,
    },
    /// A format, suite or algorithm number that this program does not know: perhaps a newer one.
    #[error("{field} {found} is not known to this program")]
    Unknown {
        /// What the number numbers.
        field: &'static str,
        /// The number.
        found: u8,
    },
    /// A field that decodes, but to something that is never written.
    #[error("{field} holds a value that is never written")]
    Invalid {
        /// The field.
        field: &'static str,
    },
}

/// Room for an AAD and what is derived under it: growing from nothing would move, and wipe, the bytes five times.
const USUAL_BYTES: usize = 224;

/// Builds bytes, field by field. What it holds is wiped when it is dropped unfinished.
pub struct Writer(Zeroizing<Vec<u8>>);

impl Default for Writer {
    fn default() -> Self {
        Self::with_capacity(USUAL_BYTES)
    }
}

impl Writer {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing yet, with room, so that growing leaves no copies of secret fields behind.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(bytes)))
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Bytes whose number the format fixes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A u32 length and the bytes. 4 GiB and more cannot be said: they get a length that no reader accepts.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX)).raw(bytes)
    }

    /// As `bytes`, for text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// The bytes.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }
}

/// Takes bytes apart, field by field.
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads a value called `what` in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// Four magic bytes and the format number, of which one is known.
    pub fn magic(&mut self, magic: [u8; 4], format: u8) -> Result<(), CodecError> {
        if self.array::<4>("magic")? != magic {
            return Err(CodecError::Magic { field: self.what });
        }
        self.known("format", &[format]).map(|_| ())
    }

    /// A byte that must be one of those known.
    pub fn known(&mut self, field: &'static str, known: &[u8]) -> Result<u8, CodecError> {
        let found = self.u8(field)?;
        if known.contains(&found) { Ok(found) } else { Err(CodecError::Unknown { field, found }) }
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, CodecError> {
        self.array(field).map(u8::from_be_bytes)
    }

    /// A number of things that follow, as `u8`.
    pub fn count(&mut self, field: &'static str, min: usize, max: usize) -> Result<usize, CodecError> {
        let found = usize::from(self.u8(field)?);
        if (min..=max).contains(&found) {
            Ok(found)
        } else {
            Err(CodecError::Length { field, found, min, max })
        }
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, CodecError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, CodecError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, CodecError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// Bytes whose number the type fixes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CodecError> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(CodecError::Truncated { field })?;
        self.rest = rest;
        Ok(*array)
    }

    /// Bytes whose number the format fixes.
    pub fn raw(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], CodecError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(CodecError::Truncated { field })?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A u32 length within bounds, and that many bytes.
    pub fn bytes(&mut self, field: &'static str, min: usize, max: usize) -> Result<&'a [u8], CodecError> {
        let found = usize::try_from(self.u32(field)?).unwrap_or(usize::MAX);
        if found < min || found > max {
            return Err(CodecError::Length { field, found, min, max });
        }
        self.raw(field, found)
    }

    /// As `bytes`, for text in UTF-8.
    pub fn text(&mut self, field: &'static str, min: usize, max: usize) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.bytes(field, min, max)?).map_err(|_| CodecError::Invalid { field })
    }

    /// All bytes that are left.
    pub fn remaining(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Says that the value ends here.
    pub fn finish(self) -> Result<(), CodecError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(CodecError::Trailing { after: self.what, count }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(a: u8, b: u16, c: u32, d: u64, bytes: &[u8], text: &str) -> Vec<u8> {
        Writer::new().raw(b"TEST").u8(1).u8(a).u16(b).u32(c).u64(d).bytes(bytes).text(text).finish()
    }

    type Fields = (u8, u16, u32, u64, Vec<u8>, String);

    fn read(encoded: &[u8]) -> Result<Fields, CodecError> {
        let mut reader = Reader::new("test value", encoded);
        reader.magic(*b"TEST", 1)?;
        let fields = (
            reader.u8("a")?,
            reader.u16("b")?,
            reader.u32("c")?,
            reader.u64("d")?,
            reader.bytes("bytes", 0, 64)?.to_vec(),
            reader.text("text", 0, 64)?.to_owned(),
        );
        reader.finish()?;
        Ok(fields)
    }

    #[test]
    fn lengths_outside_their_bounds_are_refused_before_the_bytes_are_touched() {
        let encoded = Writer::new().u32(u32::MAX).finish();
        let error = Reader::new("x", &encoded).bytes("blob", 0, 10);
        assert_eq!(error, Err(CodecError::Length { field: "blob", found: 4_294_967_295, min: 0, max: 10 }));
        assert!(Reader::new("x", &[0, 0, 0, 0]).bytes("blob", 1, 10).is_err());
    }

    #[test]
    fn a_newer_format_is_named_as_unknown() {
        let encoded = *b"TEST\x02";
        let error = Reader::new("test value", &encoded).magic(*b"TEST", 1);
        assert_eq!(error, Err(CodecError::Unknown { field: "format", found: 2 }));
        let error = Reader::new("test value", b"ABCD\x01").magic(*b"TEST", 1);
        assert_eq!(error, Err(CodecError::Magic { field: "test value" }));
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(a: u8, b: u16, c: u32, d: u64,
                                    bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[a-zé]{0,20}") {
            let encoded = sample(a, b, c, d, &bytes, &text);
            prop_assert_eq!(read(&encoded), Ok((a, b, c, d, bytes, text)));
        }

        #[test]
        fn every_prefix_and_every_extension_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let encoded = sample(1, 2, 3, 4, &bytes, "text");
            for end in 0..encoded.len() {
                prop_assert!(read(&encoded[..end]).is_err());
            }
            let longer = [encoded.as_slice(), &[0]].concat();
            prop_assert_eq!(read(&longer), Err(CodecError::Trailing { after: "test value", count: 1 }));
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_are_read_only_if_they_are_what_would_be_written(
            junk in prop::collection::vec(any::<u8>(), 0..200), magic: bool,
        ) {
            let junk = if magic { [b"TEST\x01".as_slice(), &junk].concat() } else { junk };
            if let Ok((a, b, c, d, bytes, text)) = read(&junk) {
                prop_assert_eq!(sample(a, b, c, d, &bytes, &text), junk);
            }
        }
    }
}
