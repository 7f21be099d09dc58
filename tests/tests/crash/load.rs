//! Writers that go on until the server is gone, each on a connection of its own: new secrets, and new versions of one that
//! each of them has to itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keystead_proto::v1::secrets_service_client::SecretsServiceClient;
use keystead_tests::{PATIENCE, Site, raw};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic_types::StatusExt;

use crate::ledger::{Fate, Write};

/// Writers at work.
pub(crate) struct Load {
    writers: JoinSet<Vec<Write>>,
    acknowledged: watch::Receiver<usize>,
}

impl Load {
    /// Starts `writers` writers; `round` names their writes.
    pub(crate) fn start(site: &Site, round: usize, writers: usize) -> Self {
        let (count, acknowledged) = watch::channel(0);
        let (count, total) = (Arc::new(count), Arc::new(AtomicUsize::new(0)));
        let mut set = JoinSet::new();
        for writer in 0..writers {
            let secrets = SecretsServiceClient::new(raw::channel(site, Some(site.admin())));
            let (count, total) = (Arc::clone(&count), Arc::clone(&total));
            set.spawn(write_on(secrets, round, writer, move || {
                count.send_replace(total.fetch_add(1, Ordering::Relaxed) + 1);
            }));
        }
        Self { writers: set, acknowledged }
    }

    /// Waits until so many writes were acknowledged.
    pub(crate) async fn acknowledged(&mut self, writes: usize) {
        let enough = self.acknowledged.wait_for(|count| *count >= writes);
        tokio::time::timeout(PATIENCE, enough).await.expect("writes are acknowledged").unwrap();
    }

    /// What was written, once the server is gone.
    pub(crate) async fn end(self) -> Vec<Write> {
        self.writers.join_all().await.into_iter().flatten().collect()
    }
}

async fn write_on(
    mut secrets: SecretsServiceClient<tonic::transport::Channel>,
    round: usize,
    writer: usize,
    acknowledged: impl Fn(),
) -> Vec<Write> {
    let mut writes = Vec::new();
    for number in 0_usize.. {
        let id = format!("r{round}-w{writer}-{number}");
        let path = if number % 3 == 0 { format!("hot/{writer}") } else { format!("load/{id}") };
        // From a few bytes to some KiB, and different everywhere: half of it is not a value.
        let value = format!("{id}|").repeat(1 + (number * 37 + writer * 11) % 200).into_bytes();
        let mut write = Write { id: id.clone(), path, value, fate: Fate::Unknown };
        match secrets.put_secret(write.request(&id)).await {
            Ok(answer) => {
                write.fate = Fate::Acknowledged(answer.into_inner().version.unwrap().version);
                writes.push(write);
                acknowledged();
            }
            Err(ended) => {
                let said = ended.get_details_error_info().map(|info| info.reason);
                assert_eq!(said, None, "{id} was refused: {}", ended.message());
                writes.push(write);
                break;
            }
        }
    }
    writes
}
