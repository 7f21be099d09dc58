//! What is measured, in which order, and the measuring itself.
//!
//! Invariant: within a round every subject is measured once at each number in flight, one right after the other, so
//! that a ratio compares neighbours; a slow minute of the machine hits all of them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Arguments;
use crate::load::{self, Load, Request};
use crate::machine::{Machine, cpu_of, load_average};
use crate::report::{Row, Summary};
use crate::vault::{Bare, Vault};

/// Long enough for connections and caches, short enough that nobody waits for it.
const WARM_UP: Duration = Duration::from_millis(300);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// The bare server.
    Echo,
    /// A read, recorded when the system has it.
    ReadOs,
    /// A read, recorded when the disk has it.
    ReadFsync,
    /// A write; always recorded and stored when the disk has it.
    Write,
}

impl Subject {
    const ALL: [Self; 4] = [Self::Echo, Self::ReadOs, Self::ReadFsync, Self::Write];

    /// For a table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Echo => "bare TLS echo",
            Self::ReadOs => "read, audit os",
            Self::ReadFsync => "read, audit fsync",
            Self::Write => "durable write",
        }
    }
}

/// What a run does.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
    pub(crate) in_flight: Vec<usize>,
    pub(crate) subjects: Vec<Subject>,
    pub(crate) one_connection: bool,
}

impl Plan {
    /// The plan that the arguments ask for.
    pub(crate) fn of(arguments: &Arguments) -> Result<Self> {
        let (rounds, seconds) = if arguments.quick { (1, 1) } else { (5, 3) };
        let in_flight = match arguments.in_flight.as_slice() {
            [] => vec![1, 16, 64],
            asked if asked.iter().all(|number| (1..=1000).contains(number)) => asked.to_vec(),
            _ => bail!("--in-flight takes numbers from 1 to 1000"),
        };
        let mut subjects =
            if arguments.only.is_empty() { Subject::ALL.to_vec() } else { arguments.only.clone() };
        subjects.sort_unstable();
        subjects.dedup();
        Ok(Self {
            rounds: arguments.rounds.unwrap_or(rounds),
            seconds: arguments.seconds.unwrap_or(seconds),
            in_flight,
            subjects,
            one_connection: arguments.one_connection,
        })
    }

    fn connections(&self) -> usize {
        if self.one_connection { 1 } else { self.in_flight.iter().copied().max().unwrap_or(1) }
    }

    fn wants(&self, any: &[Subject]) -> bool {
        any.iter().any(|subject| self.subjects.contains(subject))
    }
}

/// One measurement.
pub(crate) struct Cell {
    pub(crate) round: u32,
    pub(crate) subject: Subject,
    pub(crate) in_flight: usize,
    pub(crate) latencies: Histogram<u64>,
    pub(crate) took: Duration,
    pub(crate) spent: Spent,
    pub(crate) load_average: f64,
}

/// CPU time during a measurement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) server: Duration,
    pub(crate) hsm: Duration,
    pub(crate) client: Duration,
    pub(crate) others: Duration,
    pub(crate) stolen: Duration,
}

/// A server under load.
struct Target {
    subject: Subject,
    request: Request,
    load: Load,
    server: u32,
    hsm: Vec<u32>,
}

/// Starts everything, measures all rounds, stops everything.
pub(crate) async fn run(plan: &Plan, progress: impl Fn(&str)) -> Result<Summary> {
    progress("starting the vaults and the bare server");
    let os = match plan.wants(&[Subject::Echo, Subject::ReadOs, Subject::Write]) {
        true => Some(Vault::start("os").await?),
        false => None,
    };
    let fsync = if plan.wants(&[Subject::ReadFsync]) { Some(Vault::start("fsync").await?) } else { None };
    let bare = match &os {
        Some(vault) if plan.wants(&[Subject::Echo]) => Some(Bare::start(vault)?),
        _ => None,
    };
    let mut targets = Vec::new();
    for subject in &plan.subjects {
        let vault = if *subject == Subject::ReadFsync { &fsync } else { &os };
        let vault = vault.as_ref().context("a vault was not started")?;
        let (address, server, hsm) = match (subject, &bare) {
            (Subject::Echo, Some(bare)) => (bare.address(), bare.id(), Vec::new()),
            _ => (vault.address(), vault.id(), vault.hsm()?),
        };
        let request = if *subject == Subject::Write { Request::Write } else { Request::Read };
        let load = Load::new(vault.clients(address, plan.connections()).await?);
        targets.push(Target { subject: *subject, request, load, server, hsm });
    }
    let mut cells = Vec::new();
    for round in 1..=plan.rounds {
        for in_flight in &plan.in_flight {
            for target in &targets {
                let title = target.subject.title();
                progress(&format!("round {round} of {}: {title}, {in_flight} in flight", plan.rounds));
                cells.push(measure(target, round, *in_flight, plan.seconds).await?);
            }
        }
    }
    progress("done\n");
    Summary::of(plan, &cells)
}

async fn measure(target: &Target, round: u32, in_flight: usize, seconds: u32) -> Result<Cell> {
    target.load.run(target.request, in_flight, WARM_UP).await?;
    let before = target.clock()?;
    let time = Duration::from_secs(seconds.into());
    let measured = target.load.run(target.request, in_flight, time).await?;
    let after = target.clock()?;
    Ok(Cell {
        round,
        subject: target.subject,
        in_flight,
        latencies: measured.latencies,
        took: measured.took,
        spent: after.since(&before),
        load_average: load_average()?,
    })
}

/// CPU times at one moment.
struct Clock {
    server: Duration,
    hsm: Duration,
    client: Duration,
    machine: Machine,
}

impl Target {
    fn clock(&self) -> Result<Clock> {
        let mut hsm = Duration::ZERO;
        for process in &self.hsm {
            hsm += cpu_of(*process)?;
        }
        Ok(Clock {
            server: cpu_of(self.server)?,
            hsm,
            client: cpu_of(std::process::id())?,
            machine: Machine::now()?,
        })
    }
}

impl Clock {
    fn since(&self, earlier: &Self) -> Spent {
        let (busy, stolen) = self.machine.since(earlier.machine);
        let server = self.server.saturating_sub(earlier.server);
        let hsm = self.hsm.saturating_sub(earlier.hsm);
        let client = self.client.saturating_sub(earlier.client);
        Spent { server, hsm, client, others: busy.saturating_sub(server + hsm + client), stolen }
    }
}

/// The measurements of one subject at one number in flight, as one row.
pub(crate) fn rows(plan: &Plan, cells: &[Cell]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for subject in &plan.subjects {
        for in_flight in &plan.in_flight {
            let of = |subject: Subject| {
                cells.iter().filter(move |cell| cell.subject == subject && cell.in_flight == *in_flight)
            };
            let mine: Vec<&Cell> = of(*subject).collect();
            let echo: Vec<&Cell> = of(Subject::Echo).collect();
            let mut latencies = load::histogram()?;
            for cell in &mine {
                latencies.add(&cell.latencies)?;
            }
            rows.push(Row::of(*subject, *in_flight, &mine, &echo, &latencies));
        }
    }
    Ok(rows)
}
