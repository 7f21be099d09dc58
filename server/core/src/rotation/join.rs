//! New ways, and a new Q: another token, a recovery recipient, another half of every envelope. Their boxes need the unseal
//! key, so only a quorum can make them.
//!
//! Invariant: the seal record names a way or a Q only once it is there and its boxes opened; data keys follow afterwards,
//! by the pass.

use std::sync::Arc;

use keystead_crypto::CryptoError;
use keystead_crypto::envelope::Q;
use keystead_crypto::ports::{Hsm, HsmKey, HsmKeyPurpose};
use keystead_crypto::recovery::{self, RecoveryRecipient};
use keystead_crypto::seal_record::{
    EndorsedKey, MAX_WAYS, QBox, RecoveryWay, SealHeader, SealRecord, TokenWay, Way, WayBoxes, endorse,
};
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::unseal_key::UnsealKey;
use keystead_storage::StorageError;

use crate::error::VaultError;
use crate::keys::link::Link;
use crate::keys::rng;
use crate::keys::ways::Ways;
use crate::request::SystemPermit;
use crate::seal::{auto_unseal, keys_of, seal_error};
use crate::unsealed::UnsealedVault;

impl UnsealedVault {
    /// Whether a token of the configuration can be made a way.
    ///
    /// # Errors
    /// `NotFound` for a serial that no token of the configuration has, `Invalid` for one that is a way already.
    pub(crate) async fn check_token_joins(&self, serial: &str) -> Result<(), VaultError> {
        if auto_unseal::is_enabled(self.storage.as_ref()).await? {
            return Err(opens_by_itself("serial"));
        }
        let ways = self.ways_now().await?;
        check_new(&ways, serial)?;
        link_to(&ways, serial).await.map(drop)
    }

    /// Whether a new Q can be made now.
    ///
    /// # Errors
    /// `RotationUnderWay` while a former Q is still needed; `Invalid` while the vault opens by itself.
    pub(crate) async fn check_renews_q(&self) -> Result<(), VaultError> {
        if self.ways_now().await?.header.former_q_version.is_some() {
            return Err(VaultError::RotationUnderWay);
        }
        if auto_unseal::is_enabled(self.storage.as_ref()).await? {
            return Err(opens_by_itself("new_q"));
        }
        Ok(())
    }

    /// Whether a way of this name can be added.
    ///
    /// # Errors
    /// `Invalid`.
    pub(crate) async fn check_joins(&self, name: &str) -> Result<(), VaultError> {
        let ways = self.ways_now().await?;
        check_new(&ways, name)
    }

    /// Makes a configured token a way: keys of its own, an audit key that is vouched for, boxes of its PIN and of Q.
    ///
    /// # Errors
    /// `NotFound` for a serial that no token of the configuration has, `Invalid` for one that is a way already; those of
    /// the tokens.
    pub async fn join_token<Job>(
        &self,
        permit: &SystemPermit<Job>,
        unseal_key: &UnsealKey,
        serial: &str,
        pin: &SecretBytes,
    ) -> Result<(), VaultError> {
        let _one_at_a_time = self.rotation.changing.lock().await;
        let ways = self.ways_now().await?;
        check_new(&ways, serial)?;
        let link = link_to(&ways, serial).await?;
        let found = link.hsm.login(SecretBytes::copy_from(pin.expose())).await?.serial;
        // The token that was approved, and no other that took its place since.
        let joined = if found == serial {
            self.join_logged_in(permit, unseal_key, &ways, &link, found, pin).await
        } else {
            Err(VaultError::OtherToken { expected: vec![serial.to_owned()], found })
        };
        let Err(error) = joined else { return Ok(()) };
        link.hsm.logout().await;
        if matches!(error, VaultError::Storage(StorageError::UnknownOutcome { .. })) {
            return self.find_out_about(&link, serial, pin).await.map_err(|_| error);
        }
        Err(error)
    }

    /// The commit that makes a token a way gave no answer. If the store says that it is one, it is used from here on;
    /// otherwise its PIN is kept until a later look says so, or the vault seals.
    async fn find_out_about(&self, link: &Link, serial: &str, pin: &SecretBytes) -> Result<(), VaultError> {
        link.may_join(serial, pin);
        let ways = self.ways_now().await?;
        if !ways.tokens().any(|token| token.serial == serial) {
            return Err(VaultError::TokenAway { token: serial.to_owned() });
        }
        link.come_back(&ways.header).await;
        self.keys_changed().await
    }

    async fn join_logged_in<Job>(
        &self,
        permit: &SystemPermit<Job>,
        unseal_key: &UnsealKey,
        ways: &Ways,
        link: &Arc<Link>,
        serial: String,
        pin: &SecretBytes,
    ) -> Result<String, VaultError> {
        let (tag, hsm) = (self.keys.vault.tag(), link.hsm.as_ref());
        let mut header = ways.header.clone();
        let known = hsm.list_keys(tag).await?;
        // It may have been a way before, and its older keys may be all that opens an older backup.
        let masters = known.iter().filter(|key| key.purpose == HsmKeyPurpose::Master);
        let master = masters.map(|key| key.version).max().unwrap_or(0).saturating_add(1);
        for key in [
            HsmKey { purpose: HsmKeyPurpose::Master, version: master },
            HsmKey { purpose: HsmKeyPurpose::Epoch, version: header.epoch },
            HsmKey { purpose: HsmKeyPurpose::Audit, version: 1 },
        ] {
            if !known.contains(&key) {
                hsm.create_key(tag, key).await?;
            }
        }
        let mut way = TokenWay { serial: serial.clone(), oldest_master: master, master, audit_key: 0 };
        hsm.bind(tag, &keys_of(&header, &way)).await?;
        way.audit_key = vouched_for(&mut header, ways, hsm).await?;
        // It may have been a way before.
        self.anchor.admits(link).await?;
        let place = header.box_place(&serial);
        let mut boxes = WayBoxes::default();
        boxes.pins.push(unseal_key.pin_box_seal(place, pin.expose(), &mut rng()).map_err(seal_error)?);
        for q in ways.qs() {
            let boxing = unseal_key.box_q(hsm, place, q, &mut rng());
            boxes.q.push(QBox { version: q.version(), sealed: boxing.await.map_err(seal_error)? });
        }
        header.ways.push(Way::Token(way));
        self.store_header(ways, header, Some(permit.intent()), |record| record.boxes.push(boxes)).await?;
        // From here on it is one, and nothing makes that a failure.
        link.joined(serial.clone());
        if let Err(error) = self.keys_changed().await {
            tracing::warn!(%error, "the new seal record is taken up with the next change");
        }
        tracing::info!(token = %serial, "a token was added; data keys are wrapped for it in the background");
        Ok(serial)
    }

    /// Makes a new Q. Data keys are sealed anew under it by the pass; then the former one is given up. Answers its version.
    ///
    /// # Errors
    /// `RotationUnderWay` while a former Q is still needed; `TokenAway`, since every token boxes it.
    pub async fn renew_q<Job>(
        &self,
        permit: &SystemPermit<Job>,
        unseal_key: &UnsealKey,
    ) -> Result<u32, VaultError> {
        let _one_at_a_time = self.rotation.changing.lock().await;
        let ways = self.ways_now().await?;
        self.check_renews_q().await?;
        let version = ways.q.version().saturating_add(1);
        let q = Arc::new(Q::new(version, self.fresh_root().await?));
        let mut header = ways.header.clone();
        header.former_q_version = Some(header.q_version);
        header.q_version = version;
        let mut fresh = Vec::with_capacity(header.ways.len());
        for way in &header.ways {
            let name = way.name();
            let place = header.box_place(&name);
            let sealed = match way {
                Way::Token(_) => {
                    let link = ways.original(&name)?;
                    let boxing = unseal_key.box_q(link.hsm.as_ref(), place, &q, &mut rng());
                    boxing.await.map_err(seal_error)?
                }
                Way::Recovery(recovery) => {
                    let recipient = RecoveryRecipient::parse(&recovery.recipient)
                        .map_err(|error| VaultError::SealRecord { what: error.to_string() })?;
                    let inner = unseal_key.q_inner_seal(place, &q, &mut rng()).map_err(seal_error)?;
                    recovery::seal("box of Q", &recipient, &inner).map_err(seal_error)?
                }
            };
            fresh.push(QBox { version, sealed });
        }
        // Known before the record names it: whoever writes meanwhile follows the record.
        self.keys.learn_q(q);
        let change = |record: &mut SealRecord| {
            for (boxes, fresh) in record.boxes.iter_mut().zip(fresh) {
                boxes.q.insert(0, fresh);
            }
        };
        self.store_header(&ways, header, Some(permit.intent()), change).await?;
        self.keys_changed().await?;
        tracing::info!(version, "a new Q seals from now on; data keys are sealed anew in the background");
        Ok(version)
    }

    /// Makes a recipient a way. Answers its name.
    ///
    /// # Errors
    /// `Invalid` for one that is a way already.
    pub async fn join_recovery<Job>(
        &self,
        permit: &SystemPermit<Job>,
        unseal_key: &UnsealKey,
        recipient: &RecoveryRecipient,
    ) -> Result<String, VaultError> {
        let _one_at_a_time = self.rotation.changing.lock().await;
        let ways = self.ways_now().await?;
        check_new(&ways, recipient.name())?;
        let mut header = ways.header.clone();
        let place = header.box_place(recipient.name());
        let boxed = |q: &Q| -> Result<QBox, CryptoError> {
            let inner = unseal_key.q_inner_seal(place, q, &mut rng())?;
            Ok(QBox { version: q.version(), sealed: recovery::seal("box of Q", recipient, &inner)? })
        };
        let q = ways.qs().into_iter().map(boxed).collect::<Result<_, _>>().map_err(seal_error)?;
        let boxes = WayBoxes { pins: Vec::new(), q };
        header.ways.push(Way::Recovery(RecoveryWay { recipient: recipient.text().to_owned() }));
        self.store_header(&ways, header, Some(permit.intent()), |record| record.boxes.push(boxes)).await?;
        self.keys_changed().await?;
        tracing::info!(
            way = recipient.name(),
            "a recovery recipient was added; data keys are wrapped for it"
        );
        Ok(recipient.name().to_owned())
    }
}

/// The link to a token of the configuration. One that does not answer is not the one that is sought, as far as anybody can
/// tell; a clone is no way of its own.
async fn link_to(ways: &Ways, serial: &str) -> Result<Arc<Link>, VaultError> {
    for link in ways.links.iter().filter(|link| link.clone_of().is_none()) {
        if link.hsm.probe().await.is_ok_and(|found| found.serial == serial) {
            return Ok(Arc::clone(link));
        }
    }
    Err(VaultError::NotFound { what: format!("a token of the configuration with serial {serial}") })
}

fn opens_by_itself(field: &'static str) -> VaultError {
    let rule = "the vault opens by itself: have a quorum end that, and allow it again afterwards";
    VaultError::Invalid { field, rule: rule.to_owned() }
}

fn check_new(ways: &Ways, name: &str) -> Result<(), VaultError> {
    let invalid = |rule: String| Err(VaultError::Invalid { field: "way", rule });
    if ways.header.ways.iter().any(|way| way.name() == name) {
        return invalid(format!("{name} is a way already"));
    }
    if ways.header.ways.len() >= MAX_WAYS {
        return invalid(format!("a vault has at most {MAX_WAYS} ways; retire one first"));
    }
    Ok(())
}

/// The number of a token's audit key in the header, which a key of the header vouches for.
async fn vouched_for(header: &mut SealHeader, ways: &Ways, hsm: &dyn Hsm) -> Result<u8, VaultError> {
    let key = hsm.verifying_key().await?;
    if let Some(number) = (0..=u8::MAX).find(|number| header.audit_key_at(*number) == Some(&key)) {
        return Ok(number);
    }
    let away = || VaultError::TokenAway { token: "that could vouch for another".to_owned() };
    let reached = ways.reached();
    let by = reached.first().ok_or_else(away)?;
    let number = by.token.audit_key;
    let voucher = header.audit_key_at(number).cloned().ok_or_else(away)?;
    let signature = endorse(by.link.hsm.as_ref(), &voucher, header.vault, &key).await.map_err(seal_error)?;
    header.endorsed_keys.push(EndorsedKey { key, by: number, signature });
    u8::try_from(header.endorsed_keys.len())
        .map_err(|_| VaultError::SealRecord { what: "it has too many audit keys".to_owned() })
}
