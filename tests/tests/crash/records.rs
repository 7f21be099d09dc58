//! What the audit log says of the writes. Invariant: entries have no gap; what was acknowledged has its intent and an outcome
//! `ok`; what had no answer has an outcome that tells the truth, or no record and no effect.

use std::collections::BTreeMap;

use keystead_proto::v1;
use keystead_proto::v1::audit_service_client::AuditServiceClient;
use keystead_tests::{ServerProcess, Site, raw, until};

use crate::ledger::{Fate, Write};

/// Entries asked for at a time: more than one round makes.
const LAST: u32 = 4_000;

/// The changes in an audit log, by their request's id.
#[derive(Default)]
pub(crate) struct Records {
    next: u64,
    intents: BTreeMap<u64, String>,
    outcomes: BTreeMap<String, String>,
}

impl Records {
    /// Reads on until each intent has its outcome.
    pub(crate) async fn settled(&mut self, site: &Site) {
        loop {
            self.read_on(site).await;
            if self.intents.is_empty() {
                return;
            }
            let open = self.intents.values().cloned().collect::<Vec<_>>();
            let begin = self.next;
            until(&format!("there is an outcome for {open:?}"), || async {
                let entries = entries(site).await;
                let more = entries.iter().any(|entry| entry.sequence >= begin && entry.kind == "outcome");
                more.then_some(())
            })
            .await;
        }
    }

    async fn read_on(&mut self, site: &Site) {
        let known = self.next;
        for entry in entries(site).await.into_iter().filter(|entry| entry.sequence >= known) {
            assert_eq!(entry.sequence, self.next, "the log has no gap");
            self.next += 1;
            match entry.kind.as_str() {
                "intent" => drop(self.intents.insert(entry.sequence, entry.request_id)),
                "outcome" => {
                    let intent = entry.intent.expect("an outcome names its intent");
                    let id = self.intents.remove(&intent);
                    let id = id.unwrap_or_else(|| panic!("outcome {} has no open intent", entry.sequence));
                    assert_eq!(id, entry.request_id, "the outcome is that of the intent");
                    self.outcomes.insert(id, entry.outcome);
                }
                _ => {}
            }
        }
    }

    /// What the log says wrongly of writes whose fate is known.
    pub(crate) fn compare(&self, writes: &[Write]) -> Vec<String> {
        let wrong = writes.iter().filter_map(|write| {
            let outcome = self.outcomes.get(&write.id).map(String::as_str);
            let right = match (write.fate, outcome) {
                (Fate::Acknowledged(_) | Fate::Present(_), outcome) => outcome == Some("ok"),
                (Fate::Absent, outcome) => outcome != Some("ok"),
                (Fate::Unknown, _) => false,
            };
            (!right).then(|| format!("{} is {:?}, and its outcome {outcome:?}", write.id, write.fate))
        });
        wrong.collect()
    }
}

async fn entries(site: &Site) -> Vec<v1::AuditEntry> {
    let mut audit = AuditServiceClient::new(raw::channel(site, Some(site.admin())));
    let request = v1::TailAuditRequest { last: LAST, follow: false };
    let mut answers = audit.tail_audit(request).await.unwrap().into_inner();
    let mut entries = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        entries.push(answer.entry.unwrap());
    }
    entries
}

/// Checks the files of the log as nobody writes to them; says how many entries there are.
pub(crate) fn verify(server: &ServerProcess) -> u64 {
    keystead_audit::verify(&server.data_dir().join("audit")).unwrap().size
}
