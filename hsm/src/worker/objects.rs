//! Keys on the token: names, templates, flags. Invariant: every flag is set explicitly and read back, since a token
//! allows what a template leaves out; a search that does not find exactly one key is an error, since labels need not be
//! unique. Absent: any attribute that would let a key leave the token.

use std::collections::BTreeSet;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::types::Ulong;
use data_encoding::HEXLOWER;
use keystead_crypto::ports::{HsmError, HsmKey, HsmKeyPurpose, SignatureAlgorithm};

use super::cipher::{CipherKey, Rung};
use super::fault::Fault;
use super::sign::Pair;

const KEY_BYTES: Ulong = Ulong::new(32);
/// The OID 1.3.101.112 (id-Ed25519) in DER.
const ED25519_OID: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

/// The anchor's label.
pub(super) fn anchor_label(vault_tag: [u8; 8]) -> String {
    format!("keystead/{}/anchor", HEXLOWER.encode(&vault_tag))
}

/// The OID 1.2.840.10045.3.1.7 (prime256v1) in DER.
const P256_OID: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// How keys are made on this token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ways {
    pub(super) rung: Rung,
    pub(super) signature: SignatureAlgorithm,
}

/// One key object by its name.
struct Name {
    label: String,
    id: [u8; 16],
}

impl Name {
    fn of(vault_tag: [u8; 8], key: HsmKey) -> Self {
        Self { label: key.label(vault_tag), id: key.id(vault_tag) }
    }

    /// Of the MAC key that goes with an AES key.
    fn of_mac(vault_tag: [u8; 8], key: HsmKey) -> Self {
        Self { label: key.mac_label(vault_tag), id: key.mac_id(vault_tag) }
    }

    fn attributes(&self) -> [Attribute; 2] {
        [Attribute::Label(self.label.clone().into_bytes()), Attribute::Id(self.id.to_vec())]
    }
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
pub(super) fn create(session: &Session, vault_tag: [u8; 8], key: HsmKey, ways: Ways) -> Result<(), Fault> {
    let label = key.label(vault_tag);
    if !all(session, vault_tag, key)?.is_empty() {
        let what = format!("the token has a key {label} already; take another vault, or destroy that key");
        return Err(HsmError::Misconfigured { what }.into());
    }
    let made = make(session, vault_tag, key, ways);
    if made.is_err() {
        // The first failure says more than one of tidying up.
        for handle in all(session, vault_tag, key)? {
            session.destroy_object(handle)?;
        }
    }
    made
}

fn make(session: &Session, vault_tag: [u8; 8], key: HsmKey, ways: Ways) -> Result<(), Fault> {
    let name = Name::of(vault_tag, key);
    if key.purpose == HsmKeyPurpose::Audit {
        generate_pair(session, ways.signature, true, &name.attributes())?;
        return find_pair(session, vault_tag, key).map(drop);
    }
    let with_mac = ways.rung == Rung::CbcHmac;
    let mut template = cipher_flags(true);
    template.extend(name.attributes());
    session.generate_key(&Mechanism::AesKeyGen, &template)?;
    if with_mac {
        let mut template = mac_flags(true);
        template.extend(Name::of_mac(vault_tag, key).attributes());
        session.generate_key(&Mechanism::GenericSecretKeyGen, &template)?;
    }
    let found = find_cipher(session, vault_tag, key)?;
    if found.mac.is_some() == with_mac {
        Ok(())
    } else {
        Err(HsmError::Lied { what: format!("the MAC key of {} is not there", name.label) }.into())
    }
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

/// A wrapping key by name, with the MAC key that it may have. The flags of both are checked.
pub(super) fn find_cipher(session: &Session, vault_tag: [u8; 8], key: HsmKey) -> Result<CipherKey, Fault> {
    let aes = find(session, &Name::of(vault_tag, key), ObjectClass::SECRET_KEY, &stored(cipher_flags(true)))?;
    let name = Name::of_mac(vault_tag, key);
    let mac = match by_label(session, &name.label)?.is_empty() {
        true => None,
        false => Some(find(session, &name, ObjectClass::SECRET_KEY, &stored(mac_flags(true)))?),
    };
    Ok(CipherKey { aes, mac })
}

/// A signing pair by name, with its flags checked. The private half says by which algorithm.
pub(super) fn find_pair(session: &Session, vault_tag: [u8; 8], key: HsmKey) -> Result<Pair, Fault> {
    let name = Name::of(vault_tag, key);
    let private = one(session, &name, ObjectClass::PRIVATE_KEY)?;
    let kind = session.get_attributes(private, &[AttributeType::KeyType])?;
    let algorithm = match kind.as_slice() {
        [Attribute::KeyType(KeyType::EC)] => SignatureAlgorithm::EcdsaP256,
        _ => SignatureAlgorithm::Ed25519,
    };
    check(session, private, &name.label, &stored(private_flags(algorithm, true)))?;
    let mut public_flags = public_flags(algorithm, true);
    if algorithm == SignatureAlgorithm::EcdsaP256 {
        // Other curves have points of the same length. Of Ed25519 there are two spellings, and one length of points.
        public_flags.push(curve(algorithm));
    }
    let public = find(session, &name, ObjectClass::PUBLIC_KEY, &public_flags)?;
    Ok(Pair { private, public, algorithm })
}

/// A wrapping key that ends with its session, with a MAC key where the rung needs one.
pub(super) fn session_key(session: &Session, rung: Rung) -> Result<CipherKey, Fault> {
    let aes = session.generate_key(&Mechanism::AesKeyGen, &cipher_flags(false))?;
    let mac = match rung {
        Rung::CbcHmac => Some(session.generate_key(&Mechanism::GenericSecretKeyGen, &mac_flags(false))?),
        Rung::GcmHostIv | Rung::GcmHsmIv(_) | Rung::GcmAppendedIv => None,
    };
    Ok(CipherKey { aes, mac })
}

/// A signing pair that ends with its session.
pub(super) fn session_pair(session: &Session, algorithm: SignatureAlgorithm) -> Result<Pair, Fault> {
    generate_pair(session, algorithm, false, &[])
}

fn generate_pair(
    session: &Session,
    algorithm: SignatureAlgorithm,
    on_token: bool,
    names: &[Attribute],
) -> Result<Pair, Fault> {
    let mut public = public_flags(algorithm, on_token);
    public.push(curve(algorithm));
    public.extend_from_slice(names);
    let mut private = private_flags(algorithm, on_token);
    private.extend_from_slice(names);
    let mechanism = match algorithm {
        SignatureAlgorithm::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
        SignatureAlgorithm::EcdsaP256 => Mechanism::EccKeyPairGen,
    };
    let (public, private) = session.generate_key_pair(&mechanism, &public, &private)?;
    Ok(Pair { private, public, algorithm })
}

fn find(
    session: &Session,
    name: &Name,
    class: ObjectClass,
    flags: &[Attribute],
) -> Result<ObjectHandle, Fault> {
    let handle = one(session, name, class)?;
    check(session, handle, &name.label, flags)?;
    Ok(handle)
}

/// The one object of a name and class.
fn one(session: &Session, name: &Name, class: ObjectClass) -> Result<ObjectHandle, Fault> {
    let mut search = vec![Attribute::Class(class), Attribute::Token(true)];
    search.extend(name.attributes());
    let found = session.find_objects(&search)?;
    let [handle] = found.as_slice() else {
        let what = format!("key {} ({class})", name.label);
        return Err(HsmError::NotUnique { what, found: found.len() }.into());
    };
    Ok(*handle)
}

fn check(session: &Session, handle: ObjectHandle, label: &str, wanted: &[Attribute]) -> Result<(), Fault> {
    let types: Vec<AttributeType> = wanted.iter().map(Attribute::attribute_type).collect();
    let found = session.get_attributes(handle, &types)?;
    let lacking: Vec<String> = wanted
        .iter()
        .filter(|attribute| !found.contains(attribute))
        .map(|attribute| format!("{attribute:?}"))
        .collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let what = format!("the key {label} must have {} and has not; make another", lacking.join(", "));
    Err(HsmError::Misconfigured { what }.into())
}

/// Every object by a key's label or that of its MAC key, whatever its class or id.
fn all(session: &Session, vault_tag: [u8; 8], key: HsmKey) -> Result<Vec<ObjectHandle>, Fault> {
    let mut found = by_label(session, &key.label(vault_tag))?;
    found.extend(by_label(session, &key.mac_label(vault_tag))?);
    Ok(found)
}

fn by_label(session: &Session, label: &str) -> Result<Vec<ObjectHandle>, Fault> {
    let label = Attribute::Label(label.as_bytes().to_vec());
    Ok(session.find_objects(&[Attribute::Token(true), label])?)
}

/// The flags of a key that lies on the token, with what the token itself says of one that it made and that never could
/// leave.
fn stored(mut flags: Vec<Attribute>) -> Vec<Attribute> {
    flags.extend([
        Attribute::Local(true),
        Attribute::AlwaysSensitive(true),
        Attribute::NeverExtractable(true),
    ]);
    flags
}

fn cipher_flags(on_token: bool) -> Vec<Attribute> {
    secret_flags(KeyType::AES, on_token, true)
}

fn mac_flags(on_token: bool) -> Vec<Attribute> {
    secret_flags(KeyType::GENERIC_SECRET, on_token, false)
}

/// Of a key that either encrypts and decrypts, or signs.
fn secret_flags(kind: KeyType, on_token: bool, encrypts: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(kind),
        Attribute::ValueLen(KEY_BYTES),
        Attribute::Token(on_token),
        Attribute::Private(true),
        Attribute::Modifiable(false),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Encrypt(encrypts),
        Attribute::Decrypt(encrypts),
        Attribute::Sign(!encrypts),
        Attribute::Verify(false),
        Attribute::Wrap(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

fn key_type(algorithm: SignatureAlgorithm) -> KeyType {
    match algorithm {
        SignatureAlgorithm::Ed25519 => KeyType::EC_EDWARDS,
        SignatureAlgorithm::EcdsaP256 => KeyType::EC,
    }
}

fn curve(algorithm: SignatureAlgorithm) -> Attribute {
    let oid = match algorithm {
        SignatureAlgorithm::Ed25519 => ED25519_OID,
        SignatureAlgorithm::EcdsaP256 => P256_OID,
    };
    Attribute::EcParams(oid.to_vec())
}

fn private_flags(algorithm: SignatureAlgorithm, on_token: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::KeyType(key_type(algorithm)),
        Attribute::Token(on_token),
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

fn public_flags(algorithm: SignatureAlgorithm, on_token: bool) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(key_type(algorithm)),
        Attribute::Token(on_token),
        Attribute::Private(false),
        Attribute::Modifiable(false),
        Attribute::Verify(true),
        Attribute::VerifyRecover(false),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::Derive(false),
    ]
}
