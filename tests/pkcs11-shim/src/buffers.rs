//! Memory of the caller. Invariant: each function here says what must hold of its pointers, which is what PKCS#11
//! demands of callers; null pointers are answered, never followed. Absent: any use of them elsewhere as raw memory.
#![expect(unsafe_code, reason = "PKCS#11 hands over pointers and lengths")]

use cryptoki_sys::*;

use crate::lies::Answer;

pub(crate) fn size(length: CK_ULONG) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

pub(crate) fn ulong(length: usize) -> CK_ULONG {
    CK_ULONG::try_from(length).unwrap_or(CK_ULONG::MAX)
}

/// The caller's bytes; a null pointer is no bytes.
///
/// # Safety
/// A pointer that is not null is valid for reading `length` elements, which nobody changes during the call.
pub(crate) unsafe fn read<'a, T>(pointer: *const T, length: CK_ULONG) -> &'a [T] {
    if pointer.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: by the caller's promise.
    unsafe { std::slice::from_raw_parts(pointer, size(length)) }
}

/// The caller's place for bytes; a null pointer is no place.
///
/// # Safety
/// A pointer that is not null is valid for writing `length` initialized elements, and for nobody else during the call.
pub(crate) unsafe fn place<'a, T>(pointer: *mut T, length: CK_ULONG) -> &'a mut [T] {
    if pointer.is_null() || length == 0 {
        return &mut [];
    }
    // SAFETY: by the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(pointer, size(length)) }
}

/// One value of the caller, copied.
///
/// # Safety
/// A pointer that is not null is valid for reading.
pub(crate) unsafe fn copy<T: Copy>(pointer: *const T) -> Option<T> {
    // SAFETY: by the caller's promise; a parameter in a byte buffer may be unaligned.
    (!pointer.is_null()).then(|| unsafe { pointer.read_unaligned() })
}

/// Answers by the standard's convention: without a place only the length, and too small a place is an error.
///
/// # Safety
/// `length` is null or valid for reading and writing; `to` is null or valid for writing as many elements as `length` says.
pub(crate) unsafe fn answer<T: Copy>(from: &[T], claimed: usize, to: *mut T, length: *mut CK_ULONG) -> CK_RV {
    // SAFETY: by the caller's promise.
    let Some(room) = (unsafe { copy(length) }) else { return CKR_ARGUMENTS_BAD };
    // SAFETY: as above; not null, since it was read.
    unsafe { *length = ulong(from.len().saturating_add(claimed)) };
    if to.is_null() {
        return CKR_OK;
    }
    // SAFETY: by the caller's promise.
    match unsafe { place(to, room) }.get_mut(..from.len()) {
        Some(to) => {
            to.copy_from_slice(from);
            CKR_OK
        }
        None => CKR_BUFFER_TOO_SMALL,
    }
}

/// Gives an answer that may be a lie to the caller.
///
/// # Safety
/// As for [`answer`].
pub(crate) unsafe fn deliver(told: &Answer, to: *mut CK_BYTE, length: *mut CK_ULONG) -> CK_RV {
    // SAFETY: by the caller's promise.
    unsafe { answer(&told.bytes, told.claimed, to, length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_asked_for_its_length_first() {
        let mut length: CK_ULONG = 0;
        let mut to = [0_u8; 4];
        // SAFETY: the places are ours, and as long as said.
        unsafe {
            assert_eq!(answer(&[1, 2, 3], 0, std::ptr::null_mut(), &raw mut length), CKR_OK);
            assert_eq!(length, 3);
            length = 2;
            assert_eq!(answer(&[1, 2, 3], 0, to.as_mut_ptr(), &raw mut length), CKR_BUFFER_TOO_SMALL);
            assert_eq!((length, to), (3, [0; 4]));
            length = 4;
            assert_eq!(answer(&[1, 2, 3], 9, to.as_mut_ptr(), &raw mut length), CKR_OK);
            assert_eq!((length, to), (12, [1, 2, 3, 0]));
            assert_eq!(answer(&[1], 0, to.as_mut_ptr(), std::ptr::null_mut()), CKR_ARGUMENTS_BAD);
        }
    }
}
