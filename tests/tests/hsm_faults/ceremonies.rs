//! The server is killed while the token does its part of a ceremony: the old quorum opens the vault afterwards, or the new
//! one, and the PIN that the token has is one that the seal record knows.

use keystead_client::v1;
use keystead_client::v1::start_ceremony_request::Purpose;
use keystead_client::{SecretBytes, Submitted};
use keystead_tests::{ServerProcess, until};

fn share(text: &str) -> SecretBytes {
    SecretBytes::from(text.to_owned())
}

async fn start() -> ServerProcess {
    // An anchor makes and destroys objects too, and would be what the kill meets.
    let settings = [("hsm.deadline_ms", "60000"), ("audit.anchor_interval_s", "0")];
    let server = ServerProcess::start_behind_shim(&settings).await;
    server.init().await;
    server.unseal().await;
    server
}

async fn begin(server: &ServerProcess, purpose: Purpose) -> String {
    server.operator().system().start_ceremony(purpose).await.unwrap().ceremony_id
}

async fn submit(server: &ServerProcess, text: &str, id: &str) -> Submitted {
    server.local().system().submit_share(&share(text), id).await.unwrap()
}

/// Enters the last share, and kills the server when the token gets to this call, which it must.
async fn killed_at(server: &mut ServerProcess, call: &str, text: &str, id: &str) {
    let fault = server.shim().inject(&format!("hang {call} times=1")).unwrap();
    let (system, text, id) = (server.local().system(), share(text), id.to_owned());
    let sent = tokio::spawn(async move { system.submit_share(&text, &id).await });
    until(call, || async { (sent.is_finished() || server.shim().fired(&fault).unwrap() > 0).then_some(()) })
        .await;
    assert!(server.shim().fired(&fault).unwrap() > 0, "{call} was not made");
    server.kill().await;
    sent.abort();
    server.shim().end(&fault).unwrap();
    server.start_again().await;
}

async fn unseals(server: &ServerProcess, shares: &[String]) {
    for text in shares {
        submit(server, text, "").await;
    }
    assert_eq!(server.local().system().status().await.unwrap().state(), v1::SealState::Unsealed);
}

fn rekey() -> Purpose {
    Purpose::Rekey(v1::Rekey { shares: 3, threshold: 2, ..Default::default() })
}

#[tokio::test]
async fn making_new_shares() {
    let mut server = start().await;
    let old = server.shares();
    for call in ["on=C_GenerateKey", "on=C_EncryptInit", "on=C_DecryptInit", "on=C_SignInit"] {
        let id = begin(&server, rekey()).await;
        submit(&server, &old[0], &id).await;
        killed_at(&mut server, call, &old[1], &id).await;
        assert_eq!(server.local().system().status().await.unwrap().epoch, 1);
        unseals(&server, &old[1..]).await;
    }
    // What was left in the token is in nobody's way.
    let id = begin(&server, rekey()).await;
    submit(&server, &old[0], &id).await;
    let handed = submit(&server, &old[1], &id).await;
    let confirm = handed.ceremony.unwrap().ceremony_id;
    for new in &handed.shares[1..] {
        server.local().system().submit_share(&new.text, &confirm).await.unwrap();
    }
    assert!(server.local().system().status().await.unwrap().epoch > 1);
}

#[tokio::test]
async fn confirming_new_shares() {
    for (call, done) in [("on=C_DecryptInit", false), ("on=C_DestroyObject", true)] {
        let mut server = start().await;
        let old = server.shares();
        let id = begin(&server, rekey()).await;
        submit(&server, &old[0], &id).await;
        let handed = submit(&server, &old[1], &id).await;
        let new: Vec<String> =
            handed.shares.iter().map(|share| share.text.expose_str().unwrap().to_owned()).collect();
        let confirm = handed.ceremony.unwrap().ceremony_id;
        submit(&server, &new[0], &confirm).await;
        killed_at(&mut server, call, &new[1], &confirm).await;
        assert_eq!(server.local().system().status().await.unwrap().epoch > 1, done, "{call}");
        unseals(&server, if done { &new[1..] } else { &old[1..] }).await;
    }
}

#[tokio::test]
async fn changing_the_pin() {
    // Before the token changes it, and after: the session that changed it is closed before anybody hears of it.
    for (call, changed) in [("on=C_SetPIN", false), ("on=C_CloseSession", true)] {
        let mut server = start().await;
        let shares = server.shares();
        let change = v1::ChangePin { new_pin: b"a new pin, 5831".to_vec(), ..Default::default() };
        let id = begin(&server, Purpose::ChangePin(change)).await;
        submit(&server, &shares[0], &id).await;
        killed_at(&mut server, call, &shares[1], &id).await;
        unseals(&server, &shares[1..]).await;
        let logins = server.shim().logins().unwrap();
        let taken: Vec<_> = logins
            .iter()
            .filter(|login| login.answer.as_deref() == Some("0x0"))
            .map(|login| &login.pin)
            .collect();
        assert_eq!(taken.first() != taken.last(), changed, "{call}: {logins:?}");
    }
}
