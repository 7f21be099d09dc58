//! Many live leases in a store without a target, for figures. Compiled with the feature `testing` only.

use futures::stream::{self, StreamExt, TryStreamExt};
use keystead_domain::id::RecordId;
use keystead_domain::lease::{Handle, LeaseRecord, NewLease};
use keystead_domain::name::Name;
use keystead_domain::principal::PrincipalName;
use keystead_domain::time::Ttl;
use keystead_storage::Batch;

use super::store;
use crate::credentials::CredentialError;
use crate::error::VaultError;
use crate::keys::fresh_id;
use crate::unsealed::UnsealedVault;

/// As many as one batch of the storage takes.
const A_BATCH: usize = 9;
const BATCHES_IN_FLIGHT: usize = 32;
const OWNERS: usize = 1_000;
const ROLES: usize = 100;

impl UnsealedVault {
    /// Stores so many active leases of a thousand services from a hundred roles. None is due within a day.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn plant_leases(&self, count: usize) -> Result<(), VaultError> {
        let batches = (0..count).step_by(A_BATCH).map(|from| self.plant(from..count.min(from + A_BATCH)));
        stream::iter(batches).buffer_unordered(BATCHES_IN_FLIGHT).try_collect().await
    }

    async fn plant(&self, numbers: std::ops::Range<usize>) -> Result<(), VaultError> {
        let mut batch = Batch::new();
        for number in numbers {
            store::put(self, &mut batch, &self.planted(number)?, None)?;
        }
        self.commit(None, batch).await.map(drop)
    }

    fn planted(&self, number: usize) -> Result<LeaseRecord, VaultError> {
        let invalid = |rule: String| VaultError::Invalid { field: "planted", rule };
        let (owner, role) = (format!("service-{}", number % OWNERS), format!("role-{}", number % ROLES));
        let id = |of: usize| RecordId(u128::try_from(of).unwrap_or_default().to_be_bytes());
        let now = self.leases.clock.now();
        let period = Ttl::from_secs(86_400).map_err(|error| invalid(error.to_string()))?;
        let mut lease = LeaseRecord::begin(NewLease {
            id: fresh_id(),
            owner: PrincipalName::service(&owner).map_err(|error| invalid(error.to_string()))?,
            owner_generation: 1,
            session: None,
            role: Name::parse(&role).map_err(|error| invalid(error.to_string()))?,
            role_id: id(number % ROLES),
            target: Name::parse("planted").map_err(|error| invalid(error.to_string()))?,
            target_id: id(ROLES),
            handle: Handle { name: format!("ks_00000000_{role}_{number:032x}"), detail: vec![0; 40] },
            now,
            period,
            max_expires: now.plus(period),
        })
        .map_err(|error| invalid(error.to_string()))?;
        lease.activate().map_err(CredentialError::from)?;
        Ok(lease)
    }
}
