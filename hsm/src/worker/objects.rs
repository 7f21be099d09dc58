//! Keys on the token: names, templates, flags. Invariant: every flag is set explicitly and read back, since a token
//! allows what a template leaves out; a search that does not find exactly one key is an error, since labels need not be
//! unique. Absent: any attribute that would let a key leave the token.

use std::collections::BTreeSet;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;
use data_encoding::HEXLOWER;
use keystead_crypto::ports::{HsmError, HsmKey, HsmKeyPurpose};

use super::fault::Fault;

const AES_256_BYTES: Ulong = Ulong::new(32);
/// The OID 1.3.101.112 (id-Ed25519) in DER.
const ED25519_OID: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

/// The anchor's label.
pub(super) fn anchor_label(vault_tag: [u8; 8]) -> String {
    format!("keystead/{}/anchor", HEXLOWER.encode(&vault_tag))
}

/// Label and id, which is derived from it.
fn names(vault_tag: [u8; 8], key: HsmKey) -> [Attribute; 2] {
    [Attribute::Label(key.label(vault_tag).into_bytes()), Attribute::Id(key.id(vault_tag).to_vec())]
}

/// The keys of a vault that are there, by their labels.
pub(super) fn list(session: &Session, vault_tag: [u8; 8]) -> Result<Vec<HsmKey>, Fault> {
    let mut keys = BTreeSet::new();
    for (class, signs) in [(ObjectClass::SECRET_KEY, false), (ObjectClass::PRIVATE_KEY, true)] {
        for handle in session.find_objects(&[Attribute::Class(class), Attribute::Token(true)])? {
            let found = session.get_attributes(handle, &[AttributeType::Label])?;
            let key = found.iter().find_map(|attribute| match attribute {
                Attribute::Label(label) => HsmKey::from_label(vault_tag, std::str::from_utf8(label).ok()?),
                _ => None,
            });
            keys.extend(key.filter(|key| (key.purpose == HsmKeyPurpose::Audit) == signs));
        }
    }
    Ok(keys.into_iter().collect())
}

/// Makes a key and reads its flags back; one that is not as asked for is destroyed again.
pub(super) fn create(session: &Session, vault_tag: [u8; 8], key: HsmKey) -> Result<(), Fault> {
    let label = key.label(vault_tag);
    if !all(session, vault_tag, key)?.is_empty() {
        return Err(HsmError::Misconfigured { what: format!("the token has a key {label} already") }.into());
    }
    let names = names(vault_tag, key);
    let made = if key.purpose == HsmKeyPurpose::Audit {
        let mut public = public_flags();
        public.push(Attribute::EcParams(ED25519_OID.to_vec()));
        public.extend(names.clone());
        let mut private = private_flags();
        private.extend(names);
        let (public, private) =
            session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &public, &private)?;
        vec![public, private]
    } else {
        let mut template = cipher_flags(true);
        template.extend(names);
        vec![session.generate_key(&Mechanism::AesKeyGen, &template)?]
    };
    let checked = match key.purpose {
        HsmKeyPurpose::Audit => find_pair(session, vault_tag, key).map(|_| ()),
        HsmKeyPurpose::Master | HsmKeyPurpose::Epoch | HsmKeyPurpose::Auto => {
            find_cipher(session, vault_tag, key).map(|_| ())
        }
    };
    if checked.is_err() {
        for handle in made {
            session.destroy_object(handle)?;
        }
    }
    checked
}

/// Destroys every object by this name, and makes sure.
pub(super) fn destroy(session: &Session, vault_tag: [u8; 8], key: HsmKey) -> Result<(), Fault> {
    for handle in all(session, vault_tag, key)? {
        session.destroy_object(handle)?;
    }
    match all(session, vault_tag, key)?.len() {
        0 => Ok(()),
        left => {
            let what = format!("{left} objects of a destroyed key are there");
            Err(HsmError::Lied { what }.into())
        }
    }
}

/// A wrapping key by name, with its flags checked.
pub(super) fn find_cipher(session: &Session, vault_tag: [u8; 8], key: HsmKey) -> Result<ObjectHandle, Fault> {
    let mut flags = cipher_flags(true);
    flags.extend(born_inside());
    find(session, vault_tag, key, ObjectClass::SECRET_KEY, flags)
}

/// A signing pair by name, private half first, with its flags checked.
pub(super) fn find_pair(
    session: &Session,
    vault_tag: [u8; 8],
    key: HsmKey,
) -> Result<(ObjectHandle, ObjectHandle), Fault> {
    let mut flags = private_flags();
    flags.extend(born_inside());
    let private = find(session, vault_tag, key, ObjectClass::PRIVATE_KEY, flags)?;
    let public = find(session, vault_tag, key, ObjectClass::PUBLIC_KEY, public_flags())?;
    Ok((private, public))
}

/// A wrapping key that ends with its session.
pub(super) fn session_key(session: &Session) -> Result<ObjectHandle, Fault> {
    Ok(session.generate_key(&Mechanism::AesKeyGen, &cipher_flags(false))?)
}

fn find(
    session: &Session,
    vault_tag: [u8; 8],
    key: HsmKey,
    class: ObjectClass,
    flags: Vec<Attribute>,
) -> Result<ObjectHandle, Fault> {
    let mut search = vec![Attribute::Class(class), Attribute::Token(true)];
    search.extend(names(vault_tag, key));
    let found = session.find_objects(&search)?;
    let [handle] = found.as_slice() else {
        let what = format!("key {} ({class})", key.label(vault_tag));
        return Err(HsmError::NotUnique { what, found: found.len() }.into());
    };
    check(session, *handle, &key.label(vault_tag), &flags)?;
    Ok(*handle)
}

fn check(session: &Session, handle: ObjectHandle, label: &str, wanted: &[Attribute]) -> Result<(), Fault> {
    let types: Vec<AttributeType> = wanted.iter().map(Attribute::attribute_type).collect();
    let found = session.get_attributes(handle, &types)?;
    match wanted.iter().find(|attribute| !found.contains(attribute)) {
        None => Ok(()),
        Some(lacking) => {
            let what = format!("the key {label} is not {lacking:?}");
            Err(HsmError::Misconfigured { what }.into())
        }
    }
}

/// Every object by a key's label, whatever its class or id.
fn all(session: &Session, vault_tag: [u8; 8], key: HsmKey) -> Result<Vec<ObjectHandle>, Fault> {
    let label = Attribute::Label(key.label(vault_tag).into_bytes());
    Ok(session.find_objects(&[Attribute::Token(true), label])?)
}

fn cipher_flags(on_token: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::ValueLen(AES_256_BYTES),
        Attribute::Token(on_token),
        Attribute::Private(true),
        Attribute::Modifiable(false),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

fn private_flags() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(KeyType::EC_EDWARDS),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Modifiable(false),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::SignRecover(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

fn public_flags() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(KeyType::EC_EDWARDS),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Modifiable(false),
        Attribute::Verify(true),
        Attribute::VerifyRecover(false),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::Derive(false),
    ]
}

/// What the token itself says of a key that it made and that never could leave.
fn born_inside() -> [Attribute; 3] {
    [Attribute::Local(true), Attribute::AlwaysSensitive(true), Attribute::NeverExtractable(true)]
}
