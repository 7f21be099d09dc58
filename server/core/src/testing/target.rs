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
use tokio::sync::Notify;

use crate::engine::{
    AdminLogin, Credential, Definition, Engine, EngineError, Engines, Field, Finding, Found, Issued, Link,
    Order, Plan, Probe, Renewal, Setup,
};

/// A login in the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) secret: Vec<u8>,
    pub(crate) lasts: Duration,
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
    /// Calls that need the admin login are not answered before this.
    pub(crate) waits_for: Option<Arc<Notify>>,
    pub(crate) excess: Vec<Right>,
    pub(crate) baseline: Vec<Finding>,
    pub(crate) clock: Option<UnixMillis>,
    pub(crate) revocations: usize,
    /// Calls that need the admin login, taken or not.
    pub(crate) asked: usize,
    /// The admin login's password, once it was changed.
    pub(crate) admin: Option<Vec<u8>>,
    /// Passwords of logins that the vault did not make.
    pub(crate) others: BTreeMap<String, Vec<u8>>,
    /// How often such a login was not let in.
    pub(crate) refused: usize,
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

    fn setup(&self, vault: VaultId, _: &Setup) -> String {
        format!("-- vault {vault}")
    }

    fn credential(&self, _: &TargetSettings, login: &str, secret: SecretBytes) -> Credential {
        let login = Field::Plain(login.to_owned());
        Credential(vec![("username", login), ("password", Field::Secret(secret))])
    }

    fn link(
        &self,
        _: VaultId,
        name: &str,
        _: &TargetSettings,
        login: AdminLogin,
    ) -> Result<Arc<dyn Link>, EngineError> {
        let (name, targets) = (name.to_owned(), self.clone());
        Ok(Arc::new(MemoryLink { name, targets, admin: login.secret.expose().to_vec().into() }))
    }
}

struct MemoryLink {
    name: String,
    admin: Mutex<Vec<u8>>,
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
        let (away, takes, waits_for) = self.targets.inside(&self.name, |inside| {
            inside.asked += 1;
            (inside.away, inside.takes, inside.waits_for.clone())
        });
        tokio::time::sleep(takes).await;
        if let Some(waits_for) = waits_for {
            waits_for.notified().await;
        }
        self.let_in(away)?;
        self.targets.inside(&self.name, look)
    }

    fn let_in(&self, away: bool) -> Result<(), EngineError> {
        if away {
            return Err(self.unavailable());
        }
        let taken = self.targets.inside(&self.name, |inside| inside.admin.clone());
        if taken.as_deref().unwrap_or(b"admin") != self.admin.lock().unwrap().as_slice() {
            return Err(EngineError::admin_password(self.name.clone()));
        }
        Ok(())
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
        let away = self.targets.inside(&self.name, |inside| inside.away);
        self.let_in(away).map_err(|error| EngineError::NotAsked(Box::new(error)))?;
        let silent = self
            .there(|inside| {
                let secret = order.plan.secret.expose().to_vec();
                let login = Login { secret, lasts: order.lasts };
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
            let excess = excess.into_iter().map(Into::into).collect();
            return Err(EngineError::Excess { target, role, excess });
        }
        let secret = SecretBytes::copy_from(order.plan.secret.expose());
        let credential = Credential(vec![("password", Field::Secret(secret))]);
        Ok(Issued { credential, excess })
    }

    async fn renew(&self, handle: &Handle, lasts: Duration) -> Result<Renewal, EngineError> {
        let refused = EngineError::Refused { target: self.name.clone(), what: "no such login".to_owned() };
        self.there(|inside| {
            inside.logins.get_mut(&handle.name).ok_or(refused)?.lasts = lasts;
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

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Option<Vec<Found>>, EngineError> {
        self.there(|inside| {
            let names = inside.logins.keys().filter(|name| after.is_none_or(|after| name.as_str() > after));
            let found = |name: &String| {
                let (_, lease) = name.rsplit_once('_').unwrap();
                let handle = Handle { name: name.clone(), detail: Vec::new() };
                Found { lease: lease.parse().unwrap(), handle }
            };
            Ok(Some(names.take(limit).map(found).collect()))
        })
        .await
    }

    async fn now(&self) -> Result<Option<UnixMillis>, EngineError> {
        self.there(|inside| Ok(inside.clock)).await
    }

    fn new_secret(&self, rng: &mut dyn CryptoRng) -> SecretBytes {
        let mut secret = vec![0; 16];
        rng.fill_bytes(&mut secret);
        SecretBytes::new(secret)
    }

    async fn change_admin_secret(&self, new: &SecretBytes) -> Result<(), EngineError> {
        let secret = new.expose().to_vec();
        self.there(|inside| {
            inside.admin = Some(secret.clone());
            Ok(inside.silent)
        })
        .await
        .and_then(|silent| if silent { Err(self.unavailable()) } else { Ok(()) })?;
        *self.admin.lock().unwrap() = secret;
        Ok(())
    }

    async fn admin_secret_works(&self, secret: &SecretBytes) -> Result<bool, EngineError> {
        let (away, takes) = self.targets.inside(&self.name, |inside| (inside.away, inside.takes));
        tokio::time::sleep(takes).await;
        if away {
            return Err(self.unavailable());
        }
        let taken = self.targets.inside(&self.name, |inside| inside.admin.clone());
        Ok(taken.as_deref().unwrap_or(b"admin") == secret.expose())
    }

    async fn try_login(&self, login: &str, secret: &SecretBytes) -> Result<Option<Vec<Right>>, EngineError> {
        self.there(|inside| {
            let taken = inside.others.get(login).is_some_and(|password| password == secret.expose());
            inside.refused += usize::from(!taken);
            Ok(taken.then(|| inside.excess.clone()))
        })
        .await
    }

    async fn change_login_secret(
        &self,
        login: &str,
        old: &SecretBytes,
        new: &SecretBytes,
    ) -> Result<(), EngineError> {
        let refused = EngineError::Refused { target: self.name.clone(), what: "another password".to_owned() };
        let silent = self
            .there(|inside| {
                let password = inside.others.get_mut(login).filter(|password| *password == old.expose());
                *password.ok_or(refused)? = new.expose().to_vec();
                Ok(inside.silent)
            })
            .await?;
        if silent { Err(self.unavailable()) } else { Ok(()) }
    }
}
