//! Secrets that were read and written.

use futures::future::join_all;
use keystead_client::SecretValue;
use keystead_tests::ServerProcess;

use crate::held::HeldRead;
use crate::namespace::inside;
use crate::needles::{Needles, canary};
use crate::process::{search, search_after_closing};

const KIB: usize = 1024;
const CLIENTS: usize = 4;
const ROUNDS: usize = 50;

#[test]
fn what_was_read_and_written_leaves_no_copy() {
    inside("secrets::what_was_read_and_written_leaves_no_copy", async {
        let server = ServerProcess::start().await;
        server.init().await;
        server.unseal().await;
        let mut needles = Needles::new();
        let (value, field, large, written) = (canary(KIB), canary(KIB), canary(100 * KIB), canary(KIB));
        needles.add("value", &value);
        needles.add("field", &field);
        needles.add("written value", &written);
        needles.add_as_it_is("large value", &large);

        let operator = server.operator();
        operator.secrets().put("a/value", SecretValue::data(value)).await.unwrap();
        operator.secrets().put("a/fields", SecretValue::fields([("f", field)])).await.unwrap();
        operator.secrets().put("a/large", SecretValue::data(large)).await.unwrap();
        let clients: Vec<_> = (0..CLIENTS).map(|_| server.operator()).collect();
        for round in 0..ROUNDS {
            join_all(clients.iter().map(|client| async {
                let secrets = client.secrets();
                secrets.get("a/value").await.unwrap();
                secrets.batch_get(&["a/fields", "a/value"]).await.unwrap();
                secrets.put("a/written", SecretValue::data(written.clone())).await.unwrap();
                if round % 10 == 0 {
                    secrets.get("a/large").await.unwrap();
                }
            }))
            .await;
        }
        drop((clients, operator));
        assert_eq!(search_after_closing(&server, &needles).await, []);

        let held = HeldRead::begin(&server, server.admin(), "a/value").await;
        let found = search(&server, &needles);
        assert!(found.iter().any(|found| found.value == "value" && found.bytes > KIB / 2), "{found:?}");
        drop(held);
        assert_eq!(search_after_closing(&server, &needles).await, []);
    });
}
