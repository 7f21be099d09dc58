//! Targets, roles and logins as people handle them: with `keystead`, against a real PostgreSQL.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use keystead_tests::peers::{ADMIN, ADMIN_PASSWORD, DATABASE, Shop};
use keystead_tests::{TestVault, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

const ROLE: &str = r#"target = "shop-db"
default_ttl = "15m"
max_ttl = "1h"

[postgres]
schemas = ["shop"]
connection_limit = 4

[[postgres.tables]]
schema = "shop"
tables = ["orders"]
privileges = ["SELECT", "INSERT"]
"#;

/// `keystead` of the operator, in a directory of its own.
struct Desk<'a> {
    vault: &'a TestVault,
    dir: tempfile::TempDir,
}

#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.good()).unwrap()
    }
}

impl<'a> Desk<'a> {
    fn new(vault: &'a TestVault) -> Self {
        Self { vault, dir: tempfile::tempdir().unwrap() }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::from(self.vault.command(self.vault.admin()));
        command.args(words).current_dir(self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn run(&self, words: &[&str], input: &str) -> Ran {
        let mut child = self.command(words).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that reads nothing may have ended already.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    async fn line(&self, line: &str) -> Ran {
        self.run(&line.split_whitespace().collect::<Vec<_>>(), "").await
    }

    /// The target and the role, from nothing but what the guide has people type.
    async fn set_up(&self, shop: &Shop) {
        fs::write(self.dir.path().join("role.toml"), ROLE).unwrap();
        let settings = shop.server.settings(DATABASE, ADMIN).unwrap();
        fs::write(self.dir.path().join("db-ca.pem"), &settings.ca_pem).unwrap();
        let setup =
            format!("target setup-sql shop-db --database {DATABASE} --admin {ADMIN} --role-file role.toml");
        shop.run(&self.line(&setup).await.good()).await;
        let put = format!(
            "target put shop-db --host {} --port {} --database {DATABASE} --admin {ADMIN} --ca-file db-ca.pem \
             --max-ttl 2h --password-file -",
            settings.host.as_str(),
            settings.port
        );
        self.run(&put.split_whitespace().collect::<Vec<_>>(), ADMIN_PASSWORD).await.good();
        self.line("role put orders-rw --file role.toml").await.good();
    }
}

async fn no_login_is_left(shop: &Shop) {
    until("no login is left", || async { shop.logins().await.is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn an_operator_adds_a_target_and_a_role_and_sees_what_they_are() {
    let vault = TestVault::start().await;
    let shop = Shop::start(&vault.operator()).await;
    let desk = Desk::new(&vault);
    desk.set_up(&shop).await;

    let target = desk.line("target get shop-db -o json").await.json();
    assert_eq!((&target["postgres"]["admin"], &target["max_ttl"]), (&ADMIN.into(), &"2h".into()));
    assert!(desk.line("target check shop-db").await.good().contains("Its admin login works"));
    // What is not named stays.
    desk.line("target put shop-db --max-ttl 90m").await.good();
    let changed = desk.line("target get shop-db -o json").await.json();
    assert_eq!((&changed["postgres"], &changed["max_ttl"]), (&target["postgres"], &"1h30m".into()));
    desk.line("target rotate shop-db").await.good();
    assert!(shop.server.login(ADMIN, ADMIN_PASSWORD.as_bytes(), DATABASE).await.is_err());
    desk.line("target check shop-db").await.good();
    // Another password by hand: the one before is gone from the store's files when this answers.
    shop.run(&format!("ALTER ROLE {ADMIN} PASSWORD '{ADMIN_PASSWORD}'")).await;
    desk.run(&["target", "put", "shop-db", "--password-file", "-"], ADMIN_PASSWORD).await.good();

    // A role is the same object in a list.
    let listed = desk.line("role list -o json").await.json();
    assert_eq!(listed[0], desk.line("role get orders-rw -o json").await.json());
    // A role comes back as the file that it was.
    let text = desk.line("role get orders-rw").await.good();
    desk.run(&["role", "put", "orders-rw", "--file", "-"], &text).await.good();
    let verified = desk.line("role verify orders-rw").await.good();
    assert!(verified.contains("INSERT") && !verified.contains("excess"), "{verified}");
    let wrong = ROLE.replace("SELECT", "SELCT");
    let refused = desk.run(&["role", "put", "orders-rw", "--file", "-"], &wrong).await;
    assert_eq!(refused.code, Some(1));
    let place = "standard input:12: postgres.tables[0].privileges[0]: ";
    assert!(refused.stderr.contains(place), "{}", refused.stderr);

    // Everybody may do something there that no role declares: named, and let be by its digest.
    shop.run("GRANT USAGE ON SCHEMA shop TO PUBLIC").await;
    let refused = desk.line("target put shop-db --max-ttl 2h -o json").await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let error: Value = serde_json::from_str(&refused.stderr).unwrap();
    assert_eq!(error["error"]["reason"], "BASELINE_NOT_ACCEPTED");
    let finding = &error["error"]["preconditions"][0];
    assert!(finding["description"].as_str().unwrap().contains("REVOKE"), "{finding}");
    let accept = format!("target put shop-db --accept {}", finding["subject"].as_str().unwrap());
    desk.line(&accept).await.good();
    // Withdrawn only once it is closed, and without the password.
    let unaccept = accept.replace("--accept", "--unaccept");
    assert_eq!(desk.line(&unaccept).await.code, Some(2));
    shop.run("REVOKE USAGE ON SCHEMA shop FROM PUBLIC").await;
    desk.line(&unaccept).await.good();
    assert_eq!(desk.line("target get shop-db -o json").await.json()["accepted"], Value::Array(Vec::new()));
    // The kept password goes nowhere else.
    let moved = desk.run(&["target", "put", "shop-db", "--host", "127.0.0.2"], "").await;
    let needed = "the password of the admin login is needed: there is no terminal";
    assert!(moved.code == Some(1) && moved.stderr.contains(needed), "{moved:?}");
    assert!(moved.stderr.contains("name its file with --password-file"), "{moved:?}");

    assert_eq!(desk.line("target delete shop-db --yes").await.code, Some(2), "a role needs it");
    desk.line("role delete orders-rw --yes").await.good();
    desk.line("target delete shop-db --yes").await.good();
    assert!(desk.line("target list -o json").await.json().as_array().unwrap().is_empty());
}

#[tokio::test]
async fn a_login_is_shown_once_and_given_back() {
    let vault = TestVault::start().await;
    let shop = Shop::start(&vault.operator()).await;
    let desk = Desk::new(&vault);
    desk.set_up(&shop).await;

    let issued = desk.line("creds issue orders-rw --ttl 5m -o json").await.json();
    let login = &issued["credential"]["postgres"];
    let password = login["password"].as_str().unwrap();
    let user = login["username"].as_str().unwrap();
    shop.server.login(user, password.as_bytes(), DATABASE).await.unwrap();
    assert_eq!(issued["lease"]["period"], "5m");
    let id = issued["lease"]["id"].as_str().unwrap();
    let listed = desk.line("lease list").await.good();
    assert!(listed.contains(id) && listed.contains(user) && !listed.contains(password), "{listed}");
    let renewed = desk.line(&format!("lease renew {id} --ttl 10m -o json")).await.json();
    assert_eq!(renewed["lease"]["renewals"], 1);
    let shown = desk.line("creds issue orders-rw --class fast").await;
    assert!(shown.stdout.contains("\nPassword       ") && shown.stderr.contains("only time"), "{shown:?}");

    // A disk that is full: nobody has the password, and nobody keeps the lease.
    let live = shop.logins().await.len();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut child = desk.command(&["creds", "issue", "orders-rw"]).stdout(full).spawn().unwrap();
    drop(child.stdin.take());
    let ended = child.wait_with_output().await.unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.code() == Some(1) && said.contains("The lease is revoked"), "{said}");
    until("its login is gone", || async { (shop.logins().await.len() == live).then_some(()) }).await;

    let mut watching = desk.command(&["lease", "watch", id, "-o", "json"]).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    desk.line(&format!("lease revoke {id}")).await.good();
    let mut states = vec![serde_json::from_str::<Value>(&first).unwrap()["state"].clone()];
    while let Some(line) = lines.next_line().await.unwrap() {
        states.push(serde_json::from_str::<Value>(&line).unwrap()["state"].clone());
    }
    assert!(watching.wait().await.unwrap().success() && states[0] == "active", "{states:?}");
    assert_eq!(states.last().unwrap(), "revoked");
    let shown = desk.line(&format!("lease watch {id}")).await.good();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("STATE "), "{shown}");
    assert!(lines[1].starts_with("revoked ") && lines[1].ends_with("renewed=1  because=asked"), "{shown}");
    let refused = desk.line(&format!("lease watch {} -o json", "0".repeat(32))).await;
    assert!(refused.code != Some(0) && refused.stdout.is_empty(), "{refused:?}");
    // One that is closed by force leaves its login, but not for long: nothing else keeps the role.
    desk.line("role put orders-ro --file role.toml").await.good();
    let issued = desk.line("creds issue orders-ro -o json").await.json();
    let forced = issued["lease"]["id"].as_str().unwrap();
    let closed = desk.line(&format!("lease revoke {forced} --force --yes")).await.good();
    assert!(closed.contains("was closed by operator/"), "{closed}");
    until("the role can be deleted", || async {
        (desk.line("role delete orders-ro --yes").await.code == Some(0)).then_some(())
    })
    .await;
    let marked = desk.line("lease revoke --role orders-rw --yes -o json").await.json();
    assert!(marked["leases"].as_u64().unwrap() >= 1, "{marked}");
    no_login_is_left(&shop).await;
    let ended = desk.line(&format!("lease get {id} -o json")).await.json();
    assert_eq!((&ended["state"], &ended["ending"]["reason"]), (&"revoked".into(), &"asked".into()));
    assert_eq!(ended["ending"]["forced_by"], "");
}

#[tokio::test]
async fn a_command_runs_with_a_login_that_ends_with_it() {
    let vault = TestVault::start().await;
    let shop = Shop::start(&vault.operator()).await;
    let desk = Desk::new(&vault);
    desk.set_up(&shop).await;

    let query = "SELECT note, current_user LIKE 'ks\\_%' FROM shop.orders";
    let words = ["creds", "issue", "orders-rw", "--exec", "psql", "-X", "-t", "-A", "-c", query];
    assert_eq!(desk.run(&words, "").await.good(), "first|t\n");
    no_login_is_left(&shop).await;

    // Its exit code is the command's, its CA is gone with it, and it cannot call the vault.
    let script = "echo \"$PGSSLMODE $PGSSLROOTCERT [$KEYSTEAD_KEY$KEYSTEAD_ADDR]\"; test -s \"$PGSSLROOTCERT\" && exit 7";
    let ran = desk.run(&["creds", "issue", "orders-rw", "--exec", "sh", "-c", script], "").await;
    assert_eq!(ran.code, Some(7), "{ran:?}");
    let said: Vec<&str> = ran.stdout.split_whitespace().collect();
    assert!(said[0] == "verify-full" && said[2] == "[]", "{said:?}");
    assert!(!fs::exists(said[1]).unwrap(), "{said:?}");

    // A command that is not there leaves nothing either.
    let ran = desk.line("creds issue orders-rw --exec no-such-command").await;
    assert!(ran.code == Some(1) && ran.stderr.contains("no-such-command"), "{ran:?}");
    no_login_is_left(&shop).await;
}

#[tokio::test]
async fn a_command_that_is_ended_from_outside_loses_its_login_too() {
    let vault = TestVault::start().await;
    let shop = Shop::start(&vault.operator()).await;
    let desk = Desk::new(&vault);
    desk.set_up(&shop).await;
    let script = "echo ready; exec sleep 600";
    let mut child =
        desk.command(&["creds", "issue", "orders-rw", "--exec", "sh", "-c", script]).spawn().unwrap();
    until("it runs", || async { (!shop.logins().await.is_empty()).then_some(()) }).await;
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await.unwrap().unwrap();
    // Passed on to the command, or come before it was there.
    assert!(matches!(ended.code(), Some(143 | 1)), "{ended:?}");
    no_login_is_left(&shop).await;
}
