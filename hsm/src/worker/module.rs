//! Loading the module and finding the token. Invariant: a pinned module is loaded only when its bytes have the pinned
//! hash; a token is found by label and serial, never by slot number. Absent: protection against whoever can write the
//! module's directory between the two steps: that is root's, and root can do worse.

use std::fs::File;
use std::io;
use std::path::Path;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::slot::{Slot, TokenInfo as SlotToken};
use data_encoding::HEXLOWER;
use keystead_crypto::ports::HsmError;
use sha2::{Digest, Sha256};

use super::fault::verdict;
use crate::protocol::Start;

/// Loads and initializes the module.
pub(super) fn load(start: &Start) -> Result<Pkcs11, HsmError> {
    check_hash(&start.module, start.module_sha256)?;
    let module = Pkcs11::new(&start.module).map_err(|error| match error {
        Error::LibraryLoading(reason) => {
            misfit(format!("the module {} cannot be loaded: {reason}", start.module.display()))
        }
        other => misfit(format!("{} is no PKCS#11 module: {other}", start.module.display())),
    })?;
    // The library stays mapped: its exit handlers must find themselves.
    std::mem::forget(module.clone());
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(error) => {
            let said = said(&error);
            let reason = format!(
                "the module does not initialize ({said}); look at its configuration and at hsm.env, its whole environment"
            );
            Err(HsmError::Unavailable { reason })
        }
    }
}

fn check_hash(module: &Path, pinned: Option<[u8; 32]>) -> Result<(), HsmError> {
    let unreadable =
        |error: io::Error| misfit(format!("the module {} cannot be read: {error}", module.display()));
    let mut file = File::open(module).map_err(unreadable)?;
    let Some(pinned) = pinned else { return Ok(()) };
    let mut hash = HashWriter(Sha256::new());
    io::copy(&mut file, &mut hash).map_err(unreadable)?;
    let found: [u8; 32] = hash.0.finalize().into();
    if found == pinned {
        return Ok(());
    }
    Err(misfit(format!(
        "the module {} has SHA-256 {}, but {} is pinned",
        module.display(),
        HEXLOWER.encode(&found),
        HEXLOWER.encode(&pinned)
    )))
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The one token with this label and, if given, this serial.
pub(super) fn find_token(module: &Pkcs11, start: &Start) -> Result<(Slot, SlotToken), HsmError> {
    let mut found = Vec::new();
    for slot in module.get_slots_with_token().map_err(|error| verdict(&error))? {
        // A slot whose token cannot be read is another's trouble as long as ours is there.
        let Ok(info) = module.get_token_info(slot) else { continue };
        let serial_fits =
            start.token_serial.as_deref().is_none_or(|serial| info.serial_number().trim() == serial.trim());
        if info.token_initialized() && info.label().trim_end() == start.token_label.trim_end() && serial_fits
        {
            found.push((slot, info));
        }
    }
    let count = found.len();
    match (found.pop(), count) {
        (Some(one), 1) => Ok(one),
        (None, _) => Err(HsmError::Unavailable {
            reason: format!(
                "there is no token labelled {:?} now; compare hsm.token_label, hsm.token_serial and hsm.env",
                start.token_label
            ),
        }),
        (Some(_), found) => Err(HsmError::NotUnique {
            what: format!("token labelled {:?} (set its serial)", start.token_label),
            found,
        }),
    }
}

/// A call's code without the standard's paragraph about it.
fn said(error: &Error) -> String {
    match error {
        Error::Pkcs11(code, function) => format!("{function:?} answered {code:?}"),
        other => other.to_string(),
    }
}

fn misfit(what: String) -> HsmError {
    HsmError::Misconfigured { what }
}
