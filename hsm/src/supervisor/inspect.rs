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
        let (request, deadline) = (Request::Inspect { login }, self.config.deadline.saturating_mul(CALLS));
        let answer = match pin {
            Some(pin) => self.send_pin(&connection, pin.expose(), &request, deadline),
            None => connection.ask(&request, deadline),
        };
        match answer? {
            Reply::Report(report) => Ok(*report),
            _ => Err(HsmError::Lied { what: "the kind of an answer".to_owned() }),
        }
    }
}
