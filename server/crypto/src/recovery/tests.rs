//! Sealing for a recipient and opening with its identity; what is neither.

use super::*;

pub(crate) const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
const IDENTITY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";

pub(crate) fn identity() -> RecoveryIdentity {
    RecoveryIdentity::parse(&SecretBytes::copy_from(IDENTITY.as_bytes())).unwrap()
}

pub(crate) fn other_identity() -> RecoveryIdentity {
    RecoveryIdentity(age::x25519::Identity::generate())
}

#[test]
fn what_was_sealed_for_a_recipient_opens_with_its_identity_only() {
    let recipient = RecoveryRecipient::parse(RECIPIENT).unwrap();
    assert_eq!(identity().recipient(), recipient);
    let sealed = seal("test", &recipient, &[7; 48]).unwrap();
    assert!(sealed.ciphertext.starts_with(b"age-encryption.org/v1\n"), "age's binary format");
    assert_eq!(identity().open("test", &sealed, 48).unwrap(), [7; 48]);
    assert!(identity().open("test", &sealed, 47).is_err(), "the length is part of what is expected");
    assert!(other_identity().open("test", &sealed, 48).is_err());
    let named = HsmSealed { mechanism: 1, ..sealed.clone() };
    assert!(identity().open("test", &named, 48).is_err());
    for position in 0..sealed.ciphertext.len() {
        let mut changed = sealed.clone();
        changed.ciphertext[position] ^= 1;
        // age leaves room for stanzas that mean nothing, but authenticates them too.
        assert!(identity().open("test", &changed, 48).is_err(), "byte {position}");
    }
}

#[test]
fn equal_plaintexts_are_sealed_differently() {
    let recipient = RecoveryRecipient::parse(RECIPIENT).unwrap();
    assert_ne!(seal("test", &recipient, b"x"), seal("test", &recipient, b"x"));
}

#[test]
fn recipients_have_one_spelling_and_identities_are_never_printed() {
    let upper = RECIPIENT.to_uppercase();

    for text in ["", "age1", upper.as_str(), IDENTITY, &RECIPIENT[..61], "ssh-ed25519 AAAA"] {
        assert_eq!(RecoveryRecipient::parse(text).map(|_| ()), Err(RecoveryError::Recipient), "{text}");
    }
    let refused = RecoveryIdentity::parse(&SecretBytes::copy_from(RECIPIENT.as_bytes()));
    assert_eq!(refused.map(|_| ()), Err(RecoveryError::Identity));
    assert!(!format!("{:?}", identity()).contains("AGE-SECRET"));
}

#[test]
fn a_way_is_named_by_its_recipient() {
    let recipient = RecoveryRecipient::parse(RECIPIENT).unwrap();
    assert_eq!(recipient.name().len(), NAME_PREFIX.len() + 16);
    assert!(recipient.name().starts_with(NAME_PREFIX));
}
