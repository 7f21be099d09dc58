//! From a quorum of shares to an open vault. Each key is checked before it is used; nothing stays when a step fails.

use std::collections::HashMap;
use std::sync::Arc;

use keystead_crypto::aad::label;
use keystead_crypto::arena::LockedKey;
use keystead_crypto::auto_seal::{self, AutoPlace, AutoSeal};
use keystead_crypto::codec::Reader;
use keystead_crypto::envelope::Q;
use keystead_crypto::mac::LookupKey;
use keystead_crypto::names::NameKey;
use keystead_crypto::ports::{Hsm, HsmError, HsmKey, HsmKeyPurpose};
use keystead_crypto::record::{self, SystemKey};
use keystead_crypto::seal_record::{SealHeader, SealRecord, TokenWay, Way, WayBoxes};
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::shamir;
use keystead_crypto::share::Share;
use keystead_crypto::unseal_key::UnsealKey;
use keystead_domain::id::RecordId;
use keystead_storage::{Keyspace, Range, Storage, keyspace};

use super::{TrustedSeal, broken, crypto_error, keys_of, pin, vault_id};
use crate::audit_trail::sealer::{AuditSealer, day_of};
use crate::error::VaultError;
use crate::keys::{Keys, corrupt};
use crate::policies;
use crate::unsealed::upkeep::day_key;
use crate::unsealed::{Parts, UnsealedVault};
use crate::vault::Vault;

/// System data keys of a vault at most: one a month for eighty years.
const SYSTEM_KEYS: usize = 1000;

/// Opens the vault with a quorum, or logs out of the HSM again.
pub(super) async fn open(
    vault: &Vault,
    seal: &TrustedSeal,
    shares: &[Share],
) -> Result<UnsealedVault, VaultError> {
    all_or_nothing(vault, try_open(vault, seal, shares).await).await
}

/// Opens the vault with the tokens alone, or logs out of the HSM again.
pub(super) async fn open_by_itself(
    vault: &Vault,
    seal: &TrustedSeal,
    auto: &AutoSeal,
    pin: SecretBytes,
) -> Result<UnsealedVault, VaultError> {
    all_or_nothing(vault, try_open_by_itself(vault, seal, auto, pin).await).await
}

async fn all_or_nothing(
    vault: &Vault,
    opened: Result<UnsealedVault, VaultError>,
) -> Result<UnsealedVault, VaultError> {
    if opened.is_err() {
        vault.opener.clear();
        vault.parts.hsm.logout().await;
    }
    opened
}

async fn try_open_by_itself(
    vault: &Vault,
    seal: &TrustedSeal,
    auto: &AutoSeal,
    pin: SecretBytes,
) -> Result<UnsealedVault, VaultError> {
    let (hsm, header) = (vault.parts.hsm.as_ref(), &seal.header);
    let way = find_way(hsm, &seal.record, header).await?;
    let serial = &way.token.serial;
    let boxes = auto.boxes.iter().find(|boxes| boxes.token == *serial);
    let sealed = boxes.and_then(|boxes| boxes.q.iter().find(|q| q.version == header.q_version));
    let sealed = sealed.ok_or_else(|| broken("it does not let this token open it by itself"))?;
    hsm.login(pin).await?;
    let auto_key = HsmKey { purpose: HsmKeyPurpose::Auto, version: auto.version };
    bind(hsm, header, &way, &[auto_key]).await?;
    let place = AutoPlace { vault: header.vault, version: auto.version, token: serial };
    let q = auto_seal::open(hsm, place, sealed.version, &sealed.sealed).await.map_err(crypto_error)?;
    load(vault, header, &way, q).await
}

async fn try_open(vault: &Vault, seal: &TrustedSeal, shares: &[Share]) -> Result<UnsealedVault, VaultError> {
    let TrustedSeal { record, header, .. } = seal;
    let hsm = vault.parts.hsm.as_ref();
    let unseal_key = shamir::combine(shares)?;
    let way = find_way(hsm, record, header).await?;
    let pin_box = log_in(hsm, &unseal_key, header, &way).await?;
    bind(hsm, header, &way, &[]).await?;
    let place = header.box_place(&way.token.serial);
    let q_box = way.boxes.q_box(header.q_version).ok_or_else(|| broken("it has no box of Q"))?;
    let q = unseal_key.unbox_q(hsm, place, header.q_version, q_box).await.map_err(crypto_error)?;
    drop(unseal_key);
    let opened = load(vault, header, &way, q).await?;
    if way.boxes.pins.len() > 1 {
        pin::settle(&opened, seal, &way.token.serial, pin_box).await?;
    }
    Ok(opened)
}

/// All that an open vault has, once the token is bound and Q is there.
async fn load(
    vault: &Vault,
    header: &SealHeader,
    way: &OpenWay<'_>,
    q: Q,
) -> Result<UnsealedVault, VaultError> {
    let id = vault_id(header);
    vault.parts.audit.bind_origin(&format!("{id}/{}", vault.parts.options.node))?;
    let storage = vault.parts.storage.as_ref();
    let mut keys = Keys {
        vault: id,
        hsm: Arc::clone(&vault.parts.hsm),
        token: way.token.serial.clone(),
        master_version: way.token.master,
        q,
        systems: HashMap::new(),
        current_system: [0; 16],
        names: NameKey::new(0, LockedKey::from_slice(&[0; 32]).ok_or(VaultError::Randomness)?),
        lookup: LookupKey::new(0, LockedKey::from_slice(&[0; 32]).ok_or(VaultError::Randomness)?),
        inner_blobs: Keys::inner_blob_cache(),
    };
    load_system_keys(&mut keys, storage).await?;
    load_keyring(&mut keys, storage).await?;
    let policies = policies::load_all(&keys, storage).await?;
    let today = day_of(vault.parts.clock.now());
    let audit_key = day_key(&keys, storage, today, true).await?;
    let sealer = AuditSealer::start(today, &audit_key);
    vault.opener.add(today, audit_key);
    Ok(UnsealedVault::new(Parts {
        keys,
        storage: Arc::clone(&vault.parts.storage),
        audit: Arc::clone(&vault.parts.audit),
        clock: Arc::clone(&vault.parts.clock),
        read_durability: vault.parts.options.read_durability,
        policies,
        opener: Arc::clone(&vault.opener),
        sealer,
    }))
}

/// A token of the seal record, with its boxes.
pub(super) struct OpenWay<'a> {
    pub(super) token: &'a TokenWay,
    pub(super) boxes: &'a WayBoxes,
}

/// The way that goes through this token. Asked before a PIN is sent: a PIN belongs to one token.
async fn find_way<'a>(
    hsm: &dyn Hsm,
    record: &'a SealRecord,
    header: &'a SealHeader,
) -> Result<OpenWay<'a>, VaultError> {
    let found = hsm.probe().await?.serial;
    let ways = header.ways.iter().zip(&record.boxes);
    let mut tokens = ways.filter_map(|(way, boxes)| way.token().map(|token| OpenWay { token, boxes }));
    tokens.find(|way| way.token.serial == found).ok_or_else(|| VaultError::OtherToken {
        expected: header.ways.iter().filter_map(Way::token).map(|token| token.serial.clone()).collect(),
        found,
    })
}

/// Logs in with the PIN that the shares open, and says which box had it: while a PIN is being changed there are two, and
/// the token takes one.
async fn log_in<'a>(
    hsm: &dyn Hsm,
    unseal_key: &UnsealKey,
    header: &SealHeader,
    way: &OpenWay<'a>,
) -> Result<&'a [u8], VaultError> {
    let mut refused = broken("it has no PIN box");
    for pin_box in &way.boxes.pins {
        let pin = unseal_key
            .pin_box_open(header.box_place(&way.token.serial), pin_box)
            .map_err(|_| broken("the shares do not open it"))?;
        match hsm.login(pin).await {
            Ok(token) if token.serial == way.token.serial => return Ok(pin_box),
            Ok(token) => {
                let expected = vec![way.token.serial.clone()];
                return Err(VaultError::OtherToken { expected, found: token.serial });
            }
            Err(HsmError::PinRefused) => refused = HsmError::PinRefused.into(),
            Err(error) => return Err(error.into()),
        }
    }
    Err(refused)
}

/// Binds the keys that the header names, and makes sure that the token has the vault's audit key.
async fn bind(
    hsm: &dyn Hsm,
    header: &SealHeader,
    way: &OpenWay<'_>,
    further: &[HsmKey],
) -> Result<(), VaultError> {
    let mut bound = keys_of(header, way.token);
    bound.extend_from_slice(further);
    hsm.bind(vault_id(header).tag(), &bound).await?;
    if header.audit_key_at(way.token.audit_key) != Some(&hsm.verifying_key().await?) {
        return Err(broken("its audit key is not the token's"));
    }
    Ok(())
}

async fn load_system_keys(keys: &mut Keys, storage: &dyn Storage) -> Result<(), VaultError> {
    let snapshot = storage.snapshot().await?;
    let stored = snapshot.range(Keyspace::SystemKeys, Range::all(None), SYSTEM_KEYS).await?;
    for (at, stored) in stored {
        let failed = || corrupt(Keyspace::SystemKeys, &at);
        let id = <[u8; 16]>::try_from(at.as_ref()).map_err(|_| failed())?;
        let wrapped_at = keyspace::data_key(&id);
        let wrapped = snapshot.get(Keyspace::DataKeys, &wrapped_at).await?.ok_or_else(failed)?;
        let data_key = keys.open_data_key(RecordId(id), &wrapped.value).await?;
        let aad = keys.aad(label::SYSTEM_KEY, Keyspace::SystemKeys, &at, 0);
        let key = record::open_single(&data_key, id, &aad, &stored.value).map_err(|_| failed())?;
        keys.systems.insert(id, SystemKey::new(LockedKey::from_slice(key.expose()).ok_or_else(failed)?));
    }
    Ok(())
}

/// The keyring is sealed under the current system key, and so names it.
async fn load_keyring(keys: &mut Keys, storage: &dyn Storage) -> Result<(), VaultError> {
    let at = keyspace::meta_keyring();
    let failed = || corrupt(Keyspace::Meta, &at);
    let stored = storage.snapshot().await?.get(Keyspace::Meta, &at).await?.ok_or_else(failed)?;
    keys.current_system = record::peek_key_id(&stored.value).map_err(|_| failed())?;
    let plain = keys.open_record(Keyspace::Meta, &at, &stored.value)?;
    let mut reader = Reader::new("keyring", plain.expose());
    let (names, lookup) = read_keyring(&mut reader).ok_or_else(failed)?;
    reader.finish().map_err(|_| failed())?;
    keys.names = names;
    keys.lookup = lookup;
    Ok(())
}

fn read_keyring(reader: &mut Reader<'_>) -> Option<(NameKey, LookupKey)> {
    reader.known("format", &[KEYRING_FORMAT]).ok()?;
    let name_id = reader.u8("name key id").ok()?;
    let names = LockedKey::from_slice(reader.raw("name key", 32).ok()?)?;
    let lookup_id = reader.u8("lookup key id").ok()?;
    let lookup = LockedKey::from_slice(reader.raw("lookup key", 32).ok()?)?;
    Some((NameKey::new(name_id, names), LookupKey::new(lookup_id, lookup)))
}

/// The format of the keyring: 1 ‖ name key id ‖ name key ‖ lookup key id ‖ lookup key.
pub(crate) const KEYRING_FORMAT: u8 = 1;
