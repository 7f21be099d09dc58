//! Initializing, slots and mechanisms. Invariant: a hidden mechanism is nowhere, an added one everywhere. Absent: tokens'
//! own words about themselves, which pass through.
#![expect(unsafe_code, reason = "the functions and their arguments are C's")]
#![expect(non_snake_case, reason = "the standard's names")]

use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

use cryptoki_sys::*;

use crate::border::cross;
use crate::buffers::{self, size};

pub(crate) unsafe extern "C" fn C_Initialize(arguments: *mut c_void) -> CK_RV {
    cross("C_Initialize", |_, real| {
        let Some(initialize) = real.C_Initialize else { return CKR_FUNCTION_NOT_SUPPORTED };
        let Some(reserved) = reserved() else {
            // SAFETY: the caller's argument, as the standard demands it.
            return unsafe { initialize(arguments) };
        };
        // SAFETY: the standard demands null or this structure.
        let given = unsafe { buffers::copy(arguments.cast::<CK_C_INITIALIZE_ARGS>()) };
        let mut ours = given.unwrap_or_default();
        ours.pReserved = reserved.as_ptr().cast_mut().cast();
        // SAFETY: the structure is ours, and its text lives for ever.
        unsafe { initialize((&raw mut ours).cast()) }
    })
}

/// What the real module gets as `pReserved`, if anything.
fn reserved() -> Option<&'static CString> {
    static RESERVED: OnceLock<Option<CString>> = OnceLock::new();
    let text = RESERVED.get_or_init(|| {
        let text = std::env::var_os("KEYSTEAD_SHIM_RESERVED")?;
        CString::new(text.into_vec()).ok()
    });
    text.as_ref()
}

pub(crate) unsafe extern "C" fn C_GetSlotList(
    with_token: CK_BBOOL,
    to: *mut CK_SLOT_ID,
    length: *mut CK_ULONG,
) -> CK_RV {
    const NAME: &str = "C_GetSlotList";
    cross(NAME, |engine, real| {
        let Some(list) = real.C_GetSlotList else { return CKR_FUNCTION_NOT_SUPPORTED };
        if with_token != CK_FALSE && engine.pulled(NAME) {
            // SAFETY: the caller's arguments, as the standard demands them.
            return unsafe { buffers::answer(&[], 0, to, length) };
        }
        // SAFETY: as above.
        unsafe { list(with_token, to, length) }
    })
}

pub(crate) unsafe extern "C" fn C_GetMechanismList(
    slot: CK_SLOT_ID,
    to: *mut CK_MECHANISM_TYPE,
    length: *mut CK_ULONG,
) -> CK_RV {
    const NAME: &str = "C_GetMechanismList";
    cross(NAME, |engine, real| {
        let Some(list) = real.C_GetMechanismList else { return CKR_FUNCTION_NOT_SUPPORTED };
        let mut count = 0;
        // SAFETY: asks for the number only.
        let answer = unsafe { list(slot, std::ptr::null_mut(), &raw mut count) };
        if answer != CKR_OK {
            return answer;
        }
        let mut mechanisms = vec![0; size(count)];
        // SAFETY: the place is ours, and as long as said.
        let answer = unsafe { list(slot, mechanisms.as_mut_ptr(), &raw mut count) };
        if answer != CKR_OK {
            return answer;
        }
        mechanisms.truncate(size(count));
        engine.mechanisms(NAME, &mut mechanisms);
        // SAFETY: the caller's arguments, as the standard demands them.
        unsafe { buffers::answer(&mechanisms, 0, to, length) }
    })
}

pub(crate) unsafe extern "C" fn C_GetMechanismInfo(
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> CK_RV {
    const NAME: &str = "C_GetMechanismInfo";
    cross(NAME, |engine, real| {
        let Some(tell) = real.C_GetMechanismInfo else { return CKR_FUNCTION_NOT_SUPPORTED };
        match engine.admit(NAME, mechanism) {
            // SAFETY: the caller's arguments, as the standard demands them.
            Ok(mechanism) => unsafe { tell(slot, mechanism, info) },
            Err(refusal) => refusal,
        }
    })
}

pub(crate) unsafe extern "C" fn C_GenerateKey(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    const NAME: &str = "C_GenerateKey";
    cross(NAME, |engine, real| {
        let Some(generate) = real.C_GenerateKey else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the caller's arguments, as the standard demands them.
        unsafe {
            match buffers::copy(mechanism).map(|asked| engine.admit(NAME, asked.mechanism)) {
                Some(Err(refusal)) => refusal,
                _ => generate(session, mechanism, template, count, key),
            }
        }
    })
}

pub(crate) unsafe extern "C" fn C_GenerateKeyPair(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    public_template: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private_template: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public: *mut CK_OBJECT_HANDLE,
    private: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    const NAME: &str = "C_GenerateKeyPair";
    cross(NAME, |engine, real| {
        let Some(generate) = real.C_GenerateKeyPair else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the caller's arguments, as the standard demands them.
        unsafe {
            match buffers::copy(mechanism).map(|asked| engine.admit(NAME, asked.mechanism)) {
                Some(Err(refusal)) => refusal,
                _ => generate(
                    session,
                    mechanism,
                    public_template,
                    public_count,
                    private_template,
                    private_count,
                    public,
                    private,
                ),
            }
        }
    })
}
