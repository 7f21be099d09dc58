//! A seal record that was exported goes into a store from before it: a backup from before a rekey opens again.
//!
//! Invariants: only a record of the vault in the store, whose audit key the store's own record knows, and that is in no part
//! older; one commit puts it in the place of the one that was looked at. Absent: what the shares and the token have to say of it,
//! which unsealing asks them; PIN boxes, of which nobody can tell without shares which is the newer; and what keeps a server
//! from running meanwhile (the locks of store and log).

#[cfg(test)]
mod tests;

use keystead_audit::EntryKind;
use keystead_crypto::CryptoError;
use keystead_crypto::ports::VerifyingKey;
use keystead_crypto::seal_record::{SealHeader, SealRecord, TokenWay, Way};
use keystead_storage::{Batch, Keyspace, Precondition, Revision, StorageError, keyspace};

use super::{TrustedSeal, vault_id};
use crate::audit_trail::ClearEntry;
use crate::error::VaultError;
use crate::operation::Detail;
use crate::vault::Vault;

/// Why a seal record is not put into a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// What may go wrong anywhere: store, log.
    #[error(transparent)]
    Vault(VaultError),
    /// The bytes are no seal record, or a changed one.
    #[error("the file is no seal record as `keystead seal-record export` writes it, or was changed")]
    NotARecord(#[source] CryptoError),
    /// It is of another vault.
    #[error("the seal record is of vault {given}, and the store of vault {store}")]
    OtherVault {
        /// The vault in the record.
        given: String,
        /// The vault in the store.
        store: String,
    },
    /// No audit key of the store's record leads to it.
    #[error(
        "the seal record is signed by an audit key that the store's own record does not know: it is forged, or the vault moved to \
         another token in between; then restore the record that was exported before the former token was retired first"
    )]
    StrangeKey,
    /// It is older.
    #[error("the seal record is older than the one in the store ({what}); it is not put back")]
    Older {
        /// In which part.
        what: String,
    },
    /// The store's data keys do not open by it.
    #[error(
        "the store's data keys would not open with this seal record: {what} was given up since this store was copied; restore a \
         newer backup"
    )]
    KeysGivenUp {
        /// Which key.
        what: String,
    },
    /// The commit may have taken effect.
    #[error("the seal record may be in the store or not: run this again, which says so")]
    PerhapsDone(#[source] VaultError),
}

impl<E> From<E> for RestoreError
where
    VaultError: From<E>,
{
    fn from(error: E) -> Self {
        Self::Vault(error.into())
    }
}

impl RestoreError {
    /// The machine-readable reason, as the audit log has it; stable across versions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Vault(error) | Self::PerhapsDone(error) => error.reason(),
            Self::NotARecord(_) => "SEAL_RECORD_MALFORMED",
            Self::OtherVault { .. } => "SEAL_RECORD_OF_ANOTHER_VAULT",
            Self::StrangeKey => "SEAL_RECORD_KEY_UNKNOWN",
            Self::Older { .. } => "SEAL_RECORD_OLDER",
            Self::KeysGivenUp { .. } => "SEAL_RECORD_KEYS_GIVEN_UP",
        }
    }
}

/// One thing that the record says otherwise than the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What.
    pub what: String,
    /// As the store's record has it.
    pub store: String,
    /// As the record has it that would take its place.
    pub record: String,
}

/// A seal record that may go into the store, and what that changes.
pub struct Restoring {
    vault: String,
    differences: Vec<Difference>,
    remarks: Vec<String>,
    epochs: (u32, u32),
    stored: Vec<u8>,
    replaces: Revision,
}

impl Restoring {
    /// The id of the vault.
    pub fn vault(&self) -> &str {
        &self.vault
    }

    /// What would change; nothing where the store has this very record.
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// What an operator should know beyond that.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }
}

impl Vault {
    /// Looks whether a seal record may take the place of the one in the store, and what that changes. Changes nothing.
    ///
    /// # Errors
    /// `RestoreError`.
    pub async fn look_at_seal_record(&self, bytes: &[u8]) -> Result<Restoring, RestoreError> {
        let current = TrustedSeal::load(self.parts.storage.as_ref()).await?;
        let record = SealRecord::decode(bytes).map_err(RestoreError::NotARecord)?;
        let header = record.verify().map_err(RestoreError::NotARecord)?;
        let store = &current.header;
        let (given, stored) = (vault_id(&header).to_string(), vault_id(store).to_string());
        if given != stored {
            return Err(RestoreError::OtherVault { given, store: stored });
        }
        if !knows(store, &header.audit_key) {
            return Err(RestoreError::StrangeKey);
        }
        check_not_older(store, &header)?;
        let mut remarks = check_opens(store, &header)?;
        if header.epoch != store.epoch {
            remarks.push(format!(
                "The shares of epoch {} open this store afterwards, and those of epoch {} do not.",
                header.epoch, store.epoch
            ));
        }
        let differences = differences(&current, &record, &header);
        if differences.iter().any(|difference| difference.what.starts_with(PIN_BOXES)) {
            remarks.push(
                "Which PIN of a token is the newer is not written down: take the record that was exported last."
                    .to_owned(),
            );
        }
        Ok(Restoring {
            vault: stored,
            differences,
            remarks,
            epochs: (store.epoch, header.epoch),
            stored: record.encode(),
            replaces: current.revision,
        })
    }

    /// Puts it into the store: recorded before and after in the clear part of the log, since nothing is open.
    ///
    /// # Errors
    /// `RestoreError`; but for `PerhapsDone` nothing changed. With an answer, why the outcome could not be recorded, if
    /// it could not.
    pub async fn restore_seal_record(
        &self,
        restoring: &Restoring,
    ) -> Result<Option<VaultError>, RestoreError> {
        let _one_at_a_time = self.ceremony.lock().await;
        if self.is_unsealed() {
            return Err(VaultError::AlreadyUnsealed.into());
        }
        self.parts.audit.bind_origin(&format!("{}/{}", restoring.vault, self.parts.options.node))?;
        let detail = || -> Detail {
            let (before, after) = restoring.epochs;
            vec![
                ("vault", restoring.vault.clone()),
                ("former_epoch", before.to_string()),
                ("epoch", after.to_string()),
            ]
        };
        let entry = |kind, outcome, intent| {
            let action = "system:restore-seal-record";
            let entry = ClearEntry { kind, action, outcome, caller: None, intent, detail: detail() };
            entry.record(&self.parts.audit, self.parts.clock.as_ref())
        };
        let intent = entry(EntryKind::Intent, "", None).await?;
        let mut batch = Batch::new();
        let unchanged = Precondition::Revision(restoring.replaces);
        batch.require(Keyspace::Seal, keyspace::seal_record(), unchanged);
        batch.put(Keyspace::Seal, keyspace::seal_record(), restoring.stored.clone());
        // By this the next opening finds out what became of an intent without its outcome.
        batch.put(Keyspace::Intents, keyspace::intent(intent), Vec::new());
        let done = match self.parts.storage.commit(batch).await {
            Err(error @ StorageError::UnknownOutcome { .. }) => {
                return Err(RestoreError::PerhapsDone(error.into()));
            }
            done => done.map(drop).map_err(RestoreError::from),
        };
        let outcome = done.as_ref().map_or_else(RestoreError::reason, |()| "ok");
        let recorded = entry(EntryKind::Outcome, outcome, Some(intent)).await;
        done.map(|()| recorded.err())
    }
}

const PIN_BOXES: &str = "PIN of token";

/// Whether a header vouches for a key.
fn knows(header: &SealHeader, key: &VerifyingKey) -> bool {
    header.audit_key == *key || header.endorsed_keys.iter().any(|endorsed| endorsed.key == *key)
}

fn token<'a>(header: &'a SealHeader, serial: &str) -> Option<&'a TokenWay> {
    header.tokens().find(|token| token.serial == serial)
}

/// Epoch and versions only grow, whatever ways came and went.
fn check_not_older(store: &SealHeader, record: &SealHeader) -> Result<(), RestoreError> {
    let older = |what: String, store: u32, record: u32| {
        let what = format!("{what} {record} of the file is before {store} of the store");
        if record < store { Err(RestoreError::Older { what }) } else { Ok(()) }
    };
    older("share epoch".to_owned(), store.epoch, record.epoch)?;
    older("version of Q".to_owned(), store.q_version, record.q_version)?;
    // While two are named, which is oldest tells how far a rotation is.
    older("former version of Q".to_owned(), oldest_q(store), oldest_q(record))?;
    for token in record.tokens() {
        if let Some(before) = self::token(store, &token.serial) {
            let serial = &token.serial;
            older(format!("master key of token {serial}, version"), before.master, token.master)?;
            older(
                format!("oldest master key of token {serial}, version"),
                before.oldest_master,
                token.oldest_master,
            )?;
        }
    }
    Ok(())
}

fn oldest_q(header: &SealHeader) -> u32 {
    header.former_q_version.unwrap_or(header.q_version)
}

/// Whether what the store's own record opens is opened by the other, too. Remarks where that is not sure.
fn check_opens(store: &SealHeader, record: &SealHeader) -> Result<Vec<String>, RestoreError> {
    if oldest_q(record) > store.q_version {
        return Err(RestoreError::KeysGivenUp { what: format!("version {} of Q", store.q_version) });
    }
    let mut remarks = Vec::new();
    if oldest_q(record) > oldest_q(store) {
        remarks.push(format!("Data keys that are still under version {} of Q do not open.", oldest_q(store)));
    }
    let mut given_up = Vec::new();
    let mut whole = false;
    let mut some = false;
    for before in store.tokens() {
        match token(record, &before.serial) {
            Some(now) if now.oldest_master <= before.oldest_master => whole = true,
            Some(now) if now.oldest_master <= before.master => some = true,
            _ => given_up.push(format!("master key {} of token {}", before.master, before.serial)),
        }
    }
    match (whole, some) {
        (true, _) => Ok(remarks),
        (false, true) => {
            remarks.push("Data keys that are still under the oldest master key do not open.".to_owned());
            Ok(remarks)
        }
        (false, false) => Err(RestoreError::KeysGivenUp { what: given_up.join(" and ") }),
    }
}

/// What the record says otherwise, in words.
fn differences(current: &TrustedSeal, record: &SealRecord, header: &SealHeader) -> Vec<Difference> {
    let store = &current.header;
    let mut all = Vec::new();
    let mut differ = |what: String, store: String, record: String| {
        if store != record {
            all.push(Difference { what, store, record });
        }
    };
    differ("share epoch".to_owned(), store.epoch.to_string(), header.epoch.to_string());
    let quorum = |header: &SealHeader| format!("{} of {}", header.threshold, header.shares);
    differ("shares needed".to_owned(), quorum(store), quorum(header));
    let q = |header: &SealHeader| match header.former_q_version {
        Some(former) => format!("version {}, and {former} still", header.q_version),
        None => format!("version {}", header.q_version),
    };
    differ("Q".to_owned(), q(store), q(header));
    let key = |header: &SealHeader| data_encoding::HEXLOWER.encode(&header.audit_key.fingerprint());
    differ("audit key".to_owned(), key(store), key(header));
    let mut names: Vec<String> = store.ways.iter().chain(&header.ways).map(Way::name).collect();
    names.sort();
    names.dedup();
    let way = |header: &SealHeader, name: &str| {
        let found = header.ways.iter().find(|way| way.name() == name);
        match found {
            Some(Way::Token(token)) if token.oldest_master == token.master => {
                format!("master key {}", token.master)
            }
            Some(Way::Token(token)) => format!("master keys {} to {}", token.oldest_master, token.master),
            Some(Way::Recovery(_)) => "a way".to_owned(),
            None => "no way".to_owned(),
        }
    };
    for name in &names {
        differ(format!("way {name}"), way(store, name), way(header, name));
    }
    // At another epoch every box is another.
    if store.epoch == header.epoch {
        let pins = |header: &SealHeader, record: &SealRecord, name: &str| {
            let at = header.ways.iter().position(|way| way.name() == name);
            at.and_then(|at| record.boxes.get(at)).map(|boxes| boxes.pins.clone())
        };
        for name in &names {
            let (before, after) = (pins(store, &current.record, name), pins(header, record, name));
            if let (Some(before), Some(after)) = (before, after)
                && before != after
            {
                differ(format!("{PIN_BOXES} {name}"), "its box".to_owned(), "another box".to_owned());
            }
        }
        if all.is_empty() && current.record != *record {
            all.push(Difference {
                what: "boxes and signature".to_owned(),
                store: "as they are".to_owned(),
                record: "others".to_owned(),
            });
        }
    }
    all
}
