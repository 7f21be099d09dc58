//! A share's text: one spelling, and a reason for each way in which it can be wrong.

use proptest::prelude::*;

use super::*;

fn share(number: u8, threshold: u8, y: [u8; 32]) -> Share {
    Share {
        vault: [0xab; 16],
        epoch: 7,
        number,
        threshold,
        audit_fingerprint: [0xcd; 8],
        y: SecretKey::from_slice(&y).unwrap(),
    }
}

fn text(share: &Share) -> String {
    String::from_utf8(share.to_text().expose().to_vec()).unwrap()
}

fn refused(text: &str) -> ShareError {
    Share::parse(text.as_bytes()).unwrap_err()
}

/// The text of a body with a right checksum, whatever the body says.
fn forged(body: &[u8; BODY_BYTES]) -> String {
    let mut characters = Vec::new();
    base32::encode(&[body.as_slice(), &checksum(body)].concat(), &mut characters);
    let groups: Vec<_> = characters.chunks(GROUP).map(|group| std::str::from_utf8(group).unwrap()).collect();
    format!("ks1-share-{}", groups.join("-"))
}

#[test]
fn a_text_is_one_line_of_135_characters_that_starts_with_its_kind() {
    let text = text(&share(1, 3, [9; 32]));
    assert_eq!(text.len(), 135);
    assert!(text.starts_with("ks1-share-"));
    assert!(text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'));
}

#[test]
fn each_way_of_being_wrong_has_its_own_reason() {
    let good = text(&share(1, 3, [9; 32]));
    assert_eq!(refused(""), ShareError::NotAShare);
    assert_eq!(refused("hunter2"), ShareError::NotAShare);
    assert_eq!(refused(&good.to_uppercase()), ShareError::BadCharacter { position: 1 });
    assert_eq!(refused(&good.replace("share", "Share")), ShareError::BadCharacter { position: 5 });
    assert!(refused(&good.to_uppercase()).to_string().contains("lower case"));
    assert_eq!(refused("KS1-OTHER-"), ShareError::NotAShare);
    assert_eq!(refused(&format!(" {good}")), ShareError::NotAShare);
    assert_eq!(refused(&good.replace("ks1", "ks2")), ShareError::NotAShare);
    assert_eq!(refused(&good[..134]), ShareError::Truncated { found: 134, expected: 135 });
    assert_eq!(refused("ks1-share-"), ShareError::Truncated { found: 10, expected: 135 });
    assert_eq!(refused(&format!("{good}\n")), ShareError::TooLong { found: 136, expected: 135 });

    let mut typed: Vec<u8> = good.clone().into_bytes();
    typed[11] = b'l';
    let typed = String::from_utf8(typed).unwrap();
    assert_eq!(refused(&typed), ShareError::BadCharacter { position: 12 });
    let mut ungrouped: Vec<u8> = good.clone().into_bytes();
    ungrouped.swap(18, 19);
    let ungrouped = String::from_utf8(ungrouped).unwrap();
    assert_eq!(refused(&ungrouped), ShareError::BadCharacter { position: 19 });
    let last = if good.ends_with('0') { "1" } else { "0" };
    assert_eq!(refused(&format!("{}{last}", &good[..134])), ShareError::Typo);
}

#[test]
fn a_body_that_is_never_written_is_refused_though_its_checksum_fits() {
    let body = |scheme: u8, number: u8, threshold: u8| {
        let mut body = [0x11; BODY_BYTES];
        body[0] = scheme;
        body[21] = number;
        body[22] = threshold;
        forged(&body)
    };
    assert!(Share::parse(body(1, 1, 2).as_bytes()).is_ok());
    assert_eq!(refused(&body(2, 1, 2)), ShareError::UnknownScheme { scheme: 2 });
    assert_eq!(refused(&body(1, 0, 2)), ShareError::ZeroNumber);
    assert_eq!(refused(&body(1, 1, 1)), ShareError::BadThreshold { threshold: 1 });
}

#[test]
fn exchanging_two_neighbouring_groups_or_characters_is_a_typing_error() {
    let y: [u8; 32] = std::array::from_fn(|n| u8::try_from(n * 7 % 251).unwrap());
    let good = text(&share(1, 3, y));
    let groups: Vec<_> = good["ks1-share-".len()..].split('-').collect();
    for n in 0..GROUPS - 1 {
        let mut swapped = groups.clone();
        swapped.swap(n, n + 1);
        if swapped[n] != swapped[n + 1] {
            assert_eq!(refused(&format!("ks1-share-{}", swapped.join("-"))), ShareError::Typo);
        }
    }
    let bytes = good.as_bytes();
    for n in 10..bytes.len() - 1 {
        let mut swapped = bytes.to_vec();
        swapped.swap(n, n + 1);
        if swapped != bytes {
            assert!(Share::parse(&swapped).is_err());
        }
    }
}

#[test]
fn nothing_of_a_share_is_printed_by_debug_or_errors() {
    let share = share(1, 3, [0xee; 32]);
    assert_eq!(format!("{share:?}"), "Share { epoch: 7, number: 1, threshold: 3, .. }");
}

proptest! {
    #[test]
    fn parse_after_print_is_the_share(
        vault: [u8; 16], epoch: u32, number in 1u8.., threshold in 2u8.., audit_fingerprint: [u8; 8], y: [u8; 32],
    ) {
        let share = Share { vault, epoch, number, threshold, audit_fingerprint, y: SecretKey::from_slice(&y).unwrap() };
        let again = Share::parse(share.to_text().expose()).unwrap();
        prop_assert_eq!(again.y.expose(), share.y.expose());
        prop_assert_eq!(
            (again.vault, again.epoch, again.number, again.threshold, again.audit_fingerprint),
            (vault, epoch, number, threshold, audit_fingerprint)
        );
    }

    #[test]
    fn changing_any_character_is_refused(y: [u8; 32], position in 0usize..135, replacement in any::<u8>()) {
        let good = text(&share(5, 3, y));
        let mut changed = good.clone().into_bytes();
        prop_assume!(changed[position] != replacement);
        changed[position] = replacement;
        prop_assert!(Share::parse(&changed).is_err());
    }

    #[test]
    fn arbitrary_text_never_panics(text in "(ks1-share-)?[0-9a-z-]{0,140}") {
        if let Ok(share) = Share::parse(text.as_bytes()) {
            let again = share.to_text();
            prop_assert_eq!(again.expose(), text.as_bytes());
        }
    }
}
