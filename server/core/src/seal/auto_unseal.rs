//! Opening without shares: one power in the place of two, because somebody chose so.
//!
//! Invariant: a quorum turns it on and off; the PIN that the server reads is shown to be the token's before it is turned
//! on; turning it off destroys the key that every copy of its record needs.

use std::sync::Arc;

use keystead_audit::EntryKind;
use keystead_crypto::auto_seal::{self, AutoBoxes, AutoPlace, AutoSeal};
use keystead_crypto::ports::{HsmKey, HsmKeyPurpose};
use keystead_crypto::seal_record::{QBox, Way};
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::unseal_key::UnsealKey;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, Storage, keyspace};
use subtle::ConstantTimeEq;

use super::outcome::{ByQuorum, Outcome};
use super::{TrustedSeal, broken, keys_of, opening, seal_error, vault_id};
use crate::audit_trail::ClearEntry;
use crate::error::VaultError;
use crate::keys::corrupt;
use crate::request::SystemPermit;
use crate::unsealed::UnsealedVault;
use crate::vault::Vault;

/// Where the PIN comes from when nobody brings shares.
pub trait PinSource: Send + Sync {
    /// The PIN as it is now.
    ///
    /// # Errors
    /// In words, without the PIN: what could not be read.
    fn pin(&self) -> Result<SecretBytes, String>;
    /// What it is, for errors: a path or a name.
    fn describe(&self) -> String;
}

/// The record, if there is one.
pub(crate) async fn load(storage: &dyn Storage) -> Result<Option<(AutoSeal, Revision)>, VaultError> {
    let at = keyspace::seal_auto();
    let Some(stored) = storage.snapshot().await?.get(Keyspace::Seal, &at).await? else { return Ok(None) };
    let record = AutoSeal::decode(&stored.value).map_err(|_| corrupt(Keyspace::Seal, &at))?;
    Ok(Some((record, stored.revision)))
}

/// Lets the vault open by itself.
pub(super) async fn enable(
    vault: &Vault,
    open: &UnsealedVault,
    permit: &SystemPermit<ByQuorum>,
    seal: &TrustedSeal,
    unseal_key: &UnsealKey,
) -> Result<Outcome, VaultError> {
    let source = vault.parts.auto_pin.as_ref().ok_or(VaultError::NoAutoPin)?;
    let given = read(source.as_ref())?;
    let id = vault_id(&seal.header);
    let keys = &open.keys;
    let before = load(open.storage.as_ref()).await?;
    let mut known = Vec::new();
    for token in seal.header.tokens() {
        known.extend(keys.token(&token.serial)?.list_keys(id.tag()).await?);
    }
    let versions = known.iter().filter(|key| key.purpose == HsmKeyPurpose::Auto).map(|key| key.version);
    let newest = versions.chain(before.as_ref().map(|(record, _)| record.version)).max().unwrap_or(0);
    let version = newest.checked_add(1).ok_or_else(|| broken("its auto keys are used up"))?;
    let auto = HsmKey { purpose: HsmKeyPurpose::Auto, version };
    let mut boxes = Vec::new();
    for (way, sealed) in seal.header.ways.iter().zip(&seal.record.boxes) {
        let Way::Token(token) = way else { continue };
        let [pin_box] = sealed.pins.as_slice() else {
            return Err(VaultError::PinUndecided { token: token.serial.clone() });
        };
        let place = seal.header.box_place(&token.serial);
        let pin = unseal_key.pin_box_open(place, pin_box).map_err(seal_error)?;
        if !bool::from(given.ct_eq(&pin)) {
            return Err(VaultError::OtherAutoPin { from: source.describe() });
        }
        let hsm = keys.token(&token.serial)?;
        hsm.create_key(id.tag(), auto).await?;
        let mut bound = keys_of(&seal.header, token);
        bound.push(auto);
        hsm.bind(id.tag(), &bound).await?;
        let place = AutoPlace { vault: *id.as_bytes(), version, token: &token.serial };
        let mut q = Vec::new();
        for live in keys.live_qs() {
            let sealed = auto_seal::seal(hsm.as_ref(), place, &live).await.map_err(seal_error)?;
            q.push(QBox { version: live.version(), sealed });
        }
        boxes.push(AutoBoxes { token: token.serial.clone(), q });
    }
    put(open, permit, before.map(|(_, revision)| revision), &AutoSeal { version, boxes }).await?;
    open.auto_pin.expect(&given);
    // An earlier auto key still opens an earlier record.
    open.tidy_tokens_soon();
    tracing::warn!("the vault opens by itself from now on: its HSM and its PIN are enough to open it");
    Ok(Outcome::AutoUnseal { enabled: true })
}

/// Lets it open with shares only.
pub(super) async fn disable(
    open: &UnsealedVault,
    permit: &SystemPermit<ByQuorum>,
) -> Result<Outcome, VaultError> {
    if let Some((record, revision)) = load(open.storage.as_ref()).await? {
        let ended = AutoSeal { version: record.version, boxes: Vec::new() };
        put(open, permit, Some(revision), &ended).await?;
        open.tidy_tokens_soon();
        // Until then a copy of the record opens with that token alone.
        if let Err(error) = open.tidy_tokens().await {
            tracing::error!(%error, "auto keys are still in a token: copies of the record open the vault with it until they are destroyed; this is tried again");
        }
    }
    Ok(Outcome::AutoUnseal { enabled: false })
}

async fn put(
    open: &UnsealedVault,
    permit: &SystemPermit<ByQuorum>,
    before: Option<Revision>,
    record: &AutoSeal,
) -> Result<(), VaultError> {
    let at = keyspace::seal_auto();
    let mut batch = Batch::new();
    let unchanged = before.map_or(Precondition::Absent, Precondition::Revision);
    batch.require(Keyspace::Seal, at.clone(), unchanged);
    batch.put(Keyspace::Seal, at, record.encode());
    open.commit(Some(permit.intent()), batch).await.map(drop)
}

/// Whether the vault opens by itself.
pub(crate) async fn is_enabled(storage: &dyn Storage) -> Result<bool, VaultError> {
    Ok(load(storage).await?.is_some_and(|(record, _)| record.enabled()))
}

/// Removes the record of a vault that does not open by itself any more: every token has lost its auto keys.
pub(crate) async fn forget_ended(open: &UnsealedVault) -> Result<(), VaultError> {
    if let Some((record, revision)) = load(open.storage.as_ref()).await?
        && !record.enabled()
    {
        let mut batch = Batch::new();
        batch.require(Keyspace::Seal, keyspace::seal_auto(), Precondition::Revision(revision));
        batch.delete(Keyspace::Seal, keyspace::seal_auto());
        open.commit(None, batch).await?;
    }
    Ok(())
}

/// Whether there is a PIN to be had when nobody brings shares.
pub(super) fn check_source(vault: &Vault) -> Result<(), VaultError> {
    let source = vault.parts.auto_pin.as_ref().ok_or(VaultError::NoAutoPin)?;
    read(source.as_ref()).map(drop)
}

fn read(source: &dyn PinSource) -> Result<SecretBytes, VaultError> {
    source.pin().map_err(|what| VaultError::AutoPin { what })
}

impl Vault {
    /// Opens the vault without shares, if it is one that does. `false` if it is not, or is open already.
    ///
    /// # Errors
    /// `AutoPin`, and those of HSM, store and log; see [`VaultError::may_pass`] for whether to try again.
    pub async fn unseal_by_itself(self: &Arc<Self>) -> Result<bool, VaultError> {
        let vault = Arc::clone(self);
        crate::vault::to_its_end("unsealing", async move {
            // No ceremony step goes on meanwhile.
            let mut ceremony = vault.ceremony.lock().await;
            if vault.is_unsealed() {
                return Ok(false);
            }
            let Some(seal) = vault.seal_record().await? else { return Ok(false) };
            let record = match load(vault.parts.storage.as_ref()).await? {
                Some((record, _)) if record.enabled() => record,
                _ => return Ok(false),
            };
            let source = vault.parts.auto_pin.as_ref().ok_or(VaultError::NoAutoPin)?;
            let pin = read(source.as_ref())?;
            vault.closed().await;
            let opened = opening::open_by_itself(&vault, &seal, &record, pin).await;
            let entry = ClearEntry {
                kind: EntryKind::System,
                action: "system:auto-unseal",
                outcome: opened.as_ref().map_or_else(VaultError::reason, |_| "ok"),
                caller: None,
                intent: None,
                detail: Vec::new(),
            };
            let recorded = entry.record(&vault.parts.audit, vault.parts.clock.as_ref()).await;
            match (opened, recorded) {
                (Ok(opened), Ok(_)) => {
                    *ceremony = None;
                    vault.show(None);
                    vault.open(opened);
                    tracing::warn!("the vault opened by itself: no quorum of holders took part");
                    Ok(true)
                }
                (Ok(opened), Err(error)) => {
                    drop(opened);
                    vault.forget_keys().await;
                    Err(error)
                }
                (Err(error), _) => Err(error),
            }
        })
        .await
    }
}
