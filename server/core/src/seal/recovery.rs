//! Every token is lost and a recovery key was kept: the vault moves onto the token that there is now.
//!
//! Invariants: two powers still, the private half of the recovery key and a quorum of shares. Until the new shares are kept
//! nothing changes but that data keys have one wrap more; one commit then makes the new token and the new shares the
//! vault's. Wraps of lost tokens are dropped later, by the pass. Absent: prompts, files, and what keeps a server from running
//! meanwhile (the locks of store and log).

mod error;
mod moving;
mod resealing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use keystead_audit::EntryKind;
use keystead_crypto::auto_seal::AutoSeal;
use keystead_crypto::envelope::Q;
use keystead_crypto::ports::{HsmKey, HsmKeyPurpose};
use keystead_crypto::recovery::RecoveryIdentity;
use keystead_crypto::seal_record::{SealHeader, SealRecord, TokenWay};
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::shamir::{self, Sharing};
use keystead_crypto::share::Share;
use keystead_crypto::unseal_key::UnsealKey;
use keystead_domain::id::RecordId;
use keystead_domain::seal::Quorum;
use keystead_storage::{Batch, Keyspace, Precondition, Range, StorageError, keyspace};

pub use self::error::RecoverError;
pub use self::moving::Moved;
use self::moving::{Moving, open_by_recovery};
use self::resealing::{check_boxes, make_boxes, new_header, new_way};
use super::opening::{SYSTEM_KEYS, empty_keys, load_keyring, load_system_keys};
use super::{TrustedSeal, auto_unseal, broken, keys_of, seal_error, vault_id};
use crate::audit_trail::ClearEntry;
use crate::error::VaultError;
use crate::keys::link::Link;
use crate::keys::ways::Ways;
use crate::keys::{Keys, corrupt, rng};
use crate::operation::Detail;
use crate::vault::Vault;

/// What a recovery is done with.
pub struct Recover {
    /// A quorum of the shares that the seal record names.
    pub shares: Vec<Share>,
    /// The private half of one of its recovery keys.
    pub identity: RecoveryIdentity,
    /// The PIN of the new token.
    pub pin: SecretBytes,
    /// New shares to make and to need; as many as before if nothing is said.
    pub quorum: Option<Quorum>,
    /// Give up data keys that the recovery key does not open.
    pub leave_behind: bool,
}

/// New shares, and the seal record that they will open.
pub struct NewSeal<'a> {
    /// One a holder.
    pub shares: &'a [Share],
    /// The bytes of the record.
    pub record: &'a [u8],
}

/// Whoever looks on.
pub trait Witness: Send + Sync {
    /// Some more data keys were moved.
    fn moved(&self, progress: &Moved);
    /// A data key, by its id in hex, is not moved.
    fn left_behind(&self, data_key: &str, why: &'static str);
    /// Keeps the new shares, durably: they count from the commit that follows.
    ///
    /// # Errors
    /// Why they cannot be kept; then nothing is committed.
    fn keep(&self, seal: NewSeal<'_>) -> Result<(), String>;
}

/// A vault on its new token.
#[derive(Debug)]
pub struct Recovered {
    /// The vault's id.
    pub vault: String,
    /// The serial of its token.
    pub token: String,
    /// The version of its master key.
    pub master_version: u32,
    /// The epoch of the new shares.
    pub epoch: u32,
    /// What became of data keys.
    pub moved: Moved,
    /// Why the outcome is not in the audit log; the recovery is done all the same.
    pub unrecorded: Option<VaultError>,
}

impl Vault {
    /// Whether this is the text of a share that opens the vault in the store.
    ///
    /// # Errors
    /// `NotInitialized`; `Share` with its own reason for each kind of bad share; those of the store.
    pub async fn check_share(&self, text: &SecretBytes) -> Result<Share, VaultError> {
        let share = Share::parse(text.expose())?;
        let seal = self.seal_record().await?.ok_or(VaultError::NotInitialized)?;
        seal.header.check_share(&share)?;
        Ok(share)
    }

    /// How many shares the vault in the store has, and needs.
    ///
    /// # Errors
    /// `NotInitialized`; those of the store.
    pub async fn quorum(&self) -> Result<Quorum, VaultError> {
        let seal = self.seal_record().await?.ok_or(VaultError::NotInitialized)?;
        let quorum = Quorum::new(seal.header.threshold, seal.header.shares);
        quorum.map_err(|error| broken(&error.to_string()))
    }

    /// Moves a vault whose tokens are lost onto the first token of the configuration, with new shares. One that was cut off
    /// is gone on with by another call.
    ///
    /// # Errors
    /// `RecoverError`. Except with `PerhapsDone`, the former shares and the former seal record count still.
    pub async fn recover(&self, asked: &Recover, witness: &dyn Witness) -> Result<Recovered, RecoverError> {
        let _one_at_a_time = self.ceremony.lock().await;
        if self.is_unsealed() {
            return Err(VaultError::AlreadyUnsealed.into());
        }
        let seal = self.seal_record().await?.ok_or(VaultError::NotInitialized)?;
        let qs = open_q(&seal, asked)?;
        let id = vault_id(&seal.header);
        self.parts.audit.bind_origin(&format!("{id}/{}", self.parts.options.node))?;
        let mut detail: Detail =
            vec![("vault", id.to_string()), ("recovery_key", asked.identity.recipient().name().to_owned())];
        let intent = self.record_recovery(EntryKind::Intent, "", None, detail.clone()).await?;
        let done = self.recover_here(&seal, &qs, asked, intent, witness).await;
        self.parts.hsm.logout().await;
        let outcome = match &done {
            // The next opening finds out by the marker in the store, and records it.
            Err(RecoverError::PerhapsDone(_)) => return done,
            Err(error) => error.reason(),
            Ok(recovered) => {
                detail.extend(recovered.detail());
                "ok"
            }
        };
        let recorded = self.record_recovery(EntryKind::Outcome, outcome, Some(intent), detail).await;
        match (done, recorded) {
            (Ok(recovered), recorded) => Ok(Recovered { unrecorded: recorded.err(), ..recovered }),
            (Err(error), Ok(_)) => Err(error),
            (Err(error), Err(unrecorded)) => {
                tracing::error!(%unrecorded, "the audit log could not record that nothing was recovered");
                Err(error)
            }
        }
    }

    async fn record_recovery(
        &self,
        kind: EntryKind,
        outcome: &'static str,
        intent: Option<u64>,
        detail: Detail,
    ) -> Result<u64, VaultError> {
        let entry = ClearEntry { kind, action: "system:recover", outcome, caller: None, intent, detail };
        entry.record(&self.parts.audit, self.parts.clock.as_ref()).await
    }

    async fn recover_here(
        &self,
        seal: &TrustedSeal,
        qs: &[Arc<Q>],
        asked: &Recover,
        intent: u64,
        witness: &dyn Witness,
    ) -> Result<Recovered, RecoverError> {
        let (hsm, storage) = (&self.parts.hsm, self.parts.storage.as_ref());
        let now = self.parts.clock.now();
        let token = hsm.login(SecretBytes::copy_from(asked.pin.expose())).await?.serial;
        let known = hsm.list_keys(vault_id(&seal.header).tag()).await?;
        let former = seal.header.tokens().find(|way| way.serial == token);
        if former.is_some_and(|way| keys_of(&seal.header, way).iter().all(|key| known.contains(key))) {
            return Err(RecoverError::TokenNotLost { token });
        }
        let keys = self.keys_by_recovery(seal, qs, &asked.identity).await?;
        let way = new_way(&keys, hsm.as_ref(), &seal.header, &known, token.clone()).await?;
        let header = new_header(seal, hsm.as_ref(), &known, way.clone(), asked.quorum, now.0).await?;
        let link = Arc::new(Link::ready(Arc::clone(hsm), None, token.clone()));
        keys.set_ways(Ways::new(header.clone(), Some(seal.revision), vec![link], qs)?);
        // Wraps are counted from here on, under the key that makes them.
        keys.follow_ledger(storage, now).await?;
        let moving = Moving {
            keys: &keys,
            storage,
            clock: self.parts.clock.as_ref(),
            identity: &asked.identity,
            witness,
        };
        let moved = moving.run().await?;
        if moved.left_behind > 0 && !asked.leave_behind {
            return Err(RecoverError::LeftBehind { count: moved.left_behind });
        }
        let epoch = header.epoch;
        let sealed = self.seal_anew(seal, &keys, header, way.clone(), asked, intent, witness).await;
        if let Err(error) = sealed {
            if !matches!(error, RecoverError::PerhapsDone(_)) {
                let key = HsmKey { purpose: HsmKeyPurpose::Epoch, version: epoch };
                if let Err(error) = hsm.destroy_key(vault_id(&seal.header).tag(), key).await {
                    tracing::warn!(%error, epoch, "an epoch key that was not used stays in the token");
                }
            }
            return Err(error);
        }
        Ok(Recovered {
            vault: vault_id(&seal.header).to_string(),
            token,
            master_version: way.master,
            epoch,
            moved,
            unrecorded: None,
        })
    }

    /// The keys of the vault, by the recovery key and Q alone. No token is a way yet.
    async fn keys_by_recovery(
        &self,
        seal: &TrustedSeal,
        qs: &[Arc<Q>],
        identity: &RecoveryIdentity,
    ) -> Result<Keys, RecoverError> {
        let storage = self.parts.storage.as_ref();
        let ways = Ways::new(seal.header.clone(), Some(seal.revision), Vec::new(), qs)?;
        let mut keys = empty_keys(vault_id(&seal.header), Arc::clone(&self.parts.hsm), ways)?;
        let snapshot = storage.snapshot().await?;
        for (at, _) in snapshot.range(Keyspace::SystemKeys, Range::all(None), SYSTEM_KEYS).await? {
            let failed = || corrupt(Keyspace::SystemKeys, &at);
            let id = <[u8; 16]>::try_from(at.as_ref()).map_err(|_| failed())?;
            let stored =
                snapshot.get(Keyspace::DataKeys, &keyspace::data_key(&id)).await?.ok_or_else(failed)?;
            let inner = open_by_recovery(&keys, identity, id, &stored.value);
            let (_, inner) = inner.map_err(|why| RecoverError::SystemKeyLost {
                id: data_encoding::HEXLOWER.encode(&id),
                why,
            })?;
            keys.inner_blobs.insert(RecordId(id), Arc::new(inner));
        }
        load_system_keys(&keys, storage).await?;
        load_keyring(&mut keys, storage).await?;
        keys.load_ledger(storage, self.parts.clock.now()).await?;
        Ok(keys)
    }

    /// New shares and a seal record that they open, kept and then committed.
    #[expect(clippy::too_many_arguments, reason = "each is a part of the one commit")]
    async fn seal_anew(
        &self,
        seal: &TrustedSeal,
        keys: &Keys,
        mut header: SealHeader,
        way: TokenWay,
        asked: &Recover,
        intent: u64,
        witness: &dyn Witness,
    ) -> Result<(), RecoverError> {
        let (hsm, storage) = (self.parts.hsm.as_ref(), self.parts.storage.as_ref());
        let epoch = HsmKey { purpose: HsmKeyPurpose::Epoch, version: header.epoch };
        hsm.create_key(vault_id(&header).tag(), epoch).await?;
        hsm.bind(vault_id(&header).tag(), &keys_of(&header, &way)).await?;
        let unseal_key = UnsealKey::generate(&mut rng());
        let sharing = Sharing {
            vault: header.vault,
            epoch: header.epoch,
            threshold: header.threshold,
            shares: header.shares,
            audit_fingerprint: header.audit_key.fingerprint(),
        };
        let shares = shamir::split(&unseal_key, &sharing, &mut rng()).map_err(seal_error)?;
        drop(unseal_key);
        header.share_digests = shares.iter().map(Share::digest).collect();
        // What is handed out makes the boxes, so that they open with nothing else.
        let quorum = shares.get(..usize::from(header.threshold)).unwrap_or_default();
        let unseal_key = shamir::combine(quorum)?;
        let boxes = make_boxes(keys, hsm, &header, &unseal_key, &asked.pin).await?;
        check_boxes(hsm, &header, &way, &boxes, &unseal_key, &asked.pin).await?;
        let record = SealRecord { header: header.sign(hsm).await.map_err(seal_error)?, boxes };
        record.verify().map_err(seal_error)?;
        let stored = record.encode();
        witness.keep(NewSeal { shares: &shares, record: &stored }).map_err(RecoverError::NotKept)?;

        let mut batch = Batch::new();
        batch.require(Keyspace::Seal, keyspace::seal_record(), Precondition::Revision(seal.revision));
        batch.put(Keyspace::Seal, keyspace::seal_record(), stored);
        batch.put(Keyspace::Intents, keyspace::intent(intent), Vec::new());
        // The tokens that opened it by themselves are gone.
        if let Some((auto, revision)) = auto_unseal::load(storage).await? {
            let ended = AutoSeal { version: auto.version, boxes: Vec::new() };
            batch.require(Keyspace::Seal, keyspace::seal_auto(), Precondition::Revision(revision));
            batch.put(Keyspace::Seal, keyspace::seal_auto(), ended.encode());
        }
        let now = self.parts.clock.now();
        let done = keys.update_ledger(storage, batch, |ledger| ledger.masters.follow(&header, now)).await;
        done.map_err(|error| match error {
            VaultError::Storage(StorageError::UnknownOutcome { .. }) => RecoverError::PerhapsDone(error),
            error => error.into(),
        })
    }
}

impl Recovered {
    fn detail(&self) -> Detail {
        vec![
            ("token", self.token.clone()),
            ("master_key", self.master_version.to_string()),
            ("epoch", self.epoch.to_string()),
            ("data_keys", self.moved.looked.to_string()),
            ("left_behind", self.moved.left_behind.to_string()),
        ]
    }
}

/// The two powers: what the recovery key opens, the shares open.
fn open_q(seal: &TrustedSeal, asked: &Recover) -> Result<Vec<Arc<Q>>, RecoverError> {
    let header = &seal.header;
    for share in &asked.shares {
        header.check_share(share)?;
    }
    let recipient = asked.identity.recipient();
    let recoveries = || header.ways.iter().zip(&seal.record.boxes).filter(|(way, _)| way.token().is_none());
    let Some((_, boxes)) = recoveries().find(|(way, _)| way.name() == recipient.name()) else {
        return Err(RecoverError::OtherIdentity {
            given: recipient.name().to_owned(),
            known: recoveries().map(|(way, _)| way.name()).collect(),
        });
    };
    let unseal_key = shamir::combine(&asked.shares)?;
    let place = header.box_place(recipient.name());
    let open = |version| -> Result<Arc<Q>, RecoverError> {
        let sealed = boxes.q_box(version).ok_or_else(|| broken("it has no box of Q"))?;
        let q = unseal_key.recover_q(&asked.identity, place, version, sealed).map_err(seal_error)?;
        Ok(Arc::new(q))
    };
    header.q_versions().map(open).collect()
}
