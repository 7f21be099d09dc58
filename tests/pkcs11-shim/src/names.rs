//! The standard's names in control files. Invariant: what is not in these tables may be written as a number. Absent:
//! names that no fault has needed yet.

use cryptoki_sys::*;

macro_rules! table {
    ($($name:ident)*) => { &[$((stringify!($name), $name)),*] };
}

const RETURN_VALUES: &[(&str, CK_RV)] = table!(
    CKR_OK CKR_GENERAL_ERROR CKR_FUNCTION_FAILED CKR_FUNCTION_NOT_SUPPORTED CKR_ARGUMENTS_BAD CKR_HOST_MEMORY
    CKR_DEVICE_ERROR CKR_DEVICE_MEMORY CKR_DEVICE_REMOVED CKR_TOKEN_NOT_PRESENT CKR_TOKEN_NOT_RECOGNIZED
    CKR_SESSION_HANDLE_INVALID CKR_SESSION_CLOSED CKR_SESSION_COUNT CKR_OBJECT_HANDLE_INVALID CKR_KEY_HANDLE_INVALID
    CKR_USER_NOT_LOGGED_IN CKR_PIN_INCORRECT CKR_PIN_LOCKED CKR_PIN_EXPIRED CKR_MECHANISM_INVALID
    CKR_MECHANISM_PARAM_INVALID CKR_ENCRYPTED_DATA_INVALID CKR_RANDOM_NO_RNG CKR_CRYPTOKI_NOT_INITIALIZED
    CKR_OPERATION_NOT_INITIALIZED
);

const MECHANISMS: &[(&str, CK_MECHANISM_TYPE)] = table!(
    CKM_AES_KEY_GEN CKM_AES_GCM CKM_AES_CBC CKM_AES_CBC_PAD CKM_SHA256_HMAC CKM_GENERIC_SECRET_KEY_GEN CKM_EDDSA
    CKM_EC_EDWARDS_KEY_PAIR_GEN CKM_ECDSA CKM_ECDSA_SHA256 CKM_EC_KEY_PAIR_GEN
);

const ATTRIBUTES: &[(&str, CK_ATTRIBUTE_TYPE)] = table!(
    CKA_EXTRACTABLE CKA_SENSITIVE CKA_ALWAYS_SENSITIVE CKA_NEVER_EXTRACTABLE CKA_LOCAL CKA_MODIFIABLE CKA_WRAP
    CKA_DECRYPT CKA_SIGN
);

pub(crate) fn return_value(text: &str) -> Result<CK_RV, String> {
    find(RETURN_VALUES, text)
}

pub(crate) fn mechanism(text: &str) -> Result<CK_MECHANISM_TYPE, String> {
    find(MECHANISMS, text)
}

pub(crate) fn attribute(text: &str) -> Result<CK_ATTRIBUTE_TYPE, String> {
    find(ATTRIBUTES, text)
}

fn find(table: &[(&str, CK_ULONG)], text: &str) -> Result<CK_ULONG, String> {
    let named = table.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    let number = || match text.strip_prefix("0x") {
        Some(digits) => CK_ULONG::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    named.or_else(number).ok_or_else(|| format!("{text} is no name of the standard that is known here"))
}
