//! From a quorum of shares to an open vault. Each key is checked before it is used; nothing stays when a step fails.

use std::collections::HashMap;
use std::sync::Arc;

use keystead_crypto::CryptoError;
use keystead_crypto::aad::label;
use keystead_crypto::arena::LockedKey;
use keystead_crypto::codec::Reader;
use keystead_crypto::mac::LookupKey;
use keystead_crypto::names::NameKey;
use keystead_crypto::ports::{HsmError, HsmKey, HsmKeyPurpose};
use keystead_crypto::record::{self, SystemKey};
use keystead_crypto::seal_record::{SealHeader, SealRecord};
use keystead_crypto::shamir;
use keystead_crypto::share::Share;
use keystead_domain::id::RecordId;
use keystead_storage::{Keyspace, Range, Storage, keyspace};

use super::vault_id;
use crate::audit_trail::sealer::{AuditSealer, day_of};
use crate::error::VaultError;
use crate::keys::{Keys, corrupt};
use crate::policies;
use crate::unsealed::upkeep::day_key;
use crate::unsealed::{Parts, UnsealedVault};
use crate::vault::Vault;

/// System data keys of a vault at most: one a month for eighty years.
const SYSTEM_KEYS: usize = 1000;

/// Whether the same quorum may open the vault once something else is mended: nothing is wrong with the shares, and no
/// PIN was refused.
pub(super) fn may_work_later(error: &VaultError) -> bool {
    match error {
        VaultError::Hsm(error) => !matches!(error, HsmError::PinRefused | HsmError::PinLocked),
        VaultError::Storage(_) | VaultError::OtherToken { .. } | VaultError::AuditOrigin(_) => true,
        _ => false,
    }
}

/// Opens the vault, or logs out of the HSM again.
pub(super) async fn open(
    vault: &Vault,
    record: &SealRecord,
    header: &SealHeader,
    shares: &[Share],
) -> Result<UnsealedVault, VaultError> {
    let opened = try_open(vault, record, header, shares).await;
    if opened.is_err() {
        vault.opener.clear();
        vault.parts.hsm.logout().await;
    }
    opened
}

async fn try_open(
    vault: &Vault,
    record: &SealRecord,
    header: &SealHeader,
    shares: &[Share],
) -> Result<UnsealedVault, VaultError> {
    let hsm = Arc::clone(&vault.parts.hsm);
    let id = vault_id(header);
    let unseal_key = shamir::combine(shares)?;
    let pin = unseal_key
        .pin_box_open(header.vault, header.epoch, &record.pin_box)
        .map_err(|_| VaultError::SealRecord { what: "the shares do not open it".to_owned() })?;
    let token = hsm.login(pin).await?;
    if token.serial != header.token_serial {
        return Err(VaultError::OtherToken { expected: header.token_serial.clone(), found: token.serial });
    }
    let bound = [
        HsmKey { purpose: HsmKeyPurpose::Master, version: header.master_version },
        HsmKey { purpose: HsmKeyPurpose::Epoch, version: header.epoch },
        HsmKey { purpose: HsmKeyPurpose::Audit, version: 1 },
    ];
    hsm.bind(id.tag(), &bound).await?;
    if hsm.verifying_key().await? != header.audit_key {
        return Err(VaultError::SealRecord { what: "its audit key is not the token's".to_owned() });
    }
    let q = unseal_key
        .unbox_q(hsm.as_ref(), header.vault, header.epoch, header.q_version, &record.q_box)
        .await
        .map_err(|error| match error {
            CryptoError::Hsm(error) => VaultError::Hsm(error),
            error => VaultError::SealRecord { what: error.to_string() },
        })?;
    drop(unseal_key);

    vault.parts.audit.bind_origin(&format!("{id}/{}", vault.parts.options.node))?;
    let storage = vault.parts.storage.as_ref();
    let mut keys = Keys {
        vault: id,
        hsm,
        token: token.serial,
        master_version: header.master_version,
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
