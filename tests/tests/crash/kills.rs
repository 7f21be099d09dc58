//! `kill -9` under write load, again and again on the same vault.

use keystead_tests::ServerProcess;

use crate::ledger::Ledger;
use crate::load::Load;
use crate::{records, unsynced};

/// What one vault goes through.
struct Trial {
    server: ServerProcess,
    ledger: Ledger,
    records: records::Records,
    entries: u64,
}

impl Trial {
    async fn begin() -> Self {
        let server = ServerProcess::start().await;
        server.init().await;
        server.unseal().await;
        Self { server, ledger: Ledger::default(), records: records::Records::default(), entries: 0 }
    }

    /// Loads the running server, ends it with `kill -9`, starts `next`, and says what is wrong then.
    async fn kill(&mut self, round: usize, next: impl FnOnce(&mut ServerProcess)) -> Vec<String> {
        let writers = [1, 4, 16].into_iter().cycle().nth(round).unwrap();
        // Sometimes the server is ended at once: while it still settles what the kill before left open.
        let writes = if round % 10 == 9 { 0 } else { 1 + round * 7 % 40 };
        let mut load = Load::start(&self.server, round, writers);
        load.acknowledged(writes).await;
        self.server.kill().await;
        self.ledger.writes.append(&mut load.end().await);
        let entries = records::verify(&self.server);
        assert!(entries >= self.entries, "the log had {} entries and has {entries}", self.entries);
        self.entries = entries;
        next(&mut self.server);
        self.server.start_again().await;
        self.server.unseal().await;
        let mut faults = self.ledger.compare_fresh(&self.server).await;
        self.records.settled(&self.server).await;
        faults.extend(self.records.compare(self.ledger.fresh()));
        if round.is_multiple_of(2) {
            faults.extend(self.ledger.repeat_unanswered(&self.server).await);
        }
        self.ledger.settle();
        faults
    }
}

async fn kill_often(rounds: usize) {
    let mut trial = Trial::begin().await;
    for round in 0..rounds {
        let faults = trial.kill(round, |_| ()).await;
        assert!(faults.is_empty(), "after kill {round}: {faults:#?}");
    }
    let faults = trial.ledger.compare_all(&trial.server).await;
    assert!(faults.is_empty(), "at the end: {faults:#?}");
    let (acknowledged, all) = (trial.ledger.acknowledged(), trial.ledger.writes.len());
    assert!(acknowledged > rounds * 10 && all > acknowledged, "{acknowledged} of {all} writes acknowledged");
    assert!(trial.server.terminate().await.success());
    records::verify(&trial.server);
}

// Two tests of 25 kills each share the machine's cores.
#[tokio::test]
async fn what_was_acknowledged_outlives_25_kills() {
    kill_often(25).await;
}

#[tokio::test]
async fn what_was_acknowledged_outlives_another_25_kills() {
    kill_often(25).await;
}

#[tokio::test]
async fn without_syncing_the_same_check_finds_losses() {
    let mut trial = Trial::begin().await;
    // Stopped in order, so that what init made is in the files.
    assert!(trial.server.terminate().await.success());
    let synced = keystead_tests::server();
    let program = unsynced::program(&trial.server);
    trial.server.run_instead(program);
    trial.server.start_again().await;
    trial.server.unseal().await;
    let faults = trial.kill(5, |server| server.run_instead(synced)).await;
    let lost = faults.iter().filter(|fault| fault.ends_with("does not exist")).count();
    assert!(lost > 0, "all of {} acknowledged writes were there: {faults:#?}", trial.ledger.acknowledged());
}
