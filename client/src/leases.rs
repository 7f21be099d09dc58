//! Leases: who holds which login, for how long, and how it ends; and what their holders log in with.

use std::time::{Duration, SystemTime};

use keystead_proto::v1;
use keystead_proto::v1::leases_service_client::LeasesServiceClient;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::call::{Caller, MAX_ANSWER_BYTES};
use crate::error::Error;
use crate::pager::Pager;
use crate::retry::Repeat;
use crate::value::SecretBytes;

const PAGE: u32 = 500;
pub(crate) const NO_LEASE: Error = Error::MalformedAnswer { what: "a lease's answer without the lease" };

/// Where a lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseState {
    /// The login is being made.
    Issuing,
    /// Its holder has the login.
    Active,
    /// The login is being removed.
    Revoking,
    /// The login is gone.
    Revoked,
    /// A state that this client does not know.
    Unknown,
}

/// Why a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// Its time was over.
    Expired,
    /// Somebody asked for it.
    Asked,
    /// It was not issued to its end.
    NotIssued,
    /// Its session ended.
    SessionEnded,
    /// Its owner was disabled or deleted.
    OwnerGone,
    /// Somebody else removed its login.
    LoginGone,
    /// A reason that this client does not know.
    Unknown,
}

/// How a lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseEnding {
    /// Why.
    pub reason: EndReason,
    /// Since when.
    pub since: Option<SystemTime>,
    /// Tries to remove the login that failed.
    pub failures: u32,
    /// When the next try is due, while it is not closed.
    pub next_try: Option<SystemTime>,
    /// What the last try that failed said. It comes from another machine: escape it before it reaches a terminal.
    pub last_error: Option<String>,
    /// When it was closed.
    pub closed: Option<SystemTime>,
    /// Who closed it although the target did not confirm that the login is gone.
    pub forced_by: Option<String>,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// Whose it is: `service/<name>` or `operator/<name>`.
    pub owner: String,
    /// The role that it was issued from.
    pub role: String,
    /// The target of that role.
    pub target: String,
    /// Where it is in its life.
    pub state: LeaseState,
    /// The name of its login in the target.
    pub login: String,
    /// When it was begun.
    pub issued: Option<SystemTime>,
    /// How long one period is.
    pub period: Duration,
    /// When it ends unless renewed.
    pub expires: Option<SystemTime>,
    /// When it ends however often it is renewed.
    pub max_expires: Option<SystemTime>,
    /// How often it was renewed.
    pub renewals: u32,
    /// How often its password was set anew because the same request came again.
    pub reissues: u32,
    /// How it ends, once it does.
    pub ending: Option<LeaseEnding>,
}

/// What a holder logs in with. It was shown once and is kept nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// For PostgreSQL.
    Postgres(PostgresCredential),
}

/// A login of a PostgreSQL database: over TLS only, and with the server's certificate verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresCredential {
    /// The host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database.
    pub database: String,
    /// The login's name.
    pub username: String,
    /// Its password.
    pub password: SecretBytes,
    /// CA certificates in PEM that the server's certificate must chain to.
    pub ca_pem: String,
    /// The name in the server's certificate, if it is not `host`.
    pub server_name: Option<String>,
}

/// Which leases. Those of others need the right to list or to revoke them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseSelector {
    /// The caller's own.
    Own,
    /// Those of a principal: `service/<name>` or `operator/<name>`.
    Principal(String),
    /// Those issued from a role.
    Role(String),
    /// Those issued from roles whose names begin so.
    RolePrefix(String),
    /// Those in a target.
    Target(String),
    /// Those of the session whose token authenticates the call.
    Session,
    /// All, the soonest to end first.
    Due,
}

/// A lease that was renewed.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// As it is now.
    pub lease: Lease,
    /// What to log in with from now on, if that changed.
    pub credential: Option<Credential>,
}

/// What the server's clock says against the time of leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseClock {
    /// They agree.
    Agreed,
    /// The clock was far ahead when the vault opened: leases stand still until somebody confirms it.
    Doubted {
        /// By how much.
        ahead: Duration,
    },
    /// The clock was stepped while the vault was open, or is behind what was stored: leases go by the time that passed.
    Stepped {
        /// By how much, to either side.
        by: Duration,
    },
    /// A state that this client does not know.
    Unknown,
}

/// Leases.
#[derive(Clone, Debug)]
pub struct Leases {
    caller: Caller,
}

impl Leases {
    pub(crate) fn new(caller: Caller) -> Self {
        Self { caller }
    }

    fn rpc(&self) -> LeasesServiceClient<Channel> {
        LeasesServiceClient::new(self.caller.channel()).max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    /// Reads a lease.
    pub async fn get(&self, id: &str) -> Result<Lease, Error> {
        let request = v1::GetLeaseRequest { id: id.to_owned() };
        let answer = self
            .caller
            .call(Repeat::Safe, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.get_lease(request).await }
            })
            .await?;
        lease(answer.lease)
    }

    /// Follows a lease: comes with it as it is, and then after each change, until its login is gone. Changes that come faster
    /// than they are read are one. It has no deadline, and takes one of the streams that the server allows a connection.
    ///
    /// ```no_run
    /// # async fn example(vault: keystead_client::Client) -> Result<(), keystead_client::Error> {
    /// let mut changes = vault.leases().watch("0f1e2d3c4b5a69788796a5b4c3d2e1f0").await?;
    /// while let Some(lease) = changes.next().await? {
    ///     println!("{:?} until {:?}", lease.state, lease.expires);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn watch(&self, id: &str) -> Result<LeaseChanges, Error> {
        let request = self.caller.request(v1::WatchLeaseRequest { id: id.to_owned() });
        let mut rpc = self.rpc();
        let changes = timeout(self.caller.deadline(), rpc.watch_lease(request))
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("")))
            .map_err(|status| self.caller.error(status))?
            .into_inner();
        Ok(LeaseChanges { changes, caller: self.caller.clone(), over: false })
    }

    /// How many leases the keepers of one client follow at a time: what they take of a connection, others lack.
    pub(crate) fn places_to_watch(&self) -> &Semaphore {
        self.caller.places_to_watch()
    }

    /// Lists leases that are not revoked.
    pub fn list(&self, which: &LeaseSelector) -> Pager<Lease> {
        let (this, of) = (self.clone(), which.to_wire());
        Pager::new(move |page_token| {
            let (this, of) = (this.clone(), of.clone());
            async move {
                let request = v1::ListLeasesRequest { of: Some(of), page_size: PAGE, page_token };
                let answer = this
                    .caller
                    .call(Repeat::Safe, request, |request| {
                        let mut rpc = this.rpc();
                        async move { rpc.list_leases(request).await }
                    })
                    .await?;
                let leases = answer.leases.into_iter().map(|found| lease(Some(found)));
                Ok((leases.collect::<Result<_, _>>()?, answer.next_page_token))
            }
        })
    }

    /// Begins another period, of the length `ttl` or else of the first one; the lease's longest life bounds it.
    pub async fn renew(&self, id: &str, ttl: Option<Duration>) -> Result<Renewed, Error> {
        let request = v1::RenewLeaseRequest { id: id.to_owned(), ttl: ttl.map(span).transpose()? };
        let answer = self
            .caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.renew_lease(request).await }
            })
            .await?;
        Ok(Renewed {
            lease: lease(answer.lease)?,
            credential: answer.credential.map(credential).transpose()?,
        })
    }

    /// Begins to remove the login of a lease: it comes back [`Revoking`](LeaseState::Revoking), and becomes
    /// [`Revoked`](LeaseState::Revoked) when its target has confirmed that the login is gone.
    pub async fn revoke(&self, id: &str) -> Result<Lease, Error> {
        self.revoke_with(id, false).await?.ok_or(NO_LEASE)
    }

    /// Closes a lease although its target does not confirm that the login is gone: the last resort. `None` if the vault
    /// could not read its record, and removed it.
    pub async fn force(&self, id: &str) -> Result<Option<Lease>, Error> {
        self.revoke_with(id, true).await
    }

    async fn revoke_with(&self, id: &str, force: bool) -> Result<Option<Lease>, Error> {
        let request = v1::RevokeLeaseRequest { id: id.to_owned(), force };
        // Revoking what is revoked changes nothing; what was forced once is not forced again.
        let repeat = if force { Repeat::Never } else { Repeat::Safe };
        let answer = self
            .caller
            .call(repeat, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.revoke_lease(request).await }
            })
            .await?;
        Ok(answer.lease.map(Lease::from))
    }

    /// Marks many leases for removal; says how many. Their logins are removed in the background.
    pub async fn revoke_all(&self, which: &LeaseSelector) -> Result<u64, Error> {
        let request = v1::RevokeLeasesRequest { of: Some(which.to_wire()) };
        let answer = self
            .caller
            .call(Repeat::Never, request, |request| {
                let mut rpc = self.rpc();
                async move { rpc.revoke_leases(request).await }
            })
            .await?;
        Ok(answer.leases)
    }

    /// Says that the server's clock is right, after it was far ahead of when the vault was last open: leases end again.
    pub async fn accept_clock(&self) -> Result<LeaseClock, Error> {
        let answer = self
            .caller
            .call(Repeat::Safe, v1::AcceptClockRequest {}, |request| {
                let mut rpc = self.rpc();
                async move { rpc.accept_clock(request).await }
            })
            .await?;
        let by = duration(answer.difference);
        Ok(match answer.state() {
            v1::LeaseClockState::Agreed => LeaseClock::Agreed,
            v1::LeaseClockState::Doubted => LeaseClock::Doubted { ahead: by },
            v1::LeaseClockState::Stepped => LeaseClock::Stepped { by },
            v1::LeaseClockState::Unspecified => LeaseClock::Unknown,
        })
    }
}

/// The changes of a lease as they come.
#[derive(Debug)]
pub struct LeaseChanges {
    changes: Streaming<v1::WatchLeaseResponse>,
    caller: Caller,
    over: bool,
}

impl LeaseChanges {
    /// The lease after its next change, or `None` when it was shown as [`Revoked`](LeaseState::Revoked). May be dropped at any
    /// time without losing a change.
    ///
    /// # Errors
    /// What ended it before: the server stops, the vault is sealed, the connection breaks, or the caller may read the lease
    /// no more. [`Leases::watch`] goes on where it can; what happened in between is in its first answer.
    pub async fn next(&mut self) -> Result<Option<Lease>, Error> {
        match self.changes.message().await.map_err(|status| self.caller.error(status))? {
            Some(answer) => {
                let lease = lease(answer.lease)?;
                self.over = lease.state == LeaseState::Revoked;
                Ok(Some(lease))
            }
            None if self.over => Ok(None),
            None => {
                let stopped =
                    Status::unavailable("the server stopped following the lease before it was over");
                Err(self.caller.error(stopped))
            }
        }
    }
}

impl LeaseSelector {
    fn to_wire(&self) -> v1::LeaseSelector {
        use v1::lease_selector::Which;
        let which = match self {
            Self::Own => Which::Own(v1::OwnLeases {}),
            Self::Principal(name) => Which::Principal(name.clone()),
            Self::Role(name) => Which::Role(name.clone()),
            Self::RolePrefix(prefix) => Which::RolePrefix(prefix.clone()),
            Self::Target(name) => Which::Target(name.clone()),
            Self::Session => Which::Session(v1::SessionLeases {}),
            Self::Due => Which::Due(v1::DueLeases {}),
        };
        v1::LeaseSelector { which: Some(which) }
    }
}

/// A span for the wire.
pub(crate) fn span(span: Duration) -> Result<prost_types::Duration, Error> {
    prost_types::Duration::try_from(span)
        .map_err(|_| Error::Config(crate::error::ConfigError::Span { seconds: span.as_secs() }))
}

/// A lease off the wire.
pub(crate) fn lease(lease: Option<v1::Lease>) -> Result<Lease, Error> {
    lease.map(Lease::from).ok_or(NO_LEASE)
}

/// A credential off the wire.
pub(crate) fn credential(credential: v1::Credential) -> Result<Credential, Error> {
    use v1::credential::Kind;
    match credential.kind {
        Some(Kind::Postgres(login)) => Ok(Credential::Postgres(PostgresCredential {
            host: login.host,
            port: u16::try_from(login.port)
                .map_err(|_| Error::MalformedAnswer { what: "a credential's port is none" })?,
            database: login.database,
            username: login.username,
            password: SecretBytes::new(login.password),
            ca_pem: login.ca_pem,
            server_name: filled(login.server_name),
        })),
        None => Err(Error::MalformedAnswer { what: "a credential of a kind that this client does not know" }),
    }
}

fn filled(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn duration(span: Option<prost_types::Duration>) -> Duration {
    span.and_then(|span| Duration::try_from(span).ok()).unwrap_or_default()
}

pub(crate) fn time(time: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    time.and_then(|time| SystemTime::try_from(time).ok())
}

impl From<v1::Lease> for Lease {
    fn from(lease: v1::Lease) -> Self {
        Self {
            state: match lease.state() {
                v1::LeaseState::Issuing => LeaseState::Issuing,
                v1::LeaseState::Active => LeaseState::Active,
                v1::LeaseState::Revoking => LeaseState::Revoking,
                v1::LeaseState::Revoked => LeaseState::Revoked,
                v1::LeaseState::Unspecified => LeaseState::Unknown,
            },
            id: lease.id,
            owner: lease.owner,
            role: lease.role,
            target: lease.target,
            login: lease.login,
            issued: time(lease.create_time),
            period: duration(lease.period),
            expires: time(lease.expire_time),
            max_expires: time(lease.max_expire_time),
            renewals: lease.renewals,
            reissues: lease.reissues,
            ending: lease.ending.map(LeaseEnding::from),
        }
    }
}

impl From<v1::LeaseEnding> for LeaseEnding {
    fn from(ending: v1::LeaseEnding) -> Self {
        Self {
            reason: match ending.reason() {
                v1::LeaseEndReason::Expired => EndReason::Expired,
                v1::LeaseEndReason::Asked => EndReason::Asked,
                v1::LeaseEndReason::NotIssued => EndReason::NotIssued,
                v1::LeaseEndReason::SessionEnded => EndReason::SessionEnded,
                v1::LeaseEndReason::OwnerGone => EndReason::OwnerGone,
                v1::LeaseEndReason::LoginGone => EndReason::LoginGone,
                v1::LeaseEndReason::Unspecified => EndReason::Unknown,
            },
            since: time(ending.start_time),
            failures: ending.failures,
            next_try: time(ending.next_try_time),
            last_error: filled(ending.last_error),
            closed: time(ending.close_time),
            forced_by: filled(ending.forced_by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(port: u32) -> v1::Credential {
        let login = v1::PostgresCredential {
            host: "db.internal".into(),
            port,
            password: b"canary-7".to_vec(),
            ..Default::default()
        };
        v1::Credential { kind: Some(v1::credential::Kind::Postgres(login)) }
    }

    #[test]
    fn a_credential_keeps_its_password_out_of_debug() {
        let taken = credential(login(5432)).unwrap();
        assert!(!format!("{taken:?}").contains("canary"), "{taken:?}");
        let Credential::Postgres(taken) = taken;
        assert_eq!(taken.password.expose(), b"canary-7");
        assert_eq!((taken.port, taken.server_name), (5432, None));
    }

    #[test]
    fn a_credential_that_cannot_be_used_is_an_error() {
        assert!(matches!(credential(login(65_536)), Err(Error::MalformedAnswer { .. })));
        assert!(matches!(credential(v1::Credential { kind: None }), Err(Error::MalformedAnswer { .. })));
    }

    #[test]
    fn a_state_of_a_newer_server_is_unknown() {
        let lease = Lease::from(v1::Lease { state: 99, ..Default::default() });
        assert_eq!(lease.state, LeaseState::Unknown);
        assert_eq!(lease.ending, None);
    }
}
