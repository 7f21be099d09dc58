//! PostgreSQL 15 and later.
//!
//! Invariant: the vault's admin login can only call the set-up functions ([`setup_script`]); rights sit on one group for each
//! role, which is read back whole when it is defined and from time to time after; a login is only a member of it, and is read
//! back each time. Absent: statements written by hand.

mod connect;
mod declared;
mod define;
mod error;
mod held;
mod link;
mod logins;
mod names;
mod probe;
mod setup;
mod static_logins;

use std::collections::BTreeSet;
use std::sync::Arc;

use keystead_core::engine::{AdminLogin, Credential, Engine, EngineError, Link, Setup};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::VaultId;
use keystead_domain::target::{TargetKind, TargetSettings};

use self::link::PostgresLink;
pub use self::setup::{ceiling_statements, mark, owner_role, setup_script};

/// Makes links to PostgreSQL databases.
#[derive(Debug, Default, Clone, Copy)]
pub struct PostgresEngine;

impl Engine for PostgresEngine {
    fn kind(&self) -> TargetKind {
        TargetKind::Postgres
    }

    fn setup(&self, vault: VaultId, setup: &Setup) -> String {
        let Setup::Postgres { database, admin, roles } = setup;
        // In the same transaction: pasted into another database, none of it is done.
        const END: &str = "COMMIT;\n";
        let mut script = setup_script(vault, database, admin);
        script.truncate(script.strip_suffix(END).map_or(script.len(), str::len));
        let mut given = BTreeSet::new();
        let statements = roles.iter().flat_map(|role| ceiling_statements(vault, database, role));
        // What two roles declare is granted once.
        for statement in statements.filter(|statement| given.insert(statement.clone())) {
            script.push('\n');
            script.push_str(&statement);
        }
        if !script.ends_with('\n') {
            script.push('\n');
        }
        script.push_str(END);
        script
    }

    fn credential(&self, settings: &TargetSettings, login: &str, secret: SecretBytes) -> Credential {
        let TargetSettings::Postgres(settings) = settings;
        link::credential(settings, login, secret)
    }

    fn link(
        &self,
        vault: VaultId,
        name: &str,
        settings: &TargetSettings,
        login: AdminLogin,
    ) -> Result<Arc<dyn Link>, EngineError> {
        let TargetSettings::Postgres(settings) = settings;
        match PostgresLink::new(vault, name, settings, login.secret) {
            Ok(link) => Ok(Arc::new(link)),
            Err(failure) => Err(failure.of(name, "")),
        }
    }
}
