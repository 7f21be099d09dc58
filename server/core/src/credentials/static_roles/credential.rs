//! Handing out the login of a static role.

use keystead_domain::name::Name;
use keystead_domain::policy::{Action, Resource};
use keystead_domain::static_role::{HandOut, StaticRoleRecord};
use keystead_storage::Keyspace;

use super::super::links::Whose;
use super::{described, find, target_of};
use crate::engine::Credential;
use crate::error::VaultError;
use crate::keys::corrupt;
use crate::operation::{Detail, Effect, Operation};
use crate::request::Permit;
use crate::unsealed::UnsealedVault;

/// Reads the login of a static role, with its password.
pub struct ReadStaticCredential {
    /// Which.
    pub name: Name,
}

/// What its holder logs in with.
pub struct StaticCredential {
    /// The login.
    pub credential: Credential,
    /// The role.
    pub record: StaticRoleRecord,
    /// The login's name.
    pub login: String,
}

impl Operation for ReadStaticCredential {
    type Output = StaticCredential;
    const ACTION: Action = Action::StaticRolesCredential;
    const EFFECT: Effect = Effect::Read;

    fn resource(&self) -> Resource {
        Resource::StaticRole(self.name.clone())
    }

    async fn handle(
        self,
        vault: &UnsealedVault,
        permit: Permit<Self>,
    ) -> Result<StaticCredential, VaultError> {
        let snapshot = permit.view(vault).await?;
        let (stored, _) = find(vault, &*snapshot, &self.name).await?;
        let target = target_of(vault, &*snapshot, &stored.record).await?;
        let (which, password) = match stored.record.schedule.handed_out() {
            HandOut::Kept(which) => (which, stored.password(which)),
            HandOut::Pending(which) => (which, stored.pending.as_ref()),
        };
        let id = stored.record.id;
        let password = password.ok_or_else(|| corrupt(Keyspace::StaticRoles, id.as_bytes()))?;
        let secret = vault.open_login(&*snapshot, Whose::of_static_role(id), password).await?;
        let settings = &target.record.settings;
        let login = stored.login(which).to_owned();
        let credential = vault.links.engine(settings.kind())?.credential(settings, &login, secret);
        Ok(StaticCredential { credential, record: stored.record, login })
    }

    fn detail(output: &StaticCredential) -> Detail {
        let mut detail = described(&output.record);
        detail.push(("login", output.login.clone()));
        detail
    }
}
