//! Keeping the head in a token that loses answers, is slow, or was written by somebody else.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use keystead_audit::{Body, Durability, EntryKind, OpenOptions, UnixMillis};

use super::*;

const ORIGIN: &str = "vault/node";

#[derive(Default)]
struct Token {
    kept: Mutex<Option<(u64, Vec<u8>)>>,
    loses_answers: AtomicBool,
    busy: AtomicBool,
    stores: AtomicU64,
}

#[async_trait]
impl Anchor for Token {
    async fn store(&self, counter: u64, value: &[u8]) -> Result<(), HsmError> {
        assert!(!self.busy.swap(true, Ordering::SeqCst), "two stores at a time");
        tokio::task::yield_now().await;
        self.busy.store(false, Ordering::SeqCst);
        let mut kept = self.kept.lock().unwrap();
        if kept.as_ref().is_some_and(|(newest, _)| *newest >= counter) {
            return Err(HsmError::Unsupported { what: "it only grows".to_owned() });
        }
        *kept = Some((counter, value.to_vec()));
        self.stores.fetch_add(1, Ordering::SeqCst);
        if self.loses_answers.load(Ordering::SeqCst) {
            return Err(HsmError::Unavailable { reason: "its process ended".to_owned() });
        }
        Ok(())
    }

    async fn load(&self) -> Result<Option<(u64, Vec<u8>)>, HsmError> {
        Ok(self.kept.lock().unwrap().clone())
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    log: Arc<AuditLog>,
    token: Arc<Token>,
    kept: Arc<Kept>,
    of: Arc<Log>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = OpenOptions { reserve_bytes: 0, ..OpenOptions::new("node").unwrap() };
        let log = Arc::new(AuditLog::open(dir.path(), options).unwrap());
        let token = Arc::new(Token::default());
        let port: Arc<dyn Anchor> = Arc::<Token>::clone(&token);
        let of = Arc::new(Log { audit: Arc::clone(&log), origin: ORIGIN.to_owned() });
        Self { _dir: dir, log, token, kept: Arc::new(Kept::new(port)), of }
    }

    async fn grow(&self) -> Head {
        let slot = self.log.reserve().unwrap();
        slot.record_clear(EntryKind::System, UnixMillis(1), Body::default(), Durability::Fsync)
            .await
            .unwrap();
        self.log.head()
    }

    async fn keep(&self) -> Result<Option<Head>, VaultError> {
        self.kept.keep(&self.of, &|_| false).await
    }

    fn kept(&self) -> (u64, Head) {
        let (counter, value) = self.token.kept.lock().unwrap().clone().unwrap();
        (counter, Checkpoint::decode(&value).unwrap().head)
    }
}

#[tokio::test]
async fn a_log_that_did_not_grow_is_not_anchored_again() {
    let bench = Bench::new();
    assert_eq!(bench.keep().await.unwrap(), None, "an empty log");
    let head = bench.grow().await;
    assert_eq!(bench.keep().await.unwrap(), Some(head));
    assert_eq!(bench.keep().await.unwrap(), None);
    assert_eq!((bench.kept(), bench.token.stores.load(Ordering::SeqCst)), ((1, head), 1));
}

#[tokio::test]
async fn a_store_whose_answer_was_lost_is_found_out_about() {
    let bench = Bench::new();
    bench.grow().await;
    bench.token.loses_answers.store(true, Ordering::SeqCst);
    assert!(matches!(bench.keep().await, Err(VaultError::Hsm(HsmError::Unavailable { .. }))));
    bench.token.loses_answers.store(false, Ordering::SeqCst);
    let head = bench.grow().await;
    assert_eq!(bench.keep().await.unwrap(), Some(head));
    assert_eq!(bench.kept(), (2, head));
}

#[tokio::test]
async fn one_anchor_is_stored_at_a_time() {
    let bench = Bench::new();
    let mut keeping = Vec::new();
    for _ in 0..20 {
        bench.grow().await;
        let (kept, of) = (Arc::clone(&bench.kept), Arc::clone(&bench.of));
        keeping.push(tokio::spawn(async move { kept.keep(&of, &|_| false).await }));
    }
    for kept in keeping {
        kept.await.unwrap().unwrap();
    }
    assert_eq!(bench.kept().1, bench.log.head());
}

#[tokio::test]
async fn an_anchor_that_somebody_else_wrote_is_not_replaced() {
    let bench = Bench::new();
    let ours = bench.grow().await;
    bench.keep().await.unwrap();
    let theirs = Checkpoint { origin: ORIGIN.to_owned(), head: Head { size: ours.size, root: [1; 32] } };
    *bench.token.kept.lock().unwrap() = Some((9, theirs.encode()));
    bench.grow().await;
    assert!(bench.keep().await.is_err(), "its counter was used up");
    let found = bench.keep().await;
    assert!(matches!(found, Err(VaultError::AuditRolledBack { instead: Some(_), .. })), "{found:?}");
    assert_eq!(bench.kept(), (9, theirs.head));
}
