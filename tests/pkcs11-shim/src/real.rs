//! The module behind this one. Invariant: it is loaded once and stays loaded. Absent: its calls.
#![expect(unsafe_code, reason = "loading a library and asking it for its functions is foreign code")]

use std::io::Write;
use std::sync::OnceLock;

use cryptoki_sys::*;

static REAL: OnceLock<Option<CK_FUNCTION_LIST>> = OnceLock::new();

/// The real module's functions, or nothing when it cannot be loaded, which is said on standard error.
pub(crate) fn functions() -> Option<&'static CK_FUNCTION_LIST> {
    let loaded = REAL.get_or_init(|| match load() {
        Ok(list) => Some(list),
        Err(error) => {
            // There is nobody else to tell; PKCS#11 has only a number for it.
            let _ = writeln!(std::io::stderr(), "keystead-pkcs11-shim: {error}");
            None
        }
    });
    loaded.as_ref()
}

fn load() -> Result<CK_FUNCTION_LIST, String> {
    let path = std::env::var_os("KEYSTEAD_SHIM_MODULE").ok_or("KEYSTEAD_SHIM_MODULE is not set")?;
    // SAFETY: the path is a PKCS#11 module by the caller's word, whose loading has no other conditions.
    let module = unsafe { Pkcs11::new(&path) };
    let module = module.map_err(|error| format!("{} cannot be loaded: {error}", path.display()))?;
    // Never unloaded: its exit handlers must find themselves, and its functions are kept below.
    let module: &'static Pkcs11 = Box::leak(Box::new(module));
    let ask = module.C_GetFunctionList.as_ref().map_err(|error| format!("{}: {error}", path.display()))?;
    let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
    // SAFETY: the function is the module's own, and its argument is valid for writing one pointer.
    let answer = unsafe { ask(&raw mut list) };
    if answer != CKR_OK || list.is_null() {
        return Err(format!("{} gives no function list: {answer:#x}", path.display()));
    }
    // SAFETY: by the standard the pointer is to a list that lives as long as the module, which is for ever.
    Ok(unsafe { *list })
}
