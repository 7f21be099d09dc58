//! A target in memory for this crate's tests: it outlives every vault that uses it, is away, slow or unwilling on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::VaultId;
use keystead_domain::id::RecordId;
use keystead_domain::lease::Handle;
use keystead_domain::rights::Right;
use keystead_domain::role::RoleRecord;
use keystead_domain::target::{TargetKind, TargetSettings};
use keystead_domain::time::UnixMillis;
use rand_core::CryptoRng;

use crate::engine::{
    AdminLogin, Credential, Definition, Engine, EngineError, Engines, Field, Finding, Found, Issued, Link,
    Order, Plan, Probe, Renewal,
};

/// A login in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) secret: Vec<u8>,
    pub(crate) not_after: UnixMillis,
}

#[derive(Default)]
pub(crate) struct Inside {
    pub(crate) logins: BTreeMap<String, Login>,
    pub(crate) roles: Vec<RecordId>,
    /// It does not answer.
    pub(crate) away: bool,
    /// It says no to a removal.
    pub(crate) keeps: bool,
    /// It makes the login, and the answer is lost.
    pub(crate) silent: bool,
    pub(crate) takes: Duration,
    pub(crate) excess: Vec<Right>,
    pub(crate) baseline: Vec<Finding>,
    pub(crate) clock: Option<UnixMillis>,
    pub(crate) revocations: usize,
}

/// All targets of a bench, by name.
#[derive(Default, Clone)]
pub(crate) struct MemoryTargets(Arc<Mutex<BTreeMap<String, Inside>>>);

impl MemoryTargets {
    pub(crate) fn engines(&self) -> Engines {
        let engine: Arc<dyn Engine> = Arc::new(self.clone());
        Engines::new([engine])
    }

    /// Looks into a target, or changes it.
    pub(crate) fn inside<T>(&self, name: &str, look: impl FnOnce(&mut Inside) -> T) -> T {
        look(self.all().entry(name.to_owned()).or_default())
    }

    pub(crate) fn logins(&self, name: &str) -> usize {
        self.inside(name, |inside| inside.logins.len())
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Inside>> {
        self.0.lock().unwrap()
    }
}

impl Engine for MemoryTargets {
    fn kind(&self) -> TargetKind {
        TargetKind::Postgres
    }

    fn link(
        &self,
        _: VaultId,
        name: &str,
        _: &TargetSettings,
        login: AdminLogin,
    ) -> Result<Arc<dyn Link>, EngineError> {
        assert_eq!(login.secret.expose(), b"admin");
        Ok(Arc::new(MemoryLink { name: name.to_owned(), targets: self.clone() }))
    }
}

struct MemoryLink {
    name: String,
    targets: MemoryTargets,
}

impl MemoryLink {
    fn unavailable(&self) -> EngineError {
        EngineError::Unavailable { target: self.name.clone(), what: "it is away".to_owned() }
    }

    async fn there<T>(
        &self,
        look: impl FnOnce(&mut Inside) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let (away, takes) = self.targets.inside(&self.name, |inside| (inside.away, inside.takes));
        tokio::time::sleep(takes).await;
        if away {
            return Err(self.unavailable());
        }
        self.targets.inside(&self.name, look)
    }
}

#[async_trait]
impl Link for MemoryLink {
    fn plan(&self, role: &RoleRecord, lease: RecordId, rng: &mut dyn CryptoRng) -> Plan {
        let mut secret = vec![0; 16];
        rng.fill_bytes(&mut secret);
        let handle = Handle { name: format!("{}_{lease}", role.name), detail: Vec::new() };
        Plan { handle, secret: SecretBytes::new(secret) }
    }

    async fn probe(&self) -> Result<Probe, EngineError> {
        self.there(|inside| {
            let baseline = inside.baseline.clone();
            Ok(Probe { version: "memory".to_owned(), baseline, admin_excess: Vec::new() })
        })
        .await
    }

    async fn define(&self, role: &RoleRecord, _: &[String]) -> Result<Definition, EngineError> {
        self.there(|inside| {
            inside.roles.push(role.id);
            Ok(Definition::default())
        })
        .await
    }

    async fn verify(&self, _: &RoleRecord, _: &[String]) -> Result<Definition, EngineError> {
        self.there(|_| Ok(Definition::default())).await
    }

    async fn undefine(&self, role: RecordId) -> Result<(), EngineError> {
        self.there(|inside| {
            inside.roles.retain(|other| *other != role);
            Ok(())
        })
        .await
    }

    async fn issue(&self, order: Order<'_>) -> Result<Issued, EngineError> {
        let silent = self
            .there(|inside| {
                let secret = order.plan.secret.expose().to_vec();
                let login = Login { secret, not_after: order.not_after };
                inside.logins.insert(order.plan.handle.name.clone(), login);
                Ok(inside.silent)
            })
            .await?;
        if silent {
            return Err(self.unavailable());
        }
        let excess = self.targets.inside(&self.name, |inside| inside.excess.clone());
        if !excess.is_empty() {
            let (target, role) = (self.name.clone(), order.role.name.to_string());
            return Err(EngineError::Excess { target, role, excess });
        }
        let secret = SecretBytes::copy_from(order.plan.secret.expose());
        let credential = Credential(vec![("password", Field::Secret(secret))]);
        Ok(Issued { credential, excess })
    }

    async fn renew(&self, handle: &Handle, not_after: UnixMillis) -> Result<Renewal, EngineError> {
        let refused = EngineError::Refused { target: self.name.clone(), what: "no such login".to_owned() };
        self.there(|inside| {
            inside.logins.get_mut(&handle.name).ok_or(refused)?.not_after = not_after;
            Ok(Renewal::Renewed)
        })
        .await
    }

    async fn revoke(&self, handle: &Handle) -> Result<(), EngineError> {
        let refused = EngineError::Refused { target: self.name.clone(), what: "it owns a table".to_owned() };
        self.there(|inside| {
            inside.revocations += 1;
            if inside.keeps {
                return Err(refused);
            }
            inside.logins.remove(&handle.name);
            Ok(())
        })
        .await
    }

    async fn list(&self, _: Option<&str>, _: usize) -> Result<Vec<Found>, EngineError> {
        Ok(Vec::new())
    }

    async fn now(&self) -> Result<Option<UnixMillis>, EngineError> {
        self.there(|inside| Ok(inside.clock)).await
    }

    async fn change_admin_secret(&self, _: &SecretBytes) -> Result<(), EngineError> {
        Err(self.unavailable())
    }

    async fn admin_secret_works(&self, _: &SecretBytes) -> Result<bool, EngineError> {
        Err(self.unavailable())
    }
}
