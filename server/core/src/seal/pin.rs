//! Changing a token's PIN. Invariant: the seal record holds every PIN that the token may have, at each instant.

use keystead_crypto::ports::HsmError;
use keystead_crypto::seal_record::SealRecord;
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::unseal_key::UnsealKey;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, keyspace};

use super::outcome::{ByQuorum, Outcome};
use super::{TrustedSeal, broken, crypto_error};
use crate::error::VaultError;
use crate::keys::rng;
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
    let hsm = vault.keys.token(token)?;
    let place = seal.header.box_place(token);
    let index = seal.header.ways.iter().position(|way| way.name() == token);
    let index = index.ok_or_else(|| broken("it has no such token"))?;
    let former = seal.record.boxes.get(index).map(|boxes| boxes.pins.clone()).unwrap_or_default();
    let [current_box] = former.as_slice() else {
        return Err(VaultError::PinUndecided { token: token.to_owned() });
    };
    let current = unseal_key.pin_box_open(place, current_box).map_err(crypto_error)?;
    let new_box = unseal_key.pin_box_seal(place, new.expose(), &mut rng()).map_err(crypto_error)?;

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

/// Keeps the PIN that the token took: a change that was cut off had left two.
pub(super) async fn settle(
    vault: &UnsealedVault,
    seal: &TrustedSeal,
    token: &str,
    taken: &[u8],
) -> Result<(), VaultError> {
    let index = seal.header.ways.iter().position(|way| way.name() == token);
    let index = index.ok_or_else(|| broken("it has no such token"))?;
    let record = with_pins(&seal.record, index, vec![taken.to_vec()]);
    store(vault, None, &record, seal.revision).await.map(drop)
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
