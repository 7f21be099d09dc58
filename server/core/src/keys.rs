//! The keys of an open vault and what is done with them.
//!
//! Invariant: every long-lived key lies in the locked arena and is wiped when the vault seals. The cache holds inner
//! blobs, which are useless without Q.

use std::collections::HashMap;
use std::sync::Arc;

use getrandom::SysRng;
use keystead_crypto::CryptoError;
use keystead_crypto::aad::{Aad, label};
use keystead_crypto::envelope::{DataKey, InnerBlob, OpeningKey, Q, TokenWay, Way, WrappedDataKey};
use keystead_crypto::mac::LookupKey;
use keystead_crypto::names::NameKey;
use keystead_crypto::ports::Hsm;
use keystead_crypto::record::{self, SystemKey};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::{RecordId, VaultId};
use keystead_storage::Keyspace;
use quick_cache::sync::Cache;
use rand_core::{Rng, UnwrapErr};

use crate::error::VaultError;

/// The one tenant there is; every key, AAD and resource name has its place.
pub(crate) const TENANT: &str = "default";

/// Inner blobs kept: 64 KiB of them a thousand.
const INNER_BLOBS_KEPT: usize = 65_536;

/// The host's random source. A failing one aborts the process: nothing good can follow.
pub(crate) fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// A fresh random id.
pub(crate) fn fresh_id() -> RecordId {
    let mut id = [0; 16];
    rng().fill_bytes(&mut id);
    RecordId(id)
}

/// The keys of an open vault.
pub struct Keys {
    pub(crate) vault: VaultId,
    pub(crate) hsm: Arc<dyn Hsm>,
    pub(crate) token: String,
    pub(crate) master_version: u32,
    pub(crate) q: Q,
    pub(crate) systems: HashMap<[u8; 16], SystemKey>,
    pub(crate) current_system: [u8; 16],
    pub(crate) names: NameKey,
    pub(crate) lookup: LookupKey,
    pub(crate) inner_blobs: Cache<RecordId, Arc<InnerBlob>>,
}

impl Keys {
    pub(crate) fn inner_blob_cache() -> Cache<RecordId, Arc<InnerBlob>> {
        Cache::new(INNER_BLOBS_KEPT)
    }

    /// What binds a stored record to its place.
    pub(crate) fn aad<'a>(
        &self,
        label: &'static str,
        keyspace: Keyspace,
        record: &'a [u8],
        version: u64,
    ) -> Aad<'a> {
        Aad {
            label,
            vault: *self.vault.as_bytes(),
            tenant: TENANT,
            keyspace: keyspace.name(),
            record,
            version,
        }
    }

    fn way(&self) -> TokenWay<'_> {
        TokenWay { hsm: self.hsm.as_ref(), name: &self.token, master_version: self.master_version }
    }

    /// A fresh data key for one plaintext, and its `data_keys` record.
    pub(crate) async fn create_data_key(&self, id: RecordId) -> Result<(DataKey, Vec<u8>), VaultError> {
        let key = DataKey::generate(&mut rng());
        let creating = {
            let aad = self.aad(label::DATA_KEY, Keyspace::DataKeys, id.as_bytes(), 0);
            WrappedDataKey::create(vec![Way::Token(self.way())], &self.q, &aad, &key, &mut rng())
        };
        let created = creating.await.map_err(|error| data_key_error(error, id))?;
        self.inner_blobs.insert(id, Arc::new(created.inner));
        Ok((key, created.wrapped.encode()))
    }

    /// The data key, when its inner blob is at hand: no HSM, no store.
    pub(crate) fn cached_data_key(&self, id: RecordId) -> Option<Result<OpeningKey, VaultError>> {
        let inner = self.inner_blobs.get(&id)?;
        Some(self.open_inner(id, &inner))
    }

    /// Opens a `data_keys` record through the HSM.
    pub(crate) async fn open_data_key(&self, id: RecordId, stored: &[u8]) -> Result<OpeningKey, VaultError> {
        let wrapped = WrappedDataKey::decode(stored).map_err(|error| data_key_error(error, id))?;
        let aad = self.aad(label::DATA_KEY, Keyspace::DataKeys, id.as_bytes(), 0);
        let opened =
            wrapped.open(&[self.way()], &[&self.q], &aad).await.map_err(|error| data_key_error(error, id))?;
        self.inner_blobs.insert(id, Arc::new(opened.inner));
        Ok(opened.key)
    }

    /// Forgets a destroyed data key.
    pub(crate) fn forget_data_key(&self, id: RecordId) {
        self.inner_blobs.remove(&id);
    }

    /// Seals a system record under the current system data key.
    pub(crate) fn seal_record(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        plain: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        let failed = || corrupt(Keyspace::SystemKeys, &self.current_system);
        let system = self.systems.get(&self.current_system).ok_or_else(failed)?;
        let aad = self.aad(label_of(keyspace), keyspace, key, 0);
        record::seal_many(system, self.current_system, &aad, plain, &mut rng())
            .map_err(|_| corrupt(keyspace, key))
    }

    /// Opens a system record.
    pub(crate) fn open_record(
        &self,
        keyspace: Keyspace,
        key: &[u8],
        stored: &[u8],
    ) -> Result<SecretBytes, VaultError> {
        let failed = || corrupt(keyspace, key);
        let id = record::peek_key_id(stored).map_err(|_| failed())?;
        let system = self.systems.get(&id).ok_or_else(failed)?;
        let aad = self.aad(label_of(keyspace), keyspace, key, 0);
        record::open_many(system, id, &aad, stored).map_err(|_| failed())
    }

    fn open_inner(&self, id: RecordId, inner: &InnerBlob) -> Result<OpeningKey, VaultError> {
        let aad = self.aad(label::DATA_KEY, Keyspace::DataKeys, id.as_bytes(), 0);
        inner.open(&self.q, &aad).map_err(|error| data_key_error(error, id))
    }
}

/// The domain label of a keyspace's system records.
fn label_of(keyspace: Keyspace) -> &'static str {
    match keyspace {
        Keyspace::SecretMeta => label::SECRET_META,
        Keyspace::Directory => label::DIRECTORY,
        Keyspace::Principals => label::PRINCIPAL,
        Keyspace::PrincipalIndex => label::PRINCIPAL_INDEX,
        Keyspace::Policies => label::POLICY,
        Keyspace::Sessions => label::SESSION,
        Keyspace::Requests => label::REQUEST,
        Keyspace::AuditKeys => label::AUDIT_KEY,
        Keyspace::Meta => label::KEYRING,
        _ => label::OTHER_RECORD,
    }
}

fn data_key_error(error: CryptoError, id: RecordId) -> VaultError {
    match error {
        CryptoError::Hsm(error) => VaultError::Hsm(error),
        _ => corrupt(Keyspace::DataKeys, id.as_bytes()),
    }
}

/// A record that does not open, named by its place.
pub(crate) fn corrupt(keyspace: Keyspace, key: &[u8]) -> VaultError {
    VaultError::CorruptRecord { keyspace: keyspace.name(), key: data_encoding::HEXLOWER.encode(key) }
}
