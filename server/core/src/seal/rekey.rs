//! Rekey: new shares of a new unseal key under new epoch keys.
//!
//! Invariant: until the new shares were entered nothing changes but that the tokens hold one epoch key more; one commit
//! then makes the new quorum the vault's; only after it are the old epoch keys destroyed, and with them all that the old
//! shares could open in any copy of the old seal record. While nobody knows whether it was applied, both epoch keys stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keystead_crypto::ports::{Hsm, HsmKey, HsmKeyPurpose};
use keystead_crypto::recovery::{self, RecoveryRecipient};
use keystead_crypto::seal_record::{
    EndorsedKey, QBox, SealHeader, SealRecord, TokenWay, Way, WayBoxes, endorse,
};
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::shamir::{self, Sharing};
use keystead_crypto::share::{SCHEME_GF256, Share};
use keystead_crypto::unseal_key::UnsealKey;
use keystead_domain::policy::Resource;
use keystead_domain::time::UnixMillis;
use keystead_storage::{Batch, Keyspace, Precondition, Revision, StorageError, keyspace};

use super::outcome::{ByQuorum, HandedShare, Outcome, Reached};
use super::task::{Rekey, Task};
use super::{TrustedSeal, broken, seal_error, vault_id};
use crate::error::VaultError;
use crate::keys::{Keys, rng};
use crate::operation;
use crate::request::SystemPermit;
use crate::unsealed::UnsealedVault;
use crate::unsealed::upkeep::name_key;

/// A seal record that waits for its shares to be confirmed.
pub(crate) struct PendingSeal {
    replaces: Revision,
    record: SealRecord,
    new_q: bool,
    pub(super) header: SealHeader,
    /// A commit of it gave no answer: what the store shows now says nothing of what its next start finds.
    perhaps_stored: AtomicBool,
}

/// Makes new shares and the record that they will open. Nothing is stored.
pub(super) async fn prepare(
    vault: &UnsealedVault,
    seal: &TrustedSeal,
    old: &UnsealKey,
    plan: &Rekey,
    now: UnixMillis,
) -> Result<Reached, VaultError> {
    let keys = &vault.keys;
    if plan.new_q {
        vault.check_renews_q().await?;
    }
    let epoch = fresh_epoch(keys, &seal.header).await?;
    let new = UnsealKey::generate(&mut rng());
    let (audit_key, endorsed_keys, ways) = carried_over(keys, &seal.header).await?;
    let sharing = Sharing {
        vault: seal.header.vault,
        epoch,
        threshold: plan.quorum.threshold(),
        shares: plan.quorum.shares(),
        audit_fingerprint: audit_key.fingerprint(),
    };
    let shares = shamir::split(&new, &sharing, &mut rng()).map_err(seal_error)?;
    let header = SealHeader {
        epoch,
        threshold: sharing.threshold,
        shares: sharing.shares,
        scheme: SCHEME_GF256,
        created_ms: now.0,
        audit_key,
        endorsed_keys,
        signer: 0,
        ways,
        share_digests: shares.iter().map(Share::digest).collect(),
        ..seal.header.clone()
    };
    let made = make_boxes(vault, seal, old, &new, &header).await;
    let record = match made {
        Ok(boxes) => {
            let signed = header.sign(first_token(keys, &header)?.as_ref()).await.map_err(seal_error);
            let record = signed.map(|header| SealRecord { header, boxes });
            // What would not be read back is not handed out.
            record.and_then(|record| record.verify().map_err(seal_error).map(|_| record))
        }
        Err(error) => Err(error),
    };
    let handed = hand_out(&shares, &plan.recipients);
    match (record, handed) {
        (Ok(record), Ok(shares)) => {
            let pending = PendingSeal {
                replaces: seal.revision,
                record,
                new_q: plan.new_q,
                header: header.clone(),
                perhaps_stored: AtomicBool::new(false),
            };
            Ok(Reached {
                outcome: Outcome::Shares { shares, confirm: None },
                next: Some((Task::ConfirmRekey(Box::new(pending)), header)),
            })
        }
        (Err(error), _) | (_, Err(error)) => {
            forget_epoch(vault, &header).await;
            Err(error)
        }
    }
}

/// Puts the new record in the place of the old one, and ends the old epoch.
pub(super) async fn confirm(
    vault: &UnsealedVault,
    permit: &SystemPermit<ByQuorum>,
    pending: &PendingSeal,
    new: &UnsealKey,
) -> Result<Outcome, VaultError> {
    let record = pending.record.encode();
    {
        let _one_at_a_time = vault.rotation.one_change().await;
        take_over(vault, permit, pending, new, &record).await?;
        // From here on the new shares are the vault's, and nothing makes that a failure.
        vault.tidy_tokens_soon();
        if let Err(error) = vault.keys_changed().await {
            tracing::warn!(%error, "the new seal record is taken up with the next change");
        }
        // What cannot be destroyed now is destroyed by upkeep.
        if let Err(error) = vault.tidy_tokens().await {
            tracing::error!(%error, "old epoch keys are still in a token: old shares open old copies of the seal record until they are destroyed; this is tried again");
        }
    }
    if !pending.new_q {
        return Ok(Outcome::Rekeyed { record, remark: None });
    }
    let renewed = vault.renew_q(permit, new).await;
    let remark = renewed.err().map(|error| {
        tracing::error!(%error, "the vault was rekeyed, but Q was not renewed");
        format!(
            "the new shares are the vault's, but Q was not renewed: {error}; have another rekey with a new Q"
        )
    });
    let newest = TrustedSeal::load(vault.storage.as_ref()).await;
    Ok(Outcome::Rekeyed { record: newest.map_or(record, |seal| seal.record.encode()), remark })
}

/// Makes the pending record the one in force, or finds that an earlier try has.
async fn take_over(
    vault: &UnsealedVault,
    permit: &SystemPermit<ByQuorum>,
    pending: &PendingSeal,
    new: &UnsealKey,
    stored: &[u8],
) -> Result<(), VaultError> {
    let PendingSeal { replaces, record, header, perhaps_stored, .. } = pending;
    let current = TrustedSeal::load(vault.storage.as_ref()).await?;
    if current.record == *record {
        return Ok(());
    }
    if current.revision != *replaces {
        return Err(VaultError::RekeyOvertaken);
    }
    record.verify().map_err(seal_error)?;
    // What the holders brought must open all of it, or nobody would ever again.
    for (way, boxes) in header.ways.iter().zip(&record.boxes) {
        let Way::Token(token) = way else { continue };
        let hsm = token_of(&vault.keys, token)?;
        let place = header.box_place(&token.serial);
        // Others may have bound less since the new epoch key was made.
        let mut bound = vault.needed_keys(&current.header, token).await?;
        bound.push(HsmKey { purpose: HsmKeyPurpose::Epoch, version: header.epoch });
        hsm.bind(vault_id(header).tag(), &bound).await?;
        for pin_box in &boxes.pins {
            new.pin_box_open(place, pin_box).map_err(seal_error)?;
        }
        for q in &boxes.q {
            new.unbox_q(hsm.as_ref(), place, q.version, &q.sealed).await.map_err(seal_error)?;
        }
    }
    let mut batch = Batch::new();
    batch.require(Keyspace::Seal, keyspace::seal_record(), Precondition::Revision(*replaces));
    batch.put(Keyspace::Seal, keyspace::seal_record(), stored.to_vec());
    match vault.commit(Some(permit.intent()), batch).await {
        Ok(_) => Ok(()),
        Err(VaultError::Storage(StorageError::Conflict { .. })) => Err(VaultError::RekeyOvertaken),
        Err(error @ VaultError::Storage(StorageError::UnknownOutcome { .. })) => {
            perhaps_stored.store(true, Ordering::Release);
            match TrustedSeal::load(vault.storage.as_ref()).await {
                Ok(now) if now.record == *record => Ok(()),
                _ => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// The right to destroy the epoch keys of a rekey that was given up.
enum ForgetEpoch {}

/// Destroys the epoch keys of a rekey that was given up: only if the store says that it never took effect.
async fn forget_epoch(vault: &UnsealedVault, header: &SealHeader) {
    let current = match TrustedSeal::load(vault.storage.as_ref()).await {
        Ok(current) if current.header.epoch < header.epoch => current,
        Ok(_) => return,
        Err(error) => {
            tracing::warn!(%error, epoch = header.epoch, "whether an epoch key is needed is not known; it stays in the tokens");
            return;
        }
    };
    let key = HsmKey { purpose: HsmKeyPurpose::Epoch, version: header.epoch };
    let serials: Vec<&str> = current.header.tokens().map(|token| token.serial.as_str()).collect();
    let named: Vec<_> = serials.iter().map(|serial| name_key(serial, key)).collect();
    let work = |_: SystemPermit<ForgetEpoch>| async {
        let mut forgotten = Ok(());
        for hsm in serials.iter().flat_map(|serial| vault.keys.tokens(serial).unwrap_or_default()) {
            if let Err(error) = hsm.destroy_key(vault_id(header).tag(), key).await {
                forgotten = Err(error.into());
            }
        }
        forgotten
    };
    let detail = vec![("keys", named.join(", "))];
    if let Err(error) = operation::run_job(vault, "forget-epoch", Resource::System, detail, work).await {
        tracing::warn!(%error, epoch = header.epoch, "an epoch key that was not used stays in a token");
    }
}

impl PendingSeal {
    /// A spare epoch key does no harm, and goes with the next rekey; without the key of the record in force no quorum would
    /// open the vault.
    pub(super) async fn give_up(&self, vault: &UnsealedVault) {
        let epoch = self.header.epoch;
        if self.perhaps_stored.load(Ordering::Acquire) {
            tracing::warn!(
                epoch,
                "a rekey was given up that may have taken effect all the same: its epoch key stays in the tokens, and its shares are to be kept until the vault was opened again, which shows which shares are its own"
            );
            return;
        }
        let _one_at_a_time = vault.rotation.one_change().await;
        forget_epoch(vault, &self.header).await;
    }
}

/// The token of a way, if it can be reached.
fn token_of(keys: &Keys, way: &TokenWay) -> Result<Arc<dyn Hsm>, VaultError> {
    keys.token(&way.serial)
}

/// The token whose audit key the new shares name.
fn first_token(keys: &Keys, header: &SealHeader) -> Result<Arc<dyn Hsm>, VaultError> {
    let first = header.tokens().next().ok_or_else(|| broken("it has no token"))?;
    token_of(keys, first)
}

/// An epoch that no token has seen: one that was given up may have left its key.
async fn fresh_epoch(keys: &Keys, header: &SealHeader) -> Result<u32, VaultError> {
    let tag = vault_id(header).tag();
    let mut newest = header.epoch;
    for token in header.ways.iter().filter_map(Way::token) {
        for key in token_of(keys, token)?.list_keys(tag).await? {
            if key.purpose == HsmKeyPurpose::Epoch {
                newest = newest.max(key.version);
            }
        }
    }
    newest.checked_add(1).ok_or_else(|| broken("its epochs are used up"))
}

/// The audit keys and ways of the next header: the first token's key is the one that the new shares name.
async fn carried_over(
    keys: &Keys,
    header: &SealHeader,
) -> Result<(keystead_crypto::ports::VerifyingKey, Vec<EndorsedKey>, Vec<Way>), VaultError> {
    let signer = first_token(keys, header)?;
    let first = signer.verifying_key().await?;
    let mut endorsed: Vec<EndorsedKey> = Vec::new();
    let mut ways = header.ways.clone();
    for way in &mut ways {
        let Way::Token(token) = way else { continue };
        let key = header.audit_key_at(token.audit_key).ok_or_else(|| broken("a way has no audit key"))?;
        token.audit_key = if *key == first {
            0
        } else {
            let signature = endorse(signer.as_ref(), &first, header.vault, key).await.map_err(seal_error)?;
            endorsed.push(EndorsedKey { key: key.clone(), by: 0, signature });
            u8::try_from(endorsed.len()).map_err(|_| broken("it has too many audit keys"))?
        };
    }
    Ok((first, endorsed, ways))
}

/// Seals PIN and Q anew for each way, under the new unseal key and new epoch keys.
async fn make_boxes(
    vault: &UnsealedVault,
    seal: &TrustedSeal,
    old: &UnsealKey,
    new: &UnsealKey,
    header: &SealHeader,
) -> Result<Vec<WayBoxes>, VaultError> {
    let (keys, tag) = (&vault.keys, vault_id(header).tag());
    let mut all = Vec::with_capacity(header.ways.len());
    for (way, former) in header.ways.iter().zip(&seal.record.boxes) {
        let name = way.name();
        let place = header.box_place(&name);
        let mut boxes = WayBoxes::default();
        match way {
            Way::Token(token) => {
                let hsm = token_of(keys, token)?;
                let [pin_box] = former.pins.as_slice() else {
                    return Err(VaultError::PinUndecided { token: token.serial.clone() });
                };
                let pin = old.pin_box_open(seal.header.box_place(&name), pin_box).map_err(seal_error)?;
                boxes.pins.push(new.pin_box_seal(place, pin.expose(), &mut rng()).map_err(seal_error)?);
                let epoch = HsmKey { purpose: HsmKeyPurpose::Epoch, version: header.epoch };
                hsm.create_key(tag, epoch).await?;
                let mut bound = vault.needed_keys(&seal.header, token).await?;
                bound.push(epoch);
                hsm.bind(tag, &bound).await?;
                for q in keys.live_qs() {
                    let boxing = new.box_q(hsm.as_ref(), place, &q, &mut rng());
                    boxes.q.push(QBox { version: q.version(), sealed: boxing.await.map_err(seal_error)? });
                }
            }
            Way::Recovery(recovery) => {
                let recipient = RecoveryRecipient::parse(&recovery.recipient)
                    .map_err(|_| broken("a recipient is none"))?;
                for q in keys.live_qs() {
                    let inner = new.q_inner_seal(place, &q, &mut rng()).map_err(seal_error)?;
                    let sealed = recovery::seal("box of Q", &recipient, &inner).map_err(seal_error)?;
                    boxes.q.push(QBox { version: q.version(), sealed });
                }
            }
        }
        all.push(boxes);
    }
    Ok(all)
}

fn hand_out(shares: &[Share], recipients: &[RecoveryRecipient]) -> Result<Vec<HandedShare>, VaultError> {
    let mut handed = Vec::with_capacity(shares.len());
    let mut recipients = recipients.iter();
    for share in shares {
        let (text, recipient) = match recipients.next() {
            Some(recipient) => {
                let armored = recovery::seal_text("share", recipient, &share.to_text());
                (
                    SecretBytes::new(armored.map_err(seal_error)?.into_bytes()),
                    Some(recipient.text().to_owned()),
                )
            }
            None => (share.to_text(), None),
        };
        handed.push(HandedShare { number: share.number(), text, recipient });
    }
    Ok(handed)
}
