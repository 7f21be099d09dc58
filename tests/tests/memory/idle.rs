//! Callers who are done and stay connected: what they sent and were given does not wait in the server until they hang up.

use keystead_client::{Client, SecretBytes, SecretValue, v1};
use keystead_tests::ServerProcess;

use crate::namespace::inside;
use crate::needles::{Needles, canary};
use crate::process::{Found, search_after_closing};
use crate::seal::look_for_shares;

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

#[test]
fn who_stays_connected_keeps_no_share_and_no_pin() {
    inside("idle::who_stays_connected_keeps_no_share_and_no_pin", async {
        let server = ServerProcess::start().await;
        let founder = server.local();
        let made = founder.system().initialize(server.init_request()).await.unwrap();
        server.keep_shares(&made);
        let mut needles = Needles::new();
        needles.add("PIN", server.token().pin.as_bytes());
        look_for_shares(&mut needles, &server.shares());
        assert_eq!(search_after_closing(&server, &needles).await, [], "after init");

        let holders = [server.local(), server.anonymous()];
        for (holder, share) in holders.iter().zip(server.shares()) {
            holder.system().submit_share(&SecretBytes::from(share), "").await.unwrap();
        }
        let found = search_after_closing(&server, &needles).await;
        // Kept for logging in again.
        let elsewhere: Vec<&Found> =
            found.iter().filter(|found| !(found.value == "PIN" && found.in_arena)).collect();
        assert!(elsewhere.is_empty(), "while open: {elsewhere:?}");
        assert_eq!(found.len(), 1, "the PIN is kept once, and found");

        for caller in holders.iter().chain([&founder]) {
            assert_eq!(state(caller).await, v1::SealState::Unsealed, "it was connected, and is again");
        }
        server.seal().await;
        assert_eq!(search_after_closing(&server, &needles).await, [], "after sealing");
        drop((holders, founder));
    });
}

async fn state(caller: &Client) -> v1::SealState {
    caller.system().status().await.unwrap().state()
}
