//! What every exported function goes through. Invariant: a panic becomes CKR_FUNCTION_FAILED here and never unwinds into
//! C. Absent: anything about single functions.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys::*;

use crate::engine::{Engine, engine};
use crate::real;

/// Counts the call, lets the faults that come first happen, and then makes the call.
pub(crate) fn cross(
    function: &'static str,
    call: impl FnOnce(&'static Engine, &'static CK_FUNCTION_LIST) -> CK_RV,
) -> CK_RV {
    cross_or_end(function, |_| {}, call)
}

/// The same for the last step of an operation, which ends with an error too: `end` sees to that in the real module when
/// a fault answers in its place.
pub(crate) fn cross_or_end(
    function: &'static str,
    end: impl FnOnce(&'static CK_FUNCTION_LIST),
    call: impl FnOnce(&'static Engine, &'static CK_FUNCTION_LIST) -> CK_RV,
) -> CK_RV {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let engine = engine();
        if let Some(answer) = engine.enter(function) {
            if let Some(real) = real::functions() {
                end(real);
            }
            return answer;
        }
        match real::functions() {
            Some(real) => call(engine, real),
            None => CKR_GENERAL_ERROR,
        }
    }));
    // Whatever was locked is usable again; the next call finds a state that a lie has at most left out.
    outcome.unwrap_or(CKR_FUNCTION_FAILED)
}
