//! Searches and attributes. Invariant: only memory that the real module has filled is changed. Absent: creating and
//! destroying, which pass through.
#![expect(unsafe_code, reason = "the functions and their arguments are C's")]
#![expect(non_snake_case, reason = "the standard's names")]

use cryptoki_sys::*;

use crate::border::cross;
use crate::buffers;
use crate::rules::Effect;

pub(crate) unsafe extern "C" fn C_FindObjects(
    session: CK_SESSION_HANDLE,
    to: *mut CK_OBJECT_HANDLE,
    most: CK_ULONG,
    found: *mut CK_ULONG,
) -> CK_RV {
    const NAME: &str = "C_FindObjects";
    cross(NAME, |engine, real| {
        let Some(find) = real.C_FindObjects else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the caller's arguments, as the standard demands them.
        let answer = unsafe { find(session, to, most, found) };
        // SAFETY: as above.
        let count = unsafe { buffers::copy(found) };
        let (CKR_OK, Some(count @ 1..)) = (answer, count) else { return answer };
        // SAFETY: as above; the real module has filled the first `count`.
        let places = unsafe { buffers::place(to, most) };
        for live in engine.due(NAME) {
            let [first, ..] = *places else { break };
            if let Some(next) = places.get_mut(buffers::size(count)) {
                *next = first;
                // SAFETY: not null, since it was read.
                unsafe { *found = count.saturating_add(1) };
                engine.fire(&live, NAME);
            }
        }
        answer
    })
}

pub(crate) unsafe extern "C" fn C_GetAttributeValue(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    const NAME: &str = "C_GetAttributeValue";
    cross(NAME, |engine, real| {
        let Some(get) = real.C_GetAttributeValue else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the caller's arguments, as the standard demands them.
        let room: Vec<CK_ULONG> =
            unsafe { buffers::read(template, count) }.iter().map(|attribute| attribute.ulValueLen).collect();
        // SAFETY: as above.
        let answer = unsafe { get(session, object, template, count) };
        // SAFETY: as above; the real module has said of each attribute how long it is, or that there is none.
        let attributes = unsafe { buffers::place(template, count) };
        for live in engine.due(NAME) {
            let Effect::Attribute { kind, value } = &live.rule.effect else { continue };
            let wanted = |(attribute, _): &(&mut CK_ATTRIBUTE, &CK_ULONG)| attribute.type_ == *kind;
            for (attribute, room) in attributes.iter_mut().zip(&room).filter(wanted) {
                if attribute.pValue.is_null() {
                    attribute.ulValueLen = buffers::ulong(value.len());
                } else if buffers::size(*room) == value.len() {
                    // SAFETY: the caller has given a place of this length.
                    unsafe { buffers::place(attribute.pValue.cast::<u8>(), *room) }.copy_from_slice(value);
                    attribute.ulValueLen = *room;
                    engine.fire(&live, NAME);
                }
            }
        }
        let all = attributes.iter().all(|attribute| attribute.ulValueLen != CK_UNAVAILABLE_INFORMATION);
        if answer == CKR_ATTRIBUTE_TYPE_INVALID && all { CKR_OK } else { answer }
    })
}
