//! From the PIN of the configuration to an open vault, by the box of Q that a token opens alone.

use std::sync::Arc;

use keystead_crypto::arena::LockedBytes;
use keystead_crypto::auto_seal::{self, AutoPlace, AutoSeal};
use keystead_crypto::envelope::Q;
use keystead_crypto::ports::{HsmError, HsmKey, HsmKeyPurpose};
use keystead_crypto::secret::SecretBytes;
use keystead_storage::Storage;

use super::{Opener, bind, configured, find_way, load, with_the_others};
use crate::error::VaultError;
use crate::keys::link::{Care, Pin};
use crate::seal::{TrustedSeal, broken, refused_pins, seal_error};
use crate::unsealed::UnsealedVault;
use crate::vault::{FurtherHsm, Vault};

/// Opens the vault through the first token that lets it.
pub(super) async fn try_open(
    vault: &Vault,
    seal: &TrustedSeal,
    auto: &AutoSeal,
    pin: SecretBytes,
) -> Result<UnsealedVault, VaultError> {
    let header = &seal.header;
    let mut failed: Vec<(usize, VaultError)> = Vec::new();
    let mut opened = None;
    let storage = vault.parts.storage.as_ref();
    for (place, token) in configured(vault).iter().enumerate() {
        match open_by_auto_key(storage, token, seal, auto, &pin).await {
            Ok((way, serial, qs)) => {
                opened = Some(Opener { place, way, serial, qs, took: None });
                break;
            }
            Err(error) => failed.push((place, error)),
        }
    }
    let Some(opener) = opened else { return Err(worth_waiting_for(failed)) };
    let refused = refused_pins::all(storage).await?;
    // One PIN is all that there is, and the quorum that allowed this found it to be that of these tokens.
    let pins = || {
        let pin = |way| Pin {
            way,
            pin: LockedBytes::copy_from(pin.expose()),
            one_of_several: None,
            kept_from: refused.clone(),
        };
        Ok(auto.boxes.iter().map(|boxes| pin(boxes.token.clone())).collect())
    };
    let others = with_the_others(vault, header, opener, &failed, pins, Care::Unattended).await?;
    refused_pins::note_all(storage, &others.links).await;
    let opened = load(vault, seal, others).await?;
    opened.auto_pin.expect(&pin);
    Ok(opened)
}

/// Of all tokens' failures the one that may pass, so that it is tried again; nothing else may hide it. A PIN that was
/// refused is not sent again then, nor at a later start: the store says so.
fn worth_waiting_for(mut failed: Vec<(usize, VaultError)>) -> VaultError {
    let away = |error: &VaultError| matches!(error, VaultError::Hsm(_)) && error.may_pass();
    let away = failed.iter().position(|(_, error)| away(error)).unwrap_or(0);
    if away < failed.len() { failed.swap_remove(away).1 } else { broken("there is no token") }
}

/// Logs in to one token with the PIN of the configuration and has it open its boxes of Q. Answers the name of its way and its own
/// serial too.
async fn open_by_auto_key(
    storage: &dyn Storage,
    token: &FurtherHsm,
    seal: &TrustedSeal,
    auto: &AutoSeal,
    pin: &SecretBytes,
) -> Result<(String, String, Vec<Arc<Q>>), VaultError> {
    let header = &seal.header;
    let way = find_way(token, &seal.record, header).await?;
    let name = &way.token.serial;
    let not_allowed = || broken("it does not let this token open it by itself");
    // Before the PIN is sent: it is that of the tokens in the record.
    let boxes = auto.boxes.iter().find(|boxes| boxes.token == *name).ok_or_else(not_allowed)?;
    let hsm = token.hsm.as_ref();
    if refused_pins::is_there(storage, &way.serial).await? {
        return Err(HsmError::PinRefused.into());
    }
    let logged_in = hsm.login_unattended(SecretBytes::copy_from(pin.expose())).await;
    if let Err(HsmError::PinRefused) = logged_in {
        refused_pins::note(storage, &way.serial).await;
    }
    logged_in?;
    let auto_key = HsmKey { purpose: HsmKeyPurpose::Auto, version: auto.version };
    bind(hsm, header, &way, &[auto_key]).await?;
    let place = AutoPlace { vault: header.vault, version: auto.version, token: name };
    let mut qs = Vec::new();
    for version in header.q_versions() {
        let sealed = boxes.q.iter().find(|q| q.version == version).ok_or_else(not_allowed)?;
        let q = auto_seal::open(hsm, place, version, &sealed.sealed).await.map_err(seal_error)?;
        qs.push(Arc::new(q));
    }
    Ok((name.clone(), way.serial, qs))
}
