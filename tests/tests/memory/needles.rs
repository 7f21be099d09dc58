//! What is looked for. Invariant: any 16 bytes in a row of a value are found, as they are, in hex, in base64 at every
//! alignment, and as a list of numbers; 16 random bytes are not found by chance.

use std::collections::HashMap;

use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXUPPER};

/// The shortest part of a value that is found.
pub(crate) const PART: usize = 16;

const FIRST_BYTES: usize = 1 << 24;

/// Values to look for, by name.
pub(crate) struct Needles {
    parts: HashMap<[u8; PART], String>,
    /// Whether a part begins with these three bytes: what is no part is passed by quickly.
    begins: Vec<bool>,
}

impl Needles {
    /// Nothing to look for yet.
    pub(crate) fn new() -> Self {
        Self { parts: HashMap::new(), begins: vec![false; FIRST_BYTES] }
    }

    /// Looks for a value in all its forms.
    pub(crate) fn add(&mut self, name: &str, value: &[u8]) {
        assert!(value.len() >= PART, "{name} is too short to look for");
        self.add_as_it_is(name, value);
        self.add_as_it_is(&format!("{name} in hex"), HEXLOWER.encode(value).as_bytes());
        self.add_as_it_is(&format!("{name} in HEX"), HEXUPPER.encode(value).as_bytes());
        let list: Vec<String> = value.iter().map(ToString::to_string).collect();
        self.add_as_it_is(&format!("{name} as a list"), list.join(", ").as_bytes());
        for (form, encoding, group) in
            [("base32", BASE32_NOPAD, 5), ("base64", BASE64_NOPAD, 3), ("base64url", BASE64URL_NOPAD, 3)]
        {
            for skipped in 0..group {
                // Without the last group, whose characters depend on what follows.
                let rest = value.get(skipped..).unwrap_or_default();
                let whole = rest.get(..rest.len() - rest.len() % group).unwrap_or_default();
                let text = encoding.encode(whole);
                if text.len() >= PART {
                    self.add_as_it_is(&format!("{name} in {form}"), text.as_bytes());
                }
            }
        }
    }

    /// Looks for a value in this form only.
    pub(crate) fn add_as_it_is(&mut self, name: &str, value: &[u8]) {
        for part in value.windows(PART) {
            *self.begins.get_mut(first_three(part)).unwrap() = true;
            self.parts.insert(part.try_into().unwrap(), name.to_owned());
        }
    }

    /// The values found in these bytes, with the place of the first byte of each part found.
    pub(crate) fn found_in<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = (usize, &'a str)> {
        bytes.windows(PART).enumerate().filter_map(|(at, part)| {
            if !*self.begins.get(first_three(part))? {
                return None;
            }
            Some((at, self.parts.get(part)?.as_str()))
        })
    }
}

fn first_three(part: &[u8]) -> usize {
    match part {
        [a, b, c, ..] => usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c),
        _ => 0,
    }
}

/// Random bytes that are nowhere else.
pub(crate) fn canary(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

#[test]
fn values_are_found_in_all_their_forms_and_in_parts() {
    let value = canary(64);
    let mut needles = Needles::new();
    needles.add("value", &value);
    let found = |bytes: &[u8]| needles.found_in(bytes).next().map(|(at, name)| (at, name.to_owned()));
    assert_eq!(found(&canary(1 << 16)), None);
    let part = value.get(7..7 + PART).unwrap();
    assert_eq!(found(&[b"abc", part].concat()), Some((3, "value".to_owned())));
    assert_eq!(found(part.get(1..).unwrap()), None);
    assert_eq!(found(format!("{value:?}").as_bytes()).unwrap().1, "value as a list");
    for before in 0..5 {
        let text = [&canary(before), &value[..]].concat();
        for form in [HEXLOWER.encode(&text), BASE64_NOPAD.encode(&text), BASE32_NOPAD.encode(&text)] {
            assert!(found(form.as_bytes()).is_some(), "{before} bytes before, in {form}");
        }
    }
}
