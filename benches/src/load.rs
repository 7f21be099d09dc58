//! The closed loop: so many callers, each with one request in flight, for a while.
//!
//! Invariant: a request that fails ends the run; figures of failing requests would mean nothing. Latency is measured
//! around the client's call, as a service sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use keystead_client::{Client, SecretValue};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Size of the value that is read and written.
pub(crate) const VALUE_BYTES: usize = 1024;
/// Secrets that reads go round.
pub(crate) const READ_PATHS: u64 = 100;
/// Secrets that writes go round, so that no list of versions grows long.
const WRITE_PATHS: u64 = 10_000;

/// Path of one of the secrets that are read.
pub(crate) fn read_path(number: u64) -> String {
    format!("bench/read/{}", number % READ_PATHS)
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Read,
    Write,
}

/// Latencies of a measurement, and how long it took.
pub(crate) struct Measured {
    pub(crate) latencies: Histogram<u64>,
    pub(crate) took: Duration,
}

/// An empty histogram of microseconds, up to a minute, three digits.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

/// Callers that are connected, and a counter that spreads their requests over paths.
pub(crate) struct Load {
    clients: Vec<Client>,
    next: Arc<AtomicU64>,
}

impl Load {
    /// `clients` are taken in turn when there are fewer than requests in flight.
    pub(crate) fn new(clients: Vec<Client>) -> Self {
        Self { clients, next: Arc::new(AtomicU64::new(0)) }
    }

    /// Keeps `in_flight` requests going for a while.
    pub(crate) async fn run(&self, request: Request, in_flight: usize, time: Duration) -> Result<Measured> {
        let started = Instant::now();
        let until = started + time;
        let mut callers = JoinSet::new();
        for client in self.clients.iter().cycle().take(in_flight) {
            callers.spawn(call(client.clone(), request, Arc::clone(&self.next), until));
        }
        let mut latencies = histogram()?;
        while let Some(caller) = callers.join_next().await {
            latencies.add(&caller.context("a caller ended")??)?;
        }
        Ok(Measured { latencies, took: started.elapsed() })
    }
}

async fn call(
    client: Client,
    request: Request,
    next: Arc<AtomicU64>,
    until: Instant,
) -> Result<Histogram<u64>> {
    let secrets = client.secrets();
    let mut latencies = histogram()?;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        if begun >= until {
            return Ok(latencies);
        }
        match request {
            Request::Read => {
                let path = read_path(number);
                secrets.get(&path).await.with_context(|| format!("reading {path}"))?;
            }
            Request::Write => {
                let path = format!("bench/write/{}", number % WRITE_PATHS);
                let value = SecretValue::data(vec![b'x'; VALUE_BYTES]);
                secrets.put(&path, value).await.with_context(|| format!("writing {path}"))?;
            }
        }
        latencies.record(u64::try_from(begun.elapsed().as_micros())?.max(1))?;
    }
}
