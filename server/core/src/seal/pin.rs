//! Changing a token's PIN. Invariant: the seal record holds every PIN that the token may have, at each instant.

use std::sync::Arc;

use keystead_crypto::ports::HsmError;
use keystead_crypto::seal_record::SealRecord;
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::unseal_key::UnsealKey;
use keystead_domain::policy::Resource;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, keyspace};

use super::outcome::{ByQuorum, Outcome};
use super::{TrustedSeal, broken, seal_error};
use crate::error::VaultError;
use crate::keys::link::Link;
use crate::keys::{Keys, rng};
use crate::operation::{self, Detail};
use crate::request::SystemPermit;
use crate::unsealed::UnsealedVault;

/// Changes it on the token and in the seal record.
pub(super) async fn change(
    vault: &UnsealedVault,
    permit: &SystemPermit<ByQuorum>,
    seal: &TrustedSeal,
    unseal_key: &UnsealKey,
    token: &str,
    new: &SecretBytes,
) -> Result<Outcome, VaultError> {
    check_no_clone(&vault.keys, token)?;
    let hsm = vault.keys.token(token)?;
    let place = seal.header.box_place(token);
    let index = seal.header.ways.iter().position(|way| way.name() == token);
    let index = index.ok_or_else(|| broken("it has no such token"))?;
    let former = seal.record.boxes.get(index).map(|boxes| boxes.pins.clone()).unwrap_or_default();
    let [current_box] = former.as_slice() else {
        return Err(VaultError::PinUndecided { token: token.to_owned() });
    };
    let current = unseal_key.pin_box_open(place, current_box).map_err(seal_error)?;
    let new_box = unseal_key.pin_box_seal(place, new.expose(), &mut rng()).map_err(seal_error)?;

    let both = with_pins(&seal.record, index, vec![new_box.clone(), current_box.clone()]);
    let revision = store(vault, None, &both, seal.revision).await?;
    match hsm.change_pin(current, SecretBytes::copy_from(new.expose())).await {
        Ok(()) => {
            let record = with_pins(&seal.record, index, vec![new_box]);
            // The token has the new one whatever becomes of this: the record then still holds both.
            if let Err(error) = store(vault, Some(permit.intent()), &record, revision).await {
                tracing::warn!(%error, "the token has its new PIN, and the seal record holds both until the next unseal");
                return Err(HsmError::PinUncertain.into());
            }
            Ok(Outcome::PinChanged { record: record.encode() })
        }
        // The record keeps both; unsealing finds out which one it is.
        Err(HsmError::PinUncertain) => Err(HsmError::PinUncertain.into()),
        Err(error) => {
            store(vault, None, &seal.record, revision).await?;
            Err(error.into())
        }
    }
}

/// The seal record has one PIN for a token and its clones: a change on the token would shut the clones out.
///
/// # Errors
/// `Invalid`.
pub(super) fn check_no_clone(keys: &Keys, token: &str) -> Result<(), VaultError> {
    if keys.ways().links.iter().all(|link| link.clone_of() != Some(token)) {
        return Ok(());
    }
    let rule = format!(
        "the configuration has a clone of token {token}, which would keep the former PIN: take it out of the configuration, start \
         again and change the PIN; then set the same PIN on the clone by its vendor's tool, or clone it anew, and put it back"
    );
    Err(VaultError::Invalid { field: "purpose", rule })
}

/// The right to keep one of two PINs.
enum SettlePin {}

/// Keeps the PINs that tokens took at login: a change that was cut off had left two. Does nothing where there is nothing
/// to do.
///
/// # Errors
/// Those of store and log; the next call tries again.
pub(crate) async fn settle(vault: &UnsealedVault) -> Result<(), VaultError> {
    if vault.keys.ways().links.iter().all(|link| link.took().is_none()) {
        return Ok(());
    }
    let _one_at_a_time = vault.rotation.one_change().await;
    let ways = vault.ways_now().await?;
    let took = |link: &Arc<Link>| Some((link.way()?, link.took()?));
    let taken: Vec<(String, Vec<u8>)> = ways.links.iter().filter_map(took).collect();
    let seal = TrustedSeal::load(vault.storage.as_ref()).await?;
    let mut record = seal.record.clone();
    let mut detail: Detail = Vec::new();
    for (way, boxes) in seal.header.ways.iter().zip(&mut record.boxes) {
        let name = way.name();
        let mut good = taken.iter().filter(|(of, _)| *of == name).map(|(_, pin_box)| pin_box);
        let Some(pin_box) = good.next().filter(|pin_box| boxes.pins.contains(pin_box)) else { continue };
        // A token and its clone that take another PIN each both need theirs.
        if boxes.pins.len() > 1 && good.all(|other| other == pin_box) {
            boxes.pins = vec![pin_box.clone()];
            detail.push(("token", name));
        }
    }
    if !detail.is_empty() {
        let work = |permit: SystemPermit<SettlePin>| {
            let record = &record;
            async move { store(vault, Some(permit.intent()), record, seal.revision).await }
        };
        operation::run_job(vault, "settle-pin", Resource::System, detail, work).await?;
        vault.ways_now().await?;
    }
    for link in &ways.links {
        link.set_took(None);
    }
    Ok(())
}

fn with_pins(record: &SealRecord, index: usize, pins: Vec<Vec<u8>>) -> SealRecord {
    let mut record = record.clone();
    if let Some(boxes) = record.boxes.get_mut(index) {
        boxes.pins = pins;
    }
    record
}

/// Boxes are not signed: they are sealed, and tell by themselves whether they open.
async fn store(
    vault: &UnsealedVault,
    intent: Option<u64>,
    record: &SealRecord,
    replaces: Revision,
) -> Result<Revision, VaultError> {
    let mut batch = Batch::new();
    batch.require(Keyspace::Seal, keyspace::seal_record(), Precondition::Revision(replaces));
    batch.put(Keyspace::Seal, keyspace::seal_record(), record.encode());
    vault.commit(intent, batch).await
}
