//! Frames between parent and child: length (u32, big-endian), id (u64), body. Invariant: a reader consumes a frame
//! wholly or fails; buffers are wiped, also when they grow. Absent: what the fields mean (`protocol`).

use std::io::{self, Read};

use zeroize::{Zeroize, Zeroizing};

/// The longest frame after its length field. The largest message is a seal header to sign, about 9 KiB.
pub(crate) const MAX_FRAME: usize = 32 * 1024;

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// The bytes end inside a field.
    #[error("a frame ends inside a field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("{bytes} bytes are left in a frame after its last field")]
    Trailing { bytes: usize },
    /// A number that stands for nothing.
    #[error("{what} {tag} is not known")]
    UnknownTag { what: &'static str, tag: u8 },
    /// More than a frame may hold.
    #[error("a frame of {bytes} bytes: at most {MAX_FRAME} are allowed")]
    TooLong { bytes: usize },
    /// A report that is none.
    #[error("a report cannot be read or written")]
    NoReport,
    /// Text that is not UTF-8.
    #[error("a text field is not UTF-8")]
    NotText,
}

/// Builds one frame.
pub(crate) struct Writer {
    bytes: Zeroizing<Vec<u8>>,
}

impl Writer {
    pub(crate) fn new(id: u64) -> Self {
        let mut writer = Self { bytes: Zeroizing::new(Vec::with_capacity(512)) };
        writer.u32(0);
        writer.u64(id);
        writer
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_be_bytes());
    }

    pub(crate) fn field(&mut self, value: &[u8]) {
        self.length(value.len());
        self.raw(value);
    }

    /// A count or a length; one that does not fit makes a frame that `finish` refuses.
    pub(crate) fn length(&mut self, length: usize) {
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    pub(crate) fn raw(&mut self, value: &[u8]) {
        let needed = self.bytes.len().saturating_add(value.len());
        if needed > self.bytes.capacity() {
            // Growing in place would leave the old buffer unwiped.
            let mut grown = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
            grown.extend_from_slice(&self.bytes);
            self.bytes.zeroize();
            self.bytes = grown;
        }
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn finish(mut self) -> Result<Zeroizing<Vec<u8>>, FrameError> {
        let bytes = self.bytes.len().saturating_sub(4);
        if bytes > MAX_FRAME {
            return Err(FrameError::TooLong { bytes });
        }
        let length = u32::try_from(bytes).map_err(|_| FrameError::TooLong { bytes })?;
        if let Some(head) = self.bytes.first_chunk_mut::<4>() {
            *head = length.to_be_bytes();
        }
        Ok(self.bytes)
    }
}

/// Reads the fields of one frame, in order.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let (value, rest) = self.rest.split_first_chunk::<N>().ok_or(FrameError::Truncated)?;
        self.rest = rest;
        Ok(*value)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FrameError> {
        let [value] = self.array()?;
        Ok(value)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FrameError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FrameError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn length(&mut self) -> Result<usize, FrameError> {
        usize::try_from(self.u32()?).map_err(|_| FrameError::Truncated)
    }

    pub(crate) fn field(&mut self) -> Result<&'a [u8], FrameError> {
        let length = self.length()?;
        let (value, rest) = self.rest.split_at_checked(length).ok_or(FrameError::Truncated)?;
        self.rest = rest;
        Ok(value)
    }

    pub(crate) fn text(&mut self) -> Result<String, FrameError> {
        let text = std::str::from_utf8(self.field()?).map_err(|_| FrameError::NotText)?;
        Ok(text.to_owned())
    }

    pub(crate) fn end(self) -> Result<(), FrameError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(FrameError::Trailing { bytes }),
        }
    }
}

/// The next frame without its length field, or nothing when the other side is gone between two frames.
pub(crate) fn read_frame(from: &mut impl Read) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut head = [0; 4];
    let begun = loop {
        match from.read(&mut head) {
            Ok(0) => return Ok(None),
            Ok(begun) => break begun,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    };
    if let Some(rest) = head.get_mut(begun..) {
        from.read_exact(rest)?;
    }
    let length = usize::try_from(u32::from_be_bytes(head)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, FrameError::TooLong { bytes: length }));
    }
    let mut frame = Zeroizing::new(vec![0; length]);
    from.read_exact(&mut frame)?;
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_whole() {
        let mut writer = Writer::new(7);
        writer.field(b"abc");
        writer.field(&vec![9; 2000]);
        let sent = writer.finish().unwrap();
        let mut stream = sent.as_slice();
        let frame = read_frame(&mut stream).unwrap().unwrap();
        let mut fields = Fields::new(&frame);
        assert_eq!(fields.u64(), Ok(7));
        assert_eq!(fields.field(), Ok(&b"abc"[..]));
        assert_eq!(fields.field().unwrap().len(), 2000);
        assert_eq!(fields.end(), Ok(()));
        assert!(read_frame(&mut stream).unwrap().is_none());
    }

    #[test]
    fn torn_and_oversized_frames_are_refused() {
        let sent = Writer::new(1).finish().unwrap();
        assert!(read_frame(&mut &sent[..5]).is_err());
        assert!(read_frame(&mut &[0xff; 8][..]).is_err());
        let mut long = Writer::new(1);
        long.field(&vec![0; MAX_FRAME]);
        assert!(matches!(long.finish(), Err(FrameError::TooLong { .. })));
    }
}
