//! One call: its deadline, its token, its repeats, and its error. Invariant: no rpc is made past this.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::address::Address;
use crate::connect::LastAlert;
use crate::error::Error;
use crate::retry::{Repeat, RetryPolicy};
use crate::status;

const GRPC_TIMEOUT: &str = "grpc-timeout";

/// A batch of 100 values of 1 MiB, and what is around them.
pub(crate) const MAX_ANSWER_BYTES: usize = 128 << 20;

/// Half of the streams that a server allows a connection if nobody sets it otherwise.
const PLACES_TO_WATCH: usize = 64;

/// A channel and what every call over it needs.
#[derive(Clone)]
pub(crate) struct Caller {
    channel: Channel,
    address: Address,
    token: Option<MetadataValue<Ascii>>,
    deadline: Duration,
    retry: RetryPolicy,
    last_alert: LastAlert,
    places_to_watch: Arc<Semaphore>,
}

impl Caller {
    pub(crate) fn new(
        channel: Channel,
        address: Address,
        token: Option<MetadataValue<Ascii>>,
        deadline: Duration,
        retry: RetryPolicy,
        last_alert: LastAlert,
    ) -> Self {
        let places_to_watch = Arc::new(Semaphore::new(PLACES_TO_WATCH));
        Self { channel, address, token, deadline, retry, last_alert, places_to_watch }
    }

    /// Places for streams that stay open beside other calls.
    pub(crate) fn places_to_watch(&self) -> &Semaphore {
        &self.places_to_watch
    }

    /// The channel, for making a generated client.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The same with a deadline of at least `least`, for what takes its time.
    pub(crate) fn patient(&self, least: Duration) -> Self {
        Self { deadline: self.deadline.max(least), ..self.clone() }
    }

    /// The same without repeats, for a caller that has its own.
    pub(crate) fn once(&self) -> Self {
        Self { retry: RetryPolicy { attempts: 1, ..self.retry.clone() }, ..self.clone() }
    }

    /// How long to wait before another try, or `None` to give up.
    pub(crate) fn delay(&self, repeat: Repeat, tries: u32, error: &Error) -> Option<Duration> {
        self.retry.delay(repeat, tries, error)
    }

    /// Makes a call, and repeats it within the deadline if that is safe and may help.
    pub(crate) async fn call<A, R, F>(
        &self,
        repeat: Repeat,
        argument: A,
        rpc: impl Fn(Request<A>) -> F,
    ) -> Result<R, Error>
    where
        A: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.deadline;
        let mut tries = 1;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut request = self.request(argument.clone());
            request.set_timeout(left);
            if let Some(timeout) = request.metadata_mut().get_mut(GRPC_TIMEOUT) {
                // No two are the same: kept out of the table of header compression, which would fill with them.
                timeout.set_sensitive(true);
            }
            let answer = tokio::time::timeout_at(deadline, rpc(request))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("")));
            let error = match answer {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => self.error(status),
            };
            let Some(delay) = self.delay(repeat, tries, &error) else { return Err(error) };
            if Instant::now() + delay >= deadline {
                return Err(error);
            }
            tokio::time::sleep(delay).await;
            tries += 1;
        }
    }

    /// A request without a deadline, for a stream that stays open.
    pub(crate) fn request<A>(&self, argument: A) -> Request<A> {
        let mut request = Request::new(argument);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    /// The longest a call may take.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// What a status means.
    pub(crate) fn error(&self, status: Status) -> Error {
        status::error(status, &self.address, self.deadline, &self.last_alert)
    }
}

/// An id for a call that may be repeated.
pub(crate) fn random_request_id() -> Result<String, Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| Error::Randomness)?;
    Ok(format!("{:032x}", u128::from_be_bytes(random)))
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("address", &self.address)
            .field("deadline", &self.deadline)
            .field("retry", &self.retry)
            .finish_non_exhaustive()
    }
}
