//! Logging in. Invariant: every attempt is in the log before the token hears of it, even one that never returns; the PIN
//! is only digested. Absent: PINs that are set (C_InitPIN, C_SetPIN), which pass through unread.
#![expect(unsafe_code, reason = "the function and its arguments are C's")]
#![expect(non_snake_case, reason = "the standard's name")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys::*;

use crate::border::cross;
use crate::buffers;
use crate::engine::engine;

pub(crate) unsafe extern "C" fn C_Login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut CK_UTF8CHAR,
    length: CK_ULONG,
) -> CK_RV {
    let guarded = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the caller's arguments, as the standard demands them.
        let sent = unsafe { buffers::read(pin, length) };
        if let Some(record) = engine().record() {
            record.login(sent);
        }
        let answer = cross("C_Login", |_, real| match real.C_Login {
            // SAFETY: as above.
            Some(log_in) => unsafe { log_in(session, user, pin, length) },
            None => CKR_FUNCTION_NOT_SUPPORTED,
        });
        engine().mute("C_Login");
        if let Some(record) = engine().record() {
            record.login_answer(sent, answer);
        }
        answer
    }));
    guarded.unwrap_or(CKR_FUNCTION_FAILED)
}
