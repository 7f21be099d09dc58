//! Errors as they cross the socket. Invariant: each kind comes back as itself, with a text of bounded length. Absent: key
//! material, which no error holds.

use keystead_crypto::ports::HsmError;

use crate::frame::{Fields, FrameError, Writer};

/// The longest text of an error that crosses the socket.
pub(super) const MAX_REASON: usize = 512;

pub(super) fn put_error(to: &mut Writer, error: &HsmError) {
    match error {
        HsmError::Unavailable { reason } => put_reason(to, 128, reason),
        HsmError::DeadlineExceeded { millis } => {
            to.u8(129);
            to.u64(*millis);
        }
        HsmError::PinRefused => to.u8(130),
        HsmError::PinLocked => to.u8(131),
        HsmError::NotLoggedIn => to.u8(132),
        HsmError::NotUnique { what, found } => {
            put_reason(to, 133, what);
            to.length(*found);
        }
        HsmError::NotAuthentic => to.u8(134),
        HsmError::Lied { what } => put_reason(to, 135, what),
        HsmError::Unsupported { what } => put_reason(to, 136, what),
        HsmError::Misconfigured { what } => put_reason(to, 137, what),
        HsmError::PinUncertain => to.u8(138),
    }
}

pub(super) fn take_error(tag: u8, from: &mut Fields<'_>) -> Result<HsmError, FrameError> {
    Ok(match tag {
        128 => HsmError::Unavailable { reason: from.text()? },
        129 => HsmError::DeadlineExceeded { millis: from.u64()? },
        130 => HsmError::PinRefused,
        131 => HsmError::PinLocked,
        132 => HsmError::NotLoggedIn,
        133 => HsmError::NotUnique { what: from.text()?, found: from.length()? },
        134 => HsmError::NotAuthentic,
        135 => HsmError::Lied { what: from.text()? },
        136 => HsmError::Unsupported { what: from.text()? },
        137 => HsmError::Misconfigured { what: from.text()? },
        138 => HsmError::PinUncertain,
        tag => return Err(FrameError::UnknownTag { what: "answer", tag }),
    })
}

fn put_reason(to: &mut Writer, tag: u8, text: &str) {
    to.u8(tag);
    to.field(text.get(..text.floor_char_boundary(MAX_REASON)).unwrap_or_default().as_bytes());
}
