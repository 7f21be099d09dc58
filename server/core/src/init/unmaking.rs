//! What keeps init from harm: it begins only where nothing of a vault is, and what it cannot hand over it takes back.
//!
//! Invariant: no seal record stays in the store whose shares nobody holds, as far as store and token can be reached.

use keystead_audit::{EntryKind, OpenError};
use keystead_crypto::ports::Hsm;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::id::VaultId;
use keystead_storage::{Batch, Keyspace, Range, keyspace};

use super::VAULT_KEYS;
use crate::audit_trail::{ClearCaller, ClearEntry};
use crate::error::VaultError;
use crate::vault::Vault;

impl Vault {
    /// A new vault takes a store and an audit log that are nobody's: it would overwrite the keys of what is there.
    pub(super) async fn check_unused(&self) -> Result<(), VaultError> {
        if let Some(seal) = self.seal_record().await? {
            return Err(VaultError::AlreadyInitialized { vault: VaultId(seal.header.vault).to_string() });
        }
        let snapshot = self.parts.storage.snapshot().await?;
        for space in Keyspace::ALL.into_iter().filter(|space| *space != Keyspace::Meta) {
            if !snapshot.range(space, Range::all(None), 1).await?.is_empty() {
                return Err(VaultError::NotEmpty { keyspace: space.name() });
            }
        }
        if snapshot.get(Keyspace::Meta, &keyspace::meta_keyring()).await?.is_some() {
            return Err(VaultError::NotEmpty { keyspace: Keyspace::Meta.name() });
        }
        match self.parts.audit.origin() {
            Some(stored) => Err(VaultError::AuditOrigin(OpenError::OriginMismatch {
                stored,
                given: "a new vault".to_owned(),
            })),
            None => Ok(()),
        }
    }

    /// The operator hung up, so nobody has the shares.
    pub(super) async fn abandon(&self, caller: ClearCaller, id: VaultId, pin: &SecretBytes) {
        let unmade = self.unmake(id, pin).await;
        if let Err(error) = &unmade {
            tracing::error!(vault = %id, %error, "a vault whose shares nobody received could not be unmade");
        }
        let entry = ClearEntry {
            kind: EntryKind::System,
            action: "system:unmake",
            outcome: unmade.as_ref().map_or_else(VaultError::reason, |()| "ok"),
            caller: Some(caller),
            intent: None,
            detail: vec![("vault", id.to_string())],
        };
        if let Err(error) = entry.record(&self.parts.audit, self.parts.clock.as_ref()).await {
            tracing::error!(vault = %id, %error, "unmaking a vault could not be recorded");
        }
    }

    /// Takes back a vault whose making could not be recorded: nobody holds its shares.
    pub(super) async fn unmake(&self, id: VaultId, pin: &SecretBytes) -> Result<(), VaultError> {
        let emptied = self.empty_store().await;
        self.parts.hsm.login(SecretBytes::copy_from(pin.expose())).await?;
        destroy_keys(self.parts.hsm.as_ref(), id).await;
        self.parts.hsm.logout().await;
        emptied
    }

    /// Removes what init put there; nothing else can be.
    pub(super) async fn empty_store(&self) -> Result<(), VaultError> {
        let snapshot = self.parts.storage.snapshot().await?;
        let mut batch = Batch::new();
        for space in Keyspace::ALL.into_iter().filter(|space| *space != Keyspace::Meta) {
            for (key, _) in snapshot.range(space, Range::all(None), 64).await? {
                batch.delete(space, key);
            }
        }
        batch.delete(Keyspace::Meta, keyspace::meta_keyring());
        self.parts.storage.commit(batch).await?;
        Ok(())
    }
}

/// All that the token holds of it: an anchor is first made when the vault opens.
pub(super) async fn destroy_keys(hsm: &dyn Hsm, id: VaultId) {
    for key in VAULT_KEYS {
        if let Err(error) = hsm.destroy_key(id.tag(), key).await {
            tracing::error!(vault = %id, ?key, %error, "a key of an unmade vault stays in the token; destroy it by hand");
        }
    }
}
