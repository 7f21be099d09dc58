//! A stand-in for a vault with one role: it issues, renews and revokes by the rules, and can be away, refuse, or lose answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use keystead_proto::v1;
use keystead_proto::v1::credentials_service_server::{CredentialsService, CredentialsServiceServer};
use keystead_proto::v1::leases_service_server::{LeasesService, LeasesServiceServer};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::hands::Hands;
use crate::keeper::clock::Clock;

pub(super) fn refusal(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, "keystead", std::collections::HashMap::new());
    Status::with_error_details(code, reason.to_owned(), details)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Issue(String),
    Renew(String),
    Revoke(String),
}

#[derive(Clone)]
pub(super) struct Vault {
    clock: Arc<Hands>,
    start: Instant,
    state: Arc<Mutex<State>>,
    go_on: Arc<Notify>,
    changed: tokio::sync::watch::Sender<()>,
}

pub(super) struct State {
    pub(super) period: Duration,
    pub(super) longest: Duration,
    /// Everything is answered so.
    pub(super) away: Option<Status>,
    /// Issues are refused so.
    pub(super) no_issue: Option<Status>,
    /// Renewals are refused so.
    pub(super) no_renewal: Option<Status>,
    /// So many issues are done without an answer.
    pub(super) lost_answers: u32,
    /// Lost answers are noticed, and what they were about is taken back.
    pub(super) takes_back: bool,
    /// A renewal is answered, and lengthens nothing.
    pub(super) stands_still: bool,
    /// A renewal comes with another credential.
    pub(super) reissues: bool,
    /// Leases can be followed.
    pub(super) watching: bool,
    /// Whoever follows one is refused so.
    pub(super) no_watch: Option<Status>,
    /// Whoever follows one is sent away after the first answer.
    pub(super) breaks_off: bool,
    /// How often somebody asked to follow one.
    pub(super) watches: usize,
    /// Issues and renewals wait for [`Vault::go_on`].
    pub(super) slow: bool,
    pub(super) calls: Vec<Call>,
    leases: Vec<Lease>,
    requests: BTreeMap<String, usize>,
}

#[derive(Clone)]
struct Lease {
    begun: Instant,
    expires: Instant,
    longest: Instant,
    revoked: bool,
    reissues: u32,
}

/// A vault that can be reached.
pub(super) struct Server(Option<tokio::runtime::Runtime>);

impl Drop for Server {
    fn drop(&mut self) {
        // A plain drop would wait, which async code must not.
        self.0.take().unwrap().shutdown_background();
    }
}

impl Vault {
    pub(super) fn new(clock: Arc<Hands>, period: u64, longest: u64) -> Self {
        let state = State {
            period: Duration::from_secs(period),
            longest: Duration::from_secs(longest),
            away: None,
            no_issue: None,
            no_renewal: None,
            lost_answers: 0,
            takes_back: false,
            stands_still: false,
            reissues: false,
            watching: false,
            no_watch: None,
            breaks_off: false,
            watches: 0,
            slow: false,
            calls: Vec::new(),
            leases: Vec::new(),
            requests: BTreeMap::new(),
        };
        let start = clock.now();
        Self {
            clock,
            start,
            state: Arc::new(Mutex::new(state)),
            go_on: Arc::default(),
            changed: Default::default(),
        }
    }

    /// Serves on a socket until what comes back is dropped, which breaks every connection.
    pub(super) fn serve(&self, path: &Path) -> Server {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(CredentialsServiceServer::new(self.clone()))
            .add_service(LeasesServiceServer::new(self.clone()));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = UnixListener::from_std(listener).unwrap();
            server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap();
        });
        Server(Some(runtime))
    }

    pub(super) fn set(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn go_on(&self) {
        self.set().slow = false;
        self.go_on.notify_waiters();
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.set().calls.clone()
    }

    pub(super) fn count(&self, which: impl Fn(&Call) -> bool) -> usize {
        self.set().calls.iter().filter(|call| which(call)).count()
    }

    /// The leases that live, by number.
    pub(super) fn alive(&self) -> Vec<usize> {
        let now = self.clock.now();
        let state = self.set();
        let alive = |lease: &Lease| !lease.revoked && now < lease.expires;
        state.leases.iter().enumerate().filter(|(_, lease)| alive(lease)).map(|(number, _)| number).collect()
    }

    pub(super) fn revoke(&self, number: usize) {
        self.set().leases[number].revoked = true;
        self.changed.send_replace(());
    }

    /// How many leases are followed.
    pub(super) fn followers(&self) -> usize {
        self.changed.receiver_count()
    }

    fn watch(&self, id: &str) -> Result<BoxStream<'static, Result<v1::WatchLeaseResponse, Status>>, Status> {
        let mut state = self.set();
        state.watches += 1;
        if !state.watching {
            return Err(Status::unimplemented("an older vault"));
        }
        if let Some(refused) = state.away.clone().or_else(|| state.no_watch.clone()) {
            return Err(refused);
        }
        let number = self.find(id, &state)?;
        let (vault, changes, breaks_off) = (self.clone(), self.changed.subscribe(), state.breaks_off);
        let next = move |(vault, mut changes, first): (Self, tokio::sync::watch::Receiver<()>, bool)| async move {
            if !first && (breaks_off || changes.changed().await.is_err()) {
                return None;
            }
            let lease = Some(vault.lease(number, &vault.set()));
            Some((Ok(v1::WatchLeaseResponse { lease }), (vault, changes, false)))
        };
        Ok(futures::stream::unfold((vault, changes, true), next).boxed())
    }

    /// As far from this machine's clock as can be: only spans between its times mean anything.
    fn time(&self, at: Instant) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(3_600) + (at - self.start)
    }

    fn lease(&self, number: usize, state: &State) -> v1::Lease {
        let lease = &state.leases[number];
        v1::Lease {
            id: number.to_string(),
            role: "orders-rw".into(),
            state: if lease.revoked { v1::LeaseState::Revoking } else { v1::LeaseState::Active }.into(),
            create_time: Some(self.time(lease.begun).into()),
            period: Some(state.period.try_into().unwrap()),
            expire_time: Some(self.time(lease.expires).into()),
            max_expire_time: Some(self.time(lease.longest).into()),
            reissues: lease.reissues,
            ..Default::default()
        }
    }

    fn find(&self, id: &str, state: &State) -> Result<usize, Status> {
        let number = id.parse().ok().filter(|number: &usize| *number < state.leases.len());
        number.ok_or_else(|| refusal(Code::NotFound, "NOT_FOUND"))
    }

    fn check(&self, number: usize, state: &State) -> Result<(), Status> {
        let lease = &state.leases[number];
        if lease.revoked || self.clock.now() >= lease.expires {
            return Err(refusal(Code::FailedPrecondition, "LEASE_ENDED"));
        }
        Ok(())
    }

    fn issue(&self, request_id: String) -> Result<v1::IssueCredentialResponse, Status> {
        let now = self.clock.now();
        let mut state = self.set();
        state.calls.push(Call::Issue(request_id.clone()));
        if let Some(refused) = state.away.clone().or_else(|| state.no_issue.clone()) {
            return Err(refused);
        }
        let number = match state.requests.get(&request_id).copied() {
            Some(number) => {
                self.check(number, &state)?;
                state.leases[number].reissues += 1;
                number
            }
            None => {
                let (expires, longest) = (now + state.period.min(state.longest), now + state.longest);
                let lease = Lease { begun: now, expires, longest, revoked: false, reissues: 0 };
                state.leases.push(lease);
                let number = state.leases.len() - 1;
                state.requests.insert(request_id, number);
                number
            }
        };
        if state.lost_answers > 0 {
            state.lost_answers -= 1;
            state.leases[number].revoked = state.takes_back;
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(v1::IssueCredentialResponse {
            lease: Some(self.lease(number, &state)),
            credential: Some(credential(number)),
            excess: Vec::new(),
        })
    }

    fn renew(&self, id: String) -> Result<v1::RenewLeaseResponse, Status> {
        let now = self.clock.now();
        let mut state = self.set();
        state.calls.push(Call::Renew(id.clone()));
        if let Some(refused) = state.away.clone().or_else(|| state.no_renewal.clone()) {
            return Err(refused);
        }
        let number = self.find(&id, &state)?;
        self.check(number, &state)?;
        let (period, stands_still) = (state.period, state.stands_still);
        let lease = &mut state.leases[number];
        if lease.expires == lease.longest {
            return Err(refusal(Code::FailedPrecondition, "LEASE_AT_ITS_LONGEST"));
        }
        let until = (now + period).min(lease.longest);
        lease.expires = if stands_still { lease.expires } else { until };
        let credential = state.reissues.then(|| credential(number));
        Ok(v1::RenewLeaseResponse { lease: Some(self.lease(number, &state)), credential })
    }

    async fn wait(&self) {
        let go_on = self.go_on.notified();
        if self.set().slow {
            go_on.await;
        }
    }
}

fn credential(number: usize) -> v1::Credential {
    let login = v1::PostgresCredential {
        host: "db".into(),
        port: 5432,
        username: format!("login-{number}"),
        password: b"canary-7".to_vec(),
        ..Default::default()
    };
    v1::Credential { kind: Some(v1::credential::Kind::Postgres(login)) }
}

/// Written as `async_trait` would, which does not see what a macro makes.
macro_rules! unimplemented_rpcs {
    ($($rpc:ident($request:ident) -> $response:ident;)*) => {
        $(fn $rpc<'s, 'f>(
            &'s self,
            _: Request<v1::$request>,
        ) -> BoxFuture<'f, Result<Response<v1::$response>, Status>>
        where
            's: 'f,
            Self: 'f,
        {
            Box::pin(std::future::ready(Err(Status::unimplemented("not in this test"))))
        })*
    };
}

#[tonic::async_trait]
impl CredentialsService for Vault {
    async fn issue_credential(
        &self,
        request: Request<v1::IssueCredentialRequest>,
    ) -> Result<Response<v1::IssueCredentialResponse>, Status> {
        let answer = self.issue(request.into_inner().request_id);
        self.wait().await;
        answer.map(Response::new)
    }

    unimplemented_rpcs! {
        put_target(PutTargetRequest) -> PutTargetResponse;
        get_target(GetTargetRequest) -> GetTargetResponse;
        list_targets(ListTargetsRequest) -> ListTargetsResponse;
        delete_target(DeleteTargetRequest) -> DeleteTargetResponse;
        check_target(CheckTargetRequest) -> CheckTargetResponse;
        rotate_target_login(RotateTargetLoginRequest) -> RotateTargetLoginResponse;
        get_target_setup(GetTargetSetupRequest) -> GetTargetSetupResponse;
        put_role(PutRoleRequest) -> PutRoleResponse;
        get_role(GetRoleRequest) -> GetRoleResponse;
        list_roles(ListRolesRequest) -> ListRolesResponse;
        delete_role(DeleteRoleRequest) -> DeleteRoleResponse;
        verify_role(VerifyRoleRequest) -> VerifyRoleResponse;
    }
}

#[tonic::async_trait]
impl LeasesService for Vault {
    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let answer = self.renew(request.into_inner().id);
        self.wait().await;
        answer.map(Response::new)
    }

    type WatchLeaseStream = BoxStream<'static, Result<v1::WatchLeaseResponse, Status>>;

    async fn watch_lease(
        &self,
        request: Request<v1::WatchLeaseRequest>,
    ) -> Result<Response<Self::WatchLeaseStream>, Status> {
        self.watch(&request.into_inner().id).map(Response::new)
    }

    async fn revoke_lease(
        &self,
        request: Request<v1::RevokeLeaseRequest>,
    ) -> Result<Response<v1::RevokeLeaseResponse>, Status> {
        let id = request.into_inner().id;
        let mut state = self.set();
        state.calls.push(Call::Revoke(id.clone()));
        if let Some(away) = state.away.clone() {
            return Err(away);
        }
        let number = self.find(&id, &state)?;
        state.leases[number].revoked = true;
        Ok(Response::new(v1::RevokeLeaseResponse { lease: Some(self.lease(number, &state)) }))
    }

    unimplemented_rpcs! {
        get_lease(GetLeaseRequest) -> GetLeaseResponse;
        list_leases(ListLeasesRequest) -> ListLeasesResponse;
        revoke_leases(RevokeLeasesRequest) -> RevokeLeasesResponse;
        accept_clock(AcceptClockRequest) -> AcceptClockResponse;
    }
}
