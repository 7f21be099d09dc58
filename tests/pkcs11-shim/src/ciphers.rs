//! Encrypting, decrypting, signing, random bytes: where IVs are made and answers are lies. Invariant: the real module
//! writes into memory of ours, so that a lie can have any length. Absent: the multi-part functions, which pass through.
#![expect(unsafe_code, reason = "the functions and their arguments are C's")]
#![expect(non_snake_case, reason = "the standard's names")]

use std::ffi::c_void;

use cryptoki_sys::*;

use crate::border::{cross, cross_or_end};
use crate::buffers::{self, size, ulong};
use crate::engine::Engine;
use crate::iv::Opening;
use crate::lies;
use crate::rules::{How, Iv};

type Init = unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_MECHANISM, CK_OBJECT_HANDLE) -> CK_RV;
type Produce =
    unsafe extern "C" fn(CK_SESSION_HANDLE, *mut CK_BYTE, CK_ULONG, *mut CK_BYTE, *mut CK_ULONG) -> CK_RV;

/// Room for what a module adds to its input: tags, padding, a signature.
const MARGIN: usize = 8192;

pub(crate) unsafe extern "C" fn C_EncryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    const NAME: &str = "C_EncryptInit";
    cross(NAME, |engine, real| {
        let Some(init) = real.C_EncryptInit else { return CKR_FUNCTION_NOT_SUPPORTED };
        engine.sessions.encrypting(session, Vec::new());
        // SAFETY: the caller's arguments, as the standard demands them.
        unsafe {
            begin(engine, NAME, init, session, mechanism, key, |ours, key| {
                match (engine.iv(NAME), gcm(ours)) {
                    (Some(rule), Some(params)) => own_iv(engine, rule, init, session, params, key),
                    _ => init(session, ours, key),
                }
            })
        }
    })
}

pub(crate) unsafe extern "C" fn C_DecryptInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    const NAME: &str = "C_DecryptInit";
    cross(NAME, |engine, real| {
        let Some(init) = real.C_DecryptInit else { return CKR_FUNCTION_NOT_SUPPORTED };
        engine.sessions.opening(session, None);
        // SAFETY: the caller's arguments, as the standard demands them.
        unsafe {
            begin(engine, NAME, init, session, mechanism, key, |ours, key| {
                match (engine.iv(NAME), gcm(ours)) {
                    // A caller that has taken the IV off the end says it here, as to any other module.
                    (Some(Iv { how: How::Appended, bytes, .. }), Some(params)) if params.ulIvLen == 0 => {
                        let aad = buffers::read(params.pAAD, params.ulAADLen).to_vec();
                        let tag_bits = params.ulTagBits;
                        let opening = Opening { key, aad, tag_bits, bytes, begun: false };
                        engine.sessions.opening(session, Some(opening));
                        CKR_OK
                    }
                    _ => init(session, ours, key),
                }
            })
        }
    })
}

pub(crate) unsafe extern "C" fn C_SignInit(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    const NAME: &str = "C_SignInit";
    cross(NAME, |engine, real| {
        let Some(init) = real.C_SignInit else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the caller's arguments, as the standard demands them.
        unsafe { begin(engine, NAME, init, session, mechanism, key, |ours, key| init(session, ours, key)) }
    })
}

pub(crate) unsafe extern "C" fn C_Encrypt(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    to: *mut CK_BYTE,
    to_length: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: the caller's arguments, as the standard demands them.
    let end = |real: &CK_FUNCTION_LIST| unsafe { end(real.C_Encrypt, session, data, length) };
    cross_or_end("C_Encrypt", end, |engine, real| {
        let Some(encrypt) = real.C_Encrypt else { return CKR_FUNCTION_NOT_SUPPORTED };
        let appended = engine.sessions.appended(session);
        // SAFETY: the caller's arguments, as the standard demands them.
        unsafe { produce(engine, "C_Encrypt", encrypt, session, (data, length), &appended, to, to_length) }
    })
}

pub(crate) unsafe extern "C" fn C_Decrypt(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    to: *mut CK_BYTE,
    to_length: *mut CK_ULONG,
) -> CK_RV {
    const NAME: &str = "C_Decrypt";
    // SAFETY: the caller's arguments, as the standard demands them.
    let end = |real: &CK_FUNCTION_LIST| unsafe { end(real.C_Decrypt, session, data, length) };
    cross_or_end(NAME, end, |engine, real| {
        let (Some(init), Some(decrypt)) = (real.C_DecryptInit, real.C_Decrypt) else {
            return CKR_FUNCTION_NOT_SUPPORTED;
        };
        let Some(opening) = engine.sessions.open(session) else {
            // SAFETY: the caller's arguments, as the standard demands them.
            return unsafe { produce(engine, NAME, decrypt, session, (data, length), &[], to, to_length) };
        };
        // SAFETY: the caller's arguments, as the standard demands them.
        let input = unsafe { buffers::read(data, length) };
        let Some((ciphertext, iv)) =
            input.len().checked_sub(opening.bytes).and_then(|at| input.split_at_checked(at))
        else {
            engine.sessions.opening(session, None);
            return CKR_ENCRYPTED_DATA_LEN_RANGE;
        };
        if !opening.begun {
            let mut iv = iv.to_vec();
            let params = CK_GCM_PARAMS {
                pIv: iv.as_mut_ptr(),
                ulIvLen: ulong(iv.len()),
                ulIvBits: ulong(iv.len().saturating_mul(8)),
                pAAD: opening.aad.as_ptr().cast_mut(),
                ulAADLen: ulong(opening.aad.len()),
                ulTagBits: opening.tag_bits,
            };
            // SAFETY: the parameters point to memory of ours that outlives the call.
            let begun = unsafe { with_params(params, |ours| init(session, ours, opening.key)) };
            if begun != CKR_OK {
                engine.sessions.opening(session, None);
                return begun;
            }
            engine.sessions.begun(session);
        }
        if !to.is_null() {
            engine.sessions.opening(session, None);
        }
        let whole = (data, ulong(ciphertext.len()));
        // SAFETY: the caller's arguments, of which the input is a beginning.
        unsafe { produce(engine, NAME, decrypt, session, whole, &[], to, to_length) }
    })
}

pub(crate) unsafe extern "C" fn C_Sign(
    session: CK_SESSION_HANDLE,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    to: *mut CK_BYTE,
    to_length: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: the caller's arguments, as the standard demands them.
    let end = |real: &CK_FUNCTION_LIST| unsafe { end(real.C_Sign, session, data, length) };
    cross_or_end("C_Sign", end, |engine, real| {
        let Some(sign) = real.C_Sign else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the caller's arguments, as the standard demands them.
        unsafe { produce(engine, "C_Sign", sign, session, (data, length), &[], to, to_length) }
    })
}

pub(crate) unsafe extern "C" fn C_GenerateRandom(
    session: CK_SESSION_HANDLE,
    to: *mut CK_BYTE,
    length: CK_ULONG,
) -> CK_RV {
    const NAME: &str = "C_GenerateRandom";
    cross(NAME, |engine, real| {
        let Some(generate) = real.C_GenerateRandom else { return CKR_FUNCTION_NOT_SUPPORTED };
        // SAFETY: the caller's arguments, as the standard demands them.
        let answer = unsafe { generate(session, to, length) };
        if answer == CKR_OK {
            // SAFETY: the place that the real module has filled just now.
            let to = unsafe { buffers::place(to, length) };
            let told = lies::tell(engine, NAME, to.to_vec());
            // This function has no length to lie about; a short answer repeats itself.
            to.iter_mut().zip(told.bytes.iter().cycle()).for_each(|(to, byte)| *to = *byte);
        }
        answer
    })
}

/// Begins an operation with the mechanism's real number and maybe another key.
///
/// # Safety
/// `mechanism` is null or a mechanism of the caller's, as the standard demands it.
unsafe fn begin(
    engine: &Engine,
    function: &'static str,
    init: Init,
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
    start: impl FnOnce(*mut CK_MECHANISM, CK_OBJECT_HANDLE) -> CK_RV,
) -> CK_RV {
    // SAFETY: by the caller's promise.
    let Some(mut ours) = (unsafe { buffers::copy(mechanism) }) else {
        // SAFETY: null ends an operation in some versions of the standard; the real module knows.
        return unsafe { init(session, mechanism, key) };
    };
    match engine.admit(function, ours.mechanism) {
        Ok(real) => ours.mechanism = real,
        Err(refusal) => return refusal,
    }
    let answer = start(&raw mut ours, engine.key(function, key));
    if answer == CKR_OK {
        engine.saw_key(function, key);
    }
    answer
}

/// The parameters of AES-GCM, if this is it.
///
/// # Safety
/// `mechanism` is valid for reading, and so is its parameter.
unsafe fn gcm(mechanism: *const CK_MECHANISM) -> Option<CK_GCM_PARAMS> {
    // SAFETY: by the caller's promise.
    let mechanism = unsafe { buffers::copy(mechanism) }?;
    let whole = size(mechanism.ulParameterLen) == size_of::<CK_GCM_PARAMS>();
    // SAFETY: as long as the parameters are.
    (mechanism.mechanism == CKM_AES_GCM && whole)
        .then(|| unsafe { buffers::copy(mechanism.pParameter.cast::<CK_GCM_PARAMS>()) })?
}

/// Begins AES-GCM with an IV that the caller has not chosen.
///
/// # Safety
/// `params` are the caller's, with pointers as the standard demands them.
unsafe fn own_iv(
    engine: &Engine,
    rule: Iv,
    init: Init,
    session: CK_SESSION_HANDLE,
    mut params: CK_GCM_PARAMS,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: by the caller's promise; nobody else has the IV while the call runs.
    let given = unsafe { buffers::place(params.pIv, params.ulIvLen) };
    let refused = rule.only_zero && given.iter().any(|byte| *byte != 0);
    let no_place = rule.how == How::WrittenBack && given.len() != rule.bytes;
    if refused || no_place {
        return CKR_MECHANISM_PARAM_INVALID;
    }
    let mut own = vec![0; rule.bytes];
    if getrandom::fill(&mut own).is_err() {
        return CKR_RANDOM_NO_RNG;
    }
    params.pIv = own.as_mut_ptr();
    params.ulIvLen = ulong(own.len());
    params.ulIvBits = ulong(own.len().saturating_mul(8));
    // SAFETY: the IV is ours now, the AAD still the caller's.
    let answer = unsafe { with_params(params, |ours| init(session, ours, key)) };
    if answer == CKR_OK {
        match rule.how {
            How::WrittenBack => given.copy_from_slice(&own),
            How::Appended => engine.sessions.encrypting(session, own),
            How::Silent => {}
        }
    }
    answer
}

/// Calls with AES-GCM and these parameters.
///
/// # Safety
/// The pointers in the parameters are valid while the call runs.
unsafe fn with_params(mut params: CK_GCM_PARAMS, call: impl FnOnce(*mut CK_MECHANISM) -> CK_RV) -> CK_RV {
    let mut ours = CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: (&raw mut params).cast::<c_void>(),
        ulParameterLen: ulong(size_of::<CK_GCM_PARAMS>()),
    };
    call(&raw mut ours)
}

/// Ends an operation by doing it for nobody.
///
/// # Safety
/// The input is the caller's, as the standard demands it.
unsafe fn end(call: Option<Produce>, session: CK_SESSION_HANDLE, data: *mut CK_BYTE, length: CK_ULONG) {
    let mut bytes = vec![0; size(length).saturating_add(MARGIN)];
    let mut filled = ulong(bytes.len());
    if let Some(call) = call {
        // SAFETY: the input by the caller's promise, the output is ours and as long as said. An error is an end too.
        unsafe { call(session, data, length, bytes.as_mut_ptr(), &raw mut filled) };
    }
}

/// Answers a length, or the bytes after all lies.
///
/// # Safety
/// The arguments are the caller's, as the standard demands them.
#[expect(clippy::too_many_arguments, reason = "five are the standard's")]
unsafe fn produce(
    engine: &Engine,
    function: &'static str,
    call: Produce,
    session: CK_SESSION_HANDLE,
    (data, length): (*mut CK_BYTE, CK_ULONG),
    appended: &[u8],
    to: *mut CK_BYTE,
    to_length: *mut CK_ULONG,
) -> CK_RV {
    if to.is_null() {
        // SAFETY: by the caller's promise.
        let answer = unsafe { call(session, data, length, to, to_length) };
        if answer != CKR_OK || to_length.is_null() {
            return answer;
        }
        let more = ulong(appended.len().saturating_add(engine.excess(function)));
        // SAFETY: not null, and the real module has just written it.
        unsafe { *to_length = (*to_length).saturating_add(more) };
        return answer;
    }
    let mut bytes = vec![0; size(length).saturating_add(MARGIN)];
    let mut filled = ulong(bytes.len());
    // SAFETY: the input by the caller's promise, the output is ours and as long as said.
    let answer = unsafe { call(session, data, length, bytes.as_mut_ptr(), &raw mut filled) };
    if answer != CKR_OK {
        return answer;
    }
    bytes.truncate(size(filled));
    bytes.extend_from_slice(appended);
    let told = lies::tell(engine, function, bytes);
    // SAFETY: by the caller's promise.
    unsafe { buffers::deliver(&told, to, to_length) }
}
