//! Ceremonies as people do them, with `keystead`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use keystead_client::{SecretBytes, v1};
use keystead_crypto::seal_record::SealRecord;
use keystead_server::config::AutoPin;
use keystead_tests::{Site, TestVault};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Wrong use, or a local failure.
const LOCAL: i32 = 1;
/// The server said no.
const REFUSED: i32 = 2;

/// `keystead` of the operator, in a directory of its own.
struct Desk<'a> {
    site: &'a Site,
    dir: tempfile::TempDir,
    address: String,
}

#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn good(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    #[track_caller]
    fn fails(&self, code: i32, why: &str) {
        assert!(self.code == code && self.stderr.contains(why), "{self:?}");
    }

    /// The last answer: each share has one.
    fn json(&self) -> Value {
        serde_json::from_str(self.stdout.lines().last().unwrap()).unwrap()
    }
}

impl<'a> Desk<'a> {
    fn new(site: &'a Site) -> Self {
        let address = format!("https://localhost:{}", site.address().port());
        Self { site, dir: tempfile::tempdir().unwrap(), address }
    }

    /// On the server's host.
    fn local(site: &'a Site) -> Self {
        let address = format!("unix://{}", site.socket().display());
        Self { site, dir: tempfile::tempdir().unwrap(), address }
    }

    async fn run(&self, line: &str, input: &str) -> Ran {
        let mut command = Command::new(keystead_tests::cli());
        command.args(line.split_whitespace()).current_dir(self.dir.path()).env_clear();
        command.env("KEYSTEAD_ADDR", &self.address);
        if self.address.starts_with("https") {
            command.env("KEYSTEAD_CACERT", self.site.pki().ca());
            command.env("KEYSTEAD_CERT", &self.site.admin().cert);
            command.env("KEYSTEAD_KEY", &self.site.admin().key);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that reads nothing may have ended already.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file with each of the vault's shares: `1`, `2`, …
    fn write_shares(&self) {
        for (number, text) in (1..).zip(self.site.shares()) {
            fs::write(self.path(&number.to_string()), text).unwrap();
        }
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(dir)) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Begins a ceremony and says its id.
    async fn begin(&self, line: &str, input: &str) -> String {
        let begun = self.run(&format!("-o json ceremony {line}"), input).await.good().json();
        begun["ceremony_id"].as_str().unwrap().to_owned()
    }

    /// Two holders approve.
    async fn approve(&self, id: &str, further: &str) -> Ran {
        let line =
            format!("-o json ceremony approve --ceremony {id} --share-file 1 --share-file 2 {further}");
        self.run(&line, "").await.good()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test]
async fn holders_rekey_from_their_desks() {
    let mut vault = TestVault::start().await;
    let old = vault.shares();
    let desk = Desk::new(&vault);
    desk.write_shares();
    let begun = desk.run("ceremony rekey --shares 3 --threshold 2", "").await.good();
    assert!(begun.stdout.contains("make new shares") && begun.stdout.contains("Needed of them"), "{begun:?}");
    let shown = desk.run("-o json ceremony show", "").await.good().json();
    let id = shown["ceremony_id"].as_str().unwrap();
    assert_eq!(
        (shown["purpose"].as_str(), shown["parameters"][0]["value"].as_str()),
        (Some("rekey"), Some("3"))
    );
    assert!(begun.stderr.contains(&format!("approve --ceremony {id}")), "{begun:?}");
    let status = desk.run("status", "").await.good();
    assert!(status.stdout.contains("make new shares: 0 of 2 shares entered"), "{status:?}");

    // A script names what it approves, and only that is approved.
    desk.run("ceremony approve", &old[0]).await.fails(LOCAL, "--ceremony");
    let other = desk.run("ceremony approve --ceremony abc --share-file 1", "").await;
    other.fails(LOCAL, "the ceremony under way is");
    assert_eq!(
        vault.operator().system().status().await.unwrap().ceremony.unwrap().entered,
        Vec::<u32>::new()
    );

    let approve = |share: &str, further: &str| {
        format!("ceremony approve --ceremony {id} --share-file {share} --out-dir new {further}")
    };
    let first = desk.run(&approve("1", ""), "").await.good();
    assert!(first.stdout.starts_with("1 of 2 shares entered (number 1)"), "{first:?}");
    desk.run(&approve("1", ""), "").await.fails(REFUSED, "SHARE_DUPLICATE");
    assert!(desk.names("new").is_empty(), "places that were not needed are gone");
    let last = desk.run(&approve("2", ""), "").await.good();
    assert_eq!(desk.names("new"), ["share-1.txt", "share-2.txt", "share-3.txt"]);
    assert_eq!(mode(&desk.path("new/share-1.txt")), 0o600);
    assert!(last.stderr.contains("They count once 2 of them were entered"), "{last:?}");

    // Of the new shares only what a text says can be checked here; that much is.
    let confirm = desk.run("-o json ceremony show", "").await.json();
    assert_eq!(confirm["purpose"], "confirm_rekey");
    let confirm = confirm["ceremony_id"].as_str().unwrap();
    let line = format!("ceremony approve --ceremony {confirm} --share-file");
    desk.run(&format!("{line} 3"), "").await.fails(LOCAL, "epoch 1");
    let typo = fs::read_to_string(desk.path("new/share-3.txt")).unwrap();
    fs::write(desk.path("typo"), format!("{}00000000", &typo.trim()[..typo.trim().len() - 8])).unwrap();
    desk.run(&format!("{line} typo"), "").await.fails(LOCAL, "checksum");
    let entered = vault.operator().system().status().await.unwrap().ceremony.unwrap().entered;
    assert!(entered.is_empty(), "neither was sent");

    let done =
        desk.run(&format!("{line} new/share-1.txt --share-file new/share-3.txt --seal-record e2"), "").await;
    assert!(done.good().stdout.contains("Written:\n  e2\n"));
    let record = fs::read(desk.path("e2")).unwrap();
    assert_eq!(SealRecord::decode(&record).unwrap().verify().unwrap().epoch, 2);
    assert_eq!(mode(&desk.path("e2")), 0o600);
    let exported = desk.run("-o json seal-record export again", "").await.good().json();
    assert_eq!((exported["epoch"].as_u64(), fs::read(desk.path("again")).unwrap()), (Some(2), record));
    desk.run("seal-record export again", "").await.fails(LOCAL, "never overwritten");

    let new = ["1", "3"].map(|number| fs::read(desk.path(&format!("new/share-{number}.txt"))).unwrap());
    drop(desk);
    vault.restart().await;
    for text in new {
        let text = SecretBytes::new(text.trim_ascii().to_vec());
        vault.local().system().submit_share(&text, "").await.unwrap();
    }
    assert!(vault.vault().is_unsealed());
}

#[tokio::test]
async fn shares_for_recipients_are_files_that_age_opens() {
    let vault = TestVault::start().await;
    let desk = Desk::new(&vault);
    desk.write_shares();
    let holders = [age::x25519::Identity::generate(), age::x25519::Identity::generate()];
    let [one, two] = holders.each_ref().map(|holder| holder.to_public().to_string());
    let line = format!("rekey --shares 2 --threshold 2 --recipient {one} --recipient {two}");
    let id = desk.begin(&line, "").await;
    let shown = desk.run("ceremony show", "").await.good();
    assert!(shown.stdout.contains("Share 2 for") && shown.stdout.contains(&two), "{shown:?}");

    let printed = desk.approve(&id, "").await.json();
    assert_eq!(printed["shares"][1]["recipient"], two.as_str(), "without a directory they are printed");
    desk.run("ceremony cancel", "").await.good();
    let id = desk.begin(&line, "").await;
    desk.approve(&id, "--out-dir new").await;
    assert_eq!(desk.names("new"), ["share-1.age", "share-2.age"]);
    let sealed = fs::read(desk.path("new/share-2.age")).unwrap();
    assert!(age::decrypt(&holders[1], &sealed).unwrap().starts_with(b"ks1-share-"));
    assert!(age::decrypt(&holders[0], &sealed).is_err());
}

#[tokio::test]
async fn a_new_pin_comes_from_standard_input_and_shows_nowhere() {
    let vault = TestVault::start().await;
    let desk = Desk::new(&vault);
    desk.write_shares();
    let begun = desk.run("ceremony change-pin", "a new pin, 5831\n").await.good();
    let shown = desk.run("-o json ceremony show", "").await.good();
    let id = shown.json()["ceremony_id"].as_str().unwrap().to_owned();
    let done = desk.approve(&id, "--out-dir new").await;
    for ran in [&begun, &shown, &done] {
        assert!(!format!("{ran:?}").contains("5831"), "{ran:?}");
    }
    assert_eq!(desk.names("new"), ["seal-record.ksseal"]);
}

#[tokio::test]
async fn an_administrator_is_recovered_into_a_file() {
    let vault = TestVault::start().await;
    let desk = Desk::local(&vault);
    desk.write_shares();
    let id = desk.begin("recover-root", "").await;
    desk.run("ceremony recover-root", "").await.fails(REFUSED, "CEREMONY_UNDER_WAY");
    desk.run("unseal --cancel", "").await.fails(LOCAL, "no unseal ceremony");
    desk.run(&format!("ceremony cancel --ceremony {id}"), "").await.good();
    desk.run("ceremony cancel", "").await.fails(LOCAL, "no ceremony is under way");
    let id = desk.begin("recover-root", "").await;
    desk.approve(&id, "--out-dir new").await;
    let token = fs::read_to_string(desk.path("new/bootstrap-token.txt")).unwrap();
    let root = vault.bearer(token.trim());
    assert_eq!(root.auth().who_am_i().await.unwrap().principal, "operator/bootstrap");
}

#[tokio::test]
async fn whoever_looks_at_a_vault_that_opens_by_itself_is_warned() {
    let plain = TestVault::start().await;
    Desk::new(&plain).run("ceremony auto-unseal enable", "").await.fails(REFUSED, "AUTO_PIN_MISSING");

    let place = tempfile::tempdir().unwrap();
    let pin = place.path().join("pin");
    let configured = pin.clone();
    let vault = TestVault::builder()
        .config(move |config| config.seal.auto_pin = Some(AutoPin::File(configured.clone())))
        .start()
        .await;
    fs::write(&pin, &vault.token().pin).unwrap();
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o400)).unwrap();
    let desk = Desk::new(&vault);
    desk.write_shares();
    assert!(!desk.run("status", "").await.good().stderr.contains("powers: 1"));
    let id = desk.begin("auto-unseal enable", "").await;
    desk.approve(&id, "--out-dir new").await;
    assert!(desk.names("new").is_empty(), "nothing is handed out");
    let warned = desk.run("status", "").await.good();
    assert!(warned.stderr.contains("powers: 1: the HSM and its PIN alone open this vault"), "{warned:?}");
    let warned = desk.run("-o json status", "").await.good().json();
    assert_eq!((warned["powers"].as_u64(), warned["warnings"].as_array().unwrap().len()), (Some(1), 1));
    let id = desk.begin("auto-unseal disable", "").await;
    desk.approve(&id, "").await;
    assert_eq!(vault.operator().system().status().await.unwrap().powers, 2);
}

#[tokio::test]
async fn the_seal_record_of_a_new_vault_is_kept_beside_its_shares() {
    for apart in [false, true] {
        let vault = TestVault::builder().uninitialized().start().await;
        let desk = Desk::local(&vault);
        let further = if apart { "--seal-record record" } else { "" };
        let line = format!("init --shares 3 --threshold 2 --out-dir new --accept-total-loss {further}");
        desk.run(&line, &vault.token().pin).await.good();
        let (place, names) = if apart { ("record", 4) } else { ("new/seal-record.ksseal", 5) };
        assert_eq!(desk.names("new").len(), names, "{:?}", desk.names("new"));
        let record = SealRecord::decode(&fs::read(desk.path(place)).unwrap()).unwrap();
        let header = record.verify().unwrap();
        let status = vault.local().system().status().await.unwrap();
        assert_eq!((status.state(), status.epoch), (v1::SealState::Sealed, header.epoch));
        desk.run("ceremony approve", "").await.fails(LOCAL, "`keystead unseal` opens it");
        desk.run("seal-record export early", "").await.fails(REFUSED, "SEALED");
        assert!(!desk.path("early").exists(), "an export that is refused leaves no file");
    }
}
