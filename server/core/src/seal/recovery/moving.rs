//! One more wrap for every data key, made from what the recovery key opens.
//!
//! Invariant: a wrap counts once the token opened it; one of an earlier run counts only if it opens still. What the recovery
//! key opens stays in each record.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use keystead_crypto::CryptoError;
use keystead_crypto::aad::label;
use keystead_crypto::envelope::{InnerBlob, MAX_WRAPS, Way, WrappedDataKey};
use keystead_crypto::recovery::RecoveryIdentity;
use keystead_domain::id::RecordId;
use keystead_storage::{Batch, Keyspace, Precondition, Range, Revision, Storage, keyspace};

use super::Witness;
use crate::clock::Clock;
use crate::error::VaultError;
use crate::keys::ways::Ways;
use crate::keys::{Keys, data_key_error};
use crate::rotation::estimate;

/// Data keys in one batch, with a precondition each.
const A_BATCH: usize = 20;
/// Data keys under way at a time.
const IN_FLIGHT: usize = 4;

/// How far the data keys are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Data keys looked at.
    pub looked: u64,
    /// Wrapped by the new token in this run.
    pub wrapped: u64,
    /// Not opened by the recovery key.
    pub left_behind: u64,
    /// Data keys in all, estimated from how far this is through their random ids.
    pub estimated_total: u64,
    /// Data keys looked at in a second.
    pub rate: u64,
}

/// The pass over all data keys.
pub(super) struct Moving<'a> {
    pub(super) keys: &'a Keys,
    pub(super) storage: &'a dyn Storage,
    pub(super) clock: &'a dyn Clock,
    pub(super) identity: &'a RecoveryIdentity,
    pub(super) witness: &'a dyn Witness,
}

enum Turned {
    /// An earlier run did it.
    Had,
    Wrapped(WrappedDataKey),
    Lost(&'static str),
}

impl Moving<'_> {
    pub(super) async fn run(&self) -> Result<Moved, VaultError> {
        let ways = self.keys.ways();
        let began = self.clock.monotonic();
        let mut moved = Moved::default();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let snapshot = self.storage.snapshot().await?;
            let page = snapshot.range(Keyspace::DataKeys, Range::all(after.as_deref()), A_BATCH).await?;
            drop(snapshot);
            let Some((last, _)) = page.last() else { break };
            after = Some(last.to_vec());
            let id = <[u8; 16]>::try_from(last.as_ref()).unwrap_or([0xff; 16]);
            let ways = &ways;
            let turned: Vec<_> = stream::iter(page)
                .map(|(key, stored)| async move {
                    (self.turn(ways, &key, &stored.value).await, key, stored.revision)
                })
                .buffered(IN_FLIGHT)
                .collect()
                .await;
            let mut batch = Batch::new();
            for (turned, key, revision) in turned {
                moved.looked = moved.looked.saturating_add(1);
                match turned? {
                    Turned::Had => {}
                    Turned::Wrapped(wrapped) => {
                        moved.wrapped = moved.wrapped.saturating_add(1);
                        put(&mut batch, &key, revision, &wrapped);
                    }
                    Turned::Lost(why) => {
                        moved.left_behind = moved.left_behind.saturating_add(1);
                        self.witness.left_behind(&data_encoding::HEXLOWER.encode(&key), why);
                    }
                }
            }
            if !batch.operations().is_empty() {
                if let Some(seal) = ways.seal {
                    batch.require(Keyspace::Seal, keyspace::seal_record(), Precondition::Revision(seal));
                }
                self.storage.commit(batch).await?;
            }
            moved.estimated_total = estimate(moved.looked, id);
            moved.rate = rate(moved.looked, self.clock.monotonic().saturating_sub(began));
            self.witness.moved(&moved);
        }
        moved.estimated_total = moved.looked;
        Ok(moved)
    }

    async fn turn(&self, ways: &Ways, key: &[u8], stored: &[u8]) -> Result<Turned, VaultError> {
        let Ok(id) = <[u8; 16]>::try_from(key) else { return Ok(Turned::Lost("its id is malformed")) };
        let (mut wrapped, inner) = match open_by_recovery(self.keys, self.identity, id, stored) {
            Ok(opened) => opened,
            Err(why) => return Ok(Turned::Lost(why)),
        };
        let reached = ways.reached();
        let Some(token) = reached.first() else {
            return Err(VaultError::TokenAway { token: "to move to".to_owned() });
        };
        let aad = || self.keys.aad(label::DATA_KEY, Keyspace::DataKeys, &id, 0);
        let failed = |error| data_key_error(error, RecordId(id));
        let way = token.way();
        if wrapped.has(&Way::Token(way), inner.q_version()) {
            match wrapped.open(&[way], &ways.qs(), &aad()).await {
                Ok(_) => return Ok(Turned::Had),
                Err(CryptoError::Hsm(error)) => return Err(error.into()),
                // Made by a token of this name that is no more.
                Err(_) => {}
            }
        }
        while let Err(wanted) = self.keys.count_wraps(std::slice::from_ref(token)) {
            self.keys.reserve_wraps(self.storage, &wanted).await?;
        }
        // Other wraps of this name open no more, and every token that made one is lost.
        let full = wrapped.wraps().len() >= MAX_WRAPS;
        wrapped.drop_wraps(|wrap| wrap.master_version > 0 && (full || wrap.token == way.name));
        wrapped.add_wrap(Way::Token(way), &inner, &aad()).await.map_err(failed)?;
        Ok(Turned::Wrapped(wrapped))
    }
}

/// The record of a data key and its inner blob, or why the recovery key does not open it.
pub(super) fn open_by_recovery(
    keys: &Keys,
    identity: &RecoveryIdentity,
    id: [u8; 16],
    stored: &[u8],
) -> Result<(WrappedDataKey, InnerBlob), &'static str> {
    let wrapped = WrappedDataKey::decode(stored).map_err(|_| "its record is malformed")?;
    let aad = keys.aad(label::DATA_KEY, Keyspace::DataKeys, &id, 0);
    match wrapped.open_recovery(identity, &keys.ways().qs(), &aad) {
        Ok(opened) => Ok((wrapped, opened.inner)),
        Err(CryptoError::NoWrapForToken { .. }) => Err("it has no recovery wrap"),
        Err(_) => Err("its recovery wrap does not open"),
    }
}

fn put(batch: &mut Batch, key: &[u8], revision: Revision, wrapped: &WrappedDataKey) {
    batch.require(Keyspace::DataKeys, key.to_vec(), Precondition::Revision(revision));
    batch.put(Keyspace::DataKeys, key.to_vec(), wrapped.encode());
}

fn rate(looked: u64, took: Duration) -> u64 {
    let rate = u128::from(looked).saturating_mul(1000) / took.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}
