//! One data key, brought to the wanted state. Invariant: a wrap is dropped only once the wrap that takes its place is in
//! the list; what opens the record is never the last to go.

use keystead_crypto::CryptoError;
use keystead_crypto::aad::label;
use keystead_crypto::envelope::{Way, WrappedDataKey};
use keystead_domain::id::RecordId;
use keystead_storage::Keyspace;

use crate::error::VaultError;
use crate::keys::ways::Ways;
use crate::unsealed::UnsealedVault;

/// A record after its turn.
pub(super) struct Turned {
    pub(super) wrapped: WrappedDataKey,
    pub(super) changed: bool,
    /// It is as it should be.
    pub(super) whole: bool,
}

/// Adds the wraps that it lacks through the tokens that answer, and drops those that have been replaced.
pub(super) async fn turn(
    vault: &UnsealedVault,
    ways: &Ways,
    id: RecordId,
    mut wrapped: WrappedDataKey,
) -> Result<Turned, VaultError> {
    let keys = &vault.keys;
    let before = wrapped.clone();
    let opened = keys.open_wrapped(id, &wrapped).await?;
    let aad = || keys.aad(label::DATA_KEY, Keyspace::DataKeys, id.as_bytes(), 0);
    let of_other = |error: CryptoError| crate::keys::data_key_error(error, id);
    let inner = match ways.q(opened.inner.q_version()) {
        Some(former) if former.version() != ways.q.version() => {
            opened.inner.reseal(former, &ways.q, &aad()).map_err(of_other)?
        }
        _ => opened.inner,
    };
    let reached = ways.reached();
    for way in ways.of(&reached) {
        if !wrapped.has(&way, ways.q.version()) {
            if let Way::Token(_) = way {
                vault.count_wrap(&reached, way.name()).await?;
            }
            if let Err(error) = wrapped.add_wrap(way, &inner, &aad()).await {
                let link = reached.iter().find(|reached| reached.token.serial == way.name());
                let away = match (&error, link) {
                    (CryptoError::Hsm(error), Some(reached)) => reached.link.failed(error),
                    _ => false,
                };
                if !away {
                    return Err(of_other(error));
                }
                continue;
            }
        }
        wrapped.drop_wraps(|wrap| wrap.token == way.name() && !ways.wants(wrap));
    }
    let every_way = ways
        .header
        .ways
        .iter()
        .all(|way| wrapped.wraps().iter().any(|wrap| wrap.token == way.name() && ways.wants(wrap)));
    if every_way {
        wrapped.drop_wraps(|wrap| !ways.wants(wrap));
    }
    let whole = ways.satisfied_by(wrapped.wraps());
    Ok(Turned { changed: wrapped != before, whole, wrapped })
}
