//! Passwords for machines. Invariant: 200 random bits from the generator that is passed in, in letters and digits that no
//! shell, URL or configuration file reads in another way.

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::base32;
use crate::secret::SecretBytes;

/// Length of every password.
pub const PASSWORD_BYTES: usize = 40;

/// A fresh one.
pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> SecretBytes {
    let mut bits = Zeroizing::new([0u8; 25]);
    rng.fill_bytes(bits.as_mut_slice());
    let mut text = Vec::with_capacity(PASSWORD_BYTES);
    base32::encode(bits.as_slice(), &mut text);
    SecretBytes::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRng, system_rng};

    #[test]
    fn a_password_is_what_the_generator_gave_and_plain_text() {
        let one = generate(&mut TestRng::seeded(1));
        assert_eq!(one.expose(), generate(&mut TestRng::seeded(1)).expose());
        assert_ne!(one.expose(), generate(&mut system_rng()).expose());
        assert_eq!(one.len(), PASSWORD_BYTES);
        assert!(one.expose().iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
    }
}
