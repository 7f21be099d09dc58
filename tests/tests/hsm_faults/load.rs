//! Readers and writers that go on through all faults. Invariant: a value that is read is compared with the one that was
//! acknowledged; each call is timed; what callers are told is kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keystead_client::{Client, Error, PutOptions, SecretValue};
use keystead_tests::{ServerProcess, until};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Begins every value.
pub(crate) const CANARY: &str = "canary-value-4b7be01d";

/// A call of one HSM operation ends at its deadline; a change makes two, and either may have met a worker that starts.
pub(crate) const LONGEST: Duration = Duration::from_secs(8);

const READERS: usize = 3;
const WRITERS: usize = 3;
const PACE: Duration = Duration::from_millis(15);

/// What the callers know between them.
#[derive(Default)]
pub(crate) struct Known {
    /// Secrets whose keys the server has not seen since it started: reading one takes the HSM.
    cold: VecDeque<String>,
    /// By path, what was acknowledged last.
    values: BTreeMap<String, String>,
    /// By reason, how often a call was refused.
    pub(crate) refused: BTreeMap<String, usize>,
    pub(crate) said: String,
    pub(crate) read: usize,
    pub(crate) written: usize,
    wrong: Vec<String>,
    slowest: Duration,
}

/// Callers at work.
pub(crate) struct Load {
    pub(crate) known: Arc<Mutex<Known>>,
    callers: JoinSet<()>,
}

/// Writes secrets, and lets the server forget their keys.
pub(crate) async fn prepare(server: &mut ServerProcess, cold: usize) -> Known {
    let mut known = Known::default();
    let operator = server.operator();
    let mut writes = JoinSet::new();
    for number in 0..cold {
        let (path, value) = (format!("cold/{number}"), value(&format!("cold-{number}")));
        known.cold.push_back(path.clone());
        known.values.insert(path.clone(), value.clone());
        let secrets = operator.secrets();
        writes.spawn(async move { secrets.put(&path, SecretValue::data(value.as_str())).await.unwrap() });
        if writes.len() >= 32 {
            writes.join_next().await;
        }
    }
    writes.join_all().await;
    server.terminate().await;
    server.start_again().await;
    server.unseal().await;
    known
}

fn value(id: &str) -> String {
    // Different everywhere: half of it is not a value.
    format!("{CANARY} of {id} ").repeat(4)
}

impl Load {
    pub(crate) fn start(server: &ServerProcess, known: Known) -> Self {
        let known = Arc::new(Mutex::new(known));
        let mut callers = JoinSet::new();
        for _ in 0..READERS {
            callers.spawn(read_on(server.operator(), Arc::clone(&known)));
        }
        for writer in 0..WRITERS {
            callers.spawn(write_on(server.operator(), Arc::clone(&known), writer));
        }
        Self { known, callers }
    }

    /// Waits until so many more calls that need the HSM have succeeded.
    pub(crate) async fn serves(&self, reads: usize, writes: usize) {
        let count = || {
            let known = self.known.lock().unwrap();
            (known.read, known.written)
        };
        let before = count();
        until("the vault serves", || async {
            let now = count();
            (now.0 >= before.0 + reads && now.1 >= before.1 + writes).then_some(())
        })
        .await;
    }

    /// Takes the reasons of the refusals since the last time.
    pub(crate) fn refusals(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut self.known.lock().unwrap().refused)
    }

    /// Stops the callers. Whatever was wrong or late fails here.
    pub(crate) async fn end(mut self) -> Known {
        self.callers.abort_all();
        while let Some(ended) = self.callers.join_next().await {
            if let Err(error) = ended {
                assert!(error.is_cancelled(), "{error}");
            }
        }
        let known = std::mem::take(&mut *self.known.lock().unwrap());
        assert_eq!(known.wrong, Vec::<String>::new());
        assert!(known.slowest < LONGEST, "a call took {:?}", known.slowest);
        known
    }
}

impl Known {
    /// Reads everything that was acknowledged, with the keys forgotten.
    pub(crate) async fn compare_all(&self, server: &ServerProcess) {
        let secrets = server.operator().secrets();
        for (path, value) in &self.values {
            let found = secrets.get(path).await.unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(found.value == SecretValue::data(value.as_str()), "{path} has another value");
        }
    }

    fn note<T>(&mut self, since: Instant, outcome: &Result<T, Error>) {
        self.slowest = self.slowest.max(since.elapsed());
        if let Err(error) = outcome {
            let reason = match error.reason() {
                "" => format!("{error}"),
                reason => reason.to_owned(),
            };
            *self.refused.entry(reason).or_default() += 1;
            self.said.push_str(&format!("{error}\n{error:?}\n"));
        }
    }
}

async fn read_on(operator: Client, known: Arc<Mutex<Known>>) {
    let secrets = operator.secrets();
    loop {
        let next = known.lock().unwrap().cold.pop_front();
        let Some(path) = next else { panic!("the cold secrets are used up") };
        let since = Instant::now();
        let outcome = secrets.get(&path).await;
        {
            let mut known = known.lock().unwrap();
            known.note(since, &outcome);
            match outcome {
                Ok(found) => {
                    known.read += 1;
                    let right = known.values.get(&path).map(|value| SecretValue::data(value.as_str()));
                    if Some(found.value) != right {
                        known.wrong.push(path);
                    }
                }
                Err(_) => known.cold.push_back(path),
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn write_on(operator: Client, known: Arc<Mutex<Known>>, writer: usize) {
    let secrets = operator.secrets();
    for number in 0_usize.. {
        let id = format!("{writer}-{number}");
        let (path, value) = (format!("load/{id}"), value(&id));
        // The same write until it is acknowledged: what had no answer may have happened, and happens once.
        loop {
            let options = PutOptions { request_id: Some(id.clone()), ..PutOptions::default() };
            let since = Instant::now();
            let outcome = secrets.put_with(&path, SecretValue::data(value.as_str()), options).await;
            {
                let mut known = known.lock().unwrap();
                known.note(since, &outcome);
                if outcome.is_ok() {
                    known.written += 1;
                    known.values.insert(path.clone(), value.clone());
                    break;
                }
            }
            tokio::time::sleep(PACE).await;
        }
        tokio::time::sleep(PACE).await;
    }
}
