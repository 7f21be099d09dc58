//! Callers who are done and stay connected: what they sent and were given does not wait in the server until they hang up.

use keystead_client::{Client, SecretValue, v1};
use keystead_tests::ServerProcess;

use crate::namespace::inside;
use crate::needles::{Needles, canary};
use crate::process::search_after_closing;

const KIB: usize = 1024;

#[test]
fn who_stays_connected_keeps_no_secret_in_a_sealed_vault() {
    inside("idle::who_stays_connected_keeps_no_secret_in_a_sealed_vault", async {
        let server = ServerProcess::start().await;
        server.init().await;
        server.unseal().await;
        let mut needles = Needles::new();
        let (put, read) = (canary(KIB), canary(KIB));
        needles.add("written value", &put);
        needles.add("value", &read);
        needles.add("PIN", server.token().pin.as_bytes());
        server.operator().secrets().put("a/read", SecretValue::data(read)).await.unwrap();

        let (writer, reader, unused) = (server.operator(), server.operator(), server.local());
        unused.system().status().await.unwrap();
        writer.secrets().put("a/put", SecretValue::data(put)).await.unwrap();
        reader.secrets().get("a/read").await.unwrap();
        reader.system().seal().await.unwrap();
        assert_eq!(search_after_closing(&server, &needles).await, [], "after sealing");
        for caller in [writer, reader, unused] {
            assert_eq!(state(&caller).await, v1::SealState::Sealed, "it was connected, and is again");
        }
    });
}

async fn state(caller: &Client) -> v1::SealState {
    caller.system().status().await.unwrap().state()
}
