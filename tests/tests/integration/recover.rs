//! `keystead-server recover`: a vault whose token is destroyed comes back on another, with the recovery key and a quorum.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use age::secrecy::ExposeSecret;
use keystead_client::{InitRequest, SecretBytes, v1};
use keystead_tests::canary::Canaries;
use keystead_tests::{TestVault, programs, until};

use crate::{get, put, reason};

/// Files of mode 0600 for what the command takes.
struct Given {
    dir: PathBuf,
    out: PathBuf,
    arguments: Vec<String>,
}

impl Given {
    fn new(vault: &TestVault, name: &str, identity: &str, shares: &[String]) -> Self {
        let dir = vault.dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        let mut given = Self { out: dir.join("new"), dir, arguments: vec!["recover".to_owned()] };
        given.take("--config", &vault.config_file());
        let out = given.out.clone();
        given.take("--out-dir", &out);
        given.file("--identity-file", "identity", &format!("# created: some day\n{identity}\n"));
        given.file("--pin-file", "pin", &vault.token().pin);
        for (number, share) in shares.iter().enumerate() {
            given.file("--share-file", &format!("share-{number}"), share);
        }
        given
    }

    fn take(&mut self, option: &str, value: &Path) {
        self.arguments.extend([option.to_owned(), value.to_str().unwrap().to_owned()]);
    }

    fn file(&mut self, option: &str, name: &str, text: &str) {
        let path = self.dir.join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        self.take(option, &path);
    }

    fn run(&self) -> Output {
        Command::new(programs::server())
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What it says when it refuses; no file is left then.
    #[track_caller]
    fn refused(&self) -> String {
        let output = self.run();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!self.out.exists(), "{said}");
        said
    }
}

/// The token and all that was on it is gone; a fresh one has the same label and PIN.
fn destroy_token(vault: &TestVault) {
    let token = vault.token();
    std::fs::remove_dir_all(&token.tokens).unwrap();
    std::fs::create_dir(&token.tokens).unwrap();
    token.init(&token.label).unwrap();
}

#[tokio::test]
async fn a_vault_whose_token_is_destroyed_comes_back_with_the_recovery_key_and_a_quorum() {
    let key = age::x25519::Identity::generate();
    let identity = key.to_string().expose_secret().to_owned();
    let mut vault = TestVault::builder().uninitialized().start().await;
    let recovery_recipients = vec![key.to_public().to_string()];
    let request = InitRequest { recovery_recipients, ..vault.init_request() };
    vault.keep_shares(&vault.local().system().initialize(request).await.unwrap());
    vault.unseal().await;
    for number in 0..30 {
        put(&vault.operator(), &format!("shop/{number}"), &format!("value {number}")).await;
    }
    let shares = vault.shares();

    let running = Given::new(&vault, "running", &identity, &shares[..2]);
    let said = running.refused();
    assert!(said.contains("is its server stopped?"), "{said}");

    vault.stop().await;
    let there = Given::new(&vault, "there", &identity, &shares[..2]);
    let said = there.refused();
    assert!(said.contains("has the keys of this vault") && said.contains("[TOKEN_NOT_LOST]"), "{said}");

    destroy_token(&vault);
    let stranger = age::x25519::Identity::generate().to_string().expose_secret().to_owned();
    let said = Given::new(&vault, "stranger", &stranger, &shares[..2]).refused();
    assert!(
        said.contains("recovery keys are recovery:") && said.contains("[RECOVERY_KEY_UNKNOWN]"),
        "{said}"
    );
    let said = Given::new(&vault, "few", &identity, &shares[..1]).refused();
    assert!(said.contains("1 shares of the 2 needed"), "{said}");
    let bad = [shares[0].clone(), shares[1].replace("ks1", "ks2"), shares[0].clone()];
    let said = Given::new(&vault, "bad", &identity, &bad).refused();
    assert!(said.contains("[SHARE_NOT_A_SHARE]") && said.contains("share 1 is there already"), "{said}");

    let mut good = Given::new(&vault, "good", &identity, &shares[..2]);
    good.arguments.extend(["--shares", "4", "--threshold", "3"].map(str::to_owned));
    let output = good.run();
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("Data keys: 31 moved (0 of them before), 0 left behind."), "{stdout}");
    assert!(stderr.contains("data keys: "), "{stderr}");
    let new: Vec<String> = (1..=4)
        .map(|number| {
            let path = good.out.join(format!("share-{number}.txt"));
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            std::fs::read_to_string(path).unwrap().trim_end().to_owned()
        })
        .collect();
    let mut canaries = Canaries::new();
    canaries.plant("identity", &identity);
    canaries.plant("PIN", &vault.token().pin);
    for share in shares.iter().chain(&new) {
        canaries.plant("share", share);
    }
    canaries.absent_from("standard output", &stdout);
    canaries.absent_from("standard error", &stderr);

    vault.start_again().await.unwrap();
    let status = vault.local().system().status().await.unwrap();
    assert_eq!(status.epoch, 2);
    let former = vault.hold_shares(new.clone());
    let refused = vault.local().system().submit_share(&SecretBytes::from(former[0].clone()), "").await;
    assert_eq!(reason(refused), "SHARE_OTHER_EPOCH");
    for share in &new[..3] {
        vault.local().system().submit_share(&SecretBytes::from(share.clone()), "").await.unwrap();
    }
    assert_eq!(vault.local().system().status().await.unwrap().state(), v1::SealState::Unsealed);
    for number in 0..30 {
        assert_eq!(get(&vault.operator(), &format!("shop/{number}")).await, format!("value {number}"));
    }
    put(&vault.operator(), "shop/later", "after").await;
    let keys = vault.operator().keys();
    until("every data key is as the new seal record wants it", || async {
        keys.rotation().await.unwrap().complete.then_some(())
    })
    .await;
    let record = std::fs::read(good.out.join("seal-record.ksseal")).unwrap();
    assert!(record.starts_with(b"KSSR"));

    let recorded: Vec<_> = vault.audit().await;
    let of_recovery: Vec<_> = recorded
        .iter()
        .filter(|entry| entry.action == "system:recover")
        .map(|entry| entry.outcome.as_str())
        .collect();
    assert_eq!(of_recovery, ["", "TOKEN_NOT_LOST", "", "ok"]);
}
