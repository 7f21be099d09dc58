//! `keystead-server recover`, killed in the middle and run again.

use std::path::Path;
use std::process::{Command, Stdio};

use age::secrecy::ExposeSecret;
use keystead_client::{InitRequest, SecretBytes, SecretValue};
use keystead_tests::{ServerProcess, programs, until};

const SECRETS: usize = 50;

fn command(server: &ServerProcess, files: &Path, out: &str) -> Command {
    let mut command = Command::new(programs::server());
    command.arg("recover").arg("--config").arg(server.config_file());
    command.arg("--identity-file").arg(files.join("identity")).arg("--pin-file").arg(files.join("pin"));
    command.arg("--share-file").arg(files.join("0")).arg("--share-file").arg(files.join("1"));
    command.arg("--out-dir").arg(files.join(out));
    command.env_clear().stdin(Stdio::null());
    command
}

#[tokio::test]
async fn a_recovery_that_is_killed_goes_on_when_it_is_run_again() {
    let mut server = ServerProcess::start_behind_shim(&[]).await;
    let key = age::x25519::Identity::generate();
    let recovery_recipients = vec![key.to_public().to_string()];
    let request = InitRequest { recovery_recipients, ..server.init_request() };
    server.keep_shares(&server.local().system().initialize(request).await.unwrap());
    server.unseal().await;
    for number in 0..SECRETS {
        let value = SecretValue::data(format!("value {number}"));
        server.operator().secrets().put(&format!("shop/{number}"), value).await.unwrap();
    }
    server.terminate().await;
    std::fs::remove_dir_all(&server.token().tokens).unwrap();
    std::fs::create_dir(&server.token().tokens).unwrap();
    server.token().init(&server.token().label).unwrap();

    let files = tempfile::tempdir().unwrap();
    let files = files.path();
    std::fs::write(files.join("identity"), key.to_string().expose_secret()).unwrap();
    std::fs::write(files.join("pin"), &server.token().pin).unwrap();
    for (number, share) in server.shares().iter().enumerate() {
        std::fs::write(files.join(number.to_string()), share).unwrap();
    }
    // Two batches are on disk by then: each wrap is two calls, for its length and for itself.
    let fault = server.shim().inject("hang on=C_Encrypt after=95 times=1").unwrap();
    let mut first = command(&server, files, "first").stderr(Stdio::null()).spawn().unwrap();
    until("a wrap hangs", || async { (server.shim().fired(&fault).unwrap() > 0).then_some(()) }).await;
    first.kill().unwrap();
    first.wait().unwrap();
    server.shim().end(&fault).unwrap();

    let second = command(&server, files, "second").output().unwrap();
    let said = String::from_utf8(second.stdout).unwrap();
    assert!(second.status.success(), "{said}{}", String::from_utf8_lossy(&second.stderr));
    let moved = SECRETS + 1;
    assert!(
        said.contains(&format!("Data keys: {moved} moved (40 of them before), 0 left behind.")),
        "{said}"
    );

    let share = |number| {
        let text = std::fs::read_to_string(files.join(format!("second/share-{number}.txt"))).unwrap();
        text.trim_end().to_owned()
    };
    server.start_again().await;
    assert_eq!(server.local().system().status().await.unwrap().epoch, 2);
    server.hold_shares((1..=3).map(share).collect());
    server.unseal().await;
    for number in 0..SECRETS {
        let secret = server.operator().secrets().get(&format!("shop/{number}")).await.unwrap();
        let SecretValue::Data(found) = secret.value else { panic!("{number} has fields") };
        assert_eq!(found.expose(), SecretBytes::from(format!("value {number}")).expose());
    }
    let recorded = server.audit().await;
    let outcomes: Vec<_> = recorded
        .iter()
        .filter(|entry| entry.action == "system:recover")
        .map(|entry| entry.outcome.clone())
        .collect();
    assert!(outcomes.contains(&"ok".to_owned()), "{outcomes:?}");
    until("what the killed one did not do is derived", || async {
        let recorded = server.audit().await;
        let derived = |entry: &keystead_client::v1::AuditEntry| {
            entry.action == "system:recover" && entry.outcome == "NOT_DONE"
        };
        recorded.iter().any(derived).then_some(())
    })
    .await;
}
