//! From a quorum of shares to an open vault. Each key is checked before it is used; nothing stays when a step fails.

mod by_itself;

use std::collections::HashMap;
use std::sync::Arc;

use keystead_crypto::aad::label;
use keystead_crypto::arena::{LockedBytes, LockedKey};
use keystead_crypto::auto_seal::AutoSeal;
use keystead_crypto::codec::Reader;
use keystead_crypto::envelope::Q;
use keystead_crypto::mac::LookupKey;
use keystead_crypto::names::NameKey;
use keystead_crypto::ports::{Hsm, HsmError, HsmKey};
use keystead_crypto::record::{self, SystemKey};
use keystead_crypto::seal_record::{SealHeader, SealRecord, TokenWay, Way, WayBoxes};
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::shamir;
use keystead_crypto::share::Share;
use keystead_crypto::unseal_key::UnsealKey;
use keystead_domain::id::{RecordId, VaultId};
use keystead_storage::{Keyspace, Range, Storage, keyspace};

use super::{TrustedSeal, auto_unseal, broken, keys_of, pin, seal_error, vault_id};
use crate::anchor::AnchorKeeper;
use crate::audit_trail::sealer::{AuditSealer, day_of};
use crate::credentials::Links;
use crate::error::VaultError;
use crate::keys::link::{Care, Link, Pin, Pins};
use crate::keys::systems::Systems;
use crate::keys::ways::Ways;
use crate::keys::{KeyParts, Keys, corrupt};
use crate::leases::Leases;
use crate::policies;
use crate::unsealed::upkeep::day_key;
use crate::unsealed::{Parts, UnsealedVault};
use crate::vault::{FurtherHsm, Vault};

/// System data keys of a vault at most: one a month for eighty years.
pub(super) const SYSTEM_KEYS: usize = 1000;

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
    all_or_nothing(vault, by_itself::try_open(vault, seal, auto, pin).await).await
}

async fn all_or_nothing(
    vault: &Vault,
    opened: Result<UnsealedVault, VaultError>,
) -> Result<UnsealedVault, VaultError> {
    let recorded = match &opened {
        Ok(opened) => opened.anchor.record_given_up(&vault.parts).await,
        Err(_) => Ok(()),
    };
    let opened = recorded.and(opened);
    if opened.is_err() {
        vault.opener.clear();
        vault.log_out().await;
    }
    opened
}

async fn try_open(vault: &Vault, seal: &TrustedSeal, shares: &[Share]) -> Result<UnsealedVault, VaultError> {
    let TrustedSeal { record, header, .. } = seal;
    let unseal_key = shamir::combine(shares)?;
    let mut failed: Vec<(usize, VaultError)> = Vec::new();
    let mut opened = None;
    for (place, token) in configured(vault).iter().enumerate() {
        match open_by(token, record, header, &unseal_key).await {
            Ok((way, pin_box, qs)) => {
                let took = (way.boxes.pins.len() > 1).then(|| pin_box.to_vec());
                let pin_place = header.box_place(&way.token.serial);
                let pin = unseal_key.pin_box_open(pin_place, pin_box).map_err(seal_error)?;
                let (name, serial) = (way.token.serial.clone(), way.serial);
                opened = Some((Opener { place, way: name, serial, qs, took }, pin));
                break;
            }
            Err(error) => failed.push((place, error)),
        }
    }
    let Some((opener, pin)) = opened else {
        let first = failed.into_iter().next().map(|(_, error)| error);
        return Err(first.unwrap_or_else(|| broken("there is no token")));
    };
    let pins = || pins(record, header, &unseal_key);
    let tokens = with_the_others(vault, header, opener, &failed, pins, Care::ByPerson).await?;
    drop(unseal_key);
    let opened = load(vault, seal, tokens).await?;
    if auto_unseal::is_enabled(opened.storage.as_ref()).await? {
        opened.auto_pin.expect(&pin);
    }
    drop(pin);
    if let Err(error) = pin::settle(&opened).await {
        tracing::warn!(%error, "the seal record holds two PINs of a token still; this is tried again");
    }
    Ok(opened)
}

/// The token that gave up Q.
struct Opener {
    /// Its place in the configuration.
    place: usize,
    /// The name of its way.
    way: String,
    /// Its own serial.
    serial: String,
    /// What it gave up.
    qs: Vec<Arc<Q>>,
    /// The box of the PIN that it took, if its way has several.
    took: Option<Vec<u8>>,
}

/// The tokens of the configuration, one of which gave up Q.
struct Tokens {
    /// The one that did.
    hsm: Arc<dyn Hsm>,
    /// Its place among all.
    opener: usize,
    links: Vec<Arc<Link>>,
    qs: Vec<Arc<Q>>,
}

fn first_token(vault: &Vault) -> FurtherHsm {
    FurtherHsm { hsm: Arc::clone(&vault.parts.hsm), clone_of: None }
}

fn configured(vault: &Vault) -> Vec<FurtherHsm> {
    std::iter::once(first_token(vault)).chain(vault.parts.further.iter().cloned()).collect()
}

/// Logs in to the other tokens of the configuration. Those that are away are waited for, with their PIN in locked memory.
async fn with_the_others(
    vault: &Vault,
    header: &SealHeader,
    opener: Opener,
    failed: &[(usize, VaultError)],
    pins: impl Fn() -> Result<Pins, VaultError>,
    care: Care,
) -> Result<Tokens, VaultError> {
    let configured = configured(vault);
    let mut links = Vec::with_capacity(configured.len());
    let mut hsm = Arc::clone(&vault.parts.hsm);
    for (place, token) in configured.iter().enumerate() {
        let error = failed.iter().find(|(at, _)| *at == place).map(|(_, error)| error);
        if let Some(error) = error {
            tracing::warn!(%error, token = place, "a token did not open the vault; another did");
        }
        links.push(Arc::new(match error {
            _ if place == opener.place => {
                hsm = Arc::clone(&token.hsm);
                let link = Link::ready(Arc::clone(&token.hsm), token.clone_of.clone(), opener.way.clone());
                link.set_said(opener.serial.clone());
                link.set_took(opener.took.clone());
                link
            }
            // A PIN is not tried twice.
            Some(VaultError::Hsm(error @ (HsmError::PinRefused | HsmError::PinLocked))) => {
                Link::refused(Arc::clone(&token.hsm), token.clone_of.clone(), error)
            }
            // It may have heard its PIN and counted it: from here on it is looked at before it hears one.
            Some(VaultError::Hsm(error)) => Link::waiting(token, pins()?, error),
            _ => Link::open(token, header, pins()?, care).await,
        }));
    }
    Ok(Tokens { hsm, opener: opener.place, links, qs: opener.qs })
}

/// Logs in to one token and has it open its boxes of Q. Says which PIN box was good.
async fn open_by<'a>(
    token: &FurtherHsm,
    record: &'a SealRecord,
    header: &'a SealHeader,
    unseal_key: &UnsealKey,
) -> Result<(OpenWay<'a>, &'a [u8], Vec<Arc<Q>>), VaultError> {
    let hsm = token.hsm.as_ref();
    let way = find_way(token, record, header).await?;
    let pin_box = log_in(hsm, unseal_key, header, &way).await?;
    bind(hsm, header, &way, &[]).await?;
    let place = header.box_place(&way.token.serial);
    let mut qs = Vec::new();
    for version in header.q_versions() {
        let q_box = way.boxes.q_box(version).ok_or_else(|| broken("it has no box of Q"))?;
        let q = unseal_key.unbox_q(hsm, place, version, q_box).await.map_err(seal_error)?;
        qs.push(Arc::new(q));
    }
    Ok((way, pin_box, qs))
}

/// The PINs of all tokens, for those that may come back later.
fn pins(record: &SealRecord, header: &SealHeader, unseal_key: &UnsealKey) -> Result<Pins, VaultError> {
    let mut pins = Pins::new();
    for (way, boxes) in header.ways.iter().zip(&record.boxes) {
        let name = way.name();
        for pin_box in &boxes.pins {
            let pin = unseal_key
                .pin_box_open(header.box_place(&name), pin_box)
                .map_err(|_| broken("the shares do not open it"))?;
            pins.push(Pin {
                way: name.clone(),
                pin: LockedBytes::copy_from(pin.expose()),
                one_of_several: (boxes.pins.len() > 1).then(|| pin_box.clone()),
                kept_from: Vec::new(),
            });
        }
    }
    Ok(pins)
}

/// All that an open vault has, once its tokens are bound and Q is there.
async fn load(vault: &Vault, seal: &TrustedSeal, tokens: Tokens) -> Result<UnsealedVault, VaultError> {
    let id = vault_id(&seal.header);
    let origin = format!("{id}/{}", vault.parts.options.node);
    vault.parts.audit.bind_origin(&origin)?;
    // Before anything is written.
    let anchor = AnchorKeeper::check(&vault.parts, &tokens.links, tokens.opener, origin).await?;
    let storage = vault.parts.storage.as_ref();
    let ways = Ways::new(seal.header.clone(), Some(seal.revision), tokens.links, &tokens.qs)?;
    let mut keys = empty_keys(id, tokens.hsm, ways)?;
    load_system_keys(&keys, storage).await?;
    load_keyring(&mut keys, storage).await?;
    keys.load_ledger(storage, vault.parts.clock.now()).await?;
    let policies = policies::load_all(&keys, storage).await?;
    let today = day_of(vault.parts.clock.now());
    let audit_key = day_key(&keys, storage, today, true).await?;
    let sealer = AuditSealer::start(today, &audit_key);
    vault.opener.add(today, audit_key);
    let leases = Leases::load(
        vault.parts.options.leases.clone(),
        Arc::clone(&vault.parts.clock),
        &keys,
        storage.snapshot().await?.as_ref(),
        Arc::clone(&vault.leases_wake),
        Arc::clone(&vault.lease_watchers),
    )
    .await?;
    Ok(UnsealedVault::new(Parts {
        keys,
        storage: Arc::clone(&vault.parts.storage),
        audit: Arc::clone(&vault.parts.audit),
        clock: Arc::clone(&vault.parts.clock),
        read_durability: vault.parts.options.read_durability,
        rotation: vault.parts.options.rotation.clone(),
        policies,
        opener: Arc::clone(&vault.opener),
        sealer,
        anchor,
        links: Links::new(vault.parts.engines.clone()),
        leases,
    }))
}

/// Keys before anything is loaded.
pub(super) fn empty_keys(vault: VaultId, hsm: Arc<dyn Hsm>, ways: Ways) -> Result<Keys, VaultError> {
    let nothing = || LockedKey::from_slice(&[0; 32]).ok_or(VaultError::Randomness);
    Ok(Keys::new(KeyParts {
        vault,
        hsm,
        ways,
        systems: Systems::new(HashMap::new(), [0; 16], None),
        names: NameKey::new(0, nothing()?),
        lookup: LookupKey::new(0, nothing()?),
    }))
}

/// A token of the seal record, with its boxes.
pub(super) struct OpenWay<'a> {
    pub(super) token: &'a TokenWay,
    pub(super) boxes: &'a WayBoxes,
    /// The serial that the token itself says: a clone's is not that of its way.
    serial: String,
}

/// The way that goes through this token. Asked before a PIN is sent: a PIN belongs to one token.
async fn find_way<'a>(
    token: &FurtherHsm,
    record: &'a SealRecord,
    header: &'a SealHeader,
) -> Result<OpenWay<'a>, VaultError> {
    let serial = token.hsm.probe().await?.serial;
    let found = token.clone_of.clone().unwrap_or_else(|| serial.clone());
    let ways = header.ways.iter().zip(&record.boxes);
    let mut tokens = ways.filter_map(|(way, boxes)| way.token().map(|token| (token, boxes)));
    match tokens.find(|(token, _)| token.serial == found) {
        Some((token, boxes)) => Ok(OpenWay { token, boxes, serial }),
        None => Err(VaultError::OtherToken {
            expected: header.ways.iter().filter_map(Way::token).map(|token| token.serial.clone()).collect(),
            found,
        }),
    }
}

/// Logs in with the PIN that the shares open, and says which box had it: while a PIN is being changed there are two, and
/// the token takes one.
async fn log_in<'a>(
    hsm: &dyn Hsm,
    unseal_key: &UnsealKey,
    header: &SealHeader,
    way: &OpenWay<'a>,
) -> Result<&'a [u8], VaultError> {
    let serial = hsm.probe().await?.serial;
    let mut refused = broken("it has no PIN box");
    for pin_box in &way.boxes.pins {
        let pin = unseal_key
            .pin_box_open(header.box_place(&way.token.serial), pin_box)
            .map_err(|_| broken("the shares do not open it"))?;
        match hsm.login(pin).await {
            Ok(found) if found.serial == serial => return Ok(pin_box),
            Ok(found) => {
                return Err(VaultError::OtherToken { expected: vec![serial], found: found.serial });
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

pub(super) async fn load_system_keys(keys: &Keys, storage: &dyn Storage) -> Result<(), VaultError> {
    let mut systems = HashMap::new();
    let snapshot = storage.snapshot().await?;
    let stored = snapshot.range(Keyspace::SystemKeys, Range::all(None), SYSTEM_KEYS).await?;
    for (at, stored) in stored {
        let failed = || corrupt(Keyspace::SystemKeys, &at);
        let id = <[u8; 16]>::try_from(at.as_ref()).map_err(|_| failed())?;
        let wrapped_at = keyspace::data_key(&id);
        let wrapped = snapshot.get(Keyspace::DataKeys, &wrapped_at).await?.ok_or_else(failed)?;
        // Where no token opens it, whoever loads it has put its inner blob into the cache.
        let data_key = match keys.cached_data_key(RecordId(id)) {
            Some(data_key) => data_key?,
            None => keys.open_data_key(RecordId(id), &wrapped.value).await?,
        };
        let aad = keys.aad(label::SYSTEM_KEY, Keyspace::SystemKeys, &at, 0);
        let key = record::open_single(&data_key, id, &aad, &stored.value).map_err(|_| failed())?;
        let key = SystemKey::new(LockedKey::from_slice(key.expose()).ok_or_else(failed)?);
        systems.insert(id, Arc::new(key));
    }
    keys.set_systems(Systems::new(systems, [0; 16], None));
    Ok(())
}

/// The keyring is sealed under the current system key, and so names it.
pub(super) async fn load_keyring(keys: &mut Keys, storage: &dyn Storage) -> Result<(), VaultError> {
    let at = keyspace::meta_keyring();
    let failed = || corrupt(Keyspace::Meta, &at);
    let stored = storage.snapshot().await?.get(Keyspace::Meta, &at).await?.ok_or_else(failed)?;
    let current = record::peek_key_id(&stored.value).map_err(|_| failed())?;
    let systems = keys.systems().keys.clone();
    keys.set_systems(Systems::new(systems, current, Some(stored.revision)));
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
