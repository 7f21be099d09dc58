//! What a vault gets on its new token: keys, the next header, boxes that its new shares open.
//!
//! Invariant: no number of a key, version or epoch, is used a second time.

use keystead_crypto::CryptoError;
use keystead_crypto::ports::{Hsm, HsmKey, HsmKeyPurpose};
use keystead_crypto::recovery::{self, RecoveryRecipient};
use keystead_crypto::seal_record::{QBox, SealHeader, TokenWay, Way, WayBoxes};
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::share::SCHEME_GF256;
use keystead_crypto::unseal_key::UnsealKey;
use keystead_domain::seal::Quorum;
use subtle::ConstantTimeEq;

use super::super::{TrustedSeal, broken, seal_error, vault_id};
use super::RecoverError;
use crate::keys::{Keys, rng};

/// Makes the master key and the audit key of the new token, or goes on with those of a run that was cut off.
pub(super) async fn new_way(
    keys: &Keys,
    hsm: &dyn Hsm,
    header: &SealHeader,
    known: &[HsmKey],
    token: String,
) -> Result<TokenWay, RecoverError> {
    let tag = vault_id(header).tag();
    let named = header.tokens().filter(|way| way.serial == token).map(|way| way.master).max().unwrap_or(0);
    let ledger = keys.ledger().await;
    let counted = ledger.masters.0.iter().filter(|key| key.way == token).map(|key| key.version).max();
    // Only the ledger says that a key is this store's and how often it wrapped.
    let begun = counted.filter(|version| {
        *version > named && known.contains(&HsmKey { purpose: HsmKeyPurpose::Master, version: *version })
    });
    let on_token = known.iter().filter(|key| key.purpose == HsmKeyPurpose::Master).map(|key| key.version);
    let newest = on_token.chain(counted).chain([named]).max().unwrap_or(0);
    let master = match begun {
        Some(version) => version,
        None => newest.checked_add(1).ok_or_else(|| broken("its versions of the master key are used up"))?,
    };
    let made = [
        HsmKey { purpose: HsmKeyPurpose::Master, version: master },
        HsmKey { purpose: HsmKeyPurpose::Audit, version: 1 },
    ];
    for key in made {
        if !known.contains(&key) {
            hsm.create_key(tag, key).await?;
        }
    }
    hsm.bind(tag, &made).await?;
    Ok(TokenWay { serial: token, oldest_master: master, master, audit_key: 0 })
}

/// The next header, but for the digests of its shares: the new token, and the recovery keys that there were.
pub(super) async fn new_header(
    seal: &TrustedSeal,
    hsm: &dyn Hsm,
    known: &[HsmKey],
    way: TokenWay,
    quorum: Option<Quorum>,
    created_ms: u64,
) -> Result<SealHeader, RecoverError> {
    let former = &seal.header;
    // An epoch that was given up may have left its key.
    let epochs = known.iter().filter(|key| key.purpose == HsmKeyPurpose::Epoch).map(|key| key.version);
    let newest = epochs.chain([former.epoch]).max().unwrap_or(former.epoch);
    let recoveries = former.ways.iter().filter(|way| way.token().is_none()).cloned();
    Ok(SealHeader {
        epoch: newest.checked_add(1).ok_or_else(|| broken("its epochs are used up"))?,
        threshold: quorum.map_or(former.threshold, Quorum::threshold),
        shares: quorum.map_or(former.shares, Quorum::shares),
        scheme: SCHEME_GF256,
        created_ms,
        audit_key: hsm.verifying_key().await?,
        endorsed_keys: Vec::new(),
        signer: 0,
        ways: std::iter::once(Way::Token(way)).chain(recoveries).collect(),
        share_digests: Vec::new(),
        ..former.clone()
    })
}

/// PIN and Q under the new unseal key, for each way.
pub(super) async fn make_boxes(
    keys: &Keys,
    hsm: &dyn Hsm,
    header: &SealHeader,
    unseal_key: &UnsealKey,
    pin: &SecretBytes,
) -> Result<Vec<WayBoxes>, RecoverError> {
    let mut all = Vec::with_capacity(header.ways.len());
    for way in &header.ways {
        let name = way.name();
        let place = header.box_place(&name);
        let mut boxes = WayBoxes::default();
        let recipient = match way {
            Way::Token(_) => {
                let pin_box = unseal_key.pin_box_seal(place, pin.expose(), &mut rng());
                boxes.pins.push(pin_box.map_err(seal_error)?);
                None
            }
            Way::Recovery(recovery) => {
                let recipient = RecoveryRecipient::parse(&recovery.recipient);
                Some(recipient.map_err(|_| broken("a recipient is none"))?)
            }
        };
        for q in keys.live_qs() {
            let sealed = match &recipient {
                None => unseal_key.box_q(hsm, place, &q, &mut rng()).await,
                Some(recipient) => unseal_key
                    .q_inner_seal(place, &q, &mut rng())
                    .and_then(|inner| recovery::seal("box of Q", recipient, &inner)),
            };
            boxes.q.push(QBox { version: q.version(), sealed: sealed.map_err(seal_error)? });
        }
        all.push(boxes);
    }
    Ok(all)
}

/// What the holders will bring must open what they will be asked for.
pub(super) async fn check_boxes(
    hsm: &dyn Hsm,
    header: &SealHeader,
    way: &TokenWay,
    boxes: &[WayBoxes],
    unseal_key: &UnsealKey,
    pin: &SecretBytes,
) -> Result<(), RecoverError> {
    let place = header.box_place(&way.serial);
    let other = || seal_error(CryptoError::NotAuthentic { what: "PIN box" });
    let boxes = boxes.first().ok_or_else(other)?;
    for pin_box in &boxes.pins {
        let opened = unseal_key.pin_box_open(place, pin_box).map_err(seal_error)?;
        if !bool::from(pin.ct_eq(&opened)) {
            return Err(other().into());
        }
    }
    for q in &boxes.q {
        unseal_key.unbox_q(hsm, place, q.version, &q.sealed).await.map_err(seal_error)?;
    }
    Ok(())
}
