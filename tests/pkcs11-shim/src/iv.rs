//! What sessions are in the middle of when AES-GCM makes its own IVs. Invariant: an entry belongs to the operation that
//! began last in its session. Absent: calls of the real module.

use std::collections::HashMap;
use std::sync::Mutex;

use cryptoki_sys::*;

use crate::engine::lock;

/// Sessions by handle.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<CK_SESSION_HANDLE, State>>);

#[derive(Default, Clone)]
struct State {
    appended: Vec<u8>,
    opening: Option<Opening>,
}

/// A decryption whose IV comes with the ciphertext.
#[derive(Clone)]
pub(crate) struct Opening {
    pub(crate) key: CK_OBJECT_HANDLE,
    pub(crate) aad: Vec<u8>,
    pub(crate) tag_bits: CK_ULONG,
    /// Bytes of the IV at the end.
    pub(crate) bytes: usize,
    /// The real module has begun with it.
    pub(crate) begun: bool,
}

impl Sessions {
    /// An encryption begins; its answer will have this behind it.
    pub(crate) fn encrypting(&self, session: CK_SESSION_HANDLE, appended: Vec<u8>) {
        lock(&self.0).entry(session).or_default().appended = appended;
    }

    /// What goes behind the answer of this session's encryption.
    pub(crate) fn appended(&self, session: CK_SESSION_HANDLE) -> Vec<u8> {
        lock(&self.0).get(&session).map(|state| state.appended.clone()).unwrap_or_default()
    }

    /// A decryption begins, or ends with nothing.
    pub(crate) fn opening(&self, session: CK_SESSION_HANDLE, opening: Option<Opening>) {
        lock(&self.0).entry(session).or_default().opening = opening;
    }

    /// The decryption that waits for its IV.
    pub(crate) fn open(&self, session: CK_SESSION_HANDLE) -> Option<Opening> {
        lock(&self.0).get(&session).and_then(|state| state.opening.clone())
    }

    /// The real module knows its IV now.
    pub(crate) fn begun(&self, session: CK_SESSION_HANDLE) {
        if let Some(opening) = lock(&self.0).get_mut(&session).and_then(|state| state.opening.as_mut()) {
            opening.begun = true;
        }
    }
}
