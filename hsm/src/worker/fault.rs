//! What to do about a PKCS#11 return code. Invariant: an error that leaves here holds names and codes only. Absent: the
//! doing (`jobs`), and GENERAL_ERROR of a decryption, which `cipher` looks into.

use cryptoki::error::{Error, RvError};
use keystead_crypto::ports::HsmError;

/// Why a job stopped.
#[derive(Debug)]
pub(super) enum Fault {
    /// A final answer.
    Answer(HsmError),
    /// A return code that may have a remedy.
    Call(Error),
}

impl From<HsmError> for Fault {
    fn from(error: HsmError) -> Self {
        Self::Answer(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Call(error)
    }
}

/// What helps, if anything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Open a new session and try once more.
    NewSession,
    /// Look the keys up again and try once more.
    FindAgain,
    /// Nothing: answer this.
    Answer(HsmError),
}

/// The remedy for a failed call.
pub(super) fn remedy(error: &Error) -> Remedy {
    let Error::Pkcs11(code, function) = error else {
        return Remedy::Answer(binding_error(error));
    };
    let said = || format!("{function:?} answered {code:?}");
    Remedy::Answer(match code {
        RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::OperationActive
        | RvError::OperationNotInitialized => return Remedy::NewSession,
        RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid => return Remedy::FindAgain,
        RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange => HsmError::PinRefused,
        RvError::PinLocked => HsmError::PinLocked,
        RvError::PinExpired
        | RvError::UserPinNotInitialized
        | RvError::KeyFunctionNotPermitted
        | RvError::AttributeReadOnly
        | RvError::ActionProhibited
        | RvError::TokenWriteProtected
        | RvError::SessionReadOnly => HsmError::Misconfigured { what: said() },
        RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::FunctionNotSupported
        | RvError::CurveNotSupported
        | RvError::KeyTypeInconsistent
        | RvError::KeySizeRange
        | RvError::TemplateIncomplete
        | RvError::TemplateInconsistent
        | RvError::AttributeTypeInvalid
        | RvError::AttributeValueInvalid
        | RvError::DataLenRange
        | RvError::ArgumentsBad => HsmError::Unsupported { what: said() },
        // Everything else is trouble with the device or the connection to it: a fresh process finds out.
        _ => HsmError::Unavailable { reason: said() },
    })
}

/// An answer for a call that gets no second try.
pub(super) fn verdict(error: &Error) -> HsmError {
    match remedy(error) {
        Remedy::Answer(answer) => answer,
        Remedy::NewSession | Remedy::FindAgain => {
            HsmError::Unavailable { reason: "the module lost a session or an object".to_owned() }
        }
    }
}

fn binding_error(error: &Error) -> HsmError {
    match error {
        Error::NullFunctionPointer | Error::MissingSymbol(_) | Error::NotSupported => {
            HsmError::Unsupported { what: error.to_string() }
        }
        other => HsmError::Lied { what: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    fn of(code: RvError) -> Remedy {
        remedy(&Error::Pkcs11(code, Function::Encrypt))
    }

    #[test]
    fn codes_get_their_remedy() {
        assert_eq!(of(RvError::SessionHandleInvalid), Remedy::NewSession);
        assert_eq!(of(RvError::ObjectHandleInvalid), Remedy::FindAgain);
        assert_eq!(of(RvError::PinLocked), Remedy::Answer(HsmError::PinLocked));
        assert_eq!(
            of(RvError::DeviceRemoved),
            Remedy::Answer(HsmError::Unavailable { reason: "Encrypt answered DeviceRemoved".into() })
        );
        assert_eq!(
            of(RvError::MechanismInvalid),
            Remedy::Answer(HsmError::Unsupported { what: "Encrypt answered MechanismInvalid".into() })
        );
    }
}
