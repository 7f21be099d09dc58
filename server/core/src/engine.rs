//! What a target does for the lease engine: the port that PostgreSQL, and later brokers, fill.
//!
//! Invariant: what removes a login (its [`Handle`]) is made without I/O and stored before the login is; every call here may
//! be repeated, and a call that gave no answer may have had its effect. Only [`Link::revoke`] returning `Ok` says that a login
//! is gone. How others would fit, so that none needs a change: a RabbitMQ user is made, renewed by doing nothing, and deleted; a
//! NATS user is signed and not made (`issue` asks no server), expires by itself, is renewed by [`Renewal::Reissued`], revoked
//! by pushing the account's revocations, and `list` has nothing to tell.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use keystead_crypto::secret::SecretBytes;
use keystead_domain::VaultId;
use keystead_domain::id::RecordId;
use keystead_domain::lease::Handle;
use keystead_domain::rights::Right;
use keystead_domain::rights::postgres::{PgName, PostgresRole};
use keystead_domain::role::RoleRecord;
use keystead_domain::target::{TargetKind, TargetSettings};
use keystead_domain::time::UnixMillis;
use rand_core::CryptoRng;

/// Why a target did not do it. No text in here holds a secret: engines make them, and do not pass on what a driver says of
/// its connection string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It does not answer, is starting, or has no connection to spare. The same may work later.
    #[error("target {target} does not answer: {what}")]
    Unavailable {
        /// Which.
        target: String,
        /// What was seen.
        what: String,
    },
    /// It could not be asked, for this cause: nothing was sent, so nothing can come of it.
    #[error(transparent)]
    NotAsked(Box<EngineError>),
    /// It answered and said no.
    #[error("target {target} refused: {what}")]
    Refused {
        /// Which.
        target: String,
        /// What it said, with its own code.
        what: String,
    },
    /// The login that the vault uses there is not taken, or may not do what it must.
    #[error("target {target}: {what}")]
    Admin {
        /// Which.
        target: String,
        /// What lacks, and how to give it.
        what: String,
    },
    /// Certificates or names do not fit: nothing was sent.
    #[error("target {target} is not the one that was configured: {what}")]
    Identity {
        /// Which.
        target: String,
        /// What does not fit.
        what: String,
    },
    /// What it was given as the CA of its certificate is none: nothing was sent.
    #[error(
        "the CA that target {target} was given cannot be used: {what}; give the PEM certificates that sign the database's certificate"
    )]
    Ca {
        /// Which.
        target: String,
        /// Why.
        what: String,
    },
    /// A login could do more than its role declares; it was not given out.
    #[error(
        "target {target} gives role {role} more than it declares: {}; close it there by the statements in the details, or \
         declare it; what everybody may do can be accepted, too: `keystead target check {target}` has the digests",
        list(.excess.iter().map(|excess| &excess.right))
    )]
    Excess {
        /// Which.
        target: String,
        /// The role.
        role: String,
        /// What.
        excess: Vec<Excess>,
    },
    /// A role's definition cannot be put into practice there.
    #[error("role {role} cannot be defined on target {target}: {what}")]
    Definition {
        /// Which.
        target: String,
        /// The role.
        role: String,
        /// Why, naming the object.
        what: String,
    },
}

impl EngineError {
    /// The admin login is not let in with its password. Targets do not tell that from a login that is not there.
    pub fn admin_password(target: String) -> Self {
        let what = format!(
            "the admin login's password is not taken; give the right one with `keystead target put {target} --password-file`; \
             if nobody has it, set another one there first (`\\password` in psql)"
        );
        Self::Admin { target, what }
    }

    /// The same with what becomes of what was asked for.
    #[must_use]
    pub(crate) fn then(mut self, then: &str) -> Self {
        if let Self::Unavailable { what, .. }
        | Self::Refused { what, .. }
        | Self::Admin { what, .. }
        | Self::Identity { what, .. } = &mut self
        {
            what.push_str("; ");
            what.push_str(then);
        }
        self
    }

    /// What went wrong, whether it was asked or not.
    pub fn cause(&self) -> &Self {
        match self {
            Self::NotAsked(cause) => cause.cause(),
            other => other,
        }
    }
}

/// What a login could do beyond what its role declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excess {
    /// What.
    pub right: Right,
    /// The statement that closes it, ready to paste, where one does.
    pub closed_by: Option<String>,
}

/// One of which no statement is known.
impl From<Right> for Excess {
    fn from(right: Right) -> Self {
        Self { right, closed_by: None }
    }
}

pub(crate) fn list<'a>(rights: impl ExactSizeIterator<Item = &'a Right>) -> String {
    const SHOWN: usize = 8;
    let more = rights.len().saturating_sub(SHOWN);
    let mut text: Vec<String> = rights.take(SHOWN).map(ToString::to_string).collect();
    if more > 0 {
        text.push(format!("and {more} more"));
    }
    text.join(", ")
}

/// The login by which the vault works in a target.
pub struct AdminLogin {
    /// Its password, or whatever the engine takes.
    pub secret: SecretBytes,
}

/// A login that is about to be made.
pub struct Plan {
    /// What removes it.
    pub handle: Handle,
    /// Its secret: handed out once, kept nowhere.
    pub secret: SecretBytes,
}

/// One thing that a holder needs to log in.
pub enum Field {
    /// Not secret.
    Plain(String),
    /// Secret.
    Secret(SecretBytes),
}

/// What a holder logs in with: names and values as the engine calls them (`username`, `password`, `host`…).
pub struct Credential(pub Vec<(&'static str, Field)>);

/// A login that was made and read back.
pub struct Issued {
    /// What its holder logs in with.
    pub credential: Credential,
    /// What it can do beyond its role, where the role lets that pass.
    pub excess: Vec<Right>,
}

/// How a login was renewed.
pub enum Renewal {
    /// The same login goes on.
    Renewed,
    /// Its holder has to take this from now on.
    Reissued(Credential),
}

/// Something that everybody may do in a target, and so each login, whatever its role says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A short digest: what is accepted is this.
    pub digest: String,
    /// What everybody may do.
    pub right: Right,
    /// The statement that closes it, ready to paste.
    pub closed_by: String,
}

/// What was learnt about a target by using it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What it says it is.
    pub version: String,
    /// What everybody may do there.
    pub baseline: Vec<Finding>,
    /// What its admin login could do beyond what it needs.
    pub admin_excess: Vec<Right>,
}

/// A role put into practice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Definition {
    /// The statements that did it, or would: nothing in them is secret.
    pub statements: Vec<String>,
    /// What its logins can do.
    pub rights: Vec<Right>,
    /// What of it is not declared. Accepted findings of the baseline are left out.
    pub excess: Vec<Right>,
    /// The statements that close an excess, where one does.
    pub closed_by: BTreeMap<Right, String>,
    /// What is declared and not given.
    pub missing: Vec<Right>,
}

impl Definition {
    /// What its logins can do beyond what was declared, with what closes it.
    pub fn excess_with_remedies(&self) -> Vec<Excess> {
        let with =
            |right: &Right| Excess { right: right.clone(), closed_by: self.closed_by.get(right).cloned() };
        self.excess.iter().map(with).collect()
    }
}

/// A login found in a target that carries the vault's mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The lease that it belongs to.
    pub lease: RecordId,
    /// What removes it.
    pub handle: Handle,
}

/// What is issued: a login of a role until a moment.
pub struct Order<'a> {
    /// The role.
    pub role: &'a RoleRecord,
    /// Findings of the baseline that were accepted, by digest.
    pub accepted: &'a [String],
    /// The login.
    pub plan: &'a Plan,
    /// After how long the target itself should end it, where it can: a little after the lease. A span, counted by the
    /// target's own clock: the vault's may say another time.
    pub lasts: Duration,
}

/// What a target needs before it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setup {
    /// A PostgreSQL database.
    Postgres {
        /// The database.
        database: PgName,
        /// The admin login.
        admin: PgName,
        /// What roles will declare.
        roles: Vec<PostgresRole>,
    },
}

impl Setup {
    /// For which kind of target.
    pub const fn kind(&self) -> TargetKind {
        match self {
            Self::Postgres { .. } => TargetKind::Postgres,
        }
    }
}

/// A kind of target.
pub trait Engine: Send + Sync {
    /// Which.
    fn kind(&self) -> TargetKind;

    /// The statements that an administrator of the target runs once; running them again changes nothing. No I/O.
    fn setup(&self, vault: VaultId, setup: &Setup) -> String;

    /// What a holder of a login logs in with. No I/O.
    fn credential(&self, settings: &TargetSettings, login: &str, secret: SecretBytes) -> Credential;

    /// A link to one target. No I/O yet; it connects when first used, and again after a failure.
    ///
    /// # Errors
    /// `Identity` when a CA certificate does not parse.
    fn link(
        &self,
        vault: VaultId,
        name: &str,
        settings: &TargetSettings,
        login: AdminLogin,
    ) -> Result<Arc<dyn Link>, EngineError>;
}

/// A target in use. Everything may be called at the same time; a link bounds its own connections.
#[async_trait]
pub trait Link: Send + Sync {
    /// Names a login and makes its secret. No I/O.
    fn plan(&self, role: &RoleRecord, lease: RecordId, rng: &mut dyn CryptoRng) -> Plan;

    /// Proves that the admin login can do what it must: issues and revokes once, leaves nothing, and looks at what
    /// everybody may do.
    async fn probe(&self) -> Result<Probe, EngineError>;

    /// Brings the target in line with a role and reads the result back whole.
    async fn define(&self, role: &RoleRecord, accepted: &[String]) -> Result<Definition, EngineError>;

    /// What `define` would do and what that would come to; leaves nothing behind.
    async fn verify(&self, role: &RoleRecord, accepted: &[String]) -> Result<Definition, EngineError>;

    /// Takes a role out. No login of it is left when this is called. Absent is success.
    async fn undefine(&self, role: RecordId) -> Result<(), EngineError>;

    /// Makes a login and reads it back; one that is there already gets this secret.
    ///
    /// # Errors
    /// `Excess`, and the others. After any of them but `NotAsked` the login may exist.
    async fn issue(&self, order: Order<'_>) -> Result<Issued, EngineError>;

    /// Lets a login go on for so long from now, counted by the target's own clock.
    async fn renew(&self, handle: &Handle, lasts: Duration) -> Result<Renewal, EngineError>;

    /// Removes a login: it can log in no more, its sessions are ended, it is gone. Absent is success; nothing else is.
    async fn revoke(&self, handle: &Handle) -> Result<(), EngineError>;

    /// Logins that carry the vault's mark, in the order of their names, some at a time; `None` from a target that keeps
    /// none, such as one that only verifies what was signed.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Option<Vec<Found>>, EngineError>;

    /// The target's own clock, where it has one: it is asked when the vault's own made a jump.
    async fn now(&self) -> Result<Option<UnixMillis>, EngineError>;

    /// A fresh password. No I/O.
    fn new_secret(&self, rng: &mut dyn CryptoRng) -> SecretBytes;

    /// Gives the admin login this password. The link uses the new one once the target has taken it.
    async fn change_admin_secret(&self, new: &SecretBytes) -> Result<(), EngineError>;

    /// Whether the admin login is taken with this secret.
    async fn admin_secret_works(&self, secret: &SecretBytes) -> Result<bool, EngineError>;

    /// Tries a login that somebody else made: `None` if it is not let in with this secret, otherwise what it can do that no
    /// login of a service needs (attributes such as `SUPERUSER`).
    ///
    /// # Errors
    /// `Refused` also for the admin login and for those of the vault's own.
    async fn try_login(&self, login: &str, secret: &SecretBytes) -> Result<Option<Vec<Right>>, EngineError>;

    /// Gives a login that somebody else made another secret, by the one that it has. Its sessions go on.
    async fn change_login_secret(
        &self,
        login: &str,
        old: &SecretBytes,
        new: &SecretBytes,
    ) -> Result<(), EngineError>;
}

/// The engines of a server, by kind.
#[derive(Default, Clone)]
pub struct Engines(HashMap<TargetKind, Arc<dyn Engine>>);

impl Engines {
    /// Of these.
    pub fn new(engines: impl IntoIterator<Item = Arc<dyn Engine>>) -> Self {
        Self(engines.into_iter().map(|engine| (engine.kind(), engine)).collect())
    }

    /// The engine of a kind, if this server has it.
    pub fn of(&self, kind: TargetKind) -> Option<&Arc<dyn Engine>> {
        self.0.get(&kind)
    }
}
