//! PINs that tokens refused when nobody was there, and whether the server reads the right one.
//!
//! Invariant: a PIN of a vault that opens by itself is refused by a token once. Later starts do not send it again, whether or
//! not the token has flags that tell of wrong PINs, before a quorum opened the vault and the server is seen to read the PIN
//! that the token took. Absent: the PINs themselves; the store has the token's serial only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keystead_crypto::arena::LockedBytes;
use keystead_crypto::secret::SecretBytes;
use keystead_storage::{Batch, Keyspace, Range, Storage, StorageError, keyspace};
use subtle::ConstantTimeEq;

use super::auto_unseal::{self, PinSource};
use crate::error::VaultError;
use crate::keys::link::Link;
use crate::unsealed::UnsealedVault;
use crate::vault::Vault;

/// What an operator is told.
const NOT_READ: &str = "the vault is to open by itself, and the server does not read the token's PIN: put it where the \
     configuration says before the next start, or the vault waits for a quorum then";
/// Tokens at most.
const TOKENS: usize = 64;

/// Whether the token refused the PIN.
pub(super) async fn is_there(storage: &dyn Storage, serial: &str) -> Result<bool, StorageError> {
    let at = keyspace::meta_refused_pin(serial);
    Ok(storage.snapshot().await?.get(Keyspace::Meta, &at).await?.is_some())
}

/// The serials of all tokens that did.
pub(super) async fn all(storage: &dyn Storage) -> Result<Vec<String>, StorageError> {
    let begin = keyspace::meta_refused_pins();
    let range = Range::prefix(begin.clone(), None);
    let notes = storage.snapshot().await?.range(Keyspace::Meta, range, TOKENS).await?;
    let serial =
        |key: &[u8]| key.get(begin.len()..).map(|serial| String::from_utf8_lossy(serial).into_owned());
    Ok(notes.iter().filter_map(|(key, _)| serial(key)).collect())
}

/// Remembers that a token refused the PIN. What cannot be written is remembered by the port until the process ends.
pub(super) async fn note(storage: &dyn Storage, serial: &str) {
    let mut batch = Batch::new();
    batch.put(Keyspace::Meta, keyspace::meta_refused_pin(serial), Vec::new());
    if let Err(error) = storage.commit(batch).await {
        tracing::error!(%error, token = serial, "that a token refused its PIN cannot be written down: do not start the server again before the PIN is put right");
    }
}

/// The same for each token that did.
pub(super) async fn note_all(storage: &dyn Storage, links: &[Arc<Link>]) {
    for serial in links.iter().filter_map(|link| link.refused_serial()) {
        match is_there(storage, &serial).await {
            Ok(true) => {}
            _ => note(storage, &serial).await,
        }
    }
}

/// Compares what the server would open the vault with by itself with what its tokens took; where it is the same, tokens that
/// took it may hear it again.
///
/// # Errors
/// Those of the store; the next call tries again.
pub(super) async fn look_at_source(vault: &Vault, open: &UnsealedVault) -> Result<(), VaultError> {
    let storage = open.storage.as_ref();
    if !auto_unseal::is_enabled(storage).await? {
        open.auto_pin.forget();
        return Ok(());
    }
    let links = open.keys.ways().links.clone();
    note_all(storage, &links).await;
    if !open.auto_pin.look(vault.parts.auto_pin.as_deref()) {
        return Ok(());
    }
    let mut batch = Batch::new();
    let range = Range::prefix(keyspace::meta_refused_pins(), None);
    for (key, _) in storage.snapshot().await?.range(Keyspace::Meta, range, TOKENS).await? {
        let took = |link: &Arc<Link>| {
            link.ready_serial()
                .is_some_and(|serial| keyspace::meta_refused_pin(&serial).as_slice() == key.as_ref())
        };
        if links.iter().any(took) {
            batch.delete(Keyspace::Meta, key);
        }
    }
    if !batch.operations().is_empty() {
        storage.commit(batch).await?;
    }
    Ok(())
}

/// The token has another PIN: says at once if the server would not open the vault with it.
pub(super) async fn expect_changed(vault: &Vault, open: &UnsealedVault, new: &SecretBytes) {
    if auto_unseal::is_enabled(open.storage.as_ref()).await.unwrap_or(true) {
        open.auto_pin.expect(new);
        open.auto_pin.look(vault.parts.auto_pin.as_deref());
    }
}

/// What the PIN is that the server should read, while the vault is open, and what is wrong with what it reads.
#[derive(Default)]
pub(crate) struct AutoPinWatch {
    expected: Mutex<Option<LockedBytes>>,
    warning: Mutex<Option<String>>,
}

impl AutoPinWatch {
    /// The tokens take this one now.
    pub(crate) fn expect(&self, pin: &SecretBytes) {
        *lock(&self.expected) = Some(LockedBytes::copy_from(pin.expose()));
    }

    /// The vault does not open by itself.
    fn forget(&self) {
        *lock(&self.expected) = None;
        *lock(&self.warning) = None;
    }

    /// What an operator should mend before the next start.
    pub(crate) fn warning(&self) -> Option<String> {
        lock(&self.warning).clone()
    }

    /// Whether the server reads the PIN that the tokens take.
    fn look(&self, source: Option<&dyn PinSource>) -> bool {
        let wrong = {
            let expected = lock(&self.expected);
            let Some(expected) = expected.as_ref() else { return false };
            match source.map(|source| (source.describe(), source.pin())) {
                None => Some("the configuration names none".to_owned()),
                Some((_, Err(what))) => Some(what),
                Some((from, Ok(pin))) if !bool::from(pin.expose().ct_eq(expected.expose())) => {
                    Some(format!("the one in {from} is not the token's"))
                }
                Some((_, Ok(_))) => None,
            }
        };
        let fine = wrong.is_none();
        let mut warning = lock(&self.warning);
        if let Some(wrong) = wrong.filter(|_| warning.is_none()) {
            tracing::warn!("{NOT_READ} ({wrong})");
        }
        // Anybody may ask for the status, and where the PIN lies is not for everybody.
        *warning = (!fine).then(|| NOT_READ.to_owned());
        fine
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
