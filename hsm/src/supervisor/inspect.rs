//! A look at the token by a child of its own, which ends with it. Invariant: a login that stands is not touched, and a
//! refused PIN is remembered like any other.

use keystead_crypto::ports::HsmError;
use keystead_crypto::secret::SecretBytes;

use super::Supervisor;
use crate::protocol::{Care, Reply, Request};
use crate::report::Report;

/// A look makes this many times the calls of one request.
const CALLS: u32 = 12;

impl Supervisor {
    pub(super) fn inspect(&mut self, login: Option<(SecretBytes, Care)>) -> Result<Report, HsmError> {
        let pin = login.as_ref().map(|(pin, _)| SecretBytes::copy_from(pin.expose()));
        if pin.as_ref().is_some_and(|pin| self.refused.contains(pin.expose())) {
            return Err(HsmError::PinRefused);
        }
        let (connection, _) = self.start()?;
        let deadline = self.config.deadline.saturating_mul(CALLS);
        match connection.ask(&Request::Inspect { login }, deadline) {
            Ok(Reply::Report(report)) => Ok(*report),
            Ok(_) => Err(HsmError::Lied { what: "the kind of an answer".to_owned() }),
            Err(error) => {
                if let Some(pin) = pin.filter(|_| error == HsmError::PinRefused) {
                    self.refused.insert(pin.expose());
                }
                Err(error)
            }
        }
    }
}
