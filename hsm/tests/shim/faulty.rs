//! A vault's keys on a SoftHSM token behind the shim, and the calls that a fault may hit. Invariant: what is answered
//! without an error is compared with the truth; every text that a caller sees is kept and searched for secrets.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use ed25519_dalek::{Signature, VerifyingKey};
use keystead_crypto::ports::{
    Anchor, Entropy, HsmError, HsmSealed, KeyWrapper, Signer, VerifyingKey as PortKey,
};
use keystead_crypto::secret::SecretBytes;
use keystead_hsm::testing::{Fault, Shim};
use keystead_hsm::{HsmConfig, HsmHandle, HsmStatus};
use tokio::time::Instant;

use super::bench::{Bench, MASTER, Place, until};

/// Stands for an inner blob.
pub(crate) const CANARY: &[u8] = b"canary: nobody may read this key";

/// What a caller asks, and the function that does the work in the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Wrap,
    Unwrap,
    Sign,
    VerifyingKey,
    Random,
    Store,
    Load,
}

impl Op {
    pub(crate) const ALL: [Self; 7] =
        [Self::Wrap, Self::Unwrap, Self::Sign, Self::VerifyingKey, Self::Random, Self::Store, Self::Load];

    pub(crate) fn function(self) -> &'static str {
        match self {
            Self::Wrap => "C_Encrypt",
            Self::Unwrap => "C_Decrypt",
            Self::Sign => "C_Sign",
            Self::VerifyingKey => "C_GetAttributeValue",
            Self::Random => "C_GenerateRandom",
            Self::Store => "C_CreateObject",
            Self::Load => "C_FindObjectsInit",
        }
    }
}

/// A token behind the shim.
pub(crate) struct Faulty {
    pub(crate) bench: Bench,
    pub(crate) shim: Shim,
    gcm_mechanism: Option<u32>,
    seals_by: (u8, usize),
}

impl Faulty {
    pub(crate) fn new() -> Self {
        let bench = Bench::new();
        let shim = Shim::before(&bench.token.module, bench.path()).unwrap();
        Self { bench, shim, gcm_mechanism: None, seals_by: (1, 12) }
    }

    /// A token of another kind: what the shim makes of it, and how it is to be used then.
    pub(crate) fn other(faults: &[&str], gcm_mechanism: Option<u32>, seals_by: (u8, usize)) -> Self {
        let place = Self { gcm_mechanism, seals_by, ..Self::new() };
        for fault in faults {
            place.shim.inject(fault).unwrap();
        }
        place
    }

    /// No PIN was sent again after the token had refused it.
    pub(crate) fn assert_no_pin_tried_twice(&self) {
        let logins = self.shim.logins().unwrap();
        for (at, login) in logins.iter().enumerate() {
            // CKR_PIN_INCORRECT and CKR_PIN_LOCKED.
            if login.answer.as_deref().is_some_and(|answer| ["0xa0", "0xa4"].contains(&answer)) {
                let again = logins[at + 1..].iter().any(|later| later.pin == login.pin);
                assert!(!again, "a refused PIN was sent again: {logins:?}");
            }
        }
    }
}

impl Place for Faulty {
    fn config(&self) -> HsmConfig {
        HsmConfig { gcm_mechanism: self.gcm_mechanism, ..self.shim.config(self.bench.config()) }
    }

    fn seals_by(&self) -> (u8, usize) {
        self.seals_by
    }

    fn rounds(&self) -> u8 {
        5
    }

    fn pin(&self) -> SecretBytes {
        self.bench.pin()
    }
}

/// A logged-in handle with things to do.
pub(crate) struct Stage {
    pub(crate) place: Faulty,
    pub(crate) hsm: HsmHandle,
    pub(crate) sealed: HsmSealed,
    key: PortKey,
    deadline: Duration,
    wrapped: Mutex<Vec<HsmSealed>>,
    /// The anchor's counters: the highest that was asked to be stored, and the highest that was.
    asked: AtomicU64,
    stored: AtomicU64,
    said: Mutex<String>,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with_deadline(Duration::from_secs(10)).await
    }

    pub(crate) async fn with_deadline(deadline: Duration) -> Self {
        let place = Faulty::new();
        let hsm = place.ready(HsmConfig { deadline, sessions: 2, ..place.config() }).await;
        let sealed = hsm.wrap(MASTER, b"aad", CANARY).await.unwrap();
        let key = hsm.verifying_key().await.unwrap();
        hsm.store(1, b"head").await.unwrap();
        Self {
            place,
            hsm,
            sealed,
            key,
            deadline,
            wrapped: Mutex::default(),
            asked: AtomicU64::new(1),
            stored: AtomicU64::new(1),
            said: Mutex::default(),
        }
    }

    pub(crate) fn inject(&self, fault: &str) -> Fault {
        self.place.shim.inject(fault).unwrap()
    }

    pub(crate) fn fired(&self, fault: &Fault) -> usize {
        self.place.shim.fired(fault).unwrap()
    }

    /// One call: right, or an error, and in time.
    pub(crate) async fn call(&self, op: Op) -> Result<(), HsmError> {
        let since = Instant::now();
        let outcome = self.answer(op).await;
        let took = since.elapsed();
        assert!(took < self.deadline + Duration::from_secs(2), "{op:?} took {took:?}");
        if let Err(error) = &outcome {
            let text = format!("{error} {error:?} {} {:?}\n", self.hsm.status(), self.hsm.status());
            self.said.lock().unwrap().push_str(&text);
        }
        outcome
    }

    async fn answer(&self, op: Op) -> Result<(), HsmError> {
        match op {
            Op::Wrap => {
                let sealed = self.hsm.wrap(MASTER, b"aad", CANARY).await?;
                self.wrapped.lock().unwrap().push(sealed);
            }
            Op::Unwrap => assert_eq!(self.hsm.unwrap(MASTER, b"aad", &self.sealed).await?, CANARY),
            Op::Sign => {
                let signature = Signature::from_slice(&self.hsm.sign(b"message").await?).unwrap();
                let key = VerifyingKey::from_bytes(self.key.bytes.as_slice().try_into().unwrap()).unwrap();
                key.verify_strict(b"message", &signature).unwrap();
            }
            Op::VerifyingKey => assert_eq!(self.hsm.verifying_key().await?, self.key),
            Op::Random => assert_eq!(self.hsm.random(32).await?.len(), 32),
            Op::Store => {
                let counter = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
                self.hsm.store(counter, b"head").await?;
                self.stored.fetch_max(counter, Ordering::Relaxed);
            }
            Op::Load => {
                let (counter, value) = self.hsm.load().await?.unwrap();
                let possible = self.stored.load(Ordering::Relaxed)..=self.asked.load(Ordering::Relaxed);
                assert!(possible.contains(&counter) && value == b"head", "{counter} {possible:?}");
            }
        }
        Ok(())
    }

    /// Ends all faults; service comes back without a login by anybody, and all that was wrapped opens.
    pub(crate) async fn recovers(&self) {
        self.place.shim.heal().unwrap();
        until(&self.hsm, "back", |status| matches!(status, HsmStatus::Ready { .. })).await;
        for op in Op::ALL {
            // A child that the fault has spoilt may be found out by the first call only.
            for _ in 0..100 {
                match self.call(op).await {
                    Ok(()) => break,
                    Err(HsmError::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => panic!("{op:?}: {error}"),
                }
            }
            self.call(op).await.unwrap();
        }
        let wrapped = std::mem::take(&mut *self.wrapped.lock().unwrap());
        for sealed in wrapped {
            assert_eq!(self.hsm.unwrap(MASTER, b"aad", &sealed).await.unwrap(), CANARY);
        }
        self.assert_quiet();
        self.place.assert_no_pin_tried_twice();
    }

    /// No text that a caller saw holds the PIN or key material.
    pub(crate) fn assert_quiet(&self) {
        let said = self.said.lock().unwrap();
        let pin = self.place.bench.token.pin.as_bytes();
        for secret in [pin, CANARY] {
            let list: Vec<String> = secret.iter().map(ToString::to_string).collect();
            let forms =
                [String::from_utf8_lossy(secret).into_owned(), HEXLOWER.encode(secret), list.join(", ")];
            for form in forms {
                assert!(!said.contains(&form), "a secret in: {said}");
            }
        }
    }
}
