//! Several tokens that keep the head: some lag, some are away, one knows of a newer log.

use std::time::Duration;

use keystead_audit::{Body, Durability, OpenOptions, UnixMillis};
use keystead_crypto::secret::SecretBytes;
use keystead_domain::policy::Resource;

use super::*;
use crate::clock::ManualClock;
use crate::operation;
use crate::request::SystemPermit;
use crate::rotation::RotationOptions;
use crate::testing::{Bench, MemoryToken};

const ORIGIN: &str = "vault/node";
const SERIALS: [&str; 3] = ["one", "two", "three"];

enum Test {}

/// A log and three tokens.
struct Tokens {
    _dir: tempfile::TempDir,
    log: Arc<AuditLog>,
    tokens: Vec<Arc<MemoryToken>>,
}

impl Tokens {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions { reserve_bytes: 0, ..OpenOptions::new("node").unwrap() };
        let log = Arc::new(AuditLog::open(dir.path(), options).unwrap());
        Self { _dir: dir, log, tokens: SERIALS.map(MemoryToken::new).into() }
    }

    async fn grow(&self) -> Head {
        let slot = self.log.reserve().unwrap();
        slot.record_clear(EntryKind::System, UnixMillis(1), Body::default(), Durability::Fsync)
            .await
            .unwrap();
        self.log.head()
    }

    /// One that the second token opened.
    fn keeper(&self, accepted: Option<Head>) -> AnchorKeeper {
        let link = |token: &Arc<MemoryToken>| {
            let way = token.serial.lock().unwrap().to_string();
            let hsm: Arc<dyn Hsm> = Arc::<MemoryToken>::clone(token);
            Arc::new(Link::ready(hsm, None, way))
        };
        let links: Vec<_> = self.tokens.iter().map(link).collect();
        let log = Log { audit: Arc::clone(&self.log), origin: ORIGIN.to_owned() };
        AnchorKeeper::unchecked(log, &links, 1, accepted)
    }

    fn away(&self, token: usize, away: bool) {
        self.tokens[token].away.store(away, Ordering::SeqCst);
    }

    fn kept(&self) -> [Option<Head>; 3] {
        [0, 1, 2].map(|token| anchored(&self.tokens[token]))
    }
}

fn anchored(token: &MemoryToken) -> Option<Head> {
    let kept = token.anchor.lock().unwrap().clone();
    kept.map(|(_, value)| Checkpoint::decode(&value).unwrap().head)
}

fn write(token: &MemoryToken, origin: &str, head: Head) {
    let mut anchor = token.anchor.lock().unwrap();
    let counter = anchor.as_ref().map_or(0, |(counter, _)| *counter) + 1;
    *anchor = Some((counter, Checkpoint { origin: origin.to_owned(), head }.encode()));
}

fn lost(size: u64) -> Head {
    Head { size, root: [7; 32] }
}

async fn keep(keeper: &AnchorKeeper) -> Result<Option<Head>, VaultError> {
    keeper.keep(&ManualClock::new(keystead_domain::time::UnixMillis(1))).await
}

#[tokio::test]
async fn every_token_gets_the_head_and_one_that_lags_is_no_error() {
    let all = Tokens::new();
    let keeper = all.keeper(None);
    keeper.look().await.unwrap();
    let first = all.grow().await;
    all.away(2, true);
    assert_eq!(keep(&keeper).await.unwrap(), Some(first));
    assert_eq!(all.kept(), [Some(first), Some(first), None]);
    all.away(2, false);
    let second = all.grow().await;
    all.away(0, true);
    assert_eq!(keep(&keeper).await.unwrap(), Some(second));
    assert_eq!(all.kept(), [Some(first), Some(second), Some(second)]);
    all.away(0, false);
    // What opens the vault next is the log with all of it, whoever lags.
    let keeper = all.keeper(None);
    assert!(keeper.look().await.unwrap().is_empty());
    assert_eq!(keeper.covered.load(Ordering::Relaxed), second.size);
    assert_eq!(keep(&keeper).await.unwrap(), Some(second), "one of them lags");
    assert_eq!(all.kept(), [Some(second); 3]);
    assert_eq!(keep(&keeper).await.unwrap(), None);
}

#[tokio::test]
async fn that_nobody_keeps_the_head_is_a_failure() {
    let all = Tokens::new();
    let keeper = all.keeper(None);
    keeper.look().await.unwrap();
    all.grow().await;
    for token in 0..3 {
        all.away(token, true);
    }
    assert_eq!(keep(&keeper).await.unwrap_err().reason(), "HSM_UNAVAILABLE");
}

#[tokio::test]
async fn the_newest_anchor_that_the_log_does_not_have_is_the_one_that_counts() {
    let all = Tokens::new();
    let head = all.grow().await;
    write(&all.tokens[0], ORIGIN, lost(20));
    write(&all.tokens[1], ORIGIN, head);
    write(&all.tokens[2], ORIGIN, lost(30));
    let Err(VaultError::AuditRolledBack { anchored, .. }) = all.keeper(None).look().await else { panic!() };
    assert_eq!(anchored, lost(30));
    // To give up the older one is not enough.
    assert!(all.keeper(Some(lost(20))).look().await.is_err());
    // Whoever gives up the newest gives up what came before it.
    let keeper = all.keeper(Some(lost(30)));
    let mut given_up: Vec<_> = keeper.look().await.unwrap().into_iter().map(|given| given.token).collect();
    given_up.sort();
    assert_eq!(given_up, ["one", "three"]);
    assert_eq!(keeper.given_up().len(), 2);
    let grown = all.grow().await;
    keep(&keeper).await.unwrap();
    assert_eq!(all.kept(), [Some(grown); 3], "they are replaced");
}

#[tokio::test]
async fn what_was_given_up_is_replaced_even_if_the_token_fails_at_first() {
    let all = Tokens::new();
    all.grow().await;
    write(&all.tokens[0], ORIGIN, lost(30));
    let keeper = all.keeper(Some(lost(30)));
    keeper.look().await.unwrap();
    all.away(0, true);
    keep(&keeper).await.unwrap();
    all.away(0, false);
    let head = keep(&keeper).await.unwrap();
    assert_eq!((head, all.kept()), (Some(all.log.head()), [head; 3]));
}

#[tokio::test]
async fn giving_up_one_log_does_not_give_up_another() {
    let all = Tokens::new();
    all.grow().await;
    write(&all.tokens[0], ORIGIN, lost(20));
    write(&all.tokens[2], "vault/other", lost(10));
    let refused = all.keeper(Some(lost(20))).look().await.err().unwrap();
    assert_eq!(refused.reason(), "AUDIT_ANCHOR_UNTRUSTED");
}

#[tokio::test]
async fn a_further_token_that_cannot_be_read_is_looked_at_when_it_is_back_and_before_it_is_written() {
    let all = Tokens::new();
    all.grow().await;
    write(&all.tokens[2], ORIGIN, lost(20));
    all.away(2, true);
    let keeper = all.keeper(None);
    keeper.look().await.unwrap();
    all.away(2, false);
    for _ in 0..2 {
        let head = all.grow().await;
        assert_eq!(keep(&keeper).await.unwrap_err().reason(), "AUDIT_ROLLED_BACK");
        assert_eq!(all.kept(), [Some(head), Some(head), Some(lost(20))], "the others have it");
    }
    // The token that opens the vault must be read.
    all.away(1, true);
    assert_eq!(all.keeper(None).look().await.err().unwrap().reason(), "HSM_UNAVAILABLE");
}

/// A vault with a second token.
async fn vault() -> Bench {
    let options = RotationOptions { system_key_age: Duration::from_secs(3600), ..RotationOptions::default() };
    let bench = Bench::open(&["one", "two"], options).await;
    let (open, key) = (bench.opened(), bench.unseal_key());
    let pin = SecretBytes::copy_from(b"1234");
    let job = |permit: SystemPermit<Test>| {
        let (open, key, pin) = (open.clone(), &key, &pin);
        async move { open.join_token(&permit, key, "two", pin).await }
    };
    operation::run_job(&open, "test", Resource::System, Vec::new(), job).await.unwrap();
    open.upkeep().await.unwrap();
    drop(open);
    bench.vault.anchor().await.unwrap();
    bench
}

/// What the second token kept has gone on from where the log is.
fn wind_back(bench: &Bench) -> Head {
    let kept = bench.tokens[1].anchor.lock().unwrap().clone().unwrap();
    let Checkpoint { origin, head } = Checkpoint::decode(&kept.1).unwrap();
    let newer = lost(head.size + 100);
    write(&bench.tokens[1], &origin, newer);
    newer
}

#[tokio::test]
async fn the_vault_does_not_open_while_a_further_token_knows_of_a_newer_log() {
    let bench = vault().await;
    assert_eq!(anchored(&bench.tokens[0]), anchored(&bench.tokens[1]));
    bench.vault.seal_by_itself("test").await.unwrap();
    let newer = wind_back(&bench);
    let Err(VaultError::AuditRolledBack { anchored, .. }) = bench.unseal().await else { panic!() };
    assert_eq!(anchored, newer);
    assert!(!bench.vault.is_unsealed());
}

#[tokio::test]
async fn a_token_that_comes_back_and_knows_of_a_newer_log_seals_the_vault() {
    let bench = vault().await;
    bench.vault.seal_by_itself("test").await.unwrap();
    wind_back(&bench);
    bench.tokens[1].away.store(true, Ordering::SeqCst);
    bench.unseal().await.unwrap();
    bench.vault.upkeep().await.unwrap();
    assert!(bench.vault.is_unsealed());
    bench.tokens[1].away.store(false, Ordering::SeqCst);
    assert_eq!(bench.vault.upkeep().await.unwrap_err().reason(), "AUDIT_ROLLED_BACK");
    assert!(!bench.vault.is_unsealed());
    assert_eq!(bench.unseal().await.unwrap_err().reason(), "AUDIT_ROLLED_BACK");
}

#[tokio::test]
async fn a_token_that_knows_of_a_newer_log_does_not_join() {
    let options = RotationOptions { system_key_age: Duration::from_secs(3600), ..RotationOptions::default() };
    let bench = Bench::open(&["one", "two"], options).await;
    bench.vault.anchor().await.unwrap();
    *bench.tokens[1].anchor.lock().unwrap() = bench.tokens[0].anchor.lock().unwrap().clone();
    wind_back(&bench);
    let (open, key) = (bench.opened(), bench.unseal_key());
    let pin = SecretBytes::copy_from(b"1234");
    let job = |permit: SystemPermit<Test>| {
        let (open, key, pin) = (open.clone(), &key, &pin);
        async move { open.join_token(&permit, key, "two", pin).await }
    };
    let joined = operation::run_job(&open, "test", Resource::System, Vec::new(), job).await;
    assert_eq!(joined.unwrap_err().reason(), "AUDIT_ROLLED_BACK");
    assert_eq!(open.keys.ways().header.ways.len(), 1);
}
