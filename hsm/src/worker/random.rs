//! Random bytes from the token. Invariant: a source that is constant or repeats itself is an error, never an answer.
//! Absent: any claim about the quality of what looks random.

use std::sync::Mutex;

use cryptoki::session::Session;
use keystead_crypto::ports::HsmError;
use keystead_crypto::secret::SecretBytes;
use sha2::{Digest, Sha256};

use super::fault::Fault;
use super::token::lock;
use crate::protocol::MAX_RANDOM;

/// Each draw asks for at least this much, so that a repetition cannot be chance.
const LEAST: usize = 32;

/// The digest of the last draw's first bytes.
#[derive(Default)]
pub(super) struct Draws(Mutex<Option<[u8; 32]>>);

impl Draws {
    fn check(&self, drawn: &[u8]) -> Result<(), HsmError> {
        let head = drawn.get(..LEAST).unwrap_or(drawn);
        let constant = head.first().is_some_and(|first| head.iter().all(|byte| byte == first));
        let digest: [u8; 32] = Sha256::digest(head).into();
        let repeated = lock(&self.0).replace(digest) == Some(digest);
        if constant || repeated {
            return Err(HsmError::Lied { what: "its random source is constant".to_owned() });
        }
        Ok(())
    }
}

/// Draws bytes.
pub(super) fn draw(session: &Session, draws: &Draws, wanted: usize) -> Result<SecretBytes, Fault> {
    if wanted > MAX_RANDOM {
        let what = format!("{wanted} random bytes in a call; at most {MAX_RANDOM}");
        return Err(HsmError::Unsupported { what }.into());
    }
    let mut bytes = SecretBytes::new(vec![0; wanted.max(LEAST)]).into_exposed();
    session.generate_random_slice(&mut bytes)?;
    let drawn = SecretBytes::new(bytes);
    draws.check(drawn.expose())?;
    let wanted = drawn.expose().get(..wanted).unwrap_or_default();
    Ok(SecretBytes::copy_from(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_and_repeated_draws_are_refused() {
        let draws = Draws::default();
        let lied = Err(HsmError::Lied { what: "its random source is constant".into() });
        assert_eq!(draws.check(&[7; 32]), lied);
        let good: Vec<u8> = (0..40).collect();
        assert_eq!(draws.check(&good), Ok(()));
        assert_eq!(draws.check(&good), lied);
        let other: Vec<u8> = (1..41).collect();
        assert_eq!(draws.check(&other), Ok(()));
    }
}
