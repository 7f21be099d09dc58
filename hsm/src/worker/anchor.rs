//! One small value in the token, under a counter that only grows. Tokens cannot change a data object's value, so a new
//! object is made before the old one is destroyed. Invariant: at every instant the token holds the old or the new
//! value whole. Absent: proof against copying a token that is files; only real hardware resists that.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use keystead_crypto::ports::HsmError;
use sha2::{Digest, Sha256};

use super::fault::Fault;
use super::objects::anchor_label;
use super::token::{Token, lock};
use crate::protocol::MAX_ANCHOR;

const APPLICATION: &[u8] = b"keystead";
const MAGIC: &[u8; 4] = b"KSAN";
const FORMAT: u8 = 1;
/// Bytes of the checksum: against torn writes, not against people.
const CHECKSUM: usize = 8;

/// Stores a value under a higher counter. The same value under the same counter is success: an answer may get lost.
pub(super) fn store(session: &Session, token: &Token, counter: u64, value: &[u8]) -> Result<(), Fault> {
    if value.len() > MAX_ANCHOR {
        let what = format!("an anchor of {} bytes; at most {MAX_ANCHOR}", value.len());
        return Err(HsmError::Unsupported { what }.into());
    }
    let vault_tag = token.vault_tag()?;
    let _alone = lock(&token.anchor_store);
    let kept = match highest(session, vault_tag)? {
        Some(found) if found.counter == counter && found.value == value => found.handle,
        Some(found) if found.counter >= counter => {
            let what = format!("anchor counter {counter} after {}; it only grows", found.counter);
            return Err(HsmError::Unsupported { what }.into());
        }
        _ => create(session, vault_tag, counter, value)?,
    };
    for handle in session.find_objects(&search(vault_tag))? {
        if handle != kept {
            session.destroy_object(handle)?;
        }
    }
    Ok(())
}

/// The value with the highest counter. A broken one beside it may be what a crash left.
pub(super) fn load(session: &Session, vault_tag: [u8; 8]) -> Result<Option<(u64, Vec<u8>)>, Fault> {
    Ok(highest(session, vault_tag)?.map(|found| (found.counter, found.value)))
}

struct Found {
    handle: ObjectHandle,
    counter: u64,
    value: Vec<u8>,
}

fn highest(session: &Session, vault_tag: [u8; 8]) -> Result<Option<Found>, Fault> {
    let mut highest: Option<Found> = None;
    let mut broken = false;
    for handle in session.find_objects(&search(vault_tag))? {
        let Some((counter, value)) = read(session, handle)? else {
            broken = true;
            continue;
        };
        match &highest {
            Some(other) if other.counter > counter => {}
            Some(other) if other.counter == counter && other.value != value => {
                let what = format!("anchor with counter {counter}");
                return Err(HsmError::NotUnique { what, found: 2 }.into());
            }
            _ => highest = Some(Found { handle, counter, value }),
        }
    }
    if broken && highest.is_none() {
        return Err(HsmError::Lied { what: "the anchor on the token is malformed".to_owned() }.into());
    }
    Ok(highest)
}

fn create(session: &Session, vault_tag: [u8; 8], counter: u64, value: &[u8]) -> Result<ObjectHandle, Fault> {
    let mut template = search(vault_tag);
    template.push(Attribute::Private(true));
    template.push(Attribute::Modifiable(false));
    template.push(Attribute::Value(encode(counter, value)));
    let handle = session.create_object(&template)?;
    if read(session, handle)? == Some((counter, value.to_vec())) {
        return Ok(handle);
    }
    session.destroy_object(handle)?;
    Err(HsmError::Lied { what: "an anchor does not read back".to_owned() }.into())
}

fn read(session: &Session, handle: ObjectHandle) -> Result<Option<(u64, Vec<u8>)>, Fault> {
    let found = session.get_attributes(handle, &[AttributeType::Value])?;
    Ok(found.into_iter().find_map(|attribute| match attribute {
        Attribute::Value(bytes) => decode(&bytes),
        _ => None,
    }))
}

fn search(vault_tag: [u8; 8]) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Application(APPLICATION.to_vec()),
        Attribute::Label(anchor_label(vault_tag).into_bytes()),
    ]
}

fn encode(counter: u64, value: &[u8]) -> Vec<u8> {
    let body = [MAGIC.as_slice(), &[FORMAT], &counter.to_be_bytes(), value].concat();
    let checksum = checksum(&body);
    [body.as_slice(), &checksum].concat()
}

fn decode(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let (body, sum) = bytes.split_last_chunk::<CHECKSUM>()?;
    if *sum != checksum(body) {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?.strip_prefix(&[FORMAT])?;
    let (counter, value) = rest.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*counter), value.to_vec()))
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM] {
    let digest: [u8; 32] = Sha256::digest(body).into();
    let mut sum = [0; CHECKSUM];
    sum.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_reads_back_and_a_torn_one_does_not() {
        let whole = encode(7, b"head");
        assert_eq!(decode(&whole), Some((7, b"head".to_vec())));
        assert_eq!(decode(&encode(0, b"")), Some((0, Vec::new())));
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut]), None);
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert_eq!(decode(&flipped), None);
        }
    }
}
