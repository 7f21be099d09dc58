//! The port, filled for one database: takes a connection, bounds the call, names the target in what went wrong.
//!
//! Invariant: a call ends in time; a connection whose state is not known is let go. A group counts as read back for a minute,
//! and only for the declaration and the accepted findings that it was compared with.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use deadpool::managed::{Object, Pool, PoolError, Timeouts};
use deadpool_postgres::ClientWrapper;
use getrandom::SysRng;
use keystead_core::engine::{
    Credential, Definition, EngineError, Excess, Field, Found, Issued, Link, Order, Plan, Probe, Renewal,
};
use keystead_crypto::password;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::VaultId;
use keystead_domain::id::RecordId;
use keystead_domain::lease::Handle;
use keystead_domain::rights::Right;
use keystead_domain::rights::postgres::PostgresRole;
use keystead_domain::role::{Declaration, OnExcess, RoleRecord};
use keystead_domain::target::{MAX_CONNECTIONS, PostgresSettings};
use keystead_domain::time::UnixMillis;
use rand_core::{CryptoRng, Rng, UnwrapErr};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::connect::Connector;
use super::define::{self, Place};
use super::error::Failure;
use super::logins::{self, Detail, NewLogin, Verifier};
use super::names::{self, Names};
use super::{probe, static_logins};
use crate::statements::identifier;

/// A call takes no longer; what it did is not known then. With the time to get a connection and the server's own limit on
/// statements this stays below the minute after which a lease gives a login up, so that none is made behind its back.
const CALL: Duration = Duration::from_secs(20);
/// How long a request waits for one of the link's connections, and then for a new one to be made.
const TURN: Duration = Duration::from_secs(10);
/// What is left of a probe that began so long ago is in nobody's use, in milliseconds.
const PROBE_IS_OVER: u64 = 120_000;
/// A group that was read back longer ago is read back whole before a login of it is made.
const LOOKED_AT: Duration = Duration::from_secs(60);

/// Sessions of logins that the vault did not make, at a time; beside the link's own.
const VISITS: usize = 2;

/// One database.
pub(super) struct PostgresLink {
    /// The target's name, for errors.
    name: String,
    names: Names,
    pool: Pool<Connector>,
    looked_at: Mutex<HashMap<RecordId, LookedAt>>,
    /// Sessions of logins that the vault did not make.
    visits: Semaphore,
}

/// When a group was last read back whole, against what, and with which excess.
struct LookedAt {
    at: Instant,
    definition: UnixMillis,
    accepted: Vec<String>,
    excess: Vec<Right>,
}

impl PostgresLink {
    pub(super) fn new(
        vault: VaultId,
        name: &str,
        settings: &PostgresSettings,
        secret: SecretBytes,
    ) -> Result<Self, Failure> {
        let connections = usize::from(settings.connections.clamp(1, MAX_CONNECTIONS));
        let pool = Pool::builder(Connector::new(settings.clone(), secret)?)
            .max_size(connections)
            .timeouts(Timeouts { wait: Some(TURN), create: Some(TURN), recycle: Some(TURN) })
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| Failure::Unavailable(error.to_string()))?;
        let names = Names::new(vault, &settings.database);
        let visits = Semaphore::new(VISITS);
        Ok(Self { name: name.to_owned(), names, pool, looked_at: Mutex::default(), visits })
    }

    async fn session(&self) -> Result<Object<Connector>, Failure> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(failure) => failure,
            PoolError::Timeout(_) => Failure::Unavailable("no connection was free in time".to_owned()),
            _ => Failure::Unavailable("the link is closed".to_owned()),
        })
    }

    fn settings(&self) -> &PostgresSettings {
        self.pool.manager().settings()
    }

    fn place<'a>(&'a self, group: &'a str, role: &'a RoleRecord, accepted: &'a [String]) -> Place<'a> {
        let Declaration::Postgres(role) = &role.declaration;
        Place { names: &self.names, database: &self.settings().database, group, role, accepted }
    }

    /// Brings the target in line within a transaction, which is kept if `keep` says so.
    async fn define_or_not(
        &self,
        role: &RoleRecord,
        accepted: &[String],
        keep: impl FnOnce(&Definition) -> Result<bool, Failure> + Send,
    ) -> Result<Definition, Failure> {
        let mut session = self.session().await?;
        let group = self.names.group(role.id);
        let place = self.place(&group, role, accepted);
        let done = within(async {
            let transaction = session.transaction().await?;
            let definition = define::bring_in_line(&*transaction, &place).await?;
            match keep(&definition) {
                Ok(true) => transaction.commit().await?,
                Ok(false) => transaction.rollback().await?,
                Err(failure) => {
                    transaction.rollback().await?;
                    return Err(failure);
                }
            }
            Ok(definition)
        })
        .await;
        settle(session, done)
    }

    /// What a role's group can do beyond its declaration, read back at most a minute ago.
    async fn group_excess(
        &self,
        session: &Object<Connector>,
        order: &Order<'_>,
        group: &str,
    ) -> Result<Vec<Right>, Failure> {
        let known =
            self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).get(&order.role.id).and_then(
                |looked| {
                    let counts = looked.at.elapsed() < LOOKED_AT
                        && looked.definition == order.role.changed
                        && looked.accepted == order.accepted;
                    counts.then(|| looked.excess.clone())
                },
            );
        if let Some(excess) = known {
            return Ok(excess);
        }
        let place = self.place(group, order.role, order.accepted);
        let definition = define::look(&***session, &place).await?;
        refuse_excess(order.role, definition.excess_with_remedies())?;
        self.note(order.role, order.accepted, &definition);
        Ok(definition.excess)
    }

    fn note(&self, role: &RoleRecord, accepted: &[String], definition: &Definition) {
        let looked = LookedAt {
            at: Instant::now(),
            definition: role.changed,
            accepted: accepted.to_vec(),
            excess: definition.excess.clone(),
        };
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).insert(role.id, looked);
    }

    async fn make(&self, session: &Object<Connector>, order: &Order<'_>) -> Result<Vec<Right>, Failure> {
        let group = self.names.group(order.role.id);
        let mut excess = self.group_excess(session, order, &group).await?;
        let Declaration::Postgres(declared) = &order.role.declaration;
        define::catch_up(session, &self.place(&group, order.role, order.accepted)).await?;
        let verifier = Verifier::of(&order.plan.secret).await?;
        let new = NewLogin {
            login: &order.plan.handle.name,
            group: &group,
            verifier: &verifier,
            role: declared,
            lasts: order.lasts,
        };
        let own = logins::issue(session, &self.names, &new).await?;
        refuse_excess(order.role, own.iter().cloned().map(Into::into).collect())?;
        excess.extend(own);
        Ok(excess)
    }

    /// Makes a group and a login that may connect, and removes both, whatever happened.
    async fn try_once(&self, session: &Object<Connector>) -> Result<(), Failure> {
        let mut rng = UnwrapErr(SysRng);
        let mut random = [0; 4];
        rng.fill_bytes(&mut random);
        let role = PostgresRole::default();
        let now = server_time(session).await?;
        self.clear_probes(session, now).await?;
        let (login, group) = self.names.probe(now, random);
        let verifier = Verifier::of(&password::generate(&mut rng)).await?;
        let schema = identifier(self.names.schema());
        let made = async {
            session.query(&format!("SELECT {schema}.define($1)"), &[&group]).await?;
            let connect =
                format!("SELECT {schema}.give($1, false, 'database', '', '', '{{}}', ARRAY['CONNECT'])");
            session.query(&connect, &[&group]).await?;
            // Ended from the start: nobody knows its password either.
            let lasts = Duration::ZERO;
            let new = NewLogin { login: &login, group: &group, verifier: &verifier, role: &role, lasts };
            let own = logins::issue(session, &self.names, &new).await?;
            if own.is_empty() {
                Ok(())
            } else {
                Err(Failure::Excess(own.into_iter().map(Into::into).collect()))
            }
        }
        .await;
        let detail = Detail::new(group.clone(), &role).encode();
        let revoked = logins::revoke(session, &self.names, &Handle { name: login, detail }).await;
        let undefined = define::take_out(&***session, &self.names, &group).await;
        made.and(revoked).and(undefined)
    }

    /// Removes what probes left that were cut off.
    async fn clear_probes(&self, session: &Object<Connector>, now: UnixMillis) -> Result<(), Failure> {
        const THERE: &str = "SELECT rolname::text FROM pg_roles \
            WHERE rolname::text ~ ('^' || $1 || '(-probe_|g__)0{12}') ORDER BY rolcanlogin DESC, rolname";
        for row in session.query(THERE, &[&self.names.prefix()]).await? {
            let name: String = row.try_get(0)?;
            let Some(begun) = self.names.probed_at(&name) else { continue };
            if now.millis_since(begun) < PROBE_IS_OVER {
                continue;
            }
            let removed = if name.starts_with(&self.names.group_prefix()) {
                define::take_out(&***session, &self.names, &name).await
            } else {
                let detail = Detail { group: String::new(), reassign: false }.encode();
                logins::revoke(session, &self.names, &Handle { name: name.clone(), detail }).await
            };
            match removed {
                Err(failure @ (Failure::Unavailable(_) | Failure::Locked(_))) => return Err(failure),
                // It is nobody's; a person finds it in the database.
                Err(_) => {
                    tracing::warn!(target = %self.name, role = %name, "what an old probe left is not removed")
                }
                Ok(()) => {
                    tracing::info!(target = %self.name, role = %name, "what an old probe left is removed")
                }
            }
        }
        Ok(())
    }

    async fn look_around(&self, session: &Object<Connector>) -> Result<Probe, Failure> {
        let version = probe::version(session).await?;
        probe::set_up(session, &self.names).await?;
        let settings = self.settings();
        let admin_excess =
            probe::admin_excess(session, &self.names, &settings.database, &settings.admin).await?;
        self.try_once(session).await?;
        Ok(Probe { version, baseline: probe::baseline(session, &self.names).await?, admin_excess })
    }

    /// A session of a login that the vault did not make, and its place; `None` if the password is wrong.
    async fn visit(
        &self,
        login: &str,
        secret: &SecretBytes,
    ) -> Result<Option<(SemaphorePermit<'_>, ClientWrapper)>, Failure> {
        if names::is_a_vaults(login) || login == self.settings().admin.as_str() {
            let what = format!("login {login} is the vault's own; name one that a service has");
            return Err(Failure::Refused(what));
        }
        let Ok(Ok(place)) = tokio::time::timeout(TURN, self.visits.acquire()).await else {
            return Err(Failure::Unavailable("no connection was free in time".to_owned()));
        };
        match self.pool.manager().connect_as(login, secret).await {
            Ok(client) => Ok(Some((place, client))),
            Err(Failure::Password) => Ok(None),
            Err(failure) => Err(failure.of_login(login)),
        }
    }

    fn failed(&self) -> impl Fn(Failure) -> EngineError {
        |failure| failure.of(&self.name, "")
    }
}

#[async_trait]
impl Link for PostgresLink {
    fn plan(&self, role: &RoleRecord, lease: RecordId, rng: &mut dyn CryptoRng) -> Plan {
        let Declaration::Postgres(declared) = &role.declaration;
        let detail = Detail::new(self.names.group(role.id), declared).encode();
        let handle = Handle { name: self.names.login(&role.name, lease), detail };
        Plan { handle, secret: password::generate(rng) }
    }

    async fn probe(&self) -> Result<Probe, EngineError> {
        let session = self.session().await.map_err(self.failed())?;
        let done = within(self.look_around(&session)).await;
        settle(session, done).map_err(self.failed())
    }

    async fn define(&self, role: &RoleRecord, accepted: &[String]) -> Result<Definition, EngineError> {
        let keep = |definition: &Definition| {
            refuse_missing(&self.names, definition)?;
            refuse_excess(role, definition.excess_with_remedies())?;
            Ok(true)
        };
        let done = self.define_or_not(role, accepted, keep).await;
        let definition = done.map_err(|failure| failure.of(&self.name, role.name.as_str()))?;
        self.note(role, accepted, &definition);
        Ok(definition)
    }

    async fn verify(&self, role: &RoleRecord, accepted: &[String]) -> Result<Definition, EngineError> {
        let done = self.define_or_not(role, accepted, |_| Ok(false)).await;
        done.map_err(|failure| failure.of(&self.name, role.name.as_str()))
    }

    async fn undefine(&self, role: RecordId) -> Result<(), EngineError> {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner).remove(&role);
        let mut session = self.session().await.map_err(self.failed())?;
        let group = self.names.group(role);
        let done = within(async {
            let transaction = session.transaction().await?;
            define::take_out(&*transaction, &self.names, &group).await?;
            Ok(transaction.commit().await?)
        })
        .await;
        settle(session, done).map_err(self.failed())
    }

    async fn issue(&self, order: Order<'_>) -> Result<Issued, EngineError> {
        let named = |failure: Failure| failure.of(&self.name, order.role.name.as_str());
        // Whatever keeps it from a connection, nothing was sent: no password that is taken, or no certificate that fits, too.
        let session =
            self.session().await.map_err(|failure| EngineError::NotAsked(Box::new(named(failure))))?;
        let done = within(self.make(&session, &order)).await;
        let excess = settle(session, done).map_err(named)?;
        let secret = SecretBytes::copy_from(order.plan.secret.expose());
        let credential = credential(self.settings(), &order.plan.handle.name, secret);
        Ok(Issued { credential, excess })
    }

    async fn renew(&self, handle: &Handle, lasts: Duration) -> Result<Renewal, EngineError> {
        let session = self.session().await.map_err(self.failed())?;
        let done = within(logins::renew(&session, &self.names, handle, lasts)).await;
        settle(session, done).map_err(self.failed())?;
        Ok(Renewal::Renewed)
    }

    async fn revoke(&self, handle: &Handle) -> Result<(), EngineError> {
        let session = self.session().await.map_err(self.failed())?;
        let done = within(logins::revoke(&session, &self.names, handle)).await;
        settle(session, done).map_err(self.failed())
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Option<Vec<Found>>, EngineError> {
        let session = self.session().await.map_err(self.failed())?;
        let done = within(logins::list(&session, &self.names, after, limit)).await;
        settle(session, done).map(Some).map_err(self.failed())
    }

    async fn now(&self) -> Result<Option<UnixMillis>, EngineError> {
        let session = self.session().await.map_err(self.failed())?;
        let done = within(server_time(&session)).await;
        settle(session, done).map(Some).map_err(self.failed())
    }

    fn new_secret(&self, rng: &mut dyn CryptoRng) -> SecretBytes {
        password::generate(rng)
    }

    async fn change_admin_secret(&self, new: &SecretBytes) -> Result<(), EngineError> {
        let session = self.session().await.map_err(self.failed())?;
        let change = format!("SELECT {}.set_password($1)", identifier(self.names.schema()));
        let done = within(async {
            let verifier = Verifier::of(new).await?;
            session.query(&change, &[&verifier]).await?;
            Ok(())
        })
        .await;
        settle(session, done).map_err(self.failed())?;
        self.pool.manager().use_secret(SecretBytes::copy_from(new.expose()));
        Ok(())
    }

    async fn admin_secret_works(&self, secret: &SecretBytes) -> Result<bool, EngineError> {
        match self.pool.manager().connect_with(secret).await {
            Ok(_) => Ok(true),
            Err(Failure::Password) => Ok(false),
            Err(other) => Err(self.failed()(other)),
        }
    }

    async fn try_login(&self, login: &str, secret: &SecretBytes) -> Result<Option<Vec<Right>>, EngineError> {
        let Some((_place, client)) = self.visit(login, secret).await.map_err(self.failed())? else {
            return Ok(None);
        };
        let excess = within(static_logins::excess(&client, login)).await;
        excess.map(Some).map_err(|failure| self.failed()(failure.of_login(login)))
    }

    async fn change_login_secret(
        &self,
        login: &str,
        old: &SecretBytes,
        new: &SecretBytes,
    ) -> Result<(), EngineError> {
        let Some((_place, mut client)) = self.visit(login, old).await.map_err(self.failed())? else {
            let what = format!("login {login}: its password is not the one that the vault has");
            return Err(EngineError::Refused { target: self.name.clone(), what });
        };
        let changed = within(static_logins::change(&mut client, login, new)).await;
        changed.map_err(|failure| self.failed()(failure.of_login(login)))
    }
}

/// The server's own clock.
async fn server_time(session: &Object<Connector>) -> Result<UnixMillis, Failure> {
    const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let millis: i64 = session.query_one(NOW, &[]).await?.try_get(0)?;
    Ok(UnixMillis(u64::try_from(millis).unwrap_or(0)))
}

/// What a holder of a login logs in with.
pub(super) fn credential(settings: &PostgresSettings, login: &str, secret: SecretBytes) -> Credential {
    let mut fields = vec![
        ("username", Field::Plain(login.to_owned())),
        ("password", Field::Secret(secret)),
        ("host", Field::Plain(settings.host.as_str().to_owned())),
        ("port", Field::Plain(settings.port.to_string())),
        ("database", Field::Plain(settings.database.as_str().to_owned())),
        ("ca_pem", Field::Plain(settings.ca_pem.clone())),
    ];
    if let Some(name) = &settings.server_name {
        fields.push(("server_name", Field::Plain(name.as_str().to_owned())));
    }
    Credential(fields)
}

async fn within<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Err(Failure::Unavailable(format!("no answer within {} s", CALL.as_secs())));
    tokio::time::timeout(CALL, work).await.unwrap_or_else(late)
}

/// Gives a connection back, or lets it go if nobody knows what state it is in.
fn settle<T>(session: Object<Connector>, done: Result<T, Failure>) -> Result<T, Failure> {
    if matches!(done, Err(Failure::Unavailable(_))) {
        drop(Object::take(session));
    }
    done
}

fn refuse_excess(role: &RoleRecord, excess: Vec<Excess>) -> Result<(), Failure> {
    match role.on_excess {
        OnExcess::Refuse if !excess.is_empty() => Err(Failure::Excess(excess)),
        _ => Ok(()),
    }
}

fn refuse_missing(names: &Names, definition: &Definition) -> Result<(), Failure> {
    const SHOWN: usize = 8;
    if definition.missing.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = definition.missing.iter().take(SHOWN).map(ToString::to_string).collect();
    Err(Failure::Definition(format!(
        "the server did not give {}: grant it to {} WITH GRANT OPTION first",
        shown.join(", "),
        identifier(names.owner())
    )))
}
