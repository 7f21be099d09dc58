//! A whole vault for this crate's tests: tokens in memory, a store that fails on demand, a log in a directory of its own.
//! Compiled for tests only.

pub(crate) mod target;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ed25519_dalek::{Signer as _, SigningKey};
use keystead_audit::{AuditLog, OpenOptions};
use keystead_crypto::envelope::{Wrap, WrappedDataKey};
use keystead_crypto::ports::{
    Anchor, Entropy, Hsm, HsmError, HsmKey, HsmKeyPurpose, HsmLogin, HsmSealed, KeyWrapper,
    SignatureAlgorithm, Signer, TokenInfo, VerifyingKey,
};
use keystead_crypto::secret::SecretBytes;
use keystead_crypto::share::Share;
use keystead_crypto::token::Token;
use keystead_crypto::unseal_key::UnsealKey;
use keystead_domain::id::RequestId;
use keystead_domain::path::SecretPath;
use keystead_domain::seal::Quorum;
use keystead_domain::time::{Ttl, UnixMillis};
use keystead_storage::fault::{Faults, FaultyStorage};
use keystead_storage::{Keyspace, MemoryStorage, Range, Storage};
use rand_core::Rng;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use self::target::MemoryTargets;
use crate::audit_trail::ReadDurability;
use crate::clock::ManualClock;
use crate::error::VaultError;
use crate::init::{Init, Initialized, TokenLoss};
use crate::keys::rng;
use crate::operation;
use crate::request::{Peer, RequestContext};
use crate::rotation::RotationOptions;
use crate::secrets::{Payload, PutSecret, ReadSecret};
use crate::vault::{FurtherHsm, OpenVault, Vault, VaultOptions, VaultParts};

const PIN: &[u8] = b"1234";

/// A token in memory. Its keys outlive every vault that uses it, as a real one's do. Not secure: a hash makes the key
/// stream, and another the tag.
pub(crate) struct MemoryToken {
    pub(crate) serial: Mutex<&'static str>,
    /// As the configuration of the next start has it.
    pub(crate) clone_of: Mutex<Option<String>>,
    pub(crate) keys: Mutex<BTreeMap<HsmKey, [u8; 32]>>,
    logged_in: AtomicBool,
    pub(crate) away: AtomicBool,
    pub(crate) refuse_pin: AtomicBool,
    pub(crate) pin: Mutex<Vec<u8>>,
    pub(crate) logins: AtomicU64,
    /// Wrong PINs since the last right one, which it tells of by its flags; or it has no such flags.
    pub(crate) wrong_pins: AtomicU64,
    pub(crate) shows_count: AtomicBool,
    /// It answers wrongly when it is tested after a login.
    pub(crate) lies: AtomicBool,
    /// It hears every PIN, and never answers.
    pub(crate) mute: AtomicBool,
    pub(crate) wraps: AtomicU64,
    /// How long it takes after it made a key.
    pub(crate) dawdle: Mutex<Duration>,
    /// What is bound last: a real token's process binds it again whenever it starts.
    pub(crate) bound: Mutex<Vec<HsmKey>>,
    pub(crate) anchor: Mutex<Option<(u64, Vec<u8>)>>,
}

impl MemoryToken {
    pub(crate) fn new(serial: &'static str) -> Arc<Self> {
        Arc::new(Self {
            serial: Mutex::new(serial),
            clone_of: Mutex::default(),
            keys: Mutex::default(),
            logged_in: AtomicBool::new(false),
            away: AtomicBool::new(false),
            refuse_pin: AtomicBool::new(false),
            pin: Mutex::new(PIN.to_vec()),
            logins: AtomicU64::new(0),
            wrong_pins: AtomicU64::new(0),
            shows_count: AtomicBool::new(true),
            lies: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            wraps: AtomicU64::new(0),
            dawdle: Mutex::default(),
            bound: Mutex::default(),
            anchor: Mutex::default(),
        })
    }

    /// The versions of M that it holds.
    pub(crate) fn masters(&self) -> Vec<u32> {
        let keys = self.keys.lock().unwrap();
        keys.keys().filter(|key| key.purpose == HsmKeyPurpose::Master).map(|key| key.version).collect()
    }

    /// Whether its process could start again: everything bound is there.
    pub(crate) fn could_come_back(&self) -> bool {
        let keys = self.keys.lock().unwrap();
        self.bound.lock().unwrap().iter().all(|key| keys.contains_key(key))
    }

    fn there(&self) -> Result<(), HsmError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(HsmError::Unavailable { reason: "it is away".to_owned() });
        }
        Ok(())
    }

    fn key(&self, key: HsmKey) -> Result<[u8; 32], HsmError> {
        self.there()?;
        if !self.logged_in.load(Ordering::SeqCst) {
            return Err(HsmError::NotLoggedIn);
        }
        let absent = HsmError::NotUnique { what: format!("{key:?}"), found: 0 };
        self.keys.lock().unwrap().get(&key).copied().ok_or(absent)
    }

    fn signing_key(&self) -> Result<SigningKey, HsmError> {
        Ok(SigningKey::from_bytes(&self.key(HsmKey { purpose: HsmKeyPurpose::Audit, version: 1 })?))
    }
}

fn stream(key: [u8; 32], iv: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for (block, chunk) in bytes.chunks(32).enumerate() {
        let pad = Sha256::digest([&key[..], iv, &block.to_be_bytes()].concat());
        out.extend(chunk.iter().zip(pad).map(|(byte, pad)| byte ^ pad));
    }
    out
}

fn tag(key: [u8; 32], iv: &[u8], aad: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    Sha256::digest([&key[..], iv, &aad.len().to_be_bytes(), aad, ciphertext].concat())[..16].to_vec()
}

#[async_trait]
impl HsmLogin for MemoryToken {
    async fn probe(&self) -> Result<TokenInfo, HsmError> {
        self.there()?;
        let memory = "memory".to_owned();
        Ok(TokenInfo {
            serial: self.serial.lock().unwrap().to_string(),
            label: memory.clone(),
            model: memory,
        })
    }

    async fn login(&self, pin: SecretBytes) -> Result<TokenInfo, HsmError> {
        self.there()?;
        self.logins.fetch_add(1, Ordering::SeqCst);
        let wrong =
            self.refuse_pin.load(Ordering::SeqCst) || pin.expose() != self.pin.lock().unwrap().as_slice();
        if wrong {
            self.wrong_pins.fetch_add(1, Ordering::SeqCst);
        }
        if self.mute.load(Ordering::SeqCst) {
            return Err(HsmError::DeadlineExceeded { millis: 5000 });
        }
        if wrong {
            return Err(HsmError::PinRefused);
        }
        self.wrong_pins.store(0, Ordering::SeqCst);
        if self.lies.load(Ordering::SeqCst) {
            return Err(HsmError::Lied { what: "its self-test".to_owned() });
        }
        self.logged_in.store(true, Ordering::SeqCst);
        self.probe().await
    }

    async fn login_unattended(&self, pin: SecretBytes) -> Result<TokenInfo, HsmError> {
        self.there()?;
        if self.shows_count.load(Ordering::SeqCst) && self.wrong_pins.load(Ordering::SeqCst) > 0 {
            return Err(HsmError::Misconfigured { what: "it counts wrong PINs".to_owned() });
        }
        self.login(pin).await
    }

    async fn logout(&self) {
        self.logged_in.store(false, Ordering::SeqCst);
    }

    async fn create_key(&self, _: [u8; 8], key: HsmKey) -> Result<(), HsmError> {
        self.there()?;
        let mut bytes = [0; 32];
        rng().fill_bytes(&mut bytes);
        let made = match self.keys.lock().unwrap().entry(key) {
            std::collections::btree_map::Entry::Occupied(_) => {
                Err(HsmError::Misconfigured { what: format!("there is a {key:?} already") })
            }
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert(bytes);
                Ok(())
            }
        };
        let dawdle = *self.dawdle.lock().unwrap();
        tokio::time::sleep(dawdle).await;
        made
    }

    async fn destroy_key(&self, _: [u8; 8], key: HsmKey) -> Result<(), HsmError> {
        self.bound.lock().unwrap().retain(|bound| *bound != key);
        self.there()?;
        self.keys.lock().unwrap().remove(&key);
        Ok(())
    }

    async fn list_keys(&self, _: [u8; 8]) -> Result<Vec<HsmKey>, HsmError> {
        self.there()?;
        Ok(self.keys.lock().unwrap().keys().copied().collect())
    }

    async fn change_pin(&self, current: SecretBytes, new: SecretBytes) -> Result<(), HsmError> {
        self.there()?;
        let mut pin = self.pin.lock().unwrap();
        if pin.as_slice() != current.expose() {
            return Err(HsmError::PinRefused);
        }
        *pin = new.expose().to_vec();
        Ok(())
    }

    async fn bind(&self, _: [u8; 8], keys: &[HsmKey]) -> Result<(), HsmError> {
        keys.iter().try_for_each(|key| self.key(*key).map(drop))?;
        *self.bound.lock().unwrap() = keys.to_vec();
        Ok(())
    }
}

#[async_trait]
impl KeyWrapper for MemoryToken {
    async fn wrap(&self, key: HsmKey, aad: &[u8], plaintext: &[u8]) -> Result<HsmSealed, HsmError> {
        let key = self.key(key)?;
        self.wraps.fetch_add(1, Ordering::SeqCst);
        let mut iv = vec![0; 12];
        rng().fill_bytes(&mut iv);
        let mut ciphertext = stream(key, &iv, plaintext);
        ciphertext.extend(tag(key, &iv, aad, &ciphertext));
        Ok(HsmSealed { mechanism: 1, iv, ciphertext })
    }

    async fn unwrap(&self, key: HsmKey, aad: &[u8], sealed: &HsmSealed) -> Result<Vec<u8>, HsmError> {
        let key = self.key(key)?;
        let (ciphertext, found) = sealed.ciphertext.split_at(sealed.ciphertext.len() - 16);
        if tag(key, &sealed.iv, aad, ciphertext) != found {
            return Err(HsmError::NotAuthentic);
        }
        Ok(stream(key, &sealed.iv, ciphertext))
    }
}

#[async_trait]
impl Signer for MemoryToken {
    async fn verifying_key(&self) -> Result<VerifyingKey, HsmError> {
        let bytes = self.signing_key()?.verifying_key().to_bytes().to_vec();
        Ok(VerifyingKey { algorithm: SignatureAlgorithm::Ed25519, bytes })
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, HsmError> {
        Ok(self.signing_key()?.sign(message).to_bytes().to_vec())
    }
}

#[async_trait]
impl Anchor for MemoryToken {
    async fn store(&self, counter: u64, value: &[u8]) -> Result<(), HsmError> {
        self.there()?;
        let mut anchor = self.anchor.lock().unwrap();
        if anchor.as_ref().is_some_and(|(newest, _)| *newest >= counter) {
            return Err(HsmError::Unsupported { what: "it only grows".to_owned() });
        }
        *anchor = Some((counter, value.to_vec()));
        Ok(())
    }

    async fn load(&self) -> Result<Option<(u64, Vec<u8>)>, HsmError> {
        self.there()?;
        Ok(self.anchor.lock().unwrap().clone())
    }
}

#[async_trait]
impl Entropy for MemoryToken {
    async fn random(&self, bytes: usize) -> Result<SecretBytes, HsmError> {
        let mut drawn = vec![0; bytes];
        rng().fill_bytes(&mut drawn);
        Ok(SecretBytes::new(drawn))
    }
}

/// A server without a vault.
pub(crate) struct Blank {
    pub(crate) store: Arc<MemoryStorage>,
    pub(crate) faults: Faults,
    pub(crate) token: Arc<MemoryToken>,
    pub(crate) vault: Arc<Vault>,
    log: TempDir,
}

impl Blank {
    pub(crate) fn new() -> Self {
        Self::over(&Arc::new(MemoryStorage::new()), &MemoryToken::new("one"))
    }

    /// Another one with the same store and token, and a log of its own.
    pub(crate) fn again(&self) -> Self {
        Self::over(&self.store, &self.token)
    }

    fn over(store: &Arc<MemoryStorage>, token: &Arc<MemoryToken>) -> Self {
        let (store, token, faults) = (Arc::clone(store), Arc::clone(token), Faults::default());
        let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
        let log = tempfile::tempdir().unwrap();
        let (options, targets) = (RotationOptions::default(), MemoryTargets::default());
        let vault = vault(&store, &faults, &[Arc::clone(&token)], &clock, &options, &log, &targets);
        Self { store, faults, token, vault, log }
    }

    /// A vault with this to say of losing its token.
    pub(crate) async fn init(&self, loss: TokenLoss) -> Result<Initialized, VaultError> {
        self.vault.init(&context(None), first(loss)).await
    }

    /// What the log has in the clear, as text.
    pub(crate) fn logged(&self) -> String {
        let mut all = String::new();
        let mut left = vec![self.log.path().to_owned()];
        while let Some(path) = left.pop() {
            if path.is_dir() {
                left.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                all.push_str(&String::from_utf8_lossy(&std::fs::read(path).unwrap()));
            }
        }
        all
    }
}

fn first(loss: TokenLoss) -> Init {
    Init {
        quorum: Quorum::new(2, 3).unwrap(),
        pin: SecretBytes::copy_from(PIN),
        operators: Vec::new(),
        recovery: Vec::new(),
        loss,
    }
}

/// A vault that can be stopped anywhere and started again over the same store and tokens.
pub(crate) struct Bench {
    pub(crate) store: Arc<MemoryStorage>,
    pub(crate) faults: Faults,
    pub(crate) tokens: Vec<Arc<MemoryToken>>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) options: RotationOptions,
    pub(crate) vault: Arc<Vault>,
    pub(crate) shares: Vec<Share>,
    pub(crate) targets: MemoryTargets,
    token: Arc<Token>,
    logs: Vec<TempDir>,
}

impl Bench {
    /// One with an open vault, made with the first of these tokens; the others are configured.
    pub(crate) async fn open(serials: &[&'static str], options: RotationOptions) -> Self {
        let tokens: Vec<_> = serials.iter().map(|serial| MemoryToken::new(serial)).collect();
        let (store, faults) = (Arc::new(MemoryStorage::new()), Faults::default());
        let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
        let (log, targets) = (tempfile::tempdir().unwrap(), MemoryTargets::default());
        let vault = vault(&store, &faults, &tokens, &clock, &options, &log, &targets);
        let made = vault.init(&context(None), first(TokenLoss::Accepted)).await.unwrap();
        let token = Arc::new(made.bootstrap.unwrap().0);
        let (shares, logs) = (made.shares, vec![log]);
        let bench = Self { store, faults, tokens, clock, options, vault, shares, token, logs, targets };
        bench.unseal().await.unwrap();
        bench
    }

    /// As after `kill -9`: nothing of the former process is left but store and tokens. Its log is another's concern, and
    /// with it what the tokens keep of that.
    pub(crate) fn kill(&mut self) {
        for token in &self.tokens {
            token.logged_in.store(false, Ordering::SeqCst);
            *token.anchor.lock().unwrap() = None;
        }
        if let Some(found) = std::mem::take(&mut self.faults).found_at_start() {
            // It was checked when it was written, and nothing was since.
            futures::executor::block_on(self.store.commit(found)).unwrap();
        }
        let log = tempfile::tempdir().unwrap();
        let (store, faults, clock) = (&self.store, &self.faults, &self.clock);
        self.vault = vault(store, faults, &self.tokens, clock, &self.options, &log, &self.targets);
        self.logs.push(log);
    }

    /// Every token is lost with its keys, and this one is there.
    pub(crate) fn lose_tokens(&mut self, serial: &'static str) {
        self.tokens = vec![MemoryToken::new(serial)];
        self.kill();
    }

    /// Copies of the first shares.
    pub(crate) fn shares(&self, count: usize) -> Vec<Share> {
        self.shares[..count].iter().map(|share| Share::parse(share.to_text().expose()).unwrap()).collect()
    }

    /// Goes on with other shares; answers the former ones.
    pub(crate) fn hold(&mut self, shares: Vec<Share>) -> Vec<Share> {
        std::mem::replace(&mut self.shares, shares)
    }

    pub(crate) async fn enter(&self, share: &Share) -> Result<(), VaultError> {
        self.vault.submit_share(&context(None), share.to_text(), None).await.map(drop)
    }

    pub(crate) async fn unseal(&self) -> Result<(), VaultError> {
        for share in &self.shares[..2] {
            self.vault.submit_share(&context(None), share.to_text(), None).await?;
        }
        Ok(())
    }

    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.unseal().await.unwrap();
    }

    pub(crate) fn opened(&self) -> OpenVault {
        self.vault.unsealed().unwrap()
    }

    /// What a quorum combines to.
    pub(crate) fn unseal_key(&self) -> UnsealKey {
        keystead_crypto::shamir::combine(&self.shares[..2]).unwrap()
    }

    pub(crate) fn context(&self) -> RequestContext {
        context(Some(Arc::clone(&self.token)))
    }

    pub(crate) async fn put(&self, path: &str) -> Result<(), VaultError> {
        let payload = Payload::Bytes(SecretBytes::copy_from(path.as_bytes()));
        let path = SecretPath::parse(path).unwrap();
        let put = PutSecret { path, payload, expected: None, request_id: None };
        operation::run(&self.opened(), self.context(), put).await.map(drop)
    }

    /// The value is the path.
    pub(crate) async fn reads(&self, path: &str) -> Result<bool, VaultError> {
        let read = ReadSecret { path: SecretPath::parse(path).unwrap(), version: None };
        let secret = operation::run(&self.opened(), self.context(), read).await?;
        Ok(matches!(secret.payload, Payload::Bytes(bytes) if bytes.expose() == path.as_bytes()))
    }

    /// Way, version of M and version of Q of every wrap of every data key.
    pub(crate) async fn wraps(&self) -> Vec<Vec<(String, u32, u32)>> {
        let snapshot = self.store.snapshot().await.unwrap();
        let page = snapshot.range(Keyspace::DataKeys, Range::all(None), 1024).await.unwrap();
        let named = |wrap: &Wrap| (wrap.token.clone(), wrap.master_version, wrap.q_version);
        let decoded = page.iter().map(|(_, stored)| WrappedDataKey::decode(&stored.value).unwrap());
        decoded.map(|record| record.wraps().iter().map(named).collect()).collect()
    }
}

fn context(token: Option<Arc<Token>>) -> RequestContext {
    RequestContext {
        request_id: RequestId::parse("test").unwrap(),
        trace_id: None,
        peer: Peer::Local { uid: 0 },
        certificate: None,
        token,
        refused: false,
        arrived: Duration::ZERO,
    }
}

fn vault(
    store: &Arc<MemoryStorage>,
    faults: &Faults,
    tokens: &[Arc<MemoryToken>],
    clock: &Arc<ManualClock>,
    options: &RotationOptions,
    log: &TempDir,
    targets: &MemoryTargets,
) -> Arc<Vault> {
    let audit = AuditLog::open(&log.path().join("audit"), OpenOptions::new("test").unwrap()).unwrap();
    let hsm = |token: &Arc<MemoryToken>| -> Arc<dyn Hsm> { Arc::<MemoryToken>::clone(token) };
    let storage: Arc<dyn Storage> = Arc::<MemoryStorage>::clone(store);
    Vault::new(VaultParts {
        storage: Arc::new(FaultyStorage::new(storage, faults.clone())),
        hsm: hsm(&tokens[0]),
        further: tokens[1..]
            .iter()
            .map(|token| FurtherHsm { hsm: hsm(token), clone_of: token.clone_of.lock().unwrap().clone() })
            .collect(),
        audit: Arc::new(audit),
        clock: Arc::<ManualClock>::clone(clock),
        engines: targets.engines(),
        auto_pin: Some(Arc::new(FixedPin)),
        options: VaultOptions {
            node: "test".to_owned(),
            read_durability: ReadDurability::Os,
            unseal_timeout: Duration::from_secs(600),
            rotation: options.clone(),
            anchor_at_sealing: true,
            accept_anchor: None,
            leases: crate::leases::LeaseOptions {
                max_ttl: Ttl::from_secs(86_400).unwrap(),
                max_live_per_principal: 100,
                revocations_per_target: 4,
                max_watches_per_principal: 3,
                max_watches: 4,
            },
            operators: Vec::new(),
        },
    })
}

struct FixedPin;
impl crate::seal::PinSource for FixedPin {
    fn pin(&self) -> Result<SecretBytes, String> {
        Ok(SecretBytes::copy_from(PIN))
    }
    fn describe(&self) -> String {
        "test".to_owned()
    }
}
