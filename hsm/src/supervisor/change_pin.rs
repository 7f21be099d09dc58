//! Changing the token's PIN. Invariant: after a change that was cut off, each of the two PINs is sent at most once
//! without being asked for. Absent: keeping the new PIN anywhere else; the caller does that.

use keystead_crypto::arena::LockedBytes;
use keystead_crypto::ports::HsmError;
use keystead_crypto::secret::SecretBytes;
use subtle::ConstantTimeEq;

use super::kept::Pins;
use super::{FAREWELL, Supervisor};
use crate::connection::Connection;
use crate::protocol::{Care, Reply, Request};

impl Supervisor {
    /// Has the token change its PIN, and finds out what holds if that is cut off.
    pub(super) fn change_pin(&mut self, current: &SecretBytes, new: &SecretBytes) -> Result<(), HsmError> {
        let connection = self.connect()?;
        let copy = |pin: &SecretBytes| SecretBytes::copy_from(pin.expose());
        let request = Request::ChangePin { current: copy(current), new: copy(new) };
        match self.send_pin(&connection, current.expose(), &request, self.config.deadline) {
            Ok(Reply::Done) => {
                self.adopt(current, new);
                Ok(())
            }
            Err(
                error @ (HsmError::PinRefused
                | HsmError::PinLocked
                | HsmError::NotLoggedIn
                | HsmError::Misconfigured { .. }
                | HsmError::Unsupported { .. }),
            ) => Err(error),
            outcome => {
                let error = outcome
                    .err()
                    .unwrap_or_else(|| HsmError::Lied { what: "the kind of an answer".to_owned() });
                connection.end(error.clone());
                // A child that lives could still change the PIN between the two logins.
                connection.wait_reaped(FAREWELL);
                self.find_out(current, new, error)
            }
        }
    }

    fn adopt(&mut self, current: &SecretBytes, new: &SecretBytes) {
        self.refused.insert(current.expose());
        self.refused.remove(new.expose());
        if let Some(kept) = &mut self.kept {
            kept.pins = Pins::Taken(LockedBytes::copy_from(new.expose()));
        }
    }

    fn find_out(
        &mut self,
        current: &SecretBytes,
        new: &SecretBytes,
        error: HsmError,
    ) -> Result<(), HsmError> {
        self.refused.remove(new.expose());
        let Some(kept) = &mut self.kept else { return Err(HsmError::PinUncertain) };
        let mut pins = vec![LockedBytes::copy_from(new.expose())];
        if !bool::from(current.ct_eq(new)) {
            pins.insert(0, LockedBytes::copy_from(current.expose()));
        }
        kept.pins = Pins::Either(pins);
        self.note_loss();
        // Whether it is back matters less than which PIN the token took.
        let _ = self.come_back();
        match &self.kept {
            Some(kept) if kept.took(new.expose()) => {
                self.adopt(current, new);
                Ok(())
            }
            Some(kept) if kept.took(current.expose()) => Err(error),
            _ => Err(HsmError::PinUncertain),
        }
    }

    /// Sends each PIN that may be right, once. The error comes with whether another try may be made without a person.
    pub(super) fn settle(
        &mut self,
        connection: &Connection,
        pins: &mut Vec<LockedBytes>,
    ) -> Result<LockedBytes, (HsmError, bool)> {
        while let Some(pin) = pins.pop() {
            match self.log_in(connection, pin.expose(), Care::Again) {
                Ok(_) => return Ok(pin),
                Err(HsmError::PinRefused) => {}
                Err(error @ (HsmError::Unavailable { .. } | HsmError::DeadlineExceeded { .. })) => {
                    let again = !pins.is_empty();
                    return Err((if again { error } else { HsmError::PinUncertain }, again));
                }
                Err(error) => return Err((error, false)),
            }
        }
        Err((HsmError::PinUncertain, false))
    }
}
